"""The container's end of the channel: packets in, whole calls out, and a look for CANCEL in between."""

from __future__ import annotations

import socket
from collections import deque

from sandbox.wire import MAX_PACKET, Call, Kind

_PART = int(Kind.PART)
_CANCEL = int(Kind.CANCEL)


class Inbox:
    """Packets in order; those that a stream met while it looked for its CANCEL are kept for later."""

    def __init__(self, channel: socket.socket) -> None:
        """Take the channel, a blocking SOCK_SEQPACKET socket."""
        self.channel = channel
        self.kept: deque[bytes] = deque()
        self._cancelled: bytes | None = None
        self.ended = False

    def receive(self) -> bytes:
        """Wait for the next packet; empty when the host has closed its end."""
        return self.kept.popleft() if self.kept else self.channel.recv(MAX_PACKET)

    def whole_body(self, call: Call) -> bytes:
        """Return a call's body with its PARTs; shorter than announced only when the host has left."""
        if len(call.body) >= call.body_length:
            return call.body
        body = bytearray(call.body)
        while len(body) < call.body_length:
            packet = self.receive()
            if not packet:
                break
            if packet[0] == _PART:
                body += memoryview(packet)[1:]
            elif packet[0] == _CANCEL:
                self._cancelled = packet[1:]
        return bytes(body)

    def is_cancelled(self, call_id: bytes) -> bool:
        """Look, without waiting, whether the caller has left; other packets stay in order for later."""
        while self._cancelled != call_id and not self.ended:
            try:
                packet = self.channel.recv(MAX_PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:  # the code closed the channel: nobody listens any more
                self.ended = True
                break
            if not packet:
                self.ended = True
            elif packet[0] == _CANCEL:
                self._cancelled = packet[1:]
            else:
                self.kept.append(packet)
        return True
