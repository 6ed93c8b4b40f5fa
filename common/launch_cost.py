"""Layout and cost of a training on many devices, from a model that is stated with the numbers. Imports no MindSpore."""
from common.errors import UserError

SIZES = (5.9, 13.1, 22.1, 42.7, 86.6, 304.3, 632.0)  # millions of parameters: gMLP-Ti to ViT-Huge
SHOWN_SERVERS = 8


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


def describe(cards: int, cards_per_server: int, link: float, network: float, latency: float, step_ms: float,
             batch_size: int) -> list[str]:
    """Return layout and cost table as lines of text.

    Raises:
        UserError: if one of the numbers is not positive.
    """
    given = {"cards": cards, "cards_per_server": cards_per_server, "link": link, "network": network,
             "step_ms": step_ms, "batch_size": batch_size}
    for name, value in given.items():
        if not value > 0:
            raise UserError(f"--{name}: {value} must be greater than 0.")
    if not latency >= 0:
        raise UserError(f"--latency: {latency} must not be negative.")
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
