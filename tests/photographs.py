"""Images with structure, and JPEG files of them."""
import io
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the tag that says how the camera was held


def photograph(width=240, height=180, seed=0):
    """An image with structure at all sizes, as photographs have: noise whose amplitude falls with its frequency."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    spectrum = rng.standard_normal((3, height, width)) / np.maximum(np.hypot(rows, columns), 1 / width)
    planes = np.fft.ifft2(spectrum * np.exp(2j * np.pi * rng.random((height, width)))).real
    planes = 128 + 50 * planes / planes.std()
    return Image.fromarray(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def jpeg(image, **more):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, **more)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def write_photographs(root: Path, count: int, width: int, height: int) -> Path:
    """Write so many JPEG files into two class folders for a training; return the folder of both."""
    for number in range(count):
        file = root / "train" / "ab"[number % 2] / f"{number:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(photograph(width, height, seed=number)))
    return root
