"""A page's result made by hand, for tests of what is done with results."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.result import Plot, Result, Table
from benchmarks.targets import row

HOST = {"cores": 2, "kernel": "Linux 6.1", "python": "CPython 3.11", "isolation": "full", "load": 0.1, "layers": {"seccomp": "140 calls"}}
PROOF = [{"attempt": "read a file of the host", "inside": "No such file", "outside": "done", "proves": True}]


def result(ratios: Sequence[float] = (1.5, 1.6, 1.7), *, page: str = "warm") -> Result:
    """Return a result with one row, a table, a plot, a profile and a missing baseline."""
    made = row("warm-p50", ratios, ("µs", [r * 100 for r in ratios]), ("bare aiohttp", "µs", [100.0] * len(ratios)))
    return Result(
        page=page,
        title="Warm calls",
        says="An echo.",
        rows=[made],
        tables=[Table(title="Latency", head=("", "p50 µs"), rows=[("a|b <c>", "1")])],
        plots=[Plot(name="latency", title="Latency", x="µs", y="% of calls", series=[("pyfaas", [1.0, 2.0], [0.0, 100.0])])],
        profile=Table(title="Where it goes", head=("hop", "µs"), rows=[("all", "160")]),
        notes=["a note"],
        missing={"bubblewrap": "not installed"},
        baselines={"bare aiohttp, µs": made.baseline},
        host=HOST,
        proof=PROOF,
        seconds=1.5,
        at="2026-01-01 00:00 UTC",
    )
