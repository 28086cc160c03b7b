"""One VM's doors in this process, over both event loops that it may meet: bytes, ends, limits and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dns.message
import pytest
import uvloop

from pyfaas.egress import doors as module
from pyfaas.egress.doors import Outside as Way
from pyfaas.egress.doors import VmDoors
from pyfaas.egress.resolving import Resolver
from pyfaas.network import NetworkPlan, ranges
from tests.egress.rig import INSIDE, LINGER, Outside, doors, echo, read_all

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@dataclass(slots=True)
class Rig:
    """Open doors, and what they said."""

    doors: VmDoors
    plan: NetworkPlan
    sockets: list[socket.socket]
    said: list[str] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        """Where the first door is."""
        return self.plan.doors[0].address, self.plan.doors[0].port


Scene = Callable[[Rig], Awaitable[None]]


def run(loop: Callable[[], Any], plan: NetworkPlan, sockets: list[socket.socket], scene: Scene, *, hosts: str = "", connections: int = 8) -> Rig:
    """Open doors, play a scene, and close them."""
    said: list[str] = []

    async def play() -> Rig:
        way = Way(resolver=Resolver(hosts or "127.0.0.1 x.test\n", "127.0.0.1:1"), proxy=None, private=ranges("127.0.0.0/8"), connections=connections)
        made = VmDoors("vm", plan, [opened.fileno() for opened in sockets], way, lambda _vm, why: said.append(why))
        rig = Rig(made, plan, sockets, said)
        try:
            await scene(rig)
        finally:
            made.close()
            await asyncio.sleep(0.05)
        return rig

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(play())


async def dial(address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as a client in the VM."""
    return await asyncio.open_connection(*address)


async def refused(address: tuple[str, int]) -> None:
    """Connect, and see that it is reset: as it is made, or when it is read."""

    async def ask() -> None:
        reader, writer = await dial(address)
        with contextlib.closing(writer):
            await reader.read()

    with pytest.raises(ConnectionResetError):
        await ask()


async def until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.005)


@pytest.fixture
def closing() -> Iterator[Callable[..., tuple[NetworkPlan, list[socket.socket]]]]:
    """Return a maker of doors whose sockets end with the test."""
    made: list[socket.socket] = []

    def make(*names: tuple[str, int], **options: Any) -> tuple[NetworkPlan, list[socket.socket]]:
        plan, sockets = doors(*names, **options)
        made.extend(sockets)
        return plan, sockets

    yield make
    for opened in made:
        opened.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_bytes_go_both_ways(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """A megabyte there and back is the same megabyte, and is counted exactly in each direction."""
    sent = bytes(range(256)) * 4096

    async def scene(rig: Rig) -> None:
        reader, writer = await dial(rig.address)
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert rig.doors.take_used() == (len(sent), len(sent), 1)
        assert rig.doors.take_used() is None

    with Outside(echo) as server:
        assert run(loop, *closing(("x.test", server.port)), scene).said == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_half_closed_connection_goes_on(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """A client that has sent all and says so gets an answer made of all of it."""

    def count(connection: socket.socket) -> None:
        connection.sendall(b"%d" % len(read_all(connection)))

    async def scene(rig: Rig) -> None:
        reader, writer = await dial(rig.address)
        writer.write(b"x" * 300_000)
        writer.write_eof()
        assert await reader.read() == b"300000"
        writer.close()

    with Outside(count) as server:
        run(loop, *closing(("x.test", server.port)), scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_speaks_first_and_goes(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """What a server says at once, before it closes, reaches a client that says nothing."""

    async def scene(rig: Rig) -> None:
        for _ in range(20):
            reader, writer = await dial(rig.address)
            assert await reader.read() == b"220 ready\r\n"
            writer.close()

    with Outside(lambda connection: connection.sendall(b"220 ready\r\n")) as server:
        run(loop, *closing(("x.test", server.port)), scene, connections=64)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_reader_holds_back_a_fast_writer(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """When nobody reads, no more than the sockets' and two buffers are taken from the writer; afterwards all of it comes."""
    size, sent = 64 << 20, 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        piece = b"x" * 65536
        while sent < size:
            connection.sendall(piece)
            sent += len(piece)

    async def scene(rig: Rig) -> None:
        reader, writer = await asyncio.open_connection(*rig.address, limit=65536)
        before = -1
        while before != sent:  # it stands still
            before = sent
            await asyncio.sleep(0.3)
        assert sent < size // 2
        got = 0
        while piece := await reader.read(1 << 20):
            got += len(piece)
        assert got == size
        writer.close()

    with Outside(pour) as server:
        run(loop, *closing(("x.test", server.port)), scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reset_is_passed_on(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """A server that resets its connection resets the client's, and the other way round."""
    ended: list[str] = []

    def serve(connection: socket.socket) -> None:
        if connection.recv(1) == b"r":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
            connection.close()
            return
        try:
            connection.recv(1)
            ended.append("end")
        except ConnectionResetError:
            ended.append("reset")

    async def scene(rig: Rig) -> None:
        reader, writer = await dial(rig.address)
        writer.write(b"r")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        client = socket.create_connection(rig.address)
        client.sendall(b"c")
        await asyncio.sleep(0.1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        client.close()
        await until(lambda: bool(ended))
        assert ended == ["reset"]

    with Outside(serve) as server:
        run(loop, *closing(("x.test", server.port)), scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_too_many_connections_are_refused(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """The connection after the last allowed one is reset and said so; when one ends there is room again."""

    async def scene(rig: Rig) -> None:
        opened = [await dial(rig.address) for _ in range(2)]
        for reader, writer in opened:
            writer.write(b"a")
            assert await reader.readexactly(1) == b"a"
        await refused(rig.address)
        assert "2 connections to the network at once" in rig.said[0]
        opened[0][1].close()
        await until(lambda: rig.doors._taken < 2)
        reader, writer = await dial(rig.address)
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        writer.close()
        opened[1][1].close()

    with Outside(echo) as server:
        run(loop, *closing(("x.test", server.port)), scene, connections=2)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_flood_of_connections_waits(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """Past so many connections in a beat the next ones wait in the door's queue; then they are served as if nothing had been."""

    async def scene(rig: Rig) -> None:
        rig.doors._arrived = module._ARRIVALS - 1
        opened = [await dial(rig.address) for _ in range(3)]
        for _, writer in opened:
            writer.write(b"a")
        assert await opened[0][0].readexactly(1) == b"a"
        await asyncio.sleep(0.05)
        assert rig.doors._taken == 1
        rig.doors.tend(time.monotonic())
        for reader, writer in opened[1:]:
            assert await reader.readexactly(1) == b"a"
            writer.close()
        opened[0][1].close()

    with Outside(echo) as server:
        run(loop, *closing(("x.test", server.port)), scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_refusals_are_resets_with_a_reason(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """A name that leads where it may not, to nobody, or nowhere is reset at once, and each is said once."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    hosts = "127.0.0.1 nobody.test\n169.254.169.254 meta.test\n"

    async def scene(rig: Rig) -> None:
        for door in rig.plan.doors:
            for _ in range(2):
                await refused((door.address, door.port))

    plan, sockets = closing(("nobody.test", port), ("meta.test", port))
    said = run(loop, plan, sockets, scene, hosts=hosts).said
    assert len(said) == 2
    assert said[0] == f"nobody.test:{port} cannot be reached: connection refused"
    assert said[1].startswith(f"meta.test:{port} leads to an address that is not public (link-local")


@pytest.mark.parametrize("loop", LOOPS)
def test_idle_connections_end(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """A connection that moves no byte for too long is reset; one that does stays."""

    async def scene(rig: Rig) -> None:
        reader, writer = await dial(rig.address)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        rig.doors.tend(time.monotonic() + module.IDLE_S - 60)
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        rig.doors.tend(time.monotonic() + module.IDLE_S + 60)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    with Outside(echo) as server:
        run(loop, *closing(("x.test", server.port)), scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_names_over_both_transports(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """A question is answered over UDP and over TCP, two on one connection too; an unlisted one is said once."""

    async def scene(rig: Rig) -> None:
        udp, tcp = rig.sockets[-3:-1]
        running, known = asyncio.get_running_loop(), dns.message.make_query("x.test", "A").to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
            client.connect(udp.getsockname())
            for name, address in (("x.test", INSIDE), ("evil.test", None), ("evil.test", None)):
                client.send(dns.message.make_query(name, "A").to_wire())
                found = dns.message.from_wire(await running.sock_recv(client, 4096))
                assert [row.to_text() for rows in found.answer for row in rows] == ([address] if address else [])
        reader, writer = await dial(tcp.getsockname())
        for _ in range(2):
            writer.write(len(known).to_bytes(2, "big") + known)
            length = int.from_bytes(await reader.readexactly(2), "big")
            assert INSIDE in dns.message.from_wire(await reader.readexactly(length)).to_text()
        writer.close()

    with Outside(echo) as server:
        said = run(loop, *closing(("x.test", server.port)), scene).said
    assert len(said) == 1
    assert "evil.test" in said[0]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_flood_of_questions_waits(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """Past so many questions in a beat nothing is answered until the next one; then it goes on."""

    async def scene(rig: Rig) -> None:
        rig.doors._questions = 3
        packet = dns.message.make_query("x.test", "A").to_wire()
        running = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
            client.connect(rig.sockets[-3].getsockname())
            for _ in range(5):
                client.send(packet)
            for _ in range(3):
                await running.sock_recv(client, 4096)
            await asyncio.sleep(0.05)
            with pytest.raises(BlockingIOError):
                client.recv(4096)
            rig.doors.tend(time.monotonic())
            for _ in range(2):
                await running.sock_recv(client, 4096)

    with Outside(echo) as server:
        run(loop, *closing(("x.test", server.port)), scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_knocks_are_said(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """What was dialled where no door is becomes a sentence, by its name where it has one; a flood is heard in part, and what is no packet not at all."""

    async def scene(rig: Rig) -> None:
        place = rig.sockets[-1].getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for packet in (b"", b"x", bytes(40), knock("8.8.8.8", 53), knock(INSIDE, 81), knock("8.8.8.8", 53)):
                client.sendto(packet, place)
            await until(lambda: len(rig.said) == 2)
            rig.doors._heard = module._KNOCKS - 1
            for port in (1, 2):
                client.sendto(knock("9.9.9.9", port), place)
            await until(lambda: len(rig.said) == 3)
            await asyncio.sleep(0.05)
            assert len(rig.said) == 3
            rig.doors.tend(time.monotonic())
            await until(lambda: len(rig.said) == 4)

    with Outside(echo) as server:
        said = run(loop, *closing(("x.test", server.port)), scene).said
    assert 'add "8.8.8.8:53"' in said[0]
    assert 'add "x.test:81"' in said[1]


def knock(address: str, port: int) -> bytes:
    """Return the headers of a connection's first packet."""
    ip = bytes([0x45]) + bytes(15) + socket.inet_aton(address)
    return ip + struct.pack("!HHIIBB", 40000, port, 1, 0, 0x50, 2) + bytes(6)


@pytest.mark.parametrize("loop", LOOPS)
def test_closed_doors_end_everything(loop: Callable[[], Any], closing: Callable[..., Any]) -> None:
    """When a VM is gone its connections are reset on both sides, those that wait for an answer outside too."""
    ended: list[bool] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            echo(connection)
        ended.append(True)

    async def scene(rig: Rig) -> None:
        reader, writer = await dial(rig.address)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        rig.doors.close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await until(lambda: bool(ended))
        rig.doors._sockets.clear()  # closed once

    with Outside(serve) as server:
        run(loop, *closing(("x.test", server.port)), scene)


def test_doors_that_are_not_the_plans_are_refused(closing: Callable[..., Any]) -> None:
    """Descriptors that do not fit the plan open nothing."""
    plan, sockets = closing(("x.test", 0), at="127.0.3.1")

    async def scene(rig: Rig) -> None:
        """Nothing is played."""

    with pytest.raises(ValueError, match="not those of the plan"):
        run(asyncio.new_event_loop, plan, sockets[1:], scene)
