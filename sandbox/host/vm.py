"""A VM as its host holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.host.container import Container
from sandbox.spec import VmSpec

if TYPE_CHECKING:
    from sandbox.host.launcher import Launcher


class Vm:
    """A confined process tree; `first` is the blank that it was made with."""

    def __init__(self, launcher: Launcher, key: str, spec: VmSpec, first: Container) -> None:
        """Hold what the launcher made."""
        self.id, self.spec, self.first = key, spec, first
        self._launcher = launcher

    def __repr__(self) -> str:
        """Show what it is."""
        return f"<Vm {self.id} {self.spec.network}>"

    async def fork(self, *, is_hurried: bool = False) -> Container:
        """Fork another blank into the VM, sooner but less prepared when it is hurried; raises SetupError, or VmGone."""
        return await self._launcher.blank("fork", self.id, *(("now",) if is_hurried else ()), limits=self.spec.limits)

    async def stage(self, name: str) -> None:
        """Make a directory in the staging store that this VM's code may write."""
        await self._launcher.ask("stage", self.id, name)

    async def weigh(self, *, is_background: bool) -> None:
        """Let it run when nobody else wants the processors, or as any other VM."""
        await self._launcher.ask("weigh", self.id, "background" if is_background else "usual")

    async def destroy(self) -> None:
        """End the VM and everything in it."""
        await self._launcher.ask("destroy", self.id)
