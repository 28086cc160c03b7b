"""The open load: how answers are read, and that it goes on whatever comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from benchmarks import steady
from benchmarks.steady import Plan

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nPyfaas-Requested-Version: 2\r\npyfaas-executed-version: 1\r\n\r\n"
    b'{"version": 1}'
)


def test_an_answer_is_read() -> None:
    """Status, both versions of the head, and what the code says of itself; nothing before it is complete."""
    told = steady.parse(ANSWER)
    assert told == {"status": 200, "requested": 2, "executed": 1, "ran": 1, "why": "", "closes": False}
    assert [steady.parse(ANSWER[:size]) for size in range(len(ANSWER))] == [None] * len(ANSWER)


@pytest.mark.parametrize("body", [b"", b"[1]", b"not JSON", b'"2"'])
def test_what_says_no_version_has_none(body: bytes) -> None:
    """A body that is not of our handlers names no version, and a head without versions has none."""
    told = steady.parse(b"HTTP/1.1 503 No\r\nConnection: Close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert told is not None
    assert (told["requested"], told["executed"], told["ran"], told["closes"]) == (0, 0, 0, True)
    assert told["why"].startswith("503: ")


class Flaky(asyncio.Protocol):
    """Answers the first requests, hangs up on the next, and answers again."""

    def __init__(self, asked: list[int]) -> None:
        """Share a count."""
        self._asked = asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer, or hang up."""
        self._asked.append(len(data))
        if len(self._asked) == 5:
            self._transport.abort()
        else:
            self._transport.write(ANSWER)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Return the port of a server that hangs up once."""
    asked: list[int] = []
    server = await asyncio.get_running_loop().create_server(lambda: Flaky(asked), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def plan(port: int) -> Plan:
    """Return a quick plan."""
    return Plan(host="127.0.0.1", port=port, head="POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", body="{}", rate=500.0)


async def test_a_failure_is_an_answer_among_others(port: int) -> None:
    """A connection that is closed costs its request, and the load goes on over another."""
    load, stopped = steady._Load(plan(port)), asyncio.Event()
    running = asyncio.create_task(load.run(stopped))
    while len(load.seen) < 20:
        await asyncio.sleep(0.01)
    stopped.set()
    await running
    assert [row["status"] for row in load.seen].count(0) == 1
    assert all(row["planned"] <= row["sent"] <= row["done"] for row in load.seen)


async def test_refused_connections_are_counted() -> None:
    """Where nobody listens each request fails, by what the kernel said, and none holds another up."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    free = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    load, stopped = steady._Load(plan(free)), asyncio.Event()
    running = asyncio.create_task(load.run(stopped))
    while len(load.seen) < 5:
        await asyncio.sleep(0.01)
    stopped.set()
    await running
    assert {row["why"] for row in load.seen} == {"no connection: Connection refused"}
    assert load.open == 0


async def test_the_process_tells_what_it_saw(port: int) -> None:
    """The load's own process begins with its plan and ends with its input; its answers come in the order of their times."""

    def run() -> list[steady.Answer]:
        with steady.Steady(plan(port)) as load:
            stop.wait(20)
            return load.stop()

    stop = threading.Event()
    asyncio.get_running_loop().call_later(0.5, stop.set)
    answers = await asyncio.to_thread(run)
    assert answers
    assert [a.planned for a in answers] == sorted(a.planned for a in answers)
    assert (answers[0].status, answers[0].requested, answers[0].executed, answers[0].ran) == (200, 2, 1, 1)
