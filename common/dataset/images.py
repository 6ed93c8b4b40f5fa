"""Image files: found, opened, and brought to 8-bit RGB. Imports no MindSpore."""
import glob
import io
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Union

import numpy as np
from PIL import ExifTags, Image, ImageOps

from common.config.options import Config
from common.errors import UserError

Picture = Union[str, Path, Image.Image, np.ndarray]


def as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """Return a PIL image or an array as PIL RGB."""
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image must be a path, a PIL image or a NumPy array, not {type(image).__name__}.")
    array = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    fits = array.ndim == 2 or array.ndim == 3 and array.shape[2] in (3, 4)
    if array.dtype not in (np.uint8, np.uint16) or not fits or not array.size:
        raise UserError(f"an image given as an array must be uint8 or uint16 of the shape (height, width, 3), (height, "
                        f"width, 4) or (height, width), not {image.dtype} of {image.shape}; values in 0..1 become "
                        "uint8 with (255 * array).round().astype(np.uint8).")
    return to_rgb(Image.fromarray((array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array))


def expand_images(text: str) -> list[Path]:
    """Return the images that a file, a folder (with the folders in it) or a pattern such as ``'photos/*.jpg'`` names.

    Raises:
        UserError: if there is none.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = path.rglob("*")
    else:
        found = map(Path, glob.glob(str(path), recursive=True))
    images = sorted(file for file in found if file.suffix.lower() in EXTENSIONS and file.is_file()
                    and not file.name.startswith("."))
    if not images:
        reason = "holds no image" if path.is_dir() else "is no file, no folder and no pattern that fits one"
        raise UserError(f"image: '{text}' {reason}; images end in {' '.join(EXTENSIONS)}.")
    return images


EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_of_what = re.compile(r" ('.*'|<_io.BytesIO object at \w+>)$")  # PIL ends a reason with what it was given


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Args:
        exif: turn an image as the camera noted it, and bring 16-bit grey to 8 bits; false: PIL's ``convert("RGB")``
            alone, as the authors' programs read their images.
        max_pixels: an image with more is refused before it takes memory.
    """

    exif: bool = True
    max_pixels: int = 178_956_970  # as PIL; 512 MB as RGB


def reading_of(config: Config) -> Reading:
    """Return how a configuration wants image files to be read."""
    return Reading(config.exif, config.max_image_pixels)


Image.MAX_IMAGE_PIXELS = None  # the limit of PIL could not be raised for one file; ``check_pixels`` has its place


def check_pixels(size: tuple[int, int], reading: Reading, name: str) -> None:
    """Refuse an image of too many pixels.

    Raises:
        UserError: naming the key.
    """
    if size[0] * size[1] > reading.max_pixels:
        raise UserError(f"{name} has {size[0]} x {size[1]} pixels, more than max_image_pixels: {reading.max_pixels}; "
                        "make it smaller, raise the limit, or set on_error: skip.")


def load_image(source: str | os.PathLike | BinaryIO, reading: Reading = Reading(), name: str = "") -> Image.Image:
    """Return an image file as ``to_rgb`` makes it.

    Args:
        source: path, or an open file.
        reading: how it is read.
        name: for messages, where ``source`` is no path.

    Raises:
        UserError: if it is no image, too large, or broken.
    """
    name = name or os.fspath(source)
    try:
        with Image.open(source) as image:
            check_pixels(image.size, reading, name)
            return to_rgb(image) if reading.exif else image.convert("RGB")
    except UserError:
        raise
    except _DECODING_ERRORS as error:
        reason = getattr(error, "strerror", None) or _of_what.sub("", str(error)) or "broken"
        raise UserError(f"{name} is no image that can be read ({reason}); remove it, or set on_error: "
                        "skip.".replace("\n", " ")) from error


def is_turned(data: bytes) -> bool:
    """Whether the camera noted in an image file that it was not held upright."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _orientation(image) != 1
    except _DECODING_ERRORS:
        return False  # whoever decodes it will say what is wrong


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB, upright: turned as the camera noted it in its EXIF data.

    Grey and palette images are converted as PIL does, transparency is dropped. The 65,536 levels of 16-bit grey are
    brought to 256; PIL alone would turn all above 255 into white.
    """
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return how the camera was held: 1 is upright, which is also taken where the EXIF data cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODING_ERRORS:
        return 1
