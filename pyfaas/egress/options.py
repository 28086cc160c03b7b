"""What an egress process is told when it is executed: one value, carried in a file descriptor."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressOptions:
    """`control` is the socket to the server; `uid` what it becomes, 0 for nothing else; `needed` the paths that it reads.

    `hidden` is the data directory, which it must not see; `without` are layers that were given up. `connections` bounds one VM,
    `private` are the ranges that the operator allows. `hosts` is a hosts file's text in place of the system's, None without one;
    `resolver` is ADDRESS[:PORT] or empty. `proxy` is an http:// URL or empty, `no_proxy` as in NO_PROXY.
    """

    control: int
    uid: int
    needed: tuple[str, ...]
    hidden: str
    without: tuple[str, ...] = ()
    connections: int = 128
    private: str = ""
    hosts: str | None = None
    resolver: str = ""
    proxy: str = field(default="", repr=False)  # it may hold a password
    no_proxy: str = ""

    def encode(self) -> bytes:
        """Return the value as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_descriptor(cls, descriptor: int) -> EgressOptions:
        """Read a value from an inherited descriptor, and close it."""
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            values: dict[str, Any] = json.loads(file.read())
        for name in ("needed", "without"):
            values[name] = tuple(values[name])
        return cls(**values)
