"""Curves of runs: what the panels hold, what is left out, and into which files they are drawn."""
import json
import logging
import math
import sys

import numpy as np
import pytest
from entry import run
from PIL import Image

from common.command import run as run_command
from common.errors import UserError
from common.pictures import figure as figures, style
from common.pictures.curves import draw_comparison, draw_history, plot_history, show_curves, with_gaps
from common.pictures.figure import broken_lines, open_figure, short_number, write_figure
from common.pictures.style import DISTINCT
from common.run.history import read_history


def history(epochs=20, interval=1):
    rows = []
    for epoch in range(1, epochs + 1):
        rows.append({"epoch": epoch, "loss": 2.3 * math.exp(-3 * epoch / epochs) + 0.05, "lr": 1e-3 * epoch / epochs,
                     "images_per_second": 100.0, "epoch_time": 9.0})
        if epoch % interval == 0:
            rows[-1] |= {"top1": 1 - 0.9 * math.exp(-4 * epoch / epochs), "eval_loss": 2 / epoch,
                         "top5": 1 - 0.5 * math.exp(-6 * epoch / epochs)}
    return rows


def panels(figure):
    """Title of each panel -> its lines, as label -> points."""
    return {axes.get_title(): {line.get_label(): list(zip(*line.get_data())) for line in axes.lines}
            for axes in figure.axes}


def test_a_history_becomes_loss_accuracy_and_learning_rate():
    found = panels(draw_history(history(), "a run"))
    assert {title: list(curves) for title, curves in found.items()} == {
        "Loss": ["train", "eval"], "Accuracy (%)": ["top-1 (best 98.35)", "top-5 (best 99.88)"],
        "Learning rate": ["at the end of the epoch"]}
    assert found["Accuracy (%)"]["top-1 (best 98.35)"][0] == (1, pytest.approx(100 * (1 - 0.9 * math.exp(-0.2))))
    assert found["Learning rate"]["at the end of the epoch"][-1] == (20, pytest.approx(1e-3))


def test_a_panel_without_values_is_left_out_but_for_the_loss():
    rows = [{"epoch": e, "loss": 1 / e, "lr": 0.1} for e in (1, 2, 3)]
    assert list(panels(draw_history(rows, ""))) == ["Loss", "Learning rate"]
    diverged = draw_history([{"epoch": 1, "loss": float("nan"), "lr": None}], "diverged")
    assert panels(diverged) == {"Loss": {}} and [text.get_text() for text in diverged.axes[0].texts] == ["no values"]


def gaps(points):
    return [epoch for epoch, value in points if math.isnan(value)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None, "text"])
def test_values_that_are_no_numbers_are_left_out_and_leave_a_gap(bad):
    rows = history()
    rows[6]["loss"] = bad
    train = panels(draw_history(rows, ""))["Loss"]["train"]
    assert [epoch for epoch, _ in train] == [*range(1, 7), 8, *range(8, 21)] and gaps(train) == [8]


@pytest.mark.parametrize("epochs, missing", [
    ([1, 2, 3, 5, 6], [5]), ([5, 10, 15, 20], []), ([5, 10, 20, 25], [20]), ([3], []), ([], [])])
def test_a_gap_is_where_the_step_is_larger_than_it_usually_is(epochs, missing):
    assert gaps(with_gaps([(epoch, 1.0) for epoch in epochs])) == missing


def test_a_point_that_stands_alone_is_a_dot():
    rows = history(60)
    del rows[30], rows[28]  # epoch 30 is alone
    line = draw_history(rows, "").axes[0].lines[0]
    assert [line.get_xdata()[i] for i in line.get_markevery()] == [30]
    assert draw_history(history(1), "").axes[0].lines[0].get_markevery() == [0]


def test_of_two_records_of_an_epoch_the_last_counts():
    rows = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    assert panels(draw_history(rows, ""))["Loss"]["train"] == [(1, 3.0), (2, 1.0)]


@pytest.mark.parametrize("epochs, ticks", [
    (1, [1]), (3, [1, 2, 3]), (20, [5, 10, 15, 20]), (300, [0, 50, 100, 150, 200, 250, 300])])
def test_all_panels_have_the_same_whole_epochs(epochs, ticks):
    figure = draw_history(history(epochs, interval=min(epochs, 10)), "")
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == ticks


@pytest.mark.parametrize("value, label", [
    (0.00025, "0.00025"), (1e-5, "1e-5"), (20.0, "20"), (2e8, "2e8"), (0.1 + 0.2, "0.3"), (1e-12, "1e-12")])
def test_numbers_of_axes_are_short(value, label):
    assert short_number(value) == label


def drawn_boxes(figure):
    """Where each visible text of a figure is, in pixels."""
    write_figure(figure, "boxes.svg")
    texts = [figure._suptitle] if figure._suptitle else []
    texts += [text for axes in figure.axes for text in (axes.title, axes.xaxis.label)]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    return [text.get_window_extent() for text in texts if text.get_text()]


@pytest.mark.parametrize("name", ["run {}", "实验/运行 {}", "a folder with a long name /that/goes/on/and/on for run {}"])
def test_texts_do_not_lie_on_each_other(name):
    figure = draw_comparison({name.format(number): history(4) for number in range(12)})
    boxes = drawn_boxes(figure)
    assert len(boxes) == 1 + 2 * 4 + 12
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_a_long_title_is_broken_into_lines():
    assert broken_lines("a title of some words", 12) == "a title of\nsome words"
    assert max(map(len, broken_lines("很长的标题" * 9, 20).split("\n"))) == 10
    figure = draw_history(history(2), "/a/very/long/path/of/a/run" * 12)
    assert max(box.width for box in drawn_boxes(figure)) < figure.bbox.width


@pytest.mark.parametrize("name, start", [
    ("c.png", b"\x89PNG"), ("c", b"\x89PNG"), ("c.PDF", b"%PDF"), ("c.svg", b"<?xml")])
def test_the_file_s_ending_is_its_format(name, start, tmp_path):
    plot_history(history(2), tmp_path / "new" / name, "first")
    before = (tmp_path / "new" / name).read_bytes()
    plot_history(history(3), tmp_path / "new" / name, "second")
    assert before.startswith(start) and (tmp_path / "new" / name).read_bytes() != before
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def told(caplog):
    """What was logged; a handler may have got it twice."""
    return [record.getMessage() for record in {id(record): record for record in caplog.records}.values()]


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    figures._tell_of_missing_package.cache_clear()


def test_without_matplotlib_a_training_goes_on_and_a_command_says_it(without_matplotlib, tmp_path, caplog, capsys):
    logging.getLogger(figures.__name__).addHandler(caplog.handler)  # whatever a test before has set up
    for _ in range(3):
        plot_history(history(2), tmp_path / "curves.png", "")
    assert not (tmp_path / "curves.png").exists()
    assert told(caplog) == [
        f"{tmp_path}/curves.png: not drawn, since matplotlib is not installed; run 'pip install -r requirements.txt'."]
    assert run_command(show_curves, [str(write_run(tmp_path / "run", history(2)))]) == 2
    assert capsys.readouterr().err.startswith("error: this picture needs matplotlib, which is not installed;")


def test_names_that_no_font_can_write_are_told_once(monkeypatch, caplog, tmp_path):
    logging.getLogger(style.__name__).addHandler(caplog.handler)
    for cached in (style._font_name, style._tell_of_missing_letters):
        cached.cache_clear()
    monkeypatch.setattr(style, "SYSTEM_FONTS", ("no-such-font.ttf",))
    for title in ("猫", "狗", "Å"):
        write_figure(open_figure(2, 1, title), tmp_path / "x.png")
    style._font_name.cache_clear()
    assert len(told(caplog)) == 1 and "no font of this machine has all letters" in told(caplog)[0]


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
    (tmp_path / "history.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\x00\n" + b"9" * 5000 + b"\n" + b"[" * 99999)
    assert [row["epoch"] for row in read_history(tmp_path / "history.jsonl")] == [1, 3, 4]


def test_a_missing_history_is_named():
    with pytest.raises(UserError, match="no/history.jsonl"):
        read_history("no/history.jsonl")


def write_run(folder, rows):
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_several_runs_share_panels_and_each_keeps_its_colour():
    figure = draw_comparison({"short": history(3), "long": history(30, interval=0x100)})
    assert {axes.get_title(): [line.get_color() for line in axes.lines] for axes in figure.axes} == {
        "Training loss": list(DISTINCT[:2]), "Evaluation loss": [DISTINCT[0]], "Top-1 accuracy (%)": [DISTINCT[0]],
        "Learning rate": list(DISTINCT[:2])}
    legend, = figure.legends
    assert [(text.get_text(), line.get_color()) for text, line in zip(legend.get_texts(), legend.get_lines())] == [
        ("short", DISTINCT[0]), ("long", DISTINCT[1])]


def test_more_runs_than_colours_are_told_apart_by_dashes():
    figure = draw_comparison({str(number): history(2) for number in range(2 * len(DISTINCT))})
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 2 * len(DISTINCT)


@pytest.mark.parametrize("factor, logarithmic", [(1, False), (9, False), (11, True)])
def test_learning_rates_that_are_far_apart_get_a_logarithmic_axis(factor, logarithmic):
    other = [row | {"lr": row["lr"] * factor} for row in history(4)]
    other[0]["lr"] = 0.0
    axes = draw_comparison({"a": history(4), "b": other}).axes[-1]
    assert (axes.get_yscale() == "log") == logarithmic
    assert len(axes.lines[1].get_xdata()) == (3 if logarithmic else 4)  # 0 has no place on a logarithmic axis


@pytest.mark.parametrize("low", [1e-7, 3e-3])
def test_a_logarithmic_axis_has_labels(low):
    rows = [{"epoch": e, "loss": 1.0, "lr": lr} for e, lr in ((1, 0.02), (2, low), (3, 0.0))]
    axes = draw_history(rows, "", log_lr=True).axes[-1]
    assert 3 <= len([tick for tick in axes.get_yticks() if low / 2 <= tick <= 0.04]) <= 8


def test_runs_are_drawn_over_each_other_with_a_legend(tmp_path):
    for epochs, name in ((5, "a"), (9, "b")):
        write_run(tmp_path / name / "run", history(epochs))
    said = run("-m", "common.pictures", "curves", tmp_path / "a/run", tmp_path / "b/run/history.jsonl",
               "--out", tmp_path / "x.png")
    assert said.returncode == 0 and "2 runs: " in said.stdout
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    for color in DISTINCT[:2]:
        assert (np.abs(pixels.astype(int) - [int(color[i:i + 2], 16) for i in (1, 3, 5)]).max(2) < 12).sum() > 500


@pytest.mark.parametrize("arguments, words", [
    ((), "RUN"), (("empty",), "history.jsonl' cannot be read"), (("no/where",), "cannot be read"),
    (("begun",), "holds no epoch yet"), (("run", "run"), "named twice"), (["run"] * 15, "at most 14"),
    (("run", "--out", "x.gif"), "'x.gif' ends in .gif, but pictures are written as .png, .pdf or .svg"),
    (("run", "--out", "run/history.jsonl/x.png"), "cannot be written"), (("run", "--colour"), "--colour")])
def test_what_cannot_be_drawn_is_said_in_a_sentence(tmp_path, arguments, words, capsys):
    write_run(tmp_path / "run", history(2))
    write_run(tmp_path / "begun", [])
    (tmp_path / "empty").mkdir()
    assert run_command(show_curves, list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said
