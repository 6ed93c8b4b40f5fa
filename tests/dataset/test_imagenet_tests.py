"""ReaL, ImageNet-V2, -A, -R and -Sketch: which output stands for which class folder. Without MindSpore."""
import numpy as np
import pytest

from common.dataset.classes import imagenet_classes
from common.dataset.imagenet_tests import outputs_of, real_accuracy, real_labels, real_sets
from common.dataset.samples import FileSamples
from common.errors import UserError
from common.files import DATA

KNOWN = list(imagenet_classes())
A, R = ((DATA / f"imagenet_{letter}_classes.txt").read_text().split() for letter in "ar")


def samples_of(classes, files=()):
    return FileSamples("folder", classes, [0] * len(files), DATA, files)


def test_the_files_hold_what_was_published():
    for names, first in ((A, "n01498041"), (R, "n01443537")):
        assert len(set(names)) == 200 and names == sorted(names) and set(names) < set(KNOWN) and names[0] == first
    assert len(real_labels()) == 50_000 and sum(map(bool, real_labels())) == 46_837
    assert real_labels()[:4] == [[], [970, 795], [230, 231], [809]]


def test_folders_find_their_outputs_by_name_or_number():
    assert outputs_of("imagenet_sketch", samples_of(KNOWN), [], 1000) == list(range(1000))
    assert outputs_of("imagenet_a", samples_of(A), [], 1001) == [KNOWN.index(name) for name in A]
    assert outputs_of("imagenet_r", samples_of(R), KNOWN[::-1], 1000) == [999 - KNOWN.index(name) for name in R]
    numbered = samples_of(sorted(map(str, range(1000))))
    assert outputs_of("imagenet_v2", numbered, [], 1000)[:4] == [0, 1, 10, 100]
    assert numbered.classes[2] == KNOWN[10]
    assert outputs_of("folder", samples_of(["cat"]), [], 1) is None


@pytest.mark.parametrize("dataset, classes, trained, outputs, words", [
    ("imagenet_a", A[1:], [], 1000, "lacks the class folder.s. n01498041; see https://github.com/hendrycks/natural"),
    ("imagenet_a", R, [], 1000, "lacks"), ("imagenet_r", [*R, "x"], [], 1000, "has besides x"),
    ("imagenet_v2", KNOWN[:10], [], 1000, "lacks"), ("imagenet_r", R, [], 10, "tells 10 others"),
    ("imagenet_r", R, ["cat", "dog"], 2, "cat, dog")])
def test_other_folders_and_other_networks_are_refused(dataset, classes, trained, outputs, words):
    with pytest.raises(UserError, match=words):
        outputs_of(dataset, samples_of(classes), trained, outputs)


def test_real_counts_an_answer_that_is_among_an_images_labels():
    files = [f"n0/ILSVRC2012_val_{number:08}.JPEG" for number in (4, 1, 2, 3)]  # labels 809; none; 970, 795; 230, 231
    sets = real_sets(samples_of(KNOWN, files))
    assert sets[0] == {KNOWN[809]} and sets[1] == set()
    assert real_accuracy(sets, np.array([809, 5, 795, -1]), KNOWN) == (2 / 3, 3)
    assert real_accuracy(sets, np.array([0, 5, 0, 0]), KNOWN) == (0.0, 3)
    for name in ("n0/photo.jpg", "n0/ILSVRC2012_val_00050001.JPEG"):
        with pytest.raises(UserError, match=name):
            real_sets(samples_of(KNOWN, [name]))
