"""What the keeper hands to the server: one value, carried in a file descriptor, and the few words between them.

server → keeper   `waiting`   started, and waits for its predecessor to yield
                  `ready`     serves
                  `yielded`   takes no request and makes no control write any more
keeper → server   `launcher`  with the control socket of a new launcher
                  `egress`    with the control socket of a new egress process
                  `yield`     with the socket by which connections go to the successor
                  `resume`    the successor did not come up: serve on
                  `done`      the successor serves: finish what runs, and end
                  `go`        the predecessor has yielded: open the store, and serve
                  `alone`     the predecessor has ended: what it left is yours
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pyfaas.config import Config
from sandbox.spec import Layer

_LONGEST = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Everything that a server is given.

    Descriptors: `listen` is the bound socket, `launcher` and `egress` are their control sockets, `keeper` the way back, `life` the end of a
    pipe that only the server holds: launcher and server end together; `inherit` is where a predecessor's connections
    come from, -1 without one. `uid` is what it becomes, 0 for nothing else; `needed` are the paths that it reads;
    `layers` are live or not, those in `weaker` were given up; `tool` is how requirements are installed, `binds` what an
    installation sees of the host, `exits` what it reaches; `place` is where bundles are kept, credentials included, empty for the data
    directory; `sealing_keys` are the keys for secrets that the operator gives, empty for those of the data directory.
    """

    config: Config
    listen: int = -1
    launcher: int = -1
    egress: int = -1
    keeper: int = -1
    life: int = -1
    inherit: int = -1
    uid: int
    needed: tuple[str, ...]
    layers: tuple[Layer, ...]
    weaker: tuple[str, ...]
    tool: Mapping[str, Any]
    binds: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict, repr=False)
    sealing_keys: str = field(default="", repr=False)

    def encode(self) -> bytes:
        """Return the value as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, text: bytes) -> Handover:
        """Read what `encode` wrote; raises ValueError, TypeError or KeyError for anything else."""
        values = json.loads(text)
        known = {f.name for f in fields(Config)}
        values["config"] = Config(**{k: v for k, v in values["config"].items() if k in known})
        values["layers"] = tuple(Layer(**layer) for layer in values["layers"])
        for name in ("needed", "weaker", "binds", "exits"):
            values[name] = tuple(values[name])
        return cls(**values)

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Handover:
        """Read a value from an inherited descriptor, and close it."""
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            return cls.decode(file.read())


def tell(end: socket.socket, word: str, given: socket.socket | None = None) -> None:
    """Say a word, with a socket to keep; one who is gone is not told."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [given.fileno()]))] if given is not None else []
    try:
        end.sendmsg([word.encode()], rights)
    except OSError:
        return  # its end is seen elsewhere


def hear(end: socket.socket) -> tuple[str, socket.socket | None]:
    """Take the next word, "" when the other side is gone; raises BlockingIOError when nothing waits in a non-blocking socket."""
    try:
        text, ancillary, _, _ = end.recvmsg(_LONGEST, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return "", None
    found = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(raw[:4])
    return text.decode("ascii", "replace"), socket.socket(fileno=found[0]) if found else None
