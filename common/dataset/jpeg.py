"""JPEG files decoded by OpenCV: less than half of PIL's time, and smaller where a crop will be reduced anyway.

Whatever is not an ordinary JPEG (turned by EXIF, CMYK, broken, another format) is left to PIL. Imports no MindSpore.
"""
import io

import cv2
import numpy as np
from PIL import Image

from common.dataset.images import Reading, check_pixels, is_turned, load_image

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that begin a frame: SOF0 .. SOF15
_SCAN, _APP1 = 0xDA, 0xE1
_DECODED_HERE = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_REDUCED = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}


def _header(data: bytes) -> tuple[tuple[int, int], bool] | None:
    """Return (width, height) of a whole JPEG of 8-bit RGB or grey, and whether it holds EXIF or XMP data; else None."""
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    place, size, noted = 2, None, False
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _SCAN:
            return (size, noted) if size and min(size) else None
        if marker in _FRAMES:
            if marker not in _DECODED_HERE or data[place + 4] != 8 or data[place + 9] not in (1, 3):
                return None
            size = int.from_bytes(data[place + 7:place + 9], "big"), int.from_bytes(data[place + 5:place + 7], "big")
        noted = noted or marker == _APP1
        place += 2 + int.from_bytes(data[place + 2:place + 4], "big")
    return None


def open_picture(data: bytes, name: str, reading: Reading = Reading()) -> "Jpeg | Image.Image":
    """Return an image file ready to be cropped: an ordinary JPEG not yet decoded, anything else as PIL reads it.

    Raises:
        UserError: if it is no image, too large, or broken as far as that is known before it is decoded.
    """
    header = _header(data)
    if header is None:
        return load_image(io.BytesIO(data), reading, name)
    size, noted = header
    check_pixels(size, reading, name)
    if noted and reading.exif and is_turned(data):
        return load_image(io.BytesIO(data), reading, name)
    return Jpeg(data, size, name, reading)


class Jpeg:
    """An encoded picture of known size, decoded when its crop is known.

    Args:
        data: the file; it says nothing of being turned, or what it says does not count.
        size: (width, height) of the picture.
        name: of the file, for messages.
        reading: for PIL, to which a file goes that OpenCV cannot decode.
    """

    def __init__(self, data: bytes, size: tuple[int, int], name: str, reading: Reading):
        self.data, self.size, self.name, self.reading = data, size, name, reading
        self._decoded: dict[int, np.ndarray] = {}

    def image(self) -> Image.Image:
        """Return the whole picture.

        Raises:
            UserError: if the file is broken.
        """
        return Image.fromarray(self._pixels(1))

    def _pixels(self, reduction: int) -> np.ndarray:
        """Return uint8 RGB (ceil(H / reduction), ceil(W / reduction), 3)."""
        if reduction not in self._decoded:
            flags = _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(self.data, np.uint8), flags)
            if pixels is None:
                pixels = np.asarray(load_image(io.BytesIO(self.data), self.reading, self.name).reduce(reduction))
            elif reduction > 1:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            self._decoded[reduction] = pixels
        return self._decoded[reduction]

    def crop(self, box: tuple[int, ...], size: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """Decode a large picture reduced by 2, 4 or 8, as long as the box keeps at least twice ``size``.

        Returns:
            Pixels uint8 RGB, and the box in them, to the nearest of the reduced pixels: a quarter of a pixel of the
            result at most.

        Raises:
            UserError: if the file is broken.
        """
        room = max(1, min(box[2] - box[0], box[3] - box[1]) // (2 * size))
        reduction = next(factor for factor in sorted(_REDUCED, reverse=True) if factor <= room)
        return self._pixels(reduction), tuple(round(edge / reduction) for edge in box)
