"""`kill -9` of any process: the caller gets an outcome or a closed connection, others are served again at once."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import Answer, House, given_up, packed, started

SOURCE = "import time\ndef handler(e, c):\n    time.sleep((e or {}).get('s', 0))\n    return e"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[House]:
    """Return a server of the test's own, since it will be hurt."""
    with started(tmp_path / "data") as house:
        assert house.deploy("f", SOURCE).json["state"] == "ready"
        assert house.invoke("f", {"x": 1}).status == 200
        yield house


def call_in_flight(house: House) -> tuple[threading.Thread, list[Answer | None]]:
    """Start a call of some seconds, and return where its answer will be; None is a closed connection."""
    answers: list[Answer | None] = []

    def work() -> None:
        try:
            answers.append(house.invoke("f", {"s": 5}))
        except (OSError, http.client.HTTPException):
            answers.append(None)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until_running(house, thread, answers)
    return thread, answers


def wait_until_running(house: House, thread: threading.Thread, answers: list[Any]) -> None:
    """Wait until the server runs a call; a call that ended before that is told."""
    while not any(f["running"] for f in house.call("GET", "/v1/fleets").json["functions"]):
        assert thread.is_alive(), answers
        time.sleep(0.01)


def served_again(house: House, seconds: float = 30.0) -> None:
    """Wait until a call is answered: whoever comes now is served."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if house.invoke("f", {"again": 1}).status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    pytest.fail("not served again")


def tree(root: int) -> set[int]:
    """Return the pids of a process and all below it."""
    found, todo = set(), [root]
    while todo:
        pid = todo.pop()
        found.add(pid)
        with contextlib.suppress(OSError):  # it ended while it was looked at
            for task in os.listdir(f"/proc/{pid}/task"):
                todo += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def left_of(pids: set[int], seconds: float = 60.0) -> list[int]:
    """Wait until none of these processes lives; returns those that still do."""
    until = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.01)
    return left


def cgroups(house: House) -> set[str]:
    """Return the cgroups of a server in all hierarchies; others may run on this machine and come and go."""
    prefix = f"pyfaas-{hashlib.sha256(str(house.data).encode()).hexdigest()[:8]}-"
    return {f"{place}/{name}" for place, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(prefix)}


def test_server_killed(own: House) -> None:
    """A killed server closes its connections; keeper starts all three again on the same socket."""
    thread, answers = call_in_flight(own)
    os.kill(own.children()["server"], signal.SIGKILL)
    served_again(own)
    thread.join()
    assert answers == [None] or (answers[0] and answers[0].outcome == "lost")
    assert own.call("GET", "/v1/functions/f/versions").status == 200


def test_launcher_killed(own: House) -> None:
    """A killed launcher takes its VMs along: calls in them are lost, later ones are served by a new launcher."""
    thread, answers = call_in_flight(own)
    os.kill(own.children()["launcher"], signal.SIGKILL)
    served_again(own)
    thread.join()
    assert answers[0] is not None
    assert (answers[0].status, answers[0].outcome) == (503, "lost")


def test_container_killed(own: House) -> None:
    """A container that is killed from outside ends its call, and nobody else's."""
    thread, answers = call_in_flight(own)
    launcher = own.children()["launcher"]
    for pid in tree(launcher) - {launcher}:
        # An init that died took its containers along before their turn came.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    served_again(own)
    thread.join()
    assert answers[0] is not None
    assert answers[0].outcome in ("crashed", "lost")


def test_keeper_killed_leaves_nothing(own: House, tmp_path: Path) -> None:
    """When the keeper is gone everything is gone; a new one finds what was acknowledged and removes the rest."""
    queued = [own.invoke("f", {"n": n}, Prefer="respond-async").json["id"] for n in range(10)]
    pids = tree(own.process.pid)
    own.process.kill()
    own.process.wait()
    assert left_of(pids) == []
    with started(tmp_path / "data") as after:
        for job in queued:
            assert after.call("GET", f"/v1/invocations/{job}?wait=20").json["state"] == "succeeded"
        assert after.invoke("f", {"x": 2}).json == {"x": 2}


@pytest.mark.parametrize("later_ms", [0, 10, 40, 150, 400])
def test_keeper_killed_in_an_upgrade_leaves_nothing(own: House, later_ms: int) -> None:
    """Whoever was just being started, and has not told the kernel yet with whom it ends, ends too."""
    before = tree(own.process.pid)
    own.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 30
    while not any(is_server(pid) for pid in tree(own.process.pid) - before):
        assert time.monotonic() < until
        time.sleep(0.002)
    time.sleep(later_ms / 1000)
    pids = tree(own.process.pid)
    own.process.kill()
    own.process.wait()
    assert left_of(pids) == []


def is_server(pid: int) -> bool:
    """Tell whether a process is a server, by its command line."""
    try:
        return b"pyfaas-server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_graceful_stop_leaves_nothing(tmp_path: Path) -> None:
    """A stop lets running calls finish and leaves no process, cgroup or mount."""
    mounts = Path("/proc/self/mountinfo").read_text()
    with started(tmp_path / "data") as house:
        assert house.deploy("f", SOURCE).json["state"] == "ready"
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(house.invoke("f", {"s": 1})))
        thread.start()
        wait_until_running(house, thread, answers)
        pids = tree(house.process.pid)
        assert cgroups(house) or "cgroups" in house.isolation
        assert house.stop() == 0
        thread.join()
    assert answers[0].json == {"s": 1}
    assert not [pid for pid in pids if alive(pid)]
    assert cgroups(house) == set()
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_second_server_is_refused(own: House) -> None:
    """A second server on the same data directory refuses in one line."""
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", *given_up(), "--data-dir", str(own.data)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3
    assert len(second.stderr.strip().splitlines()) == 1
    assert str(own.data) in second.stderr
    assert own.invoke("f", {"x": 3}).json == {"x": 3}


def test_acknowledged_writes_survive(own: House) -> None:
    """Whatever was answered before the server was killed is there afterwards."""
    token = json.loads(own.call("POST", "/v1/tokens", json.dumps({"label": "kept"}), content_type="application/json").body)["token"]
    own.tokens["kept"] = token
    assert own.put("g", packed({"main.py": SOURCE})).status == 201
    os.kill(own.children()["server"], signal.SIGKILL)
    served_again(own)
    assert own.wait("g", 1, token="kept").json["state"] == "ready"  # noqa: S106
    assert own.invoke("g", {}, token="kept").status == 200  # noqa: S106
