"""Streams: items arrive as they are produced, and a client that leaves ends what nobody waits for."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.house import House

SOURCE = """
import asyncio, time
def handler(event, context):
    what = event.get("do", "count")
    if what == "bytes":
        for piece in (b"one ", b"two"): yield piece
        return
    try:
        for n in range(event.get("n", 3)):
            if event.get("fail") == n: raise ValueError("in the middle")
            yield {"n": n}
            time.sleep(event.get("s", 0))
    except GeneratorExit:
        print("closed early"); raise
"""
ASYNC = "import asyncio\nasync def handler(event, context):\n    for n in range(3):\n        await asyncio.sleep(0.01)\n        yield n"


@pytest.fixture(scope="module")
def stream(house: House) -> str:
    """Return a generator function."""
    assert house.deploy("streamed", SOURCE, timeout="30s").json["state"] == "ready"
    return "streamed"


@contextlib.contextmanager
def opened(house: House, name: str, event: Any, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """Call, and give the answer as it comes; afterwards the client has gone."""
    parts = urlsplit(house.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    sent = {"Authorization": "Bearer " + house.token("default"), "Content-Type": "application/json", **headers}
    connection.request("POST", f"/v1/functions/{name}/invoke", json.dumps(event), sent)
    answer = connection.getresponse()
    try:
        yield answer
    finally:
        answer.close()
        connection.close()


def test_items_arrive_as_they_are_made(house: House, stream: str) -> None:
    """The first item is here while the function still sleeps before the second."""
    with opened(house, stream, {"n": 2, "s": 1.5}) as answer:
        began = time.monotonic()
        assert answer.readline() == b'{"n":0}\n'
        first = time.monotonic() - began
        assert answer.readline() == b'{"n":1}\n'
        assert time.monotonic() - began > first + 0.5


def test_framings(house: House, stream: str) -> None:
    """NDJSON by default, server-sent events when asked for, raw for bytes; none has an outcome header."""
    with opened(house, stream, {}) as plain:
        assert plain.getheader("content-type") == "application/x-ndjson"
        assert plain.getheader("pyfaas-outcome") is None
        assert [json.loads(line) for line in plain.read().splitlines()] == [{"n": 0}, {"n": 1}, {"n": 2}]
    with opened(house, stream, {}, Accept="text/event-stream") as events:
        assert events.read() == b'data: {"n":0}\n\ndata: {"n":1}\n\ndata: {"n":2}\n\n'
    with opened(house, stream, {"do": "bytes"}) as raw:
        assert (raw.getheader("content-type"), raw.read()) == ("application/octet-stream", b"one two")


def test_error_in_the_middle(house: House, stream: str) -> None:
    """An error after the first item is the stream's last line."""
    with opened(house, stream, {"fail": 1}) as answer:
        lines = [json.loads(line) for line in answer.read().splitlines()]
    assert lines[0] == {"n": 0}
    assert lines[1]["$error"]["errorType"] == "ValueError"
    assert house.invoke(stream, {"n": 1}).status == 200


def test_client_that_leaves_closes_the_generator(house: House, stream: str) -> None:
    """GeneratorExit reaches the function when its client has gone, and its container is used again."""
    with opened(house, stream, {"n": 1000, "s": 0.05}) as answer:
        invocation = answer.getheader("pyfaas-invocation-id")
        assert answer.readline() == b'{"n":0}\n'
    until, lines = time.monotonic() + 10, []
    while not lines and time.monotonic() < until:
        lines = [line["line"] for line in house.logs(stream, id=str(invocation))]
    assert lines == ["closed early"]
    assert house.invoke(stream, {"n": 1}).status == 200


def test_async_generator(house: House) -> None:
    """An async generator streams as well."""
    house.deploy("astreamed", ASYNC)
    assert house.invoke("astreamed", {}).body == b"0\n1\n2\n"


def test_async_run_of_a_generator_yields_an_array(house: House, stream: str) -> None:
    """What nobody can stream to is collected."""
    queued = house.invoke(stream, {}, Prefer="respond-async").json["id"]
    assert house.call("GET", f"/v1/invocations/{queued}?wait=20").json["result"] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_slow_reader_pauses_the_function(house: House) -> None:
    """A function that streams much to a client that does not read is held back, not buffered in the server."""
    house.deploy("flood", "def handler(e, c):\n    for n in range(4000):\n        yield 'x' * 50000", timeout="60s")
    with opened(house, "flood", {}) as answer:
        answer.readline()
        server = house.children()["server"]
        time.sleep(1.0)  # the function would be done by now if nothing held it
        resident = int(Path(f"/proc/{server}/statm").read_text().split()[1]) * 4096
        assert resident < 180 << 20
        assert sum(1 for _ in answer) == 3999
