"""Bytes both ways between a VM's connection and the one outside, with back-pressure and half-close.

Each side is an asyncio protocol that writes what it reads to its peer. When the peer's buffer is full, reading stops until it has
drained, so a slow reader holds back a fast writer through its own socket, and at most a buffer of each direction is held here. An
end-of-file is passed on (a client may say that it has sent all and wait for the answer); a reset is passed on as one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol, cast

_BUFFER = 64 << 10  # of a direction, bytes: 16 MiB of a VM whose 128 connections nobody reads
_LINGER_NOT = struct.pack("ii", 1, 0)


class Meter(Protocol):
    """Who counts: bytes in from the network, and out to it."""

    bytes_in: int
    bytes_out: int


class Side(asyncio.Protocol):
    """One end of a flow; `is_inner` is the VM's."""

    __slots__ = ("_early", "_flow", "_is_inner", "has_ended", "peer", "transport")

    def __init__(self, flow: Flow, *, is_inner: bool) -> None:
        """Belong to a flow."""
        self._flow, self._is_inner = flow, is_inner
        self.has_ended = False
        self._early = b""  # what came before the other side was there
        self.peer: Side
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, with a bound on what it buffers."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_BUFFER)

    def data_received(self, data: bytes) -> None:
        """Pass on, and count."""
        flow = self._flow
        flow.moved = flow.beat()
        if self._is_inner:
            flow.meter.bytes_out += len(data)
        else:
            flow.meter.bytes_in += len(data)
        if not flow.is_joined:
            self._early += data
        elif self.peer.transport is not None:
            self.peer.transport.write(data)

    def begin(self) -> None:
        """Pass on what came, and perhaps ended, before the other side was there."""
        early, self._early = self._early, b""
        if early and self.peer.transport is not None:
            self.peer.transport.write(early)
        if self.has_ended:
            self._pass_end()

    def eof_received(self) -> bool:
        """Pass the end on; keep this side open while the other still sends."""
        self.has_ended = True
        if self._flow.is_joined:
            self._pass_end()
        return True

    def _pass_end(self) -> None:
        if self.peer.has_ended:
            self._flow.close()
        elif self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.write_eof()

    def pause_writing(self) -> None:
        """Hold the peer's reading back."""
        if self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let the peer read again."""
        if self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side as this one ended."""
        self.transport = None
        if exc is not None or not self._flow.is_joined:
            self._flow.abort()
        else:
            self._flow.close()


class Flow:
    """Two connected sides, and when they last moved a byte."""

    def __init__(self, meter: Meter, ended: Callable[[Flow], None], beat: Callable[[], float] = time.monotonic) -> None:
        """`ended` is called once, when both sides are closed."""
        self.meter, self._ended, self.beat = meter, ended, beat
        self.moved = beat()
        self.inner, self.outer = Side(self, is_inner=True), Side(self, is_inner=False)
        self.inner.peer, self.outer.peer = self.outer, self.inner
        self._is_over = self.is_joined = False

    async def join(self, inner: socket.socket, outer: socket.socket, read: bytes = b"") -> None:
        """Begin to copy; `read` came from outside already. Raises OSError."""
        loop = asyncio.get_running_loop()
        if read:
            self.outer.data_received(read)
        await loop.connect_accepted_socket(lambda: self.inner, inner)
        await loop.connect_accepted_socket(lambda: self.outer, outer)
        if self.inner.transport is None or self.outer.transport is None:  # one was reset already
            self.abort()
            return
        self.is_joined = True
        self.outer.begin()
        self.inner.begin()

    def close(self) -> None:
        """Close both sides once what they hold is written."""
        for side in (self.inner, self.outer):
            if side.transport is not None:
                side.transport.close()
        self._look()

    def abort(self) -> None:
        """Reset both sides now."""
        for side in (self.inner, self.outer):
            if side.transport is not None:
                found = side.transport.get_extra_info("socket")
                if found is not None:
                    reset(found)
                side.transport.abort()
        self._look()

    def _look(self) -> None:
        if not self._is_over and self.inner.transport is None and self.outer.transport is None:
            self._is_over = True
            self._ended(self)


def reset(connection: socket.socket) -> None:
    """Let a connection's close be a reset, so that its client is not kept waiting (socket(7), SO_LINGER)."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    except OSError:
        pass  # it is closed already
