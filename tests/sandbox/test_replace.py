"""A container's process is replaced: the same name and the same leaf, and nothing else of who was there before."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SandboxError, SetupError
from sandbox.host.container import Container
from sandbox.spec import Ending, Fate, Limits
from tests.sandbox import groups
from tests.sandbox.rig import Rig, descendants, is_alive

MIB = 1 << 20
_LEAVE = (
    "import os, time\nopen('/tmp/left', 'w').write('x'); open('/dev/shm/left', 'w').write('x'); kept = open('/tmp/left')\n"
    "if os.fork() == 0:\n    if os.fork() == 0:\n        os.setsid(); os.closerange(0, 9); time.sleep(600)\n    os._exit(0)\nos.wait()"
)
_SEEN = (
    "import os; result = [os.listdir('/tmp'), os.listdir('/dev/shm'), os.listdir('/app/code'), sorted(map(int, os.listdir('/proc/self/fd')))[:-1],"
    " 'kept' in globals()]"
)


@pytest.fixture(params=["root", "user"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Root's launcher and an ordinary user's."""
    return {} if request.param == "root" else {"user": 64123, "without": ("cgroups",)}


def leaf(pid: int) -> str:
    """Return the groups that a process is in."""
    return Path(f"/proc/{pid}/cgroup").read_text()


def test_nothing_of_the_old_one_is_left(make_rig: Callable[..., Rig], options: dict[str, Any]) -> None:
    """Its files, processes, descriptors and code are gone, its end is told first; the new one has its id, and is another process."""
    rig = make_rig(**options)
    (rig.directory / "code" / "e").mkdir()
    (rig.directory / "code" / "e" / "main.py").write_text("value = 7\n")
    for path in (rig.directory / "code" / "e", *(rig.directory / "code" / "e").iterdir()):
        path.chmod(0o755)
    vm = rig.vm()
    old = rig.run(vm.fork())
    rig.attach(old, ("code", "code", "e", False))
    rig.ask(old, _LEAVE)
    assert rig.ask(old, _SEEN) == [["left"], ["left"], ["main.py"], [0, 1, 2, 3, 4, 5, 6], True]  # 6: what it opened itself
    assert rig.process is not None
    before, place = descendants(rig.process.pid), leaf(old.pid)
    ends: list[Ending] = []
    old.on_end = ends.append
    new = rig.run(vm.replace(old.id))
    assert [ending.fate for ending in ends] == [Fate.KILLED]
    assert (new.id, new.pid != old.pid, leaf(new.pid)) == (old.id, True, place)
    assert rig.ask(new, _SEEN) == [[], [], [], [0, 1, 2, 3, 4, 5], False]
    rig.wait_until(lambda: len(descendants(rig.process.pid)) == len(before) - 1, lambda: (before, descendants(rig.process.pid)))
    rig.attach(new, ("code", "code", "e", False))
    assert rig.ask(new, "result = open('/app/code/main.py').read()") == "value = 7\n"
    assert rig.ask(vm.first, "result = 1") == 1  # its sibling goes on


def test_a_leaf_is_empty_when_its_last_process_is_released() -> None:
    """One that was killed and that nobody has waited for yet still counts, so no successor comes before the old one is over."""
    with groups.made("empty") as (_, made_leaf):
        assert made_leaf.is_empty()
        pid = groups.spawn(groups.sleep_for_ever, made_leaf)
        assert not made_leaf.is_empty()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not made_leaf.is_empty()
        groups.wait(pid)
        assert made_leaf.is_empty()


def test_it_can_be_replaced_again_and_ended(rig: Rig) -> None:
    """Each process is ended by its own handle only: those of the ones before do nothing, its own ends it and its leaf."""
    vm = rig.vm()
    first = vm.first
    second = rig.run(vm.replace(first.id))
    third = rig.run(vm.replace(first.id))
    for gone in (first, second):
        gone.kill()
        rig.run(rig.launcher.ask("kill", vm.id, gone.key))
    assert rig.ask(third, "result = 3") == 3
    place = [line.split(":", 2)[2] for line in leaf(third.pid).splitlines() if "pyfaas-" in line]
    assert place
    third.kill()
    assert rig.ending(third).fate == Fate.KILLED
    rig.wait_until(lambda: all(not base.endswith(place[0]) for base in _leaves(rig)), lambda: _leaves(rig))
    assert rig.ask(rig.run(vm.fork()), "result = 1") == 1


def _leaves(rig: Rig) -> list[str]:
    return [str(path) for group in rig.groups() for path in Path(group).iterdir() if path.is_dir()]


def test_its_counters_begin_anew(rig: Rig) -> None:
    """What the old one used, and what was killed for want of memory in it, is not held against the new one."""
    vm = rig.vm()
    old = vm.first
    old.limit(Limits(memory_bytes=48 * MIB))
    rig.ask(old, "import os, time\nuntil = time.process_time() + 0.2\nwhile time.process_time() < until: pass")
    rig.ask(old, "if os.fork() == 0:\n    x = b'x' * (200 << 20); os._exit(0)\nresult = os.wait()[1]")
    assert old.usage().oom_kills >= 1
    new = rig.run(vm.replace(old.id))
    assert old.ending is not None
    assert old.ending.evidence["cpu_us"] >= 200_000
    assert (new.usage().oom_kills, new.usage().pids_refused) == (0, 0)
    assert new.usage().cpu_us < 150_000
    if rig.groups()[0].startswith("/sys/fs/cgroup/memory"):  # v1: the kernel lets the peak begin anew
        assert new.usage().memory_peak_bytes < old.ending.evidence["memory_peak_bytes"]
    rig.tell(new, "import os; os._exit(3)")
    ending = rig.ending(new)
    assert (ending.fate, ending.status, ending.evidence["oom_kills"]) == (Fate.EXITED, 3, 0)


@pytest.mark.parametrize("memory_mib", [48, 1024])
def test_its_limits_are_a_blanks(rig: Rig, memory_mib: int) -> None:
    """Smaller and larger limits of the old one are a fresh blank's again, and can be set as any other's."""
    vm = rig.vm()
    vm.first.limit(Limits(memory_bytes=memory_mib * MIB, pids=3))
    new = rig.run(vm.replace(vm.first.id))
    assert new.limits == vm.spec.limits
    fork = "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        time.sleep(600)\nresult = 1"
    assert rig.ask(new, "x = b'x' * (120 << 20); result = len(x); del x") == 120 * MIB
    assert rig.ask(new, fork) == 1
    new.limit(Limits(memory_bytes=64 * MIB))
    rig.tell(new, "y = b'x' * (120 << 20)")
    assert rig.ending(new).fate == Fate.OOM


def test_one_that_has_ended_cannot_be_replaced(rig: Rig) -> None:
    """ESRCH, and the VM goes on."""
    vm = rig.vm()
    vm.first.kill()
    rig.ending(vm.first)
    for name in (vm.first.id, "nobody"):
        with pytest.raises(SetupError) as refused:
            rig.run(vm.replace(name))
        assert refused.value.errno == errno.ESRCH
    assert rig.ask(rig.run(vm.fork()), "result = 1") == 1


def test_one_that_ends_at_that_moment(rig: Rig) -> None:
    """Whoever is first: there is a working container or a refusal, the old one's end is told once, and the VM goes on."""
    vm = rig.vm()
    for _ in range(6):
        box = rig.run(vm.fork())
        ends: list[Ending] = []
        box.on_end = ends.append

        async def both(box: Container = box) -> Container | None:
            asked = asyncio.ensure_future(vm.replace(box.id))
            await asyncio.sleep(0)
            try:
                os.kill(box.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                return await asked
            except SandboxError:
                return None

        new = rig.run(both())
        rig.wait_until(lambda: len(ends) == 1, lambda: ends)  # noqa: B023 - asked at once
        if new is not None:
            assert rig.ask(new, "result = 2") == 2
            new.kill()
            rig.ending(new)
    assert rig.ask(vm.first, "result = 1") == 1


def test_a_vm_that_ends_meanwhile(make_rig: Callable[..., Rig]) -> None:
    """Whoever waits for the new one is told, and nothing is left."""
    rig = make_rig()
    vm = rig.vm()

    async def both() -> object:
        asked = asyncio.ensure_future(vm.replace(vm.first.id))
        await asyncio.sleep(0)
        await vm.destroy()
        return (await asyncio.gather(asked, return_exceptions=True))[0]

    assert isinstance(rig.run(both()), SandboxError)
    rig.wait_for_rest()


def test_one_that_nobody_waits_for_any_more_is_ended(make_rig: Callable[..., Rig]) -> None:
    """When the caller leaves, the new process does not stay."""
    rig = make_rig()
    vm = rig.vm()
    box = rig.run(vm.fork())
    assert rig.process is not None
    before = len(descendants(rig.process.pid))

    async def left() -> None:
        asked = asyncio.ensure_future(vm.replace(box.id))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    rig.run(left())
    rig.wait_until(lambda: box.ending is not None and len(descendants(rig.process.pid)) == before - 1)
    assert rig.ask(vm.first, "result = 1") == 1
    rig.wait_until(lambda: len(_leaves(rig)) == 2 * len(rig.groups()), lambda: _leaves(rig))  # init's and the first one's
    assert not is_alive(box.pid)


def test_what_the_old_one_had_attached_is_free(rig: Rig) -> None:
    """Files of the VM's own that it used can be forgotten, and be attached to the new one if they are not."""
    vm = rig.vm(files_bytes=8 * MIB)
    for name in ("one", "other"):
        rig.run(vm.stage("s-" + name, inside=True))
        rig.run(vm.keep("s-" + name, name))
    for slot, name in (("1", "one"), ("2", "other")):
        rig.attach(vm.first, (slot, "vm", name, False))
    with pytest.raises(SetupError) as refused:
        rig.run(vm.forget("one"))
    assert refused.value.errno == errno.EBUSY
    new = rig.run(vm.replace(vm.first.id))
    rig.run(vm.forget("one"))
    rig.attach(new, ("1", "vm", "other", False))
    with pytest.raises(SetupError) as refused:
        rig.attach(new, ("2", "vm", "one", False))
    assert refused.value.errno == errno.ENOENT


def test_a_busy_one_is_ended_too(rig: Rig) -> None:
    """One that ignores what it can and spins is replaced like any other."""
    vm = rig.vm()
    rig.tell(vm.first, "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass")
    new = rig.run(vm.replace(vm.first.id))
    assert rig.ask(new, "result = 1") == 1
