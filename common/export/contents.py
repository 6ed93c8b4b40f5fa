"""What is put around a network when it is exported: normalisation in front, softmax behind."""
from dataclasses import dataclass
from typing import Any, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.errors import UserError

Shape = tuple[int | None, ...]
Inputs = Sequence[tuple[str, Shape, str]]  # name, shape with None for any number of images, type
OUTPUTS = {"classifier": ("logits",), "encoder": ("features",), "reconstruction": ("reconstruction", "mask")}


@dataclass(frozen=True)
class Contents:
    """What is inside an exported file.

    Attributes:
        part: classifier, encoder or reconstruction.
        normalization: the file takes pixels, uint8 0..255, and normalises them itself.
        softmax: the file gives probabilities instead of logits.
        more_inputs: name and shape, without the batch, of inputs beside the images; float32 in [0, 1).
    """

    part: str = "classifier"
    normalization: bool = False
    softmax: bool = False
    more_inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self):
        """Check that probabilities come from a classifier."""
        if self.softmax and self.part != "classifier":
            raise UserError(f"softmax: probabilities come from a classifier, not from part: {self.part}; leave it out.")

    @property
    def image_dtype(self) -> str:
        """The type of the images."""
        return "uint8" if self.normalization else "float32"

    @property
    def output_names(self) -> tuple[str, ...]:
        """One name per output."""
        return ("probability",) if self.softmax else OUTPUTS[self.part]

    def describe(self) -> dict[str, Any]:
        """Return what the description of the file says about it."""
        return {"part": self.part, "normalization": self.normalization, "softmax": self.softmax}


class Normalize(nn.Cell):
    """(v / 255 - mean) / std for each channel.

    Args:
        mean, std: one per channel, for values in 0..1.

    Inputs: pixels, uint8 (B, C, H, W).   Output: float32, the same shape.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.centre = Tensor(np.array(mean).reshape(1, -1, 1, 1) * 255, ms.float32)
        self.scale = Tensor(1 / (np.array(std).reshape(1, -1, 1, 1) * 255), ms.float32)

    def construct(self, pixels):
        return (pixels.astype(ms.float32) - self.centre) * self.scale


class Deployed(nn.Cell):
    """A network with normalisation in front and softmax behind, each if it is wanted.

    Args:
        network: float32 images (B, C, H, W) -> logits or features (B, D); its parameters keep their names.
        mean, std: one per channel; none: the images are normalised already.
        softmax: give probabilities.

    Inputs: images, uint8 with normalisation, else float32, (B, C, H, W).   Output: float32 (B, D).
    """

    def __init__(self, network: nn.Cell, mean: Sequence[float] = (), std: Sequence[float] = (), softmax: bool = False):
        super().__init__(auto_prefix=False)
        self.network, self.softmax = network, softmax
        self.normalize = Normalize(mean, std) if mean else nn.Identity()

    def construct(self, images):
        output = self.network(self.normalize(images))
        return ops.softmax(output, -1) if self.softmax else output
