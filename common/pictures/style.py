"""Colours and letters of all pictures, and pictures of Pillow as files. Imports without MindSpore."""
import functools
import io
import logging
import unicodedata
from pathlib import Path

from PIL import Image, ImageFont

from common.errors import UserError
from common.files import write_whole

BLUE, ORANGE, GREEN, PURPLE = "#1f62ac", "#de6810", "#228b4a", "#8252a8"
# Colours that also the colour-blind tell apart, but for the yellow, which is too faint on white. Source: Okabe and Ito
# 2008, "Color Universal Design".
DISTINCT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
TEXT, NOTE, GRID, SHADE = "#282828", "#6e6e6e", "#e1e1e1", "#eceff4"

# Tried in this order for what the font that comes with Pillow does not have, which is all but ASCII and a few signs.
SYSTEM_FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc",
                "NotoSansCJKsc-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-zenhei.ttc", "wqy-microhei.ttc",
                "msyh.ttc", "simhei.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf")
_COMMON = frozenset(map(chr, range(32, 127))) | {"…", "\n"}
_NO_LETTER = "\U0010fffe"  # no font has it: what is drawn for it is drawn for every letter that is missing

log = logging.getLogger(__name__)


def font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Return the font for a text: that which comes with Pillow, so that pictures look alike on every machine; for other
    letters than it has, the first of ``SYSTEM_FONTS`` that is installed and has all of them.

    Args:
        size: height in pixels.
        text: as ``legible`` returns it, or before.
    """
    return _open(_font_name(frozenset(text) - _COMMON) or "", size)


def font_file(text: str) -> str | None:
    """Return the file of the first of ``SYSTEM_FONTS`` that has all letters of a text; without one, say so once."""
    name = _font_name(frozenset(text) - _COMMON)
    if name is None:
        _tell_of_missing_letters()
    return _open(name, 16).path if name else None


def legible(text: str) -> str:
    """Return a text that no font here has without its accents; all other texts as they are."""
    if _font_name(frozenset(text) - _COMMON) is not None:
        return text
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    if _font_name(frozenset(plain) - _COMMON) is None:
        _tell_of_missing_letters()
    return plain


def text_width(text: str, size: int) -> float:
    """Return the width of a text in pixels."""
    return font(size, text).getlength(legible(text))


def fit_text(text: str, size: int, width: float, keep_end: bool = False) -> str:
    """Cut a line that is wider than ``width`` pixels, at its end or its beginning; an ellipsis marks the cut."""
    text = legible(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[1:] if keep_end else text[:-1]
    return "…" + text if keep_end else text + "…"


@functools.cache
def _open(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of the system, or Pillow's own for no name."""
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


@functools.cache
def _font_name(letters: frozenset[str]) -> str | None:
    """Return the name of the font that has these letters, empty for Pillow's own; None if there is none."""
    for name in ("", *SYSTEM_FONTS) if letters else ("",):
        try:
            if _has(_open(name, 16), letters):
                return name
        except OSError:  # is not installed
            continue
    return None


def _has(letters_of: ImageFont.FreeTypeFont, letters: frozenset[str]) -> bool:
    missing = bytes(letters_of.getmask(_NO_LETTER))
    return all(bytes(letters_of.getmask(letter)) != missing for letter in letters)


@functools.cache
def _tell_of_missing_letters() -> None:
    log.warning("pictures: no font of this machine has all letters of the names, so some are drawn as boxes; for "
                "Chinese install one, such as the package fonts-noto-cjk.")


def write_picture(image: Image.Image, path: str | Path) -> None:
    """Write a picture as PNG.

    Raises:
        UserError: if it cannot be written, or the name is that of another format.
    """
    if Path(path).suffix.lower() not in (".png", ""):
        raise UserError(f"'{path}' ends in {Path(path).suffix}, but images are written as PNG; choose a name that "
                        "ends in .png.")
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", optimize=True)
    write_whole(path, encoded.getvalue())
