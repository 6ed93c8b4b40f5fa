"""Draw the networks: ``python scripts/draw_architectures.py [MODEL ...]`` writes MODEL/resources/architecture.png.

Sizes come from the variants in MODEL/src/spec.py; shapes from running an image through the network with one block per
stage, since further blocks change no shape.
"""
import importlib
import math
import sys
from pathlib import Path
from typing import Any, Sequence

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

import numpy as np

from common.command import refuse
from common.errors import UserError, nearest
from common.files import ROOT
from scripts.diagram import Arc, Diagram, Row, Step, save

SIDE = 224     # pixels of the images
CLASSES = 1000


class Traced:
    """A network and the shapes of what its cells returned for one image, without the axis of the batch.

    Args:
        spec: the model.
        variant: the variant to build.
        shallow: arguments that reduce its blocks.
        more: further inputs of the network, without the axis of the batch.
    """

    def __init__(self, spec, variant: str, more: Sequence[np.ndarray] = (), **shallow: Any):
        import mindspore as ms

        ms.set_context(mode=ms.PYNATIVE_MODE)
        self.network = spec.build(variant, num_classes=CLASSES, image_size=SIDE, **shallow)
        self.network.set_train(False)
        self.shapes: dict[str, tuple[int, ...]] = {}
        handles = [cell.register_forward_hook(self._remember(name))
                   for name, cell in self.network.cells_and_names() if name]
        images = np.zeros((1, 3, SIDE, SIDE), np.float32)
        self.network(*(ms.Tensor(value) for value in (images, *(array[None] for array in more))))
        for handle in handles:
            handle.remove()

    def _remember(self, name: str):
        def hook(cell, inputs, output):
            if hasattr(output, "shape"):
                self.shapes[name] = tuple(output.shape)[1:]
        return hook

    def tokens(self, name: str) -> str:
        """The shape that a cell returned, as tokens: 196 tokens / width 128."""
        count, width = self.shapes[name]
        return f"{count} tokens\nof width {width}"

    def maps(self, name: str) -> str:
        """The shape that a cell returned, as maps: 64 maps / of 56 x 56."""
        channels, height, width = self.shapes[name]
        return f"{channels} maps\nof {height} x {width}"


def image() -> Step:
    return Step("image", below=f"3 x {SIDE} x {SIDE}")


def head(width: int, what: str) -> tuple[Step, ...]:
    return Step(what, "norm", f"width {width}"), Step("linear", "dense", f"{CLASSES} classes")


def listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def multiple(large: int, small: int) -> str:
    """How many times one width the other is: ``6 D``."""
    return f"{large // small} D" if large > small else "D"


def draw_gmlp(spec) -> Diagram:
    """gMLP: patches, blocks, and the gate inside of a block."""
    variant = "gmlp_ti"
    sizes, traced = spec.variants[variant], Traced(spec, variant, depth=1)
    block = traced.network.blocks[0]
    dim, hidden, gated = (sizes["embed_dim"], block.fc1.out_channels, block.fc2.in_channels)
    positions = block.gate.proj.weight.shape
    whole = Row(f"{spec.display_name(variant)}", (
        image(), Step(f"patches {sizes['patch_size']} x {sizes['patch_size']}\nlinear", "dense", traced.tokens("stem")),
        Step(f"{sizes['depth']} gMLP\nblocks", "block", traced.tokens("blocks")),
        *head(dim, "norm, mean\nof the tokens")))
    inside = Row("a gMLP block: D is the width; u and v are the halves of the channels", (
        Step("norm", "norm"), Step(f"linear\nD to {multiple(hidden, dim)}", "dense"), Step("GELU"),
        Step("v", below=multiple(gated, dim)), Step("norm", "norm"),
        Step(f"over positions\nW: {positions[0]} x {positions[1]}", "dense"), Step("x", below="gate"),
        Step(f"linear\n{multiple(gated, dim)} to D", "dense"), Step("+")),
        (Arc(0, 8, level=1), Arc(3, 6, f"u, {multiple(gated, dim)}")))
    table = (("variant", "width D", "blocks", "inside of a block", "drop path"), *(
        (name, str(size["embed_dim"]), str(size["depth"]), str(size["embed_dim"] * size["mlp_ratio"]),
         f"{size['drop_path_rate']:g}") for name, size in spec.variants.items()))
    return Diagram("gMLP", (whole, inside), table)


def draw_convmlp(spec) -> Diagram:
    """ConvMLP: tokenizer, a stage of convolutions, three stages of ConvMLP blocks."""
    variant = "convmlp_s"
    sizes = spec.variants[variant]
    traced = Traced(spec, variant, n_conv_blocks=1, depths=(1,) * len(sizes["depths"]))
    network, stages = traced.network, []
    for i, depth in enumerate(sizes["depths"]):
        height, width, channels = traced.shapes[f"stages.{i}.blocks"]
        stages.append(Step(f"{depth} ConvMLP\nblocks", "block", f"{channels} maps\nof {height} x {width}"))
    between = network.conv_stages.downsample
    whole = Row(f"{variant}; a {kernel(between)} convolution of stride {between.stride[0]} leads from stage to stage", (
        image(), Step("tokenizer\nconvolutions", "conv", traced.maps("tokenizer")),
        Step(f"{sizes['n_conv_blocks']} convolution\nblocks", "conv", traced.maps("conv_stages.conv_blocks.0")),
        *stages, *head(sizes["dims"][-1], "norm, mean\nof the map")))
    tokenizer = network.tokenizer.block
    convolutions = [Step(f"{kernel(cell)}\nstride {cell.stride[0]}", "conv",
                         traced.maps(f"tokenizer.block.{i}")) for i, cell in enumerate(tokenizer)
                    if hasattr(cell, "kernel_size")]
    steps = Row("tokenizer: BatchNorm and ReLU after each convolution", (
        *convolutions, Step(f"max-pool {network.tokenizer.pool.kernel_size} x {network.tokenizer.pool.kernel_size}\n"
                            f"stride {network.tokenizer.pool.stride}", below=traced.maps("tokenizer.pool"))))
    bottleneck = Row("a convolution block: BatchNorm and ReLU after each convolution", (*(
        Step(f"{kernel(cell)}\n{cell.in_channels} to {cell.out_channels}", "conv")
        for cell in network.conv_stages.conv_blocks[0] if hasattr(cell, "kernel_size")), Step("+")), (Arc(0, 3),))
    block = network.stages[0].blocks[0]
    ratio = multiple(block.channel_mlp1.fc1.out_channels, sizes["dims"][0])
    mlp = (Step("norm", "norm"), Step(f"linear\nD to {ratio}", "dense"), Step("GELU"),
           Step(f"linear\n{ratio} to D", "dense"), Step("+"))
    inside = Row("a ConvMLP block: nothing leads around the convolution in the middle", (
        *mlp, Step("norm", "norm"), Step(f"depthwise\n{kernel(block.connect)}", "conv"), *mlp),
        (Arc(0, 4), Arc(7, 11)))
    table = (("variant", "maps before the stages", "convolution blocks", "widths D", "blocks", "inside of an MLP"), *(
        (name, str(size["channels"]), str(size["n_conv_blocks"]), listed(size["dims"]), listed(size["depths"]),
         f"{size['mlp_ratio']} D") for name, size in spec.variants.items()))
    return Diagram("ConvMLP", (whole, steps, bottleneck, inside), table)


def kernel(cell) -> str:
    """The size of a convolution: 3 x 3."""
    return f"{cell.kernel_size[0]} x {cell.kernel_size[1]}"


def draw_soft(spec) -> Diagram:
    """SOFT: three stages of softmax-free blocks, one of ordinary ones, and the attention inside of the former."""
    from soft.src.softmax_free_transformer import RIDGE
    from soft.src.softmax_free_vision_transformer import KERNEL_SIZES, RATIOS

    variant = "soft_tiny"
    sizes = spec.variants[variant]
    traced = Traced(spec, variant, depths=(1,) * len(sizes["depths"]))
    landmarks = [math.prod(traced.shapes[f"block{i + 1}.0.attn.landmark"][1:]) for i in range(len(RATIOS))]
    block = traced.network.block1[0]
    ratio = multiple(block.fc1.out_channels, sizes["dims"][0])
    stages = [Step(f"{depth} {'SOFT' if i < len(RATIOS) else 'attention'}\nblock{'s'[:depth - 1]}",
                   "block" if i < len(RATIOS) else "attention", traced.tokens(f"block{i + 1}.0")
                   + (f"\nr = {RATIOS[i]}, k = {KERNEL_SIZES[i]}" if i < len(RATIOS) else "\nwith a class token"))
              for i, depth in enumerate(sizes["depths"])]
    stem = [cell for cell in traced.network.patch_embed1.proj if hasattr(cell, "kernel_size")]
    between = traced.network.patch_embed2.proj[0]
    whole = Row(f"{variant}; a {kernel(between)} convolution of stride {between.stride[0]} leads from stage to stage, "
                "and positions are added before each", (
        image(), Step(f"{len(stem)} convolutions\n{kernel(stem[0])}", "conv", traced.maps("patch_embed1")), *stages,
        *head(sizes["dims"][-1], "norm of the\nclass token")))
    inside = Row("a SOFT block", (
        Step("softmax-free\nattention", "attention"), Step("+"), Step("norm", "norm"),
        Step(f"linear\nD to {ratio}", "dense"), Step("GELU"), Step(f"linear\n{ratio} to D", "dense"), Step("+"),
        Step("norm", "norm")), (Arc(0, 1), Arc(3, 6)))
    attention = Row(f"softmax-free attention; the three stages have {listed(landmarks)} landmarks", (
        Step("query q\nlinear", "dense"), Step("landmarks l: r x r\nconvolution, norm, GELU", "conv"),
        Step("kernels of q and l: K\nof l and l: A", "attention"),
        Step(f"(A + {RIDGE} I) inverted\n{block.attn.inverse.iterations} steps of Newton", "attention"),
        Step("K times that times\nK transposed times v", "attention"), Step("+"), Step("linear", "dense")),
        (Arc(1, 2, "q"), Arc(0, 5, "value v: linear, then a depthwise convolution k x k", level=1)))
    table = (("variant", "widths D", "heads", "blocks"), *(
        (f"{name}, {name.replace('soft', 'soft_norm')}", listed(size["dims"]), listed(size["num_heads"]),
         listed(size["depths"])) for name, size in spec.variants.items() if not size["normalised"]))
    return Diagram("SOFT", (whole, inside, attention), table)


def draw_mae(spec) -> Diagram:
    """MAE: pre-training, the classifier that follows, and their block."""
    variant, classifier = "mae_vit_base_patch16", "vit_base_patch16"
    sizes, patch = spec.variants[variant], spec.variants[variant]["patch_size"]
    noise = np.linspace(0, 1, (SIDE // patch) ** 2, endpoint=False, dtype=np.float32)
    traced = Traced(spec, variant, [noise], depth=1, decoder_depth=1)
    network = traced.network
    patches = Step(f"patches\n{patch} x {patch}, linear", "dense", traced.tokens("patch_embed"))
    values = traced.shapes["decoder_pred"][1]
    pretraining = Row(f"pre-training: {variant}; positions are added before the blocks of encoder and decoder", (
        image(), patches, Step(f"{1 - network.kept / len(noise):.0%}\nremoved",
                               below=f"{network.kept} tokens\nof width {sizes['embed_dim']}"),
        Step(f"class token\n{sizes['depth']} blocks, norm", "block", traced.tokens("norm")),
        Step("linear\nmask tokens", "dense", f"{traced.shapes['decoder_blocks'][0]} tokens\n"
             f"of width {sizes['decoder_embed_dim']}"),
        Step(f"{sizes['decoder_depth']} blocks\nnorm", "block", traced.tokens("decoder_norm")),
        Step("linear", "dense", f"{len(noise)} patches\nof {values} values")))
    seen = Traced(spec, classifier, depth=1)
    classification = Row(f"classification: {classifier}", (
        image(), patches, Step(f"class token, positions\n{sizes['depth']} blocks", "block", seen.tokens("blocks")),
        *head(sizes["embed_dim"], "mean of the\npatches, norm")))
    ratio = multiple(network.blocks[0].mlp.fc1.out_channels, sizes["embed_dim"])
    inside = Row("a block: D is the width", (
        Step("norm", "norm"), Step("attention\nof all tokens", "attention"), Step("+"), Step("norm", "norm"),
        Step(f"linear\nD to {ratio}", "dense"), Step("GELU"), Step(f"linear\n{ratio} to D", "dense"), Step("+")),
        (Arc(0, 2), Arc(3, 7)))
    table = (("size", "patch", "width D", "blocks", "heads", "decoder: width", "blocks", "heads"), *(
        (name.removeprefix("mae_vit_"), str(size["patch_size"]), *(
            str(size[prefix + key]) for prefix in ("", "decoder_") for key in ("embed_dim", "depth", "num_heads")))
        for name, size in spec.variants.items() if size["masked"]))
    return Diagram("MAE", (pretraining, classification, inside), table)


def draw_hlg(spec) -> Diagram:
    """HLG: the model zoo's network and the authors', and what is inside of the blocks of their first three stages."""
    from hlg.src.cells import SIDE as SIDE_OF_GROUPS

    zoo, official = "hlg_mobile", "hlg_tiny_avgpool"
    whole, inside = [], []
    for variant in (zoo, official):
        sizes = spec.variants[variant]
        traced = Traced(spec, variant, depths=(1,) * len(sizes["depths"]))
        separator = "_" if variant == zoo else "."
        stages = []
        for i, depth in enumerate(sizes["depths"], start=1):
            name, last = f"block{i}{separator}0", i == len(sizes["depths"])
            tokens, _ = traced.shapes[name]
            groups = f"with{'' if tokens % SIDE_OF_GROUPS ** 2 else 'out'} a class token" if last else (
                f"{tokens // SIDE_OF_GROUPS ** 2} groups")
            stages.append(Step(f"{depth} {'attention' if last else 'local-global'}\nblocks",
                               "attention" if last else "block", f"{traced.tokens(name)}\n{groups}"))
        stem = traced.network.patch_embed1 if variant == zoo else traced.network.s0_conv
        convolutions = [cell for _, cell in stem.cells_and_names() if hasattr(cell, "kernel_size")]
        between = ("a convolution leads from stage to stage, and positions are added before each" if variant == zoo else
                   "the first block of each stage halves the map")
        whole.append(Row(f"{variant}; {between}", (
            image(), Step(f"{len(convolutions)} convolutions\n{kernel(convolutions[0])}", "conv",
                          traced.maps("patch_embed1" if variant == zoo else "s0_conv")), *stages,
            *head(sizes["dims"][-1], "norm of the\nclass token" if variant == zoo else "norm, mean\nof the tokens"))))
    plus, norm = Step("+"), Step("norm", "norm")
    smoothing = (Step("smoothing\nconvolutions", "conv"), plus, Step("GELU"),
                 Step(f"groups of\n{SIDE_OF_GROUPS ** 2} tokens"))
    inside.append(Row(f"a local-global block of {zoo}; both attentions have the same weights", (
        *smoothing, norm, Step("attention\nin groups", "attention"), plus, norm,
        Step("to the mean\nof each group", "attention"), plus, norm, Step("MLP", "dense"), plus),
        (Arc(0, 1), Arc(4, 6), Arc(7, 9), Arc(10, 12))))
    inside.append(Row(f"a local-global block of {official}; both attentions have a bias that depends on distances", (
        Step("MLP with a\nconvolution", "conv"), norm, plus, *smoothing, norm,
        Step("attention\nin groups", "attention"), plus, Step("to one token\nper group", "attention"), plus),
        (Arc(0, 2), Arc(3, 4), Arc(7, 9), Arc(10, 11))))
    table = (("variant", "widths D", "heads", "blocks"), *(
        (name, listed(size["dims"]), listed(size["num_heads"]), listed(size["depths"]))
        for name, size in spec.variants.items()))
    return Diagram("HLG", (whole[0], inside[0], whole[1], inside[1]), table)


DRAWINGS = {"gmlp": draw_gmlp, "convmlp": draw_convmlp, "soft": draw_soft, "hlg": draw_hlg, "mae": draw_mae}


def diagram(model: str) -> Diagram:
    """Return the drawing of a model.

    Raises:
        UserError: if there is none.
    """
    if model not in DRAWINGS:
        raise UserError(f"model '{model}' has no drawing; there are {', '.join(DRAWINGS)}.{nearest(model, DRAWINGS)}")
    return DRAWINGS[model](importlib.import_module(f"{model}.src.spec").SPEC)


def main(argv: Sequence[str]) -> int:
    """Draw the named models, or all; returns the exit code."""
    import mindspore as ms

    ms.set_device("CPU")
    try:
        for model in argv or DRAWINGS:
            path = ROOT / model / "resources" / "architecture.png"
            drawn = diagram(model)
            path.parent.mkdir(exist_ok=True)
            save(drawn, path)
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    except UserError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
