"""JPEG files decoded by OpenCV: less than half of PIL's time, smaller where a crop will be reduced anyway, and no
further down than the crop reaches.

Whatever is not an ordinary JPEG (turned by EXIF, CMYK, broken, another format) is left to PIL. Imports no MindSpore.
"""
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from common.dataset.images import Reading, check_pixels, is_turned, load_image

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that begin a frame: SOF0 .. SOF15
_SCAN, _RESTARTS, _APP1, _APP2 = 0xDA, 0xDD, 0xE1, 0xE2
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_SEVERAL_PICTURES = b"MPF\0"  # in an APP2 segment: other pictures follow the first
_BLOCK = 8  # pixels
_REDUCED = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}


@dataclass(frozen=True)
class Header:
    """What is known of a JPEG before it is decoded.

    Args:
        size: (width, height) of the picture.
        noted: whether the file holds EXIF or XMP data.
        height_at: where the height stands in the file, two bytes.
        unit: rows of pixels that are decoded together; 0: the file has to be decoded as a whole.
    """

    size: tuple[int, int]
    noted: bool
    height_at: int
    unit: int


def _header(data: bytes) -> Header | None:
    """Return the header of a whole JPEG of 8-bit RGB or grey; None: it is something else."""
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    place, size, noted, whole, height_at, unit = 2, None, False, False, 0, 0
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _SCAN:
            if size is None or not min(size):
                return None
            whole = whole or data[place + 4] != data[height_at + 4]  # not all channels: it is one of several scans
            return Header(size, noted, height_at, 0 if whole else unit)
        if marker in _FRAMES:
            channels = data[place + 9]
            if marker not in (*_SEQUENTIAL, _PROGRESSIVE) or data[place + 4] != 8 or channels not in (1, 3):
                return None
            height_at = place + 5
            size = int.from_bytes(data[place + 7:place + 9], "big"), int.from_bytes(data[place + 5:place + 7], "big")
            unit = _BLOCK * max((factors & 0xF for factors in data[place + 11:place + 10 + 3 * channels:3]), default=0)
            whole = whole or marker == _PROGRESSIVE
        noted = noted or marker == _APP1
        whole = whole or marker == _RESTARTS or marker == _APP2 and data.startswith(_SEVERAL_PICTURES, place + 4)
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
    check_pixels(header.size, reading, name)
    if header.noted and reading.exif and is_turned(data):
        return load_image(io.BytesIO(data), reading, name)
    return Jpeg(data, header, name, reading)


class Jpeg:
    """An encoded picture of known size, decoded when its crop is known.

    Args:
        data: the file; it says nothing of being turned, or what it says does not count.
        header: its header.
        name: of the file, for messages.
        reading: for PIL, to which a file goes that OpenCV cannot decode.
    """

    def __init__(self, data: bytes, header: Header, name: str, reading: Reading):
        self.data, self.header, self.name, self.reading = data, header, name, reading
        self.size = header.size
        self._decoded: dict[int, tuple[int, np.ndarray]] = {}  # reduction -> rows of the picture, pixels

    def image(self) -> Image.Image:
        """Return the whole picture.

        Raises:
            UserError: if the file is broken.
        """
        return Image.fromarray(self._pixels(1, self.size[1]))

    def _pixels(self, reduction: int, bottom: int) -> np.ndarray:
        """Return uint8 RGB (H', ceil(W / reduction), 3), in which the rows above ``bottom`` are decoded."""
        rows, pixels = self._decoded.get(reduction, (0, None))
        if rows < bottom:
            rows = bottom if pixels is None else self.size[1]  # a third crop of the same picture finds it whole
            flags = _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(self._upper_part(rows), np.uint8), flags)
            if pixels is None:
                rows = self.size[1]
                pixels = np.asarray(load_image(io.BytesIO(self.data), self.reading, self.name).reduce(reduction))
            elif reduction > 1:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            self._decoded[reduction] = rows, pixels
        return pixels

    def _upper_part(self, rows: int) -> bytes:
        """Return a file whose first ``rows`` are those of the picture, and of which few more are decoded.

        Its header tells of fewer rows, so that a decoder stops early: most of its work is to undo the Huffman code,
        which is one chain of bits through the whole file. Without a last marker it does not miss the rest. A row more
        is needed, and one for each two of colour, to interpolate the colours.
        """
        unit, place = self.header.unit, self.header.height_at
        if unit:
            rows = -(-(rows + 2) // unit) * unit
        if not unit or rows >= self.size[1]:
            return self.data
        return b"".join((self.data[:place], rows.to_bytes(2, "big"), self.data[place + 2:-len(_END)]))

    def crop(self, box: tuple[int, ...], size: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """Decode down to the end of a box; a large picture reduced by 2, 4 or 8, as long as it keeps twice ``size``.

        Returns:
            Pixels uint8 RGB, and the box in them, to the nearest of the reduced pixels: a quarter of a pixel of the
            result at most.

        Raises:
            UserError: if the file is broken.
        """
        room = max(1, min(box[2] - box[0], box[3] - box[1]) // (2 * size))
        reduction = next(factor for factor in sorted(_REDUCED, reverse=True) if factor <= room)
        place = tuple(round(edge / reduction) for edge in box)
        return self._pixels(reduction, min(self.size[1], place[3] * reduction)), place
