"""One VM: its sockets, its limits, and what it used.

What comes through the doors is a stranger's: a VM may open connections and ask for names as fast as it can. So each turn of the loop
takes a few, what waits for an answer from outside is bounded, and sentences for the log are told once in a while each.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from pyfaas.egress import naming
from pyfaas.egress.flows import Flow, reset
from pyfaas.egress.reaching import CONNECT_S, reach
from pyfaas.egress.resolving import Resolver
from pyfaas.egress.rules import Refused, Rules
from pyfaas.egress.settings import Proxy
from pyfaas.network import NetworkPlan

IDLE_S = 600.0  # a connection that moves no byte for so long is closed
_AT_ONCE = 16  # taken from a socket in a turn of the loop
_QUESTIONS = 500  # answered a second; whoever asks more waits
_ARRIVALS = 1000  # connections taken a second, also those that are refused; the others wait in the doors' own queues
_KNOCKS = 200  # heard a second
_ASKING = 8  # TCP connections to the resolver
_ASKING_S = 10.0
_HEADERS = 120  # of IPv4 and TCP, at their longest
_SENTENCES = 64  # told of one VM in _TOLD_S, each once
_TOLD_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What all VMs' connections go by."""

    resolver: Resolver
    proxy: Proxy | None
    private: tuple[IPv4Network, ...]
    connections: int


class VmDoors:
    """The doors of a VM, open until `close`."""

    def __init__(self, vm: str, plan: NetworkPlan, descriptors: Sequence[int], outside: Outside, refused: Callable[[str, str], None]) -> None:
        """Take the descriptors, in the plan's order, then the resolver's two and that for knocks. Raises OSError or ValueError."""
        if len(descriptors) != len(plan.doors) + 3:
            raise ValueError("the doors are not those of the plan")
        self._vm, self._outside, self._refused = vm, outside, refused
        self._rules = Rules(plan, outside.private)
        self._answers = naming.Answers(self._rules, self._tell)
        self._sockets = [socket.socket(fileno=os.dup(descriptor)) for descriptor in descriptors]
        *self._listeners, self._udp, self._tcp, self._knocks = self._sockets
        self._flows: set[Flow] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        self._arrived = 0  # since the last beat
        self._taken = 0  # connections that are being made or are there
        self._told: dict[str, float] = {}
        self._questions, self._heard = _QUESTIONS, 0
        self.bytes_in = self.bytes_out = self.connections = 0
        self._resting: list[socket.socket] = []  # until the next beat
        for listener in self._listeners:
            listener.setblocking(False)
            self._listen(listener)
        for opened in (self._udp, self._tcp, self._knocks):
            opened.setblocking(False)
        self._listen_for_knocks()
        self._answer_again()
        asyncio.get_running_loop().add_reader(self._tcp.fileno(), self._accept_asking)

    # ---- the beat

    def take_used(self) -> tuple[int, int, int] | None:
        """Return bytes in, bytes out and connections since the last time; None when there were none."""
        used = self.bytes_in, self.bytes_out, self.connections
        self.bytes_in = self.bytes_out = self.connections = 0
        return used if any(used) else None

    def tend(self, now: float) -> None:
        """End what is idle, and let questions be asked again."""
        for flow in [flow for flow in self._flows if now - flow.moved > IDLE_S]:
            flow.abort()
        self._told = {why: at for why, at in self._told.items() if now - at < _TOLD_S}
        self._arrived = 0
        while self._resting:
            self._listen(self._resting.pop())
        if self._questions <= 0:
            self._answer_again()
        self._questions = _QUESTIONS
        if self._heard >= _KNOCKS:
            self._listen_for_knocks()
        self._heard = 0

    def close(self) -> None:
        """Close everything now."""
        loop = asyncio.get_running_loop()
        for opened in self._sockets:
            loop.remove_reader(opened.fileno())
            opened.close()
        for task in self._waiting:
            task.cancel()
        for flow in list(self._flows):
            flow.abort()

    # ---- connections

    def _listen(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if self._arrived >= _ARRIVALS:
                self._rest(listener)
                return
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # it went before it was taken (accept(2)), or there are no descriptors
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._rest(listener)
                return
            self._arrived += 1
            client.setblocking(False)
            self._came(client)

    def _rest(self, listener: socket.socket) -> None:
        """Take no connection from a door until the next beat."""
        asyncio.get_running_loop().remove_reader(listener.fileno())
        self._resting.append(listener)

    def _came(self, client: socket.socket) -> None:
        if self._taken >= self._outside.connections:
            self._reset(client, f"there are {self._outside.connections} connections to the network at once already (egress_connections)")
            return
        self._taken += 1
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Bring one connection to where it was meant to go, or refuse it."""
        where = ""
        try:
            address, port = client.getsockname()
            where = f"{address}:{port}"
            destination = self._rules.destination(address, port)
            where = destination.text
            async with asyncio.timeout(CONNECT_S):
                outer, read = await reach(destination, self._outside.resolver, self._outside.proxy)
        except Refused as error:
            self._refuse(client, str(error))
        except TimeoutError:
            self._refuse(client, f"{where} did not answer within {CONNECT_S:g} s")
        except OSError as error:
            self._refuse(client, f"{where} cannot be reached: {_reason(error)}")
        except asyncio.CancelledError:
            self._taken -= 1
            reset(client)
            client.close()
            raise
        else:
            await self._join(client, outer, read)

    async def _join(self, client: socket.socket, outer: socket.socket, read: bytes) -> None:
        self.connections += 1
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flow = Flow(self, self._ended)
        self._flows.add(flow)
        with contextlib.ExitStack() as undone:
            undone.callback(client.close)
            undone.callback(outer.close)
            undone.callback(self._ended, flow)
            undone.callback(flow.abort)
            await flow.join(client, outer, read)
            undone.pop_all()

    def _ended(self, flow: Flow) -> None:
        if flow in self._flows:
            self._flows.discard(flow)
            self._taken -= 1

    def _refuse(self, client: socket.socket, why: str) -> None:
        self._taken -= 1
        self._reset(client, why)

    def _reset(self, client: socket.socket, why: str) -> None:
        reset(client)
        client.close()
        self._tell(why)

    def _tell(self, why: str) -> None:
        """Say a sentence, unless it was said just now, or too many were."""
        if why not in self._told and len(self._told) < _SENTENCES:
            self._told[why] = time.monotonic()
            self._refused(self._vm, why)

    # ---- where no door is

    def _listen_for_knocks(self) -> None:
        asyncio.get_running_loop().add_reader(self._knocks.fileno(), self._knocked)

    def _knocked(self) -> None:
        """Say what was dialled in vain; the kernel has refused it already."""
        for _ in range(_AT_ONCE):
            if self._heard >= _KNOCKS:
                asyncio.get_running_loop().remove_reader(self._knocks.fileno())
                return
            try:
                packet = self._knocks.recv(_HEADERS)
            except OSError:
                return
            self._heard += 1
            why = self._rules.knocked(packet)
            if why is not None:
                self._tell(why)

    # ---- names

    def _answer_again(self) -> None:
        asyncio.get_running_loop().add_reader(self._udp.fileno(), self._asked)

    def _asked(self) -> None:
        for _ in range(_AT_ONCE):
            if self._questions <= 0:
                asyncio.get_running_loop().remove_reader(self._udp.fileno())
                return
            try:
                packet, asker = self._udp.recvfrom(naming.LONGEST)
            except OSError:
                return
            self._questions -= 1
            answered = self._answers.of(packet)
            if answered is not None:
                with contextlib.suppress(OSError):  # whoever asked does not listen any more
                    self._udp.sendto(answered, asker)

    def _accept_asking(self) -> None:
        try:
            client, _ = self._tcp.accept()
        except OSError:
            return
        if sum(task.get_name() == "asking" for task in self._waiting) >= _ASKING:
            client.close()
            return
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._answer_stream(client), name="asking")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _answer_stream(self, client: socket.socket) -> None:
        """Answer the questions of one TCP connection, each with its length before it (RFC 1035, 4.2.2)."""
        loop = asyncio.get_running_loop()
        with client, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ASKING_S):
                while True:
                    length = int.from_bytes(await _exactly(client, 2), "big")
                    packet = await _exactly(client, length)
                    self._questions -= 1
                    answered = self._answers.of(packet) if self._questions > 0 else None
                    if answered is None:
                        return
                    await loop.sock_sendall(client, len(answered).to_bytes(2, "big") + answered)


def _reason(error: OSError) -> str:
    """Say what the kernel said; the event loop's own words would tell the address."""
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved now"
    return os.strerror(error.errno).lower() if error.errno else str(error)


async def _exactly(client: socket.socket, size: int) -> bytes:
    loop, read = asyncio.get_running_loop(), b""
    while len(read) < size:
        piece = await loop.sock_recv(client, size - len(read))
        if not piece:
            raise ConnectionError
        read += piece
    return read
