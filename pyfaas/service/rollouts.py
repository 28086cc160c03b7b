"""Canaries: release aliases on their way to a new version, and back when it fails too often.

`begin` is called when a version is published with an order. The canary waits until its version is ready, then takes its steps
(`decisions/canary`) when their time has come; a broken budget is seen at the run that breaks it. All of it is durable: after a
kill it stands at the same step, and what it counted is at most a second old. While the store cannot be written nothing moves,
and it is tried again, less and less often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from pyfaas.decisions import canary as canaries
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Canary, CanaryOrder, CanaryState, EventKind, FunctionId, Version, VersionState
from pyfaas.service.pointers import Pointers, ended_canary
from pyfaas.service.registry import Entry, Registry

log = logging.getLogger(__name__)
_TICK_S = 1.0
_SHORTEST_S = 0.01
_BACK_OFF_S = 30.0  # at most, between two tries while the store cannot be written


class Rollouts:
    """Owns the canaries. `prepare` starts the preparation of a version that nothing else starts."""

    def __init__(self, registry: Registry, pointers: Pointers, prepare: Callable[[Entry, Version], None]) -> None:
        """Move through `pointers`."""
        self._registry, self._pointers, self._prepare = registry, pointers, prepare
        self._failed: set[tuple[FunctionId, int]] = set()
        self._again_at = 0.0
        self._back_off_s = _TICK_S

    def resume(self) -> None:
        """Go on with what an earlier server left: versions that canaries wait for are prepared, or have failed."""
        for canary in self._pointers.all_live():
            version = self._registry.entries[canary.function].versions[canary.version]
            if version.state is VersionState.FAILED:
                self._failed.add((canary.function, canary.version))
            elif version.state is VersionState.STORED:
                self._prepare(self._registry.entries[canary.function], version)

    async def run(self) -> None:
        """Tick each second, when a step is due, and when there is something to decide; until cancelled."""
        woken = self._pointers.woken
        while True:
            await self.tick()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await woken.wait()
            except TimeoutError:
                pass  # the next second
            woken.clear()

    def _pause_s(self) -> float:
        now = self._pointers.clock.now()
        running = (canary for canary in self._pointers.all_live() if canary.state is CanaryState.RUNNING)
        due = (canary.since + canaries.step_s(canary) - now for canary in running)
        return min([_TICK_S, *(max(left, _SHORTEST_S) for left in due if left > 0 and self._again_at == 0.0)])

    async def stop(self, running: asyncio.Task[None]) -> None:
        """End the task of `run`, and write what was counted; what cannot be written now is lost."""
        running.cancel()
        await asyncio.wait({running})
        try:
            await self.save()
        except PyfaasError as error:
            log.warning("canaries_not_saved", extra={"code": error.code.value})

    async def begin(self, entry: Entry, number: int, order: CanaryOrder) -> Canary | None:
        """Take an order, durably: it replaces the pointer's canary. Starts at once when the version is ready."""
        async with self._pointers.lock(entry):
            if entry.function.id not in self._registry.entries:
                raise not_found("function", entry.function.name)  # removed meanwhile
            version = self._registry.version(entry, number)
            base, now = entry.current(order.pointer), self._pointers.clock.now()
            canary = canaries.ordered(order, entry.function.id, number, base, now)
            self._failed.discard((canary.function, number))
            if version.state is VersionState.READY:
                await self._start(entry, canary)
            else:
                await self._pointers.store.set_canary(canary)
                self._pointers.keep(entry, canary)
                if version.state is VersionState.STORED:
                    self._prepare(entry, version)
        return self._pointers.canary(entry, order.pointer)

    def prepared(self, entry: Entry, version: Version) -> None:
        """Take note that a version became ready or failed: a canary that waited for it begins, or ends."""
        if version.state is VersionState.FAILED:
            self._failed.add((entry.function.id, version.number))
        self._again_at = 0.0
        self._pointers.woken.set()

    async def removed(self, entry: Entry, number: int) -> None:
        """End the canaries that wait for a version that is removed."""
        for canary in self._pointers.all_live():
            if canary.function == entry.function.id and canary.version == number:
                async with self._pointers.lock(entry):
                    await self._pointers.end(entry, canary, f"version {number} was removed")

    # ---- time

    async def tick(self) -> None:
        """Do what is due; what the store refuses is tried again later."""
        if self._pointers.clock.monotonic() < self._again_at:
            return
        try:
            for canary in self._pointers.all_live():
                entry = self._registry.entries.get(canary.function)
                if entry is not None:
                    async with self._pointers.lock(entry):
                        await self._act(entry, canary.pointer)
            await self.save()
        except PyfaasError as error:
            self._put_off(error)
        else:
            self._again_at, self._back_off_s = 0.0, _TICK_S
        live = {(canary.function, canary.version) for canary in self._pointers.all_live()}
        self._failed &= live

    async def save(self) -> None:
        """Write the counts that changed."""
        found = list(self._pointers.counts())
        if found:
            for _, tally in found:
                tally.is_new = False  # what is counted from here on is of the next second
            try:
                await self._pointers.store.count_canaries([canary for canary, _ in found])
            except PyfaasError:
                for _, tally in found:
                    tally.is_new = True
                raise

    def _put_off(self, error: PyfaasError) -> None:
        log.warning("canaries_wait", extra={"code": error.code.value, "error": error.message})
        if error.code is not Code.CONFLICT:  # a hand was faster: nothing is wrong with the store
            self._again_at = self._pointers.clock.monotonic() + self._back_off_s
            self._back_off_s = min(_BACK_OFF_S, 2 * self._back_off_s)

    async def _act(self, entry: Entry, pointer: str) -> None:
        canary = self._pointers.live(entry, pointer)
        if canary is None:
            return
        version = entry.versions[canary.version]
        if canary.state is CanaryState.RUNNING:
            await self._step(entry, canary)
        elif version.state is VersionState.READY:
            await self._start(entry, canary)
        elif (canary.function, canary.version) in self._failed and version.state is VersionState.FAILED:
            reason = version.reason.message if version.reason else "it could not be prepared"
            await self._pointers.end(entry, canary, f"version {version.number} failed: {reason}")

    async def _start(self, entry: Entry, canary: Canary) -> None:
        """Give a ready version its first weight; everything, when the alias names nothing yet or all was asked for."""
        history = entry.moves.get(canary.pointer)
        main = history[-1].version if history else None
        canary = replace(canary, base=main, state=CanaryState.RUNNING, step=0, since=self._pointers.clock.now())
        if main is None or main == canary.version or canary.percent == canaries.ALL:
            await self._promote(entry, canary)
        else:
            await self._pointers.move(entry, canary.pointer, main, weights={canary.version: canary.percent}, canary=canary)

    async def _step(self, entry: Entry, canary: Canary) -> None:
        decision = canaries.decide(canary, self._pointers.clock.now())
        if isinstance(decision, canaries.Raise):
            raised = replace(canary, step=decision.step, since=self._pointers.clock.now())
            await self._pointers.move(entry, canary.pointer, _base(canary), weights={canary.version: decision.weight}, canary=raised)
        elif isinstance(decision, canaries.Promote):
            await self._promote(entry, canary)
        elif isinstance(decision, canaries.Back):
            await self._back(entry, canary, decision.reason)

    async def _promote(self, entry: Entry, canary: Canary) -> None:
        promoted = replace(canary, state=CanaryState.PROMOTED)
        current = entry.moves[canary.pointer][-1] if entry.moves.get(canary.pointer) else None
        if current is not None and current.version == canary.version and not current.weights:
            promoted = replace(promoted, seq=current.seq)
            await self._pointers.store.set_canary(promoted)  # it is there already
            self._pointers.keep(entry, promoted)
        else:
            await self._pointers.move(entry, canary.pointer, canary.version, canary=promoted)
        self._pointers.tell(entry, canary.version, EventKind.PROMOTED, pointer=canary.pointer)

    async def _back(self, entry: Entry, canary: Canary, reason: str) -> None:
        base = _base(canary)
        back = replace(ended_canary(canary, reason), state=CanaryState.BACK)
        await self._pointers.move(entry, canary.pointer, base, withdrawn={canary.version}, canary=back)
        detail = {"pointer": canary.pointer, "from": canary.version, "reason": reason}
        self._pointers.tell(entry, base, EventKind.ROLLED_BACK, **detail)
        log.warning("canary_back", extra={"function": entry.function.name, "pointer": canary.pointer, "reason": reason})


def _base(canary: Canary) -> int:
    assert canary.base is not None  # noqa: S101 - without a base it is promoted when it begins, and never runs
    return canary.base
