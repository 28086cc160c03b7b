"""Telling the service manager how it goes, where there is one: the protocol of sd_notify(3), and sockets of sd_listen_fds(3).

One datagram a message, to the socket that NOTIFY_SOCKET names. Nobody waits for the manager: one that does not read is
not told. Only the keeper knows of it; the environment of launcher and server is made, so nothing of this reaches a function.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

FIRST_LISTENER = 3  # SD_LISTEN_FDS_START


class Manager:
    """The service manager of this process, or nobody."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID from an environment."""
        place = environment.get("NOTIFY_SOCKET", "")
        self._place = "\0" + place[1:] if place.startswith("@") else place
        usec = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.beat_s = int(usec) / 2_000_000 if usec.isdigit() and int(usec) > 0 and is_ours and place else None

    def tell(self, *lines: str) -> None:
        """Send one message of `NAME=value` lines."""
        if not self._place:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as way:
            try:
                way.sendto("\n".join(lines).encode(), self._place)
            except OSError:
                return

    def reloading(self) -> None:
        """Say that an upgrade begins; `Type=notify-reload` wants the time of it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", "STATUS=upgrading")


def listener(environment: Mapping[str, str]) -> socket.socket | None:
    """Return the first socket that the manager listens on for us, or None."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit() or int(count) < 1:
        return None
    os.set_inheritable(FIRST_LISTENER, False)  # noqa: FBT003 - the call's shape
    return socket.socket(fileno=FIRST_LISTENER)
