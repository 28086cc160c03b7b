"""What happens to versions, told to whoever watches a deploy: kept for a while, waited for without polling.

`tell` is synchronous and cheap. It is called a few times for a version, never on the way of a warm call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from pyfaas.model import Event, EventKind, FunctionId
from pyfaas.ports import Clock

_KEPT = 500  # events of one function


class Happenings:
    """Events by function, each with a cursor that only grows."""

    def __init__(self, clock: Clock, after: int = 0) -> None:
        """Begin with cursors above `after`."""
        self._clock, self._last = clock, after
        self._kept: dict[FunctionId, deque[tuple[int, Event]]] = {}
        self._watchers: dict[FunctionId, set[asyncio.Event]] = {}

    def tell(self, function: FunctionId, version: int, kind: EventKind, **detail: Any) -> None:
        """Take note of something that happened now, and wake who waits for it."""
        self._last += 1
        event = Event(at=self._clock.now(), function=function, version=version, kind=kind, detail=detail)
        self._kept.setdefault(function, deque(maxlen=_KEPT)).append((self._last, event))
        for watcher in self._watchers.get(function, ()):
            watcher.set()

    def since(self, function: FunctionId, after: int) -> list[tuple[int, Event]]:
        """Return (cursor, event) of what happened after a cursor, oldest first."""
        return [(cursor, event) for cursor, event in self._kept.get(function, ()) if cursor > after]

    async def wait(self, function: FunctionId, after: int, seconds: float) -> list[tuple[int, Event]]:
        """Return what happened after a cursor, waiting for something when there is nothing; empty when the time is over."""
        woken = asyncio.Event()
        watchers = self._watchers.setdefault(function, set())
        watchers.add(woken)
        try:
            if not (found := self.since(function, after)):
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

    def forget(self, function: FunctionId) -> None:
        """Drop what was told of a function that was removed."""
        self._kept.pop(function, None)
