"""Usage and log rows on their way to the store: appended in memory, written in batches, bounded.

Nothing durable is written before a synchronous answer; a kill loses at most a second of rows. When the store
cannot take them the oldest are dropped and counted, so that calls go on while a disk is full.
"""

from __future__ import annotations

import logging
from collections import deque

from pyfaas.errors import PyfaasError
from pyfaas.model import FunctionId, InvocationId, LogLine, UsageRow
from pyfaas.ports import Store
from pyfaas.service.metrics import Tally

log = logging.getLogger(__name__)
_MAX_ROWS = 100_000
_MAX_LINE = 32 * 1024


class Journal:
    """Collects rows; `flush` writes them."""

    def __init__(self, store: Store) -> None:
        """Write to `store`."""
        self._store = store
        self.usage: deque[UsageRow] = deque(maxlen=_MAX_ROWS)
        self.lines: deque[LogLine] = deque(maxlen=_MAX_ROWS)
        self.failed = 0
        self._tally = Tally()
        self._counted: deque[UsageRow] = deque(maxlen=_MAX_ROWS)  # in the sums already, and not in the store yet

    def text(
        self, at: float, function: FunctionId, version: int, invocation: InvocationId | None, stream: str, text: bytes
    ) -> None:
        """Append what a run wrote, line by line."""
        for line in text.decode("utf-8", "replace").splitlines():
            shown = line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + " … (line cut)"
            self.lines.append(
                LogLine(at=at, function=function, version=version, invocation=invocation, stream=stream, line=shown)
            )

    async def flush(self) -> None:
        """Write what has collected; rows that cannot be written are dropped and counted."""
        self.counted()
        usage, lines = list(self._counted), list(self.lines)
        self._counted.clear()
        self.lines.clear()
        try:
            if usage:
                await self._store.add_usage(usage)
            if lines:
                await self._store.add_logs(lines)
        except PyfaasError as error:
            self.failed += len(usage) + len(lines)
            log.warning("journal_dropped", extra={"rows": len(usage) + len(lines), "code": error.code.value})

    def counted(self) -> Tally:
        """Return the sums of every row so far."""
        rows = list(self.usage)
        self.usage.clear()
        self._tally.take(rows)
        self._counted.extend(rows)
        return self._tally

    def pending(self) -> int:
        """Count the rows that wait to be written."""
        return len(self.usage) + len(self._counted) + len(self.lines)
