"""Tiny networks of every family, and their training and inference graphs, for ``compile_graphs.py``."""
import importlib

import mindspore as ms
import numpy as np
from mindspore import Tensor, amp, nn, ops

from common.layers.drop_path import seed_random_states
from common.layers.fused_attention import fuse_attention
from common.layers.precision import apply_precision
from common.layers.recompute import recompute_blocks
from common.layers.sync_batch_norm import synchronise
from common.loss import CrossEntropy
from common.optimizer.rules import AdamW
from common.train_step import ClassifierLoss, ReconstructionLoss, TrainStep

VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SOFT = {"dims": (32, 32, 32, 32), "num_heads": (1, 1, 1, 1), "depths": (1, 1, 1, 1)}
HLG = {"dims": (16, 32), "num_heads": (2, 4), "depths": (2, 1)}
# family: (package, task, variant, side of the images, arguments)
FAMILIES = {
    "gmlp": ("gmlp", "train", "gmlp_ti", 16, {"patch_size": 4, "embed_dim": 32, "depth": 2}),
    "convmlp": ("convmlp", "train", "convmlp_s", 64, {"channels": 16, "n_conv_blocks": 1, "dims": (16, 32, 64),
                                                      "depths": (1, 1, 1)}),
    "soft": ("soft", "train", "soft_tiny", 64, SOFT),
    "soft_norm": ("soft", "train", "soft_norm_tiny", 64, SOFT),
    "hlg_mobile": ("hlg", "train", "hlg_mobile", 56, HLG | {"mlp_ratio": (2, 2)}),
    "hlg_avgpool": ("hlg", "train", "hlg_tiny_avgpool", 56, HLG),
    "hlg_dwconv": ("hlg", "train", "hlg_tiny_dwconv", 56, HLG),
    "vit": ("mae", "finetune", "vit_base_patch16", 32, VIT),
    "mae": ("mae", "pretrain", "mae_vit_base_patch16", 32, VIT | {"decoder_embed_dim": 32, "decoder_depth": 1,
                                                                  "decoder_num_heads": 2}),
}
BATCH = 4
# of a graph's description: what TrainStep takes
STEP = {"clip": ("clip_norm", 1.0), "ema": ("ema_decay", 0.99), "accumulate": ("accumulation_steps", 2),
        "dynamic": ("dynamic_loss_scale", True), "status": ("all_finite", amp.all_finite)}


class NoSuchKernel(ops.PrimitiveWithInfer):
    """An operator for which no device has a kernel: the control, which must be refused."""

    @ops.prim_attr_register
    def __init__(self):
        self.init_prim_io_names(inputs=["x"], outputs=["y"])

    def infer_shape(self, shape):
        return shape

    def infer_dtype(self, dtype):
        return dtype


class Control(nn.Cell):
    """Has an operator that exists on no device: its only one, or one in the branch that a condition takes."""

    def __init__(self, late: bool):
        super().__init__()
        self.operator = NoSuchKernel()
        self.late = late

    def construct(self, x):
        if not self.late:
            return self.operator(x)
        x = ops.matmul(x, x)
        if x.sum() > 0:
            x = self.operator(x)
        return x


def build(graph: str) -> tuple[nn.Cell, list[Tensor]]:
    """Return the cell and the inputs of a graph: ``FAMILY:train`` or ``FAMILY:predict``, and options after colons.

    Options: a precision level (O2), clip, ema, accumulate, dynamic, sync_bn,
    ranks (the gradients of two are reduced, in three buckets), recompute, fused, status (the device's own overflow).
    """
    if graph.startswith("control"):
        return Control(graph == "control:late"), [Tensor(np.ones((4, 4), np.float32))]
    family, part, *options = graph.split(":")
    network, images, noise = _network(family, options)
    if part == "predict":
        network.set_train(False)
        return network, [images] if noise is None else [images, noise]
    settings = dict(STEP[option] for option in options if option in STEP)
    if "ranks" in options:
        settings |= {"world_size": 2, "allreduce_buckets": 3}
    optimizer = AdamW(network.trainable_params(), [1e-3] * 10)
    loss = ClassifierLoss(network, CrossEntropy(0.1)) if noise is None else ReconstructionLoss(network)
    target = Tensor(np.arange(BATCH), ms.int32) if noise is None else noise
    return TrainStep(loss, network, optimizer, **settings), [images, target]


def _network(family: str, options: list[str]) -> tuple[nn.Cell, Tensor, Tensor | None]:
    """Return the network, images, and the noise of a masked autoencoder."""
    ms.set_seed(1)
    package, task, variant, side, arguments = FAMILIES[family]
    spec = importlib.import_module(f"{package}.src.spec").SPEC.for_task(task)
    if task != "pretrain":
        arguments = arguments | {"num_classes": 10}
    network = spec.build(variant, image_size=side, drop_path_rate=0.0 if task == "pretrain" else 0.1, **arguments)
    if "sync_bn" in options:
        synchronise(network, 2)
    if "recompute" in options:
        recompute_blocks(network)
    if "fused" in options:
        fuse_attention(network)
    apply_precision(network, next((option for option in options if option[:1] == "O" or option == "bf16"), "O0"))
    seed_random_states(network, 1)
    rng = np.random.default_rng(0)
    noise = Tensor(rng.random((BATCH, network.noise_length)), ms.float32) if task == "pretrain" else None
    return network, Tensor(rng.standard_normal((BATCH, 3, side, side)), ms.float32), noise
