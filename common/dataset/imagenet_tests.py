"""Test sets for networks that were trained on ImageNet: ReaL, ImageNet-V2, -A, -R and -Sketch. Imports no MindSpore.

Their classes are ImageNet's, or 200 of them. Of a network's outputs only those of the data's classes count, as in the
papers of ImageNet-A and -R.
"""
import functools
import gzip
import json
import os
import re
from typing import Sequence

import numpy as np

from common.config.datasets import DATASETS, ImageNetTest
from common.dataset.classes import imagenet_classes
from common.dataset.samples import Samples
from common.errors import UserError
from common.files import DATA

IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")  # the name of an image of ImageNet's evaluation


def outputs_of(dataset: str, samples: Samples, trained: Sequence[str], outputs: int) -> list[int] | None:
    """Return the outputs of a network that stand for the classes of a test set, in their order; ``None`` for others.

    Where folders are named by number, the classes of ``samples`` get their WordNet numbers instead.

    Args:
        dataset: the key of the configuration.
        samples: the test set.
        trained: names of the classes that the network was trained on, in the order of its outputs, if that is known.
        outputs: their number.

    Raises:
        UserError: if the folders are not those of the test set, or the network does not tell ImageNet's classes apart.
    """
    about, known = DATASETS[dataset], list(imagenet_classes())
    if not isinstance(about, ImageNetTest):
        return None
    if about.numbered and all(name.isdigit() and int(name) < len(known) for name in samples.classes):
        samples.classes = [known[int(name)] for name in samples.classes]
    expected = (DATA / about.classes_file).read_text("utf-8").split() if about.classes_file else known
    for what, names in (("lacks the class folder(s)", set(expected) - set(samples.classes)),
                        ("has besides", set(samples.classes) - set(expected))):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")
            raise UserError(f"dataset: {samples.name} is not {about.title} as its authors packed it: it {what} "
                            f"{shown}; see {about.address}.")
    if not set(expected) <= set(trained) and (trained or outputs not in (1000, 1001)):
        raise UserError(f"dataset: {about.title} needs a network of ImageNet's classes, but this one tells {outputs} "
                        f"others apart{': ' + ', '.join(trained[:3]) + ' ...' if trained else ''}.")
    places = {name: place for place, name in enumerate(trained or known)}
    return [places[name] for name in samples.classes]


@functools.cache
def real_labels() -> list[list[int]]:
    """Return the classes that people see in each image of ImageNet's evaluation; source: common/data/README.md."""
    return json.loads(gzip.decompress((DATA / "imagenet_real.json.gz").read_bytes()))


def real_sets(samples: Samples) -> list[set[str]]:
    """Return for each image the names of its classes by ReaL; none where people saw no class of ImageNet's.

    Raises:
        UserError: if an image is not named as those of ImageNet's evaluation are.
    """
    known, found = list(imagenet_classes()), []
    for index in range(len(samples)):
        name = IMAGE.search(os.path.basename(samples.where(index)))
        if not name or not 0 < int(name[1]) <= len(real_labels()):
            raise UserError(f"dataset: ReaL finds its labels by the names of ImageNet's evaluation images, "
                            f"ILSVRC2012_val_00000001.JPEG and so on, but there is {samples.where(index)}.")
        found.append({known[label] for label in real_labels()[int(name[1]) - 1]})
    return found


def real_accuracy(sets: Sequence[set[str]], predicted: np.ndarray, classes: Sequence[str]) -> tuple[float, int]:
    """Return the share of right answers by ReaL, and of how many images.

    Args:
        sets: of ``real_sets``.
        predicted: the answer for each image, a place in ``classes``; negative: none (n,).
        classes: names.
    """
    right = [answer >= 0 and classes[answer] in names for names, answer in zip(sets, predicted.tolist()) if names]
    return sum(right) / max(len(right), 1), len(right)
