"""Confusion matrices, reports, sheets of images and schedules: what is drawn where, and what is written beside it."""
import csv
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from entry import TINY
from PIL import Image, ImageColor

from common.augment.mixup import Mixer
from common.checkpoint.file import save_checkpoint
from common.checkpoint.weights import weights_of
from common.command import run
from common.config.load import from_mapping
from common.config.options import FIELDS
from common.context.ranks import Runtime
from common.dataset.batches import EvalBatches, TrainBatches
from common.dataset.digits import write_digits
from common.dataset.samples import ArraySamples
from common.dataset.sources import open_samples
from common.errors import UserError
from common.files import make_folder
from common.main import main
from common.metric import UNANSWERED, UNREAD, Answers
from common.network import build_network
from common.pictures.batch import captions_of, show_batch
from common.pictures.calibration import BINS, calibration, draw_calibration
from common.pictures.confusion import draw_confusion, most_confused
from common.pictures.figure import write_figure
from common.pictures.report import DRAWN, FILES, write_report
from common.pictures.schedule import draw_schedule, show_schedule
from common.pictures.sheet import TILE, image_sheet, judge, prediction_sheet, short_names, with_share
from common.pictures.style import BLUE, GRID, ORANGE, _font_name, fit_text, font, legible, text_width
from common.predict import Candidate, Result
from gmlp.src.spec import SPEC


def near(image, color, tolerance=12):
    """Where an image has about this colour, bool (rows, columns)."""
    wanted = np.array(ImageColor.getrgb(color) if isinstance(color, str) else color)
    return (np.abs(np.asarray(image.convert("RGB")).astype(int) - wanted) < tolerance).all(axis=2)


def noise(count, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, size, size, 3), np.uint8)


# confusion matrix

def test_every_cell_has_its_count_s_colour():
    axes, = draw_confusion(np.array([[8, 2], [0, 5]]), ["cat", "dog"]).axes
    colors = axes.collections[0].get_array().reshape(4, 3)
    blue, orange = np.array(ImageColor.getrgb(BLUE)) / 255, np.array(ImageColor.getrgb(ORANGE)) / 255
    strengths = [0.12 + 0.88 * share for share in (0.8, 0.2)]  # 5 of 5 is the full colour, 2 of 10 a faint one
    expected = [1 + strengths[0] * (blue - 1), 1 + strengths[1] * (orange - 1), np.ones(3), blue]
    assert np.allclose(colors, expected)
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0.5, 0.5), "8"), ((1.5, 0.5), "2"), ((1.5, 1.5), "5")]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("name", ["a class with a rather long name, number {}", "一个名字很长的类别，编号{}", "{}"])
@pytest.mark.parametrize("classes, cells", [(2, 2), (24, 24), (25, 21), (1000, 21)])
def test_the_matrix_stays_legible_for_any_number_of_classes(classes, cells, name):
    matrix = np.eye(classes, dtype=int) * 40 + np.roll(np.eye(classes, dtype=int), 1, axis=1)
    figure = draw_confusion(matrix, [name.format(number) for number in range(classes)])
    write_figure(figure, "x.png")
    axes, = figure.axes
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) >= cells - 1 and not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))
    assert max(figure.get_tightbbox().size) < 6 + 0.42 * cells  # inches


def test_the_most_confused_classes_stand_side_by_side():
    matrix = np.eye(50, dtype=int) * 9
    matrix[7, 3], matrix[40, 41], matrix[3, 8], matrix[0, 1] = 6, 5, 4, 1
    assert most_confused(matrix, 5) == [7, 3, 8, 40, 41]
    assert most_confused(matrix) == [7, 3, 8, 40, 41, 0, 1]
    assert most_confused(np.eye(30, dtype=int)) == []
    wider = np.column_stack([np.eye(30, dtype=int), np.zeros(30, int)])
    wider[2, 30] = 1  # the network's output that stands for no class
    assert most_confused(wider) == [2]


# answers and report

def answers_for(samples, batch, world_size=1, wrong=()):
    """Answers as each rank collects them: right but for some images, which are taken for the next class."""
    config = from_mapping({"image_size": 8, "eval_batch_size": batch, "dataset": "digits"}, "test")
    found = []
    for rank in range(world_size):
        runtime = Runtime("CPU", rank, world_size)
        found.append(Answers(samples, batch, runtime))
        for number, (_, labels) in enumerate(map(EvalBatches(config, samples, rank, world_size).__getitem__,
                                                 range(len(EvalBatches(config, samples, rank, world_size))))):
            first = (number * world_size + rank) * batch
            index = np.arange(first, first + batch)
            said = np.where(np.isin(index, wrong), (labels + 1) % len(samples.classes), labels)
            found[-1].collect(number, labels, said.astype(np.int32), (0.5 + index / 1000).astype(np.float32))
    return found


def samples_of(labels, classes):
    return ArraySamples("test", classes, np.array(labels), noise(len(labels)), [("file.bin", len(labels))])


@pytest.mark.parametrize("world_size, batch", [(1, 4), (1, 64), (2, 3), (3, 4)])
def test_every_image_is_answered_once_whatever_the_ranks_and_batches(world_size, batch):
    samples = samples_of(np.arange(23) % 3, "abc")
    parts = answers_for(samples, batch, world_size, wrong=[5, 22])
    seen = np.stack([part.predicted != UNREAD for part in parts])
    assert (seen.sum(0) == 1).all()
    whole = parts[0]
    whole.predicted, whole.probability = (np.where(seen, np.stack([getattr(part, name) for part in parts]), 0).sum(0)
                                          for name in ("predicted", "probability"))
    assert whole.mistakes().tolist() == [22, 5]
    assert whole.matrix().tolist() == [[8, 0, 0], [0, 7, 1], [1, 0, 6]]
    whole.predicted[0] = 4  # a network with more outputs than there are classes
    assert whole.matrix().shape == (3, 5)


def test_batches_in_another_order_are_noticed():
    answers = Answers(samples_of([0, 1, 0], "ab"), 3, Runtime())
    with pytest.raises(RuntimeError, match="does not hold the images from 0 on"):
        answers.collect(0, np.array([1, 0, 0]), np.zeros(3, np.int32), np.zeros(3, np.float32))


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_report_holds_the_accuracy_of_every_class_and_the_mistakes_in_order():
    samples = samples_of([1, 1, 1, 0, 0, 2], ["dog", "cat", "emu", "fox"])
    answers = Answers(samples, 6, Runtime())
    answers.collect(0, samples.labels, np.array([1, 0, 0, 0, UNANSWERED, 2], np.int32),
                    np.array([0.9, 0.6, 0.8, 0.7, np.nan, 1.0], np.float32))
    write_report(answers, make_folder("report", "new/report"))
    assert [tuple(row.values()) for row in read_csv("new/report/classes.csv")] == [
        ("0", "dog", "2", "1", "3", "0.333333", "0.500000", "0.400000", "", ""),
        ("1", "cat", "3", "1", "1", "1.000000", "0.333333", "0.500000", "dog", "2"),
        ("2", "emu", "1", "1", "1", "1.000000", "1.000000", "1.000000", "", ""),
        ("3", "fox", "0", "0", "0", "", "", "", "", "")]
    assert {row["metric"]: row["value"] for row in read_csv("new/report/metrics.csv")} == {
        "images": "6", "accuracy": "0.500000", "macro_precision": "0.777778", "macro_recall": "0.611111",
        "macro_f1": "0.633333", "ece": "0.360000", "ece_bins": "15"}
    assert [tuple(row.values()) for row in read_csv("new/report/mistakes.csv")] == [
        ("file.bin record 2", "1", "cat", "0", "dog", "0.800000"),
        ("file.bin record 1", "1", "cat", "0", "dog", "0.600000"), ("file.bin record 4", "0", "dog", "", "", "")]
    with Image.open("new/report/mistakes.png") as sheet:
        bar = near(sheet, BLUE).sum(axis=0)
    assert {path.name for path in Path("new/report").iterdir()} == set(FILES)
    assert 0.8 * TILE + 0.6 * TILE - 6 < (bar >= 6).sum() < 0.8 * TILE + 0.6 * TILE + 6


def test_calibration_is_the_gap_between_confidence_and_accuracy_bin_by_bin():
    probability = np.array([0.0, 1 / 15, 0.07, 0.62, 0.64, 0.66, 1.0])
    found = calibration(probability, np.array([0, 0, 1, 1, 0, 1, 1], bool))
    assert {index: count for index, count in enumerate(found.images) if count} == {0: 2, 1: 1, 9: 3, 14: 1}
    assert found.error == pytest.approx((2 * (1 / 30) + (1 - 0.07) + 3 * abs(2 / 3 - 0.64) + 0) / 7)
    above, below = draw_calibration(found).axes
    bars = {round(bar.get_x() * BINS): bar.get_height() for bar in above.containers[0]}
    assert bars == {0: 0, 1: 1, 9: pytest.approx(2 / 3), 14: 1}
    assert sum(bar.get_height() for bar in below.containers[0]) == pytest.approx(1)


def test_a_report_without_mistakes_and_one_of_a_thousand_classes():
    good = Answers(samples_of([0, 1], "ab"), 2, Runtime())
    good.collect(0, np.array([0, 1]), np.array([0, 1], np.int32), np.ones(2, np.float32))
    write_report(good, make_folder("report", "good"))
    assert read_csv("good/mistakes.csv") == [] and Image.open("good/mistakes.png").height < 100
    many = samples_of(np.arange(1000), [f"n{number:08}" for number in range(1000)])
    answers, = answers_for(many, 500, wrong=range(40))
    answers.predicted[999] = 1000  # of 1001 outputs
    write_report(answers, make_folder("report", "many"))
    assert len(read_csv("many/classes.csv")) == 1000 and len(read_csv("many/mistakes.csv")) == 41
    assert read_csv("many/mistakes.csv")[0]["predicted_name"] == "class 1000"
    assert Image.open("many/mistakes.png").width == 6 * (TILE + 14) + 14  # six images in a row


def test_without_matplotlib_a_report_is_complete_but_for_the_matrix(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    answers = Answers(samples_of([0, 1], "ab"), 2, Runtime())
    answers.collect(0, np.array([0, 1]), np.array([0, 0], np.int32), np.ones(2, np.float32))
    write_report(answers, make_folder("report", "report"))
    assert {path.name for path in Path("report").iterdir()} == set(FILES) - set(DRAWN)


def test_a_report_that_has_no_place_is_refused_before_the_evaluation():
    Path("file").write_text("")
    with pytest.raises(UserError, match="report: file/x cannot be made a folder"):
        make_folder("report", "file/x")


# predictions

def results(*probabilities):
    """Results for images of one colour each, in the working directory."""
    found = []
    for number, probability in enumerate(probabilities):
        Image.new("RGB", (300, 300), (0, 160, 40 + number)).save(f"{number}.png")
        found.append(Result(f"{number}.png", (Candidate(number, f"class {number}", probability),)))
    return found


def test_bars_are_as_long_as_the_probabilities():
    prediction_sheet(results(1.0, 0.5, 0.1), "sheet.png")
    sheet = Image.open("sheet.png")
    rows, _ = np.nonzero(near(sheet, BLUE))
    lefts = [14 + number * (TILE + 14) for number in range(3)]
    lengths = [near(sheet.crop((left, rows.min(), left + TILE, rows.min() + 1)), BLUE).sum() for left in lefts]
    assert lengths == pytest.approx([TILE, TILE / 2, TILE / 10], abs=2)
    assert [near(sheet, (0, 160, 40 + n), 1).sum() for n in range(3)] == [TILE * TILE] * 3


def test_what_is_right_is_marked_where_the_folder_tells_the_class():
    Path("cat").mkdir()
    found = [Result(f"{folder}{n}.png", (Candidate(n, name, 1.0),)) for n, (folder, name) in
             enumerate([("cat/", "cat"), ("cat/", "dog"), ("", "cat")])]
    for result in found:
        Image.new("RGB", (300, 300)).save(result.source)
    assert [judge(result, ["cat", "dog"]) for result in found] == ["right", "wrong: is cat", ""]
    prediction_sheet(found, "sheet.png", classes=["cat", "dog"])
    sheet = Image.open("sheet.png")
    lengths = [near(sheet, colour).any(axis=0).sum() for colour in (BLUE, ORANGE)]
    assert lengths == pytest.approx([2 * TILE, TILE], abs=4)


def test_a_broken_image_is_grey_and_has_no_bar():
    Path("broken.png").write_text("x")
    prediction_sheet([*results(1.0), Result("broken.png", error="cannot be read: cut")], "sheet.png")
    sheet = Image.open("sheet.png").convert("RGB")
    tile = sheet.crop((14 + TILE + 14, 0, sheet.width, sheet.height))
    assert not near(tile, BLUE).any() and near(tile.crop((0, 44, TILE, 44 + TILE)), GRID, 1).all()


def test_a_sheet_shows_no_more_images_than_can_be_looked_at(caplog, monkeypatch):
    logging.getLogger("common.pictures.sheet").addHandler(caplog.handler)
    monkeypatch.setattr("common.pictures.sheet.SHOWN_AT_MOST", 2)
    prediction_sheet(results(1.0, 0.5, 0.1), "sheet.png")
    assert "the first 2 of 3 images" in caplog.text
    assert not near(Image.open("sheet.png"), (0, 160, 42), 1).any()


def test_captions_keep_the_share_and_the_end_of_a_path():
    assert with_share("tench", 0.12345) == "tench: 12.3 %"
    assert with_share("a very long name of a class of things", 1).endswith("…: 100.0 %")
    assert short_names(["/data/val/cat/7.png", "x/" * 40 + "photograph of a holiday that never ended.jpg"]) == [
        "data/val/cat/7.png", short_names(["photograph of a holiday that never ended.jpg"])[0]]
    assert short_names(["photograph of a holiday that never ended.jpg"])[0].startswith("…")


# sheets

def where(image, color):
    """Rows and columns of the pixels of about this colour."""
    return np.nonzero(near(image, color))


def test_a_sheet_shows_the_images_in_rows(tmp_path):
    colors = ["#ff0000", "#00ff00", "#0000ff", "#ff00ff", "#00ffff"]
    images = [Image.new("RGB", (8, 8), color) for color in colors]
    image_sheet(images, ["one\nfirst", "two", "a caption that is much longer than the picture is wide", "", "five"],
                tmp_path / "sheet.png", columns=3, size=100)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    centres = []
    for color in colors:
        rows, columns = where(sheet, color)
        assert len(rows) == 100 * 100
        centres.append((rows.mean(), columns.mean()))
    assert centres[0][0] == centres[1][0] == centres[2][0] < centres[3][0] == centres[4][0]
    assert centres[0][1] == centres[3][1] < centres[1][1] == centres[4][1] < centres[2][1]


def test_a_sheet_keeps_proportions_and_any_mode(tmp_path):
    image_sheet([Image.new("L", (400, 100), 0), Image.new("RGBA", (20, 40), (255, 0, 0, 255))], ["wide", "high"],
                tmp_path / "sheet.png", columns=2, size=80)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    rows, columns = where(sheet.crop((0, 0, 100, 94)), "#000000")
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 80)
    rows, columns = where(sheet, "#ff0000")
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (80, 40)
    assert columns.min() == 2 * 14 + 80 + 20  # in the middle of its cell; the gaps are of 14


def test_a_sheet_needs_one_caption_per_image(tmp_path):
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        image_sheet([Image.new("RGB", (8, 8))], ["a", "b"], tmp_path / "sheet.png")


def test_names_in_other_letters_get_another_font_or_lose_their_accents(monkeypatch):
    assert font(14, "plain…").getname() == font(14).getname()
    monkeypatch.setattr("common.pictures.style.SYSTEM_FONTS", ("no-such-font.ttf",))
    _font_name.cache_clear()
    assert (legible("Café Å"), legible("plain…")) == ("Cafe A", "plain…")
    assert text_width("Café", 14) == text_width("Cafe", 14)
    _font_name.cache_clear()


@pytest.mark.parametrize("keep_end, start, end", [(False, "a long", "…"), (True, "…", "name.png")])
def test_text_is_cut_to_a_width(keep_end, start, end):
    text = fit_text("a long name of a file with the name.png", 14, 100, keep_end)
    assert text.startswith(start) and text.endswith(end) and 80 < text_width(text, 14) <= 100
    assert fit_text("short", 14, 100, keep_end) == "short"


# what training gets

def test_a_sheet_shows_the_pixels_of_the_training_batch():
    arguments = ["--dataset", "digits", "--image_size", str(TILE), "--batch_size", "9", "--re_prob", "0.5",
                 "--auto_augment", "randaug-m9-mstd0.5-inc1", "--mixup", "0.8"]
    assert "4 of 9 images" in show_batch([*arguments, "--batch", "2", "--count", "4", "--out", "x.png"])
    config = from_mapping({"dataset": "digits", "image_size": TILE, "batch_size": 9, "re_prob": 0.5, "mixup": 0.8,
                           "auto_augment": "randaug-m9-mstd0.5-inc1"}, "test")
    images, _ = TrainBatches(config, open_samples(config, "train"), 0, 1)[2]
    sheet = Image.open("x.png").convert("RGB")
    top = 14 + 30
    for row in range(4):
        left = 14 + row * (TILE + 14)
        pixels = np.asarray(sheet.crop((left, top, left + TILE, top + TILE))).astype(int)
        expected = np.clip((images[row].transpose(1, 2, 0) * 0.5 + 0.5) * 255, 0, 255)
        assert np.abs(pixels - expected).max() <= 0.51


def test_mixed_labels_are_shown_with_their_shares():
    samples = samples_of([0, 1, 2, 2], ["cat", "dog", "emu"])
    targets = np.array([[0.65, 0.3, 0.05], [0.9, 0.05, 0.05], [0.05, 0.05, 0.9]])
    assert captions_of(targets, samples) == [
        "cat: 65.0 %\ndog: 30.0 %\nothers: 5.0 %", "cat: 90.0 %\nothers: 10.0 %", "emu: 90.0 %\nothers: 10.0 %"]
    assert captions_of(np.array([2, -1, 0]), samples) == ["emu", "", "cat"]
    images, rng = np.zeros((4, 3, 2, 2), np.float32), np.random.default_rng(1)
    _, mixed = Mixer(0.8, 0.0, 1.0, 0.5, 3)(images, samples.labels, rng)
    own = 100 * mixed[0, 0]
    assert captions_of(mixed[:1], samples) == [
        "\n".join(f"{name}: {share:.1f} %" for share, name in sorted([(own, "cat"), (100 - own, "emu")], reverse=True))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the digits in ``data``, and a list of some of them."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "data")
    images = folder / "data" / "images" / "train"
    files = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    (folder / "list.json").write_text(json.dumps(files[::100]))
    return folder


@pytest.mark.parametrize("arguments, words", [
    (["--dataset", "cifar10", "--data_dir", "data", "--split", "eval", "--batch", "44"], "8 images of batch 44:"),
    (["--data_dir", "data/images", "--in_channels", "1"], "8 images of batch 0, epoch 1:"),
    (["--dataset", "digits", "--loss", "jsd"], "24 images of batch 0"),
    (["--data_dir", "data/images", "--task", "pretrain", "--batch", "200"], "8 images of batch 200, epoch 2:"),
    (["--dataset", "list", "--data_dir", "data/images/train", "--img_ids", "list.json"], "8 images of batch 0")])
def test_every_kind_of_data_set_is_shown(arguments, words, data, monkeypatch):
    monkeypatch.chdir(data)
    assert words in show_batch(["--batch_size", "8", "--image_size", "16", *arguments, "--out", "b.png"])
    assert Image.open("b.png").width == 8 * (TILE + 14) + 14


# schedules

def test_a_schedule_is_told_in_numbers_and_drawn():
    said = show_schedule(["--epochs", "20", "--warmup_epochs", "5", "--lr", "0.002", "--min_lr", "1e-5",
                          "--batch_size", "64", "--images", "1437", "--out", "s.svg"])
    assert "20 epochs of 22 steps, 64 images in each step" in said and Path("s.svg").read_text().startswith("<?xml")
    assert [line.split() for line in said.splitlines()[1:3]] == [
        ["start", "step", "0", "epoch", "0.00", "learning", "rate", "0"],
        ["peak", "step", "110", "epoch", "5.00", "learning", "rate", "0.002"]]


def test_the_drawn_schedule_names_its_ends_its_peak_and_its_warm_up():
    config = from_mapping({"epochs": 4, "warmup_epochs": 1, "cooldown_epochs": 0, "image_size": 32}, "test")
    axes, = draw_schedule(config, np.array([0, 1, 2, 1.5, 1, 0.5, 0.25, 0.125]), 2, "").axes
    curve, *dots = axes.lines
    assert curve.get_xdata().tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert [(dot.get_label(), dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [
        ("start 0", 0, 0), ("peak 2", 1, 2), ("end 0.125", 3.5, 0.125)]
    span, = axes.patches
    assert (span.get_label(), span.get_x(), span.get_width()) == ("warm-up, 1 epoch", 0, 1)
    axes, = draw_schedule(replace(config, warmup_epochs=0), np.ones(8), 2, "").axes
    assert [line.get_label() for line in axes.lines[1:]] == ["start and peak 1", "end 1"] and not axes.patches


@pytest.mark.parametrize("scheduler", FIELDS["scheduler"].metadata["choices"])
def test_every_schedule_can_be_shown(scheduler):
    said = show_schedule(["--scheduler", scheduler, "--epochs", "300", "--warmup_epochs", "5", "--devices",
                          "8", "--batch_size", "128", "--images", "1281167", "--base_lr", "5e-4"])
    assert "300 epochs of 1251 steps, 1024 images in each step" in said and "learning rate 0.002" in said
    assert near(Image.open("schedule.png"), BLUE).sum() > 500


@pytest.mark.parametrize("program, arguments, words", [
    (show_batch, [], "data_dir"),
    (show_batch, ["--dataset", "digits", "--batch", "99999"], "beyond the last batch"),
    (show_batch, ["--dataset", "digits", "--split", "eval", "--batch_size", "8", "--batch", "45"], "the last batch, 44"),
    (show_batch, ["--dataset", "digits", "--split", "test"], "--split"),
    (show_batch, ["--dataset", "digits", "--batch_size", "8", "--out", "x.gif"], "ends in .gif"),
    (show_schedule, [], "--images"), (show_schedule, ["--images", "0"], "less than 1"),
    (show_schedule, ["--images", "many"], "--images"),
    (show_schedule, ["--config_path", "no.yaml"], "there is no file 'no.yaml'"),
    (show_schedule, ["--steps_per_epoch", "2", "--epochs", "2", "--warmup_epochs", "9"], "warmup_epochs"),
    (show_schedule, ["--steps_per_epoch", "2", "--shape", "round"], "--shape"),
    (show_schedule, ["--steps_per_epoch", "2", "--out", "x.gif"], "ends in .gif")])
def test_what_cannot_be_shown_is_said_in_a_sentence(program, arguments, words, capsys):
    assert run(program, arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said


# programs

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with weights of chance, and images."""
    folder = tmp_path_factory.mktemp("pictures")
    config = from_mapping(TINY, "test")
    network = build_network(config, SPEC)
    meta = {"family": "gmlp", "model": "gmlp_ti", "config": TINY, "classes": [f"digit {n}" for n in range(10)]}
    save_checkpoint(folder / "tiny.ckpt", weights_of(network), meta)
    (folder / "in").mkdir()
    for number, pixels in enumerate(noise(5)):
        Image.fromarray(pixels).save(folder / "in" / f"{number}.png")
    (folder / "bad").mkdir()
    (folder / "bad" / "a.png").write_text("x")
    return folder


def call(task, *arguments):
    """Run an entry point in this process; return its exit code."""
    try:
        main(task, SPEC, [str(word) for word in arguments])
    except SystemExit as end:
        return end.code
    return 0


def test_predictions_are_written_in_every_form(folder, capsys):
    (folder / "in" / "broken.png").write_text("x")
    assert call("infer", "--ckpt_path", folder / "tiny.ckpt", "--image", folder / "in", "--json", "p.json", "--csv",
                "p.csv", "--sheet", "p.png", "--batch_size", "2") == 0
    assert "1 of 6 images could not be classified" in capsys.readouterr().out
    found = json.loads(Path("p.json").read_text())
    assert [len(one["top"]) for one in found] == [5, 5, 5, 5, 5, 0]
    first = read_csv("p.csv")[0]
    assert first["name"] == found[0]["top"][0]["name"] == f"digit {first['class']}"
    assert Image.open("p.png").width == 6 * (TILE + 14) + 14


@pytest.mark.parametrize("arguments, words", [
    ([], "image: name"), (["--image", "bad"], "none of the 1 images could be classified"),
    (["--image", "*.jpeg"], "is no file"), (["--image", "empty"], "holds no image"),
    (["--image", "in", "--sheet", "p.jpg"], "ends in .jpg"),
    (["--image", "in", "--csv", "bad/a.png/x.csv"], "cannot be written"),
    (["--image", "in", "--class_names", "three.txt"], "3 names, but the network tells 10 classes apart"),
    (["--image", "in", "--class_names", "none.txt"], "none.txt"),
    (["--image", "in", "--model_file", "x.mindir"], "no file")])
def test_what_cannot_be_predicted_ends_with_a_sentence(folder, arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    Path("empty").mkdir(exist_ok=True)
    Path("three.txt").write_text("a\nb\nc\n")
    assert call("infer", "--ckpt_path", "tiny.ckpt", *arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and words in said[0]


def test_an_exported_file_of_another_model_is_refused(folder, capsys):
    assert call("export", "--ckpt_path", folder / "tiny.ckpt", "--file_name", "tiny") == 0
    file = Path("tiny.mindir")
    assert call("infer", "--model_file", file, "--image", folder / "in" / "0.png") == 0
    assert "digit" in capsys.readouterr().out
    description = json.loads(Path("tiny.mindir.json").read_text())
    Path("tiny.mindir.json").write_text(json.dumps(description | {"model": "soft_tiny"}))
    assert call("infer", "--model_file", file, "--image", folder / "in" / "0.png") == 2
    assert "holds soft_tiny, which is no variant of gmlp" in capsys.readouterr().err


def test_an_evaluation_with_a_report_gives_the_same_numbers(folder, capsys):
    lines = []
    for more in ([], ["--report", "report"]):
        assert call("eval", "--ckpt_path", folder / "tiny.ckpt", *more) == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    assert lines[0] == lines[1]
    rows = read_csv("report/classes.csv")
    top1 = sum(int(row["correct"]) for row in rows) / sum(int(row["images"]) for row in rows)
    assert f"'Top_1_Accuracy': {top1:.4f}" in lines[1]
    assert len(read_csv("report/mistakes.csv")) == sum(int(row["images"]) - int(row["correct"]) for row in rows)
