"""The Egress port over a control socket: the server's side of the process that lets VMs out.

Every VM's doors are kept here too, as duplicates: an egress process that died is started again by the keeper, and gets them all anew.
Meanwhile connections wait in the doors' own queues. Until a VM is closed here its network stays in the kernel, so whoever ends it says so.
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from pyfaas.egress import words
from pyfaas.network import NetworkPlan

log = logging.getLogger(__name__)


class EgressSocket:
    """The Egress port over one egress process at a time."""

    def __init__(self, control: socket.socket) -> None:
        """Begin with the socket to a process that is being started."""
        self.on_used: Callable[[str, int, int, int], None] = lambda _vm, _in, _out, _connections: None
        self.on_refused: Callable[[str, str], None] = lambda _vm, _why: None
        self._doors: dict[str, tuple[NetworkPlan, list[int]]] = {}
        self._unsent: deque[tuple[bytes, str]] = deque()  # a packet, and the VM whose doors go with it
        self._control: socket.socket
        self.adopt(control)

    def adopt(self, control: socket.socket) -> None:
        """Go on with another process, which gets the doors of all VMs that live."""
        old = getattr(self, "_control", None)
        if old is not None:
            self._let_go(old)
        self._control = control
        control.setblocking(False)  # noqa: FBT003 - the call's shape
        asyncio.get_running_loop().add_reader(control.fileno(), self._hear)
        self._unsent.clear()
        self._unsent.extend((words.opening(vm, plan), vm) for vm, (plan, _) in self._doors.items())
        self._flush()

    def open(self, vm: str, plan: NetworkPlan, doors: Sequence[int]) -> None:
        """Hand a VM's doors over, and keep duplicates of them."""
        self._doors[vm] = plan, [os.dup(descriptor) for descriptor in doors]
        self._send(words.opening(vm, plan), vm)

    def close(self, vm: str) -> None:
        """Let go of a VM's doors; nothing for a VM that has none."""
        found = self._doors.pop(vm, None)
        if found is not None:
            for descriptor in found[1]:
                os.close(descriptor)
            self._send(words.closing(vm), "")

    def shut(self) -> None:
        """Let go of everything: the process ends."""
        for vm in list(self._doors):
            self.close(vm)
        self._let_go(self._control)

    @property
    def count(self) -> int:
        """How many VMs have doors."""
        return len(self._doors)

    # ---- inside

    def _let_go(self, control: socket.socket) -> None:
        if control.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(control.fileno())
            loop.remove_writer(control.fileno())
            control.close()

    def _send(self, packet: bytes, vm: str) -> None:
        if self._control.fileno() >= 0:
            self._unsent.append((packet, vm))
            self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._unsent:
            packet, vm = self._unsent[0]
            doors = self._doors[vm][1] if vm in self._doors else []
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", doors))] if doors else []
            try:
                if doors or not vm:  # a VM that was closed meanwhile is not opened any more
                    self._control.sendmsg([packet], rights)
            except BlockingIOError:
                loop.add_writer(self._control.fileno(), self._flush)
                return
            except OSError:
                self._gone()
                return
            self._unsent.popleft()
        loop.remove_writer(self._control.fileno())

    def _gone(self) -> None:
        """The process has ended: what it did not hear goes to the next one."""
        self._unsent.clear()
        self._let_go(self._control)

    def _hear(self) -> None:
        while True:
            try:
                word, _ = words.receive(self._control)
            except BlockingIOError:
                return
            if word is None:
                self._gone()
                return
            for vm, bytes_in, bytes_out, connections in word.get("used", ()):
                self.on_used(vm, bytes_in, bytes_out, connections)
            if "refused" in word:
                self._refused(word["refused"], word["why"])

    def _refused(self, vm: str, why: str) -> None:
        if vm in self._doors and self._doors[vm][0].is_trusted:  # a build's, which has no log of a function's
            log.warning("build_refused", extra={"vm": vm, "why": why})
        self.on_refused(vm, why)
