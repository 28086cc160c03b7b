"""CPython's own executor tests, found where they are installed and run against SandboxExecutor.

Nothing of them is copied: their mixins are subclassed at run time. They lie in the `test` package, which Debian has in
`libpython3.11-testsuite` (one module) and other builds bring along (a package, from 3.12 on).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import multiprocessing
import os
import sys
import time
import types
import unittest
from collections.abc import Iterator
from typing import Any
from unittest import mock

from sandbox import SandboxExecutor as RealExecutor

SUITE = "test.test_concurrent_futures"
PARTS = ("util", "executor", "test_as_completed", "test_deadlock", "test_future", "test_init", "test_process_pool", "test_shutdown")
MORE_PARTS = ("test_thread_pool", "test_wait")
_PATIENCE_S = 30.0


def modules() -> list[types.ModuleType]:
    """Return the suite's modules; none where it is not installed."""
    try:
        whole = importlib.import_module(SUITE)
    except ModuleNotFoundError:
        return []
    if not hasattr(whole, "__path__"):
        return [whole]
    return [importlib.import_module(f"{SUITE}.{part}") for part in (*PARTS, *MORE_PARTS)]


def found(name: str) -> Any:
    """Return a class of the suite, or None where this Python's has none of that name."""
    return next((getattr(module, name) for module in modules() if hasattr(module, name)), None)


def families() -> dict[str, Any]:
    """Return what the suite's tests are written in: every class with tests but those that it made from its mixins."""
    kinds = {}
    for module in modules():
        for name, kind in vars(module).items():
            is_class = isinstance(kind, type) and kind.__module__ == module.__name__
            if is_class and names_of(kind) and not (_is_made(name) and issubclass(kind, unittest.TestCase)):
                kinds[name] = kind
    return kinds


def _is_made(name: str) -> bool:
    made = ("ThreadPool", "ProcessPoolFork", "ProcessPoolForkserver", "ProcessPoolSpawn", "InterpreterPool")
    ends = ("Initializer", "FailingInitializer", "Executor", "ProcessPoolExecutor", "ProcessPoolShutdown", "ExecutorDeadlock")
    return any(name in (f"{start}{end}Test", f"{start}{end}") for start in made for end in (*ends, "Wait", "AsCompleted")) and name not in (
        "ThreadPoolExecutorTest",
        "ThreadPoolWaitTests",
    )


def names_of(kind: type) -> set[str]:
    """Return the names of a class's tests, inherited ones included."""
    return {name for name in dir(kind) if name.startswith("test_")}


class Process:
    """A worker as the suite looks at one."""

    def __init__(self, pid: int) -> None:
        """Take its pid as the host sees it."""
        self.pid = pid

    def join(self) -> None:
        """Wait for its end."""
        until = time.monotonic() + _PATIENCE_S
        while os.path.exists(f"/proc/{self.pid}"):
            assert time.monotonic() < until, f"process {self.pid} is still there"
            time.sleep(0.01)


class Queue:
    """What stands for a queue with a feeder thread: there is none."""

    def join_thread(self) -> None:
        """Return at once."""


class SandboxExecutor(RealExecutor):
    """The executor with the insides that the suite looks at. Its name is written into the suite's subprocesses."""

    trusting = False

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        """Take a multiprocessing context too, which decides nothing here."""
        options.pop("mp_context", None)
        super().__init__(max_workers, **{"trust_results": self.trusting, **options})
        self._max_workers = self._pool._plan.max_workers
        self._executor_manager_thread = self._pool.thread
        self._call_queue = Queue()

    @property
    def _processes(self) -> dict[int, Process]:
        return {worker.pid: Process(worker.pid) for worker in list(self._pool.workers)}


class Trusting(SandboxExecutor):
    """One that unpickles results."""

    trusting = True


def case(family: str, test: str, *, trusting: bool) -> unittest.TestCase:
    """Make one test of a family for our executor."""
    mixin, plain = found(family), found("ExecutorMixin")
    members = {
        "executor_type": Trusting if trusting else SandboxExecutor,
        "get_context": lambda _self: multiprocessing.get_context("spawn"),
        # What is sent into a worker is of the suite's own class: this one is in no module that a worker can import.
        **{name: getattr(mixin, name) for name in ("_test_traceback",) if hasattr(mixin, name)},
    }
    bases = (mixin,) if issubclass(mixin, plain) else (mixin, plain)
    made: unittest.TestCase = type(f"Sandbox{family}", (*bases, unittest.TestCase), members)(test)
    return made


def run(one: unittest.TestCase) -> list[str]:
    """Run it; returns what went wrong, as text. A test that skips itself has gone wrong too."""
    result = unittest.TestResult()
    one.run(result)
    told = [text for _, text in (*result.failures, *result.errors, *result.skipped)]
    return told if result.testsRun == 1 else [*told, f"{result.testsRun} tests were run"]


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Let the suite's programs import our executor, and its tests that make a ProcessPoolExecutor by name make ours.

    A test that decides by `executor_type == ProcessPoolExecutor` decides as for any other executor.
    """
    with contextlib.ExitStack() as stack:
        for module in modules():
            if hasattr(module, "assert_python_ok"):
                stack.enter_context(mock.patch.object(module, "assert_python_ok", _ours_in(module.assert_python_ok)))
        pool = type("ProcessPoolExecutor", (SandboxExecutor,), {})
        stack.enter_context(mock.patch.object(concurrent.futures, "ProcessPoolExecutor", pool))
        yield


def _ours_in(original: Any) -> Any:
    """Let a program of the suite's import our executor."""

    def changed(*arguments: str, **options: Any) -> Any:
        path = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; from sandbox import SandboxExecutor"
        return original(*(text.replace("from concurrent.futures import SandboxExecutor", path) for text in arguments), **options)

    return changed
