"""Layout and cost of a training on many devices, from a model that is stated with the numbers. Imports no MindSpore."""
from dataclasses import dataclass

from common.errors import UserError

IMAGES = 1_281_167  # of ImageNet-1K for training
SIZES = (5.9, 13.1, 22.1, 42.7, 86.6, 304.3, 632.0)  # millions of parameters: gMLP-Ti to ViT-Huge
SHOWN_SERVERS = 8


@dataclass(frozen=True)
class Report:
    """A step time that contributors of the original version report, on Ascend 910.

    Attributes:
        model: for people.
        parameters: number of trained values.
        batch_size: images per device and step.
        step_ms: milliseconds of a step, the exchange of gradients included.
        cards: devices of that run.
    """

    model: str
    parameters: int
    batch_size: int
    step_ms: float
    cards: int


REPORTS = (Report("gMLP-Ti", 5_867_328, 128, 333.3, 8),  # 417 s per epoch of 1,251 steps
           Report("SOFT-tiny", 13_069_056, 128, 259.4, 8),
           Report("HLG-mobile", 6_147_657, 128, 373.0, 8),
           Report("MAE, ViT-Base, pre-training", 111_655_680, 64, 481.0, 64),
           Report("ViT-Base, fine-tuning", 86_567_656, 32, 332.0, 32))


def all_reduce_ms(cards: int, parameters: float, cards_per_server: int, link: float, network: float,
                  latency: float) -> float:
    """Return the milliseconds of one all-reduce of float32 gradients over a ring.

    A ring of n devices makes 2 (n - 1) transfers of 1/n of the bytes each; each is as slow as the slowest link of the
    ring, which is the network as soon as there is more than one server (Patarasuk and Yuan 2009, "Bandwidth optimal
    all-reduce algorithms for clusters of workstations").

    Args:
        cards: devices in the ring.
        parameters: number of values.
        cards_per_server: devices in a server.
        link: GB/s between devices of a server.
        network: GB/s between devices of different servers.
        latency: microseconds of a transfer.
    """
    speed = link if cards <= cards_per_server else min(link, network)
    return 2 * (cards - 1) * (parameters * 4 / cards / (speed * 1e6) + latency / 1e3)


def layout(cards: int, cards_per_server: int) -> list[tuple[int, int]]:
    """Return the first and the last rank of each server."""
    return [(first, min(first + cards_per_server, cards) - 1) for first in range(0, cards, cards_per_server)]


def _check_numbers(latency: float, **positive: float) -> None:
    for name, value in positive.items():
        if not value > 0:
            raise UserError(f"--{name}: {value} must be greater than 0.")
    if not latency >= 0:
        raise UserError(f"--latency: {latency} must not be negative.")


def layout_and_costs(cards: int, cards_per_server: int, link: float, network: float, latency: float, step_ms: float,
                     batch_size: int) -> list[str]:
    """Return layout and cost table as lines of text.

    Raises:
        UserError: if one of the numbers is not positive.
    """
    _check_numbers(latency, cards=cards, cards_per_server=cards_per_server, link=link, network=network,
                   step_ms=step_ms, batch_size=batch_size)
    servers = layout(cards, cards_per_server)
    lines = [f"{cards} devices on {len(servers)} servers with up to {cards_per_server} each, one process per device:"]
    lines += [f"  server {number}: ranks {first}-{last}, devices 0-{last - first}"
              for number, (first, last) in enumerate(servers[:SHOWN_SERVERS])]
    if len(servers) > SHOWN_SERVERS:
        first, last = servers[-1]
        lines.append(f"  ... and {len(servers) - SHOWN_SERVERS} more, the last with ranks {first}-{last}")
    lines += ["", "Milliseconds to average the float32 gradients of so many million parameters once, and in brackets",
              "the share of the time in which the devices compute. From a model, not measured: one ring,",
              f"{link:g} GB/s in a server, {network:g} GB/s between servers, {latency:g} us per transfer,",
              f"{step_ms:g} ms of computation per step, no overlap (the worst case). All can be given: --help.", "",
              f"{'devices':>8}{'images/step':>13}" + "".join(f"{f'{size:g} M':>14}" for size in SIZES)]
    counts = sorted({cards} | {2**power for power in range(cards.bit_length()) if 2**power <= cards})
    for count in counts:
        times = [all_reduce_ms(count, size * 1e6, cards_per_server, link, network, latency) for size in SIZES]
        lines.append(f"{count:>8}{count * batch_size:>13,}"
                     + "".join(f"{f'{time:.1f} ({step_ms / (step_ms + time):.0%})':>14}" for time in times))
    return lines


def epoch_costs(cards: int, cards_per_server: int, link: float, network: float, latency: float) -> list[str]:
    """Return a table in Markdown: what an epoch of the models with reported step times costs on 8, 32, ``cards``.

    A step is the reported one, less the all-reduce of that run and plus that of so many devices, both by the model of
    ``all_reduce_ms``. Images that do not fill a step are left out, as ``drop_remainder`` does.

    Raises:
        UserError: if one of the numbers is not positive.
    """
    _check_numbers(latency, cards=cards, cards_per_server=cards_per_server, link=link, network=network)
    lines = ["| model, images per device and step | devices | images per step | steps per epoch | images per epoch | "
             "all-reduce: GB that a device sends per epoch | milliseconds per step (all-reduce) | minutes per epoch |",
             "|---|---|---|---|---|---|---|---|"]
    for report in REPORTS:
        counts = sorted({count for count in (8, 32, cards) if count <= cards})
        waits = {count: all_reduce_ms(count, report.parameters, cards_per_server, link, network, latency)
                 for count in (*counts, report.cards)}
        for count in counts:
            global_batch = count * report.batch_size
            steps = IMAGES // global_batch
            sent = 2 * (count - 1) / count * 4 * report.parameters * steps
            step = report.step_ms - waits[report.cards] + waits[count]
            reported = ", reported" if count == report.cards else ""
            lines.append(f"| {report.model}, {report.batch_size} | {count} | {global_batch:,} | {steps:,} | "
                         f"{steps * global_batch:,} | {sent / 1e9:,.0f} | {step:.0f}{reported} ({waits[count]:.1f}) | "
                         f"{steps * step / 60_000:.1f} |")
    return lines
