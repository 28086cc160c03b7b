"""The way of a call through the server: admit, route, run, finish; synchronous, without a task per call.

Theory of operation. `submit` decides everything it can at once and reserves in the same call. Calls over a
concurrency limit are *held* per account, and admitted in turn when a run ends; calls that name a version which is
not ready yet *await* its preparation. All others go to the fleet. One tick of 20 ms does what time alone decides.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from pyfaas.calls import Request, Result, Sink
from pyfaas.config import Config
from pyfaas.decisions import rollout, routing, staleness
from pyfaas.decisions.quota import Admission
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import AccountId, EventKind, FunctionId, Outcome, StalePolicy, TenantKey, Version, VersionState
from pyfaas.network import intersect
from pyfaas.ports import Clock
from pyfaas.service.admission import Admissions
from pyfaas.service.finish import Finisher, plain, refused
from pyfaas.service.fleet import Fleet, expired
from pyfaas.service.ids import Ids
from pyfaas.service.lane import AccountLoad, Call, Lane, meta_of
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.sealing import seal
from pyfaas.service.session import Doom
from pyfaas.service.ways import Use, Way, Ways

TICK_S = 0.02
_FREE = staleness.Merged(is_allowed=True)  # whatever is not ready is not waited for
_CANCEL_GRACE_S = 2.0  # for a generator to close before its container is ended
_PRELOAD = 16
_SETTLED = frozenset({VersionState.READY, VersionState.FAILED})
_FREE_OF_CHARGE = frozenset({Outcome.LOST, Outcome.REJECTED})
_REVOKED = "cancelled: revoked"
_MAX_META = 1 << 20  # a chain of eight with as many secrets as may be


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was decided for a request; `is_lasting` until something about the function changes."""

    route: routing.Route
    decision: rollout.Decision
    policy: staleness.Merged
    tally: staleness.Tally
    is_lasting: bool


class Dispatcher:
    """Accepts calls and sees each to its one end. `prepare` starts a version's preparation."""

    def __init__(self, config: Config, registry: Registry, ways: Ways, fleet: Fleet, finisher: Finisher, clock: Clock) -> None:
        """Begin without calls."""
        self.config, self.registry, self.ways, self.fleet, self.finisher, self.clock = config, registry, ways, fleet, finisher, clock
        self.ids = Ids(clock.now())
        self.admissions = Admissions(config, registry, clock, self._admitted)
        self.prepare: Callable[[Entry, Version], None] = lambda _entry, _version: None
        self.secrets_of: Callable[[Call], Mapping[str, str]] = lambda _call: {}  # opened
        self.secrets_size: Callable[[Call], int] = lambda _call: 0  # at most, in bytes
        self.is_spent: Callable[[AccountId], bool] = lambda _payer: False  # it moved as much over the network as it may today
        self.audit: Callable[[Way, Result], None] = lambda _way, _result: None
        self.refused: Callable[[Way, str], None] = lambda _way, _code: None
        self.turned_away: Callable[[AccountId, str, str], None] = lambda _account, _name, _code: None  # by a name that leads nowhere
        self.is_draining = False
        self.unrun: Counter[Outcome] = Counter()  # calls that were accepted and ended without having run
        self._awaiting: dict[tuple[FunctionId, int], list[Call]] = {}
        self._cutting: dict[Lane, None] = {}  # lanes that are being loaded beside the ones that run
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        fleet.finish, fleet.loaded = self._finish, self._lane_loaded

    # ---- life

    def open(self) -> None:
        """Start the tick, which fills the warming pool."""
        self._tick()

    async def drain(self, seconds: float) -> int:
        """Refuse new calls and wait for the running ones; returns how many were left."""
        self.is_draining = True
        until = self.clock.monotonic() + seconds
        while (left := self.calls_now()) and self.clock.monotonic() < until:
            await asyncio.sleep(TICK_S)
        return left

    def await_no_preparation(self) -> None:
        """Refuse the calls that wait for a preparation: it is no longer made here."""
        for call in itertools.chain.from_iterable(self._awaiting.values()):
            call.waits_until = 0.0

    async def close(self) -> None:
        """Stop the tick and the fleet."""
        self.is_draining = True
        if self._ticker is not None:
            self._ticker.cancel()
        await self.fleet.close()

    def calls_now(self) -> int:
        """Count the calls that run or wait."""
        return sum(load.running + load.waiting for load in self.admissions.loads.values())

    def _tick(self) -> None:
        now = self.clock.monotonic()
        self._ticks += 1
        self.ids.renew(self.clock.now())
        self.fleet.sweep(now)
        if not self.is_draining:
            self.fleet.upkeep(now)
        if self._awaiting:
            self._sweep_awaiting(now)
        for lane in list(self._cutting):  # what the old version keeps busy changes without a load
            if lane.is_gone:
                del self._cutting[lane]
            else:
                self._lane_loaded(lane)
        if self._ticks % 50 == 0:
            self.fleet.age(now, {lane.key for lane in self.fleet.lanes.values() if self._is_left(lane)})
            self._sweep_waiting(now)
            self.admissions.retry()
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    # ---- accepting

    def submit(self, request: Request, sink: Sink) -> Call:
        """Accept a call, or raise what refuses it (not_found, gone, throttled, not_ready)."""
        if self.is_draining:
            raise PyfaasError(Code.NOT_READY, "the server is stopping", retry_after=1.0)
        entry, way = self._find(request)
        account = self._load_of(request, entry, way)
        now = self.clock.monotonic()
        try:
            admission = self.admissions.decide(account, entry, way, now)
        except PyfaasError as error:
            if way is not None:
                self.refused(way, error.code.value)
            raise
        call = Call(self, request.id or self.ids.next(), request, sink, entry, way, account, now)
        if way is not None or request.http is not None or request.qualifier is not None:
            call.meta = meta_of(request, way)
        call.extra = self.secrets_size(call)
        if call.meta is not None or call.extra:
            _add_size(call)
        lane = entry.routes.get(way or request.qualifier)
        if lane is None or request.stale is not None:
            self._route(call)
        else:
            call.lane, call.requested = lane, lane.version.number
        if way is not None:
            for use in way.gates:
                use.calls[call] = None
        if admission is Admission.ADMIT:
            self.admissions.admit(call, now)
        else:
            self.admissions.hold(call)
        return call

    def _find(self, request: Request) -> tuple[Entry, Way | None]:
        """Return what a name stands for: a function of the account's own, or the way to another's. Raises as `Ways.lead` does."""
        if request.owner is not None:
            account = self.registry.account(request.owner).id
        elif request.caller is not None:
            account = request.caller.account.id
        else:
            raise PyfaasError(Code.UNAUTHENTICATED, "a token is needed", hint="run pyfaas login")
        try:
            return self.ways.lead(account, request)
        except PyfaasError as error:
            self.turned_away(account, request.name, error.code.value)
            raise

    def _load_of(self, request: Request, entry: Entry, way: Way | None) -> AccountLoad:
        caller = request.caller.account.id if request.caller is not None else entry.function.account
        payer = way.payer if way is not None else caller
        return self.admissions.loads.get(payer) or self.admissions.load(payer)

    def _reconsider(self, call: Call) -> None:
        """Decide again for a call that was to be an older version's, and did not begin yet: the named one may have taken over."""
        if call.tally is not None:
            call.tally.stale -= 1
            call.tally = call.lane = None
            self._route(call)

    # ---- routing

    def pin(self, request: Request) -> tuple[int, int]:
        """Return what a qualifier names now and which version serves it: for many calls that are to run one version.

        Raises not_found or gone.
        """
        entry, way = self._find(request)
        choice = self._choose(request, entry, way, request.sticky_key or self.ids.next())
        return choice.route.requested, choice.decision.version

    def _route(self, call: Call, *, has_waited: bool = False) -> None:
        """Resolve the qualifier and decide which version serves; leaves `call.lane` None when it has to wait."""
        request, entry, way = call.request, call.entry, call.way
        key = request.sticky_key or call.id
        choice = self._choose(request, entry, way, key, has_waited=has_waited, is_counted=call.requested is None)
        route, decision = choice.route, choice.decision
        call.requested, call.waits_until = route.requested, call.submitted + choice.policy.max_wait_ms / 1000
        if decision.prepare:
            self.prepare(entry, entry.versions[route.requested])
        if decision.answer not in (rollout.Answer.NEW, rollout.Answer.OLD):
            return
        call.lane = self.lane(entry, entry.versions[decision.version], way)
        if decision.answer is rollout.Answer.OLD:
            call.tally = choice.tally
        elif choice.is_lasting and not route.is_weighted and request.stale is None:
            entry.routes[way or request.qualifier] = call.lane
        if decision.load:
            self.advance(entry, entry.versions[route.requested])

    def _choose(
        self, request: Request, entry: Entry, way: Way | None, key: str, *, has_waited: bool = False, is_counted: bool = True
    ) -> _Choice:
        """Decide, and count the answer: a limit of old answers holds however many requests come at once.

        A call that waited is decided again, and was counted before. Of a lent function both accounts say how old an answer may be.
        """
        qualifier = request.qualifier if way is None else way.qualifier
        pointer = qualifier or routing.LATEST
        moves = entry.moves.get(pointer)
        levels = (moves[-1].policy, entry.function.settings) if moves else (entry.function.settings,)
        levels, asked = (*levels, self._policy_of(entry.function.account)), request.stale
        if way is not None and not way.is_own:  # the caller's account may be stricter than the owner, as a request may
            own = self._policy_of(way.caller)
            levels, asked = (*levels, replace(own, stale=None)), asked or own.stale
        policy = staleness.merge(levels, asked, is_pointer=bool(moves))
        try:
            route = routing.resolve(qualifier, entry.versions, entry.moves, key, policy.min_version)
        except PyfaasError as error:
            if way is None or way.is_own or not way.api:
                raise
            message = "what answered this operation is not there any more"  # by which name its owner called it is the owner's
            raise PyfaasError(Code.GONE, message, hint="ask the API's owner") from error
        version = entry.versions[route.requested]
        tally = entry.tallies.get(pointer)
        if tally is None:
            tally = entry.tallies[pointer] = staleness.Tally(moves[-1].at if moves else version.created)
        is_cut = route.pointer is not None and entry.is_cut(pointer, route.requested)
        decision = rollout.decide(
            route.requested,
            version.state,
            route.substitutes,
            {n: self._supply(entry, n, way) for n in (route.requested, *route.substitutes)},
            may_be_stale=staleness.may_be_stale(policy, tally, self.clock.now()),
            is_cut_over=is_cut,
            has_waited=has_waited,
        )
        tally.total += is_counted
        tally.stale += decision.answer is rollout.Answer.OLD
        return _Choice(route, decision, policy, tally, is_lasting=is_cut or route.pointer is None)

    def _policy_of(self, account: AccountId) -> StalePolicy:
        return self.registry.accounts[account].policy

    def is_whole(self, entry: Entry, pointer: str) -> bool:
        """Tell whether a pointer's calls are answered whole though each is decided anew: during a deploy, or by a weight.

        That is so when no ready version streams, and nobody will wait for one of which that is not known yet.
        """
        moves = entry.moves.get(pointer)
        if moves is None and pointer.isdecimal():
            version = entry.versions.get(int(pointer))
            return version is not None and version.state is VersionState.READY and not (version.deleted or version.generator)
        if not moves or entry.streams():
            return False
        if all(entry.versions[n].state is VersionState.READY for n in (moves[-1].version, *moves[-1].weights)):
            return True
        account = self._policy_of(entry.function.account)
        policy = staleness.merge((moves[-1].policy, entry.function.settings, account), None, is_pointer=True)
        return policy == _FREE and bool(routing.resolve(pointer, entry.versions, entry.moves, "", None).substitutes)

    def lane(self, entry: Entry, version: Version, way: Way | None = None) -> Lane:
        """Return the lane of a version under its owner's tenant key, or a way's."""
        tenant = _tenant(entry, way)
        key = (tenant, (version.function, version.number))
        lane = self.fleet.lanes.get(key)
        if lane is None:
            owner = self.registry.accounts[entry.function.account]
            network = version.revision.network if owner.network else ()
            if way is not None and way.network is not None:
                network = intersect(network, way.network)
            lane = Lane(entry, version, tenant, owner.name, self.config, way=None if way is None or way.tenant == way.home else way, network=network)
            self.fleet.lanes[key] = lane
        return lane

    def _supply(self, entry: Entry, number: int, way: Way | None = None) -> rollout.Supply:
        tenant, key = _tenant(entry, way), (entry.function.id, number)
        if self.fleet.pool.idle.get((tenant, key)):
            return rollout.Supply.FREE
        lane = self.fleet.lanes.get((tenant, key))
        if lane is not None and lane.loaded:
            return rollout.Supply.BUSY
        home = lane.home if lane is not None else way.home if way is not None else tenant
        is_cached = any(self.fleet.downloads.has(vm, entry.versions[number]) for vm in self.fleet.pool.by_tenant.get(home, ()))
        return rollout.Supply.CACHED if is_cached else rollout.Supply.NONE

    # ---- preparation and cut-over

    def prepared(self, entry: Entry, version: Version) -> None:
        """Take note that a version became ready or failed: whoever waited for it goes on."""
        now = self.clock.monotonic()
        for call in self._awaiting.pop((version.function, version.number), ()):
            if not call.is_done:
                self._go_on(call, now)
        if version.state is VersionState.READY:
            self.advance(entry, version)

    def _admitted(self, call: Call, now: float, was_held: bool) -> None:  # noqa: FBT001 - the hook's shape
        """Take a call that is admitted: one that was held is decided anew."""
        if was_held:
            self._reconsider(call)
        self._go_on(call, now)

    def _go_on(self, call: Call, now: float) -> None:
        """Run an admitted call, or let it wait for the version that it named."""
        if call.lane is None and self._named(call).state in _SETTLED:  # since it was decided
            self._route(call)
        if call.lane is not None and call.lane.network is not None and self.is_spent(call.lane.payer):
            asyncio.get_running_loop().call_soon(self._finish, call, _no_traffic(call))
        elif call.lane is not None:
            self.fleet.run(call, call.lane, now)
        elif (version := self._named(call)).state is VersionState.FAILED:
            asyncio.get_running_loop().call_soon(self._finish, call, self.finisher.version_failed(call, version))
        else:
            self._awaiting.setdefault((version.function, version.number), []).append(call)

    def _named(self, call: Call) -> Version:
        assert call.requested is not None  # noqa: S101 - routed before
        return call.entry.versions[call.requested]

    def advance(self, entry: Entry, version: Version) -> None:
        """Load a ready version beside the one that runs, so that its pointers can be cut over without a wait."""
        if entry.pointers_to(version.number) and entry.is_settled(version.number):
            return
        lane = self.lane(entry, version)
        if lane in self._cutting:
            return
        if self._others(lane):
            self._cutting[lane] = None
            self.fleet.preload(lane, min(_PRELOAD, self._wanted(lane)))
            self._lane_loaded(lane)
        else:
            self._cut(entry, version)

    def _lane_loaded(self, lane: Lane) -> None:
        """Complete the cut-over once the new version has as many containers as the old one keeps busy."""
        if lane in self._cutting and (lane.ahead == 0 or lane.loaded >= self._wanted(lane)):
            del self._cutting[lane]
            lane.ahead = 0
            self.fleet.beside.settled(lane)
            self._cut(lane.entry, lane.version)

    def _cut(self, entry: Entry, version: Version) -> None:
        lane = self.fleet.lanes.get((_tenant(entry, None), (entry.function.id, version.number)))
        if lane is not None:
            lane.is_new = True
        for pointer in entry.pointers_to(version.number):
            if not entry.is_cut(pointer, version.number):
                entry.cut_over(pointer, version.number)
                self.fleet.tell(entry.function.id, version.number, EventKind.CUT_OVER, pointer=pointer)
        for way in {call.way for call in entry.straying}:
            self.fleet.claim(self.lane(entry, version, way))

    def _others(self, lane: Lane) -> list[Lane]:
        lanes = self.fleet.lanes.values()
        return [o for o in lanes if o.entry is lane.entry and o is not lane and o.tenant == lane.tenant and o.containers]

    def _wanted(self, lane: Lane) -> int:
        """Return how many containers a version needs to take over: as many as the others keep busy, one for a weight's share."""
        is_whole = any(lane.entry.current(pointer) == lane.version.number for pointer in lane.entry.pointers_to(lane.version.number))
        return max(1, sum(other.busy for other in self._others(lane)) if is_whole else 1)

    def _is_left(self, lane: Lane) -> bool:
        """Whether no pointer names a version any more and whatever replaced it has taken over."""
        entry = lane.entry
        return not entry.pointers_to(lane.version.number) and all(entry.is_cut(p, m[-1].version) for p, m in entry.moves.items() if m)

    # ---- ending

    def _finish(self, call: Call, result: Result) -> None:
        if call.is_done:
            return
        call.is_done = True
        entry = call.entry
        if call.way is not None:
            self._lent_ended(call, call.way, result)
        if entry.counted is not None and result.executed is not None:  # what ended before it ran says nothing of the code
            entry.counted(result.executed, result.outcome)
        self.admissions.ended(call, is_free=result.outcome in _FREE_OF_CHARGE)
        call.sink.done(result)

    def _lent_ended(self, call: Call, way: Way, result: Result) -> None:
        for use in way.gates:
            use.calls.pop(call, None)
        if call.is_revoked:
            result.outcome, result.code = Outcome.CANCELLED, Code.GONE
            result.message, result.evidence = _REVOKED, {"reason": "revoked"}
        if not way.is_own:
            seal(result)
        self.audit(way, result)

    def _give_up(self, call: Call, result: Result) -> None:
        """End a call that waits."""
        self.admissions.take_out(call)
        self._finish(call, result)

    def revoke(self, uses: Iterable[Use], *, is_stopping: bool) -> None:
        """End what waits through uses that ended, and, when `is_stopping`, what runs; their containers take no further run."""
        ended = list(uses)
        calls = [call for call in {call: None for use in ended for call in use.calls} if not call.is_done]
        waiting = [call for call in calls if not call.started]
        for call in waiting if not is_stopping else calls:
            call.is_revoked = True
        for call in waiting:  # all of them, before the end of one makes room for another
            self.admissions.take_out(call)
        for call in waiting:
            self._cancel_waiting(call)
        for call in calls if is_stopping else ():
            if call.started and call.session is not None:
                call.session.end(Doom(Outcome.CANCELLED, _REVOKED))
        self.fleet.leave(lambda lane: lane.way is not None and any(use in ended for use in lane.way.gates))

    def reach(self, account: AccountId, *, may_use_network: bool) -> None:
        """Decide anew what an account's own and lent runs reach: containers that were made before take no further run.

        One that is kept from the network has none in its next run, also while others wait. One that may use it again has it where
        nothing runs any more.
        """
        lanes = [lane for lane in self.fleet.lanes.values() if account in lane.accounts and lane.version.revision.network]
        self.fleet.leave(lambda lane: lane in lanes)
        for lane in lanes if not may_use_network else ():
            lane.lose_network()

    def client_left(self, call: Call) -> None:
        """Take note that the client has gone: what has not started never starts."""
        if call.is_done:
            return
        call.is_left = True
        session = call.session if call.started else None  # one that loads has not started it
        if session is None or call.request.cancel_on_disconnect or session.is_streaming:
            self.cancel(call)

    def cancel(self, call: Call) -> None:
        """End a call with outcome `cancelled`; a stream's generator is given the time to close."""
        if call.is_done or call.is_cancelled:
            return
        session = call.session
        if session is None or not call.started:
            self._cancel_waiting(call)
            return
        call.is_cancelled = True
        if session.is_streaming:
            session.withdraw(call)
            session.box.resume()
            session.deadline = min(session.deadline, self.clock.monotonic() + _CANCEL_GRACE_S)
        else:
            session.end(Doom(Outcome.CANCELLED, "the call was cancelled"))

    def _cancel_waiting(self, call: Call) -> None:
        if call.session is not None:
            call.session.withdraw(call)
        self._give_up(call, plain(call, Outcome.CANCELLED, "the call was cancelled before it started"))

    def _sweep_awaiting(self, now: float) -> None:
        """Decide again for calls that waited for a preparation as long as they may."""
        for key, waiting in list(self._awaiting.items()):
            late = [call for call in waiting if call.is_done or min(call.waits_until, call.expires or math.inf) <= now]
            if not late:
                continue
            self._awaiting[key] = [call for call in waiting if call not in late]
            if not self._awaiting[key]:
                del self._awaiting[key]
            for call in late:
                if not call.is_done:
                    self._wait_is_over(call, now)

    def _wait_is_over(self, call: Call, now: float) -> None:
        if call.expires and call.expires <= now:
            self._finish(call, expired(call, now))
            return
        self._route(call, has_waited=True)
        if call.lane is not None:
            self.fleet.run(call, call.lane, now)
        else:
            self._finish(call, _not_ready(call))

    def _sweep_waiting(self, now: float) -> None:
        """End calls that wait for a container or for a limit beyond their deadline."""
        waiting = [c for lane in self.fleet.lanes.values() for c in lane.waiting]
        waiting += self.admissions.held()
        for call in waiting:
            if call.expires and call.expires <= now and not call.is_done:
                self._give_up(call, expired(call, now))


def _tenant(entry: Entry, way: Way | None) -> TenantKey:
    return TenantKey(entry.function.account) if way is None else way.tenant


def _add_size(call: Call) -> None:
    """Count what goes with a call, and refuse what is beyond reason: a long head with many parameters and secrets."""
    way = call.way
    call.extra += len(way.encoded if way is not None and call.meta is way.meta else msgspec.json.encode(call.meta))
    if call.extra > _MAX_META:
        message = f"the head, parameters and secrets of this call are {call.extra} bytes; at most {_MAX_META} go with a call"
        raise PyfaasError(Code.PAYLOAD_TOO_LARGE, message, evidence={"limit": "call_meta", "value": _MAX_META, "observed": call.extra})


def _no_traffic(call: Call) -> Result:
    return refused(call, Code.THROTTLED, "this account moved as much over the network as it may in a day (egress_daily)", retry_after=3600.0)


def _not_ready(call: Call) -> Result:
    message = f"version {call.requested} is still being prepared"
    return refused(call, Code.NOT_READY, message, hint="see pyfaas versions NAME; max_wait says how long a call waits for it")
