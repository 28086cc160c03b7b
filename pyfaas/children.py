"""The processes that a keeper has started, as values that outlive its executing itself anew, and when one is started again.

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

_BACK_OFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 30.0
_SOON_S = 0.5  # what had served, or was killed, does so again within two seconds, whatever kills it, and however often


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
    """A server, its launcher, its egress, and what ties them to each other and to the keeper.

    `end` leads to the server, `life` is the reading end of its pipe, for launchers to come; `tag` is in the names of the
    launcher's groups, `half` tells which part of the uids its VMs get; the three `since` are monotonic times.
    """

    server: Child
    launcher: Child
    egress: Child | None  # None: a team of an earlier release
    end: socket.socket
    life: int
    tag: str
    half: int
    since: float
    launcher_since: float
    egress_since: float
    has_served: bool = False
    ended: float = 0.0  # when the server was gone, while its launcher is not

    def keep(self) -> dict[str, Any]:
        """Return what the keeper's next self needs, and let it inherit the descriptors."""
        for descriptor in (self.end.fileno(), self.life):
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - the call's shape
        return {
            "server": self.server.pid,
            "launcher": self.launcher.pid,
            "egress": self.egress.pid if self.egress is not None else 0,
            "end": self.end.fileno(),
            "life": self.life,
            "tag": self.tag,
            "half": self.half,
            "since": self.since,
            "launcher_since": self.launcher_since,
            "egress_since": self.egress_since,
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
            egress=Child(values["egress"]) if values.get("egress") else None,
            end=socket.socket(fileno=values["end"]),
            life=values["life"],
            tag=values["tag"],
            half=values["half"],
            since=values["since"],
            launcher_since=values["launcher_since"],
            egress_since=values.get("egress_since", 0.0),
            has_served=values["has_served"],
        )


@dataclass(slots=True)
class Surveying:
    """A survey under way: its process, and what it writes."""

    process: Child
    answer: int
    errors: int

    def take(self) -> tuple[bytes, str]:
        """Return what it answered and the last line of what it complained of, and close both."""
        texts = []
        for descriptor in (self.answer, self.errors):
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                texts.append(file.read())
        lines = texts[1].decode("utf-8", "replace").strip().splitlines()
        return texts[0], lines[-1].removeprefix("pyfaas serve: ") if lines else "it ended without a word"


class BackOff:
    """How long to wait before the next try: longer with each failure in a row, not at all after a steady while."""

    def __init__(self) -> None:
        """Begin without a failure."""
        self.failures = 0

    def after(self, lived_s: float, *, has_served: bool = False) -> float:
        """Count one more end, of what lived so long; returns the seconds to wait, which are few for what had served."""
        self.failures = 1 if lived_s > _STEADY_S else self.failures + 1
        wait = _BACK_OFF_S[min(self.failures, len(_BACK_OFF_S)) - 1]
        return min(wait, _SOON_S) if has_served else wait
