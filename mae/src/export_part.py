"""What mae/export.py offers beside the classifier: the encoder as a feature extractor, and the reconstruction."""
from typing import Sequence

import mindspore as ms
from mindspore import nn, ops

from common.augment.pipeline import statistics
from common.checkpoint.file import load_checkpoint
from common.checkpoint.weights import load_into, network_tensors
from common.config.load import network_arguments
from common.config.options import Config
from common.errors import UserError
from common.export.contents import Contents, Normalize
from common.layers.precision import apply_precision
from common.network import load_network
from common.spec import ModelSpec
from mae.src.mae_vit import VARIANCE_EPS, MaskedAutoencoder, shuffled

_ENCODER_KEYS = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps")


def export_part(config: Config, spec: ModelSpec) -> tuple[nn.Cell, Contents] | None:
    """Build what ``config.part`` names, with the weights of ``config.ckpt_path``, in evaluation mode.

    Returns:
        The network and what it takes; ``None`` for the classifier.

    Raises:
        UserError: if the checkpoint holds no such part.
    """
    masked = spec.variants[config.model]["masked"]
    if config.part == "classifier":
        if masked:
            raise UserError(f"part: classifier is not in {config.model}, a masked autoencoder; give --part encoder or "
                            "--part reconstruction, or a checkpoint of finetune.py.")
        return None
    contents = Contents(config.part, config.with_preprocess, config.softmax)
    if config.part == "encoder":
        return encoder(config, spec), contents
    if not masked:
        raise UserError(f"part: reconstruction needs the decoder, which {config.model} has not; give a checkpoint of "
                        "pretrain.py (with weights of other programs also --model mae_vit_...).")
    network, _, _ = load_network(config, spec)
    mean, std = statistics(config)
    more = (("noise", (network.noise_length,)),)
    return (Reconstruction(network, *((mean, std) if config.with_preprocess else ((), ()))),
            Contents(config.part, config.with_preprocess, config.softmax, more))


def encoder(config: Config, spec: ModelSpec) -> nn.Cell:
    """Build the encoder of a masked autoencoder, or of a classifier without its head: images -> features (N, D).

    The features are what a classifier's head would get: the class token behind the last norm where the checkpoint has
    that norm, as after pre-training; the normalised mean of the patches where it has ``fc_norm``, as after fine-tuning.
    """
    if not config.ckpt_path:
        raise UserError("ckpt_path: name the checkpoint to use (--ckpt_path FILE.ckpt).")
    tensors, meta = load_checkpoint(config.ckpt_path)
    if meta.get("family", spec.name) != spec.name:
        raise UserError(f"the checkpoint holds {meta.get('model')} (a {meta['family']} model), which has no encoder of "
                        f"{spec.name}; give another checkpoint.")
    weights = network_tensors(tensors, ema=meta.get("config", {}).get("ema", config.ema))
    chosen = {key: value for key, value in network_arguments(config).items() if key in _ENCODER_KEYS}
    pooled = config.global_pool if config.global_pool is not None else "fc_norm.gamma" in weights
    network = spec.build(config.model.removeprefix("mae_"), num_classes=0, image_size=config.image_size,
                         in_channels=config.in_channels, global_pool=pooled, **chosen)
    fitted, new = spec.fit(weights, network)
    if new:
        raise UserError(f"global_pool: {str(pooled).lower()} needs {', '.join(new)}, which {config.ckpt_path} does not "
                        "hold; leave the key out.")
    load_into(network, fitted, config.ckpt_path)
    return apply_precision(network, config.amp_level).set_train(False)


class Reconstruction(nn.Cell):
    """A masked autoencoder as an image filter.

    Where the network predicts pixels relative to their patch, the patch's own mean and deviation are put back.

    Args:
        network: the masked autoencoder.
        mean, std: one per channel, for images that come as pixels; none: they come normalised.

    Inputs: images, (B, C, H, W), uint8 pixels or normalised float32; noise, float32 (B, L) in [0, 1), without ties: the
        patches with the smallest values stay visible, so that it also says which.
    Output: reconstruction, float32 (B, C, H, W): of all patches, normalised as the images are, or in 0..1 for pixels;
        mask, float32 (B, 1, H, W): 1 where a patch was removed.
    """

    def __init__(self, network: MaskedAutoencoder, mean: Sequence[float] = (), std: Sequence[float] = ()):
        super().__init__(auto_prefix=False)
        self.network = network
        self.normalize = Normalize(mean, std) if mean else nn.Identity()
        self.scales_back = bool(mean)
        if mean:
            self.mean, self.std = (ms.Tensor(values, ms.float32).reshape(1, -1, 1, 1) for values in (mean, std))

    def construct(self, images, noise):
        network, images = self.network, self.normalize(images)
        ids_shuffle, ids_restore = shuffled(noise)
        pred = network.decode(network.encode(images, ids_shuffle[:, :network.kept]), ids_restore)
        if network.norm_pix_loss:
            patches = network.patchify(images)
            mean = patches.mean(-1, keep_dims=True)
            variance = ops.square(patches - mean).sum(-1, keepdims=True) / (patches.shape[-1] - 1)
            pred = pred * ops.sqrt(variance + VARIANCE_EPS) + mean
        mask = (ids_restore >= network.kept).astype(ms.float32).expand_dims(-1)
        pixels = self.assemble(pred, images.shape[1])
        high, wide = network.patch_embed.patch_size
        removed = self.assemble(ops.tile(mask, (1, 1, high * wide)), 1)
        return (pixels * self.std + self.mean if self.scales_back else pixels), removed

    def assemble(self, patches, channels: int):
        """Put patches (B, L, h * w * channels) together to (B, channels, H, W)."""
        (rows, columns), (high, wide) = self.network.patch_embed.grid, self.network.patch_embed.patch_size
        parts = patches.reshape(-1, rows, columns, high, wide, channels).transpose(0, 5, 1, 3, 2, 4)
        return parts.reshape(-1, channels, rows * high, columns * wide)
