"""Loading a version beside the older one that runs: where its code goes, and which container gets it.

Nobody waits for what is done here: calls that may not be answered by the older version are placed as at any other time. For
`same-container` an idle container of the older version is taken, its process replaced, and the new code loaded in the leaf that it had.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from pyfaas.decisions.downloads import Target, choose
from pyfaas.decisions.placement import Slot, Step
from pyfaas.errors import PyfaasError
from pyfaas.model import Outcome
from pyfaas.service.session import Doom, Session
from sandbox.errors import SandboxError

if TYPE_CHECKING:
    from pyfaas.service.fleet import Fleet
    from pyfaas.service.lane import Lane

log = logging.getLogger(__name__)


class Beside:
    """What is done for a lane before its containers are placed ahead of calls. `wanted` are idle containers that are waited for."""

    def __init__(self, fleet: Fleet, target: Target) -> None:
        """Bring code to `target` where that is possible."""
        self._fleet, self._target = fleet, target
        self.wanted: dict[Lane, deque[asyncio.Future[Session | None]]] = {}

    def bring(self, lane: Lane) -> Coroutine[Any, Any, None] | None:
        """Return the work that comes before another container is placed for a lane, or None when there is none."""
        if lane.target is None:
            lane.near, lane.target = self._choose(lane)
        if lane.target is Target.NEAR_STORE:
            return None
        if not lane.is_brought:
            return self._download(lane, lane.near, lane.target)
        return self._replace(lane) if lane.target is Target.SAME_CONTAINER else None

    def settled(self, lane: Lane) -> None:
        """Take note that a lane has as many containers as were wanted: its code stays for as long as it is used."""
        if lane.near:
            self._fleet.downloads.let_go(lane.near, lane.version)
        lane.target, lane.is_brought = None, False

    def take(self, session: Session) -> bool:
        """Hand an idle container of an older version, reserved, to who waits for one."""
        waiting = self.wanted.get(session.lane)
        while waiting:
            taker = waiting.popleft()
            if not taker.done():
                taker.set_result(session)
                return True
        self.wanted.pop(session.lane, None)
        return False

    def emptied(self, lane: Lane) -> None:
        """Take note that a version has no containers any more: nobody will get one."""
        for taker in self.wanted.pop(lane, ()):
            if not taker.done():
                taker.set_result(None)

    def _older(self, lane: Lane) -> list[Lane]:
        return [o for o in self._fleet.lanes.values() if o.entry is lane.entry and o is not lane and o.tenant == lane.tenant and o.containers]

    def _choose(self, lane: Lane) -> tuple[str, Target]:
        """Return the VM in which the older version runs, and where the code goes there."""
        older = {other.key for other in self._older(lane)}
        pool = self._fleet.pool
        holds = (vm for vm in pool.by_tenant.get(lane.home, ()) if any(s.lane in older for s in pool.vms[vm].slots.values()))
        vm = next(holds, "")
        if not vm:
            return vm, Target.NEAR_STORE
        return vm, choose(self._target, has_requirements=bool(lane.version.environment), has_room=pool.has_room(vm), is_held=True)

    async def _download(self, lane: Lane, vm: str, target: Target) -> None:
        await self._fleet.downloads.bring(vm, lane.version, lane.mounts, target)
        if lane.ahead and lane.near == vm:
            lane.is_brought = True
        else:  # it was cut over meanwhile
            self._fleet.downloads.let_go(vm, lane.version)
        lane.coming -= 1
        self._fleet.pump(lane)
        self._fleet.loaded(lane)

    # ---- same-container

    async def _replace(self, lane: Lane) -> None:
        session = await self._idle(lane)
        slot = await self._renew(lane, session) if session is not None and lane.ahead else None
        if slot is not None:
            self._fleet.load(lane, slot, Step.REPLACED)
            return
        if session is not None and session.doom is None:
            self._fleet.put_back(session)
        elif lane.target is Target.SAME_CONTAINER:
            lane.target = Target.NEAR_STORE  # the older version's are gone, or cannot be replaced
        lane.coming -= 1
        self._fleet.pump(lane)

    async def _idle(self, lane: Lane) -> Session | None:
        """Return an idle container of the older version in the lane's VM, reserved; waits for one. None when there are no more."""
        older = self._older(lane)
        for other in older:
            slot = self._fleet.pool.take_idle_in(lane.tenant, other.key, lane.near, self._fleet.clock.monotonic())
            if slot is not None:
                return self._fleet.sessions[slot.id]
        if not older:
            return None
        taker: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        for other in older:
            self.wanted.setdefault(other, deque()).append(taker)
        session = await taker
        if session is not None and session.slot.vm != lane.near:
            self._fleet.put_back(session)
            return None
        return session

    async def _renew(self, lane: Lane, session: Session) -> Slot | None:
        """Replace a container's process; returns its slot, bound to the lane, or None when that failed."""
        session.doom = Doom(Outcome.CANCELLED, "replaced")
        try:
            box = await self._fleet.workers.replace(session.slot.vm, session.slot.id)
        except (SandboxError, PyfaasError) as error:
            log.warning("replace_failed", extra={"vm": session.slot.vm, "container": session.slot.id, "error": str(error)})
            session.box.kill()
            return None
        return self._fleet.adopt(box, lane)
