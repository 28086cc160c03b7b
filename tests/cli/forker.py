"""Runs `pyfaas` without the half second that an interpreter and its imports take: each command is a fork of this process.

What a command sees is what a fresh process sees (arguments, environment, directory, streams), so that a test may run
dozens of them. Ctrl-C, closed streams and start-up itself are tested with processes that are really started.

As a program it serves one connection, descriptor 0: a request is JSON with three descriptors, the answer the exit status.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Forker:
    """A process with everything imported."""

    connection: socket.socket

    def run(self, words: Sequence[str], directory: Path, environment: Mapping[str, str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            stdin.write(given)
            stdin.seek(0)
            self._send(words, directory, environment, [stdin.fileno(), stdout.fileno(), stderr.fileno()])
            code = self._code()
            for file in (stdout, stderr):
                file.seek(0)
            return subprocess.CompletedProcess(list(words), code, stdout.read(), stderr.read())

    def run_on_terminal(
        self, words: Sequence[str], directory: Path, environment: Mapping[str, str], typed: bytes = b"", columns: int = 80
    ) -> tuple[int, str]:
        """Run one command on a terminal of that width; returns its exit status, and what it wrote as it came.

        `typed` is typed when something is asked for: what comes before that, a question for a secret throws away.
        """
        master, slave = pty.openpty()
        termios.tcsetwinsize(master, (24, columns))
        shown: list[bytes] = []
        reader = threading.Thread(target=_drain, args=(master, shown, typed))
        try:
            self._send(words, directory, environment, [slave] * 3)
        finally:
            os.close(slave)
            reader.start()
        try:
            code = self._code()
            reader.join()
            return code, b"".join(shown).decode()
        finally:
            os.close(master)

    def _send(self, words: Sequence[str], directory: Path, environment: Mapping[str, str], streams: list[int]) -> None:
        request = json.dumps({"words": words, "directory": str(directory), "environment": dict(environment)})
        socket.send_fds(self.connection, [request.encode()], streams)

    def _code(self) -> int:
        return int(self.connection.recv(16))


def _drain(master: int, shown: list[bytes], typed: bytes) -> None:
    with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
        while piece := os.read(master, 65536):
            shown.append(piece)
            if typed and b"".join(shown).endswith((b": ", b"ends\r\n")):
                os.write(master, typed)
                typed = b""


@contextlib.contextmanager
def forking() -> Iterator[Forker]:
    """Start the process, and end it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, __file__], stdin=theirs, env=environment, start_new_session=True)
    theirs.close()
    try:
        yield Forker(ours)
    finally:
        ours.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # a command hangs
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def serve() -> None:
    """Fork for each request until the other side is gone."""
    verbs = importlib.import_module("pyfaas.cli.verbs").VERBS
    for module in {module for module, _ in verbs.values()} | {"pyfaas.cli.tree", "aiohttp", "yaml", "rich.table"}:
        importlib.import_module(module)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        importlib.import_module("pyfaas.cli.tree").run(["ls", "--help"])  # what the first command of a process makes
    gc.freeze()
    connection = socket.socket(fileno=0)
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, 3)
        if not request:
            return
        child = os.fork()
        if child == 0:
            _command(json.loads(request), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _command(request: Mapping[str, object], descriptors: Sequence[int]) -> None:
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.chdir(str(request["directory"]))
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
        sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding=encoding)  # noqa: SIM115 - as long as the process
        sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding=encoding, line_buffering=False)  # noqa: SIM115
        sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), encoding=encoding, errors="backslashreplace", line_buffering=True)  # noqa: SIM115
        importlib.import_module("pyfaas.cli.main").main(request["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
