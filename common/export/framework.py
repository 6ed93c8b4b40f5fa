"""The framework's own export, without its traps: file names, and a setting that it leaves changed."""
import contextlib
import re
import tempfile
from pathlib import Path
from typing import Iterator, Sequence

import mindspore as ms
from mindspore import nn

PLAIN = r"[0-9a-zA-Z@_.\-]+"  # the framework refuses to export to names with other characters


def export_with_framework(network: nn.Cell, examples: Sequence[ms.Tensor], path: Path, file_format: str) -> None:
    """Write a network to a file of a plain name.

    Args:
        examples: one per input; in the shape of one for any number of images the first size is ``None``.
    """
    level = ms.get_context("jit_syntax_level")
    try:
        with _plain_alias(path.parent) as folder:
            ms.export(network, *examples, file_name=str(folder / path.name), file_format=file_format)
    finally:
        ms.set_context(jit_syntax_level=level)  # the framework leaves it changed when an export fails


@contextlib.contextmanager
def _plain_alias(folder: Path) -> Iterator[Path]:
    """Give a folder a name without spaces and other characters that the framework refuses in a path."""
    folder = folder.resolve()
    if re.fullmatch(PLAIN, "".join(folder.parts[1:])):
        yield folder
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        alias = Path(elsewhere) / "folder"
        alias.symlink_to(folder, target_is_directory=True)
        yield alias
