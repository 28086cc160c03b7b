"""A container's runtime in a fresh interpreter, driven over a real socket pair: everything but the confinement."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sandbox import wire
from sandbox.wire import Status

ROOT = str(Path(__file__).resolve().parents[2])
_MAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import socket
from pyfaas.runtime import container
container.serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4]))
"""


@dataclass
class Answered:
    """One call's packets: a stream's HEAD and ITEMs, and the ANSWER put together."""

    status: Status
    result: bytes
    out: str
    err: str
    head: dict[str, Any] | None = None
    items: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        """The result, parsed."""
        return json.loads(self.result)

    @property
    def http(self) -> tuple[int, dict[str, str], bytes]:
        """An OK_HTTP result's status, headers and body."""
        length = int.from_bytes(self.result[:4], "little")
        head = json.loads(self.result[4 : 4 + length])
        return head["status"], dict(head["headers"]), self.result[4 + length :]


class Guest:
    """The host's end of one container."""

    def __init__(self, directory: Path) -> None:
        """Start a container without code."""
        self.code = directory
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(30)
        out, err = os.pipe(), os.pipe()
        for read in (out[0], err[0]):
            os.set_blocking(read, False)
        arguments = [ROOT, str(theirs.fileno()), str(out[0]), str(err[0])]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _MAIN, *arguments],
            pass_fds=(theirs.fileno(), out[0], err[0]),
            stdin=subprocess.DEVNULL,
            stdout=out[1],
            stderr=err[1],
        )
        theirs.close()
        os.close(out[1])
        os.close(err[1])
        self.out_read, self.err_read = out[0], err[0]
        self._number = 0

    def load(self, source: str = "", **order: Any) -> tuple[str, dict[str, Any]]:
        """Write main.py, send LOAD, return the answer's kind letter and fields."""
        if source:
            (self.code / "main.py").write_text(textwrap.dedent(source))
        asked: dict[str, Any] = {"do": "load", "function": "f", "version": "3", "account": "acct", "handler": None}
        asked |= {"memory_mib": 128, "code": str(self.code), "paths": [str(self.code)], "env": {}, **order}
        return self.ask(asked)

    def ask(self, asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Send a LOAD of any sort."""
        self.channel.send(wire.packet(wire.Kind.LOAD, json.dumps(asked).encode()))
        packet = self.channel.recv(wire.MAX_PACKET)
        if not packet:
            raise AssertionError(self.rest_of(self.err_read))
        return chr(packet[0]), json.loads(packet[1:])

    def next_id(self) -> bytes:
        """Return a new call id."""
        self._number += 1
        return b"%036d" % self._number

    def send(
        self, event: Any = None, *, body: bytes | None = None, flags: int = 0, meta: Any = None, seconds: float = 30.0
    ) -> bytes:
        """Send a CALL and return its id."""
        call_id = self.next_id()
        raw = body if body is not None else b"" if event is None else json.dumps(event).encode()
        said = json.dumps(meta).encode() if meta is not None else b""
        for packet in wire.call_packets(flags, call_id, time.time() + seconds, said, raw):
            self.channel.send(packet)
        return call_id

    def receive(self, call_id: bytes) -> Answered:
        """Read packets until the call's whole ANSWER is there."""
        head: dict[str, Any] | None = None
        items: list[bytes] = []
        while (packet := self._packet())[0] != wire.Kind.ANSWER:
            if packet[0] == wire.Kind.HEAD:
                head = json.loads(packet[1:])
            else:
                assert packet[0] == wire.Kind.ITEM
                items.append(packet[1:])
        answer = wire.parse_answer(packet)
        assert answer.id == call_id
        rest = bytearray(answer.rest)
        while len(rest) < answer.rest_length:
            part = self._packet()
            assert part[0] == wire.Kind.PART
            rest += part[1:]
        first, second = answer.out_length, answer.out_length + answer.err_length
        return Answered(
            Status(answer.status), bytes(rest[second:]), rest[:first].decode(), rest[first:second].decode(), head, items
        )

    def call(self, event: Any = None, **how: Any) -> Answered:
        """Send a CALL and read its answer."""
        return self.receive(self.send(event, **how))

    def cancel(self, call_id: bytes) -> None:
        """Say that the caller of a call has left."""
        self.channel.send(wire.packet(wire.Kind.CANCEL, call_id))

    def rest_of(self, pipe: int) -> str:
        """Read what is left in a log pipe."""
        try:
            return os.read(pipe, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        """Leave; the runtime returns at the end of the channel."""
        self.channel.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out_read)
        os.close(self.err_read)

    def _packet(self) -> bytes:
        packet = self.channel.recv(wire.MAX_PACKET)
        if not packet:
            raise AssertionError("the container is gone: " + self.rest_of(self.err_read))
        return packet


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Guest]]:
    """Return a function that starts a container; all end with the test."""
    guests: list[Guest] = []

    def make() -> Guest:
        directory = tmp_path / f"code{len(guests)}"
        directory.mkdir()
        guests.append(Guest(directory))
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()


@pytest.fixture
def guest(start: Callable[[], Guest]) -> Guest:
    """One container without code."""
    return start()
