"""What the launcher does with code: attaches it to containers, and moves what they made to where others find it.

Theory of operation. Code lies in the stores, directories of the host that are named at the start, or in a VM's own files, in memory
(`files`). Both have what is staged, which a container is given to write, and what has its final name, which is only read. Before
something gets its final name whoever was given it to write has ended. What takes a while is done in a child, so that the loop waits
for nothing.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sandbox.launcher import attaching, files, vms
from sandbox.launcher.stores import STAGING, Stores

if TYPE_CHECKING:
    from sandbox.launcher.main import Launcher


class Code:
    """The commands about code, for one launcher. Each raises OSError, and answers by itself when it returns None."""

    def __init__(self, launcher: Launcher) -> None:
        """Open the stores; raises OSError."""
        self.launcher = launcher
        self.stores = Stores(dict(launcher.options.stores))
        self.files = files.Files(launcher.options.root, launcher.own_mnt, vms.come_back)
        self.staged: set[str] = set()  # made here, neither moved to their final name nor removed

    def found(self) -> list[str]:
        """Return what is staged now, by whomever."""
        return self.stores.staged()

    def remove(self, staged: list[str]) -> None:
        """Remove staged directories; for a child."""
        self.stores.discard_all(STAGING, staged)

    def vm_ended(self, vm: vms.VmRecord) -> None:
        """Let go of the files of a VM that has ended."""
        if vm.files.entries:
            self._let_go("0", "files", [entry.place for entry in vm.files.entries.values()])

    def _let_go(self, request: str, name: str, places: list[str]) -> None:
        try:
            self.launcher.apart(request, name, lambda: self.files.remove(places))
        except OSError:  # no more processes can be made: then the loop waits for it
            self.files.remove(places)
            self.launcher.say(f"{request} ok {name}")

    def attach(self, _request: str, vm_id: str, container_id: str, tmp_bytes: str, *mounts: str) -> str:
        """Resize a container's /tmp and attach entries of stores to its slots: `SLOT:STORE:NAME:ro|rw` each."""
        vm = self.launcher.living(vm_id)
        box = vm.containers[container_id]
        trees = []
        try:
            for mount in mounts:
                slot, store, name, mode = mount.split(":")
                path = attaching.slot_path(slot, mode)
                trees.append((path, self._tree(vm, box, store, name, writable=mode == "rw")))
            attaching.within(box, self.launcher.own_mnt, trees, int(tmp_bytes))
            attaching.tell(box)
        finally:
            attaching.close_all(trees)
        return container_id

    def _tree(self, vm: vms.VmRecord, box: vms.ContainerRecord, store: str, name: str, *, writable: bool) -> int:
        if store == files.STORE:
            tree = self.files.tree(vm.files, name, writable=writable)
            box.uses.add(name.partition("/")[0])
            return tree
        tree = self.stores.tree(store, name, writable=writable)
        if writable:
            box.writes.add(name)
        return tree

    def stage(self, _request: str, vm_id: str, name: str, where: str = "") -> str:
        """Make a staging directory for a VM, or `inside` it."""
        if where == "inside":
            vm = self.launcher.living(vm_id)
            self.files.stage(vm.files, name, vm.uid)
            return name
        self.stores.stage(name, self.launcher.living(vm_id).uid)
        self.staged.add(name)
        return name

    def commit(self, request: str, staged: str, store: str, name: str) -> None:
        """Move a staged directory to its final name, where others will rely on it: who could still write it ends first."""
        for vm in list(self.launcher.vms.values()):
            for box in [box for box in vm.containers.values() if staged in box.writes]:
                self._end_now(request, vm, box)
        self.staged.discard(staged)
        self.launcher.apart(request, name, lambda: self.stores.commit(staged, store, name))

    def _end_now(self, request: str, vm: vms.VmRecord, box: vms.ContainerRecord) -> None:
        self.launcher.kill(request, vm.id, box.id)
        self.launcher.container_ended(vm, box)

    def _end_users(self, request: str, vm: vms.VmRecord, name: str) -> None:
        for box in [box for box in vm.containers.values() if name in box.uses]:
            self._end_now(request, vm, box)

    def keep(self, request: str, vm_id: str, staged: str, name: str) -> None:
        """Give a staged directory of a VM its final name: who was given it to write ends first, then nobody can."""
        vm = self.launcher.living(vm_id)
        entry = vm.files.find(staged)
        if entry.is_kept:
            raise OSError(errno.EEXIST, "it is kept already", files.STORE)
        self._end_users(request, vm, staged)
        try:
            self.files.seal(entry.place)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self.launcher.apart(request, name, lambda: self.files.wait_sealed(entry.place), lambda: self._sealed(request, vm, staged, name))
        else:
            self._sealed(request, vm, staged, name)

    def _sealed(self, request: str, vm: vms.VmRecord, staged: str, name: str) -> None:
        surplus = vm.files.finish(staged, name, self.files.seal(vm.files.find(staged).place))
        if surplus is None:
            self.launcher.say(f"{request} ok {name}")
        else:
            self._let_go(request, name, [surplus])

    def forget(self, request: str, vm_id: str, name: str) -> str | None:
        """Remove files of a VM's own; one that is not there is no error, one that is kept and in use is (EBUSY)."""
        vm = self.launcher.living(vm_id)
        entry = vm.files.entries.get(name)
        if entry is None:
            return name
        if not entry.is_kept:
            self._end_users(request, vm, name)
        elif any(name in box.uses for box in vm.containers.values()):
            raise OSError(errno.EBUSY, "a container of the VM has it attached", files.STORE)
        del vm.files.entries[name]
        self._let_go(request, name, [entry.place])
        return None

    def discard(self, request: str, store: str, name: str) -> str | None:
        """Remove an entry of a store; one that is not there is no error."""
        if not self.stores.has(store, name):
            return name
        if store == STAGING:
            self.staged.discard(name)
        self.launcher.apart(request, name, lambda: self.stores.discard(store, name))
        return None
