"""Processes in real cgroups, under a prefix of the tests' own."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandbox.launcher.cgroups import Hierarchies, Leaf, detect
from sandbox.spec import Limits

MIB = 1 << 20
AMPLE = Limits(memory_bytes=256 * MIB, pids=64, cpu=2.0)


def own_prefix(name: str) -> str:
    """Return a group name that no other test process uses."""
    return f"pyfaas-test{os.getpid()}-{name}"


@contextmanager
def made(name: str, limits: Limits = AMPLE) -> Iterator[tuple[Hierarchies, Leaf]]:
    """Make a group with a leaf in it, and remove both."""
    groups = detect()
    assert groups.usable, groups.reason
    groups.prepare()
    group = groups.create(own_prefix(name))
    leaf = groups.create(own_prefix(name) + "/1", limits)
    try:
        yield groups, leaf
    finally:
        leaf.kill()
        for directory in (leaf, group):
            for _ in range(200):
                if directory.remove():
                    break


def spawn(work: Callable[[], object], leaf: Leaf | None) -> int:
    """Fork a child that enters a leaf and works there; exit status 0 when it ended well. Returns its pid."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if leaf is not None:
                leaf.enter()
            os.write(told, b"x")
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not unwind into the test runner
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


def wait(pid: int) -> int:
    """Return a child's exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(work: Callable[[], object], leaf: Leaf | None) -> int:
    """Work in a leaf; returns what `wait` does."""
    return wait(spawn(work, leaf))


def sleep_for_ever() -> None:
    """Wait for a signal that ends the process."""
    signal.pause()


def fill(size: int) -> None:
    """Touch so much memory."""
    assert len(b"x" * size) == size  # not zeros, which would be one shared page


def burn_ms(amount: int) -> None:
    """Use so much processor time."""
    until = time.process_time() + amount / 1000
    while time.process_time() < until:
        pass
