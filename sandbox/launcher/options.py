"""What a launcher is told when it is executed: one frozen value, carried as JSON in a file descriptor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from sandbox.spec import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherOptions:
    """Everything that is constant for a launcher's life.

    `root` is an empty directory to mount the VMs' trees on. `stores` maps a store's name to its directory. `entry` and
    `warm` are `module:function`: what a blank runs, and what is run once before the first fork; `rehearse` is run by
    every blank once it is confined, before it is handed out. With `awaits_code` the entry takes orders before its code is
    attached, and must call `sandbox.guest.attached.wait` or `let_go` before it runs any. `networks` are the
    profiles that its VMs may have. `binds` are host paths that VMs for builds see read-only, `SOURCE` or `SOURCE:TARGET`.
    `without` names layers that were given up. `control`, `life` and those of `filters`, by network profile, are inherited
    descriptors; -1 for `life` means none. `tag` is in the names of this launcher's groups, one of its own when empty;
    `beside` are the tags of launchers of the same instance that live.
    """

    instance: str
    tag: str = ""
    beside: tuple[str, ...] = ()
    root: str
    entry: str
    warm: str = ""
    rehearse: str = ""
    awaits_code: bool = False
    uid_base: int = 2_000_001
    uid_count: int = 9_999
    stores: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[Network, ...] = tuple(Network)
    binds: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    control: int = -1
    life: int = -1
    filters: Mapping[str, int] = field(default_factory=dict)
    fail_at: str = ""  # for tests: the step that fails

    def encode(self) -> bytes:
        """Return the value as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, text: bytes) -> LauncherOptions:
        """Read what `encode` wrote."""
        values = json.loads(text)
        for name in ("binds", "without", "beside"):
            values[name] = tuple(values[name])
        values["networks"] = tuple(map(Network, values["networks"]))
        return cls(**values)

    @classmethod
    def from_descriptor(cls, descriptor: int) -> LauncherOptions:
        """Read a value from an inherited descriptor, and close it."""
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            return cls.decode(file.read())
