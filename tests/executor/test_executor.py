"""SandboxExecutor: what goes in, what comes back, what a call used, and what happens when one fails."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest

from sandbox import LimitExceeded, Limits, RemoteError, SandboxExecutor, WorkerDied
from sandbox.spec import Fate

MIB = 1 << 20
FACTOR = 1
STATE: Any = None


class Odd(Exception):
    """An exception that no caller knows by name."""


class Unpicklable:
    """Something that does not travel."""

    def __reduce__(self) -> Any:
        """Refuse."""
        raise PicklingError("it stays")


def times(number: int) -> int:
    return number * FACTOR


def fail(error: BaseException) -> None:
    raise error


def error_of(pool: SandboxExecutor, function: Callable[..., Any], *arguments: Any) -> BaseException:
    """Return the exception that a call ended with."""
    error = pool.submit(function, *arguments).exception()
    assert error is not None
    return error


# ---- in and out


def test_a_function_travels_with_what_it_needs(pool: SandboxExecutor) -> None:
    """A function of a module that no worker can import, a closure and a lambda all run."""
    offset = 3
    assert [pool.submit(work, 4).result() for work in (times, lambda x: times(x) + offset, json.dumps)] == [4, 7, "4"]


def test_a_changed_global_is_seen_by_the_next_call(pool: SandboxExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller binds anew is what the next call finds, also in a worker that knew the old value."""
    assert [pool.submit(times, 2).result() for _ in range(3)] == [2, 2, 2]
    monkeypatch.setitem(times.__globals__, "FACTOR", 10)
    assert [pool.submit(times, 2).result() for _ in range(3)] == [20, 20, 20]


def test_results_keep_their_types(pool: SandboxExecutor) -> None:
    """Tuples, sets, bytes, odd keys and nested containers come back as what they were."""
    value = {None: (1, {2, 3}), "b": [b"\x00\xff", bytearray(b"x")], (1, 2): frozenset({1.5}), "c": 2**5000, "d": 1j}
    back = pool.submit(lambda: value).result()
    assert back == value
    assert [type(back[key]) for key in (None, (1, 2))] == [tuple, frozenset]


def test_large_arguments_and_results_pass(pool: SandboxExecutor) -> None:
    """Tens of MiB go in and come back whole."""
    sent = os.urandom(MIB) * 20
    assert pool.submit(lambda x: x[::-1], sent).result() == sent[::-1]


@pytest.mark.parametrize("is_sent", [True, False], ids=["call", "result"])
def test_what_is_too_large_is_refused_by_name(is_sent: bool) -> None:
    """More than `payload` bytes, in or out, are a LimitExceeded of that name, and the worker goes on."""
    with SandboxExecutor(1, limits=Limits(payload="100K")) as pool:
        pid = pool.submit(os.getpid).result()
        error = error_of(pool, len, b"x" * 200_000) if is_sent else error_of(pool, bytes, 200_000)
        assert isinstance(error, LimitExceeded)
        assert error.limit == "payload"
        assert "102400 are allowed" in str(error)
        assert pool.submit(os.getpid).result() == pid


def test_a_result_that_is_no_data_names_its_type(pool: SandboxExecutor) -> None:
    """A result of another type is a RemoteError that says which, and what else could be done."""
    error = error_of(pool, lambda: [1, {"a": object()}])
    assert isinstance(error, RemoteError)
    assert error.error_type == "TypeError"
    assert "object has no form as data" in error.message
    assert "trust_results=True" in error.message


def test_trusted_results_are_objects() -> None:
    """With trust_results=True a result of the caller's own class comes back as that class, exceptions too."""
    with SandboxExecutor(1, trust_results=True) as pool:
        assert isinstance(pool.submit(Odd, "x").result(), Odd)
        error = error_of(pool, fail, Odd("y"))
        assert isinstance(error, Odd)
        assert error.args == ("y",)
        assert "Odd: y" in str(error.__cause__)


def test_what_cannot_be_pickled_fails_its_future(pool: SandboxExecutor) -> None:
    """The pickler's exception is the call's; nothing is raised at the submission, as in the other executors."""
    assert isinstance(error_of(pool, len, Unpicklable()), PicklingError)


def test_map_keeps_the_order(pool: SandboxExecutor) -> None:
    """Results come in the order of the items, alone or in chunks."""
    assert list(pool.map(times, range(10))) == list(pool.map(times, range(10), chunksize=3)) == list(range(10))


def test_what_a_call_prints_comes_out_before_its_result(capfd: pytest.CaptureFixture[str]) -> None:
    """Both streams pass on, more than a pipe holds too; with output=False they fall."""
    with SandboxExecutor(1) as pool:
        pool.submit(lambda: (print("x" * 200_000), os.write(2, b"aside"))[1:]).result()
        told = capfd.readouterr()
        assert (told.out, told.err) == ("x" * 200_000 + "\n", "aside")
    with SandboxExecutor(1, output=False) as pool:
        pool.submit(print, "y" * 200_000).result()
        assert capfd.readouterr().out == ""


async def test_an_event_loop_can_wait_for_it(pool: SandboxExecutor) -> None:
    """asyncio's run_in_executor takes it like any other executor."""
    loop = asyncio.get_running_loop()
    assert await asyncio.gather(*(loop.run_in_executor(pool, times, number) for number in range(4))) == [0, 1, 2, 3]


# ---- failures


@pytest.mark.parametrize(
    "made",
    [
        ValueError("x"),
        KeyError("key"),
        FileNotFoundError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        StopIteration(3),
        MemoryError(),
        Exception(1, (2, [3])),
        ModuleNotFoundError("no", name="no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_built_in_exceptions_come_back_by_name(pool: SandboxExecutor, made: Exception) -> None:
    """A built-in exception is itself in the caller, with its arguments, and the worker's traceback as its cause."""
    error = error_of(pool, fail, made)
    assert type(error) is type(made)
    assert (error.args, str(error)) == (made.args, str(made))
    assert getattr(error, "filename", None) == getattr(made, "filename", None)
    assert getattr(error, "name", None) == getattr(made, "name", None)
    assert f"{type(made).__name__}" in str(error.__cause__)


def test_a_traceback_shows_the_callers_lines(pool: SandboxExecutor) -> None:
    """The worker has no file of the caller's; its traceback has their lines all the same, and its notes are kept."""

    def noted() -> None:
        error = ValueError("x")
        error.add_note("a note")
        raise error  # this very line

    error = error_of(pool, noted)
    assert f'File "{__file__}"' in str(error.__cause__)
    assert "raise error  # this very line" in str(error.__cause__)
    assert error.__notes__ == ["a note"]


def test_other_exceptions_are_told(pool: SandboxExecutor) -> None:
    """An exception that is not built in is a RemoteError with its type, its message and its traceback as text."""
    error = error_of(pool, fail, Odd("told"))
    assert type(error) is RemoteError
    assert error.error_type.endswith("test_executor.Odd")
    assert error.message == "told"
    assert "in fail" in error.traceback


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_the_caller_is_told(pool: SandboxExecutor, kind: type[BaseException]) -> None:
    """SystemExit and KeyboardInterrupt of a call are RemoteErrors: its caller does not end by them."""
    error = error_of(pool, fail, kind(3))
    assert type(error) is RemoteError
    assert error.error_type == kind.__name__


def test_an_exception_of_odd_arguments_is_told(pool: SandboxExecutor) -> None:
    """A built-in exception whose arguments are no data is a RemoteError of its name."""
    error = error_of(pool, fail, ValueError(object()))
    assert type(error) is RemoteError
    assert error.error_type == "ValueError"


@pytest.mark.parametrize(
    ("end", "says", "fate"),
    [
        (lambda: os._exit(3), "exited with status 3", Fate.EXITED),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended by SIGSEGV", Fate.SIGNALLED),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended by SIGKILL", Fate.SIGNALLED),
    ],
    ids=["exit", "segv", "kill"],
)
def test_a_worker_that_died_fails_its_call_only(pool: SandboxExecutor, end: Callable[[], None], says: str, fate: Fate) -> None:
    """The call is a WorkerDied with the evidence; a call beside it and those after it do not notice."""
    beside = pool.submit(time.sleep, 0.2)
    error = error_of(pool, end)
    assert isinstance(error, WorkerDied)
    assert isinstance(error, BrokenProcessPool)
    assert says in str(error)
    assert error.ending.fate is fate
    assert beside.result() is None
    assert pool.submit(times, 2).result() == 2


def test_too_much_memory_is_named(pool: SandboxExecutor) -> None:
    """A call that uses more than the memory is a LimitExceeded with the kernel's evidence; the next call works."""
    error = error_of(pool, lambda: [b"x" * MIB for _ in range(1_000)])
    assert isinstance(error, LimitExceeded)
    assert error.limit == "memory"
    assert error.ending is not None
    assert error.ending.evidence["oom_kills"] != 0
    assert pool.submit(lambda: len([b"x" * MIB for _ in range(20)])).result() == 20


def test_too_long_is_named() -> None:
    """A call that does not end in time is a LimitExceeded, also one that ignores signals; the next call works."""

    def stubborn() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass

    with SandboxExecutor(1, limits=Limits(timeout="2s")) as pool:
        future = pool.submit(stubborn)
        error = future.exception()
        assert isinstance(error, LimitExceeded)
        assert error.limit == "timeout"
        assert "within 2.0 s" in str(error)
        assert future.usage is not None
        assert future.usage.wall_s >= 2
        assert pool.submit(times, 2).result() == 2


def test_too_many_processes_are_named(pool: SandboxExecutor) -> None:
    """A call that fails because no more processes may be had is a LimitExceeded of that name."""

    def swarm() -> None:
        children: list[subprocess.Popen[bytes]] = []
        try:
            while len(children) < 100:
                children += [subprocess.Popen(["/bin/sleep", "60"])]
        finally:
            for child in children:
                child.kill()
                child.wait()

    error = error_of(pool, swarm)
    assert isinstance(error, LimitExceeded)
    assert error.limit == "pids"


def test_a_forked_child_that_returns_is_no_second_answer(pool: SandboxExecutor) -> None:
    """A call that forks and returns in both processes has one result, and the worker goes on."""

    def double() -> int:
        return 1 if os.fork() else 2

    assert [pool.submit(double).result() for _ in range(4)] == [1, 1, 1, 1]


# ---- usage


def test_usage_is_what_the_call_used(pool: SandboxExecutor) -> None:
    """Wall time, processor time and peak memory are read outside of the worker, and are there once it is done."""

    def burn(size: int) -> int:
        until = time.process_time() + 0.2
        held = b"x" * size
        while time.process_time() < until:
            pass
        return len(held)

    future = pool.submit(burn, 30 * MIB)
    future.result()
    assert future.usage is not None
    assert future.usage.wall_s >= 0.2
    assert future.usage.cpu_s >= 0.15
    assert future.usage.memory_peak_bytes >= 30 * MIB
    idle = pool.submit(time.sleep, 0.2)
    idle.result()
    assert idle.usage is not None
    assert idle.usage.cpu_s < 0.15


def test_processor_time_is_limited() -> None:
    """A worker with a fraction of a processor needs the multiple of the time."""

    def burn() -> float:
        began, until = time.monotonic(), time.process_time() + 0.3
        while time.process_time() < until:
            pass
        return time.monotonic() - began

    with SandboxExecutor(1, limits=Limits(cpu=0.25)) as pool:
        assert pool.submit(burn).result() > 0.6


# ---- workers


def remember(value: int) -> None:
    global STATE  # noqa: PLW0603 - as initializers do
    STATE = value


def recall() -> Any:
    return STATE


def test_an_initializer_prepares_every_worker() -> None:
    """What it sets in its module, all calls of that worker find."""
    with SandboxExecutor(2, initializer=remember, initargs=(7,)) as pool:
        assert {pool.submit(recall).result() for _ in range(6)} == {7}


def test_an_initializer_that_fails_breaks_the_executor(caplog: pytest.LogCaptureFixture) -> None:
    """Its calls and later ones raise BrokenExecutor; the log of concurrent.futures has the reason."""
    with SandboxExecutor(2, initializer=fail, initargs=(Odd("not today"),)) as pool:
        assert isinstance(error_of(pool, times, 1), BrokenExecutor)
        with pytest.raises(BrokenExecutor, match="not today"):
            pool.submit(times, 1)
    assert "not today" in caplog.text


def test_an_initializer_that_ends_its_worker_breaks_the_executor() -> None:
    """No call waits for a worker that can never be ready."""
    with SandboxExecutor(1, initializer=os._exit, initargs=(4,)) as pool:
        error = error_of(pool, times, 1)
        assert isinstance(error, BrokenExecutor)
        assert "status 4" in str(error)


def test_workers_are_reused_and_keep_their_files(pool: SandboxExecutor) -> None:
    """By default a call finds what earlier calls of this executor left in its worker."""
    with SandboxExecutor(1) as one:
        one.submit(Path("/tmp/left").write_text, "x").result()
        assert one.submit(os.listdir, "/tmp").result() == ["left"]


def test_one_task_a_worker_is_a_fresh_container_each() -> None:
    """With max_tasks_per_child=1 nothing of an earlier call is there, and its memory counts alone."""
    with SandboxExecutor(1, max_tasks_per_child=1) as one:
        one.submit(lambda: (Path("/tmp/left").write_text("x"), b"x" * 40 * MIB)[0]).result()
        future = one.submit(os.listdir, "/tmp")
        assert future.result() == []
        assert future.usage is not None
        assert 0 < future.usage.memory_peak_bytes < 40 * MIB


def test_workers_are_started_as_they_are_needed() -> None:
    """One call at a time needs one worker; calls at the same time get one each, up to the most."""
    with SandboxExecutor(3) as pool:
        for _ in range(3):
            pool.submit(times, 1).result()
        assert len(pool._pool.workers) == 1
        assert len(list(pool.map(time.sleep, [0.3] * 6))) == 6
        assert 1 < len(pool._pool.workers) <= 3


def test_paths_can_be_imported_from(tmp_path: Path) -> None:
    """A package in a directory of `paths` is imported in the worker; without it, it is missing there."""
    directory = tmp_path / "site-packages"
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "installed.py").write_text("def name(): return __file__\n")
    (directory / "installed.py").chmod(0o644)

    def use() -> str:
        return str(importlib.import_module("installed").name())

    with SandboxExecutor(1, paths=[directory]) as pool:
        assert pool.submit(use).result() == "/app/1/installed.py"
    with SandboxExecutor(1) as pool:
        assert isinstance(error_of(pool, use), ModuleNotFoundError)


# ---- futures


def test_a_waiting_call_can_be_cancelled_and_a_running_one_cannot() -> None:
    """Cancelling is for what no worker has begun."""
    with SandboxExecutor(1) as pool:
        pool.submit(times, 1).result()
        started = threading.Event()
        first, second, third = (pool.submit(time.sleep, seconds) for seconds in (1.5, 0, 0))
        first.add_done_callback(lambda _: started.set())
        assert second.cancel()
        assert started.wait(30)
        assert (first.cancelled(), second.cancelled(), third.result()) == (False, True, None)


def test_callbacks_see_the_usage_and_may_shut_down() -> None:
    """A callback runs when all is known; shutting down in it does not wait for itself."""
    seen = []
    pool = SandboxExecutor(1)
    future = pool.submit(times, 2)
    future.add_done_callback(lambda done: (seen.append((done.result(), done.usage)), pool.shutdown()))
    future.result()
    pool.shutdown()
    assert [result for result, _ in seen] == [2]
    assert seen[0][1] is future.usage is not None


def test_after_shutdown_nothing_is_taken() -> None:
    """What was submitted is finished; what comes later is a RuntimeError."""
    pool = SandboxExecutor(2)
    futures = [pool.submit(times, number) for number in range(8)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == list(range(8))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(times, 1)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"max_tasks_per_child": "x"}, TypeError, "max_tasks_per_child must be an integer"),
        ({"paths": ["/nowhere"]}, ValueError, "/nowhere is no directory"),
        ({"paths": ["/usr"] * 5}, ValueError, "at most 4 directories"),
        ({"allow_weaker_isolation": ["walls"]}, ValueError, "walls is no layer"),
        ({"allow_weaker_isolation": ["user_namespace"]}, ValueError, "user_namespace cannot be given up"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    """Each is refused by its name before anything is started."""
    before = threading.active_count()
    with pytest.raises(error, match=says):
        SandboxExecutor(**options)
    assert threading.active_count() == before
