"""Where a new version's code goes beside the one that runs, and what a VM keeps of it.

Theory of operation. Prepared code lies in the near store, from where every container can have it attached. Beside a version that
runs, the new one's is copied into the VM's own memory first: for a *second container*, for the *same container*, whose process is then
replaced, or into the *instance cache* for any of the VM's next containers. The first two stay for as long as a container of the version lives in the
VM; the cache is kept within its size by forgetting what was used longest ago, and never forgets what a live container uses. An entry is
visible once it is whole. There is one for a version in a VM, whatever it was made for: so one transfer, and one copy of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Target(StrEnum):
    """Where a download goes."""

    SECOND_CONTAINER = "second-container"
    INSTANCE_CACHE = "instance-cache"
    SAME_CONTAINER = "same-container"
    NEAR_STORE = "near-store"


def trees(target: Target, slots: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of a version's trees (code, environment) are copied: installed requirements to a cache only.

    They are large, do not change with the code, and the near store's copy is in the host's page cache, shared by all who import it.
    """
    return slots if target is Target.INSTANCE_CACHE else tuple(slot for slot in slots if slot == "code")


def choose(wanted: Target, *, has_requirements: bool, has_room: bool, is_held: bool) -> Target:
    """Return the target that serves: a policy says which is wanted, the VM what is possible.

    `has_room`: the VM takes another container. `is_held`: a container of the older version is there to be replaced, which is for
    code without requirements only.
    """
    if wanted is Target.SAME_CONTAINER and (has_requirements or not is_held):
        wanted = Target.SECOND_CONTAINER
    if wanted is Target.SECOND_CONTAINER and not has_room:
        wanted = Target.INSTANCE_CACHE
    return wanted


@dataclass(slots=True, kw_only=True)
class Kept:
    """One entry of a VM's files; `users` are the containers that have it attached, or will have."""

    name: str
    target: Target
    slots: tuple[str, ...] = ()  # which of the version's trees it holds
    size_bytes: int = 0
    is_whole: bool = False
    users: set[str] = field(default_factory=set)
    used: float = 0.0


class VmFiles:
    """What lies in one VM's own files, `room_bytes` at most."""

    def __init__(self, room_bytes: int) -> None:
        """Begin empty."""
        self.room_bytes = room_bytes
        self.entries: dict[str, Kept] = {}

    @property
    def free_bytes(self) -> int:
        """What whole entries leave."""
        return self.room_bytes - sum(kept.size_bytes for kept in self.entries.values())

    def find(self, name: str) -> Kept | None:
        """Return a whole entry."""
        kept = self.entries.get(name)
        return kept if kept is not None and kept.is_whole else None

    def use(self, name: str, container: str, now: float) -> Kept | None:
        """Return a whole entry, and note that a container has it attached."""
        kept = self.find(name)
        if kept is not None:
            kept.users.add(container)
            kept.used = now
        return kept

    def begin(self, name: str, target: Target, slots: tuple[str, ...], now: float) -> Kept:
        """Note an entry that is being made; nobody finds it yet."""
        kept = self.entries[name] = Kept(name=name, target=target, slots=slots, used=now)
        return kept

    def forgettable(self, wanted_bytes: int) -> list[str]:
        """Return what to forget: what was for containers that are gone, and of the cache what was used longest ago.

        Of the cache just as much as lets so many bytes find room, or as there is when that is not enough.
        """
        unused = [kept for kept in self.entries.values() if kept.is_whole and not kept.users]
        gone = [kept for kept in unused if kept.target is not Target.INSTANCE_CACHE]
        free = self.free_bytes + sum(kept.size_bytes for kept in gone)
        for kept in sorted(unused, key=lambda kept: kept.used):
            if kept.target is Target.INSTANCE_CACHE and free < wanted_bytes:
                gone.append(kept)
                free += kept.size_bytes
        return [kept.name for kept in gone]

    def ended(self, container: str) -> None:
        """Take note that a container ended."""
        for kept in self.entries.values():
            kept.users.discard(container)
