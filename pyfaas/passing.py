"""Connections on their way from a server to its successor: each a socket, and what was read of its next request.

One packet carries the socket and the last piece; longer texts come before it in pieces. Packets on such a socket are
neither lost nor mixed, and the receiver keeps what came until it serves.
"""

from __future__ import annotations

import array
import asyncio
import socket
from collections import deque
from collections.abc import Callable

_PIECE = 64 << 10
_MORE, _LAST = b"+", b"."


class Outgoing:
    """What goes to the successor, in order."""

    def __init__(self, way: socket.socket) -> None:
        """Take the socket that leads there."""
        self._way = way
        self._way.setblocking(False)  # noqa: FBT003 - the call's shape
        self._waiting: deque[tuple[bytes, socket.socket | None]] = deque()

    def put(self, connection: socket.socket, read: bytes) -> None:
        """Send a connection, which is closed here once it is on its way."""
        pieces = [read[at : at + _PIECE] for at in range(0, len(read), _PIECE)] or [b""]
        self._waiting += [(_MORE + piece, None) for piece in pieces[:-1]]
        self._waiting.append((_LAST + pieces[-1], connection))
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            packet, connection = self._waiting[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))] if connection else []
            try:
                self._way.sendmsg([packet], rights)
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._way.fileno(), self._flush)
                return
            except OSError:  # nobody is there any more: whoever is connected sees the end
                pass
            self._waiting.popleft()
            if connection is not None:
                connection.close()
        asyncio.get_running_loop().remove_writer(self._way.fileno())

    def close(self) -> None:
        """Send no more."""
        asyncio.get_running_loop().remove_writer(self._way.fileno())
        for _, connection in self._waiting:
            if connection is not None:
                connection.close()
        self._waiting.clear()
        self._way.close()


class Incoming:
    """What comes from the predecessor; kept until `give` is set."""

    def __init__(self, way: socket.socket) -> None:
        """Read from now on, so that the predecessor need not wait."""
        self._way = way
        self._way.setblocking(False)  # noqa: FBT003 - the call's shape
        self._read = b""
        self._kept: list[tuple[socket.socket, bytes]] = []
        self._give: Callable[[socket.socket, bytes], None] | None = None
        asyncio.get_running_loop().add_reader(self._way.fileno(), self._readable)

    def give(self, take: Callable[[socket.socket, bytes], None]) -> None:
        """Hand what came, and what will come, to `take`."""
        self._give = take
        for connection, read in self._kept:
            take(connection, read)
        self._kept.clear()

    def _readable(self) -> None:
        try:
            packet, ancillary, _, _ = self._way.recvmsg(_PIECE + 1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            packet, ancillary = b"", []
        found = array.array("i")
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found.frombytes(raw[:4])
        if not packet:
            asyncio.get_running_loop().remove_reader(self._way.fileno())
            self._way.close()
            return
        self._read += packet[1:]
        if packet[:1] == _LAST:
            read, self._read = self._read, b""
            if found:
                self._came(socket.socket(fileno=found[0]), read)

    def _came(self, connection: socket.socket, read: bytes) -> None:
        if self._give is None:
            self._kept.append((connection, read))
        else:
            self._give(connection, read)
