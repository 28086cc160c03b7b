"""Large bodies: an echo of 6 MiB of bytes, one client, megabytes a second against bare aiohttp's.

A megabyte counts once, though it goes both ways.
"""

from __future__ import annotations

import statistics

from benchmarks import baselines
from benchmarks.figures import ratios, turns
from benchmarks.pages.profile import HOLLOW, processor, with_hollow
from benchmarks.result import Plot, Table
from benchmarks.stage import Stage

TITLE = "Large bodies"
SAYS = "Echoes of octets over one keep-alive connection; blocks take turns."
SIZE = 6 << 20
_A, _OURS = "bare aiohttp", "pyfaas"


def run(stage: Stage) -> None:
    """Fill in the result."""
    rounds, calls = stage.pick((5, 4), (15, 10))
    house, ours, without = with_hollow(stage)
    found = [ours, stage.peer(_A, baselines.aiohttp), without]
    peers = {peer.name: peer for peer in found if peer is not None}

    def rate(name: str, size: int, calls: int) -> float:
        seen = stage.run(peers[name].order(zeros=size, kind="application/octet-stream", calls=calls, warm=2))
        return size * len(seen.latencies_us) / seen.seconds / 1e6

    rates: dict[str, list[float]] = {name: [] for name in peers}
    for number, name in turns(list(peers), rounds):
        stage.tell(f"6 MiB, round {number + 1} of {rounds}, {name}")
        rates[name].append(rate(name, SIZE, calls))
    stage.result.profile = profile({name: SIZE / 1e3 / statistics.median(values) for name, values in rates.items()})
    order = ours.order(zeros=SIZE, kind="application/octet-stream", calls=stage.pick(10, 30), warm=0)
    stage.result.tables.append(processor(stage, house, order))
    stage.row("payload", ratios(rates[_OURS], rates[_A]), ("MB/s", rates[_OURS]), (_A, "MB/s", rates[_A]))
    sizes = stage.pick((1 << 10, 64 << 10, 1 << 20), (1 << 10, 8 << 10, 32 << 10, 64 << 10, 256 << 10, 1 << 20, 3 << 20))
    over: dict[str, list[float]] = {name: [] for name in peers}
    for size in sizes:
        stage.tell(f"{size >> 10} KiB")
        for name in peers:
            over[name].append(statistics.median(rate(name, size, max(5, min(100, (16 << 20) // size))) for _ in range(3)))
    rows = [(f"{size >> 10:,} KiB", *(f"{over[name][at]:,.1f}" for name in peers)) for at, size in enumerate(sizes)]
    rows.append(("6,144 KiB", *(f"{statistics.median(rates[name]):,.1f}" for name in peers)))
    stage.result.tables.append(Table(title="MB/s over the body's size", head=("body", *peers), rows=rows))
    xs = [size / 1024 for size in (*sizes, SIZE)]
    series = [(name, xs, [*over[name], statistics.median(rates[name])]) for name in peers]
    stage.result.plots.append(Plot(name="payload", title="Echo of large bodies", x="KiB", y="MB/s", series=series, is_log=True))


def profile(ms: dict[str, float]) -> Table:
    """Return where the milliseconds of an echo of 6 MiB go, from the milliseconds of its parts."""
    parts = [
        ("bare aiohttp, whole", ms[_A], "measured"),
        ("our server, without a container", ms[HOLLOW], "measured over containers that answer at once"),
        ("to the container, in it, and back", ms[_OURS] - ms[HOLLOW], "what is left"),
        ("a confined call", ms[_OURS], "measured"),
    ]
    rows = [(name, f"{value:.1f}", f"{value / ms[_OURS]:.0%}", how) for name, value, how in parts]
    return Table(title="Where the milliseconds of a 6 MiB echo go", head=("part", "ms", "share", "measured as"), rows=rows)
