"""Makes the files of this folder: what the training programs of the models' authors write, at a size of a few kB.

    pip install torch timm yacs        # the files here: torch 2.15.0, timm 1.0.31, yacs 0.1.8
    PYTHONPATH=tests python tests/data/torch/make_files.py tests/data/torch

Every file holds timm's gMLP with the sizes below and the values of ``golden_rule.fill``, averages being half of them,
in the wrapper of one training program; or tensors of a kind that is not read.
"""
import argparse
import sys
from pathlib import Path

import torch
from timm.layers import GatedMlp
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock
from yacs.config import CfgNode

from golden_rule import fill

FOLDER = Path(sys.argv[1])
network = MlpMixer(num_classes=3, img_size=8, in_chans=1, patch_size=4, embed_dim=8, num_blocks=1, mlp_ratio=2,
                   block_layer=SpatialGatingBlock, mlp_layer=GatedMlp)
optimizer = torch.optim.AdamW(network.head.parameters(), lr=1e-3)
network(torch.zeros(2, 1, 8, 8)).sum().backward()  # the optimizer has no state before its first step
optimizer.step()
weights = {name: torch.from_numpy(fill(name, value.shape)) for name, value in network.state_dict().items()}
average = {name: value / 2 for name, value in weights.items()}
options = argparse.Namespace(model="gmlp", lr=1e-3, opt_betas=None, output_dir="out", mean=(0.5,),
                             device=torch.device("cpu"))
decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7])


def save(name, content, **more):
    """Write a file."""
    torch.save(content, FOLDER / name, **more)


def distributed(tensors):
    """The names that a network has inside of DistributedDataParallel."""
    return {f"module.{name}": value for name, value in tensors.items()}


# timm, train.py (gMLP, ConvMLP): the average carries the prefix where the network did when it was copied
save("timm.pth", {"epoch": 3, "arch": "gmlp", "state_dict": weights, "optimizer": optimizer.state_dict(), "version": 2,
                  "args": options, "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
                  "state_dict_ema": distributed(average), "metric": 76.5})
# MAE, util/misc.py, whose scaler is empty on a CPU
save("mae.pth", {"model": weights, "optimizer": optimizer.state_dict(), "epoch": 3, "scaler": {}, "args": options})
# DeiT, main.py (SOFT): with an average of the same names
save("deit.pth", {"model": weights, "optimizer": optimizer.state_dict(), "lr_scheduler": decay.state_dict(), "epoch": 3,
                  "model_ema": average, "scaler": {}, "args": options})
# Swin, utils.py (HLG): its options are a CfgNode
save("swin.pth", {"model": weights, "optimizer": optimizer.state_dict(), "lr_scheduler": decay.state_dict(),
                  "max_accuracy": 76.5, "epoch": 3, "config": CfgNode({"MODEL": {"NAME": "hlg", "DROP_PATH": 0.2}})})
# weights alone, in the types of mixed precision, and as PyTorch wrote them before 1.6
save("half.pth", {name: value.half() for name, value in weights.items()})
save("bfloat16.pth", {name: value.bfloat16() for name, value in weights.items()})
save("legacy.pth", distributed({name: torch.nn.Parameter(value.t().contiguous().t() if value.ndim == 2 else value)
                                for name, value in weights.items()}), _use_new_zipfile_serialization=False)
# not read
one = torch.ones(2, 2)
save("float8.pth", {"w": one.to(torch.float8_e4m3fn)})
save("quantized.pth", {"w": torch.quantize_per_tensor(one, 0.1, 0, torch.qint8)})
save("meta.pth", {"w": one.to("meta")})
save("sparse.pth", {"w": one.to_sparse()})
itself = {"w": one}
itself["state_dict"] = itself
save("itself.pth", itself)
