"""Cold calls: the first call of a version that never ran.

Each account has three functions, called in this order: the first finds neither VM nor container of the account, and
takes both from the pool (*warm VM*); the second follows at once, before the VM has got another blank, so that one is forked
(*fork*); the third finds the VM's next blank (*blank*). The server says for each call how it was placed and how long it
waited for a container; a call that was placed otherwise than meant is left out and counted. A fresh interpreter is
started between accounts.
"""

from __future__ import annotations

import re
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Self

from benchmarks import baselines, forking
from benchmarks.figures import cumulative, grouped_ratios, percentile
from benchmarks.result import Plot, Table
from benchmarks.stage import Peer, Stage, accounts, deploy_all

TITLE = "Cold calls"
SAYS = "The first call of versions that never ran, through HTTP, one at a time; E is `python -I -S -c pass` as a fresh process."
_APART_S = 0.12  # the pool refills off the path of a call, and this measures the path
_ORDER = ("warm VM", "fork", "blank")
_WAITED_MS = 1.0  # a call that finds a container does not wait in its lane
_PHASES = ("queue", "init", "exec", "rest")


def run(stage: Stage) -> None:
    """Fill in the result."""
    count = stage.pick(25, 100)
    house = stage.server("-s", "debug=true")  # the answer tells where it was placed
    names = accounts(house, count)
    deploy_all(stage, house, [(f"cold{number}", name) for name in names for number in range(len(_ORDER))])
    times: dict[str, list[float]] = {name: [] for name in _ORDER}
    phases: dict[str, list[dict[str, float]]] = {name: [] for name in _ORDER}
    fresh: list[float] = []
    confined: list[float] = []
    astray = 0
    for at, account in enumerate(names):
        stage.tell(f"first calls, account {at + 1} of {count}")
        functions = [stage.function(house, f"cold{number}", token=account) for number in range(len(_ORDER))]
        with Line(functions[0]) as line:
            for name, function in zip(_ORDER, functions, strict=True):
                if name != "fork":
                    time.sleep(_APART_S)
                took = line.call(function)
                if placed(line.why, line.timing) != name:
                    astray += 1
                    continue
                times[name].append(took * 1e3)
                phases[name].append({**line.timing, "rest": took * 1e3 - sum(line.timing.values())})
        time.sleep(_APART_S)
        fresh.append(baselines.fresh_interpreter() * 1e3)
        if "bubblewrap" not in stage.result.missing:
            _peer(stage, confined)
    _tell(stage, times, phases, fresh, confined)
    stage.tell("forking blanks")
    stage.result.tables.append(forking.measure(stage.pick(15, 60)))
    stage.result.notes.append(f"{astray} of {count * len(_ORDER)} calls were placed otherwise than meant, and are left out.")


def _peer(stage: Stage, confined: list[float]) -> None:
    try:
        confined.append(baselines.bubblewrap() * 1e3)
    except baselines.Missing as missing:
        stage.result.missing["bubblewrap"] = str(missing)


def _tell(
    stage: Stage, times: dict[str, list[float]], phases: dict[str, list[dict[str, float]]], fresh: list[float], confined: list[float]
) -> None:
    pool = [ms for pair in zip(times["warm VM"], times["blank"], strict=False) for ms in pair]
    for key, ours in (("cold-pool", pool), ("cold-fork", times["fork"])):
        stage.row(key, grouped_ratios(ours, fresh), ("ms", ours), ("fresh interpreter", "ms", fresh))
    series = {**{f"first call: {name}": values for name, values in times.items()}, "fresh interpreter": fresh}
    if confined:
        stage.baseline("bubblewrap, ms", stage.amount("bubblewrap", "ms", confined))
        series["fresh interpreter in bubblewrap"] = confined
    head = ("", "p50 ms", "p90 ms", "p99 ms", "p50 / E", "number")
    e = statistics.median(fresh)
    rows = [
        (name, *(f"{percentile(values, p):.2f}" for p in (50, 90, 99)), f"{statistics.median(values) / e:.3f}", str(len(values)))
        for name, values in series.items()
    ]
    stage.result.tables.append(Table(title="First calls and fresh processes", head=head, rows=rows))
    stage.result.profile = profile(phases)
    shown = [(name, [float(n) for n in range(1, len(values) + 1)], values) for name, values in series.items()]
    stage.result.plots.append(
        Plot(name="cold-over-time", title="Cold calls over time", x="number of the call", y="ms", series=shown, kind="points")
    )
    shares = [(name, *cumulative(values)) for name, values in series.items()]
    stage.result.plots.append(Plot(name="cold-latency", title="Latency of cold calls", x="ms", y="% at most", series=shares, is_log=True))


def profile(phases: dict[str, list[dict[str, float]]]) -> Table:
    """Return where a first call's time goes, by the server's own clock; `rest` is HTTP and the ways to and from it."""
    rows: list[Sequence[str]] = []
    for name, calls in phases.items():
        if calls:
            parts = [statistics.median(call.get(phase, 0.0) for call in calls) for phase in _PHASES]
            rows.append((name, *(f"{part:.2f}" for part in parts)))
    head = ("placed", "queue: waits for a container", "init: attaching, import", "exec: the call", "rest: HTTP, ways")
    return Table(title="Where a first call's milliseconds go (medians, Server-Timing)", head=head, rows=rows)


class Line:
    """A keep-alive connection that tells of each answer how long it took and how the call was placed."""

    def __init__(self, peer: Peer) -> None:
        """Connect."""
        self._socket = socket.create_connection((peer.host, peer.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timing: dict[str, float] = {}
        self.why = ""

    def call(self, peer: Peer) -> float:
        """Call once; returns the seconds, raises RuntimeError when the answer is not 200."""
        request = peer.order().request
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        took = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer[:500].decode(errors="replace"))
        head = answer.partition(b"\r\n\r\n")[0].decode()
        self.timing = timings(head)
        placed = re.search(r"why=(\w+)", head)
        self.why = placed[1] if placed else ""
        return took

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def placed(why: str, timing: Mapping[str, float]) -> str:
    """Say how a call got its container: the server names the last step, and one that was forked is a blank when it comes."""
    if why == "blank" and timing.get("queue", 0.0) > _WAITED_MS:
        return "fork"
    return {"warm": "warm VM"}.get(why, why)


def timings(head: str) -> dict[str, float]:
    """Return what an answer's Server-Timing tells, in milliseconds."""
    found = re.search(r"Server-Timing: (.*)", head)
    parts = found[1].split(", ") if found else []
    return {name: float(value) for name, _, value in (part.partition(";dur=") for part in parts)}
