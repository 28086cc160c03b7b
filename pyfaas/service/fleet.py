"""The low-volume fleet: containers found by placement, and a call pushed to each.

Theory of operation. A call that finds an idle container is started at once. Any other waits in its lane; `pump` sees
that as many containers are coming (loading, being forked, being opened) as calls wait, and whatever frees or brings a
container calls it again. A lane that found no room is *starved*, and pumped when a container ends or becomes idle.
A container that is given a version is sent the lane's next plain call along with the order (*promised*): it begins as soon as
the code is there, without a word from here. Nobody else is given that call meanwhile; if the container is lost before it said that it had loaded, the
call goes back to its lane. State changes happen between awaits; only forking and opening wait, in tasks that `_tasks` owns.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from pyfaas.calls import Result
from pyfaas.config import Config
from pyfaas.decisions.downloads import Target
from pyfaas.decisions.placement import Placement, Pool, PoolLimits, Slot, State, Step
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import EventKind, FunctionId, Outcome, TenantKey
from pyfaas.ports import Clock, Container, Workers
from pyfaas.service.beside import Beside
from pyfaas.service.downloads import Downloads
from pyfaas.service.finish import Finisher, plain, refused
from pyfaas.service.lane import Call, Lane
from pyfaas.service.session import Doom, Session
from sandbox.errors import SandboxError
from sandbox.spec import Ending, Fate
from sandbox.wire import Answer

log = logging.getLogger(__name__)
_GRACE_S = 1.0  # between killing a container and giving its call up
_SPARE_AFTER_S = (0.03, 0.004)  # forking takes a processor for some milliseconds: not while a first call runs; sooner where each call is one
_OPEN_AT_ONCE = 4
_AHEAD_AT_ONCE = 2  # imports that nobody waits for: they take the processors from the calls that run
_BACK_OFF_S = 1.0


class Fleet:
    """Owns the pool, the lanes and the sessions. `finish` takes each call's result; `loaded` hears of each load."""

    def __init__(self, config: Config, workers: Workers, clock: Clock, finisher: Finisher) -> None:
        """Begin with empty pools; ticks fill them."""
        self.workers, self.clock, self.finisher = workers, clock, finisher
        self.pool = Pool(
            PoolLimits(
                warm=config.warm_vms,
                max_vms=config.max_vms,
                max_containers=config.max_containers,
                idle_seconds=config.idle_seconds,
                grace_seconds=min(config.grace_seconds, config.idle_seconds),
            )
        )
        self.lanes: dict[tuple[TenantKey, tuple[FunctionId, int]], Lane] = {}
        self.sessions: dict[str, Session] = {}  # container id → session
        self.busy: dict[Session, None] = {}  # loading or running, for the sweep
        self.finish: Callable[[Call, Result], None]
        self.loaded: Callable[[Lane], None]
        self.left_network: Callable[[Session, Call], None] = lambda _session, _call: None  # a call ended that had a way out
        self.cold: Counter[str] = Counter()  # calls whose container was loaded for them, by step of the cascade
        self.downloads = Downloads(workers, clock, config.code_cache)
        self.beside = Beside(self, Target(config.download_to))
        self._blanks: dict[str, Container] = {}
        self._starved: dict[Lane, None] = {}
        self._left: set[TenantKey] = set()  # homes whose VMs are closed when they are empty
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = self._awaited = 0  # VMs being made; forks that calls wait for
        self._open_after = 0.0
        self.listen(lambda *_args, **_detail: None)
        workers.on_lost, workers.on_vm_lost = self._all_lost, self._vm_lost

    def listen(self, tell: Callable[..., None]) -> None:
        """Tell what happens to versions: (function, version, EventKind, **detail)."""
        self.tell = self.downloads.told = tell

    # ---- placing

    def run(self, call: Call, lane: Lane, now: float) -> None:
        """Start a call in an idle container, or queue it in its lane and see that one comes."""
        if lane.is_gone:  # the call was held by a limit meanwhile; there may be another lane of the version now
            lane = call.lane = self._living(lane)
        if call.expires and call.expires <= now:
            self.finish(call, expired(call, now))
            return
        slot = None if lane.waiting else self.pool.take_idle(lane.tenant, lane.key, now)
        if slot is not None:
            self._start(self.sessions[slot.id], call, now)
        else:
            lane.waiting.append(call)
            if call.requested != lane.version.number:
                _stray(call)
            self.pump(lane)

    def _living(self, lane: Lane) -> Lane:
        found = self.lanes.setdefault((lane.tenant, lane.key), lane)
        found.is_gone = False
        return found

    def pump(self, lane: Lane) -> None:
        """See that as many containers are coming as calls wait, and as are wanted ahead of calls."""
        while not lane.is_gone and lane.coming < len(lane.waiting) + min(lane.ahead, _AHEAD_AT_ONCE):
            now = self.clock.monotonic()
            if lane.ahead and not lane.waiting and (bringing := self.beside.bring(lane)) is not None:
                lane.coming += 1
                self._task(bringing)
                continue
            placement = self.pool.place(lane.tenant, lane.key, now, lane.near, home=lane.home, is_plain=lane.network is None)
            if placement.step is Step.IDLE and placement.slot is not None:
                lane.ahead = lane.ahead if lane.waiting else 0
                self._next(self.sessions[placement.slot.id], now)
            elif placement.step is Step.FULL:
                self._no_room(lane, placement)
                return
            else:
                lane.coming += 1
                self._bring(lane, placement)

    def preload(self, lane: Lane, count: int) -> None:
        """Load the lane's version into containers before a call needs them, `count` with those it has."""
        lane.ahead = max(lane.ahead, count - lane.loaded - lane.promised)
        self.pump(lane)

    def _no_room(self, lane: Lane, placement: Placement) -> None:
        lane.ahead = 0  # nobody waits for these
        if lane.waiting:
            self._starved[lane] = None
            self._evict(placement.evict)
        self.loaded(lane)

    def drop(self, lane_keys: set[tuple[FunctionId, int]]) -> None:
        """End the idle containers of versions that nobody will call again, and the others after their run."""
        for lane in self.lanes.values():
            lane.is_dropped |= lane.key in lane_keys
        for slot in self.pool.idle_of(lane_keys):
            self._retire(slot)

    def leave(self, is_left: Callable[[Lane], bool]) -> None:
        """End the containers of lanes that nobody may call again, and their VMs once they are empty."""
        for lane in [lane for lane in self.lanes.values() if is_left(lane)]:
            lane.is_dropped = True
            self._left.add(lane.home)
            for slot in list(self.pool.idle.get((lane.tenant, lane.key), ())):
                self._retire(slot)

    def _close_left(self) -> None:
        """Close the VMs of homes that were left; one that is used again stays."""
        for home in self._left & self.pool.by_tenant.keys():
            if any(lane.home == home and not lane.is_dropped for lane in self.lanes.values()):
                self._left.discard(home)
            else:
                self._close(self.pool.empty(home))
        self._left &= self.pool.by_tenant.keys()

    def _bring(self, lane: Lane, placement: Placement) -> None:
        if placement.slot is not None:
            self.load(lane, placement.slot, placement.step)
        elif placement.step is Step.FORK:
            self._task(self._fork(placement.vm, lane))
        else:
            self._task(self._open_vm(lane))

    def load(self, lane: Lane, slot: Slot, step: Step) -> None:
        """Give a blank its limits, its order and its code; it reads the order while the code is attached, and answers to `_loaded`."""
        box = self._blanks.pop(slot.id)
        session = self.sessions[slot.id] = Session(slot, box, lane, self._loaded, self._finished)
        session.why = step.value
        lane.containers += 1
        lane.loading += 1
        session.deadline = self.clock.monotonic() + lane.init_timeout_s
        self.busy[session] = None

        def attached(error: Exception | None) -> None:
            if error is not None:
                log.error("attach_failed", extra={"container": slot.id, "error": str(error)})
                session.end(Doom(Outcome.LOST, f"the code could not be attached: {error}"))

        box.limit(lane.limits)
        self.finisher.meter.began(session)
        session.order(self._promise(lane))
        box.attach_nowait(self.downloads.mounts(slot.vm, lane.version, lane.mounts, slot.id), attached)
        asyncio.get_running_loop().call_later(_SPARE_AFTER_S[lane.is_fresh], self._spare, slot.vm, lane.spares(session.slot.since))

    def _promise(self, lane: Lane) -> Call | None:
        """Take the call that a container may have with its order: the lane's first, when it is plain and small.

        None while others have the code: one of them frees in a moment, and an import may take seconds.
        """
        while lane.waiting and lane.waiting[0].is_done:
            lane.waiting.popleft()
        if lane.loaded or not lane.waiting or not lane.waiting[0].is_plain:
            return None
        lane.coming -= 1
        lane.promised += 1
        return lane.waiting.popleft()

    def _spare(self, vm: str, blanks: int) -> None:
        """Give an active VM its blanks again, once the call that took the last one is out of the way."""
        for _ in range(2):  # the one that was taken, and another towards their number: many at once would stand in their own way
            if self.pool.spare(vm, blanks):
                self._task(self._fork(vm, None))

    async def _fork(self, vm: str, lane: Lane | None) -> None:
        box = None
        self._awaited += lane is not None
        try:
            box = await self.workers.fork(vm, is_hurried=lane is not None)
        except (SandboxError, PyfaasError) as error:
            log.warning("fork_failed", extra={"vm": vm, "error": str(error)})
        finally:
            self._awaited -= lane is not None
        known = self.pool.forked(vm, box.id if box else None, self.clock.monotonic())
        if box is not None and not known:
            box.kill()
        self._arrived(box if known else None, lane, failed=box is None)

    async def _open_vm(self, lane: Lane | None) -> None:
        """Make a VM for the warming pool, or, for a lane with network, one that reaches what that may."""
        network = lane.network if lane is not None else None
        home = lane.home if lane is not None and network is not None else None
        self._opening += 1
        try:
            vm, box = await self.workers.open_vm(network=network)
        except (SandboxError, PyfaasError) as error:
            log.warning("open_vm_failed", extra={"error": str(error)})
            self._open_after = self.clock.monotonic() + _BACK_OFF_S
            self.pool.open_failed(home)
            self._arrived(None, lane, failed=True)
        else:
            self.pool.vm_opened(vm, box.id, self.clock.monotonic(), home)
            self._arrived(box, lane, failed=False)
        finally:
            self._opening -= 1

    def _arrived(self, box: Container | None, lane: Lane | None, *, failed: bool) -> None:
        if box is not None:
            self._keep_blank(box)
        if lane is not None:
            lane.coming -= 1
            if failed and lane.waiting:
                call = lane.waiting.popleft()
                self.finish(call, refused(call, Code.NO_CAPACITY, "no container could be made for this call"))
            elif failed and lane.ahead:
                lane.ahead -= 1
                self.loaded(lane)
            self.pump(lane)
        self._feed()

    def _feed(self) -> None:
        """Try again for the lanes that found no room."""
        if self._starved:
            starved, self._starved = self._starved, {}
            for lane in starved:
                self.pump(lane)

    def claim(self, lane: Lane) -> None:
        """Take over the calls that name this version and still wait for an older one."""
        while (call := _take_stray(lane)) is not None:
            call.lane = lane
            self.run(call, lane, self.clock.monotonic())

    def put_back(self, session: Session) -> None:
        """Give a reserved container its lane's next call, or make it idle."""
        self._next(session, self.clock.monotonic())

    def adopt(self, box: Container, lane: Lane) -> Slot | None:
        """Take in a container whose process was replaced, for a lane; None when its VM is gone."""
        slot = self.pool.replaced(box.vm, box.id, lane.tenant, lane.key, self.clock.monotonic())
        if slot is None:
            box.kill()
        else:
            self._keep_blank(box)
        return slot

    def _keep_blank(self, box: Container) -> None:
        vm, key = box.vm, box.id
        self._blanks[key] = box
        box.on_end = lambda ending: self._blank_ended(vm, key, ending)

    # ---- running

    def _start(self, session: Session, call: Call, now: float) -> None:
        self._count(session, call)
        deadline = now + session.lane.timeout_s
        if call.expires and call.expires < deadline:
            deadline = call.expires
        session.start(call, deadline, now, self.clock.now())

    def _count(self, session: Session, call: Call) -> None:
        call.lane = session.lane
        session.lane.busy += 1
        session.slot.calls += 1
        if session.lane.is_new:
            self._tell_first_run(session.lane)
        self.busy[session] = None

    def _next(self, session: Session, now: float) -> bool:
        """Start the lane's next living call in a reserved container, or put the container back; True when one started."""
        lane = session.lane
        while lane.waiting:
            call = lane.waiting.popleft()
            if call.is_done:
                continue
            if call.expires and call.expires <= now:
                self.finish(call, expired(call, now))
                continue
            self._occupy(session, call, now)
            self._start(session, call, now)
            return True
        if lane.entry.straying and (stray := _take_stray(lane)) is not None:
            self._occupy(session, stray, now)
            self._start(session, stray, now)
            return True
        session.why = ""
        if not (self.beside.wanted and self.beside.take(session)):
            self.pool.release(session.slot, now)
            if lane.is_dropped:
                self._retire(session.slot)
            self._feed()
        return False

    def _occupy(self, session: Session, call: Call, now: float) -> None:
        session.slot.state = State.BUSY
        if session.why:  # its first call since it was loaded
            call.why, call.init_s, session.why = session.why, now - session.slot.since, ""
            self.cold[call.why] += 1
        session.slot.since = now

    def _tell_first_run(self, lane: Lane) -> None:
        lane.is_new = False
        if lane.version.number not in lane.entry.ran:
            lane.entry.ran.add(lane.version.number)
            self.tell(lane.version.function, lane.version.number, EventKind.FIRST_RUN)

    def _keep_promise(self, session: Session, call: Call, now: float) -> None:
        """Take note that the call which came with the order has begun."""
        self._occupy(session, call, now)
        session.promised = None
        session.lane.promised -= 1
        self._count(session, call)
        session.begin(call, now + session.lane.timeout_s, now)

    def _loaded(self, session: Session, ok: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> None:
        if session.doom is not None:
            return  # it was given up meanwhile; its end follows, and settles the rest
        now, lane, promised = self.clock.monotonic(), session.lane, session.promised
        lane.loading -= 1
        took = now - session.slot.since
        if promised is None:
            lane.coming -= 1
            if not lane.waiting:
                lane.ahead = max(0, lane.ahead - 1)
        self.busy.pop(session, None)
        if ok is None or ok.get("printed"):  # else what lies there may be the promised call's
            session.drain_logs()
        self.finisher.init_done(session, took)
        if error is not None:
            session.end(Doom(Outcome.INIT_ERROR, "the code could not be loaded"))
            call = self._unpromise(session) or (lane.waiting.popleft() if lane.waiting else None)
            if call is not None:
                self.finish(call, self.finisher.init_failed(call, error, took))
        elif promised is not None:
            self._keep_promise(session, promised, now)
        else:
            self._next(session, now)
        self.pump(lane)
        self.loaded(lane)

    def _unpromise(self, session: Session) -> Call | None:
        """Take the promised call back from a container that will not run it."""
        call, session.promised = session.promised, None
        if call is not None:
            session.lane.promised -= 1
            call.session = None
        return call

    def _finished(self, session: Session, answer: Answer | None, rest: bytes, ending: Ending | None) -> None:
        now, call, lane = self.clock.monotonic(), session.call, session.lane
        result = None
        if call is not None:
            if ending is not None:
                session.drain_logs()
            session.call = None
            session.is_streaming = False
            lane.busy -= 1
            self.busy.pop(session, None)
            if lane.network is not None:
                self.left_network(session, call)
            result = self.finisher.result(session, call, answer, rest, ending, now)
        if ending is not None:
            self._gone(session, ending, now, had_call=call is not None)
        elif session.doom is None:
            if lane.is_dropped or lane.is_fresh:
                self.pool.release(session.slot, now)
                self._retire(session.slot)
                self.pump(lane)
            else:
                self._next(session, now)
        if call is not None and result is not None:
            self.finish(call, result)

    def _gone(self, session: Session, ending: Ending, now: float, *, had_call: bool) -> None:
        lane, slot = session.lane, session.slot
        was_loading = slot.state is State.LOADING and session in self.busy
        self.busy.pop(session, None)
        self.sessions.pop(slot.id, None)
        self.finisher.meter.ended(session, ending)
        self.pool.container_gone(slot.vm, slot.id)
        self.downloads.ended(slot.vm, slot.id)
        lane.containers -= 1
        lane.loading -= was_loading
        if was_loading and not had_call:
            self._died_loading(session, ending, now)
        self.pump(lane)
        if not (lane.containers or lane.waiting or lane.coming):
            self._emptied(lane)
        self._feed()

    def _emptied(self, lane: Lane) -> None:
        self.lanes.pop((lane.tenant, lane.key), None)
        lane.is_gone, lane.ahead = True, 0
        lane.entry.routes.clear()
        self.beside.emptied(lane)
        if not lane.entry.pointers_to(lane.version.number):
            self.tell(lane.version.function, lane.version.number, EventKind.OLD_GONE)

    def _died_loading(self, session: Session, ending: Ending, now: float) -> None:
        """End the call that the container was loaded for, unless its end was ours: then the call waits for another."""
        lane, call = session.lane, self._unpromise(session)
        is_theirs = ending.fate not in (Fate.LOST, Fate.KILLED) or session.doom is not None
        if call is None:
            lane.coming -= 1
            if not lane.waiting:
                lane.ahead = max(0, lane.ahead - 1)
            elif is_theirs:
                call = lane.waiting.popleft()
        elif not is_theirs:
            if not call.is_done:
                lane.waiting.appendleft(call)
            call = None
        if call is not None:
            self.finish(call, self.finisher.died_loading(session, call, ending, now))
        self.loaded(lane)

    def _blank_ended(self, vm: str, container: str, ending: Ending) -> None:
        self._blanks.pop(container, None)
        self.pool.container_gone(vm, container)
        if ending.fate is not Fate.KILLED:
            log.warning("blank_ended", extra={"vm": vm, "container": container, "fate": ending.fate.value})
        if vm not in self.pool.vms:
            self._task(self._close_vm(vm))

    def _vm_lost(self, vm: str) -> None:
        """Forget a VM; its containers' ends were told before."""
        record = self.pool.vms.get(vm)
        if record is not None:
            for container in record.slots:
                self._blanks.pop(container, None)
            self.pool.vm_gone(vm)
            self.downloads.vm_gone(vm)
            log.warning("vm_lost", extra={"vm": vm})

    def _all_lost(self) -> None:
        """Forget every VM: the launcher ended, and they with it."""
        for vm in list(self.pool.vms):
            self.pool.vm_gone(vm)
            self.downloads.vm_gone(vm)
        self._blanks.clear()
        for session in list(self.sessions.values()):
            session.ended(Ending(fate=Fate.LOST))
        log.error("launcher_lost")

    # ---- upkeep

    def sweep(self, now: float) -> None:
        """End what is over its deadline, and read the logs of what runs long."""
        for session in list(self.busy):
            if session.deadline < now:
                if session.doom is None:
                    session.end(_late(session, now))
                    session.deadline = now + _GRACE_S
                else:
                    session.ended(Ending(fate=Fate.LOST))
            elif session.call is None or now - session.call.started > 0.02:
                session.drain_logs()
        self.finisher.meter.tick(now)

    def upkeep(self, now: float) -> None:
        """Refill the warming pool; as long as it has a VM, what a call waits for is made first."""
        if now >= self._open_after and self._opening < _OPEN_AT_ONCE and not (self._awaited and self.pool.warm):
            for _ in range(self.pool.refill(now)):
                self._task(self._open_vm(None))

    def age(self, now: float, left: Collection[tuple[FunctionId, int]] = ()) -> None:
        """End idle containers and VMs after their time; those of versions that were left sooner."""
        slots, vms = self.pool.aged(now, left)
        for slot in slots:
            self._retire(slot)
        self._close(vms)
        self._close_left()
        self._task(self.downloads.sweep())

    def _close(self, vms: Sequence[str]) -> None:
        """Close VMs that have blanks only."""
        for vm in vms:
            for container in list(self.pool.vms[vm].slots):
                self._blanks.pop(container, None)
            self.pool.vm_gone(vm)
            self.downloads.vm_gone(vm)
            self._task(self._close_vm(vm))

    def _retire(self, slot: Slot) -> None:
        """End an idle container; it can not be chosen any more from here on."""
        session = self.sessions[slot.id]
        self.pool.idle[(session.lane.tenant, session.lane.key)].remove(slot)
        slot.state = State.BUSY
        session.end(Doom(Outcome.CANCELLED, "retired"))

    def _evict(self, container: str | None) -> None:
        if container is not None and container in self.sessions:
            self._retire(self.sessions[container].slot)

    async def _close_vm(self, vm: str) -> None:
        try:
            await self.workers.close_vm(vm)
        except SandboxError as error:
            log.warning("close_vm_failed", extra={"vm": vm, "error": str(error)})

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("fleet_task_failed", exc_info=task.exception())

    async def close(self) -> None:
        """Stop the tasks; the VMs end with the launcher."""
        self.finisher.meter.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _stray(call: Call) -> None:
    """Let the version that a call named take it as well, should that have a container first."""
    straying = call.entry.straying
    while straying and (straying[0].is_done or straying[0].session is not None):
        straying.popleft()
    straying.append(call)


def _take_stray(lane: Lane) -> Call | None:
    """Take a call of the lane's tenant key that names this version and waits for an older one: it is no old answer then."""
    straying = lane.entry.straying
    waiting = (c for c in straying if c.requested == lane.version.number and not c.is_done and c.lane is not None and c in c.lane.waiting)
    call = next((c for c in waiting if c.lane is not None and c.lane.tenant == lane.tenant), None)
    if call is None or call.lane is None or call.lane is lane:
        return None
    straying.remove(call)
    call.lane.waiting.remove(call)
    if call.tally is not None:
        call.tally.stale -= 1
        call.tally = None
    return call


def expired(call: Call, now: float) -> Result:
    """Make the result of a call whose deadline passed before it could start."""
    waited = round((now - call.submitted) * 1000)
    evidence = {"limit": "deadline", "value": call.request.timeout_ms, "observed": waited, "unit": "ms"}
    return plain(call, Outcome.TIMEOUT, "the deadline passed before the code could start", evidence)


def _late(session: Session, now: float) -> Doom:
    call, lane = session.call, session.lane
    if call is None:
        value = lane.version.revision.init_timeout_ms
        evidence = {"limit": "init_timeout", "value": value, "observed": round((now - session.slot.since) * 1000), "unit": "ms"}
        return Doom(Outcome.INIT_ERROR, f"the import took longer than init_timeout ({value} ms)", evidence)
    if call.is_cancelled:
        return Doom(Outcome.CANCELLED, "the call was cancelled")
    observed = round((now - call.started) * 1000)
    limit, value = ("timeout", round(lane.timeout_s * 1000))
    if call.expires and call.expires - call.started < lane.timeout_s:
        limit, value = "deadline", call.request.timeout_ms or 0
    evidence = {"limit": limit, "value": value, "observed": observed, "unit": "ms"}
    return Doom(Outcome.TIMEOUT, f"the run took longer than its {limit} ({value} ms)", evidence)
