"""The names of classes: of a file, ImageNet's, and the numbers of WordNet in words. Imports no MindSpore."""
import functools
from pathlib import Path
from typing import Sequence

from common.errors import UserError
from common.dataset.batches.samples import load_classes

IMAGENET = Path(__file__).parent / "data" / "imagenet_classes.txt"  # source and licence: common/data/README.md


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
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UserError(f"class_names: '{path}' cannot be read ({reason}).") from None
    if not names:
        raise UserError(f"class_names: '{path}' is empty; give one name per line, or a JSON list in a .json file.")
    return names
