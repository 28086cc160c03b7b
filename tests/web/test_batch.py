"""A call for each line, without what runs it: how lines are cut, and how a request breaks off."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from pyfaas.web import batch
from tests.web.conftest import Served
from tests.web.wire import Wire, ask, call, other


def mapped(body: bytes, name: bytes = b"echo", extra: bytes = b"") -> bytes:
    """Return a map request."""
    return call(body, extra, path=b"/v1/functions/" + name + b"/map")


HEAD = call(b"", b"Transfer-Encoding: chunked\r\n", path=b"/v1/functions/echo/map", has_length=False)


def chunk(data: bytes) -> bytes:
    """Return a chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def lines(body: bytes) -> list[Any]:
    """Return the values of an NDJSON body."""
    return [json.loads(line) for line in body.splitlines()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_lines_in_pieces(front: Served, size: int) -> None:
    """Wherever a body is cut, its lines are the same; spaces around one and empty ones are no part of it."""
    body = b'{"n": 1}\r\n\n  {"n": 2} \n\r\n\xc3\xa9\n{"n": 3}'
    wire = await Wire.to(front.port)
    await wire.send(HEAD, *(chunk(body[at : at + size]) for at in range(0, len(body), size)), b"0\r\n\r\n")
    answer = await wire.answer()
    assert sorted(front.service.calls[n].request.body for n in range(4)) == sorted([b'{"n": 1}', b'{"n": 2}', b"\xc3\xa9", b'{"n": 3}'])
    shown = {item["i"]: item for item in lines(answer.body)}
    assert [shown[n]["ok"] for n in (0, 1, 3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert shown[2]["error"]["code"] == "invalid_event"


@pytest.mark.parametrize("cut", [0, 1, 70_000, 262_144])
async def test_a_line_over_the_limit_in_pieces(front: Served, cut: int) -> None:
    """A line that is too long is told so wherever it is cut, and what is behind its end is the next one."""
    long = b"x" * ((256 << 10) + 1)
    wire = await Wire.to(front.port)
    await wire.send(HEAD, *(chunk(piece) for piece in (long[:cut], long[cut:] + b"\n2\n" + long) if piece), b"0\r\n\r\n")
    shown = {item["i"]: item for item in lines((await wire.answer()).body)}
    assert (shown[1]["ok"], len(front.service.calls)) == (2, 1)
    for place in (0, 2):
        assert shown[place]["error"]["evidence"] == {"limit": "sync_payload", "value": 256 << 10, "observed": (256 << 10) + 1, "unit": "bytes"}


async def test_every_outcome_is_its_items(front: Served) -> None:
    """An item that fails has the problem document that the call alone would have had."""
    for name in (b"ends-oom", b"ends-error", b"ends-timeout", b"rejected-no_capacity", b"refused-not_found"):
        (item,) = lines((await ask(front.port, mapped(b"1", name))).body)
        front.service.calls.clear()
        alone = await ask(front.port, call(b"1", path=b"/v1/functions/" + name + b"/invoke"))
        front.service.calls.clear()
        assert item["i"] == 0
        if name == b"ends-error":  # data of the function's own when alone, members of a problem here
            assert alone.json.items() <= item["error"].items()
        else:
            assert item["error"] == alone.json


async def test_a_server_that_stops(front: Served) -> None:
    """When no more calls are taken, a last line says so, and the items that were not begun have none."""
    answer = await ask(front.port, mapped(b"1\n2\n3\n", b"refused-not_ready"))
    (last,) = lines(answer.body)
    assert (answer.status, last["$error"]["code"]) == (200, "not_ready")


async def test_a_body_that_cannot_be_read(front: Served) -> None:
    """A body that is not what its coding says ends with a line that says so; one that is has its lines read."""
    coded = HEAD.replace(b"Transfer-Encoding", b"Content-Encoding: gzip\r\nTransfer-Encoding")
    for body, wanted in ((gzip.compress(b"1\n2\n", mtime=0), [1, 2]), (b"no gzip at all", [])):
        wire = await Wire.to(front.port)
        await wire.send(coded, chunk(body), b"0\r\n\r\n")
        shown = lines((await wire.answer()).body)
        assert sorted(item["ok"] for item in shown if "ok" in item) == wanted
        assert [item["$error"]["code"] for item in shown if "$error" in item] == ([] if wanted else ["invalid_request"])


async def test_lines_that_stop_coming(front: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of which nothing comes for long is ended, and told why."""
    monkeypatch.setattr(batch, "_STALL_S", 0.2)
    wire = await Wire.to(front.port)
    await wire.send(HEAD, chunk(b"1\n"))
    *items, last = lines((await wire.answer()).body)
    assert items == [{"i": 0, "ok": 1}]
    assert "nothing of the body came" in last["$error"]["detail"]


async def test_waiting_for_a_long_item_is_no_silence(front: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for an item's end before it sends the next line may wait as long as the item runs."""
    monkeypatch.setattr(batch, "_STALL_S", 0.05)
    wire = await Wire.to(front.port)
    await wire.send(HEAD, chunk(b'{"sleep": 0.5, "n": 1}\n'))
    async with asyncio.timeout(20):
        await wire.head()
        assert json.loads(await wire.chunk()) == {"i": 0, "ok": {"sleep": 0.5, "n": 1}}
    assert len(front.service.calls) == 1


async def test_a_client_that_leaves_while_nothing_finds_room(front: Served) -> None:
    """Items that wait for room are not tried any more once their client has gone."""
    wire = await Wire.to(front.port)
    await wire.send(mapped(b"1\n2\n", b"refused-throttled"))
    async with asyncio.timeout(20):
        await wire.head()
        (connection,) = front.site.shared.connections
        wire.close()
        while front.site.shared.connections or connection.working:
            await asyncio.sleep(0.01)
    assert connection.call is None
    assert (await ask(front.port, call(b"1"))).json == 1


async def test_a_long_body_is_not_refused_by_its_length(front: Served) -> None:
    """A map's body has no limit, its lines have: neither its length nor Expect stops it."""
    body = b"\n".join(b'"%b"' % (b"x" * 60_000) for _ in range(10))
    wire = await Wire.to(front.port)
    whole = mapped(body, extra=b"Expect: 100-continue\r\n")
    await wire.send(whole[: -len(body)], whole[-len(body) :])
    answer = await wire.answer()
    assert (answer.was_continued, len(lines(answer.body))) == (True, 10)


@pytest.mark.parametrize("token", [None, b"pf_wrong", b"pf_read"])
async def test_who_may_not(front: Served, token: bytes | None) -> None:
    """Without the scope nothing of the body is read as a call."""
    answer = await ask(front.port, other(b"POST", b"/v1/functions/echo/map", b"1\n2", token=token))
    assert (answer.status, front.service.calls) == (403 if token == b"pf_read" else 401, [])
