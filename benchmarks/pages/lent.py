"""Lent calls: what it costs that a function is called through an account alias, and not by its owner.

One server, one function. Its owner calls it; one account calls it through an alias whose grant lets containers be used again, and through
another that stores parameters and a secret; a third account's grant lets no container be used twice. Blocks of calls take turns.

A call that gets a container of its own is measured one by one, apart from each other, so that the VM has its next blank: beside the first
calls of versions that never ran, of the owner's, placed in a VM that is there. Back to back, blanks have to be forked meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import cumulative, percentile, ratios, turns
from benchmarks.load import Seen
from benchmarks.pages.cold import Line, placed, profile
from benchmarks.pages.profile import processor
from benchmarks.result import Plot, Table
from benchmarks.stage import BODY, Peer, Stage, deploy_all
from tests.e2e.house import House

TITLE = "Lent calls"
SAYS = "An echo of 22 bytes of JSON, called by its owner and through account aliases, on one server; blocks take turns."
CLIENTS = 32
_DIRECT, _LENT, _FILLED, _FRESH, _FIRST = "owner's own call", "lent", "lent, 3 parameters and a secret", "lent, a container for each call", "first call of a version"
_APART_S = 0.12  # the pool refills off the path of a call, and this measures the path
_WHO = "import os\nME = os.urandom(16).hex()\ndef handler(event, context):\n    return ME"
_PARAMS = {"region": "north", "limit": 10, "mode": "quiet"}
_SECRETS = {"KEY": "0123456789abcdef0123456789abcdef"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A way to call the function: where, and how long the answer is."""

    peer: Peer
    size: int

    def order(self, **how: Any) -> Any:
        return dataclasses.replace(self.peer.order(**how), size=self.size)


def run(stage: Stage) -> None:
    """Fill in the result."""
    house = stage.server()
    firsts = _lend(stage, house, stage.pick(8, 60))
    ways = {
        _DIRECT: _way(stage, house, "echo", "owner"),
        _LENT: _way(stage, house, "lent", "caller"),  # as long a name, so as long a request
        _FILLED: _way(stage, house, "full", "caller"),
    }
    fresh = _way(stage, house, "once", "other")
    seen = _one_client(stage, ways)
    stage.result.profile = _profile(stage, house, ways, seen)
    apart = _one_by_one(stage, fresh, firsts)
    _tell(stage, seen, apart, _back_to_back(stage, fresh))
    _many_clients(stage, {name: ways[name] for name in stage.pick((_DIRECT, _LENT), tuple(ways))})


def _lend(stage: Stage, house: House, count: int) -> list[Peer]:
    """Deploy and lend the function; returns `count` other functions of the owner's, none of which ran."""
    for account in ("owner", "caller", "other"):
        house.account(account)
    stage.deploy(house, "echo", token="owner")
    names = [f"first{number}" for number in range(count)]
    deploy_all(stage, house, [(name, "owner") for name in names])
    _put(house, "/v1/functions/echo/grants/caller", {"reuse": True}, "owner")
    _put(house, "/v1/functions/echo/grants/other", {}, "owner")
    _put(house, "/v1/aliases/lent", {"target": "owner/echo"}, "caller")
    _put(house, "/v1/aliases/full", {"target": "owner/echo", "params": _PARAMS, "secrets": _SECRETS}, "caller")
    _put(house, "/v1/aliases/once", {"target": "owner/echo"}, "other")
    _check(stage, house)
    return [stage.function(house, name, token="owner") for name in names]


def _check(stage: Stage, house: House) -> None:
    """See that what is measured is what it is called; raises RuntimeError when containers are used again where they must not, or not where they may."""
    stage.deploy(house, "who", _WHO, token="owner")
    _put(house, "/v1/functions/who/grants/caller", {"reuse": True}, "owner")
    _put(house, "/v1/functions/who/grants/other", {}, "owner")
    for account in ("caller", "other"):
        _put(house, "/v1/aliases/who", {"target": "owner/who"}, account)
    met = {account: [house.invoke("who", {}, token=account).json for _ in range(3)] for account in ("owner", "caller", "other")}
    counts = {account: len(set(containers)) for account, containers in met.items()}
    if counts["other"] != 3 or counts["caller"] == 3 or len({container for containers in met.values() for container in containers}) != sum(counts.values()):
        raise RuntimeError(f"three calls each were answered by so many containers: {counts}")


def _put(house: House, path: str, document: Mapping[str, Any], token: str) -> None:
    answer = house.call("PUT", path, json.dumps(document), token=token, content_type="application/json")
    if answer.status != 201:
        raise RuntimeError(f"{path} was refused: {answer.body.decode()[:500]}")


def _way(stage: Stage, house: House, name: str, token: str) -> _Way:
    """Call once: parameters are written into the event, so they come back in the echo."""
    peer = stage.function(house, name, token=token)
    answer = house.call("POST", peer.path, BODY, token=token, content_type="application/json")
    if answer.status != 200:
        raise RuntimeError(f"{name} cannot be called: {answer.body.decode()[:500]}")
    return _Way(peer=peer, size=len(answer.body))


def _one_client(stage: Stage, ways: Mapping[str, _Way]) -> dict[str, list[Seen]]:
    rounds, calls = stage.pick((25, 50), (101, 200))  # short ones: what the machine does meanwhile falls on all
    seen: dict[str, list[Seen]] = {name: [] for name in ways}
    for number, name in turns(list(ways), rounds):
        stage.tell(f"1 client, round {number + 1} of {rounds}, {name}")
        seen[name].append(stage.run(ways[name].order(calls=calls)))
    p50s = {name: [statistics.median(s.latencies_us) for s in rows] for name, rows in seen.items()}
    stage.row("lent-p50", ratios(p50s[_LENT], p50s[_DIRECT]), ("µs", p50s[_LENT]), (_DIRECT, "µs", p50s[_DIRECT]))
    return seen


def _profile(stage: Stage, house: House, ways: Mapping[str, _Way], seen: Mapping[str, Sequence[Seen]]) -> Table:
    """Return where a warm call's time goes: what each process takes of a processor, in turns, beside the p50."""
    rounds, calls = stage.pick((3, 250), (11, 1000))
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in ways}
    for _, name in turns(list(ways), rounds):
        spent = processor(stage, house, ways[name].order(calls=calls, warm=0)).rows
        found[name].append({row[0]: float(row[1]) for row in spent})
    rows = [(part, *(f"{statistics.median(one[part] for one in found[name]):.1f}" for name in ways)) for part in found[_DIRECT][0]]
    rows.append(("p50 of the call", *(f"{statistics.median(us for s in seen[name] for us in s.latencies_us):.1f}" for name in ways)))
    return Table(title="Processor time a warm call takes, 1 client, µs", head=("process", *ways), rows=rows)


def _one_by_one(stage: Stage, fresh: _Way, firsts: Sequence[Peer]) -> dict[str, list[float]]:
    """Return milliseconds of single calls: one through the alias, one of a version that never ran, in turns.

    Those that had to wait for a container to be forked, because the machine was too busy to have one ready, are told apart.
    """
    times: dict[str, list[float]] = {_FRESH: [], _FIRST: []}
    phases: dict[str, list[dict[str, float]]] = {_FRESH: [], _FIRST: []}
    late: dict[str, list[float]] = {}
    with Line(fresh.peer) as lent, Line(firsts[0]) as owner:
        for number, first in enumerate(firsts):
            stage.tell(f"a container for each call, {number + 1} of {len(firsts)}")
            for name, line, peer in ((_FRESH, lent, fresh.peer), (_FIRST, owner, first)):
                time.sleep(_APART_S)
                took = line.call(peer) * 1e3
                if placed("blank", line.timing) == "fork":
                    late.setdefault(f"{name}, late", []).append(took)
                    continue
                times[name].append(took)
                phases[name].append({**line.timing, "rest": took - sum(line.timing.values())})
    stage.result.tables.append(profile(phases))
    if all(times.values()):
        ratio = statistics.median(times[_FRESH]) / statistics.median(times[_FIRST])
        stage.result.notes.append(f"A lent call with a container of its own takes {ratio:.2f} times a version's first call, both with a blank at hand.")
    if late:
        counts = ", ".join(f"{name} {len(values)}" for name, values in late.items())
        stage.result.notes.append(f"Late: of {len(firsts)} calls each, so many had to wait until a blank was forked: {counts}.")
    return {name: values for name, values in {**times, **late}.items() if values}


def _back_to_back(stage: Stage, fresh: _Way) -> list[float]:
    stage.tell("a container for each call, back to back")
    return [us / 1e3 for us in stage.run(fresh.order(calls=stage.pick(20, 300), warm=2)).latencies_us]


def _tell(stage: Stage, seen: Mapping[str, Sequence[Seen]], apart: Mapping[str, list[float]], rushed: list[float]) -> None:
    """Tell what has no promise: ratios round by round for blocks that took turns, else of the p50s."""
    warm = {name: [us / 1e3 for s in loads for us in s.latencies_us] for name, loads in seen.items()}
    direct = statistics.median(warm[_DIRECT])
    filled = [statistics.median(s.latencies_us) for s in seen[_FILLED]], [statistics.median(s.latencies_us) for s in seen[_DIRECT]]
    series = {**warm, **apart, f"{_FRESH}, back to back": rushed}
    against = {name: f"{statistics.median(values) / direct:.2f}" for name, values in series.items()}
    against[_FILLED] = f"{statistics.median(ratios(*filled)):.2f}"
    against[_LENT] = f"{stage.result.rows[0].ratio.median:.2f}"
    rows = [
        (name, *(f"{percentile(values, p):.3f}" for p in (50, 90, 99)), against[name], f"{len(values):,}") for name, values in series.items()
    ]
    head = ("1 client", "p50 ms", "p90 ms", "p99 ms", "p50 / the owner's own", "calls")
    stage.result.tables.append(Table(title="Calls by how they come", head=head, rows=rows))
    shares = [(name, *cumulative(values)) for name, values in series.items()]
    plot = Plot(name="lent-latency", title="Latency of lent calls, 1 client", x="ms", y="% of calls at most", series=shares, is_log=True)
    stage.result.plots.append(plot)


def _many_clients(stage: Stage, ways: Mapping[str, _Way]) -> None:
    rounds, seconds = stage.pick((3, 0.4), (11, 1.5))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        stage.run(way.order(clients=CLIENTS, seconds=seconds))  # until there is a container for each
    for number, name in turns(list(ways), rounds):
        stage.tell(f"{CLIENTS} clients, round {number + 1} of {rounds}, {name}")
        rates[name].append(stage.run(ways[name].order(clients=CLIENTS, seconds=seconds)).per_second)
    stage.baseline(f"{_DIRECT}, {CLIENTS} clients, requests/s", stage.amount(_DIRECT, "requests/s", rates[_DIRECT]))
    rows = [
        (name, f"{statistics.median(values):,.0f}", f"{statistics.median(ratios(values, rates[_DIRECT])):.2f}") for name, values in rates.items()
    ]
    stage.result.tables.append(Table(title=f"Throughput, {CLIENTS} clients", head=("", "requests/s", "/ the owner's own"), rows=rows))
