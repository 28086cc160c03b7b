"""How an executor begins and ends: what its process, its forks and its launcher do, and that nothing is left."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import SandboxExecutor, WorkerDied
from sandbox.launcher import cgroups
from sandbox.spec import Fate
from tests.e2e.ordinary import group_of, home_of
from tests.sandbox.rig import is_alive

PROJECT = Path(__file__).resolve().parents[2]
UID = 64_124
PATIENCE_S = 60.0


def wait_until(holds: Callable[[], bool], told: Callable[[], object] = lambda: None) -> None:
    """Wait for what the kernel and other processes do in their own time."""
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, told()
        time.sleep(0.01)


def below(pid: int) -> list[int]:
    """Return the processes below one, whichever of its threads started them."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            found += [process for child in map(int, children) for process in (child, *below(child))]
    return found


def program(source: str, directory: Path) -> subprocess.Popen[str]:
    """Start a program of its own whose temporary files are in a directory."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(directory)}
    return subprocess.Popen(
        [sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=directory
    )


def finish(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a program's end; returns its status and what it printed."""
    try:
        out, err = started.communicate(timeout=PATIENCE_S)
    finally:
        started.kill()
    return started.returncode, out, err


BEGIN = "import os, sys, time\nfrom sandbox import SandboxExecutor\npool = SandboxExecutor(2)\n"


def test_a_program_that_forgets_to_shut_down_ends_well(tmp_path: Path) -> None:
    """What was submitted is finished, what was printed comes out, nothing is left of it."""
    source = BEGIN + "pool.submit(lambda: (time.sleep(0.3), print('late')))\nprint('last line', flush=True)"
    assert finish(program(source, tmp_path)) == (0, "last line\nlate\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_fails_ends(tmp_path: Path) -> None:
    """An exception of the main thread ends the program, with its own traceback only."""
    status, _, err = finish(program(BEGIN + "pool.submit(abs, 1).result()\nraise KeyError('mine')", tmp_path))
    assert status == 1
    assert err.endswith("KeyError: 'mine'\n")
    assert err.count("Traceback") == 1


def test_a_killed_program_leaves_no_process(tmp_path: Path) -> None:
    """When the caller is killed its launcher and its workers end; what they had of cgroups goes with the next executor."""
    source = BEGIN + "pool.submit(time.sleep, 600)\npool.submit(abs, 1).result()\nprint('ready', flush=True)\ntime.sleep(600)"
    started = program(source, tmp_path)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    processes = below(started.pid)
    assert len(processes) >= 3
    assert groups(f"pyfaas-x{started.pid}x") != []
    started.kill()
    finish(started)
    wait_until(lambda: not any(map(is_alive, processes)), lambda: list(filter(is_alive, processes)))

    def is_swept() -> bool:
        with SandboxExecutor(1):
            return groups(f"pyfaas-x{started.pid}x") == []

    wait_until(is_swept, lambda: groups(f"pyfaas-x{started.pid}x"))


def test_a_fork_of_the_caller_does_not_use_it(tmp_path: Path) -> None:
    """A forked child can neither submit nor hang; the parent goes on, and shuts down while the child lives."""
    source = (
        BEGIN
        + """
pool.submit(abs, 1).result()
r, w = os.pipe()
child = os.fork()
if child == 0:
    try:
        pool.submit(abs, 2)
    except RuntimeError as error:
        os.write(1, f"{error}\\n".encode())
    pool.shutdown()
    os.close(w)
    os.read(r, 1)
    sys.exit(5)
os.close(r)
os.write(1, f"{pool.submit(abs, -3).result()}\\n".encode())  # in one piece: the child writes too
pool.shutdown()
os.close(w)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    status, out, err = finish(program(f"import warnings; warnings.simplefilter('ignore')\n{source}", tmp_path))
    assert (status, err) == (0, "")
    assert sorted(out.splitlines()) == ["3", "5", "this process is a fork of the one that made the executor: make one here"]


def test_an_executor_that_is_dropped_ends() -> None:
    """Without a shutdown the calls are finished, then its thread and its processes end."""
    pool = SandboxExecutor(2)
    thread, launcher = pool._pool.thread, pool._pool._launcher
    assert launcher is not None
    assert launcher._process is not None
    pid, gone = launcher._process.pid, weakref.ref(pool)
    del launcher
    futures = [pool.submit(abs, -number) for number in range(5)]
    del pool
    gc.collect()
    assert gone() is None
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert [future.result(0) for future in futures] == list(range(5))
    assert not is_alive(pid)


def test_nothing_is_left_of_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After shutdown there is no thread, no process, no cgroup, no descriptor and no file of it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with SandboxExecutor(1) as warm:
        warm.submit(abs, 1).result()
    before = threading.active_count(), set(below(os.getpid())), len(os.listdir("/proc/self/fd"))
    with SandboxExecutor(2) as pool:
        list(pool.map(time.sleep, [0.2, 0.2]))
        instance = re.findall(r"/(pyfaas-x[0-9a-fx]+-)", Path(f"/proc/{next(iter(pool._pool.workers)).pid}/cgroup").read_text())[0]
        assert set(below(os.getpid())) - before[1] != set()
        assert groups(instance) != []
        assert list(tmp_path.iterdir()) != []
    wait_until(lambda: groups(instance) == [], lambda: groups(instance))
    after = threading.active_count(), set(below(os.getpid())), len(os.listdir("/proc/self/fd"))
    assert [now for now, then in zip(after, before, strict=True) if not now <= then] == []
    assert list(tmp_path.iterdir()) == []


def groups(prefix: str) -> list[str]:
    """Return the cgroups of a launcher."""
    return [f"{base}/{name}" for base in cgroups.detect().bases() for name in os.listdir(base) if name.startswith(prefix)]


def test_a_launcher_that_was_killed_is_replaced() -> None:
    """The running call fails with its evidence; the next one has another launcher; no cgroup is left of either."""
    with SandboxExecutor(1) as pool:
        running = pool.submit(time.sleep, 600)
        launcher = pool._pool._launcher
        assert launcher is not None
        assert launcher._process is not None
        wait_until(running.running)
        os.kill(launcher._process.pid, signal.SIGKILL)
        error = running.exception(PATIENCE_S)
        assert isinstance(error, WorkerDied)
        assert error.ending.fate is Fate.LOST
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1
        mine = f"pyfaas-{pool._pool._name}x"
        assert groups(mine) != []
    assert groups(mine) == []


def test_a_worker_that_was_killed_from_outside_is_replaced() -> None:
    """An idle worker's end is noticed, and the next call has another."""
    with SandboxExecutor(1) as pool:
        pool.submit(abs, 1).result()
        (worker,) = pool._pool.workers
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: worker not in pool._pool.workers)
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1


def test_many_threads_may_submit() -> None:
    """Calls from several threads at once all have their own results."""
    with SandboxExecutor(2) as pool:
        seen: dict[int, list[int]] = {}

        def ask(number: int) -> None:
            seen[number] = [pool.submit(int, number * 100 + step).result(PATIENCE_S) for step in range(20)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {number: [number * 100 + step for step in range(20)] for number in range(5)}


# ---- an ordinary user

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root; run as a user, every other test is this test")
AS_USER = """
import os, sys
from sandbox import SandboxExecutor, Limits, LimitExceeded
from sandbox.errors import SandboxError
weaker = sys.argv[1].split(",") if sys.argv[1] != "-" else []
try:
    pool = SandboxExecutor(2, limits=Limits(memory="64M"), allow_weaker_isolation=weaker)
except SandboxError as error:
    sys.exit(f"{type(error).__name__}: {error}")
with pool:
    future = pool.submit(lambda: (os.getuid(), os.listdir("/home") if os.path.exists("/home") else []))
    print(future.result(), future.usage.memory_peak_bytes > 0)
    if not weaker:
        error = pool.submit(lambda: [b"x" * (1 << 20) for _ in range(1000)]).exception()
        print(isinstance(error, LimitExceeded), error.limit)
    print(pool.submit(lambda: os.getuid()).result())
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a directory of the ordinary user's."""
    return home_of(UID, tmp_path)


@pytest.fixture
def group() -> Iterator[str]:
    """Hand a cgroup subtree to the user in every hierarchy."""
    with group_of(UID) as name:
        yield name


def as_user(home: Path, group: str, weaker: str) -> subprocess.CompletedProcess[str]:
    """Use an executor as the user."""
    script = str(PROJECT / "tests" / "e2e" / "as_user.py")
    command = [sys.executable, script, str(UID), group, sys.executable, "-c", AS_USER, weaker, str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@needs_root
def test_an_ordinary_user_has_it_in_full(home: Path, group: str) -> None:
    """With a cgroup handed over, everything is enforced without root."""
    ended = as_user(home, group, "-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(1000, []) True\nTrue memory\n1000\n", "")


@needs_root
def test_without_cgroups_it_is_refused_by_name(home: Path) -> None:
    """Where a layer is missing the executor names it and what mends it, and makes nothing."""
    ended = as_user(home, "-", "-")
    assert ended.returncode == 1
    assert ended.stderr.startswith("LayerMissing: cgroups: ")
    assert "Delegate=yes" in ended.stderr


@needs_root
def test_without_cgroups_on_request(home: Path) -> None:
    """Given up by name, the calls run, and what would have been counted is 0."""
    ended = as_user(home, "-", "cgroups")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(1000, []) False\n1000\n", "")
