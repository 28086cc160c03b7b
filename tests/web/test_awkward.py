"""The front against plain aiohttp: whatever bytes come, both give the same answers and run the same calls."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.web.awkward import CASES, Reply, Talk, talk
from tests.web.servers import front, plain

# Where the front is right to differ: it has answered what was whole before it looks at what follows.
_BETTER = {"garbage after the body": [200, 400]}


def _shown(found: Talk) -> list[object]:
    return [*(_reply(reply) for reply in found.replies), "closed" if found.is_closed else "open", found.rest]


def _reply(reply: Reply) -> object:
    if reply.headers.get("content-type", "").startswith("text/plain") or _is_unreadable(reply):
        return reply.status, "unreadable"  # aiohttp has a page for it, the front a problem document
    return reply.status, {k: v for k, v in reply.headers.items() if k != "date"}, reply.body


def _is_unreadable(reply: Reply) -> bool:
    return reply.status == 400 and b'"detail": "the request cannot be read' in reply.body


@pytest.mark.parametrize("name", CASES)
async def test_the_front_answers_as_aiohttp(name: str) -> None:
    """The answers, the calls that ran, and whether the connection stays open are the same on both ways."""
    case = CASES[name]
    async with front() as ours, plain() as theirs:
        here, there = await asyncio.gather(talk(ours.port, case), talk(theirs.port, case))
        if name in _BETTER:
            assert [reply.status for reply in here.replies] == _BETTER[name] != [reply.status for reply in there.replies]
        else:
            assert _shown(here) == _shown(there)
            assert ours.events == theirs.events
        if case.runs is not None:
            assert len(ours.events) == case.runs


_UNREADABLE = [
    "length and chunked",
    "two lengths",
    "length +8",
    "space before colon",
    "one line feed",
    "NUL in a value",
    "long header",
    "http 2 preface",
    "tls hello",
    "no http at all",
]


@pytest.mark.parametrize("name", _UNREADABLE)
async def test_what_cannot_be_read(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """An unreadable head is 400 with a problem document and the end of the connection, and one line in the log."""
    async with front() as ours:
        found = await talk(ours.port, CASES[name])
    (reply,) = found.replies
    problem = json.loads(reply.body)
    assert (reply.status, problem["code"], problem["fault"], found.is_closed) == (400, "invalid_request", "caller", True)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["server"] == "pyfaas"
    assert reply.headers["connection"] == "close"
    assert [record.getMessage() for record in caplog.records] == ["unreadable_request"]
    assert caplog.records[0].exc_info is None
    assert ours.events == []
