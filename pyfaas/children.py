"""The processes that a keeper has started, as values that outlive its executing itself anew.

`execve` keeps the pid, the children and the inheritable descriptors; what is known of them goes over in `Team.keep`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Child:
    """A process of ours: started by a Popen that is still known, or by the keeper's earlier self."""

    def __init__(self, started: subprocess.Popen[bytes] | int) -> None:
        """Take a Popen, which must not be polled by others, or the pid of a child."""
        self._popen = started if isinstance(started, subprocess.Popen) else None
        self.pid = started.pid if isinstance(started, subprocess.Popen) else started
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, as subprocess tells it: negative for a signal; None while it lives."""
        if self._popen is not None:
            return self._popen.poll()
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 255 << 8
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; None when it is still there."""
        until = time.monotonic() + seconds
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            finally:
                os.close(descriptor)
        return self.poll()

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def end(self, seconds: float) -> None:
        """Wait for its end, and bring it about when it does not come."""
        if self.wait(seconds) is None:
            self.signal(signal.SIGKILL)
            self.wait(seconds)


@dataclass(slots=True)
class Team:
    """A server, its launcher, and what ties them to each other and to the keeper.

    `end` leads to the server, `life` is the reading end of its pipe, for launchers to come; `tag` is in the names of the
    launcher's groups, `half` tells which part of the uids its VMs get; `since` and `launcher_since` are monotonic times.
    """

    server: Child
    launcher: Child
    end: socket.socket
    life: int
    tag: str
    half: int
    since: float
    launcher_since: float
    has_served: bool = False
    ended: float = 0.0  # when the server was gone, while its launcher is not

    def keep(self) -> dict[str, Any]:
        """Return what the keeper's next self needs, and let it inherit the descriptors."""
        for descriptor in (self.end.fileno(), self.life):
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - the call's shape
        return {
            "server": self.server.pid,
            "launcher": self.launcher.pid,
            "end": self.end.fileno(),
            "life": self.life,
            "tag": self.tag,
            "half": self.half,
            "since": self.since,
            "launcher_since": self.launcher_since,
            "has_served": self.has_served,
        }

    @classmethod
    def kept(cls, values: Mapping[str, Any]) -> Team:
        """Take what `keep` returned."""
        for descriptor in (values["end"], values["life"]):
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - the call's shape
        return cls(
            server=Child(values["server"]),
            launcher=Child(values["launcher"]),
            end=socket.socket(fileno=values["end"]),
            life=values["life"],
            tag=values["tag"],
            half=values["half"],
            since=values["since"],
            launcher_since=values["launcher_since"],
            has_served=values["has_served"],
        )
