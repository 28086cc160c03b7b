"""The way out: what a function's requests cost through egress, against the same client's without pyfaas.

A server on this machine, in a process of its own; a client of the standard library's `http.client`, whose same source (`origin.CLIENT`) runs in a
container of a version that lists the server, and in a plain process. It measures itself, so the call that asks for it is not in the
figures. Blocks take turns. The ways differ in that a plain process's bytes cross loopback once, and egress's go to another
process and cross it twice.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import origin, procfs
from benchmarks.figures import cumulative, percentile, ratios, turns
from benchmarks.result import Plot, Table
from benchmarks.stage import Stage
from tests.e2e.house import House

TITLE = "The way out"
SAYS = "http.client in a function with `network`, and outside, to one server on this machine; blocks take turns."
NAME = "origin.test"
_SIZE = 64 << 20
_INSIDE, _OUTSIDE = "through egress", "outside"
_WHAT = {
    "kept": "a small request, kept alive",
    "known": "a connection and a small request, address known",
    "named": "a connection and a small request, name looked up",
    "received": f"an answer of {_SIZE >> 20} MiB",
    "sent": f"a request of {_SIZE >> 20} MiB",
}
_Ask = Callable[[Mapping[str, Any]], list[float]]


def run(stage: Stage) -> None:
    """Fill in the result."""
    port = stage.open.enter_context(origin.served())
    hosts = stage.folder / "hosts"
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    house = stage.server("-s", "egress_private=127.0.0.0/8", "-s", f"egress_hosts={hosts}")
    stage.deploy(house, "client", origin.CLIENT, network=[f"{NAME}:{port}@127.0.0.0/8"], memory="256M", timeout="60s")
    outside = stage.open.enter_context(origin.Outside())
    asked: dict[str, _Ask] = {
        _INSIDE: lambda event: _inside(house, {**event, "host": NAME, "port": port}),
        _OUTSIDE: lambda event: outside.ask({**event, "host": "localhost", "port": port}),
    }
    small, large = stage.pick((11, 5), (31, 11))
    counts = {"kept": stage.pick(80, 500), "known": stage.pick(20, 100), "named": stage.pick(20, 100)}
    took = {what: _turns(stage, asked, what, {"count": count}, small) for what, count in counts.items()}
    took |= {what: _turns(stage, asked, what, {"count": 1, "size": _SIZE}, large) for what in ("received", "sent")}
    _rows(stage, took)
    _times(stage, took)
    stage.result.tables.append(_processor(stage, house, asked))


def _inside(house: House, event: Mapping[str, Any]) -> list[float]:
    answer = house.invoke("client", event)
    if answer.status != 200:
        raise RuntimeError(f"the client inside failed: {answer.body.decode()[:500]}")
    took: list[float] = answer.json
    return took


def _turns(stage: Stage, asked: Mapping[str, _Ask], what: str, event: Mapping[str, Any], rounds: int) -> dict[str, list[list[float]]]:
    """Return, for each side, a list of seconds a round. A first block of each warms."""
    took: dict[str, list[list[float]]] = {name: [] for name in asked}
    for ask in asked.values():
        ask({**event, "what": what, "count": 1})
    for number, name in turns(list(asked), rounds):
        stage.tell(f"{_WHAT[what]}, round {number + 1} of {rounds}, {name}")
        took[name].append(asked[name]({**event, "what": what}))
    return took


def _rows(stage: Stage, took: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> None:
    rates = {name: [_SIZE / statistics.median(block) / 1e6 for block in blocks] for name, blocks in took["received"].items()}
    stage.row("egress-transfer", ratios(rates[_INSIDE], rates[_OUTSIDE]), ("MB/s", rates[_INSIDE]), (_OUTSIDE, "MB/s", rates[_OUTSIDE]))
    p50s = _medians(took["kept"])
    stage.row("egress-request", ratios(p50s[_INSIDE], p50s[_OUTSIDE]), ("µs", p50s[_INSIDE]), (_OUTSIDE, "µs", p50s[_OUTSIDE]))


def _medians(blocks: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Return, for each side, the median of each block in microseconds."""
    return {name: [statistics.median(block) * 1e6 for block in rounds] for name, rounds in blocks.items()}


def _times(stage: Stage, took: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> None:
    rows, shares = [], []
    for what, blocks in took.items():
        pooled = {name: [second for block in rounds for second in block] for name, rounds in blocks.items()}
        p50s = _medians(blocks)
        cells = [f"{percentile(pooled[name], p) * 1e3:,.3f}" for p in (50, 90, 99) for name in (_INSIDE, _OUTSIDE)]
        rows.append((_WHAT[what], *cells, f"{statistics.median(ratios(p50s[_INSIDE], p50s[_OUTSIDE])):.2f}", str(len(pooled[_INSIDE]))))
        if what in ("kept", "named"):
            shares += [(f"{_WHAT[what]}: {name}", *cumulative([second * 1e3 for second in pooled[name]])) for name in blocks]
    head = [f"p{p} ms {name}" for p in (50, 90, 99) for name in ("egress", _OUTSIDE)]
    stage.result.tables.append(Table(title="Milliseconds through egress and outside", head=("", *head, "p50 / outside's", "times"), rows=rows))
    plot = Plot(name="egress-latency", title="Small requests", x="ms", y="% of requests at most", series=shares, is_log=True)
    stage.result.plots.append(plot)


def _processor(stage: Stage, house: House, asked: Mapping[str, _Ask]) -> Table:
    """Measure what the egress process takes of a processor, by the kernel's own account (schedstat) of its only busy thread."""
    pid = house.children()["egress"]
    rows = []
    for what, count, size in (("kept", stage.pick(500, 5000), 0), ("named", stage.pick(100, 1000), 0), ("received", stage.pick(3, 10), _SIZE)):
        stage.tell(f"egress's processor time, {_WHAT[what]}")
        before = procfs.ran_seconds(pid)
        took = asked[_INSIDE]({"what": what, "count": count, "size": size})
        spent = procfs.ran_seconds(pid) - before
        rows.append((_WHAT[what], f"{spent / count * 1e6:,.0f}", f"{spent / sum(took):.0%}", str(count)))
    head = ("", "its processor time each, µs", "of the time that passed", "times")
    return Table(title="What the egress process takes of a processor", head=head, rows=rows)
