"""From a destination to a connected socket: the operator's resolver and proxy, and the address that was checked."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import dns.message
import dns.rcode
import dns.rrset
import pytest

from pyfaas.egress.reaching import is_ours, reach
from pyfaas.egress.resolving import Resolver, read_hosts
from pyfaas.egress.rules import Destination, Refused
from pyfaas.egress.settings import Proxy, server_of
from pyfaas.network import ranges

LOOPBACK = ranges("127.0.0.0/8")


class NameServer(asyncio.DatagramProtocol):
    """Answers from a table whose values may change; a name that is not there does not exist."""

    def __init__(self, table: Mapping[str, list[str]]) -> None:
        """Answer from `table`."""
        self.table, self.asked = table, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        self.asked += 1
        asked = dns.message.from_wire(data)
        answered = dns.message.make_response(asked)
        question = asked.question[0]
        name = question.name.to_text(omit_final_dot=True)
        if name not in self.table:
            answered.set_rcode(dns.rcode.NXDOMAIN)
        for address in self.table.get(name, []):
            if (":" in address) == (question.rdtype == 28):
                answered.answer.append(dns.rrset.from_text(question.name, 0, 1, question.rdtype, address))
        self.transport.sendto(answered.to_wire(), addr)  # type: ignore[attr-defined]


Serving = Callable[[Mapping[str, list[str]]], Awaitable[tuple[NameServer, str]]]


@pytest.fixture
async def name_server() -> AsyncIterator[Serving]:
    """Return a starter of name servers, which returns one and its ADDRESS:PORT; they end with the test."""
    started: list[asyncio.BaseTransport] = []

    async def start(table: Mapping[str, list[str]]) -> tuple[NameServer, str]:
        transport, made = await asyncio.get_running_loop().create_datagram_endpoint(lambda: NameServer(table), local_addr=("127.0.0.1", 0))
        started.append(transport)
        return made, "{}:{}".format(*transport.get_extra_info("sockname"))

    yield start
    for transport in started:
        transport.close()
    await asyncio.sleep(0)


async def greeting(text: bytes = b"hello") -> tuple[asyncio.Server, int]:
    """Start a server on loopback that says a word to each who comes; returns it and its port."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def heard(connection: socket.socket) -> bytes:
    """Read a connection to its end, and close it."""
    with connection:
        reader, writer = await asyncio.open_connection(sock=connection)
        read = await reader.read()
        writer.close()
        return read


def to(host: str, port: int, private: str = "127.0.0.0/8") -> Destination:
    """Return a destination by name that may end on loopback."""
    return Destination(host=host, port=port, is_literal=False, private=ranges(private))


def test_hosts_files() -> None:
    """Names of a hosts file are found whatever their case, with all their addresses; comments and nonsense are left out."""
    found = read_hosts("# a comment\n127.0.0.1 A.test b.test # more\n::1 a.test\nnonsense c.test\n10.0.0.1\n")
    assert found == {"a.test": ("127.0.0.1", "::1"), "b.test": ("127.0.0.1",)}


@pytest.mark.parametrize(
    ("text", "server"),
    [("10.0.0.1", ("10.0.0.1", 53)), ("10.0.0.1:5353", ("10.0.0.1", 5353)), ("::1", ("::1", 53)), ("[::1]:5353", ("::1", 5353))],
)
def test_name_servers(text: str, server: tuple[str, int]) -> None:
    """A name server is an address, perhaps with a port."""
    assert server_of(text) == server


@pytest.mark.parametrize("text", ["ns.example.com", "10.0.0.1:", "10.0.0.1:99999", ":53", "[::1]"])
def test_name_servers_that_are_none(text: str) -> None:
    """A name for a name server, or a port that is none, is refused by the option's name."""
    with pytest.raises(ValueError, match="egress_resolver"):
        server_of(text)


async def test_the_operators_hosts_and_name_server(name_server: Serving) -> None:
    """The hosts file is looked at first, then the operator's name server is asked; IPv4 addresses come first."""
    made, address = await name_server({"b.test": ["::1", "127.0.0.2"]})
    resolver = Resolver("127.0.0.9 a.test\n", address)
    assert await resolver.resolve("a.test") == ["127.0.0.9"]
    assert made.asked == 0
    assert await resolver.resolve("b.test") == ["127.0.0.2", "::1"]
    assert await resolver.resolve("c.test") == []


async def test_who_asks_at_once_shares_an_answer(name_server: Serving) -> None:
    """A name that many connections want at once is asked for once; the next one asks again. One who gives up takes nothing from the others."""
    made, address = await name_server({"b.test": ["127.0.0.2"]})
    resolver = Resolver(server=address)
    tasks = [asyncio.get_running_loop().create_task(resolver.resolve("b.test")) for _ in range(20)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await asyncio.gather(*tasks[1:]) == [["127.0.0.2"]] * 19
    assert made.asked == 2
    await resolver.resolve("b.test")
    assert made.asked == 4


async def test_the_systems_resolver() -> None:
    """Without options names are the system's; one that does not exist has no address."""
    assert "127.0.0.1" in await Resolver().resolve("localhost")


async def test_the_checked_address_is_connected_to(name_server: Serving) -> None:
    """A name is resolved once for a connection: an answer that changes between check and use is never seen."""
    server, port = await greeting()
    made, address = await name_server({"x.test": ["127.0.0.1"]})
    async with server:
        outer, read = await reach(to("x.test", port), Resolver(server=address), None)
        assert (await heard(outer), read) == (b"hello", b"")
        assert made.asked == 2  # A and AAAA, each once
        made.table = {"x.test": ["10.9.9.9"]}
        with pytest.raises(Refused, match="not public"):
            await reach(to("x.test", port), Resolver(server=address), None)


async def test_an_address_that_does_not_answer_is_not_the_last_word() -> None:
    """When one of a name's addresses refuses, the next one is tried."""
    server, port = await greeting()
    async with server:
        outer, _ = await reach(to("x.test", port), Resolver("127.7.7.7 x.test\n127.0.0.1 x.test\n"), None)
        assert await heard(outer) == b"hello"


async def test_only_the_addresses_that_pass_are_tried() -> None:
    """Of a name's addresses those that are not allowed are never connected to, though the others fail."""
    server, port = await greeting()
    async with server:
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await reach(to("x.test", port, "127.7.7.0/24"), Resolver("127.0.0.1 x.test\n127.7.7.7 x.test\n"), None)


async def test_a_name_without_an_address(name_server: Serving) -> None:
    """A listed name that has no address outside cannot be reached, which is no refusal."""
    with pytest.raises(OSError, match="no address"):
        await reach(to("x.test", 80), Resolver("127.0.0.1 other.test\n", (await name_server({}))[1]), None)


async def test_addresses_of_ipv6_are_reached_outside() -> None:
    """Where this machine has IPv6 a name may lead there; an operator's own index does so here."""
    anywhere = dataclasses.replace(to("x.test", 0), is_anywhere=True)
    try:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "::1", 0)
    except OSError:  # this machine has none
        with pytest.raises(OSError):  # noqa: PT011 - whatever it says
            await reach(dataclasses.replace(anywhere, port=9), Resolver("::1 x.test\n"), None)
        return
    async with server:
        outer, _ = await reach(dataclasses.replace(anywhere, port=server.sockets[0].getsockname()[1]), Resolver("::1 x.test\n"), None)
        assert outer.family == socket.AF_INET6
        assert await heard(outer) == b""


def test_this_machines_own_addresses_are_known() -> None:
    """The kernel tells which addresses are this machine's, and which are not."""
    assert is_ours("127.0.0.1")
    assert not is_ours("192.0.2.1")


# ---- the operator's proxy


async def proxy(status: str = "200 ok", said: bytes = b"") -> tuple[asyncio.Server, int, list[bytes]]:
    """Start a proxy that connects to loopback whatever the name; returns it, its port and the heads that it read."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        writer.write(f"HTTP/1.1 {status}\r\nServer: test\r\n\r\n".encode() + said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], heads


async def test_the_operators_proxy_is_asked() -> None:
    """A public destination goes by the proxy, by its name, with the proxy's password; what it sent early is not lost."""
    server, port, heads = await proxy(said=b"early")
    asked = Proxy.parse(f"http://us%40er:pass@127.0.0.1:{port}")
    async with server:
        outer, read = await reach(to("x.test", 443), Resolver("93.184.216.34 x.test\n"), asked)
        assert read + await heard(outer) == b"early"
    assert heads[0].startswith(b"CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\n")
    assert base64.b64encode(b"us@er:pass") in heads[0]


async def test_a_name_that_only_the_proxy_can_resolve(name_server: Serving) -> None:
    """A name that has no address here is the proxy's to find."""
    server, port, heads = await proxy()
    async with server:
        outer, _ = await reach(to("x.test", 443), Resolver("127.0.0.1 other.test\n", (await name_server({}))[1]), Proxy.parse(f"127.0.0.1:{port}"))
        outer.close()
    assert len(heads) == 1


async def test_a_proxy_is_no_way_around_the_check() -> None:
    """A name that leads to private addresses as far as this machine knows is refused, and the proxy is not asked."""
    server, port, heads = await proxy()
    async with server:
        with pytest.raises(Refused, match="not public"):
            await reach(to("x.test", 443, ""), Resolver("169.254.169.254 x.test\n"), Proxy.parse(f"http://127.0.0.1:{port}"))
    assert heads == []


async def test_what_is_allowed_inwards_needs_no_proxy() -> None:
    """A private address that entry and operator allow is connected to directly."""
    server, port = await greeting()
    async with server:
        outer, _ = await reach(to("x.test", port), Resolver("127.0.0.1 x.test\n"), Proxy.parse("http://192.0.2.1:1"))
        assert await heard(outer) == b"hello"


async def test_a_proxy_that_refuses() -> None:
    """The proxy's refusal is told with its status."""
    server, port, _ = await proxy("407 who are you")
    async with server:
        with pytest.raises(OSError, match="the operator's proxy answered 407"):
            await reach(to("x.test", 443), Resolver("93.184.216.34 x.test\n"), Proxy.parse(f"http://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("words", "host", "port", "is_asked"),
    [
        ("", "a.test", 443, True),
        ("*", "a.test", 443, False),
        ("a.test", "a.test", 443, False),
        ("a.test", "b.a.test", 443, False),
        ("a.test", "ba.test", 443, True),
        (".a.test, b.test", "x.b.test", 443, False),
        ("*.a.test", "x.a.test", 443, False),
        ("a.test:80", "a.test", 443, True),
        ("a.test:443", "a.test", 443, False),
        ("10.0.0.0/8", "10.1.1.1", 443, False),
        ("10.0.0.0/8", "11.1.1.1", 443, True),
        ("", "proxy.test", 3128, False),
    ],
)
def test_no_proxy(words: str, host: str, port: int, is_asked: bool) -> None:
    """NO_PROXY lists domains with what is below them, addresses and ranges, perhaps with a port; the proxy itself needs none."""
    asked = Proxy.parse("http://proxy.test:3128", words)
    assert asked is not None
    assert asked.is_for(host, port) is is_asked


def test_other_proxies_are_refused() -> None:
    """A proxy that would need TLS or SOCKS is refused by the variable's name, without its password; none is none."""
    assert Proxy.parse("") is None
    with pytest.raises(ValueError, match="HTTPS_PROXY") as caught:
        Proxy.parse("socks5://me:secret@p.test:1080")
    assert "secret" not in str(caught.value)
