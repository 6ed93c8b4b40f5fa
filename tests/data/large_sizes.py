"""Writes large_sizes.json: what the sizes without a golden file compute in PyTorch with one block in every stage.

    python -m venv /tmp/timm && /tmp/timm/bin/pip install -r requirements.txt timm    # there: torch 2.15, timm 1.0.31
    PYTHONPATH=.:tests /tmp/timm/bin/python tests/data/large_sizes.py

The networks are timm's and the plain forms in scripts, which tests hold to the authors' numbers; tensors, images and
noise follow from ``golden_rule``. The sizes stand here a second time, as the authors' code has them, so that a slip in
a SPEC shows.
"""
import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from golden_rule import fill, image, noise

from scripts.convmlp_torch import ConvMLP
from scripts.hlg_torch import OfficialHLG
from scripts.mae_torch import MaskedAutoencoder
from scripts.soft_torch import SOFT

BATCH, CLASSES = 1, 10
COMMON = {"num_classes": CLASSES, "in_channels": 3, "drop_path_rate": 0.0}


def of_timm(name: str, size: int) -> tuple[torch.nn.Module, int]:
    """Return one of timm's networks for images of ``size`` pixels."""
    with torch.device("meta"):  # most of it is not needed
        network = timm.create_model(name, num_classes=CLASSES, img_size=size)
    network.blocks = network.blocks[:1]
    return network.to_empty(device="cpu"), size


def convmlp(channels: int, dims: tuple[int, ...], ratio: float) -> tuple[torch.nn.Module, int]:
    """Return a ConvMLP."""
    return ConvMLP(channels=channels, n_conv_blocks=1, dims=dims, depths=(1, 1, 1), mlp_ratio=ratio, **COMMON), 64


def soft(dims: tuple[int, ...], heads: tuple[int, ...]) -> tuple[torch.nn.Module, int]:
    """Return a SOFT."""
    return SOFT(dims=dims, num_heads=heads, depths=(1, 1, 1, 1), **COMMON), 224


def hlg(dims: tuple[int, ...], heads: tuple[int, ...]) -> tuple[torch.nn.Module, int]:
    """Return one of the authors' HLG."""
    return OfficialHLG(image_size=224, dims=dims, num_heads=heads, depths=(1, 1, 1, 1), **COMMON), 224


def mae(patch: int, dim: int, heads: int) -> tuple[torch.nn.Module, int]:
    """Return a masked autoencoder for 4 x 4 patches."""
    return MaskedAutoencoder(4 * patch, 3, patch, dim, 1, heads, 4, 512, 1, 16), 4 * patch


NETWORKS = {
    "gmlp_b": lambda: of_timm("gmlp_b16_224", 64),
    "convmlp_m": lambda: convmlp(64, (128, 256, 512), 3),
    "convmlp_l": lambda: convmlp(96, (192, 384, 768), 3),
    **{f"soft_{name}": lambda: soft((64, 128, 320, 512), (2, 4, 10, 16)) for name in ("small", "small_24m", "large")},
    "soft_medium": lambda: soft((64, 128, 288, 512), (2, 4, 9, 16)),
    "soft_huge": lambda: soft((64, 128, 352, 512), (2, 4, 11, 16)),
    **{f"hlg_{name}_avgpool": lambda: hlg((96, 192, 384, 768), (3, 6, 12, 24)) for name in ("small", "medium")},
    "hlg_large_avgpool": lambda: hlg((128, 256, 512, 1024), (4, 8, 16, 32)),
    "vit_large_patch16": lambda: of_timm("vit_large_patch16_224", 64),
    "vit_huge_patch14": lambda: of_timm("vit_huge_patch14_224", 56),
    "mae_vit_large_patch16": lambda: mae(16, 1024, 16),
    "mae_vit_huge_patch14": lambda: mae(14, 1280, 16),
}


def outputs(network: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """Return logits (B, 10), or of a masked autoencoder the first 8 values of every fifth patch, (B, 4, 8)."""
    if not hasattr(network, "decoder_pred"):
        return network(images).numpy()
    found = []
    network.decoder_pred.register_forward_hook(lambda layer, inputs, output: found.append(output))
    network(images, torch.from_numpy(noise(BATCH, network.noise_length)).to(images.dtype))
    return found[0][:, 1::5, :8].numpy()


def entry(name: str) -> dict[str, Any]:
    """Return what is stored of a variant: image size, number of trained parameters, outputs, and their error."""
    network, size = NETWORKS[name]()
    network.load_state_dict({key: torch.from_numpy(fill(key, value.shape)) for key, value in
                             network.state_dict().items()})
    network.eval()
    images = torch.from_numpy(image(BATCH, size))
    with torch.inference_mode():
        single = outputs(network, images)
        double = outputs(network.double(), images.double())
    return {"image_size": size, "parameters": sum(p.numel() for p in network.parameters()),
            "float32_error": float(f"{np.abs(single - double).max():.1e}"),
            "outputs": [float(f"{value:.9g}") for value in double.ravel()]}


if __name__ == "__main__":
    Path(__file__).with_suffix(".json").write_text(
        "{\n" + ",\n".join(f'"{name}": {json.dumps(entry(name))}' for name in NETWORKS) + "\n}\n")
