"""Where a new version's code goes beside the one that runs, and what a VM keeps of it.

Theory of operation. Prepared code lies in the near store, from where every container can have it attached. Beside a version that
runs, the new one's is copied into the VM first: for one *second container*, into the VM's *instance cache* for any of its next
containers, or for the *same container*, whose process is then replaced. A VM's cache is visible entry by entry once that is whole, is kept
within its size by forgetting what was used longest ago, and never forgets what a live container uses.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum


class Target(StrEnum):
    """Where a download goes."""

    SECOND_CONTAINER = "second-container"
    INSTANCE_CACHE = "instance-cache"
    SAME_CONTAINER = "same-container"
    NEAR_STORE = "near-store"


def choose(wanted: Target, *, has_requirements: bool, has_room: bool, is_held: bool) -> Target:
    """Return the target that serves: a policy says which is wanted, the VM what is possible.

    `has_room`: the VM takes another container. `is_held`: a container of the older version is there to be replaced. Installed requirements go
    with no container's own process: they are large, and the near store's copy is in the page cache already.
    """
    if wanted is Target.SAME_CONTAINER and (has_requirements or not is_held):
        wanted = Target.SECOND_CONTAINER
    if wanted is Target.SECOND_CONTAINER and not has_room:
        wanted = Target.INSTANCE_CACHE
    return wanted


@dataclass(slots=True, kw_only=True)
class Kept:
    """One entry of a VM's files. `users` are the containers that have it attached; `only_for` the one it was made for, if one."""

    name: str
    target: Target
    size_bytes: int = 0
    is_whole: bool = False
    users: set[str] = field(default_factory=set)
    only_for: str | None = None
    used: float = 0.0


class VmFiles:
    """What lies in one VM's own files, `room_bytes` at most."""

    def __init__(self, room_bytes: int) -> None:
        """Begin empty."""
        self.room_bytes = room_bytes
        self.entries: dict[str, Kept] = {}

    @property
    def used_bytes(self) -> int:
        """What whole entries take."""
        return sum(kept.size_bytes for kept in self.entries.values())

    def find(self, name: str, now: float) -> Kept | None:
        """Return a whole entry, and note that it was used."""
        kept = self.entries.get(name)
        if kept is None or not kept.is_whole:
            return None
        kept.used = now
        return kept

    def begin(self, name: str, target: Target, now: float, only_for: str | None = None) -> Kept:
        """Note an entry that is being made; nobody finds it yet."""
        kept = self.entries[name] = Kept(name=name, target=target, only_for=only_for, used=now)
        return kept

    def forgettable(self, wanted_bytes: int) -> list[str]:
        """Return the entries to forget so that so many bytes find room, longest unused first; as many as there are when that is not enough."""
        gone, left = [], self.used_bytes
        for kept in sorted(self.entries.values(), key=lambda kept: kept.used):
            if left + wanted_bytes <= self.room_bytes:
                break
            if kept.is_whole and not kept.users:
                gone.append(kept.name)
                left -= kept.size_bytes
        return gone

    def ended(self, container: str) -> list[str]:
        """Take note that a container ended; returns the entries that were for it alone, and that nobody uses."""
        for kept in self.entries.values():
            kept.users.discard(container)
        return [kept.name for kept in self.entries.values() if kept.only_for == container and kept.is_whole and not kept.users]

    def forget(self, names: Collection[str]) -> None:
        """Drop entries."""
        for name in names:
            self.entries.pop(name, None)
