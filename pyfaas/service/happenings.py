"""What happens to versions, told to whoever watches a deploy: kept, and waited for without polling.

`tell` is synchronous and cheap. It is called a few times for a version, never on the way of a warm call. The latest events of a
function are in memory; all go to the store with the journal's batches, and older ones are read from there.

A *cursor* is the time in milliseconds since the epoch, and at least one more than the cursor before. So cursors go on after a
restart, also when the last second's events died with the process that had shown them to somebody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from pyfaas.model import Event, EventKind, FunctionId
from pyfaas.ports import Clock, Store
from pyfaas.service.journal import Journal

_KEPT = 100  # events of one function in memory
Told = tuple[int, Event]  # a cursor, and what happened


class Happenings:
    """Events by function, each with a cursor that only grows."""

    def __init__(self, clock: Clock, after: int = 0, *, journal: Journal | None = None, store: Store | None = None) -> None:
        """Begin with cursors above `after`; with a journal and a store what is told is durable."""
        self._clock, self._first, self._last = clock, after, after
        self._journal, self._store = journal, store
        self._kept: dict[FunctionId, deque[Told]] = {}
        self._dropped: dict[FunctionId, int] = {}  # the highest cursor that is not in memory any more
        self._watchers: dict[FunctionId, set[asyncio.Event]] = {}
        self.is_closed = False

    def tell(self, function: FunctionId, version: int, kind: EventKind, **detail: Any) -> None:
        """Take note of something that happened now, and wake who waits for it."""
        now = self._clock.now()
        self._last = max(self._last + 1, int(now * 1000))
        told = self._last, Event(at=now, function=function, version=version, kind=kind, detail=detail)
        kept = self._kept.setdefault(function, deque())
        kept.append(told)
        if len(kept) > _KEPT:
            self._dropped[function] = kept.popleft()[0]
        if self._journal is not None:
            self._journal.events.append(told)
        self._wake(function)

    def since(self, function: FunctionId, after: int) -> list[Told]:
        """Return (cursor, event) of what happened after a cursor, oldest first, as far as it is in memory."""
        return [(cursor, event) for cursor, event in self._kept.get(function, ()) if cursor > after]

    async def read(self, function: FunctionId, after: int, *, version: int | None = None, limit: int = 100) -> list[Told]:
        """Return at most `limit` events after a cursor, oldest first, also older ones; of a version, what concerns it."""
        found = {cursor: event for cursor, event in self.since(function, after) if version is None or concerns(event, version)}
        if self._store is not None and self._journal is not None and after < self._dropped.get(function, self._first):
            await self._journal.flush()
            found = {**dict(await self._store.events(function, after, version, limit)), **found}
        return sorted(found.items(), key=lambda told: told[0])[:limit]

    async def wait(self, function: FunctionId, after: int, seconds: float) -> list[Told]:
        """Return what happened after a cursor, waiting for something when there is nothing; empty when the time is over."""
        woken = asyncio.Event()
        watchers = self._watchers.setdefault(function, set())
        watchers.add(woken)
        try:
            if not (found := self.since(function, after)) and not self.is_closed:
                async with asyncio.timeout(seconds):
                    await woken.wait()
                found = self.since(function, after)
        except TimeoutError:
            found = []
        finally:
            watchers.discard(woken)
            if not watchers:
                self._watchers.pop(function, None)
        return found

    async def next(self, function: FunctionId, after: int, seconds: float, *, version: int | None = None, limit: int = 100) -> tuple[list[Told], int]:
        """Read, waiting at most `seconds` for the first event that fits; returns them and the cursor up to which was looked."""
        until = self._clock.monotonic() + seconds
        while True:
            seen = max(after, self.last(function))
            if found := await self.read(function, after, version=version, limit=limit):
                return found, found[-1][0]
            after = seen  # whatever came up to there is of other versions
            left = until - self._clock.monotonic()
            if left <= 0 or self.is_closed or not await self.wait(function, after, left):
                return [], after

    def last(self, function: FunctionId) -> int:
        """Return the cursor of a function's latest event since the start, 0 when there was none."""
        kept = self._kept.get(function)
        return kept[-1][0] if kept else 0

    def close(self) -> None:
        """Let everybody who waits go, and nobody wait any more: the server stops, or is replaced."""
        self.is_closed = True
        for function in list(self._watchers):
            self._wake(function)

    def reopen(self) -> None:
        """Let watchers wait again."""
        self.is_closed = False

    def forget(self, function: FunctionId) -> None:
        """Drop what was told of a function that was removed, and let its watchers go."""
        self._kept.pop(function, None)
        self._dropped.pop(function, None)
        self._wake(function)

    def _wake(self, function: FunctionId) -> None:
        for watcher in self._watchers.get(function, ()):
            watcher.set()


async def opened(clock: Clock, journal: Journal, store: Store) -> Happenings:
    """Return durable happenings that go on after those in the store."""
    return Happenings(clock, max(await store.last_event(), int(clock.now() * 1000)), journal=journal, store=store)


def concerns(event: Event, version: int) -> bool:
    """Tell whether an event is about a version, or gives it a weight."""
    return event.version == version or str(version) in event.detail.get("weights", {})
