"""Names of MAE's and ViT's tensors in other people's files. Imports without MindSpore."""
import math
import re
from typing import Any, Mapping

import numpy as np

from common.checkpoint.names import count, norms_to_ours, norms_to_theirs, whole

NORM = re.compile(r"(^|\.)(fc_|decoder_)?norm[12]?$|^head\.0$")  # the last is the linear probe's BatchNorm

# what a classifier may find in a checkpoint and not need: decoder, the other pooling's norm, a head for other classes
NOT_NEEDED = re.compile(r"(decoder_|mask_token$|norm\.|fc_norm\.|head\.)")


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours; names of neither are kept."""
    return norms_to_ours(tensors, NORM)


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to those of the authors."""
    return norms_to_theirs(tensors, NORM)


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor arguments that a set of weights, under the authors' names or ours, was made for.

    The heads cannot be seen in the shapes. Weights of an encoder alone are those of a ViT without a head.

    Returns:
        An empty dict if the tensors are not those of a ViT or a masked autoencoder for square images.
    """
    ours = convert(tensors)
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight")
    if any(name not in ours for name in needed):
        return {}
    patches, positions, fc1 = (ours[name] for name in needed[:3])
    side = math.isqrt(positions.shape[1] - 1)
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or side * side != positions.shape[1] - 1:
        return {}
    embed_dim, in_channels, patch_size, _ = patches.shape
    found = {"masked": "decoder_pred.weight" in ours, "image_size": side * patch_size, "in_channels": in_channels,
             "patch_size": patch_size, "embed_dim": embed_dim, "depth": count(ours, r"blocks\.(\d+)\."),
             "mlp_ratio": whole(len(fc1) / embed_dim)}
    if found["masked"]:
        return found | {"decoder_embed_dim": len(ours["decoder_embed.weight"]),
                        "decoder_depth": count(ours, r"decoder_blocks\.(\d+)\.")}
    head = next((ours[name] for name in ("head.weight", "head.1.weight") if name in ours), ())
    return found | {"num_classes": len(head), "global_pool": "fc_norm.gamma" in ours,
                    "batchnorm_head": "head.1.weight" in ours}


def fit(tensors: Mapping[str, np.ndarray], network: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Fit weights to a network that is trained further: those of a pre-training, or of a training on other data.

    A classifier leaves out the decoder and what its pooling does not use, gets the position table resized, and a new
    head if there is none for its classes. A masked autoencoder takes the weights of another one as they are.

    Args:
        tensors: by our names.
        network: a ``VisionTransformer`` or a ``MaskedAutoencoder``.

    Returns:
        The tensors, and the names of the parameters that keep initial values. A new head has got its own.
    """
    parameters = {p.name: tuple(p.shape) for p in network.get_parameters()}
    if "decoder_pred.weight" in parameters:
        return dict(tensors), []
    from mae.src.pos_embed import resize_table
    from mae.src.vit import new_head

    fitted = {name: value for name, value in tensors.items() if name in parameters or not NOT_NEEDED.match(name)}
    if "pos_embed" in fitted and fitted["pos_embed"].shape[1] != parameters["pos_embed"][1]:
        fitted["pos_embed"] = resize_table(fitted["pos_embed"], network.patch_embed.grid)
    new = [name for name in parameters if name.startswith(("norm.", "fc_norm.")) and name not in fitted]
    head = [name for name in parameters if name.startswith("head.")]
    if any(name not in fitted or fitted[name].shape != parameters[name] for name in head):
        fitted = {name: value for name, value in fitted.items() if name not in head}
        new += new_head(network)
    return fitted, new
