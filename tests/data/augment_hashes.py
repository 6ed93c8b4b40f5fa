"""Writes augment_hashes.json: what timm and torchvision make of fixed images, as hashes of the pixels.

    python -m venv /tmp/timm && /tmp/timm/bin/pip install timm torchvision pillow==12.3.0
    /tmp/timm/bin/python tests/data/augment_hashes.py
"""
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

FILL = (124, 116, 104)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16")
SIZES = ((37, 91), (91, 37), (33, 33), (200, 21), (36, 36), (20, 23))
SIDE, RESIZED = 32, 36


def image() -> Image.Image:
    """Return the image that is augmented: noise that does not use the whole range."""
    return Image.fromarray(np.random.default_rng(0).integers(20, 200, (48, 64, 3), dtype=np.uint8))


def odd_image(mode: str, size: tuple[int, int]) -> Image.Image:
    """Return the image of a mode and size that is prepared for evaluation."""
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 3)
    return Image.fromarray(pixels).convert(mode)


def digest(picture: Any) -> str:
    """Return the first 16 digits of the SHA-256 of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(np.asarray(picture)).tobytes()).hexdigest()[:16]


def main() -> None:
    """Compute all hashes."""
    import timm
    import torchvision
    from timm.data import auto_augment as aa
    from torchvision import transforms
    from torchvision.transforms import autoaugment as tv
    from torchvision.transforms.functional import InterpolationMode

    found = {"versions": {"timm": timm.__version__, "torchvision": torchvision.__version__}}
    uses = {(op.name, op.magnitude) for name in ("v0", "v0r", "original", "originalr", "3a")
            for row in aa.auto_augment_policy(name) for op in row}
    uses |= {(name, level) for increasing in (False, True) for name in aa.rand_augment_choices("", increasing)
             for level in (0, 3.3, 5, 9, 10)}
    table = found["timm"] = {}
    for name, level in sorted(uses):
        for sign in (1, -1):
            for word, resample in FILTERS.items():
                aa.random = SimpleNamespace(random=lambda: 0.1 if sign > 0 else 0.9, choice=lambda some: some[0],
                                            uniform=lambda low, high: (low + high) / 2)
                operation = aa.AugmentOp(name, 1.0, level, {"img_mean": FILL, "interpolation": resample})
                table[f"{name} {level} {sign} {word}"] = digest(operation(image()))
    found["policies"] = {name: [[[op.name, op.prob, op.magnitude] for op in row] for row in aa.auto_augment_policy(name)]
                         for name in ("v0", "v0r", "original", "originalr", "3a")}
    table = found["ta_wide"] = {}
    for name, (values, signed) in tv.TrivialAugmentWide()._augmentation_space(31).items():
        for step in (0, 1, 7, 15, 22, 30) if values.ndim else (0,):
            for sign in (1, -1) if signed else (1,):
                value = sign * float(values[step]) if values.ndim else 0.0
                for word in FILTERS:
                    mode = InterpolationMode.BILINEAR if word == "bilinear" else InterpolationMode.BICUBIC
                    table[f"{name} {step} {sign} {word}"] = digest(tv._apply_op(image(), name, value, mode, [0] * 3))
    weights, share = np.float32([0.2, 0.5, 0.3]), np.float32(0.37)
    equalize = [aa.AugmentOp("Equalize", 1.0, 3, {"img_mean": FILL})]
    found["augmix"] = {"mixture": digest(aa.AugMixAugment(equalize, depth=2)._apply_basic(image(), weights, share)),
                       "operations": [op.name for op in aa.augmix_ops()]}
    table = found["evaluation"] = {}
    for word, resample in FILTERS.items():
        mode = InterpolationMode.BILINEAR if word == "bilinear" else InterpolationMode.BICUBIC
        prepare = transforms.Compose([transforms.Resize(RESIZED, mode), transforms.CenterCrop(SIDE)])
        for kind in MODES:
            for size in SIZES:
                table[f"{kind} {size[0]} {size[1]} {word}"] = digest(prepare(odd_image(kind, size).convert("RGB")))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
