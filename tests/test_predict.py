"""Images to classes: any form of image, any batch, broken files, exported files, and the ways results are written."""
import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_networks import Broken, Colors, FixedBatch, TinyClassifier

from common.augment.pipeline import eval_transform
from common.config.load import from_mapping
from common.dataset.classes import imagenet_classes, names_for, read_class_names
from common.dataset.images import Reading, expand_images
from common.errors import UserError
from common.export.description import description_path, preprocessing_of
from common.export.load import load_mindir
from common.export.write import export_network
from common.predict import Candidate, Predictor, Result, format_table, softmax, write_csv, write_json

NAMES = ["red", "green", "blue"]
RGB = {"red": (200, 20, 30), "green": (10, 180, 40), "blue": (20, 30, 220)}
CONFIG = from_mapping({"image_size": 8, "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}, "test")


def predictor(network=None, **more):
    return Predictor(network or Colors(), eval_transform(CONFIG), **{"class_names": NAMES, **more})


def picture(color, size=(12, 10)):
    return Image.new("RGB", size, RGB[color])


def write_pictures(folder, *colors):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, color in enumerate(colors):
        picture(color).save(Path(folder) / f"{number:02}_{color}.png")


def write_cut_image(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    Path(path).write_bytes(Path(path).read_bytes()[:4000])


def names_of(results):
    return [result.top[0].name if result.top else None for result in results]


def test_paths_images_and_arrays_give_the_same_result(mode):
    write_pictures("in", "green")
    path = Path("in/00_green.png")
    forms = [path, str(path), picture("green"), np.asarray(picture("green"))]
    results = predictor(top_k=2)(forms)
    assert names_of(results) == ["green"] * 4
    assert len({result.top for result in results}) == 1
    assert [result.source for result in results] == ["in/00_green.png", "in/00_green.png", "image 2", "image 3"]


@pytest.mark.parametrize("convert, color", [("L", (90, 90, 90)), ("RGBA", RGB["red"]), ("P", RGB["blue"]),
                                            ("1", (255, 255, 255)), ("CMYK", RGB["green"])])
def test_images_of_any_mode_are_read_as_rgb(convert, color):
    image = Image.new("RGB", (9, 9), color).convert(convert)
    result, = predictor()([image])
    logits = 10 * (np.asarray(image.convert("RGB"), np.float32)[0, 0] / 255 - 0.5) / 0.5
    assert [one.index for one in result.top] == list(np.argsort(-logits, kind="stable"))
    assert result.top[0].probability == pytest.approx(softmax(logits).max(), abs=1e-5)


def test_one_image_needs_no_list():
    write_pictures("in", "blue")
    for one in ("in/00_blue.png", picture("blue"), np.asarray(picture("blue"))):
        assert names_of(predictor()(one)) == ["blue"]
    assert predictor()([]) == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 50])
def test_the_batch_size_changes_nothing(batch_size):
    colors = ["red", "green", "blue", "blue", "red"]
    results = predictor(batch_size=batch_size)([picture(color) for color in colors])
    assert names_of(results) == colors
    assert results[0].top[0].probability == pytest.approx(results[4].top[0].probability, abs=1e-6)


def test_a_network_with_a_fixed_batch_is_filled_up():
    images = [picture(color) for color in ("red", "green", "blue", "red", "green")]
    fixed = predictor(FixedBatch(4), batch_size=4, fixed_batch=True, class_names=None)(images)
    single = [predictor(FixedBatch(1), batch_size=1, class_names=None)([image])[0] for image in images]
    for a, b in zip(fixed, single):
        assert [one.index for one in a.top] == [one.index for one in b.top]
        assert a.top[0].probability == pytest.approx(b.top[0].probability, abs=1e-6)
    encoder = predictor(FixedBatch(4), batch_size=4, fixed_batch=True, class_names=None)
    encoder.part = "encoder"
    features = encoder.features([*images, images[0]])  # the last in a batch that is filled up
    np.testing.assert_array_equal(features[0], features[5])


def test_probabilities_are_sorted_and_those_of_the_logits():
    result, = predictor(top_k=10)([picture("red")])
    logits = 10 * (np.array(RGB["red"]) / 255 - 0.5) / 0.5
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [one.name for one in result.top] == ["red", "blue", "green"]
    assert [one.probability for one in result.top] == pytest.approx(sorted(expected)[::-1], abs=1e-6)
    assert sum(one.probability for one in result.top) == pytest.approx(1)


def test_a_network_in_training_mode_is_put_into_evaluation():
    network = TinyClassifier(3)
    network.set_train(True)
    classify = predictor(network)
    assert classify([picture("red")] * 4) == classify([picture("red")] * 4)


def test_softmax_holds_for_large_logits():
    assert softmax(np.array([[1e4, 1e4 - 8, -1e4]], np.float16)).tolist() == [
        pytest.approx([1 / (1 + np.exp(-8)), 1 / (1 + np.exp(8)), 0])]
    assert softmax(np.zeros((2, 4), np.float16)).dtype == np.float32


def test_broken_files_are_reported_in_their_place_and_counted(caplog):
    logging.getLogger("common.predict").addHandler(caplog.handler)  # whatever a test before has set up
    write_pictures("in", "red", "blue")
    write_cut_image("in/cut.png")
    Path("in/text.jpg").write_text("no image")
    Path("in/empty.png").write_bytes(b"")
    files = ["in/cut.png", "in/00_red.png", "in/text.jpg", "in/missing.png", "in/empty.png", "in/01_blue.png"]
    results = predictor(batch_size=2)(files)
    assert names_of(results) == [None, "red", None, None, None, "blue"]
    assert [result.source for result in results] == files
    assert all(result.error.startswith("cannot be read: ") for result in results if not result.top)
    assert "No such file" in results[3].error and "\n" not in results[0].error
    assert "4 of 6 images could not be classified" in caplog.text


def test_an_opened_image_that_turns_out_broken_is_reported_too():
    write_pictures("in", "red")
    write_cut_image("in/cut.png")
    results = predictor()([Image.open("in/cut.png"), Image.open("in/00_red.png")])
    assert names_of(results) == [None, "red"] and results[0].error.startswith("cannot be read: ")


def test_an_output_that_is_not_finite_is_no_prediction():
    dark, bright = Image.new("RGB", (8, 8), (0, 0, 0)), Image.new("RGB", (8, 8), (255, 255, 255))
    results = predictor(Broken())([dark, bright])
    assert [bool(result.top) for result in results] == [False, True]
    assert "not finite" in results[0].error


@pytest.mark.parametrize("make", [
    lambda rgb: np.dstack([rgb, np.zeros((10, 12), np.uint8)]), lambda rgb: rgb.astype(np.uint16) * 257,
    lambda rgb: np.ascontiguousarray(rgb[:, ::-1])[:, ::-1]], ids=["transparent", "16 bits", "strided"])
def test_arrays_of_other_forms_are_what_they_show(make):
    rgb = np.asarray(picture("green"))
    assert predictor()(make(rgb))[0].top == predictor()(rgb)[0].top


def test_grey_arrays_and_images_are_the_same_in_8_and_16_bits():
    grey = np.full((8, 8), 90, np.uint8)
    deep = grey.astype(np.uint16) * 257
    forms = [grey, grey[..., None], deep, Image.fromarray(grey), Image.fromarray(deep)]
    assert len({result.top for result in predictor()(forms)}) == 1


def test_a_stack_of_arrays_is_as_many_images():
    stack = np.stack([np.asarray(picture(color)) for color in ("blue", "red")])
    assert names_of(predictor()(stack)) == ["blue", "red"]


def test_a_photo_that_was_taken_upright_is_turned():
    """The upper half is red, the lower one blue, and the network takes the crop of the middle: the lower rows count."""
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    array = np.zeros((8, 8, 3), np.uint8)
    array[:4] = RGB["red"]
    array[4:] = RGB["blue"]
    Image.fromarray(array).save("photo.png", exif=exif)
    lower = predictor()
    lower.transform = lambda image: eval_transform(CONFIG)(image.crop((0, 4, 8, 8)))
    assert names_of(lower(["photo.png", Image.open("photo.png"), array])) == ["red", "red", "blue"]
    lower.reading = Reading(exif=False)
    assert names_of(lower(["photo.png", Image.open("photo.png")])) == ["blue", "blue"]
    lower.reading = Reading(max_pixels=63)
    assert "8 x 8 pixels, more than max_image_pixels: 63" in lower("photo.png")[0].error


@pytest.mark.parametrize("array", [
    np.zeros((8, 8, 3), np.float32), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), bool),
    np.zeros((8, 8, 2), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros(8, np.uint8)])
def test_an_array_of_another_form_is_refused(array):
    with pytest.raises(UserError, match="must be uint8 or uint16 of the shape"):
        predictor()([array])


def test_something_else_than_an_image_is_refused():
    with pytest.raises(UserError, match="a path, a PIL image or a NumPy array, not int"):
        predictor()([7])


def test_class_names_must_be_as_many_as_the_classes():
    with pytest.raises(UserError, match="there are 2 names, but the network tells 3 classes apart"):
        predictor(class_names=["a", "b"])([picture("red")])


def test_without_class_names_the_numbers_are_shown():
    assert names_of(predictor(class_names=None)([picture("blue")])) == ["2"]


def test_imagenet_has_its_names_in_the_order_of_its_folders():
    names = imagenet_classes()
    assert len(names) == 1000 == len(set(names.values())) and list(names) == sorted(names)
    assert [list(names.values())[number] for number in (0, 134, 281, 517, 999)] == [
        "tench", "crane (bird)", "tabby", "crane (machine)", "toilet tissue"]


def test_folders_of_imagenet_and_its_subsets_are_put_in_words():
    assert names_for(["n02123045", "n01440764"], 2) == ["tabby", "tench"]
    assert names_for(["n02123045", "n99999999"], 2) == ["n02123045", "n99999999"]
    assert names_for(None, 1000)[1] == "goldfish" and names_for([], 3) == ["0", "1", "2"]
    assert names_for(list(imagenet_classes()), 1001)[-2:] == ["toilet tissue", "background"]


def test_the_one_output_more_of_the_old_zoo_is_the_background_also_in_an_exported_file():
    names = list(imagenet_classes())
    file = export_network(TinyClassifier(1001), input_shape=(1, 3, 8, 8), file_name="tiny", class_names=names)
    description = json.loads(description_path(file).read_text())
    assert (description["num_classes"], description["class_names"]) == (1001, names)
    with pytest.raises(UserError, match="there are 999 names, but the network tells 1001 classes apart"):
        names_for(names[1:], 1001)


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_an_exported_file_predicts_what_the_network_does(batch, mode):
    network = TinyClassifier(3)
    file = export_network(network, input_shape=(batch, 3, 8, 8), file_name="tiny", class_names=NAMES,
                          preprocessing=preprocessing_of(CONFIG))
    images = [picture(color) for color in ("red", "green", "blue", "red", "green")]
    exported, direct = Predictor(file)(images), predictor(network)(images)
    for a, b in zip(exported, direct):
        assert [one.name for one in a.top] == [one.name for one in b.top]
        assert [one.probability for one in a.top] == pytest.approx([one.probability for one in b.top], abs=1e-5)


def test_two_exported_files_do_not_mix():
    for seed in (0, 1):
        export_network(TinyClassifier(3, seed=seed), input_shape=(None, 3, 8, 8), file_name=f"tiny{seed}",
                       preprocessing=preprocessing_of(CONFIG))
    both = [Predictor(f"tiny{seed}.mindir") for seed in (0, 1)]
    first, second, again = (both[n](picture("red"))[0].top for n in (0, 1, 0))
    assert first == again != second


def test_a_missing_model_file_is_named():
    with pytest.raises(UserError, match="there is no file 'no.mindir'"):
        load_mindir("no.mindir")


def test_another_kind_of_file_is_named():
    Path("weights.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match="does not end in .mindir or .onnx; a checkpoint"):
        load_mindir("weights.ckpt")


def test_a_file_that_is_no_whole_mindir_is_refused():
    whole = export_network(Colors(), input_shape=(None, 3, 8, 8), file_name="colors").read_bytes()
    for content in (whole[:len(whole) // 2], whole[:-9], b"", b"text\n" * 50, bytes(range(256)) * 9):
        Path("part.mindir").write_bytes(content)
        with pytest.raises(UserError, match="'part.mindir' is not a MINDIR file, or only a part of one"):
            load_mindir("part.mindir")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"input": {}}', "7",
                                     '{"input": {}, "preprocessing": {}, "class_names": []}'])
def test_a_missing_or_wrong_description_is_named(content):
    file = export_network(Colors(), input_shape=(None, 3, 8, 8), file_name="colors")
    description_path(file).unlink()
    if content is not None:
        description_path(file).write_text(content)
    with pytest.raises(UserError, match="model_file: 'colors.mindir.json' (cannot be read|does not describe)"):
        Predictor(file)


def test_a_description_of_another_file_is_noticed():
    file = export_network(FixedBatch(2), input_shape=(2, 3, 8, 8), file_name="two",
                          preprocessing=preprocessing_of(CONFIG))
    description = json.loads(description_path(file).read_text())
    for key, value, reason in (("in_channels", 1, "contradicts itself"), ("image_size", 12, "contradicts itself"),
                               ("batch", 3, r"returns \(2, 2\) for 3 images")):
        changed = json.loads(json.dumps(description))
        if key == "batch":
            changed["input"]["shape"][0] = value
        else:
            changed["preprocessing"] |= {key: value, "mean": [0.5], "std": [0.5]}
        description_path(file).write_text(json.dumps(changed))
        with pytest.raises(UserError, match=reason):
            Predictor(file)([picture("red")])


def test_a_file_that_takes_other_channels_than_its_description_says_is_named():
    file = export_network(TinyClassifier(3), input_shape=(1, 3, 8, 8), file_name="tiny",
                          preprocessing=preprocessing_of(CONFIG))
    description = json.loads(description_path(file).read_text())
    description["input"]["shape"][1] = description["preprocessing"]["in_channels"] = 1
    description["preprocessing"] |= {"mean": [0.5], "std": [0.5]}
    description_path(file).write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"does not take images of the shape \(1, 1, 8, 8\), which tiny.mindir.json"):
        Predictor(file)([picture("red")])


def test_a_network_that_is_no_classifier_is_named():
    class Features(Colors):
        def construct(self, images):
            return images

    file = export_network(Features(), input_shape=(None, 3, 8, 8), file_name="features",
                          preprocessing=preprocessing_of(CONFIG))
    for predict in (Predictor(file), predictor(Features())):
        with pytest.raises(UserError, match=r"no classifier: it returns \(1, 3, 8, 8\) for 1 images"):
            predict([picture("red")])


def test_a_file_a_folder_and_a_pattern_name_images():
    write_pictures("all/b", "red", "green")
    write_pictures("all/a", "blue")
    Path("all/notes.txt").write_text("")
    Path("all/._00.png").write_text("")
    picture("red").save("all/Loud.JPEG")
    everything = ["all/Loud.JPEG", "all/a/00_blue.png", "all/b/00_red.png", "all/b/01_green.png"]
    assert [str(path) for path in expand_images("all")] == everything
    assert [str(path) for path in expand_images("all/**/*")] == everything
    assert [str(path) for path in expand_images("all/b/*green*")] == everything[-1:]
    assert expand_images("all/notes.txt") == [Path("all/notes.txt")]  # named itself: reading it will tell


def test_a_file_name_with_brackets_is_no_pattern():
    write_pictures("in", "red")
    Path("in/00_red.png").rename("in/a[1].png")
    assert expand_images("in/a[1].png") == [Path("in/a[1].png")]


@pytest.mark.parametrize("text, reason", [("nothing/here.png", "is no file, no folder and no pattern"),
                                          ("*.webp", "is no file"), ("empty", "holds no image")])
def test_no_image_is_named(text, reason):
    Path("empty").mkdir()
    with pytest.raises(UserError, match=reason):
        expand_images(text)


def test_class_names_are_read_from_lines_and_from_json():
    Path("names.txt").write_text("tench, Tinca\n\n größe \n", encoding="utf-8")
    Path("names.json").write_text('["a", "b c"]')
    assert read_class_names("names.txt") == ["tench, Tinca", "größe"]
    assert read_class_names("names.json") == ["a", "b c"]


@pytest.mark.parametrize("name, content", [("no.txt", None), ("empty.txt", ""), ("broken.json", "["),
                                           ("table.json", "{}"), ("latin.txt", b"\xff\xfe\xe4")])
def test_class_names_that_cannot_be_read_are_named(name, content):
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=name):
        read_class_names(name)


RESULTS = [Result("cat.png", (Candidate(281, "tabby, cat", 0.93124), Candidate(7, "größe", 0.05))),
           Result("broken.png", error="cannot be read: cut")]


def test_the_table_has_a_line_per_class_and_counts_the_broken():
    assert format_table(RESULTS).split("\n") == [
        "image       rank  class  name        probability",
        "cat.png        1    281  tabby, cat       0.9312",
        "               2      7  größe            0.0500",
        "broken.png               cannot be read: cut",
        "1 of 2 images could not be classified"]


def test_json_and_csv_can_be_read_back():
    write_json(RESULTS, "out/results.json")
    assert json.loads(Path("out/results.json").read_text(encoding="utf-8")) == [
        {"source": "cat.png", "top": [{"index": 281, "name": "tabby, cat", "probability": 0.93124},
                                      {"index": 7, "name": "größe", "probability": 0.05}], "error": ""},
        {"source": "broken.png", "top": [], "error": "cannot be read: cut"}]
    write_csv(RESULTS, "out/results.csv")
    with open("out/results.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["image", "rank", "class", "name", "probability", "error"],
            ["cat.png", "1", "281", "tabby, cat", "0.931240", ""], ["cat.png", "2", "7", "größe", "0.050000", ""],
            ["broken.png", "", "", "", "", "cannot be read: cut"]]
    assert sorted(path.name for path in Path("out").iterdir()) == ["results.csv", "results.json"]


def test_results_that_cannot_be_written_are_named():
    Path("file").write_text("")
    with pytest.raises(UserError, match="'file/results.csv' cannot be written"):
        write_csv(RESULTS, "file/results.csv")
