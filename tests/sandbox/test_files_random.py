"""Whatever is done with VMs' own files and with the containers that use them, in whatever order: the launcher does what a model says."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import SetupError
from sandbox.host.container import Container
from sandbox.host.vm import Vm
from sandbox.launcher.files import VmFiles
from tests.sandbox.rig import Rig

MIB = 1 << 20
_STEPS = 60
_NAMES = ("a", "b", "c")


@dataclass
class House:
    """A VM and what should be in it: kept content by name, who writes what is staged, who has what attached."""

    vm: Vm
    kept: dict[str, str] = field(default_factory=dict)
    writers: dict[str, tuple[Container, str]] = field(default_factory=dict)
    users: dict[str, tuple[Container, set[str]]] = field(default_factory=dict)  # container id → its process, what it has attached


class Chances:
    """Does one thing after the other, and checks each."""

    def __init__(self, rig: Rig, seed: int) -> None:
        """Begin with two VMs."""
        self.rig, self.chance, self.number = rig, random.Random(seed), 0
        self.houses = [self._house(), self._house()]

    def _house(self) -> House:
        return House(self.rig.vm(files_bytes=4 * MIB))

    def step(self) -> None:
        """Do one of the things that there are to do."""
        house = self.chance.choice(self.houses)
        self.chance.choice((self.stage, self.stage, self.keep, self.keep, self.use, self.use, self.forget, self.replace, self.end, self.destroy))(house)

    def stage(self, house: House) -> None:
        """Stage a directory and write to it."""
        self.number += 1
        name, text = f"s{self.number}", f"written as {self.number}"
        self.rig.run(house.vm.stage(name, inside=True))
        box = self.rig.run(house.vm.fork())
        self.rig.attach(box, ("out", "vm", name, True))
        self.rig.ask(box, f"file = open('/app/build/out/f', 'w'); file.write({text!r}); file.flush()")
        house.writers[name] = (box, text)

    def keep(self, house: House) -> None:
        """Keep one that is staged, under a name that may be taken."""
        if house.writers:
            staged, name = self.chance.choice(sorted(house.writers)), self.chance.choice(_NAMES)
            box, text = house.writers.pop(staged)
            self.rig.run(house.vm.keep(staged, name))
            self.rig.ending(box)
            house.kept.setdefault(name, text)

    def use(self, house: House) -> None:
        """Attach what is kept to a container and read it; what is not kept cannot be."""
        name = self.chance.choice(_NAMES)
        box = self.rig.run(house.vm.fork())
        house.users[box.id] = (box, set())
        if name not in house.kept:
            with pytest.raises(SetupError):
                self.rig.attach(box, ("1", "vm", name, False))
            return
        self.rig.attach(box, ("1", "vm", name, False))
        house.users[box.id][1].add(name)
        assert self.rig.ask(box, "result = open('/app/1/f').read()") == house.kept[name]

    def forget(self, house: House) -> None:
        """Forget something, which is refused exactly while a container has it attached."""
        name = self.chance.choice([*_NAMES, *sorted(house.writers)])
        if any(name in names for _, names in house.users.values()):
            with pytest.raises(SetupError) as refused:
                self.rig.run(house.vm.forget(name))
            assert refused.value.errno == errno.EBUSY
            return
        self.rig.run(house.vm.forget(name))
        house.kept.pop(name, None)
        house.writers.pop(name, None)

    def replace(self, house: House) -> None:
        """Replace a container that uses something."""
        if house.users:
            key = self.chance.choice(sorted(house.users))
            new = self.rig.run(house.vm.replace(key))
            house.users[key] = (new, set())
            assert self.rig.ask(new, "import os; result = os.listdir('/app/1')") == []

    def end(self, house: House) -> None:
        """End a container that uses something."""
        if house.users:
            box, _ = house.users.pop(self.chance.choice(sorted(house.users)))
            box.kill()
            self.rig.ending(box)

    def destroy(self, house: House) -> None:
        """End a VM, seldom, and make another."""
        if self.chance.random() < 0.3:  # noqa: PLR2004 - seldom
            self.rig.run(house.vm.destroy())
            self.houses[self.houses.index(house)] = self._house()

    def check(self) -> None:
        """Hold what all that live see against the model."""
        for house in self.houses:
            for box, names in house.users.values():
                for name in names:
                    assert self.rig.ask(box, "result = open('/app/1/f').read()") == house.kept[name]


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_done(make_rig: Callable[..., Rig], seed: int) -> None:
    """Each step ends as the model says, everybody reads what was kept, and in the end nothing is left."""
    rig = make_rig()
    chances = Chances(rig, seed)
    for _ in range(_STEPS):
        chances.step()
    chances.check()
    for house in chances.houses:
        rig.run(house.vm.destroy())
    rig.wait_for_rest()
    assert rig.mounts() == []


@settings(deadline=None, database=None, derandomize=True, max_examples=80)
@given(steps=st.lists(st.tuples(st.sampled_from(["begin", "finish", "forget"]), st.sampled_from("abcd"), st.integers(0, 60)), max_size=30))
def test_what_is_kept_is_never_more_than_may_be(steps: list[tuple[str, str, int]]) -> None:
    """The sum of what is kept stays within the VM's bytes, a name means one place until it is forgotten, and every refusal has a number."""
    files, places = VmFiles(most_bytes=100), {}
    for number, (what, name, size) in enumerate(steps):
        try:
            if what == "begin":
                room = files.begin("s" + name, f"/{number}")
                assert 0 < room <= files.most_bytes
            elif what == "finish":
                surplus = files.finish("s" + name, name, size)
                assert (surplus is not None) == (name in places)
                places.setdefault(name, files.entries[name].place)
            elif files.entries.pop(name, None) is not None:
                del places[name]
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EEXIST, errno.ENOENT)
        assert sum(entry.used_bytes for entry in files.entries.values()) <= files.most_bytes
        assert {name: files.entries[name].place for name in places} == places
        assert all(entry.is_kept == (name in places) for name, entry in files.entries.items())
