"""Figures of a running server, as plain values that a face shows in its own format.

Theory of operation. Nothing is counted on the way of a call. What ran is summed from the journal's rows, a batch at a
time; what never ran is counted where it is refused; everything else is read from the state that is there, when
somebody asks. Sums start at zero with the server. Sums by account and function are for the operator alone.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from pyfaas.errors import PyfaasError
from pyfaas.model import AccountId, FunctionId, JobState, Outcome, UsageRow
from pyfaas.ports import Clock
from pyfaas.service.registry import Registry

if TYPE_CHECKING:
    from pyfaas.service.journal import Journal
    from pyfaas.service.service import Service

# Seconds; a warm call of an empty handler takes some 50 µs, a timeout is 900 s at most.
BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_BOUNDS_US = tuple(round(bound * 1e6) for bound in BOUNDS)
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One figure with its samples by label values; `kind` is counter or gauge. A counter's name has no `_total`."""

    name: str
    kind: str
    says: str
    labels: Labels = ()
    samples: Mapping[Labels, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution: (upper bound in seconds, how many up to it), the last without a bound, and the sum."""

    name: str
    says: str
    buckets: tuple[tuple[float, int], ...]
    sum: float


class Sum:
    """How many runs, and what they took."""

    __slots__ = ("cpu_us", "runs", "wall_us")

    def __init__(self) -> None:
        """Begin at zero."""
        self.runs = self.wall_us = self.cpu_us = 0


class Tally:
    """The sums of what the journal was given."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.sums: dict[tuple[AccountId, FunctionId, Outcome | None], Sum] = {}  # by payer, function and outcome
        self.bytes_in = self.bytes_out = self.loads = self.load_us = self.load_cpu_us = 0
        self.idle_cpu_us = self.builds = self.build_cpu_us = self.net_in = self.net_out = self.connections = 0
        self.buckets = [0] * (len(BOUNDS) + 1)

    def take(self, rows: Iterable[UsageRow]) -> None:
        """Add rows: 0.3 µs for each."""
        sums, buckets = self.sums, self.buckets
        for row in rows:
            if row.kind == "call":
                key = row.account, row.function, row.outcome
                one = sums.get(key)
                if one is None:
                    one = sums[key] = Sum()
                wall = row.wall_us
                one.runs += row.count
                one.wall_us += wall
                one.cpu_us += row.cpu_us
                self.bytes_in += row.bytes_in
                self.bytes_out += row.bytes_out
                if row.count:  # else it adds to another row's run
                    buckets[bisect_left(_BOUNDS_US, wall)] += 1
            elif row.kind == "init":
                self.loads += row.count
                self.load_us += row.wall_us
                self.load_cpu_us += row.cpu_us
            elif row.kind == "idle":
                self.idle_cpu_us += row.cpu_us
            else:
                self.builds += row.count
                self.build_cpu_us += row.cpu_us
            if row.connections or row.net_in or row.net_out:
                self.net_in += row.net_in
                self.net_out += row.net_out
                self.connections += row.connections

    def total(self) -> Sum:
        """Return the sum of all runs."""
        return _added(self.sums.values())

    def outcomes(self) -> Counter[str]:
        """Count runs by outcome."""
        found: Counter[str] = Counter()
        for (_, _, outcome), one in self.sums.items():
            found[str(outcome)] += one.runs
        return found

    def durations(self) -> Histogram:
        """Return how long runs took."""
        counts = tuple(zip((*BOUNDS, float("inf")), accumulate(self.buckets), strict=True))
        says = "How long runs took, from the packet to the container to its answer"
        return Histogram("pyfaas_run_duration_seconds", says, counts, self.total().wall_us / 1e6)

    def forget(self, registry: Registry) -> None:
        """Drop the names of functions that are gone, so that they do not pile up; the sums of all keep what they did."""
        for key in [key for key in self.sums if key[1] and key[1] not in registry.entries]:
            nobody = AccountId(""), FunctionId(""), key[2]
            self.sums[nobody] = _added([self.sums.get(nobody, Sum()), self.sums.pop(key)])


def _added(sums: Iterable[Sum]) -> Sum:
    total = Sum()
    for one in sums:
        total.runs += one.runs
        total.wall_us += one.wall_us
        total.cpu_us += one.cpu_us
    return total


async def measure(service: Service, journal: Journal, clock: Clock, *, by_function: bool) -> list[Family | Histogram]:
    """Return every figure; with `by_function` also those that name accounts and functions."""
    try:
        queued = await service.jobs.queued()
    except PyfaasError:
        queued = None  # a store that is not well is when the other figures are wanted
    tally = journal.counted()
    tally.forget(service.registry)
    found: list[Family | Histogram] = [*_server(service), *_calls(service, tally), *_fleet(service, clock), *_jobs(service, queued), *_storage(service, journal)]
    return [*found, *_by_function(service, tally)] if by_function else found


def _one(value: float) -> dict[Labels, float]:
    return {(): value}


def _by(counts: Mapping[str, float]) -> dict[Labels, float]:
    return {(name,): value for name, value in counts.items()}


def _server(service: Service) -> Iterator[Family]:
    shown = service.ready()
    live = {layer["name"]: float(layer["live"]) for layer in shown["layers"]}
    yield Family("pyfaas_ready", "gauge", "Whether calls are taken", (), _one(shown["ready"]))
    yield Family("pyfaas_isolation_layer", "gauge", "Whether a layer of isolation is live", ("layer",), _by(live))
    registry = service.registry
    states = Counter(str(version.state) for _, version in registry.all_versions())
    yield Family("pyfaas_accounts", "gauge", "Accounts", (), _one(len(registry.accounts)))
    yield Family("pyfaas_functions", "gauge", "Functions", (), _one(len(registry.entries)))
    yield Family("pyfaas_versions", "gauge", "Versions by state", ("state",), _by(states))


def _calls(service: Service, tally: Tally) -> Iterator[Family | Histogram]:
    dispatcher, loads = service.dispatcher, service.dispatcher.admissions.loads.values()
    ended = {str(outcome): 0 for outcome in Outcome} | tally.outcomes()
    for outcome, count in dispatcher.unrun.items():
        ended[str(outcome)] += count
    total = tally.total()
    yield Family("pyfaas_calls", "counter", "Calls that ended, by outcome", ("outcome",), _by(ended))
    yield Family("pyfaas_calls_throttled", "counter", "Calls refused because too many of their account wait", (), _one(dispatcher.admissions.throttled))
    yield Family("pyfaas_calls_running", "gauge", "Calls that are admitted and have not ended", (), _one(sum(load.running for load in loads)))
    yield Family("pyfaas_calls_waiting", "gauge", "Calls that wait for their turn over a limit", (), _one(sum(load.waiting for load in loads)))
    cold = min(total.runs, dispatcher.fleet.cold.total())
    starts = {"cold": float(cold), "warm": float(total.runs - cold)}
    yield Family("pyfaas_starts", "counter", "Runs by whether their container was loaded for them", ("kind",), _by(starts))
    yield Family("pyfaas_run_cpu_seconds", "counter", "Processor time of runs", (), _one(total.cpu_us / 1e6))
    yield Family("pyfaas_event_bytes", "counter", "Bytes of the events of runs", (), _one(tally.bytes_in))
    yield Family("pyfaas_result_bytes", "counter", "Bytes of the results of runs", (), _one(tally.bytes_out))
    yield tally.durations()
    yield Family("pyfaas_loads", "counter", "Times that a container loaded a version", (), _one(tally.loads))
    yield Family("pyfaas_load_seconds", "counter", "Time that loading took", (), _one(tally.load_us / 1e6))
    yield Family("pyfaas_load_cpu_seconds", "counter", "Processor time that loading took", (), _one(tally.load_cpu_us / 1e6))
    yield Family("pyfaas_idle_cpu_seconds", "counter", "Processor time of containers between runs", (), _one(tally.idle_cpu_us / 1e6))
    yield Family("pyfaas_build_steps", "counter", "Steps of preparations that had a VM", (), _one(tally.builds))
    yield Family("pyfaas_build_cpu_seconds", "counter", "Processor time of preparations", (), _one(tally.build_cpu_us / 1e6))
    network = {"in": float(tally.net_in), "out": float(tally.net_out)}
    yield Family("pyfaas_network_bytes", "counter", "Bytes that code moved over the network", ("direction",), _by(network))
    yield Family("pyfaas_network_connections", "counter", "Connections that code made", (), _one(tally.connections))


def _fleet(service: Service, clock: Clock) -> Iterator[Family]:
    pool, now = service.dispatcher.fleet.pool, clock.monotonic()
    counts = pool.statistics()
    containers = {state: counts[state] for state in ("blank", "loading", "idle", "busy")}
    vms = {"warm": counts["warm"], "active": counts["vms"] - counts["warm"], "opening": counts["opening"]}
    yield Family("pyfaas_containers", "gauge", "Containers by state", ("state",), _by(containers))
    yield Family("pyfaas_vms", "gauge", "VMs by state", ("state",), _by(vms))
    yield Family("pyfaas_warming_target", "gauge", "Unassigned VMs that are wanted ready", (), _one(pool.warm_target(now)))
    yield Family("pyfaas_warming_hits", "counter", "VMs that were taken ready from the warming pool", (), _one(pool.hits))
    yield Family("pyfaas_warming_misses", "counter", "VMs that had to be opened while a call waited", (), _one(pool.misses))


def _jobs(service: Service, queued: int | None) -> Iterator[Family]:
    jobs = service.jobs
    now = {"running": jobs.running()} | ({"queued": queued} if queued is not None else {})
    yield Family("pyfaas_jobs", "gauge", "Asynchronous invocations that have not ended", ("state",), _by(now))
    ended = {str(state): jobs.ended[state] for state in JobState if state.is_terminal}
    yield Family("pyfaas_jobs_ended", "counter", "Asynchronous invocations that ended after an attempt, by state", ("state",), _by(ended))
    yield Family("pyfaas_job_retries", "counter", "Attempts that are to be made again", (), _one(jobs.ended[JobState.QUEUED]))


def _storage(service: Service, journal: Journal) -> Iterator[Family]:
    path = os.path.join(service.config.data_dir, "pyfaas.db")
    sizes = {kind: _size(path + end) for kind, end in (("main", ""), ("wal", "-wal"))}
    yield Family("pyfaas_database_bytes", "gauge", "Size of the database's files", ("file",), _by(sizes))
    yield Family("pyfaas_journal_pending_rows", "gauge", "Rows of usage and logs that are not written yet", (), _one(journal.pending()))
    yield Family("pyfaas_journal_dropped_rows", "counter", "Rows of usage and logs that could not be written", (), _one(journal.failed))
    transfers = service.publisher.transfers
    ended = {"finished": float(transfers.finished), "failed": float(transfers.failed)}
    yield Family("pyfaas_bundle_downloads", "counter", "Downloads of bundles from where they are kept, by how they ended", ("end",), _by(ended))
    yield Family("pyfaas_bundle_downloads_running", "gauge", "Downloads of bundles that are under way", (), _one(transfers.running))
    yield Family("pyfaas_bundle_download_bytes", "counter", "Bytes of bundles that were downloaded", (), _one(transfers.bytes))
    downloads = service.dispatcher.fleet.downloads
    counts: dict[str, float] = {target.value: count for target, count in downloads.transfers.items()}
    copied: dict[str, float] = {target.value: size for target, size in downloads.bytes.items()}
    yield Family("pyfaas_code_downloads", "counter", "Copies of a version's code into a VM, by where they went", ("target",), _by(counts))
    yield Family("pyfaas_code_download_bytes", "counter", "Bytes that were copied into VMs, by where they went", ("target",), _by(copied))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # no log is there after a checkpoint at closing


def _by_function(service: Service, tally: Tally) -> Iterator[Family]:
    registry = service.registry

    def names(account: AccountId, function: FunctionId) -> Labels:
        entry, known = registry.entries.get(function), registry.accounts.get(account)
        return known.name if known else account, entry.function.name if entry else function

    labels = ("account", "function")
    runs = {(*names(a, f), str(outcome)): float(one.runs) for (a, f, outcome), one in tally.sums.items() if f}
    yield Family("pyfaas_function_runs", "counter", "Runs by who pays, function and outcome", (*labels, "outcome"), runs)
    wall: Counter[Labels] = Counter()
    cpu: Counter[Labels] = Counter()
    for (account, function, _), one in tally.sums.items():
        if function:
            wall[names(account, function)] += one.wall_us
            cpu[names(account, function)] += one.cpu_us
    for name, says, sums in (
        ("pyfaas_function_run_seconds", "Time of runs by who pays and function", wall),
        ("pyfaas_function_cpu_seconds", "Processor time of runs by who pays and function", cpu),
    ):
        yield Family(name, "counter", says, labels, {who: micros / 1e6 for who, micros in sums.items()})
    running = {names(e.function.account, e.function.id): float(e.running) for e in registry.entries.values()}
    yield Family("pyfaas_function_running", "gauge", "Runs admitted now by owner and function", labels, running)
