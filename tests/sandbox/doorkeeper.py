"""Whoever holds a VM's doors, for tests: answers names from a table, and every connection with the address that was dialled."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

_NXDOMAIN, _A, _IN = 3, 1, 1
_PATIENCE_S = 20.0

# What code inside runs: ask over a connection, as HTTP, and return what came back.
DIAL = """
import socket
def dial(address, port):
    with socket.create_connection((address, port), 20) as talk:
        talk.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
        told = b''
        while more := talk.recv(1000):
            told += more
    return told.decode().partition('\\r\\n\\r\\n')[2]
"""


class Doorkeeper:
    """Holds doors and serves them in a thread until it is left; `asked` are the names that were looked for."""

    def __init__(self, doors: Sequence[int], names: Mapping[str, str] | None = None, *, word: str = "door") -> None:
        """Take the descriptors over, without one for knocks; `word` begins each answer, to tell one keeper from another."""
        self.sockets = [socket.socket(fileno=door) for door in doors]
        self.names, self.word = names or {}, word
        self.asked: list[str] = []
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every door."""
        os.close(self._woken)
        self._thread.join(_PATIENCE_S)
        os.close(self._wake)
        for one in self.sockets:
            one.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (*self.sockets, self._wake):
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._wake:
                        return
                    with contextlib.suppress(OSError, IndexError):  # who asked has gone, or asked nothing
                        self._answer(key.fileobj)  # type: ignore[arg-type]

    def _answer(self, door: socket.socket) -> None:
        if door is self.sockets[-2]:
            question, asker = door.recvfrom(4096)
            door.sendto(self._look_up(question), asker)
            return
        talk, _ = door.accept()
        talk.settimeout(_PATIENCE_S)
        with talk:
            if door is self.sockets[-1]:
                answer = self._look_up(talk.recv(4096)[2:])
                talk.sendall(struct.pack("!H", len(answer)) + answer)
                return
            told = b""
            while not told.endswith(b"\r\n\r\n") and (more := talk.recv(4096)):
                told += more
            address, port = talk.getsockname()
            talk.sendall(f"HTTP/1.0 200 OK\r\n\r\n{self.word} {address}:{port}".encode())

    def _look_up(self, question: bytes) -> bytes:
        """Answer one question as RFC 1035 says: an address, none of another kind, or that there is no such name."""
        at, labels = 12, []
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        name, kind = ".".join(labels), int.from_bytes(question[at + 1 : at + 3], "big")
        self.asked.append(name)
        found = [self.names[name]] if name in self.names and kind == _A else []
        code = 0 if name in self.names else _NXDOMAIN
        head = question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(found), 0, 0) + question[12 : at + 5]
        return head + b"".join(struct.pack("!HHHIH", 0xC00C, _A, _IN, 60, 4) + socket.inet_aton(address) for address in found)
