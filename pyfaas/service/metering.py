"""Who used what: usage rows whose processor time adds up to what the containers' leaves counted.

Theory of operation. A run's row is made when it ends, with what its process's own clock shows: one system call of half a microsecond. That
misses children, and what goes on between runs. So the leaf's counter is read beside it, off the way of a call: at the end of a run when the
last reading is a second old, of idle containers in turn, and at a container's end by whoever removes the leaf. What it shows beyond the rows
(`decisions/metering`) goes to the runs since the last reading, by their time, as rows that count no run; when there were none, to a row of
kind `idle`. Imports are `init`, preparations `build`, which their owner pays. A second of this is lost with the server, and of a container that
long did nothing several.

`rejected` and `lost` runs are free: their rows have neither time nor memory, and nothing of the network. A lost one's processor time is
nobody's. A rejected one's is in an `idle` row: it is the code that says that an event does not fit, and could burn any amount on somebody
else's account by saying so.

What the network carried is told by VM, so it is the run's that is longest at it there; else the last run's, as long as that ended just now; else
`idle`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from pyfaas.calls import Result
from pyfaas.decisions.metering import Reckoning, split
from pyfaas.model import AccountId, Outcome, UsageRow, Version
from pyfaas.ports import Clock, Container
from pyfaas.service.journal import Journal
from sandbox.spec import Ending, Usage

if TYPE_CHECKING:
    from pyfaas.service.lane import Call, Lane
    from pyfaas.service.session import Session

FREE = frozenset({Outcome.REJECTED, Outcome.LOST})
_EVERY_S, _SELDOM_S = 1.0, 8.0  # between two readings of a container; of one that does nothing, in the end
_READINGS = 100  # at most in a tick: each takes some 10 µs
_TURN = 50  # ticks in which all containers have their turn
_RECENT_S = 5.0  # a run that ended so long ago is still whose bytes come
_WAYS_OUT = 1000  # VMs whose last row is remembered
_ADDS: Mapping[str, Any] = {"count": 0, "wall_us": 0, "cpu_us": 0, "bytes_in": 0, "bytes_out": 0, "net_in": 0, "net_out": 0, "connections": 0}


class _Ledger:
    """What is known of one container."""

    __slots__ = ("began", "every", "is_loaded", "is_lost", "job", "net", "peak", "read_at", "reckoning", "runs")

    def __init__(self, reckoning: Reckoning, now: float) -> None:
        """Begin at an assignment."""
        self.reckoning, self.began, self.read_at = reckoning, now, now
        self.every, self.peak = _EVERY_S, 0
        self.runs: list[UsageRow] = []  # since the last reading, but for free ones
        self.net: dict[str, int] = {}  # of the run that goes on
        self.job: list[UsageRow] | None = None  # where rows go: those of an attempt that ends are written with its end
        self.is_loaded = self.is_lost = False


class Meter:
    """Makes the usage rows of containers, and hands them to the journal; of an attempt at an asynchronous call, to its result."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        """Begin with no containers."""
        self._journal, self._clock = journal, clock
        self._ledgers: dict[Session, _Ledger] = {}
        self._turn: deque[Session] = deque()
        self._out: dict[str, dict[Session, None]] = {}  # VMs with network → their containers
        self._last: dict[str, UsageRow] = {}  # VMs with network → the last row there
        self._builds: dict[str, Build] = {}  # by VM

    # ---- containers

    def began(self, session: Session) -> None:
        """Take note that a container is assigned: what its leaf counted before is nobody's. Call before anything is sent."""
        usage = session.box.usage()
        self._ledgers[session] = _Ledger(Reckoning(usage.cpu_us, session.box.cpu_ns()), self._clock.monotonic())
        self._turn.append(session)
        if session.lane.network is not None:
            self._out.setdefault(session.slot.vm, {})[session] = None

    def loaded(self, session: Session, took_s: float) -> None:
        """Write what an import took, which may have failed."""
        ledger, box = self._ledgers[session], session.box
        usage, clock_ns = box.usage(), box.cpu_ns()
        ledger.is_loaded, ledger.read_at, ledger.peak = True, self._clock.monotonic(), usage.memory_peak_bytes
        cpu_us = ledger.reckoning.ran(clock_ns) + ledger.reckoning.read(usage.cpu_us, clock_ns)
        self._write(session, ledger, self._row("init", session.lane, wall_us=round(took_s * 1e6), cpu_us=cpu_us, peak_bytes=ledger.peak))

    def call_ended(self, session: Session, call: Call, result: Result, now: float, *, is_gone: bool = False) -> None:
        """Write the row of a run, ended at `now` (monotonic); `is_gone` when its container ended with it."""
        ledger = self._ledgers[session]
        cpu_us = ledger.reckoning.ran(session.box.cpu_ns())
        if call.request.is_job:
            ledger.job = result.usage = []
        if result.outcome in FREE:
            self._free(session, ledger, call, result, cpu_us)
        else:
            row = self._row("call", session.lane, call, outcome=result.outcome, wall_us=round((now - call.started) * 1e6), cpu_us=cpu_us,
                bytes_in=len(call.body), bytes_out=len(result.body), **ledger.net)  # fmt: skip
            ledger.runs.append(row)
            self._write(session, ledger, row)
        if ledger.net:
            ledger.net = {}
        if not is_gone and (ledger.job is not None or now - ledger.read_at >= _EVERY_S):
            self._read(session, ledger, now)
            ledger.job = None

    def tick(self, now: float) -> None:
        """Read some of the idle containers, so that each is read about once a second."""
        for _ in range(min(_READINGS, -(-len(self._turn) // _TURN))):
            session = self._turn.popleft()
            ledger = self._ledgers.get(session)
            if ledger is None:
                continue
            self._turn.append(session)
            if ledger.is_loaded and session.call is None and now - ledger.read_at >= ledger.every:
                self._read(session, ledger, now)

    def ended(self, session: Session, ending: Ending) -> None:
        """Write what is left of a container that has ended, by its leaf's last counters."""
        ledger = self._ledgers.pop(session, None)
        if ledger is None:
            return
        vm = session.slot.vm
        if vm in self._out:
            self._out[vm].pop(session, None)
            if not self._out[vm]:
                del self._out[vm]
        if not ledger.is_lost:
            used = _last_words(ending)
            self._settle(session, ledger, ledger.reckoning.read(used.cpu_us), used.memory_peak_bytes)

    def close(self) -> None:
        """Write what is owed: nobody will see how these containers end."""
        now = self._clock.monotonic()
        for session, ledger in self._ledgers.items():
            if ledger.is_loaded:
                self._read(session, ledger, now)

    # ---- the network

    def network_used(self, vm: str, bytes_in: int, bytes_out: int, connections: int) -> None:
        """Write what came through a VM's doors since the last time."""
        used = {"net_in": bytes_in, "net_out": bytes_out, "connections": connections}
        build = self._builds.get(vm)
        if build is not None:
            _add(build.net, used)
            return
        here = self._out.get(vm, {})
        running = [session for session in here if session.call is not None]
        if running:
            _add(self._ledgers[min(running, key=_started)].net, used)
            return
        last = self._last.get(vm)
        if last is None and here:
            last = self._row("idle", next(iter(here)).lane)
        if last is not None:
            self._journal.usage.append(replace(last, **{**_ADDS, **used, **self._whose(last)}))

    def _whose(self, last: UsageRow) -> dict[str, Any]:
        """Return what changes of the last row in a VM for bytes that came after it: nothing when that was just now."""
        now = self._clock.now()
        if last.kind == "call" and now - last.at <= _RECENT_S:
            return {}
        return {"kind": "idle", "outcome": None, "invocation": None, "at": now, "count": 1, "peak_bytes": 0}

    # ---- preparations

    def build(self, version: Version, owner: AccountId) -> Build:
        """Return the meter of one step of a version's preparation, which its owner pays."""
        return Build(self, version, owner, self._clock)

    def build_began(self, vm: str, build: Build) -> None:
        """Take note of the VM of a step."""
        self._builds[vm] = build

    def build_ended(self, vm: str, row: UsageRow) -> None:
        """Write a step's row."""
        self._builds.pop(vm, None)
        self._journal.usage.append(row)

    # ---- rows

    def _free(self, session: Session, ledger: _Ledger, call: Call, result: Result, cpu_us: int) -> None:
        ledger.is_lost = result.outcome is Outcome.LOST
        sizes = {"bytes_in": len(call.body), "bytes_out": len(result.body)}
        self._write(session, ledger, self._row("call", session.lane, call, outcome=result.outcome, **sizes))
        if cpu_us and not ledger.is_lost:
            self._write(session, ledger, self._row("idle", session.lane, cpu_us=cpu_us))

    def _read(self, session: Session, ledger: _Ledger, now: float) -> None:
        usage = session.box.usage()
        owed = ledger.reckoning.read(usage.cpu_us, session.box.cpu_ns())
        ledger.every = _EVERY_S if owed or ledger.runs else min(_SELDOM_S, ledger.every * 2)
        ledger.read_at = now
        self._settle(session, ledger, owed, usage.memory_peak_bytes)

    def _settle(self, session: Session, ledger: _Ledger, owed_us: int, peak: int) -> None:
        """Write what a reading of the leaf found, and begin to collect anew."""
        runs, ledger.runs = ledger.runs, []
        is_higher, ledger.peak = peak > ledger.peak, max(peak, ledger.peak)
        if not runs:
            if not ledger.is_loaded:
                wall_us = round((self._clock.monotonic() - ledger.began) * 1e6)
                self._write(session, ledger, self._row("init", session.lane, wall_us=wall_us, cpu_us=owed_us, peak_bytes=peak))
            elif owed_us:
                self._write(session, ledger, self._row("idle", session.lane, cpu_us=owed_us, peak_bytes=peak))
        elif owed_us or is_higher:
            for row, share in _shares(runs, owed_us):
                self._write(session, ledger, replace(row, **{**_ADDS, "cpu_us": share, "peak_bytes": peak}))

    def _row(self, kind: str, lane: Lane, call: Call | None = None, *, outcome: Outcome | None = None, **counts: int) -> UsageRow:
        owner = lane.entry.function.account
        way = lane.way if call is None else call.way
        payer = lane.payer if call is None else call.account.id
        return UsageRow(
            kind=kind,
            at=self._clock.now(),
            account=payer,
            caller=way.caller if way is not None else payer,
            owner=owner,
            function=lane.version.function,
            version=lane.version.number,
            invocation=call.id if call is not None else None,
            outcome=outcome,
            way=way.id if way is not None else "",
            operation=way.operation if way is not None else "",
            memory_bytes=lane.memory,
            **counts,
        )

    def _write(self, session: Session, ledger: _Ledger, row: UsageRow) -> None:
        if ledger.job is None:
            self._journal.usage.append(row)
        else:
            ledger.job.append(row)
            self._journal.kept_elsewhere.append(row)
        if session.lane.network is not None:
            self._last.pop(session.slot.vm, None)
            self._last[session.slot.vm] = row
            if len(self._last) > _WAYS_OUT:
                del self._last[next(iter(self._last))]


class Build:
    """What one step of a preparation uses, in a VM of its own; its containers are told by whoever has them."""

    def __init__(self, meter: Meter, version: Version, owner: AccountId, clock: Clock) -> None:
        """Begin before there is a VM."""
        self._meter, self._version, self._owner, self._clock = meter, version, owner, clock
        self._began = clock.monotonic()
        self._bases: dict[str, int] = {}  # container → what its leaf had counted
        self._used: dict[str, Usage] = {}
        self.net: dict[str, Any] = {}

    def began(self, vm: str) -> None:
        """Take note of its VM."""
        self._began = self._clock.monotonic()
        self._meter.build_began(vm, self)

    def given(self, box: Container) -> None:
        """Count a container from now on."""
        self._bases[box.id] = box.usage().cpu_us

    def saw(self, container: str, usage: Usage) -> None:
        """Take a container's counters; those of a leaf that is gone read 0."""
        if usage.cpu_us:
            self._used[container] = usage

    def ended(self, container: str, ending: Ending) -> None:
        """Take the last counters of a container that has ended."""
        self.saw(container, _last_words(ending))

    def over(self, vm: str, memory_bytes: int, outcome: Outcome) -> None:
        """Write its row."""
        cpu_us = sum(max(0, used.cpu_us - self._bases.get(box, 0)) for box, used in self._used.items())
        row = UsageRow(
            kind="build",
            at=self._clock.now(),
            account=self._owner,
            caller=self._owner,
            owner=self._owner,
            function=self._version.function,
            version=self._version.number,
            invocation=None,
            outcome=outcome,
            wall_us=round((self._clock.monotonic() - self._began) * 1e6),
            cpu_us=cpu_us,
            memory_bytes=memory_bytes,
            peak_bytes=max((used.memory_peak_bytes for used in self._used.values()), default=0),
            **self.net,
        )
        self._meter.build_ended(vm, row)


def _last_words(ending: Ending) -> Usage:
    """Return the counters that an end carries; 0 where nobody read them."""
    cpu_us, peak = (int(ending.evidence.get(name, 0)) for name in ("cpu_us", "memory_peak_bytes"))
    return Usage(cpu_us=cpu_us, memory_peak_bytes=peak)


def _started(session: Session) -> float:
    return session.call.started if session.call is not None else 0.0


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _shares(runs: Sequence[UsageRow], amount_us: int) -> list[tuple[UsageRow, int]]:
    """Divide processor time among runs by their wall time; those that are summed anyway are taken together."""
    kinds: dict[tuple[Any, ...], list[UsageRow]] = {}
    for row in runs:
        kinds.setdefault((row.account, row.caller, row.way, row.operation, row.outcome, row.at // 60), []).append(row)
    shares = split(amount_us, [sum(row.wall_us for row in rows) for rows in kinds.values()])
    return [(rows[0], share) for rows, share in zip(kinds.values(), shares, strict=True)]
