"""Curves and sheets as PNG: what the panels hold, what is left out, and where it is drawn."""
import json
import logging
import math

import numpy as np
import pytest
from PIL import Image, ImageColor

from common.command import run as run_command
from common.errors import UserError
from common.pictures.chart import (BLUE, DISTINCT, GREEN, HEADING, LEGEND_ROW, ORANGE, PANEL_SIZE, PURPLE, Curve, Panel,
                                   dashes, draw_panels, log_ticks, nice_ticks, tick_labels)
from common.pictures.curves import compare_histories, history_panels, plot_history, show_curves
from common.pictures.sheet import image_sheet
from common.pictures.text import _font_name, fit_text, font, legible, text_width
from common.run import read_history
from entry import run

BELOW_LEGEND = HEADING + 56  # pixel row


def history(epochs=20, interval=1):
    rows = []
    for epoch in range(1, epochs + 1):
        rows.append({"epoch": epoch, "loss": 2.3 * math.exp(-3 * epoch / epochs) + 0.05, "lr": 1e-3 * epoch / epochs,
                     "images_per_second": 100.0, "epoch_time": 9.0})
        if epoch % interval == 0:
            rows[-1] |= {"top1": 1 - 0.9 * math.exp(-4 * epoch / epochs), "eval_loss": 2 / epoch,
                         "top5": 1 - 0.5 * math.exp(-6 * epoch / epochs)}
    return rows


def colored(image, color):
    """The pixels of about this colour, anti-aliased ones not counted: (rows, columns)."""
    difference = np.abs(np.asarray(image).astype(int) - ImageColor.getrgb(color)).max(axis=2)
    return np.nonzero(difference < 12)


def test_a_history_becomes_loss_accuracy_and_learning_rate():
    panels = history_panels(history())
    assert [panel.title for panel in panels] == ["Loss", "Accuracy (%)", "Learning rate"]
    assert [curve.label for curve in panels[0].curves] == ["train", "eval"]
    assert [curve.label for curve in panels[1].curves] == ["top-1 (best 98.35)", "top-5 (best 99.88)"]
    assert panels[1].curves[0].points[0] == (1, pytest.approx(100 * (1 - 0.9 * math.exp(-0.2))))
    assert panels[2].curves[0].points[-1] == (20, pytest.approx(1e-3))


def test_a_panel_without_values_is_left_out_but_for_the_loss():
    rows = [{"epoch": e, "loss": 1 / e, "lr": 0.1} for e in (1, 2, 3)]
    assert [panel.title for panel in history_panels(rows)] == ["Loss", "Learning rate"]
    assert [panel.title for panel in history_panels([])] == ["Loss"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None, "text"])
def test_values_that_are_no_numbers_are_left_out_and_leave_a_gap(bad):
    rows = history()
    rows[6]["loss"] = bad
    train = history_panels(rows)[0].curves[0]
    assert [len(piece) for piece in train.pieces()] == [6, 13]


def test_a_missing_epoch_leaves_a_gap():
    rows = history()
    del rows[3]
    assert [len(piece) for piece in history_panels(rows)[2].curves[0].pieces()] == [3, 16]


def test_an_evaluation_every_few_epochs_is_one_line():
    top1 = history_panels(history(epochs=23, interval=5))[1].curves[0]
    assert [epoch for epoch, _ in top1.points] == [5, 10, 15, 20]
    assert len(top1.pieces()) == 1


def test_of_two_records_of_an_epoch_the_last_counts():
    rows = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    assert history_panels(rows)[0].curves[0].points == ((1, 3.0), (2, 1.0))


def test_all_panels_show_the_same_epochs():
    limits = {panel.limits(0) for panel in history_panels(history(epochs=40, interval=10))}
    assert len(limits) == 1


@pytest.mark.parametrize("low, high, expected", [
    (0.05, 2.3, [0, 0.5, 1, 1.5, 2, 2.5]), (21.0, 99.9, [20, 40, 60, 80, 100]), (0, 3e-5, [0, 5e-6, 1e-5, 1.5e-5, 2e-5,
                                                                                           2.5e-5, 3e-5]),
    (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (7, 7, [2, 4, 6, 8, 10, 12])])
def test_value_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("last, expected", [(1, [1]), (3, [1, 2, 3]), (20, [5, 10, 15, 20]), (300, [50, 100, 150, 200,
                                                                                                 250, 300])])
def test_epoch_ticks_are_whole_numbers_within_the_run(last, expected):
    assert nice_ticks(1, last, integers=True) == expected


def test_ticks_hold_for_any_range():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        low = rng.choice([0, 1, -1]) * 10 ** rng.uniform(-9, 7)
        high = low + rng.choice([0, 1]) * 10 ** rng.uniform(-9, 7)
        ticks = nice_ticks(low, high)
        step = ticks[1] - ticks[0]
        assert ticks[0] <= low + 1e-6 * step and ticks[-1] >= high - 1e-6 * step and 2 <= len(ticks) <= 10
        assert len(set(tick_labels(ticks))) == len(ticks)


@pytest.mark.parametrize("ticks, labels", [
    ([0, 0.5, 1], ["0.0", "0.5", "1.0"]), ([20, 40], ["20", "40"]), ([0, 2.5e-4, 5e-4], ["0", "2.5e-4", "5.0e-4"]),
    ([0, 0.0005, 0.001], ["0.0000", "0.0005", "0.0010"]), ([0, 1e-5, 2e-5], ["0", "1e-5", "2e-5"]), ([1], ["1"])])
def test_tick_labels_are_short_and_alike(ticks, labels):
    assert tick_labels(ticks) == labels


def test_the_picture_shows_every_curve_in_its_panel():
    image = draw_panels(history_panels(history()), "a run")
    assert image.size == (3 * PANEL_SIZE[0], PANEL_SIZE[1] + HEADING) and image.mode == "RGB"
    for color, panel in ((ORANGE, 0), (GREEN, 1), (PURPLE, 1)):
        _, columns = colored(image, color)
        assert len(columns) > 500 and set(columns // PANEL_SIZE[0]) == {panel}
    assert set(colored(image, BLUE)[1] // PANEL_SIZE[0]) == {0, 2}


def test_points_lie_where_their_values_are():
    """A line from the lower left to the upper right corner of the axes, and one at half height."""
    rows = [{"epoch": e, "loss": float(e), "eval_loss": 3.0} for e in (1, 2, 3, 4, 5)]
    image = draw_panels(history_panels(rows), "a run")
    area = image.crop((0, BELOW_LEGEND, *image.size))
    (rise, run), (flat, _) = colored(area, BLUE), colored(area, ORANGE)
    assert np.corrcoef(rise, run)[0, 1] < -0.999  # row 0 is at the top
    assert flat.max() - flat.min() <= 8
    assert (flat.max() + flat.min()) / 2 == pytest.approx((rise.max() + rise.min()) / 2, abs=2)


def test_a_gap_is_empty_in_the_picture():
    rows = [{"epoch": e, "loss": 1.0} for e in list(range(1, 6)) + list(range(15, 20))]
    image = draw_panels(history_panels(rows), "a run")
    _, columns = colored(image.crop((0, BELOW_LEGEND, *image.size)), BLUE)
    widest = np.diff(np.unique(columns)).max()
    assert widest > 0.4 * (columns.max() - columns.min())


def test_a_single_epoch_is_a_dot():
    image = draw_panels(history_panels([{"epoch": 1, "loss": 0.7}]), "one epoch")
    rows, columns = colored(image.crop((0, BELOW_LEGEND, *image.size)), BLUE)
    assert 20 < len(rows) < 80 and np.ptp(rows) <= 8 and np.ptp(columns) <= 8


def test_a_run_of_bad_values_still_gives_a_picture():
    image = draw_panels(history_panels([{"epoch": 1, "loss": float("nan"), "lr": None}]), "diverged")
    assert image.size == (PANEL_SIZE[0], PANEL_SIZE[1] + HEADING) and not len(colored(image, BLUE)[0])


def test_the_picture_is_written_into_a_new_folder_and_replaced(tmp_path):
    path = tmp_path / "new" / "curves.png"
    plot_history(history(2), path, "first")
    before = path.read_bytes()
    plot_history(history(3), path, "second")
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width == 3 * PANEL_SIZE[0]
    assert path.read_bytes() != before and [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="curves.png' cannot be written"):
        plot_history(history(2), tmp_path / "file" / "curves.png", "")


def test_a_history_is_read_back(tmp_path):
    rows = history(3)
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_history(tmp_path / "history.jsonl") == rows


def test_a_line_cut_by_a_killed_process_is_left_out(tmp_path, caplog):
    logging.getLogger("common.pictures.curves").addHandler(caplog.handler)  # whatever a test before has set up
    lines = [json.dumps(row) for row in history(3)]
    (tmp_path / "history.jsonl").write_text("\n".join(lines)[:-20])
    assert [row["epoch"] for row in read_history(tmp_path / "history.jsonl")] == [1, 2]
    assert "line 3" in caplog.text


def test_a_cut_line_that_a_resumed_process_continued_is_left_out_alone(tmp_path):
    lines = [json.dumps(row) for row in history(4)]
    lines[1] = lines[1][:9] + lines[1]
    (tmp_path / "history.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\x00\n")
    assert [row["epoch"] for row in read_history(tmp_path / "history.jsonl")] == [1, 3, 4]


def test_a_missing_history_is_named():
    with pytest.raises(UserError, match="no/history.jsonl"):
        read_history("no/history.jsonl")


def write_run(folder, rows):
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_several_runs_share_panels_and_each_keeps_its_colour():
    panels, legend = compare_histories({"short": history(3), "long": history(30, interval=0x100)})
    assert [panel.title for panel in panels] == ["Training loss", "Evaluation loss", "Top-1 accuracy (%)",
                                                 "Learning rate"]
    assert [(entry.label, entry.color) for entry in legend] == [("short", DISTINCT[0]), ("long", DISTINCT[1])]
    assert [[curve.label for curve in panel.curves] for panel in panels] == [["short", "long"], ["short"], ["short"],
                                                                             ["short", "long"]]
    assert {panel.epochs for panel in panels} == {(1, 30)}


def test_more_runs_than_colours_are_told_apart_by_dashes():
    _, legend = compare_histories({str(number): history(2) for number in range(2 * len(DISTINCT))})
    assert len({(entry.color, entry.dashed) for entry in legend}) == 2 * len(DISTINCT)


@pytest.mark.parametrize("factor, logarithmic", [(1, False), (9, False), (11, True)])
def test_learning_rates_that_are_far_apart_get_a_logarithmic_axis(factor, logarithmic):
    other = [row | {"lr": row["lr"] * factor} for row in history(4)]
    other[0]["lr"] = 0.0
    panel = compare_histories({"a": history(4), "b": other})[0][-1]
    assert panel.log == logarithmic
    assert len(panel.curves[1].points) == (3 if logarithmic else 4)  # 0 has no place on a logarithmic axis


@pytest.mark.parametrize("low, high, expected", [
    (1e-6, 1e-3, [1e-6, 1e-5, 1e-4, 1e-3]), (0.003, 0.02, [0.002, 0.005, 0.01, 0.02]), (0.1, 0.1, [0.1, 0.2]),
    (3e-9, 0.5, [1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 10])])
def test_ticks_of_a_logarithmic_axis_enclose_the_values(low, high, expected):
    assert log_ticks(low, high) == pytest.approx(expected)
    rng = np.random.default_rng(0)
    for low, ratio in zip(10 ** rng.uniform(-9, 3, 500), 10 ** rng.uniform(0, 9, 500)):
        ticks = log_ticks(low, low * ratio)
        assert ticks[0] <= low * 1.001 and ticks[-1] >= low * ratio * 0.999 and 2 <= len(ticks) <= 9


def test_a_power_law_is_straight_on_a_logarithmic_axis():
    curve = Curve("", tuple((float(e), 10.0 ** -e) for e in range(5)), BLUE)
    picture = draw_panels([Panel("lr", (curve,), (0, 4), log=True)], "")
    rows, columns = colored(picture.crop((0, BELOW_LEGEND, *picture.size)), BLUE)
    assert np.corrcoef(rows, columns)[0, 1] > 0.999


def test_dashes_cover_the_line_but_for_the_spaces():
    pieces = dashes([(0.0, 0.0), (20.0, 0.0), (20.0, 36.0)])
    assert [(piece[0], piece[-1]) for piece in pieces] == [((0, 0), (9, 0)), ((14, 0), (20, 3)), ((20, 8), (20, 17)),
                                                           ((20, 22), (20, 31))]


def test_runs_are_drawn_over_each_other_with_a_legend(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name / "run", history(5))
    said = run("-m", "common.pictures", "curves", tmp_path / "a/run", tmp_path / "b/run/history.jsonl", "--out", tmp_path / "x.png")
    assert said.returncode == 0 and "2 runs: " in said.stdout
    image = Image.open(tmp_path / "x.png")
    assert image.size == (4 * PANEL_SIZE[0], PANEL_SIZE[1] + HEADING + LEGEND_ROW)
    legend = image.crop((0, HEADING, image.width, HEADING + LEGEND_ROW))
    assert colored(legend, DISTINCT[0])[1].max() < colored(legend, DISTINCT[1])[1].min()


@pytest.mark.parametrize("arguments, words", [
    ((), "RUN"), (("empty",), "history.jsonl' cannot be read"), (("no/where",), "cannot be read"),
    (("begun",), "holds no epoch yet"), (("run", "run"), "named twice"), (["run"] * 15, "at most 14"),
    (("run", "--out", "run/history.jsonl/x.png"), "cannot be written"), (("run", "--colour"), "--colour")])
def test_what_cannot_be_drawn_is_said_in_a_sentence(tmp_path, arguments, words, capsys):
    write_run(tmp_path / "run", history(2))
    write_run(tmp_path / "begun", [])
    (tmp_path / "empty").mkdir()
    assert run_command(show_curves, list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said


def test_a_sheet_shows_the_images_in_rows(tmp_path):
    colors = ["#ff0000", "#00ff00", "#0000ff", "#ff00ff", "#00ffff"]
    images = [Image.new("RGB", (8, 8), color) for color in colors]
    image_sheet(images, ["one\nfirst", "two", "a caption that is much longer than the picture is wide", "", "five"],
                tmp_path / "sheet.png", columns=3, size=100)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    centres = []
    for color in colors:
        rows, columns = colored(sheet, color)
        assert len(rows) == 100 * 100
        centres.append((rows.mean(), columns.mean()))
    assert centres[0][0] == centres[1][0] == centres[2][0] < centres[3][0] == centres[4][0]
    assert centres[0][1] == centres[3][1] < centres[1][1] == centres[4][1] < centres[2][1]


def test_a_sheet_keeps_proportions_and_any_mode(tmp_path):
    image_sheet([Image.new("L", (400, 100), 0), Image.new("RGBA", (20, 40), (255, 0, 0, 255))], ["wide", "high"],
                tmp_path / "sheet.png", columns=2, size=80)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    rows, columns = colored(sheet.crop((0, 0, 100, 94)), "#000000")
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 80)
    rows, columns = colored(sheet, "#ff0000")
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (80, 40)


def test_a_sheet_needs_one_caption_per_image(tmp_path):
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        image_sheet([Image.new("RGB", (8, 8))], ["a", "b"], tmp_path / "sheet.png")


def test_names_in_other_letters_get_another_font_or_lose_their_accents(monkeypatch):
    assert font(14, "plain…").getname() == font(14).getname()
    monkeypatch.setattr("common.pictures.text.SYSTEM_FONTS", ("no-such-font.ttf",))
    _font_name.cache_clear()
    assert (legible("Café Å"), legible("plain…")) == ("Cafe A", "plain…")
    assert text_width("Café", 14) == text_width("Cafe", 14)
    _font_name.cache_clear()


@pytest.mark.parametrize("keep_end, start, end", [(False, "a long", "…"), (True, "…", "name.png")])
def test_text_is_cut_to_a_width(keep_end, start, end):
    text = fit_text("a long name of a file with the name.png", 14, 100, keep_end)
    assert text.startswith(start) and text.endswith(end) and 80 < text_width(text, 14) <= 100
    assert fit_text("short", 14, 100, keep_end) == "short"
