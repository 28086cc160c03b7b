"""The process: the control socket, the VMs, and the beat of each second."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
import time
from collections import deque

import uvloop

from pyfaas import network
from pyfaas.egress import words
from pyfaas.egress.doors import Outside, VmDoors
from pyfaas.egress.options import EgressOptions
from pyfaas.egress.resolving import Resolver
from pyfaas.egress.settings import Proxy

log = logging.getLogger(__name__)
_BEAT_S = 1.0
_REFUSES = 78  # EX_CONFIG of sysexits.h: another try would not help
_BACKLOG = 10_000  # packets for a server that does not read; more are dropped


class Egress:
    """Everything that runs in this process, until the server is gone."""

    def __init__(self, control: socket.socket, outside: Outside) -> None:
        """Take the control socket."""
        self._control, self._outside = control, outside
        self._control.setblocking(False)
        self._vms: dict[str, VmDoors] = {}
        self._unsent: deque[bytes] = deque()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Serve until the server is gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._hear)
        beat = loop.create_task(self._beat())
        await self._over.wait()
        beat.cancel()
        loop.remove_reader(self._control.fileno())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            now = time.monotonic()
            rows = [(vm, *used) for vm, doors in self._vms.items() if (used := doors.take_used()) is not None]
            for at in range(0, len(rows), words.USED_AT_ONCE):
                self._tell(words.using(rows[at : at + words.USED_AT_ONCE]))
            for doors in self._vms.values():
                doors.tend(now)

    # ---- the control socket

    def _hear(self) -> None:
        while True:
            try:
                word, descriptors = words.receive(self._control)
            except BlockingIOError:
                return
            if word is None:
                self._over.set()
                return
            try:
                if "open" in word:
                    self._open(word["open"], word["plan"], descriptors)
                elif "close" in word:
                    self._close(word["close"])
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _open(self, vm: str, plan: dict[str, object], descriptors: list[int]) -> None:
        self._close(vm)
        try:
            self._vms[vm] = VmDoors(vm, words.plan_of(plan), descriptors, self._outside, self._refused)
        except (OSError, ValueError) as error:
            log.error("doors_not_opened vm=%s error=%s", vm, error)  # noqa: TRY400 - those of the next VM may be

    def _close(self, vm: str) -> None:
        doors = self._vms.pop(vm, None)
        if doors is not None:
            doors.close()
            used = doors.take_used()
            if used is not None:
                self._tell(words.using([(vm, *used)]))

    def _refused(self, vm: str, why: str) -> None:
        self._tell(words.refusing(vm, why))

    def _tell(self, packet: bytes) -> None:
        if len(self._unsent) < _BACKLOG:
            self._unsent.append(packet)
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._unsent:
            try:
                self._control.send(self._unsent[0])
            except BlockingIOError:
                loop.add_writer(self._control.fileno(), self._flush)
                return
            except OSError:
                self._over.set()
                return
            self._unsent.popleft()
        loop.remove_writer(self._control.fileno())


def main(given: EgressOptions) -> None:
    """Be the egress; leaves the process with its status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="egress: %(message)s")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # two for each connection
    try:
        outside = Outside(
            resolver=Resolver(given.hosts, given.resolver),
            proxy=Proxy.parse(given.proxy, given.no_proxy),
            private=network.ranges(given.private),
            connections=given.connections,
        )
    except ValueError as error:
        sys.stderr.write(f"pyfaas serve: {error}\n")
        os._exit(_REFUSES)
    uvloop.run(_run(given.control, outside))
    os._exit(0)  # threads that wait for a name server are not waited for


async def _run(control: int, outside: Outside) -> None:
    await Egress(socket.socket(fileno=control), outside).run()


