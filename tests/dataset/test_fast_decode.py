"""JPEG files decoded by OpenCV and resized with short filters: near PIL's pixels, and PIL where that is not possible."""
import io

import numpy as np
import pytest
from photographs import exif, jpeg, photograph, write_photographs
from PIL import Image

from common.augment.pipeline import train_transform
from common.augment.resize import FILTERS, resize_box
from common.config.load import from_mapping
from common.dataset.batches import TrainBatches
from common.dataset.images import Reading, load_image
from common.dataset.jpeg import Jpeg, open_picture
from common.dataset.sources import open_samples
from common.errors import UserError


def pil(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode, more", [("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}),
                                        ("L", {}), ("RGB", {"restart_marker_blocks": 4})])
def test_decoded_pixels_are_pils(mode, more):
    data = jpeg(photograph().convert(mode), **more)
    picture = open_picture(data, "x.jpg")
    assert isinstance(picture, Jpeg) and picture.size == (240, 180)
    np.testing.assert_array_equal(np.asarray(picture.image()), pil(data))


@pytest.mark.parametrize("more, early", [({}, True), ({"subsampling": 0}, True), ({"subsampling": 1}, True),
                                         ({"progressive": True}, False), ({"restart_marker_blocks": 4}, False)])
@pytest.mark.parametrize("size, least", [(250, 20), (25, 100)], ids=["whole", "reduced"])
def test_a_picture_decoded_down_to_its_crop_has_the_pixels_of_the_whole_one(more, early, size, least, capfd):
    for mode in "RGB", "L":
        data = jpeg(photograph(250, 190, seed=1).convert(mode), **more)
        expected, _ = open_picture(data, "x").crop((0, 0, 250, 190), size)
        twice = open_picture(data, "x")
        for bottom in (*range(least, 190, 7), 189, 190):
            for picture in open_picture(data, "x"), twice:
                pixels, (*_, end) = picture.crop((0, 0, 250, bottom), size)
                np.testing.assert_array_equal(pixels[:end], expected[:end])
        pixels, _ = open_picture(data, "x").crop((0, 0, 250, least), size)
        assert (len(pixels) < len(expected)) == early
    assert capfd.readouterr().err == ""  # nothing that the decoder would complain of


def test_a_file_of_several_pictures_is_decoded_as_a_whole(capfd):
    out = io.BytesIO()
    photograph().save(out, "MPO", save_all=True, append_images=[photograph(seed=1)])
    pixels, _ = open_picture(out.getvalue(), "x").crop((0, 0, 50, 50), 50)
    np.testing.assert_array_equal(pixels, pil(out.getvalue()))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("make", [
    lambda image: jpeg(image.convert("CMYK")),
    lambda image: jpeg(image, exif=exif(6)),
    lambda image: encoded(image, "PNG"),
    lambda image: encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8), "PNG"),
    lambda image: encoded(image.convert("P"), "PNG"),
    lambda image: encoded(image, "WEBP")], ids=["cmyk", "turned", "png", "16-bit", "palette", "webp"])
def test_what_is_no_ordinary_jpeg_is_read_by_pil(make):
    data = make(photograph())
    picture = open_picture(data, "x")
    assert isinstance(picture, Image.Image)
    assert picture == load_image(io.BytesIO(data), name="x")


def encoded(image, form):
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def test_an_upright_photo_with_exif_data_stays_fast_and_a_turned_one_counts_only_where_exif_counts():
    upright, turned = (jpeg(photograph(), exif=exif(value)) for value in (1, 6))
    assert isinstance(open_picture(upright, "x"), Jpeg)
    assert open_picture(turned, "x").size == (180, 240)
    as_stored = open_picture(turned, "x", Reading(exif=False))
    assert isinstance(as_stored, Jpeg) and as_stored.size == (240, 180)
    assert load_image(io.BytesIO(turned), Reading(exif=False), "x").size == (240, 180)


@pytest.mark.parametrize("damage", [lambda data: data[:-200], lambda data: data[:300], lambda data: b"\xff\xd8\xff",
                                    lambda data: b"", lambda data: data[:400] + b"\xff\xd9"])
def test_a_broken_file_is_a_sentence_with_its_name(damage):
    with pytest.raises(UserError, match="^x.jpg is no image that can be read"):
        picture = open_picture(damage(jpeg(photograph())), "x.jpg")
        picture.crop((0, 0, 50, 50), 24)


def test_a_large_image_is_refused_before_it_is_decoded():
    for form in ("PNG", "JPEG"):
        data = encoded(Image.new("L", (400, 300)), form)
        open_picture(data, "x", Reading(max_pixels=120_000))
        with pytest.raises(UserError, match="x has 400 x 300 pixels, more than max_image_pixels: 119999"):
            open_picture(data, "x", Reading(max_pixels=119_999))
        with pytest.raises(UserError, match="max_image_pixels"):
            load_image(io.BytesIO(data), Reading(max_pixels=119_999), "x")


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("box", [(0, 0, 64, 64), (30, 20, 70, 80), (10, 5, 140, 120), (0, 0, 240, 180),
                                 (100, 20, 230, 90)])
def test_resized_pixels_are_nearer_to_pils_than_two_of_pils_filters_are_to_each_other(resample, box):
    image = photograph()
    pils = {f: np.asarray(image.resize((64, 64), f, box=box), np.float64) for f in FILTERS}
    ours = resize_box(np.asarray(image), box, 64, resample)
    assert ours.shape == (64, 64, 3) and ours.dtype == np.uint8
    between = np.abs(pils[FILTERS[0]] - pils[FILTERS[1]]).mean()
    assert np.abs(ours - pils[resample]).mean() <= between


def test_a_large_picture_is_decoded_reduced_and_its_crop_is_nearly_pils():
    data = jpeg(photograph(960, 720))
    box = (100, 48, 852, 612)  # whole reduced pixels
    picture = open_picture(data, "x")
    pixels, inside = picture.crop(box, 64)
    assert pixels.shape == (156, 240, 3)  # to row 624: the next 16 rows after 612
    ours = resize_box(pixels, inside, 64, FILTERS[0]).astype(np.float64)
    exact = np.asarray(Image.fromarray(pil(data)).resize((64, 64), FILTERS[0], box=box), np.float64)
    cubic = np.asarray(Image.fromarray(pil(data)).resize((64, 64), FILTERS[1], box=box), np.float64)
    assert np.abs(ours - exact).mean() < np.abs(cubic - exact).mean()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 16, 120, 100)


def batches(folder, **values):
    config = from_mapping({"dataset": "folder", "data_dir": str(folder), "image_size": 32, "batch_size": 8, "seed": 5,
                           "num_classes": 2, **values}, "test")
    return TrainBatches(config, open_samples(config, "train"), 0, 1)


def test_the_key_chooses_between_nearly_the_same_crops_and_pils_own(folder):
    fast, exact = (batches(folder, fast_decode=value)[0] for value in (True, False))
    np.testing.assert_array_equal(fast[1], exact[1])
    other_filter = batches(folder, fast_decode=False, interpolation="bicubic")[0]
    assert 0 < np.abs(fast[0] - exact[0]).mean() < np.abs(other_filter[0] - exact[0]).mean()
    config = from_mapping({"image_size": 32}, "test")
    crop = train_transform(config).crop(load_image(folder / "train" / "a" / "00.jpg"), np.random.default_rng(0))
    assert isinstance(crop, Image.Image)  # a PIL image is resized by PIL, whatever the key


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest", "random"])
def test_every_filter_and_grey_images_pass_on_the_fast_way(folder, interpolation):
    fast, exact = (batches(folder, interpolation=interpolation, fast_decode=value)[0][0] for value in (True, False))
    levels = np.abs(fast - exact).mean() * 255 * 0.226
    assert levels == 0 if interpolation in ("lanczos", "nearest") else 0 < levels < 2
    grey = [batches(folder, in_channels=1, mean=[0.5], std=[0.5], interpolation=interpolation, fast_decode=value)[0][0]
            for value in (True, False)]
    np.testing.assert_array_equal(*grey)


def test_evaluation_reads_with_pil_whatever_the_key(folder):
    config = from_mapping({"dataset": "folder", "data_dir": str(folder)}, "test")
    samples = open_samples(config, "train")
    file = folder / "train" / "a" / "00.jpg"
    np.testing.assert_array_equal(np.asarray(samples.load(0)), pil(file.read_bytes()))


def test_keys_for_reading_reach_the_reader(folder, tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.jpg").write_bytes(jpeg(photograph(), exif=exif(6)))
    for values, size in (({}, (180, 240)), ({"exif": False}, (240, 180))):
        config = from_mapping({"dataset": "folder", "data_dir": str(tmp_path), **values}, "test")
        samples = open_samples(config, "train")
        assert samples.load(0).size == samples.picture(0).size == size
    config = from_mapping({"dataset": "folder", "data_dir": str(tmp_path), "max_image_pixels": 1000}, "test")
    for read in (open_samples(config, "train").load, open_samples(config, "train").picture):
        with pytest.raises(UserError, match="max_image_pixels: 1000"):
            read(0)


def test_a_broken_jpeg_is_replaced_on_the_fast_way_too(folder, tmp_path):
    for file in (folder / "train").rglob("*.jpg"):
        copy = tmp_path / "train" / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = file.read_bytes()
        copy.write_bytes(data[:len(data) // 2] if file.name == "04.jpg" else data)
    source = batches(tmp_path, on_error="skip")
    assert {source[k][0].shape for k in range(2)} == {(8, 3, 32, 32)}
    with pytest.raises(UserError, match="04.jpg"):
        for k in range(2):
            batches(tmp_path)[k]
