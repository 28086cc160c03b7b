"""The front against plain aiohttp: whatever bytes come, both give the same answers and run the same calls."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.web.awkward import CASES, Talk, talk
from tests.web.conftest import plainly_serving, serving
from tests.web.wire import Answer

# Where the front is right to differ: it has answered what was whole before it looks at what follows.
_BETTER = {"garbage after the body": [200, 400]}


def _shown(found: Talk) -> list[object]:
    return [*(_answer(answer) for answer in found.answers), "closed" if found.is_closed else "open", found.rest]


def _answer(answer: Answer) -> object:
    if answer.headers.get("content-type", "").startswith("text/plain") or _is_unreadable(answer):
        return answer.status, "unreadable"  # aiohttp has a page for it, the front a problem document
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    return answer.status, headers, answer.body, answer.was_continued


def _is_unreadable(answer: Answer) -> bool:
    return answer.status == 400 and b'"detail": "the request cannot be read' in answer.body


@pytest.mark.parametrize("name", CASES)
async def test_the_front_answers_as_aiohttp(name: str) -> None:
    """The answers, the calls that ran, and whether the connection stays open are the same on both ways."""
    case = CASES[name]
    async with serving() as ours, plainly_serving() as theirs:
        here, there = await asyncio.gather(talk(ours.port, case), talk(theirs.port, case))
        if name in _BETTER:
            assert [answer.status for answer in here.answers] == _BETTER[name] != [answer.status for answer in there.answers]
        else:
            assert _shown(here) == _shown(there)
            assert ours.events == theirs.events
        assert here.rest != "nothing came"
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
    async with serving() as ours:
        found = await talk(ours.port, CASES[name])
    (answer,) = found.answers
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"], problem["fault"], found.is_closed) == (400, "invalid_request", "caller", True)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["server"] == "pyfaas"
    assert answer.headers["connection"] == "close"
    assert [record.getMessage() for record in caplog.records] == ["unreadable_request"]
    assert caplog.records[0].exc_info is None
    assert ours.events == []
