"""The system's clock."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.Clock` as the kernel tells it."""

    def now(self) -> float:
        """Return the wall clock, in seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return a clock that only goes forward, in seconds."""
        return time.monotonic()
