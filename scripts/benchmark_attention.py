"""Time and memory of one attention layer, SOFT's beside ordinary softmax attention, as a Markdown table.

    python scripts/benchmark_attention.py [--tokens 196,784,3136,12544] [--dim 64] [--heads 2] [--repeats 5]

Each number is a forward and backward pass of one image in a process of its own: the fastest of the repeats, and how far
the largest memory of the process rose above what it had before the first pass. The tokens are a square map; SOFT has 49
landmarks at every size, as in its networks.
"""
import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.context.device import prepare_environment
from soft.src.spec import SPEC

SIDE = 7  # of the landmarks' map


def measure(kind: str, tokens: int, dim: int, heads: int, repeats: int) -> dict[str, float]:
    """Return seconds and mebibytes of one pass, forward and backward.

    Args:
        kind: soft or softmax.
        tokens: the square of a multiple of 7.
        dim: width of the tokens.
        heads: attention heads.
        repeats: passes after the first, which also compiles.
    """
    prepare_environment(SPEC.uses_convolutions)
    import mindspore as ms
    import numpy as np

    from soft.src.softmax_free_transformer import SoftmaxFreeAttention
    from soft.src.softmax_free_vision_transformer import Attention

    ms.set_context(mode=ms.GRAPH_MODE)
    side = math.isqrt(tokens)
    cell = SoftmaxFreeAttention(dim, heads, side // SIDE, 3) if kind == "soft" else Attention(dim, heads)
    rng = np.random.default_rng(0)
    for parameter in cell.get_parameters():
        parameter.set_data(ms.Tensor(rng.normal(0, 0.1, parameter.shape).astype(np.float32)))
    extra = ((side, side),) if kind == "soft" else ()

    class Summed(ms.nn.Cell):
        """Graph mode compiles classes, not lambdas."""

        def __init__(self):
            super().__init__(auto_prefix=False)
            self.layer = cell

        def construct(self, x):
            return self.layer(x, *extra).sum()

    step = ms.value_and_grad(Summed(), 0, ms.ParameterTuple(cell.trainable_params()))
    images = ms.Tensor(rng.normal(size=(1, tokens, dim)).astype(np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        loss, _ = step(images)
        loss.asnumpy()
        seconds.append(time.perf_counter() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds[1:]), "mebibytes": (after - before) / 1024}


def measure_alone(kind: str, tokens: int, dim: int = 64, heads: int = 2, repeats: int = 5) -> dict[str, float] | None:
    """Do the same in a process of its own; ``None`` if that fails, as for want of memory."""
    sizes = {"only": kind, "tokens": tokens, "dim": dim, "heads": heads, "repeats": repeats}
    done = subprocess.run([sys.executable, __file__, *(f"--{key}={value}" for key, value in sizes.items())],
                          capture_output=True, text=True, check=False)
    return None if done.returncode else json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure each size in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="196,784,3136,12544", help="numbers of tokens, squares of multiples of 7")
    parser.add_argument("--dim", type=int, default=64, help="width of the tokens")
    parser.add_argument("--heads", type=int, default=2, help="attention heads")
    parser.add_argument("--repeats", type=int, default=5, help="passes after the first")
    parser.add_argument("--only", default="", help="soft or softmax: measure one, print JSON")
    options = parser.parse_args()
    sizes = [int(text) for text in options.tokens.split(",")]
    wrong = [size for size in sizes if size < 1 or math.isqrt(size) ** 2 != size or math.isqrt(size) % SIDE]
    if wrong:
        parser.error(f"--tokens: {wrong} are not squares of multiples of {SIDE}")
    if options.only:
        print(json.dumps(measure(options.only, sizes[0], options.dim, options.heads, options.repeats)))
        return
    print("| tokens | SOFT, time | SOFT, memory | softmax, time | softmax, memory |\n|---|---|---|---|---|")
    for size in sizes:
        cells = []
        for kind in ("soft", "softmax"):
            found = measure_alone(kind, size, options.dim, options.heads, options.repeats)
            cells += [f"{found['seconds'] * 1000:.1f} ms", f"{found['mebibytes']:.0f} MiB"] if found else ["failed", ""]
        print(f"| {size:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
