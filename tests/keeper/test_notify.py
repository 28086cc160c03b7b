"""The service manager is told by datagrams, as sd_notify(3) says, and its sockets are taken, as sd_listen_fds(3) says."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfaas.notify import Manager
from tests.keeper.conftest import Kept, launch

_LISTENS = """
import os, socket, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(60)
        yield end


def heard(manager: socket.socket, wanted: str) -> dict[str, str]:
    """Return the next message with a line `wanted` in it."""
    while True:
        lines = manager.recv(4096).decode().splitlines()
        if wanted in lines:
            return dict(line.split("=", 1) for line in lines)


def test_ready_reloading_stopping(manager: socket.socket, tmp_path: Path) -> None:
    """The manager hears when the server serves, when it is replaced, by when, and that it stops; the server knows nothing of it."""
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    kept = Kept(launch(tmp_path / "data", env=env), tmp_path / "data", "")
    assert kept.process.stdout is not None
    assert "http://" in heard(manager, "READY=1")["STATUS"]
    kept.line = kept.process.stdout.readline()
    assert "NOTIFY_SOCKET" not in kept.ask("surroundings")["environment"]
    heard(manager, "WATCHDOG=1")
    kept.signal(signal.SIGHUP)
    since = int(heard(manager, "RELOADING=1")["MONOTONIC_USEC"])
    assert 0 < since <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    heard(manager, "READY=1")
    heard(manager, "WATCHDOG=1")
    kept.signal(signal.SIGTERM)
    heard(manager, "STOPPING=1")
    assert kept.end()[0] == 0


def test_an_abstract_socket() -> None:
    """A name that begins with @ is an abstract one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        name = f"pyfaas-test-{os.getpid()}"
        end.bind("\0" + name)
        end.settimeout(10)
        Manager({"NOTIFY_SOCKET": "@" + name}).tell("STATUS=a", "STATUS=b")
        assert end.recv(100) == b"STATUS=a\nSTATUS=b"


@pytest.mark.parametrize("place", ["", "/no/such/place", "@nobody-listens-here"])
def test_nobody_is_there(place: str) -> None:
    """Without a manager, or with one that has gone, nothing happens, and nothing beats."""
    manager = Manager({"NOTIFY_SOCKET": place} if place else {})
    manager.tell("READY=1")
    assert manager.beat_s is None


@pytest.mark.parametrize(("pid", "beats"), [(None, True), (str(os.getpid()), True), ("1", False)])
def test_a_watchdog_of_this_process(pid: str | None, beats: bool) -> None:
    """The manager is told twice in its time, when it is this process that it watches."""
    given = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "4000000", **({"WATCHDOG_PID": pid} if pid else {})}
    assert Manager(given).beat_s == (2.0 if beats else None)


def test_a_socket_of_the_manager(tmp_path: Path) -> None:
    """A server that is given a listening socket serves there, and binds no other."""
    with socket.create_server(("127.0.0.1", 0)) as listen:
        port = listen.getsockname()[1]
        kept = Kept(launch(tmp_path / "data", before=[_LISTENS, str(listen.fileno())], inherits=[listen.fileno()], port=1), tmp_path / "data", "")
        assert kept.process.stdout is not None
        kept.line = kept.process.stdout.readline()
    assert kept.words["url"] == f"http://127.0.0.1:{port}"
    assert kept.ask("who") == kept.children()["server"]
    kept.signal(signal.SIGTERM)
    assert kept.end()[0] == 0
