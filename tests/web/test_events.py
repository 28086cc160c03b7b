"""Events over HTTP: asked for, waited for, and as a stream that can be resumed and that no slow reader makes large."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pyfaas.web import routes_versions
from tests.web.conftest import Served
from tests.web.wire import ANSWER_S, Wire, ask, get, other

PATH = b"/v1/functions/echo/events"
STREAM = b"Accept: text/event-stream\r\n"


@pytest.fixture(autouse=True)
def stopping(front: Served) -> Iterator[None]:
    """Let streams end before the server does, as the real one does."""
    yield
    front.service.is_told = False
    front.service.more.set()


def tell(front: Served, *cursors: int, pad: str = "") -> None:
    """Let something happen."""
    front.service.told += [{"cursor": n, "kind": "prepared", "version": 1, "pad": pad} for n in cursors]
    front.service.more.set()


async def opened(front: Served, path: bytes = PATH, extra: bytes = b"") -> Wire:
    """Open a stream, and return it with its head read."""
    wire = await Wire.to(front.port)
    await wire.send(get(path, STREAM + extra))
    head = await wire.head()
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    return wire


async def frames(wire: Wire, count: int) -> list[int]:
    """Read so many frames, comments left out, and return their cursors."""
    text, found = b"", []
    while len(found) < count:
        async with asyncio.timeout(ANSWER_S):
            text += await wire.chunk()
        found = [frame for frame in text.split(b"\n\n")[:-1] if not frame.startswith(b":")]
    for frame in found:
        lines = dict(line.split(": ", 1) for line in frame.decode().split("\n"))
        assert lines["event"] == "prepared"
        assert json.loads(lines["data"])["cursor"] == int(lines["id"])
    return [int(frame.split(b"\n")[0].removeprefix(b"id: ")) for frame in found]


async def test_what_is_asked_of_the_service(front: Served) -> None:
    """Cursor, version, wait and limit go to the service as they are, but that nobody waits for more than a minute."""
    tell(front, 5, 6)
    answer = await ask(front.port, get(PATH + b"?after=4&version=2&wait=3600&limit=7"))
    assert front.service.asked == [("events", ("echo", 4, 2, 60, 7))]
    assert ([item["cursor"] for item in answer.json["items"]], answer.json["next"]) == ([5, 6], 6)


async def test_nothing_new(front: Served) -> None:
    """Without anything new the answer is empty, and goes on from where it was asked."""
    assert (await ask(front.port, get(PATH + b"?after=9"))).json == {"items": [], "next": 9}


async def test_a_head_does_not_wait(front: Served) -> None:
    """HEAD is answered at once, of a stream too."""
    for extra in (b"", STREAM):
        assert (await ask(front.port, other(b"HEAD", PATH + b"?wait=60", b"", extra))).status == 200


@pytest.mark.parametrize("query", [b"after=-1", b"after=x", b"wait=-1", b"version=0", b"limit=0", b"limit=1001", b"since=3"])
async def test_what_is_no_cursor(front: Served, query: bytes) -> None:
    """What cannot be meant is refused before anything is looked for."""
    assert (await ask(front.port, get(PATH + b"?" + query))).status == 400
    assert front.service.asked == []


async def test_a_stream_gives_what_was_and_what_comes(front: Served) -> None:
    """A stream begins with what is there, and goes on with what happens."""
    tell(front, 1, 2)
    wire = await opened(front)
    assert await frames(wire, 2) == [1, 2]
    tell(front, 3)
    assert await frames(wire, 1) == [3]


async def test_a_stream_is_resumed(front: Served) -> None:
    """A client that comes again with the last id that it saw gets what follows, whatever its address says."""
    tell(front, *range(1, 8))
    wire = await opened(front, PATH + b"?after=2", b"Last-Event-ID: 5\r\n")
    assert await frames(wire, 2) == [6, 7]


@pytest.mark.parametrize("last", [b"", b"x", b"-1", b"1" * 40, b"5 5"], ids=repr)
async def test_an_id_that_is_none(front: Served, last: bytes) -> None:
    """A last id that is no cursor is refused as what it is."""
    answer = await ask(front.port, get(PATH, STREAM + b"Last-Event-ID: " + last + b"\r\n"))
    assert (answer.status, answer.json["code"]) == (400, "invalid_header")


async def test_a_quiet_stream_says_so(front: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens a comment tells both ends that the other one is there."""
    monkeypatch.setattr(routes_versions, "_COMMENT_S", 0.01)
    wire = await opened(front)
    for _ in range(3):
        async with asyncio.timeout(ANSWER_S):
            assert await wire.chunk() == b": nothing new\n\n"


async def test_a_stream_of_what_is_not_there(front: Served) -> None:
    """A function that is not there has no stream: the answer is a problem, and no half of one."""
    answer = await ask(front.port, get(b"/v1/functions/unknown/events", STREAM))
    assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_a_stop_ends_streams_and_waits(front: Served) -> None:
    """When the server stops streams end whole, and whoever waits is answered."""
    wire = await opened(front)
    waiting = asyncio.create_task(ask(front.port, get(PATH + b"?wait=60")))
    async with asyncio.timeout(ANSWER_S):
        assert await wire.chunk() == b": nothing new\n\n"
        while len(front.service.asked) < 3:
            await asyncio.sleep(0)
        front.service.is_told = False
        front.service.more.set()
        assert await wire.chunk() == b""
    assert (await waiting).json == {"items": [], "next": 0}


@pytest.mark.parametrize("extra", [b"", STREAM], ids=["wait", "stream"])
async def test_a_client_that_leaves_is_not_waited_for(front: Served, extra: bytes) -> None:
    """When its client has gone nothing waits for events any more."""
    wire = await Wire.to(front.port)
    await wire.send(get(PATH + b"?wait=60", extra))
    async with asyncio.timeout(ANSWER_S):
        while not front.service.waiting:
            await asyncio.sleep(0.01)
        wire.close()
        while front.service.waiting:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_is_not_given_more(front: Served) -> None:
    """A reader that takes nothing gets no more than its connection holds; once it reads, it misses nothing."""
    tell(front, *range(1, 4001), pad="x" * 2000)
    wire = await Wire.to(front.port)
    wire.reader._limit = 1 << 12  # type: ignore[attr-defined]
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await wire.send(get(PATH, STREAM))
    calm: Any = None
    async with asyncio.timeout(ANSWER_S):
        while calm != len(front.service.asked):
            calm = len(front.service.asked)
            await asyncio.sleep(0.2)
    assert calm < 40  # pages of a hundred, of which the connection's buffers took some
    wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
    wire.reader._limit = 1 << 26  # type: ignore[attr-defined]
    await wire.head()
    assert await frames(wire, 4000) == list(range(1, 4001))
