"""What a call in a worker cannot do, each beside the same call without the boundary, which can."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from sandbox import LimitExceeded, RemoteError, SandboxExecutor, WorkerDied

CANARY = "canary-" + os.urandom(8).hex()


@pytest.fixture(scope="module")
def plain() -> Iterator[ProcessPoolExecutor]:
    """The same without the boundary: ordinary processes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as made:
        yield made


def read(path: str) -> str:
    return Path(path).read_text(errors="replace")


def write(path: str) -> int:
    return Path(path).write_text("x")


def signal_to(pid: int) -> None:
    os.kill(pid, 0)


def connect(family: int, address: Any) -> bool:
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(address)
        return True


def environment() -> list[str]:
    try:
        first = Path("/proc/self/environ").read_text()
    except OSError:
        first = ""
    return [*os.environ.values(), *first.split("\0")]


def refused(pool: SandboxExecutor, function: Callable[..., Any], *arguments: Any) -> str:
    """Return the name of the exception that a call in a worker met."""
    error = pool.submit(function, *arguments).exception()
    assert error is not None, "it was allowed"
    return error.error_type if isinstance(error, RemoteError) else type(error).__name__


def test_the_callers_files_are_not_there(pool: SandboxExecutor, plain: ProcessPoolExecutor, tmp_path: Path) -> None:
    """A file that everybody may read here does not exist in a worker, and none can be written beside it."""
    secret = tmp_path / "secret"
    secret.write_text(CANARY)
    assert plain.submit(read, str(secret)).result() == CANARY
    assert refused(pool, read, str(secret)) == "FileNotFoundError"
    assert plain.submit(write, str(tmp_path / "new")).result() == 1
    assert refused(pool, write, str(tmp_path / "newer")) == "FileNotFoundError"
    assert refused(pool, write, "/usr/new") in ("PermissionError", "OSError")
    assert not (tmp_path / "newer").exists()


def test_the_callers_code_is_not_there(pool: SandboxExecutor, plain: ProcessPoolExecutor) -> None:
    """The source of the function itself, and of this package, cannot be read in a worker."""
    for path in (__file__, sys.modules["sandbox.executor"].__file__):
        assert plain.submit(read, str(path)).result() != ""
        assert refused(pool, read, str(path)) == "FileNotFoundError"


def test_the_callers_environment_is_not_there(pool: SandboxExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller's is in a worker, not even in its first environment."""
    monkeypatch.setenv("A_SECRET", CANARY)
    with SandboxExecutor(1) as fresh, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as control:
        assert CANARY in control.submit(environment).result()
        for executor in (fresh, pool):
            assert [word for word in executor.submit(environment).result() if CANARY in word] == []


def test_the_caller_cannot_be_seen_or_signalled(pool: SandboxExecutor, plain: ProcessPoolExecutor) -> None:
    """The caller's process has no number in a worker: no signal reaches it, its memory has no file."""
    pid = os.getpid()
    assert plain.submit(signal_to, pid).result() is None
    assert refused(pool, signal_to, pid) == "ProcessLookupError"
    assert plain.submit(os.path.exists, f"/proc/{pid}/mem").result()
    assert not pool.submit(os.path.exists, f"/proc/{pid}/mem").result()


def memory_of(pid: int) -> Iterator[bytes]:
    """Return what a process may write in its memory, region by region, as root reads it."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            start, end = (int(part, 16) for part in place.split("-"))
            if rights.startswith("rw") and end - start < 1 << 28:
                memory.seek(start)
                with contextlib.suppress(OSError):
                    yield memory.read(end - start)


@pytest.mark.skipif(os.getuid() != 0, reason="reading the memory of processes that cannot be traced needs root")
def test_nothing_of_the_callers_memory_is_in_a_worker(pool: SandboxExecutor) -> None:
    """What the caller holds is in its own memory, and neither in the launcher's nor in a worker's."""
    secret = CANARY.encode()
    pool.submit(abs, 1).result()
    launcher = pool._pool._launcher
    assert launcher is not None
    assert launcher._process is not None
    pids = [launcher._process.pid, *(worker.pid for worker in pool._pool.workers)]
    assert len(pids) >= 2
    assert any(secret in region for region in memory_of(os.getpid()))
    assert [pid for pid in pids if any(secret in region for region in memory_of(pid))] == []


def test_a_signal_to_everybody_reaches_nobody_else(pool: SandboxExecutor) -> None:
    """A call that kills all that it can leaves the caller, and the workers beside it, alive."""
    beside = pool.submit(signal.sigtimedwait, [signal.SIGUSR1], 0.3)
    pool.submit(os.kill, -1, signal.SIGKILL).exception()
    assert beside.result() is None


def test_there_is_no_network(pool: SandboxExecutor, plain: ProcessPoolExecutor) -> None:
    """Neither the caller's loopback nor its abstract sockets can be reached."""
    name = f"\0pyfaas-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        for family, address in ((socket.AF_INET, inet.getsockname()), (socket.AF_UNIX, name)):
            assert plain.submit(connect, family, address).result()
            assert refused(pool, connect, family, address) in ("OSError", "PermissionError", "ConnectionRefusedError")


def test_shared_memory_is_not_shared(pool: SandboxExecutor, plain: ProcessPoolExecutor) -> None:
    """A segment of the caller's has no name in a worker."""
    segment = SharedMemory(create=True, size=16)
    try:
        assert plain.submit(os.path.exists, f"/dev/shm/{segment.name}").result()
        assert not pool.submit(os.path.exists, f"/dev/shm/{segment.name}").result()
    finally:
        segment.close()
        segment.unlink()


def test_workers_do_not_see_each_other(pool: SandboxExecutor) -> None:
    """Calls that run at the same time, in one executor or two, share neither processes nor files."""

    def look(name: str) -> tuple[list[str], list[str]]:
        (Path("/tmp") / name).touch()
        signal.sigtimedwait([signal.SIGUSR1], 0.5)
        return sorted(os.listdir("/tmp")), [entry for entry in os.listdir("/proc") if entry.isdigit()]

    with SandboxExecutor(2) as other:
        names = ["a", "b", "c"]
        futures = [executor.submit(look, name) for executor, name in zip((other, other, pool), names, strict=True)]
        found = [future.result() for future in futures]
    assert [files for files, _ in found] == [["a"], ["b"], ["c"]]
    assert [pids for _, pids in found if len(pids) > 2] == []


def test_a_worker_is_confined(pool: SandboxExecutor) -> None:
    """The kernel says of the process that runs calls: no capability, no new privileges, a filter, another uid."""
    status = dict(line.split(":\t", 1) for line in pool.submit(read, "/proc/self/status").result().splitlines() if ":\t" in line)
    assert [status[name].strip() for name in ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp")] == ["0" * 16, "0" * 16, "1", "2"]


# ---- what a worker sends; no assert in there, since pytest's are made of its own code


def own_id() -> bytes:
    """Return the id of the running call, as hostile code finds it."""
    frame: Any = sys._getframe()
    while "call" not in frame.f_locals:
        frame = frame.f_back
    return bytes(frame.f_locals["call"].id)


def answer(status: int, call_id: bytes, length: int, rest: bytes) -> bytes:
    return struct.pack("<cB36sIIII", b"A", status, call_id, 0, 0, 0, length) + rest


class Evil:
    """A pickle that makes a file where it is read."""

    def __init__(self, path: str) -> None:
        """Take the file's path."""
        self.path = path

    def __reduce__(self) -> Any:
        """Make the file."""
        return write, (self.path,)


def send(*packets: bytes) -> None:
    channel = socket.socket(fileno=3)
    for packet in packets:
        channel.send(packet)
    channel.detach()
    threading.Event().wait(60)


def send_mine(status: int, length: int, rest: bytes) -> None:
    send(answer(status, own_id(), length, rest))


@pytest.mark.parametrize(
    "packets",
    [
        (b"R{}",),
        (b"I{}",),
        (b"P" * 10,),
        (b"A",),
        (b"\xff",),
        (answer(0, b"x" * 36, 0, b""),),
        (answer(0, b"x" * 36, 5, b"123456789"),),
    ],
    ids=["loaded", "item", "part", "short", "unknown", "other-id", "longer"],
)
def test_what_must_not_be_sent_ends_the_worker(pool: SandboxExecutor, packets: tuple[bytes, ...]) -> None:
    """A packet that the protocol does not allow now costs the call its worker, and nobody else anything."""
    error = pool.submit(send, *packets).exception(30)
    assert isinstance(error, WorkerDied)
    assert "it sent what it must not send" in str(error)
    assert pool.submit(abs, -1).result() == 1


@pytest.mark.parametrize(("status", "rest"), [(0, b""), (0, b"\x04\0\0\0null no"), (4, b"\0\0\0\0"), (2, b"x"), (99, b""), (6, b"")])
def test_an_answer_that_is_none_ends_the_worker(pool: SandboxExecutor, status: int, rest: bytes) -> None:
    """An answer to the running call that is no value, no exception or of no known kind fails that call."""
    assert isinstance(pool.submit(send_mine, status, len(rest), rest).exception(30), WorkerDied)
    assert pool.submit(abs, -1).result() == 1


def test_an_answer_that_announces_too_much_is_not_awaited(pool: SandboxExecutor) -> None:
    """More bytes than `payload` are refused when they are announced."""
    error = pool.submit(send_mine, 0, 1 << 31, b"x").exception(30)
    assert isinstance(error, LimitExceeded)
    assert error.limit == "payload"


def test_a_pickle_is_never_read(pool: SandboxExecutor, tmp_path: Path) -> None:
    """A worker that answers with a pickle, or tells of an exception with one, has nothing run in the caller."""
    path = str(tmp_path / "made")
    pickle.loads(pickle.dumps(Evil(path + "-control")))
    assert Path(path + "-control").exists()
    body = pickle.dumps(Evil(path))
    assert isinstance(pool.submit(send_mine, 1, len(body), body).exception(30), WorkerDied)
    assert isinstance(pool.submit(_raise_evil, body).exception(30), Exception)
    assert not Path(path).exists()


def _raise_evil(body: bytes) -> None:
    values = sys.modules["sandbox.values"]
    told = values.encode({"module": "builtins", "type": "ValueError", "arguments": (), "pickle": body})
    send_mine(4, len(told), told)
