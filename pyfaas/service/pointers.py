"""How a pointer moves, whoever moves it: one durable write, the registry, then the word about it.

With a move go which versions are withdrawn and how the pointer's canary stands, in one transaction. Whatever moves a pointer
holds `lock` from its decision until the registry is swapped: a tick of a canary and a hand never decide from the same state.
While a canary runs, `entry.counted` counts what its version does; nothing of that is on the way of any other call.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pyfaas.decisions import canary as canaries
from pyfaas.model import (
    Canary,
    CanaryState,
    EventKind,
    FunctionId,
    Outcome,
    PointerMove,
    StalePolicy,
    Version,
    VersionState,
)
from pyfaas.ports import Clock, Store
from pyfaas.service.happenings import Happenings
from pyfaas.service.registry import Entry

LIVE = frozenset({CanaryState.WAITING, CanaryState.RUNNING})
BY_HAND = "moved by hand"


class Tally:
    """The runs of a canary's version since it began."""

    __slots__ = ("budget", "faults", "is_new", "runs")

    def __init__(self, canary: Canary) -> None:
        """Go on where the canary stands."""
        self.runs, self.faults, self.budget = canary.runs, canary.faults, canary.error_budget
        self.is_new = False  # there are counts that the store does not know

    def count(self, outcome: Outcome) -> bool:
        """Count one run; True when the budget is broken."""
        if outcome not in canaries.RUNS:
            return False
        self.runs += 1
        self.faults += outcome in canaries.FAULTS
        self.is_new = True
        return self.runs >= canaries.JUDGED and canaries.is_beyond(self.runs, self.faults, self.budget)


class Pointers:
    """Moves pointers and keeps their canaries. `advance` is told of each version that a pointer names anew."""

    def __init__(self, store: Store, clock: Clock, happenings: Happenings, advance: Callable[[Entry, Version], None]) -> None:
        """Begin without canaries."""
        self.store, self.clock, self.happenings, self._advance = store, clock, happenings, advance
        self.woken = asyncio.Event()  # something is to be decided before the next second
        self._canaries: dict[FunctionId, dict[str, Canary]] = {}
        self._tallies: dict[tuple[FunctionId, str], Tally] = {}
        self._locks: defaultdict[FunctionId, asyncio.Lock] = defaultdict(asyncio.Lock)

    def load(self, entries: Mapping[FunctionId, Entry], found: Iterable[Canary]) -> None:
        """Take in the canaries of the store."""
        for canary in found:
            if canary.function in entries:
                self.keep(entries[canary.function], canary)

    def lock(self, entry: Entry) -> asyncio.Lock:
        """Return what a move of one of the function's pointers holds."""
        return self._locks[entry.function.id]

    # ---- canaries

    def canary(self, entry: Entry, pointer: str) -> Canary | None:
        """Return the pointer's last canary, with the runs as counted up to now."""
        canary = self._canaries.get(entry.function.id, {}).get(pointer)
        tally = self._tallies.get((entry.function.id, pointer))
        return replace(canary, runs=tally.runs, faults=tally.faults) if canary is not None and tally is not None else canary

    def live(self, entry: Entry, pointer: str) -> Canary | None:
        """Return the pointer's canary while it waits or runs."""
        canary = self.canary(entry, pointer)
        return canary if canary is not None and canary.state in LIVE else None

    def all_live(self) -> list[Canary]:
        """Return the canaries that wait or run, of all functions."""
        return [canary for each in self._canaries.values() for canary in each.values() if canary.state in LIVE]

    def keep(self, entry: Entry, canary: Canary) -> None:
        """Take note of how a canary stands, as the store has it."""
        key = canary.function, canary.pointer
        self._canaries.setdefault(canary.function, {})[canary.pointer] = canary
        if canary.state is CanaryState.RUNNING:
            self._tallies[key] = Tally(canary)
        else:
            self._tallies.pop(key, None)
        self._watch(entry)

    def drop(self, entry: Entry, pointer: str) -> None:
        """Forget the canary of a pointer that was removed."""
        self._canaries.get(entry.function.id, {}).pop(pointer, None)
        self._tallies.pop((entry.function.id, pointer), None)
        self._watch(entry)

    def forget(self, entry: Entry) -> None:
        """Forget a function that was removed."""
        for pointer in list(self._canaries.get(entry.function.id, ())):
            self.drop(entry, pointer)
        self._canaries.pop(entry.function.id, None)
        self._locks.pop(entry.function.id, None)

    def counts(self) -> Iterator[tuple[Canary, Tally]]:
        """Yield the canaries with runs that the store does not know, with what counts them."""
        for (function, pointer), tally in self._tallies.items():
            if tally.is_new:
                yield replace(self._canaries[function][pointer], runs=tally.runs, faults=tally.faults), tally

    def _watch(self, entry: Entry) -> None:
        """Let the function's runs be counted for as long as one of its canaries runs."""
        tallies: dict[int, list[Tally]] = {}
        for pointer, canary in self._canaries.get(entry.function.id, {}).items():
            if canary.state is CanaryState.RUNNING:
                tallies.setdefault(canary.version, []).append(self._tallies[entry.function.id, pointer])

        def counted(version: int, outcome: Outcome) -> None:
            for tally in tallies.get(version, ()):
                if tally.count(outcome):
                    self.woken.set()

        entry.counted = counted if tallies else None

    # ---- moves

    def policy(self, entry: Entry, pointer: str) -> StalePolicy:
        """Return what a pointer says of staleness."""
        history = entry.moves.get(pointer)
        return history[-1].policy if history else StalePolicy()

    async def move(
        self,
        entry: Entry,
        pointer: str,
        version: int,
        *,
        weights: Mapping[int, int] | None = None,
        policy: StalePolicy | None = None,
        withdrawn: Collection[int] = (),
        canary: Canary | None = None,
    ) -> PointerMove:
        """Move a pointer, under its function's lock; without a `policy` it keeps its own, `canary` is how that stands then.

        Raises conflict when somebody without the lock moved it meanwhile, storage_full or internal; then nothing happened.
        """
        weights = weights or {}
        move = PointerMove(
            function=entry.function.id,
            pointer=pointer,
            seq=entry.next_seq(),
            version=version,
            at=self.clock.now(),
            weights=weights,
            policy=policy if policy is not None else self.policy(entry, pointer),
        )
        named = [number for number in (version, *weights) if entry.versions[number].withdrawn]
        marks = dict.fromkeys(named, False) | dict.fromkeys(withdrawn, True)
        kept = replace(canary, seq=move.seq) if canary is not None else None
        await self.store.move_pointer(move, marks, kept)
        for number, is_withdrawn in marks.items():
            entry.put(replace(entry.versions[number], withdrawn=is_withdrawn))
        entry.move(move)
        if kept is not None:
            self.keep(entry, kept)
        self.tell(entry, version, EventKind.MOVED, pointer=pointer, weights={str(n): w for n, w in weights.items()})
        for number in withdrawn:
            self.tell(entry, number, EventKind.WITHDRAWN)
        for number in (version, *weights):
            if entry.versions[number].state is VersionState.READY:
                self._advance(entry, entry.versions[number])
        return move

    async def end(self, entry: Entry, canary: Canary, reason: str) -> None:
        """End a canary where its pointer is."""
        history = entry.moves.get(canary.pointer)
        ended = ended_canary(canary, reason, history[-1].seq if history else 0)
        await self.store.set_canary(ended)
        self.keep(entry, ended)

    def tell(self, entry: Entry, version: int, kind: EventKind, **detail: Any) -> None:
        """Tell of something that happened to a version."""
        self.happenings.tell(entry.function.id, version, kind, **detail)


def ended_canary(canary: Canary, reason: str, seq: int = 0) -> Canary:
    """Return a canary as somebody's hand, or its version's failure, ends it."""
    return replace(canary, state=CanaryState.ENDED, reason=reason, seq=seq)
