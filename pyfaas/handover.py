"""What the keeper hands to the server: one value, carried in a file descriptor, and the few messages between them.

server → keeper   `ready`
keeper → server   `launcher`, with the control socket of a new launcher
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pyfaas.config import Config
from sandbox.spec import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Everything that a server is given.

    Descriptors: `listen` is the bound socket, `launcher` its control socket, `keeper` the way back, `life` the end of a
    pipe that only the server holds: launcher and server end together. `uid` is what it becomes, 0 for nothing else;
    `needed` are the paths that it reads; `layers` are live or not, those in `weaker` were given up; `tool` is how
    requirements are installed.
    """

    config: Config
    listen: int
    launcher: int
    keeper: int
    life: int
    uid: int
    needed: tuple[str, ...]
    layers: tuple[Layer, ...]
    weaker: tuple[str, ...]
    tool: Mapping[str, Any]

    def encode(self) -> bytes:
        """Return the value as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Handover:
        """Read a value from an inherited descriptor, and close it."""
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            values = json.loads(file.read())
        known = {f.name for f in fields(Config)}
        values["config"] = Config(**{k: v for k, v in values["config"].items() if k in known})
        values["layers"] = tuple(Layer(**layer) for layer in values["layers"])
        for name in ("needed", "weaker"):
            values[name] = tuple(values[name])
        return cls(**values)


def hand_launcher(keeper_end: socket.socket, control: socket.socket) -> None:
    """Send a new launcher's control socket to the server."""
    rights = array.array("i", [control.fileno()])
    keeper_end.sendmsg([b"launcher"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def take_launcher(server_end: socket.socket) -> socket.socket | None:
    """Receive a new launcher's control socket; None when the keeper is gone or said something else."""
    text, ancillary, _, _ = server_end.recvmsg(64, socket.CMSG_SPACE(4))
    found = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(raw[:4])
    return socket.socket(fileno=found[0]) if text == b"launcher" and found else None
