"""Streams: framings, errors in the middle, slow readers, clients that leave, and what is no HTTP answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pyfaas.web import streams
from pyfaas.web.answers import own_head
from pyfaas.web.streams import _framed
from tests.web.conftest import Served
from tests.web.wire import Wire, ask, call, other


def counted(event: dict[str, Any], accept: bytes = b"") -> bytes:
    """Return a call of the function that streams."""
    extra = b"Accept: " + accept + b"\r\n" if accept else b""
    return call(json.dumps(event).encode(), extra, path=b"/v1/functions/counted/invoke")


def items(body: bytes) -> list[Any]:
    """Return the values of an NDJSON body."""
    return [json.loads(line) for line in body.splitlines()]


async def test_lines_of_json(front: Served) -> None:
    """A stream is NDJSON by default, and names its versions but no outcome."""
    answer = await ask(front.port, counted({"n": 2}))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert [item["n"] for item in items(answer.body)] == [0, 1]
    assert (answer.headers["pyfaas-executed-version"], answer.headers.get("pyfaas-outcome")) == ("3", None)


async def test_events(front: Served) -> None:
    """Server-sent events when asked for."""
    answer = await ask(front.port, counted({"n": 2}, b"text/event-stream"))
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body == b'data: {"n":0,"pad":""}\n\ndata: {"n":1,"pad":""}\n\n'


@pytest.mark.parametrize(
    ("event", "accept", "kind", "body"),
    [
        ({"bytes": "ab"}, b"", "application/octet-stream", b"abab"),
        ({"bytes": "ab"}, b"text/event-stream", "application/octet-stream", b"abab"),
        ({}, b"application/octet-stream", "application/octet-stream", b'{"n":0,"pad":""}{"n":1,"pad":""}'),
        ({}, b"text/plain; charset=utf-8", "text/plain", b'{"n":0,"pad":""}{"n":1,"pad":""}'),
    ],
    ids=["bytes", "bytes, events asked", "octets asked", "text asked"],
)
async def test_raw(front: Served, event: dict[str, Any], accept: bytes, kind: str, body: bytes) -> None:
    """Raw when the items are bytes, or when that is what the client accepts."""
    answer = await ask(front.port, counted({"n": 2, **event}, accept))
    assert (answer.headers["content-type"], answer.body) == (kind, body)


@pytest.mark.parametrize(("end", "code", "fault"), [("error", "error", "function"), ("oom", "oom", "function"), ("lost", "lost", "platform")])
async def test_an_error_in_the_middle(front: Served, end: str, code: str, fault: str) -> None:
    """What goes wrong after the first item is a problem document in the stream's last line, or its last event."""
    lines = items((await ask(front.port, counted({"n": 1, "end": end}))).body)
    problem = lines[1]["$error"]
    assert (lines[0]["n"], problem["code"], problem["fault"]) == (0, code, fault)
    assert problem.get("errorType") == ("ValueError" if end == "error" else None)
    events = (await ask(front.port, counted({"n": 1, "end": end}, b"text/event-stream"))).body.split(b"\n\n")
    assert events[1].startswith(b"event: error\ndata: {")
    assert json.loads(events[1].partition(b"data: ")[2])["code"] == code


async def test_a_quiet_stream_of_events(front: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment now and then keeps a quiet stream of events alive; lines of JSON have no room for one."""
    monkeypatch.setattr(streams, "_COMMENT_S", 0.05)
    quiet = {"n": 2, "gap": 0.2}
    events = (await ask(front.port, counted(quiet, b"text/event-stream"))).body.split(b"\n\n")
    assert b": still running" in events
    assert [event for event in events if event.startswith(b"data")] == [b'data: {"n":0,"pad":""}', b'data: {"n":1,"pad":""}']
    assert len(items((await ask(front.port, counted(quiet))).body)) == 2


async def test_an_error_in_the_middle_of_bytes(front: Served) -> None:
    """Among bytes a body that breaks off is the only way to say it."""
    with pytest.raises((EOFError, ConnectionError)):
        await ask(front.port, counted({"n": 1, "bytes": "x", "end": "oom"}))
    assert (await ask(front.port, counted({"n": 1, "bytes": "x"}))).body == b"x"


async def test_what_ends_before_the_first_item(front: Served) -> None:
    """A call that ends without a stream is answered whole, with a status of its own."""
    answer = await ask(front.port, call(b"{}", b"Accept: text/event-stream\r\n", path=b"/v1/functions/ends-oom/invoke"))
    assert (answer.status, answer.json["code"], answer.headers["pyfaas-outcome"]) == (502, "oom", "oom")


async def test_a_slow_reader_pauses_the_function(front: Served) -> None:
    """A function is paused while its client does not read, goes on when it does, and nothing is lost."""
    wire = await Wire.to(front.port)
    wire.reader._limit = 1 << 12  # type: ignore[attr-defined]
    wire.writer.transport.pause_reading()
    total = 4000
    await wire.send(counted({"n": total, "pad": 5000}))
    async with asyncio.timeout(5):
        while not front.service.calls or "pause" not in front.service.calls[0].said:
            await asyncio.sleep(0.01)
    assert front.service.calls[0].said == ["pause"]
    wire.writer.transport.resume_reading()
    wire.reader._limit = 1 << 26  # type: ignore[attr-defined]
    answer = await wire.answer()
    assert [item["n"] for item in items(answer.body)] == list(range(total))
    assert front.service.calls[0].said[:2] == ["pause", "resume"]


@pytest.mark.parametrize("event", [{"n": 10**6, "gap": 0.01}, {"n": 2, "gap": 30}], ids=["busy", "silent"])
async def test_a_client_that_leaves(front: Served, event: dict[str, Any]) -> None:
    """A stream whose client has gone is told, also when it has nothing to say for a while."""
    wire = await Wire.to(front.port)
    await wire.send(counted(event))
    async with asyncio.timeout(5):
        await wire.head()
        wire.close()
        while not front.service.calls[0].is_done:
            await asyncio.sleep(0.01)
    assert "left" in front.service.calls[0].said


async def test_a_stream_of_http(front: Served) -> None:
    """A function's own status and headers begin a streamed answer, without those that are not its to give."""
    head = {"kind": "http", "status": 404, "headers": [["content-type", "a/b"], ["set-cookie", "a=1"], ["set-cookie", "b=2"], ["content-length", "9"]]}
    answer = await ask(front.port, counted({"n": 1, "bytes": "x", "head": head}))
    assert (answer.status, answer.headers["content-type"], answer.body) == (404, "a/b", b"x")
    assert answer.headers["set-cookie"] == "a=1, b=2"


NO_ANSWERS: list[dict[str, Any]] = [
    {"status": 99},
    {"status": 101},
    {"status": 600},
    {"status": "200"},
    {"status": True},
    {"status": None},
    {"headers": {"a": "b"}},
    {"headers": [["a"]]},
    {"headers": [["a", 1]]},
    {"headers": [["a b", "c"]]},
    {"headers": [["", "c"]]},
    {"headers": [["a", "b\r\nX-Forged: 1"]]},
    {"headers": [["a\r\nX-Forged", "1"]]},
    {"headers": [["a", "b\0"]]},
    {"headers": [["a", "b"]] * 129},
    {"headers": [["a", "b" * 40_000]]},
]


@pytest.mark.parametrize("head", NO_ANSWERS, ids=lambda h: str(h)[:40])
async def test_what_is_no_http_answer(front: Served, head: dict[str, Any]) -> None:
    """What a container calls an answer and cannot be sent as one is the function's failure, not ours."""
    assert own_head({"status": 200, "headers": [["a", "b"]], **head}) is None
    answer = await ask(front.port, counted({"n": 1, "head": {"kind": "http", **head}}))
    assert (answer.status, answer.json["fault"]) == (502, "function")
    assert "x-forged" not in answer.headers
    async with asyncio.timeout(5):
        while not front.service.calls[0].is_done:
            await asyncio.sleep(0.01)


def test_an_item_cannot_break_its_frame() -> None:
    """A line break inside an item ends neither a line nor an event."""
    item = b'{"a":\n1}\n\ndata: forged\r'
    assert _framed(item, "ndjson").count(b"\n") == 1
    assert _framed(item, "sse") == b'data: {"a": 1}  data: forged \n\n'
    assert _framed(item, "raw") == item


async def test_a_head_request_of_a_url(front: Served) -> None:
    """A HEAD has the function's headers and no body."""
    wire = await Wire.to(front.port)
    await wire.send(other(b"HEAD", b"/f/default/open/", token=None) + other(b"GET", b"/healthz", token=None))
    assert (await wire.answer(has_body=False)).headers["x-own"] == "yes"
    assert (await wire.answer()).json["live"] is True
