"""The server's own log: one line an event, written by a thread.

Whoever reads it may be slow, stopped, or a disk that is full; a write that waits must not stop the event loop, and with it
every call. So lines wait in a bounded queue, and those that find no room are counted; the count is the next line that is written.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from typing import Any

_ROOM = 10_000  # lines


class Lines(logging.Formatter):
    """One line of JSON an event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        plain = logging.makeLogRecord({}).__dict__
        extra = {k: v for k, v in record.__dict__.items() if k not in plain and k not in ("message", "taskName")}
        shown = {"at": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage(), **extra}
        if record.exc_info:
            shown["traceback"] = self.formatException(record.exc_info)
        return _line(shown)


class EventLog(logging.Handler):
    """A handler that never waits; `dropped` counts the lines that found no room."""

    def __init__(self, descriptor: int, room: int = _ROOM) -> None:
        """Start the thread that writes to `descriptor`; no stream's, which would keep what it could not write."""
        super().__init__()
        self.setFormatter(Lines())
        self.dropped = 0
        self._descriptor = descriptor
        self._waiting: queue.Queue[str | None] = queue.Queue(room)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line to the thread, or count it."""
        try:
            self._waiting.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1

    def finish(self, seconds: float) -> None:
        """Write what waits, for so long at most."""
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        told = 0
        while (line := self._waiting.get()) is not None:
            try:
                if self.dropped != told:
                    count, told = self.dropped - told, self.dropped
                    shown = {"at": round(time.time(), 3), "level": "warning", "event": "log_lines_dropped", "count": count}
                    self._write(_line(shown))
                self._write(line)
            except OSError:
                self.dropped += 1  # nobody reads any more, or a full disk: there may be room for the next one

    def _write(self, line: str) -> None:
        left = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]


def _line(shown: dict[str, Any]) -> str:
    return json.dumps(shown, default=str)
