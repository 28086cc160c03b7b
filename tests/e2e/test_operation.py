"""A server's life as its operator sees it: signals at any moment, what a crash left, and what long use leaves."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sandbox.launcher import cgroups as groups
from tests.e2e.house import REPOSITORY, House, given_up, needs_cgroups, started
from tests.e2e.test_kills import SOURCE, alive, cgroups, left_of, served_again, tree, wait_until_running
from tests.e2e.test_sweep import is_init
from tests.e2e.test_upgrade import head, said

_ENOUGH_S = 60.0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[House]:
    """Return a server of the test's own, with a function."""
    with started(tmp_path / "data") as house:
        assert house.deploy("f", SOURCE).json["state"] == "ready"
        assert house.invoke("f", {"x": 1}).status == 200
        yield house


def running_call(house: House, seconds: float) -> tuple[threading.Thread, list[object]]:
    """Start a call, and return where its answer will be: its status, or None for a closed connection."""
    answers: list[object] = []

    def work() -> None:
        try:
            answers.append(house.invoke("f", {"s": seconds}).status)
        except (OSError, http.client.HTTPException):
            answers.append(None)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until_running(house, thread, answers)
    return thread, answers


# ---- signals


def test_a_drain(own: House) -> None:
    """What runs is finished; what comes behind it on the same connection is refused with 503 and when to come again; nobody gets in."""
    parts = urlsplit(own.url)
    call = b'{"s": 1}'
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=_ENOUGH_S) as connection:
        connection.sendall(head(own, len(call)) + call)
        while not any(f["running"] for f in own.call("GET", "/v1/fleets").json["functions"]):
            time.sleep(0.01)
        own.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError, http.client.HTTPException):
            while own.call("GET", "/readyz").status == 200:  # until it takes nobody any more
                time.sleep(0.01)
        connection.sendall(head(own, 2) + b"{}")
        answers = b"".join(iter(lambda: connection.recv(65536), b"")).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"503"]
    assert answers[0].endswith(b'{"s":1}')
    assert b"retry-after: 1\r\n" in answers[1].lower()
    assert own.process.wait(_ENOUGH_S) == 0


def test_a_second_signal(own: House) -> None:
    """The first waits for what runs, the second ends at once with status 1; nothing stays either way."""
    pids = tree(own.process.pid)
    thread, answers = running_call(own, 600)
    own.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(OSError, http.client.HTTPException):
        while own.call("GET", "/readyz").status == 200:
            time.sleep(0.01)
    assert own.process.poll() is None  # it waits
    own.process.send_signal(signal.SIGINT)
    assert own.process.wait(_ENOUGH_S) == 1
    thread.join()
    assert answers == [None]
    assert left_of(pids) == []
    assert cgroups(own) == set()


def test_a_hang_up_during_a_drain(own: House) -> None:
    """A server that stops is not replaced any more: the call is finished, and then nothing is there."""
    thread, answers = running_call(own, 1)
    own.process.send_signal(signal.SIGTERM)
    own.process.send_signal(signal.SIGHUP)
    thread.join()
    assert own.process.wait(_ENOUGH_S) == 0
    assert answers == [200]
    assert "upgraded" not in (own.data.parent / "serve.log").read_text()


@pytest.mark.parametrize("after", [0.2, 0.5, 0.9])
def test_a_stop_at_any_moment_of_a_start(tmp_path: Path, after: float) -> None:
    """A signal during the start ends it without a trace, whatever had been done by then."""
    data = tmp_path / "data"
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", "--data-dir", str(data), *given_up()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    time.sleep(after)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=_ENOUGH_S)
    assert process.returncode in (0, -signal.SIGTERM)  # the latter before it was a keeper
    house = House(process, data, "", "")
    assert cgroups(house) == set()
    assert not (data / "endpoint").exists()


# ---- what a crash left


def test_a_start_after_everything_was_killed(own: House, tmp_path: Path) -> None:
    """All processes killed at once, in the middle of calls and of a preparation: the next start says what it removed."""
    thread, _ = running_call(own, 600)
    own.deploy("g", SOURCE, wait=False)
    pids = tree(own.process.pid)
    for pid in [own.process.pid, *pids]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    own.process.wait()
    thread.join()
    assert left_of(pids) == []
    (own.data / "staging/sleft").mkdir()
    (own.data / "staging/sleft/file").write_text("x")
    with started(tmp_path / "data") as after:
        assert "1 staged" in said(after, "removed what an earlier run left") or "2 staged" in said(after, "removed")
        assert after.wait("g", 1).json["state"] == "ready"
        assert after.invoke("f", {"x": 2}).json == {"x": 2}
        until = time.monotonic() + _ENOUGH_S
        while "sleft" in os.listdir(own.data / "staging"):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert after.stop() == 0
    assert cgroups(own) == set()
    assert os.listdir(own.data / "staging") == []


@needs_cgroups
def test_a_process_that_an_earlier_run_left(tmp_path: Path) -> None:
    """A process that still lives in a group of ours is killed, its group removed, and one of another server's is not touched."""
    data = tmp_path / "data"
    ours, other = (f"pyfaas-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}-0ld" for place in (data, tmp_path / "other"))
    sleepers = []
    made = groups.detect()
    try:
        for name in (ours, other):
            leaf = made.create(f"{name}/1")
            made.create(name)
            sleepers.append(subprocess.Popen(["/bin/sleep", "600"]))
            for directory in leaf.directories():
                Path(directory, "cgroup.procs").write_text(str(sleepers[-1].pid))
        with started(data) as house:
            assert "1 processes, 1 cgroups" in said(house, "removed what an earlier run left")
            assert sleepers[0].wait(_ENOUGH_S) == -signal.SIGKILL
            until = time.monotonic() + _ENOUGH_S
            while made.found(ours):
                assert time.monotonic() < until
                time.sleep(0.01)
            assert sleepers[1].poll() is None
            assert made.found(other)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
        for name in (ours, other):
            made.sweep(name)
    assert not made.found(other)


# ---- what long use leaves


@pytest.mark.timeout(1800)  # for `--kills 300`
def test_nothing_grows(own: House, request: pytest.FixtureRequest) -> None:
    """Deploying, calling and killing again and again leaves no descriptor, no zombie and no group behind."""
    cycles = request.config.getoption("--kills")
    _cycle(own, 2)
    before = _held(own)
    _cycle(own, cycles)
    until = time.monotonic() + _ENOUGH_S
    while _more(before, after := _held(own)) and time.monotonic() < until:
        time.sleep(0.1)
    print(f"{cycles} cycles: {before} → {after}")
    assert not _more(before, after)


def _cycle(house: House, cycles: int) -> None:
    for n in range(cycles):
        if n % 4 == 0:
            assert house.deploy("f", SOURCE + f"\n# {time.monotonic_ns()}").json["state"] == "ready"
        served_again(house)
        launcher = house.children()["launcher"]
        for pid in tree(launcher) - {launcher}:
            if is_init(pid) == (n % 3 == 0):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    served_again(house)


def _held(house: House) -> dict[str, int]:
    """Count descriptors by process, zombies below the keeper, and groups beyond those of living VMs."""
    children = house.children()
    vms = [pid for pid in tree(children["launcher"]) if is_init(pid)]
    counted = {name: _descriptors(pid) for name, pid in (*children.items(), ("keeper", house.process.pid))}
    zombies = [pid for pid in tree(house.process.pid) if not alive(pid)]
    return {**counted, "vms": len(vms), "zombies": len(zombies), "groups": len({os.path.basename(path) for path in cgroups(house)})}


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:  # a server is closed to its own user, who is not root
        return 0


def _more(before: dict[str, int], after: dict[str, int]) -> bool:
    """Tell whether anything has grown beyond what the VMs that live need: a VM has some ten descriptors in each process."""
    vms = max(0, after["vms"] - before["vms"])
    allowed = {"launcher": 15 * vms, "server": 30 * vms, "groups": vms}
    return any(after[name] > before[name] + allowed.get(name, 0) for name in before if name != "vms")
