"""Usage rows, log lines and events on their way to the store: appended in memory, written in batches, bounded.

Nothing durable is written before a synchronous answer; a kill loses at most a second of rows. While the store cannot take them
(a full disk), calls go on. Usage is money: its rows are summed by minute, which is what the store does with them anyway, and the
sums wait until it can, and so do events, which are few. Log lines are dropped, and all are counted in `failed` when they are lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from pyfaas.errors import PyfaasError
from pyfaas.model import Event, FunctionId, InvocationId, LogLine, UsageRow
from pyfaas.ports import Store
from pyfaas.service.metrics import Tally

log = logging.getLogger(__name__)
_MAX_ROWS = 100_000
_MAX_SUMS = 20_000  # minutes of functions that may wait; ten functions wait for a day and a half
_MAX_LINE = 32 * 1024
_MAX_TEXT = 64 << 20  # bytes of lines between two flushes
_MAX_EVENTS = 20_000
_BATCH = 500  # rows in one transaction, so that a durable write waits for a few milliseconds at most


class Journal:
    """Collects rows; `flush` writes them."""

    def __init__(self, store: Store) -> None:
        """Write to `store`."""
        self._store = store
        self.usage: deque[UsageRow] = deque(maxlen=_MAX_ROWS)
        self.kept_elsewhere: deque[UsageRow] = deque(maxlen=_MAX_ROWS)  # written with the end of an attempt; here for the metrics only
        self.lines: deque[LogLine] = deque(maxlen=_MAX_ROWS)
        self.events: deque[tuple[int, Event]] = deque()  # with their cursors
        self._text = 0
        self._sums: dict[tuple[Any, ...], UsageRow] = {}
        self._flushing = asyncio.Lock()
        self._is_failing = False
        self.failed = 0
        self._tally = Tally()
        self._counted: deque[UsageRow] = deque(maxlen=_MAX_ROWS)  # in the metrics already, and not in the store yet

    def text(
        self, at: float, function: FunctionId, version: int, invocation: InvocationId | None, stream: str, text: bytes
    ) -> None:
        """Append what a run wrote, line by line."""
        self._text += len(text)
        if self._text > _MAX_TEXT:
            self.failed += 1
            return
        for line in text.decode("utf-8", "replace").splitlines():
            shown = line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + " … (line cut)"
            self.lines.append(
                LogLine(at=at, function=function, version=version, invocation=invocation, stream=stream, line=shown)
            )

    async def flush(self) -> None:
        """Write what has collected; when this returns, whatever was appended before it was called is in the store or kept."""
        async with self._flushing:
            failures = [await self._flush_usage(), await self._flush_lines(), await self._flush_events()]
        failure = next((found for found in failures if found is not None), None)
        if failure is not None and not self._is_failing:
            log.warning("journal_waits", extra={"code": failure.code.value, "sums": len(self._sums), "lost": self.failed})
        elif failure is None and self._is_failing:
            log.warning("journal_goes_on", extra={"lost": self.failed})
        self._is_failing = failure is not None

    async def _flush_usage(self) -> PyfaasError | None:
        self.counted()
        while self._counted:
            self._sum(self._counted.popleft())
        keys = list(self._sums)
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            try:
                await self._store.add_usage([self._sums[key] for key in batch])
            except PyfaasError as error:
                self._forget_oldest()
                return error
            for key in batch:
                del self._sums[key]
        return None

    async def _flush_lines(self) -> PyfaasError | None:
        lines: Sequence[LogLine] = list(self.lines)
        self.lines.clear()
        self._text = 0
        for start in range(0, len(lines), _BATCH):
            try:
                await self._store.add_logs(lines[start : start + _BATCH])
            except PyfaasError as error:
                self.failed += len(lines) - start
                return error
        return None

    async def _flush_events(self) -> PyfaasError | None:
        while self.events:
            batch = [self.events[n] for n in range(min(_BATCH, len(self.events)))]
            try:
                await self._store.add_events(batch)
            except PyfaasError as error:
                while len(self.events) > _MAX_EVENTS:
                    self.events.popleft()
                    self.failed += 1
                return error
            for _ in batch:
                self.events.popleft()
        return None

    def counted(self) -> Tally:
        """Return the sums since the start of every row so far, for the metrics."""
        rows = list(self.usage)
        self.usage.clear()
        self._tally.take(rows)
        self._tally.take(self.kept_elsewhere)
        self.kept_elsewhere.clear()
        self._counted.extend(rows)
        return self._tally

    def pending(self) -> int:
        """Count the rows that wait to be written."""
        return len(self.usage) + len(self._counted) + len(self._sums) + len(self.lines) + len(self.events)

    def _sum(self, row: UsageRow) -> None:
        whose = row.account, row.caller, row.owner, row.way, row.operation
        key = (row.kind, row.at // 60, *whose, row.function, row.version, row.outcome, row.memory_bytes)
        old = self._sums.get(key)
        self._sums[key] = row if old is None else _added(old, row)

    def _forget_oldest(self) -> None:
        for key in list(self._sums)[: max(0, len(self._sums) - _MAX_SUMS)]:
            self.failed += self._sums.pop(key).count


_SUMMED = ("wall_us", "cpu_us", "bytes_in", "bytes_out", "net_in", "net_out", "connections", "count")


def _added(one: UsageRow, other: UsageRow) -> UsageRow:
    """Return the sum of two rows of the same minute, payer, function and outcome."""
    sums = {name: getattr(one, name) + getattr(other, name) for name in _SUMMED}
    return replace(one, peak_bytes=max(one.peak_bytes, other.peak_bytes), **sums)
