"""A server in few lines, run by the real keeper beside a real launcher: it answers one word per connection."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any

from pyfaas.handover import Handover, hear, tell
from sandbox import kernel

PROGRAM = """
import sys
sys.path.insert(0, {path!r})
from pyfaas.handover import Handover
from tests.keeper import fake
fake.serve(Handover.from_descriptor({descriptor}))
"""
# A server that ends before it is ready, with the status that it finds in its data directory.
ENDS = """
import os, sys
sys.path.insert(0, {path!r})
from pyfaas.handover import Handover
given = Handover.from_descriptor({descriptor})
with open(given.config.data_dir + "/starts", "a") as file:
    file.write("start\\n")
with open(given.config.data_dir + "/status") as file:
    os._exit(int(file.read()))
"""


def serve(given: Handover) -> None:
    """Say that it is ready, and answer until told to stop."""
    kernel.set_parent_death_signal(signal.SIGKILL)  # what the cell does for the real one
    Fake(given).run()


class Fake:
    """What it was handed, and the launchers that it heard of."""

    def __init__(self, given: Handover) -> None:
        """Take the descriptors; a signal wakes the loop."""
        self.descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd"))
        self.given = given
        self.listen = socket.socket(fileno=given.listen)
        self.keeper = socket.socket(fileno=given.keeper)
        control = socket.socket(fileno=given.launcher)
        self.launchers = [control.recv(256).decode()]
        self.exits = [socket.socket(fileno=given.egress)]
        self.controls = [control]
        self.words: list[str] = []
        self.is_stubborn = False
        self.wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)

    def run(self) -> None:
        """Wait for a predecessor to yield, and answer each connection's word."""
        if self.given.inherit >= 0:
            tell(self.keeper, "waiting")
            while "go" not in self.words:
                self.hear()
            if os.path.exists(self.given.config.data_dir + "/refuse"):
                os._exit(78)
        tell(self.keeper, "ready")
        while True:
            has_yielded = self.words[-1:] in (["yield"], ["done"])
            watched: list[Any] = [self.keeper, self.wake] if has_yielded else [self.listen, self.keeper, self.wake]
            ready = select.select(watched, [], [])[0]
            if self.wake in ready and not self.is_stubborn:
                os._exit(0)
            if self.keeper in ready:
                self.hear()
            if self.listen in ready:
                connection, _ = self.listen.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(json.dumps(self.answer(connection.recv(64).decode())).encode())

    def hear(self) -> None:
        """Take a word, and what comes with it; without a keeper there is no server."""
        word, given = hear(self.keeper)
        self.words.append(word)
        if word == "launcher" and given is not None:
            self.controls.append(given)
            self.launchers.append(given.recv(256).decode())
        elif word == "egress" and given is not None:
            self.exits.append(given)
        elif word == "yield":
            tell(self.keeper, "yielded")
        elif word in ("", "done") and not self.is_stubborn:
            os._exit(0)

    def answer(self, word: str) -> object:
        """Return what is asked for."""
        if word == "next launcher":
            self.hear()
            return self.launchers
        if word == "exits":
            return len(self.exits)
        if word == "options":
            return {name: getattr(self.given.config, name) for name in ("idle_seconds", "uid_count")}
        if word == "words":
            return self.words
        if word == "be stubborn":
            self.is_stubborn = True
        if word == "signal":  # answered when one has arrived
            select.select([self.wake], [], [])
        if word == "surroundings":
            expected = (self.given.listen, self.given.launcher, self.given.egress, self.given.keeper, self.given.life)
            return {"environment": sorted(os.environ), "open": self.descriptors, "handed": expected, "path": sys.path}
        return os.getpid()
