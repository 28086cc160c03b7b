"""Warm calls: a container that has loaded the version answers again.

One client: blocks of calls over one keep-alive connection, a block of each peer in turn, p50 of a block against the p50
of the block of bare aiohttp beside it. 32 clients: requests a second likewise. Authentication and metering are on, the
function is in a confined container; the peers run the same echo with neither.
"""

from __future__ import annotations

import os
import statistics

from benchmarks import baselines
from benchmarks.figures import cumulative, percentile, ratios, turns
from benchmarks.load import Seen
from benchmarks.result import Plot, Table
from benchmarks.stage import Peer, Stage

TITLE = "Warm calls"
SAYS = "An echo of 22 bytes of JSON, over keep-alive connections. Ratios are taken round by round; the peers take turns."
CLIENTS = 32
_A, _F, _OURS = "bare aiohttp", "functions-framework", "pyfaas"


def run(stage: Stage) -> None:
    """Fill in the result."""
    house = stage.server()
    stage.deploy(house, "echo")
    found = [stage.function(house), stage.peer(_A, baselines.aiohttp), stage.peer(_F, baselines.functions_framework)]
    peers = {peer.name: peer for peer in found if peer is not None}
    _one_client(stage, peers)
    _many_clients(stage, peers)
    _throughput(stage, peers)


def _one_client(stage: Stage, peers: dict[str, Peer]) -> None:
    rounds, calls = stage.pick((11, 200), (41, 500))
    seen: dict[str, list[Seen]] = {name: [] for name in peers}
    for number, name in turns(list(peers), rounds):
        stage.tell(f"1 client, round {number + 1} of {rounds}, {name}")
        seen[name].append(stage.run(peers[name].order(calls=calls)))
    p50s = {name: [statistics.median(s.latencies_us) for s in rows] for name, rows in seen.items()}
    stage.row("warm-p50", ratios(p50s[_OURS], p50s[_A]), ("µs", p50s[_OURS]), (_A, "µs", p50s[_A]))
    if _F in p50s:
        stage.baseline(f"{_F}, p50, µs", stage.amount(_F, "µs", p50s[_F]))
    _distributions(stage, "1 client", seen)


def _many_clients(stage: Stage, peers: dict[str, Peer]) -> None:
    rounds, seconds = stage.pick((7, 0.7), (21, 2.0))
    seen: dict[str, list[Seen]] = {name: [] for name in peers}
    cpu: dict[str, list[float]] = {name: [] for name in peers}
    for number, name in turns(list(peers), rounds):
        stage.tell(f"{CLIENTS} clients, round {number + 1} of {rounds}, {name}")
        before = peers[name].cpu_seconds()
        load = stage.run(peers[name].order(clients=CLIENTS, seconds=seconds))
        cpu[name].append(peers[name].cpu_seconds() - before)
        seen[name].append(load)
    rates = {name: [s.per_second for s in rows] for name, rows in seen.items()}
    unit = "requests/s"
    stage.row("warm-rps", ratios(rates[_OURS], rates[_A]), (unit, rates[_OURS]), (_A, unit, rates[_A]))
    if _F in rates:
        stage.row("warm-rps-peer", ratios(rates[_OURS], rates[_F]), (unit, rates[_OURS]), (_F, unit, rates[_F]))
    _distributions(stage, f"{CLIENTS} clients", seen)
    _shares(stage, seen, cpu)


def _distributions(stage: Stage, title: str, seen: dict[str, list[Seen]]) -> None:
    """Keep what of the calls one p50 does not tell."""
    pooled = {name: [us for s in rows for us in s.latencies_us] for name, rows in seen.items()}
    head = ("", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "greatest µs", "calls")
    rows = [
        (name, *(f"{percentile(values, p):,.0f}" for p in (50, 90, 99, 99.9, 100)), f"{len(values):,}") for name, values in pooled.items()
    ]
    stage.result.tables.append(Table(title=f"Latency, {title}", head=head, rows=rows))
    series = [(name, *cumulative(values)) for name, values in pooled.items()]
    file = "latency-" + title.replace(" ", "-")
    plot = Plot(name=file, title=f"Latency of warm calls, {title}", x="µs", y="% of calls at most", series=series, is_log=True)
    stage.result.plots.append(plot)


def _shares(stage: Stage, seen: dict[str, list[Seen]], cpu: dict[str, list[float]]) -> None:
    """Tell what processor time went where: on few cores the load competes with what it measures."""
    rows, most = [], 0.0
    for name, loads in seen.items():
        share = statistics.median(s.cpu_s / s.seconds for s in loads)
        most = max(most, share)
        spent = [c / len(s.latencies_us) * 1e6 for c, s in zip(cpu[name], loads, strict=True)]
        rows.append((name, f"{statistics.median(s.per_second for s in loads):,.0f}", f"{statistics.median(spent):,.0f}", f"{share:.0%}"))
    head = ("", "requests/s", "its processor time a call, µs (all its processes)", "the load's share of one processor")
    stage.result.tables.append(Table(title=f"Throughput and processor time, {CLIENTS} clients", head=head, rows=rows))
    cores = len(os.sched_getaffinity(0))
    stage.result.notes.append(f"The load runs on the same {cores} cores and takes up to {most:.0%} of one.")


def _throughput(stage: Stage, peers: dict[str, Peer]) -> None:
    counts, seconds, rounds = stage.pick(((1, 4, 16, 64), 0.4, 1), ((1, 2, 4, 8, 16, 32, 64, 128), 1.0, 3))
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for clients in counts:
        seen: dict[str, list[float]] = {name: [] for name in peers}
        for _, name in turns(list(peers), rounds):
            stage.tell(f"throughput, {clients} clients, {name}")
            seen[name].append(stage.run(peers[name].order(clients=clients, seconds=seconds)).per_second)
        for name, values in seen.items():
            rates[name].append(statistics.median(values))
    head = ("clients", *rates)
    rows = [(str(clients), *(f"{rates[name][at]:,.0f}" for name in rates)) for at, clients in enumerate(counts)]
    stage.result.tables.append(Table(title="Requests/s over clients", head=head, rows=rows))
    series = [(name, [float(c) for c in counts], values) for name, values in rates.items()]
    plot = Plot(name="throughput", title="Throughput over clients", x="clients", y="requests/s", series=series, is_log=True)
    stage.result.plots.append(plot)
