"""Whatever is killed, nothing of it stays: no process, no mount, no cgroup, no waiting caller."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import LauncherGone, SetupError
from sandbox.host.container import Container
from sandbox.spec import Fate
from tests.sandbox.rig import Rig, descendants, is_alive

_SPAWN = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid(); os.closerange(0, 9); time.sleep(600); os._exit(0)\nresult = 1"


@pytest.fixture(params=["root", "user"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Root's launcher and an ordinary user's."""
    return {} if request.param == "root" else {"user": 64123, "without": ("cgroups",)}


def busy(rig: Rig) -> tuple[Container, list[int]]:
    """Return a container with children in sessions of their own, and the host's pids of its VM."""
    assert rig.process is not None
    before = set(descendants(rig.process.pid))
    box = rig.blank()
    assert rig.ask(box, _SPAWN) == 1
    return box, sorted(set(descendants(rig.process.pid)) - before)


def is_init(pid: int) -> bool:
    """Tell whether a process of the host is the first one of a pid namespace; pids wrap, so the lowest need not be."""
    return "\t1\n" in next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines(keepends=True) if line.startswith("NSpid"))


def wait_gone(pids: list[int], rig: Rig) -> None:
    """Wait until processes and cgroups are gone, which the kernel does in its own time; fails when they stay."""
    until = time.monotonic() + 10
    while any(map(is_alive, pids)) or rig.groups():
        assert time.monotonic() < until, ([pid for pid in pids if is_alive(pid)], rig.groups())
        rig.run(asyncio.sleep(0.01))


def test_destroying_a_vm_leaves_nothing(make_rig: Callable[..., Rig], options: dict[str, Any]) -> None:
    """Its containers end as killed with it, with their children and their cgroups."""
    rig = make_rig(**options)
    box, pids = busy(rig)
    assert len(pids) >= 5
    rig.run(rig.launcher.ask("destroy", box.vm))
    assert rig.ending(box).signal == 9
    wait_gone(pids, rig)
    rig.run(rig.launcher.ask("destroy", box.vm))  # once more is no error


def test_killing_a_container_takes_its_children_and_leaves_its_sibling(make_rig: Callable[..., Rig], options: dict[str, Any]) -> None:
    """Processes that it left, in whatever session, go with it."""
    rig = make_rig(**options)
    vm = rig.vm()
    sibling = rig.run(vm.fork())
    assert rig.ask(vm.first, _SPAWN) == 1
    vm.first.kill()
    assert rig.ending(vm.first).fate == Fate.KILLED
    assert rig.process is not None
    launchers = 2 if options else 1  # a user's has a parent that only waits
    until = time.monotonic() + 10
    while len(live := [pid for pid in descendants(rig.process.pid) if is_alive(pid)]) > launchers + 2:  # init and the sibling
        assert time.monotonic() < until, live
        rig.run(asyncio.sleep(0.01))
    assert rig.ask(sibling, "result = 1") == 1


@pytest.mark.parametrize("who", ["container", "init"])
def test_killing_from_outside_leaves_nothing(make_rig: Callable[..., Rig], who: str) -> None:
    """A container or a VM's init that somebody kills ends as what it is, and the host hears of it."""
    rig = make_rig()
    box, pids = busy(rig)
    gone: list[str] = []
    rig.launcher.on_vm_gone = gone.append
    os.kill(box.pid if who == "container" else next(filter(is_init, pids)), signal.SIGKILL)
    ending = rig.ending(box)
    assert (ending.fate, ending.signal) == (Fate.SIGNALLED, 9)
    if who == "init":
        with pytest.raises(SetupError):
            rig.run(rig.launcher.ask("fork", box.vm))
        wait_gone(pids, rig)
        rig.run(rig.launcher.ask("discard", "code", "nothing"))
        assert gone == [box.vm]
    else:
        assert rig.ask(rig.run(rig.launcher.blank("fork", box.vm, limits=box.limits)), "result = 1") == 1
        rig.run(rig.launcher.ask("destroy", box.vm))
    wait_gone(pids, rig)


def test_a_killed_launcher_takes_everything_along(make_rig: Callable[..., Rig], options: dict[str, Any]) -> None:
    """Every container ends as lost, every question as LauncherGone, and no process stays."""
    rig = make_rig(**options)
    box, pids = busy(rig)
    gone: list[bool] = []
    rig.launcher.on_gone = lambda: gone.append(True)
    assert rig.process is not None
    rig.process.kill()
    assert rig.ending(box).fate == Fate.LOST
    with pytest.raises(LauncherGone):
        rig.vm()
    assert gone == [True]
    until = time.monotonic() + 10
    while any(map(is_alive, pids)):
        assert time.monotonic() < until
        rig.run(asyncio.sleep(0.01))
    assert rig.mounts() == []


def test_what_a_killed_launcher_left_is_swept_by_the_next(make_rig: Callable[..., Rig]) -> None:
    """Its cgroups stay, since nobody could remove them; the next launcher of the same instance does."""
    first = make_rig()
    first.blank()
    assert first.process is not None
    first.process.kill()
    first.process.wait()
    assert first.groups() != []
    make_rig(instance=first.instance)
    until = time.monotonic() + 10
    while first.groups():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_end_of_the_host_is_the_end_of_everything(make_rig: Callable[..., Rig], options: dict[str, Any]) -> None:
    """When the control socket closes, the launcher ends in order: processes and cgroups."""
    rig = make_rig(**options)
    _, pids = busy(rig)
    rig.run(rig.launcher.close())
    assert rig.process is not None
    assert rig.process.wait(10) == 0
    wait_gone(pids, rig)


def test_the_end_of_the_life_pipe_is_the_end_of_everything(make_rig: Callable[..., Rig]) -> None:
    """A launcher whose server is gone goes too, though its control socket is open elsewhere."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    rig = make_rig(life=read)
    os.close(read)
    _, pids = busy(rig)
    os.close(write)
    assert rig.process is not None
    assert rig.process.wait(10) == 0
    wait_gone(pids, rig)


def test_a_burst_of_orders_is_not_taken_for_an_end(make_rig: Callable[..., Rig]) -> None:
    """A launcher that is busy for a while gets every order when it comes back."""
    rig = make_rig()
    box = rig.blank()
    assert rig.process is not None
    os.kill(rig.process.pid, signal.SIGSTOP)
    try:
        for _ in range(2000):
            rig.launcher.tell("kill", box.vm, "none")
    finally:
        os.kill(rig.process.pid, signal.SIGCONT)
    rig.run(rig.launcher.ask("discard", "code", "nothing"))
    assert rig.ask(box, "result = 1") == 1


def test_a_container_that_floods_does_not_starve_the_loop(make_rig: Callable[..., Rig]) -> None:
    """Reading can be paused: the flooder then blocks in its own send, and goes on when reading does."""
    rig = make_rig()
    box = rig.blank()
    got: list[bytes] = []
    box.on_packet = got.append
    rig.tell(box, "for _ in range(5000): channel.send(b'I' + bytes(1000))")

    async def watch() -> tuple[int, int]:
        while len(got) < 500:
            await asyncio.sleep(0)
        box.pause()
        paused = len(got)
        await asyncio.sleep(0.05)
        return paused, len(got)

    paused, later = rig.run(watch())
    assert paused == later < 5000

    async def rest() -> None:
        box.resume()
        while len(got) < 5001:
            await asyncio.sleep(0.001)

    rig.run(rest())


def test_packets_larger_than_the_sockets_room_arrive_in_order(make_rig: Callable[..., Rig]) -> None:
    """A body of many packets is queued, not refused, and nothing is lost or swapped."""
    rig = make_rig()
    box = rig.blank()
    source = "total = []\nfor _ in range(100):\n    total.append(int.from_bytes(channel.recv(65536)[:4], 'little'))\nresult = total == list(range(100))"
    answers: list[bytes] = []
    box.on_packet = answers.append
    rig.tell(box, source)
    for number in range(100):
        box.send(number.to_bytes(4, "little") + bytes(60_000))

    async def answered() -> None:
        while not answers:
            await asyncio.sleep(0.001)

    rig.run(answered())
    assert b'"got": true' in answers[0]


def test_a_blank_that_speaks_unasked_is_killed(make_rig: Callable[..., Rig]) -> None:
    """Nothing is expected of a container without an order: a packet from it is the end of it."""
    rig = make_rig()
    box = rig.blank()
    assert rig.ask(box, "result = 1") == 1
    box.on_packet = box._unasked
    rig.tell(box, "result = 2")
    assert rig.ending(box).fate == Fate.KILLED
