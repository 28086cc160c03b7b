"""A leaf in the host's hands: limits, counters and the kill switch through descriptors alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.host.leaf import Leaf
from sandbox.launcher import cgroups
from sandbox.launcher.cgroups import limit_values
from sandbox.spec import Limits, Usage
from tests.sandbox.groups import AMPLE, MIB, burn_ms, fill, made, run, sleep_for_ever, spawn, wait

SMALL = Limits(memory_bytes=64 * MIB, pids=8, cpu=0.5)


@pytest.fixture
def pair() -> Iterator[tuple[cgroups.Leaf, Leaf]]:
    """Return a leaf as the launcher has it, and as it is handed to the host."""
    with made("host") as (_, made_leaf):
        host = Leaf(dict(made_leaf.descriptors()), AMPLE)
        yield made_leaf, host
        host.close()


def in_force(leaf: cgroups.Leaf) -> dict[str, str]:
    """Return the limits as the kernel tells them."""
    paths = {file: leaf._file(file) or "" for file in cgroups.LIMIT_FILES[leaf._is_v1]}
    return {file: Path(path).read_text().strip() for file, path in paths.items() if os.path.exists(path)}


@pytest.mark.parametrize("memory_mib", [64, 1024])
def test_limits_are_written_down_and_up(pair: tuple[cgroups.Leaf, Leaf], memory_mib: int) -> None:
    """New limits are in force at once, lower ones and higher ones, swap together with memory."""
    made_leaf, host = pair
    limits = Limits(memory_bytes=memory_mib * MIB, pids=8, cpu=0.5)
    host.limit(limits)
    wanted = {file: value for file, value in limit_values(limits, is_v1=made_leaf._is_v1) if file in in_force(made_leaf)}
    assert in_force(made_leaf) == wanted
    host.limit(AMPLE)
    assert in_force(made_leaf)[next(iter(wanted))] == str(AMPLE.memory_bytes)


def test_what_does_not_change_is_not_written(pair: tuple[cgroups.Leaf, Leaf], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the files of limits that differ are written, and none when nothing differs."""
    _, host = pair
    files: list[int] = []
    by_number = {descriptor: name for name, descriptor in host._files.items()}
    write = os.pwrite

    def noted(descriptor: int, text: bytes, at: int) -> int:
        files.append(descriptor)
        return write(descriptor, text, at)

    monkeypatch.setattr(os, "pwrite", noted)
    host.limit(AMPLE)
    assert files == []
    host.limit(Limits(memory_bytes=AMPLE.memory_bytes, pids=11, cpu=AMPLE.cpu))
    assert [by_number[fd] for fd in files] == ["pids.max"]


def test_counters_are_those_of_the_leaf(pair: tuple[cgroups.Leaf, Leaf]) -> None:
    """Time and memory of what ran in the leaf are read through the descriptors, and agree with the launcher's reading."""
    made_leaf, host = pair
    before = host.usage()

    def work() -> None:
        burn_ms(30)
        fill(40 * MIB)

    assert run(work, made_leaf) == 0
    usage = host.usage()
    assert usage.cpu_us - before.cpu_us >= 25_000
    assert usage.memory_peak_bytes >= 40 * MIB
    assert (usage.oom_kills, usage.pids_refused) == (0, 0)
    assert made_leaf.usage() == usage


def test_oom_is_counted_under_a_limit_set_by_the_host(pair: tuple[cgroups.Leaf, Leaf]) -> None:
    """A limit that the host set is the one that kills, and its counter rises."""
    made_leaf, host = pair
    host.limit(SMALL)
    assert run(lambda: fill(120 * MIB), made_leaf) == -signal.SIGKILL
    assert host.usage().oom_kills >= 1


def test_kill_needs_no_right_but_the_descriptor(pair: tuple[cgroups.Leaf, Leaf]) -> None:
    """A process of another uid, which may not signal the leaf's process, kills it and sets limits by descriptor."""
    made_leaf, host = pair
    if "cgroup.kill" not in host._files:
        pytest.skip("no v2 mount on this machine")
    pid = spawn(sleep_for_ever, made_leaf)

    def as_a_stranger() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            host.limit(SMALL)
            assert host.usage().memory_peak_bytes > 0
            assert host.kill()
            return
        raise AssertionError("the stranger was allowed to signal")

    assert run(as_a_stranger, None) == 0
    assert wait(pid) == -signal.SIGKILL
    assert in_force(made_leaf)["pids.max"] == "8"


def test_a_leaf_that_is_gone_reads_as_nothing() -> None:
    """After the leaf was removed its counters are 0 and a kill is no error."""
    with made("gone") as (_, made_leaf):
        host = Leaf(dict(made_leaf.descriptors()), AMPLE)
        assert any(made_leaf.remove() for _ in range(200))
        assert host.usage() == Usage()
        host.kill()
        host.close()


def test_without_descriptors_nothing_is_claimed() -> None:
    """Where cgroups were given up, limits are kept, counters are 0, and kill says that it did not."""
    leaf = Leaf({}, AMPLE)
    leaf.limit(SMALL)
    assert leaf.usage() == Usage()
    assert leaf.kill() is False
    leaf.close()


def test_v2_files_by_descriptor(tmp_path: Path) -> None:
    """With v2's files the same calls write v2's values and read v2's counters."""
    texts = {
        **dict.fromkeys(cgroups.LIMIT_FILES[False], ""),
        "memory.events": "oom 4\noom_kill 2\n",
        "memory.peak": "4096\n",
        "pids.events": "max 3\n",
        "cpu.stat": "usage_usec 77\n",
        "cgroup.kill": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    leaf = Leaf({name: os.open(tmp_path / name, os.O_RDWR) for name in texts}, AMPLE)
    leaf.limit(SMALL)
    assert (tmp_path / "memory.max").read_text() == str(SMALL.memory_bytes)
    assert (tmp_path / "cpu.max").read_text() == "50000 100000"
    assert (tmp_path / "memory.swap.max").read_text() == ""  # was 0 already
    assert leaf.usage() == Usage(cpu_us=77, memory_peak_bytes=4096, oom_kills=2, pids_refused=3)
    assert leaf.kill() is True
    assert (tmp_path / "cgroup.kill").read_text() == "1"
    leaf.close()
