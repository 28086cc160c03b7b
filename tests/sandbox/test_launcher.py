"""The launcher's own duties: it survives what goes wrong, refuses what is malformed, and hands out nothing by mistake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.host import launcher as host_launcher
from sandbox.launcher.confine import CONTAINER_STEPS, VM_STEPS
from sandbox.spec import VmSpec
from tests.sandbox.rig import Rig

CONTAINER_ONLY = [step.value for step, _ in CONTAINER_STEPS if step not in dict(VM_STEPS)]


def test_a_blank_answers(rig: Rig) -> None:
    """A VM comes with a container that runs what it is sent."""
    assert rig.ask(rig.blank(), "result = 6 * 7") == 42


@pytest.mark.parametrize("name", ["..", "."])
@pytest.mark.parametrize("verb", ["discard", "attach", "stage", "commit"])
def test_names_of_entries_name_entries(rig: Rig, verb: str, name: str) -> None:
    """A store's own directory and its parent are no entries: nothing outside a store is removed, shown or moved."""
    (rig.directory / "code" / "witness").mkdir(exist_ok=True)
    box = rig.blank()
    words = {
        "discard": ("discard", "code", name),
        "attach": ("attach", box.vm, box.id, "1048576", f"code:code:{name}:ro"),
        "stage": ("stage", box.vm, name),
        "commit": ("commit", name, "kept", "taken"),
    }[verb]
    with pytest.raises(SetupError):
        rig.run(rig.launcher.ask(*words))
    assert (rig.directory / "code" / "witness").is_dir()
    assert (rig.directory / "staging").is_dir()


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("vm",),
        ("vm", "none", "x", "1", "1", "1"),
        ("fork", "no-such-vm"),
        ("attach", "no-such-vm", "none", "1"),
        ("discard", "no-such-store", "name"),
        ("discard", "code", "a/b"),
        ("discard", "code", "a\nb"),
        ("stage", "no-such-vm", "é"),
        ("attach", "a" * 200),
    ],
    ids=lambda words: " ".join(words)[:24].encode("ascii", "backslashreplace").decode().replace("\n", "-"),
)
def test_malformed_commands_are_refused(rig: Rig, words: tuple[str, ...]) -> None:
    """A command that is not of the fixed form is answered with an error, and the next one is served."""
    with pytest.raises(SetupError):
        rig.run(rig.launcher.ask(*words))
    assert rig.ask(rig.blank(), "result = 1") == 1


@pytest.mark.parametrize("step", [step.value for step, _ in VM_STEPS])
def test_no_code_runs_after_a_failed_step_of_a_vm(make_rig: Callable[..., Rig], step: str) -> None:
    """A step of a VM's set-up that fails is named, and neither the VM nor its cgroup stays."""
    rig = make_rig(fail_at=step)
    with pytest.raises(SetupError) as failed:
        rig.vm()
    assert failed.value.step == step
    rig.wait_for_rest()


@pytest.mark.parametrize("step", CONTAINER_ONLY)
def test_no_code_runs_after_a_failed_step_of_a_container(make_rig: Callable[..., Rig], step: str) -> None:
    """A step of the first container's set-up that fails takes the VM along, for nobody would hold it."""
    rig = make_rig(fail_at=step)
    with pytest.raises(SetupError) as failed:
        rig.vm()
    assert failed.value.step == step
    rig.wait_for_rest()


@pytest.mark.parametrize("name", sorted(host_launcher.EXPECTED))
def test_a_wrong_read_back_ends_the_vm(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A container whose own status is not what confinement makes is never used, and its VM ends."""
    rig = make_rig()
    sound = rig.vm()
    assert rig.ask(sound.first, "result = 1") == 1
    rig.run(sound.destroy())
    monkeypatch.setattr(host_launcher, "EXPECTED", {**host_launcher.EXPECTED, name: "something else"})
    with pytest.raises(SetupError, match=name):
        rig.vm()
    rig.wait_for_rest()


def test_an_abandoned_request_leaves_no_vm(make_rig: Callable[..., Rig]) -> None:
    """A VM that nobody waits for any more is ended, at whatever moment its maker left."""
    rig = make_rig()

    async def abandon(delay: float) -> None:
        making = asyncio.ensure_future(rig.launcher.create_vm(VmSpec()))
        await asyncio.sleep(delay)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)

    for delay in (0.0, 0.002, 0.005, 0.009, 0.013):
        rig.run(abandon(delay))
    rig.wait_for_rest()


def test_many_descriptors_are_not_mixed_up(make_rig: Callable[..., Rig]) -> None:
    """With a thousand descriptors open in the launcher, each container still has its own seven and no other."""
    rig = make_rig()
    boxes = [rig.blank() for _ in range(2)]
    assert rig.process is not None
    vms = [box.vm for box in boxes]
    while len(os.listdir(f"/proc/{rig.process.pid}/fd")) < 1100:
        boxes.append(rig.run(rig.launcher.blank("fork", vms[0], limits=VmSpec().limits)) if len(boxes) < 60 else rig.blank())
        told = rig.ask(boxes[-1], "import os; result = sorted(map(int, os.listdir('/proc/self/fd')))")
        assert told[:6] == [0, 1, 2, 3, 4, 5]
        assert len(told) == 7, "the seventh is the listing's own"
        rig.ask(boxes[-1], "print('mine', flush=True)")
        assert os.read(boxes[-1].out_fd, 100) == b"mine\n"


def test_the_launcher_opens_as_many_descriptors_as_it_may(rig: Rig) -> None:
    """Its soft limit is its hard one: hundreds of VMs need thousands of descriptors."""
    assert rig.process is not None
    soft, hard = resource.prlimit(rig.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_uids_of_living_vms_differ(make_rig: Callable[..., Rig]) -> None:
    """Two VMs that live at the same time never have one uid, however many were made and ended between."""
    rig = make_rig(uid_base=2_100_000, uid_count=3)
    first = rig.vm()
    for _ in range(4):
        passing = rig.vm()
        assert _uid(passing.first.pid) != _uid(first.first.pid)
        rig.run(passing.destroy())
    others = [rig.vm(), rig.vm()]
    assert len({_uid(vm.first.pid) for vm in (first, *others)}) == 3
    with pytest.raises(SetupError, match="uid"):
        rig.vm()


def _uid(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid if os.getuid() else int(Path(f"/proc/{pid}/status").read_text().split("Uid:\t")[1].split()[0])


def test_churn_never_stops_the_launcher(make_rig: Callable[..., Rig]) -> None:
    """VMs made, killed and ended at the same moment, many at once: every question is answered."""
    rig = make_rig()

    async def one(number: int) -> None:
        vm = await rig.launcher.create_vm(VmSpec())
        vm.first.kill()
        if number % 2:
            with contextlib.suppress(ProcessLookupError):  # it may be gone by its first death already
                os.kill(vm.first.pid, 9)
        await asyncio.gather(vm.destroy(), rig.launcher.ask("destroy", vm.id))

    async def many() -> None:
        for _ in range(3):
            await asyncio.gather(*(one(number) for number in range(8)))

    rig.run(many())
    assert rig.ask(rig.blank(), "result = 1") == 1


def test_options_survive_the_way_to_the_launcher(rig: Rig) -> None:
    """What is told at start is what is read there."""
    assert type(rig.options).decode(rig.options.encode()) == rig.options
    assert json.loads(rig.options.encode())["instance"] == rig.instance


def test_ending_vms_does_not_hold_up_the_others(make_rig: Callable[..., Rig]) -> None:
    """While many VMs end, a question about another one is answered before the last of them is gone."""
    rig = make_rig()
    order: list[str] = []

    async def both() -> None:
        kept = await rig.launcher.create_vm(VmSpec())
        ending = [await rig.launcher.create_vm(VmSpec()) for _ in range(12)]

        async def note(name: str, work: Awaitable[object]) -> None:
            await work
            order.append(name)

        attaching = [kept.first.attach([]) for _ in range(3)]
        await asyncio.gather(*(note("gone", vm.destroy()) for vm in ending), *(note("answered", work) for work in attaching))

    rig.run(both())
    assert len(order) == 15
    assert order.index("answered") < 12


def test_a_vm_that_is_ending_takes_no_more(make_rig: Callable[..., Rig]) -> None:
    """Forking into a VM, attaching and staging are refused from the moment that its end was asked for."""
    rig = make_rig()

    async def ask() -> list[object]:
        vm = await rig.launcher.create_vm(VmSpec())
        late = (vm.destroy(), vm.fork(), vm.first.attach([]), vm.stage("late"), vm.destroy())
        return list(await asyncio.gather(*late, return_exceptions=True))

    first, *refused, last = rig.run(ask())
    assert first is last is None
    assert [type(one) for one in refused] == [SetupError] * 3
    assert not (rig.directory / "staging" / "late").exists()
    rig.wait_for_rest()
