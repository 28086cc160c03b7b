"""A real keeper in a process of its own, over the fake server."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.keeper import fake

ROOT = Path(__file__).resolve().parents[2]
_MAIN = """
import json, pathlib, sys
sys.path.insert(0, {root!r})
from pyfaas.keeper import run
sys.exit(run(json.loads(sys.argv[1]), pathlib.Path(sys.argv[3]) if sys.argv[3:] else None, program=sys.argv[2]))
"""


@dataclass(slots=True)
class Kept:
    """A running keeper and the place where its server answers."""

    process: subprocess.Popen[str]
    data: Path
    line: str

    @property
    def words(self) -> dict[str, str]:
        """What the ready line says."""
        return dict(word.split("=", 1) for word in self.line.split()[2:])

    def connect(self, word: str) -> socket.socket:
        """Connect and say a word; the answer waits in the connection."""
        parts = urlsplit(self.words["url"])
        connection = socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60)
        connection.sendall(word.encode())
        return connection

    def ask(self, word: str) -> Any:
        """Return the server's answer to a word."""
        with self.connect(word) as connection:
            return heard(connection)

    def children(self) -> dict[str, int]:
        """Return the pids of launcher, egress and server."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            found["launcher" if b"sandbox.launcher.main" in line else "egress" if b"pyfaas-egress" in line else "server"] = int(pid)
        return found

    def signal(self, number: int) -> None:
        """Send a signal to the keeper."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for the keeper's end: its status, and what was left of its output."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def heard(connection: socket.socket) -> Any:
    """Read an answer to its end; None for a connection that was closed without one."""
    text = b"".join(iter(lambda: connection.recv(4096), b""))
    return json.loads(text) if text else None


def gone(pid: int, seconds: float = 60.0) -> bool:
    """Wait for the end of a process; False when it is still there."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def launch(
    data: Path,
    program: str = fake.PROGRAM,
    *,
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    inherits: Sequence[int] = (),
    errors: int = subprocess.PIPE,
    **flags: Any,
) -> subprocess.Popen[str]:
    """Start a keeper: with a file of options, with more environment, or executed by a program `before` it, which gets descriptors."""
    given = {"port": 0, "data_dir": str(data), **flags}
    command = ["-c", _MAIN.format(root=str(ROOT)), json.dumps(given), program, *([str(file)] if file else [])]
    return subprocess.Popen(
        [sys.executable, *(["-c", *before] if before else []), *command],
        env={**os.environ, **(env or {})},
        pass_fds=inherits,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Kept]]:
    """Return a function that starts a keeper and waits for its ready line; all end with the test."""
    started: list[subprocess.Popen[str]] = []

    def make(program: str = fake.PROGRAM, **flags: Any) -> Kept:
        process = launch(tmp_path / "data", program, **flags)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return Kept(process, tmp_path / "data", line)

    yield make
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def kept(start: Callable[..., Kept]) -> Kept:
    """A keeper whose server is ready."""
    return start()
