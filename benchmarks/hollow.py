"""A real server over containers that are not there: what a warm call costs the server's own Python, and nothing else.

`python -m benchmarks.hollow DATA LISTEN` serves a data directory in which functions were deployed before. Everything is
the server's (front, authentication, dispatch, metering, journal), but a container answers in the next turn of the loop:
no socket, no other process, no confinement. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.baselines import end
from pyfaas import server
from pyfaas.config import Config
from pyfaas.handover import Handover
from sandbox.wire import Kind, Status, answer_packets, parse_call
from tests.service.fake import FakeContainer, FakeWorkers

_REPOSITORY = Path(__file__).resolve().parents[1]


class EchoContainer(FakeContainer):
    """Answers a call with its event, a turn of the loop later."""

    def send(self, packets: Iterable[bytes]) -> None:
        """Take packets."""
        for sent in packets:
            if sent[0] == Kind.CALL:
                self._call = call = parse_call(sent)
                self._body = [call.body]
                self._wanted = call.body_length - len(call.body)
            elif sent[0] == Kind.PART:
                self._body.append(sent[1:])
                self._wanted -= len(sent) - 1
            else:
                super().send([sent])
                continue
            if not self._wanted:
                asyncio.get_running_loop().call_soon(self._echo)

    def _echo(self) -> None:
        for packet in answer_packets(Status.OK_JSON, self._call.id, 5, b"", b"", b"".join(self._body)):
            self.on_packet(packet)


class EchoWorkers(FakeWorkers):
    """Makes such containers; in the place of `SandboxWorkers`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Need no launcher."""
        super().__init__()

    def _make(self, vm: str) -> FakeContainer:
        made = EchoContainer(self, vm, f"c{next(self._names)}")
        self.containers[made.id] = made
        return made


class NoLauncher:
    """In the place of the launcher's handle."""

    @classmethod
    async def adopt(cls, *_: Any) -> None:
        """Adopt none."""


# The names by which `Server.open` knows what is left out here.
REPLACED: dict[str, Any] = {"SandboxWorkers": EchoWorkers, "Launcher": NoLauncher}


@contextlib.contextmanager
def serving(data: Path) -> Iterator[tuple[int, int]]:
    """Run it over a data directory, in a process of its own; yields (pid, port)."""
    listen = socket.create_server(("127.0.0.1", 0), backlog=512)
    command = [sys.executable, "-m", "benchmarks.hollow", str(data), str(listen.fileno())]
    log = data.parent / "hollow.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, pass_fds=[listen.fileno()], stdin=subprocess.PIPE, stderr=errors, cwd=_REPOSITORY, process_group=0
        )
    port = listen.getsockname()[1]
    listen.close()
    try:
        yield process.pid, port
    finally:
        end(process)


def main(data: str, listen: int) -> None:
    """Be the server; leaves the process."""
    vars(server).update(REPLACED)
    launcher, _ = socket.socketpair()
    keeper = os.dup(0)  # standard input, a pipe: its end is the keeper's, and ends the server
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _end_with(keeper, ours)
    server.main(handover(data, listen, launcher.detach(), theirs.detach()))


def handover(data: str, listen: int, launcher: int, keeper: int) -> Handover:
    """Return what the keeper would give a server, as far as one without containers needs it."""
    return Handover(
        config=Config(data_dir=data),
        listen=listen,
        launcher=launcher,
        keeper=keeper,
        life=-1,
        uid=0,
        needed=(),
        layers=(),
        weaker=(),
        tool={},
    )


def _end_with(pipe: int, keeper: socket.socket) -> None:
    """Close the keeper's end when the pipe ends, by a child: the server's loop is not ours to add to."""
    if os.fork():
        keeper.close()
        return
    os.setsid()
    while os.read(pipe, 64):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
