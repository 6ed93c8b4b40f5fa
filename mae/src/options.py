"""The keys that only MAE has. Imports no MindSpore."""
from dataclasses import dataclass

from common.config.options import Config, option

_MASKED = {"section": "model", "tasks": ("pretrain", "visualize", "export")}  # of a masked autoencoder


@dataclass(frozen=True)
class Options(Config):
    """The keys of all models, and MAE's."""

    fused_attention: bool = option(False, "on Ascend in half precision: attention as one operator of the device, which "
                                   "keeps no matrix of all tokens by all tokens; elsewhere the plain form",
                                   section="run")
    decoder_embed_dim: int | None = option(None, "width of the decoder; none: 512", **_MASKED,
                                           aliases=("decoder_dim",), ge=1)
    decoder_depth: int | None = option(None, "blocks of the decoder; none: 8", **_MASKED,
                                       aliases=("decoder_layers",), ge=1, le=1000)
    decoder_num_heads: int | None = option(None, "heads of the decoder; none: 16", **_MASKED, ge=1)
    mask_ratio: float | None = option(None, "share of the patches that is removed; none: 0.75", **_MASKED,
                                      aliases=("masking_ratio",), gt=0, lt=1)
    norm_pix_loss: bool | None = option(None, "predict pixels normalised per patch; none: false", **_MASKED,
                                        aliases=("norm_pixel_loss",))
    global_pool: bool | None = option(None, "mean of the patches instead of the class token; none: true, but false "
                                      "for linprobe",
                                      section="model")
    batchnorm_head: bool | None = option(None, "BatchNorm without scale and shift before the head; none: false, but "
                                         "true for linprobe",
                                         section="model")
    norm_eps: float | None = option(None, "epsilon of LayerNorm; none: the variant's own", section="model", gt=0)
    sample_every: int = option(0, "epochs between two pictures of reconstructions; 0: none", section="saving",
                              tasks=("pretrain",), ge=0)
    cb_size: int = option(1, "no effect, log_interval says how often progress is logged", section="saving",
                          unused=True, ge=1)
    view: str | None = option(None, "what visualize.py draws: reconstruction, or attention and its roll-out; none: "
                              "the former of a masked autoencoder, the latter of a classifier", section="export",
                              tasks=("visualize",), choices=("reconstruction", "attention"))
    part: str = option("classifier", "what is exported: images -> logits, encoder: images -> features, "
                       "reconstruction: images and noise -> pixels and mask", section="export", tasks=("export",),
                       choices=("classifier", "encoder", "reconstruction"))
