"""python -m common.dataset check: what is wrong with a folder of images, before a training finds out."""
import shutil

import pytest
from photographs import exif, jpeg, photograph
from PIL import Image

from common.dataset.__main__ import main


@pytest.fixture
def folder(tmp_path):
    for number, (split, name) in enumerate((s, c) for s in ("train", "val") for c in "aabb"):
        file = tmp_path / split / name / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(photograph(40 + number, 30, seed=number)))
    return tmp_path


def test_a_good_folder_is_described_and_passes(folder, capsys):
    assert main(["check", str(folder), "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "train: 4 images of 2 classes, 2 to 2 per class; width 40 to 43 (median 41.5), height 30 to 30" in said
    assert "val: 4 images of 2 classes" in said and said.endswith("Nothing is wrong.\n")


def test_what_is_odd_is_said_and_still_passes(folder, capsys):
    (folder / "train" / "a" / "turned.jpg").write_bytes(jpeg(photograph(), exif=exif(6)))
    Image.new("L", (9, 9)).save(folder / "train" / "a" / "grey.png")
    (folder / "train" / "b" / "again.png").write_bytes((folder / "train" / "a" / "grey.png").read_bytes())
    assert main(["check", str(folder), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 image(s) of train turned by EXIF: " in said and "2 image(s) of train of mode L: " in said
    assert "1 image(s) of train more than once: " in said and "grey.png = " in said


@pytest.mark.parametrize("damage, message", [
    (lambda root: (root / "val" / "a" / "x.jpg").write_bytes(b"no"), "1 image(s) of val that cannot be read: "),
    (lambda root: shutil.rmtree(root / "train" / "b"), "1 class in train alone, so that there is nothing to "),
    (lambda root: (root / "val" / "c").mkdir(), "1 class(es) of val without images: c"),
    (lambda root: (root / "val" / "a").rename(root / "val" / "z"), "1 class(es) of val that train has not: z"),
    (lambda root: (root / "val" / "a" / "x.jpg").write_bytes((root / "train" / "a" / "0.jpg").read_bytes()),
     "1 image(s) in train and in val: ")])
def test_what_is_wrong_is_named_with_exit_code_1(folder, capsys, damage, message):
    damage(folder)
    assert main(["check", str(folder), "--workers", "1"]) == 1
    assert f"WRONG: {message}" in capsys.readouterr().out


def test_a_mistake_is_a_sentence(tmp_path, capsys):
    for words in (["check", str(tmp_path / "nowhere")], ["look", "x"], ["check", str(tmp_path)],
                  ["check", str(tmp_path), "--workers", "0"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
