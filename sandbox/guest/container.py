"""A container after its confinement: tell what the kernel says, then run the entry.

Descriptors are fixed by then: 0 is /dev/null, 1 and 2 the log pipes, 3 the channel to the host, 4 and 5 the log
pipes' reading ends, 6 the launcher's (closed before any code runs: see `attached`).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable

from sandbox.guest import attached
from sandbox.launcher.confine import read_back
from sandbox.wire import Kind, packet

CHANNEL, OUT, ERR, LAUNCHER = 3, 4, 5, 6
Entry = Callable[[socket.socket, int, int], None]


def live(entry: Entry, rehearse: Callable[[], None] | None, *, awaits_code: bool) -> None:
    """Report, let go of the launcher unless the entry does it, and serve until the host closes the channel."""
    if rehearse is not None:
        rehearse()
    channel = socket.socket(fileno=CHANNEL)
    channel.send(packet(Kind.BORN, json.dumps(read_back()).encode()))
    os.write(LAUNCHER, b"d")
    attached.keep(LAUNCHER)
    if not awaits_code:
        attached.let_go()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the process's life
    sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    entry(channel, OUT, ERR)
