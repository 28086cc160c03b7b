"""A VM as its host holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sandbox.host.container import Container
from sandbox.spec import VmSpec

if TYPE_CHECKING:
    from sandbox.host.launcher import Launcher


class Vm:
    """A confined process tree; `first` is the blank that it was made with.

    `doors` are the descriptors of its ways out, in the order of `Doors`: who asked for the VM owns them, and closes them when
    it is gone, since they keep its network in the kernel.
    """

    def __init__(self, launcher: Launcher, key: str, spec: VmSpec, first: Container, doors: Sequence[int] = ()) -> None:
        """Hold what the launcher made."""
        self.id, self.spec, self.first, self.doors = key, spec, first, list(doors)
        self._launcher = launcher

    def __repr__(self) -> str:
        """Show what it is."""
        return f"<Vm {self.id} {self.spec.network}>"

    async def fork(self, *, is_hurried: bool = False) -> Container:
        """Fork another blank into the VM, sooner but less prepared when it is hurried; raises SetupError, or VmGone."""
        return await self._launcher.blank("fork", self.id, *(("now",) if is_hurried else ()), limits=self.spec.limits)

    async def replace(self, container_id: str) -> Container:
        """Kill all that is in a container's leaf and fork a blank into that leaf, with a blank's limits; its id stays.

        The old one's `on_end` is called before this returns. When it fails the container is gone: raises SetupError (ESRCH when
        it was gone already), or VmGone.
        """
        return await self._launcher.replace(self.id, container_id, self.spec.limits)

    async def stage(self, name: str, *, inside: bool = False) -> None:
        """Make a directory that this VM's code may write: in the staging store, or inside, in the VM's own files.

        It is attached as ("out", "staging" or "vm", name, True). One inside has the room that `files_bytes` leaves. Raises
        SetupError: EINVAL when the VM may have no files, ENOSPC when they are full, EEXIST.
        """
        await self._launcher.ask("stage", self.id, name, *(("inside",) if inside else ()))

    async def keep(self, staged: str, name: str) -> None:
        """Give a directory inside its final name: whoever wrote it is killed, and from then on nobody can ever change it.

        It is attached as (slot, "vm", name or name/directory, False). A name that is kept already stays, and the staged one goes.
        Raises SetupError: EBUSY while a process to which a descriptor was passed can still write, ENOSPC when all that is kept
        would be more than `files_bytes`; the directory then stays staged.
        """
        await self._launcher.ask("keep", self.id, staged, name)

    async def forget(self, name: str) -> None:
        """Remove a directory inside, kept or staged; no error when there is none. Who writes a staged one is killed.

        Raises SetupError: EBUSY while a container of the VM has a kept one attached.
        """
        await self._launcher.ask("forget", self.id, name)

    async def weigh(self, *, is_background: bool) -> None:
        """Let it run when nobody else wants the processors, or as any other VM."""
        await self._launcher.ask("weigh", self.id, "background" if is_background else "usual")

    async def destroy(self) -> None:
        """End the VM and everything in it."""
        await self._launcher.ask("destroy", self.id)
