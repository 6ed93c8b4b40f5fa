"""The names of classes: of a file, ImageNet's, and the numbers of WordNet in words. Imports no MindSpore."""
import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Sequence

from common.config.options import Config
from common.config.origins import is_asked, place_of
from common.dataset.samples import Samples
from common.errors import UserError, reason
from common.files import DATA, write_whole

IMAGENET = DATA / "imagenet_classes.txt"  # source and licence: common/data/README.md

logger = logging.getLogger(__name__)


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """Return ImageNet-1K's classes in their order: WordNet number, which is the name of the folder -> name."""
    lines = IMAGENET.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def names_for(given: Sequence[str] | None, count: int) -> list[str]:
    """Return the names of ``count`` classes for people.

    Args:
        given: the names, one per class. Where all of them are WordNet numbers, as the folders of ImageNet and of its
            subsets are named (``n01440764``), they are put in words (``tench``). None: ImageNet's names if there are
            1000 classes, otherwise the class numbers.
        count: outputs of the network.

    Raises:
        UserError: if there are other than ``count`` names; see ``one_per_output``.
    """
    names = list(given or (imagenet_classes().values() if count in (1000, 1001) else map(str, range(count))))
    if all(name in imagenet_classes() for name in names):
        names = [imagenet_classes()[name] for name in names]
    return one_per_output(names, count)


def one_per_output(names: Sequence[str], count: int) -> list[str]:
    """Return the names of ``count`` outputs; of 1000 classes and 1001 outputs, the old zoo's, the last is a background.

    Raises:
        UserError: if there are other than ``count`` names.
    """
    names = [*names, "background"] if (len(names), count) == (1000, 1001) else list(names)
    if len(names) != count:
        raise UserError(f"class_names: there are {len(names)} names, but the network tells {count} classes apart; give "
                        "one name per class.")
    return names


def read_class_names(path: str | Path) -> list[str]:
    """Read class names, in the order of the class numbers: one per line, or the JSON list that a run saves.

    Raises:
        UserError: if the file cannot be read or is neither.
    """
    if Path(path).suffix == ".json":
        return load_classes(path)
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UserError(f"class_names: '{path}' cannot be read ({why}).") from None
    if not names:
        raise UserError(f"class_names: '{path}' is empty; give one name per line, or a JSON list in a .json file.")
    return names


def check_classes(samples: Samples, config: Config) -> None:
    """Hold that the number of classes which the user gave is that of the data.

    Raises:
        UserError: with both numbers and the remedy.
    """
    found, asked = len(samples.classes), config.num_classes
    if "num_classes" not in config.given or asked == found:
        return
    if (asked, found) == (1001, 1000):
        logger.warning("num_classes is 1001 and the data has 1000 classes: the networks of the old zoo have one more "
                       "output, for the background, which stays unused here (the last one)")
        return
    written = place_of(config, "num_classes")
    remedy = (f"give --num_classes {found}, or leave it out" if is_asked(config, "num_classes")
              else f"give --num_classes {found}, or take it out of the file")
    raise UserError(f"num_classes: {asked} ({written}), but {samples.name} has {found} classes "
                    f"({', '.join(samples.classes[:3])}{' ...' if found > 3 else ''}); {remedy}.")


def check_same_classes(train: Samples, evaluation: Samples) -> None:
    """Hold that both splits have the same classes in the same order.

    Raises:
        UserError: naming the first classes that only one of them has.
    """
    if train.classes == evaluation.classes:
        return
    missing = [name for name in train.classes if name not in set(evaluation.classes)]
    extra = [name for name in evaluation.classes if name not in set(train.classes)]
    parts = [f"{what} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
             for what, names in (("lacks", missing), ("has besides", extra)) if names]
    raise UserError(f"the evaluation data has {len(evaluation.classes)} classes and the training data "
                    f"{len(train.classes)}: it {' and '.join(parts) or 'has them in another order'}; both need the "
                    "same class folders.")


def with_classes(config: Config, samples: Samples) -> Config:
    """Check the number of classes against the data, or take it from there when the user did not say.

    Raises:
        UserError: if they differ.
    """
    if "num_classes" not in config.given:
        config = dataclasses.replace(config, num_classes=len(samples.classes))
    check_classes(samples, config)
    if config.task != "eval" and len(samples.classes) == 1:
        logger.warning(f"{samples.name} has one class alone ({samples.classes[0]}), so there is nothing to tell apart "
                       "and to learn: is data_dir the folder that holds the class folders, or train/ and val/?")
    return config


def save_classes(samples: Samples, path: str | Path) -> None:
    """Write the class names as a JSON list, in the order of the labels."""
    write_whole(path, json.dumps(samples.classes, ensure_ascii=False, indent=0) + "\n")


def load_classes(path: str | Path) -> list[str]:
    """Read what ``save_classes`` wrote.

    Raises:
        UserError: if it is not there, or something else.
    """
    try:
        names = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no list of class names ({reason(error)}).") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is no list of class names; it should hold a JSON list of texts.")
    return names
