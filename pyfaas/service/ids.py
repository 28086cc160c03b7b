"""Invocation ids: UUIDs of version 7 that never go backwards (RFC 9562, section 6.2, method 1 and 2).

A prefix (time and random bits) is renewed by the server's tick, not by every id; the last 48 bits count on.
"""

from __future__ import annotations

import os

from pyfaas.model import InvocationId


class Ids:
    """A source of ids; `renew` sets the time in them."""

    def __init__(self, now: float) -> None:
        """Begin at `now`, seconds since the epoch."""
        self._count = int.from_bytes(os.urandom(5), "big") >> 1
        self._millis = 0
        self._prefix = ""
        self.renew(now)

    def renew(self, now: float) -> None:
        """Renew the prefix; a clock that went back keeps the old time."""
        self._millis = max(self._millis, int(now * 1000))
        time_hex = f"{self._millis:012x}"
        noise = int.from_bytes(os.urandom(4), "big")
        random_hex = f"7{noise & 0xFFF:03x}-{0x8000 | noise >> 12 & 0x3FFF:04x}"
        self._prefix = f"{time_hex[:8]}-{time_hex[8:]}-{random_hex}-"

    def next(self) -> InvocationId:
        """Return a new id."""
        self._count += 1
        return InvocationId(f"{self._prefix}{self._count & 0xFFFFFFFFFFFF:012x}")
