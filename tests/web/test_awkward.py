"""The front against plain aiohttp: whatever bytes come, both give the same answers and run the same calls."""

from __future__ import annotations

import pytest

from tests.web.awkward import CASES, Case, Talk, talk
from tests.web.servers import front, plain

_CHANGES = frozenset({"date"})


def _shown(found: Talk) -> list[object]:
    return [
        *((r.status, {k: v for k, v in r.headers.items() if k not in _CHANGES}, r.body) for r in found.replies),
        "closed" if found.is_closed else "open",
        found.rest,
    ]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_the_front_answers_as_aiohttp(case: Case) -> None:
    """The answers, the calls that ran, and whether the connection stays open are the same on both ways."""
    async with front() as ours, plain() as theirs:
        there = await talk(theirs.port, case)
        here = await talk(ours.port, case)
        assert _shown(here) == _shown(there)
        assert ours.events == theirs.events
        if case.runs is not None:
            assert len(ours.events) == case.runs
