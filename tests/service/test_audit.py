"""The audit trail: both sides are told, each in its own words, and nothing that is counted costs or grows much."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pyfaas.errors import Code, PyfaasError
from pyfaas.service import audit
from pyfaas.service.ways import Way
from pyfaas.sharing import AuditKind
from tests.service.lenders import IDS, Office, first_office

CANARY = "canary-77ab"


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """Open a new database with Ada's function."""
    opened = await first_office(tmp_path / "pyfaas.db")
    yield opened
    await opened.database.close()


async def trail(office: Office, who: str, after: int = 0) -> list[tuple[str, str | None, str]]:
    """Return kind, other side and name of each line of an account's trail."""
    items = (await office.sharing.audit(office.caller(who), after, 100))["items"]
    return [(line["kind"], line["other"], line["name"]) for line in items]


def way(office: Office, who: str, name: str) -> Way:
    """Return the way of an alias."""
    return office.ways.find(IDS[who], name)


async def test_what_was_decided_is_told_to_both_sides(office: Office) -> None:
    """Each side has a line for each decision, with the names that it knows; neither has the other's values."""
    await office.grant("ada", "greet", "bob", lock={"k": CANARY}, secrets=["KEY"])
    await office.accept("bob", "my-alias", "ada/greet", secrets={"K": CANARY})
    await office.accept("bob", "other-one", "ada/greet")
    await office.sharing.remove_alias(office.caller("bob"), "other-one")
    await office.revoke("ada", "greet", "bob")
    assert await trail(office, "ada") == [(kind, "bob", "greet") for kind in ("granted", "accepted", "accepted", "removed", "revoked")]
    assert await trail(office, "bob") == [
        ("granted", "ada", "ada/greet"),
        ("accepted", "ada", "my-alias"),
        ("accepted", "ada", "other-one"),
        ("removed", "ada", "other-one"),
        ("revoked", "ada", "ada/greet"),
    ]
    assert await trail(office, "cyd") == []
    lines = str([await office.sharing.audit(office.caller(who), 0, 100) for who in ("ada", "bob")])
    assert CANARY not in lines
    assert "my-alias" not in str(await office.sharing.audit(office.caller("ada"), 0, 100))


async def test_a_grant_for_everybody_is_told_to_its_owner(office: Office) -> None:
    """Nobody else's trail begins with what somebody lends to everybody."""
    await office.grant("ada", "greet", "*")
    await office.grant("ada", "greet", "*", rate=1)
    assert await trail(office, "ada") == [("granted", None, "greet")] * 2
    assert await trail(office, "bob") == []


async def test_calls_are_summed_by_way_and_outcome(office: Office) -> None:
    """Calls of one alias make one line a side, whichever version of the way they came by."""
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    first = way(office, "bob", "mine")
    for outcome in ("ok", "ok", "error"):
        office.audit.count(first, AuditKind.CALLED, outcome)
    office.shares.changed()
    assert way(office, "bob", "mine") is not first
    office.audit.count(way(office, "bob", "mine"), AuditKind.CALLED, "ok")
    office.audit.count(first, AuditKind.REFUSED, "throttled")
    for who, other, name in (("bob", "ada", "mine"), ("ada", "bob", "greet")):
        lines = (await office.sharing.audit(office.caller(who), 0, 100))["items"][-2:]
        assert [(line["kind"], line["other"], line["name"]) for line in lines] == [("called", other, name), ("refused", other, name)]
        assert lines[0]["detail"] == {"count": 4, "outcomes": {"ok": 3, "error": 1}}
        assert lines[1]["detail"] == {"count": 1, "outcomes": {"throttled": 1}}


async def test_a_chain_tells_each_its_neighbour(office: Office) -> None:
    """Whoever lends hears of whom it lent to, and who calls of whom it has it from: nobody of somebody further away."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.accept("bob", "mine", "ada/greet")
    await office.grant("bob", "mine", "cyd")
    await office.accept("cyd", "theirs", "bob/mine")
    cursor = {who: len(await trail(office, who)) for who in ("ada", "bob", "cyd")}
    office.audit.count(way(office, "cyd", "theirs"), AuditKind.CALLED, "ok")
    told = {who: (await trail(office, who))[cursor[who] :] for who in cursor}
    assert told == {"ada": [("called", "bob", "greet")], "bob": [("called", "cyd", "mine")], "cyd": [("called", "bob", "theirs")]}


async def test_an_alias_on_ones_own_has_one_side(office: Office) -> None:
    """What an account runs of its own is told once, with nobody else in it."""
    await office.accept("ada", "hello", "ada/greet")
    office.audit.count(way(office, "ada", "hello"), AuditKind.CALLED, "ok")
    await office.sharing.remove_alias(office.caller("ada"), "hello")
    assert await trail(office, "ada") == [("accepted", None, "hello"), ("removed", None, "hello"), ("called", None, "hello")]


async def test_what_is_refused_without_a_way(office: Office) -> None:
    """Refusals before there is a way are counted on the side that they are told to."""
    for _ in range(3):
        office.audit.refused(IDS["bob"], IDS["ada"], "mine", "gone")
    office.audit.refused(IDS["bob"], None, "mine", "not_found")
    found = (await office.sharing.audit(office.caller("bob"), 0, 100))["items"]
    assert [(line["kind"], line["other"], line["name"], line["detail"]["count"]) for line in found] == [("refused", "ada", "mine", 3), ("refused", None, "mine", 1)]
    assert await trail(office, "ada") == []


async def test_a_call_that_is_turned_away(office: Office) -> None:
    """Calling an alias whose grant ended is told to both sides, in each one's words; a name that is no alias to nobody."""
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    await office.accept("ada", "own", "ada/greet")
    await office.revoke("ada", "greet", "bob")
    for who, name in (("bob", "mine"), ("bob", "mine"), ("ada", "own"), ("bob", "unknown"), ("cyd", "mine")):
        office.audit.turned_away(IDS[who], name, "gone")
    found = {who: (await office.sharing.audit(office.caller(who), 0, 100))["items"] for who in ("ada", "bob", "cyd")}
    refusals = {who: [(x["other"], x["name"], x["detail"]["count"]) for x in lines if x["kind"] == "refused"] for who, lines in found.items()}
    assert refusals == {"ada": [("bob", "greet", 2), (None, "own", 1)], "bob": [("ada", "mine", 2)], "cyd": []}


async def test_counts_are_written_by_the_minute(office: Office) -> None:
    """A flush writes what a minute that has passed counted; looking writes the rest."""
    office.clock.at = 6000.0
    await office.audit.flush()
    office.audit.refused(IDS["bob"], None, "x", "gone")
    await office.audit.flush()
    assert await office.kept.audit(IDS["bob"], 0, 10) == []
    office.clock.at = 6060.0
    await office.audit.flush()
    assert len(await office.kept.audit(IDS["bob"], 0, 10)) == 1
    office.audit.refused(IDS["bob"], None, "x", "gone")
    assert len(await trail(office, "bob")) == 2


async def test_pages_of_the_trail(office: Office) -> None:
    """A page ends with the cursor of the next one, the last with none."""
    for n in range(5):
        office.audit.refused(IDS["bob"], None, f"n{n}", "gone")
    first = await office.sharing.audit(office.caller("bob"), 0, 3)
    last = await office.sharing.audit(office.caller("bob"), int(first["next"]), 3)
    assert [line["name"] for line in first["items"] + last["items"]] == [f"n{n}" for n in range(5)]
    assert last["next"] is None


async def test_memory_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up names fill a minute's room and no more; what is lost is counted, and what has its place goes on."""
    monkeypatch.setattr(audit, "_MAX_COUNTED", 10)
    for n in range(30):
        office.audit.refused(IDS["bob"], None, f"n{n}", "not_found")
    office.audit.refused(IDS["bob"], None, "n0", "not_found")
    assert office.audit.lost == 20
    assert len(await trail(office, "bob")) == 10
    office.audit.refused(IDS["bob"], None, "later", "not_found")
    assert ("refused", None, "later") in await trail(office, "bob")


async def test_a_disk_that_is_full(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided stays decided; its lines wait, in order, the oldest go when there are too many."""
    add = office.kept.add_audit

    async def full(_: Any) -> None:
        raise PyfaasError(Code.STORAGE_FULL, "full")

    monkeypatch.setattr(office.kept, "add_audit", full)
    await office.grant("ada", "greet", "bob")
    monkeypatch.setattr(audit, "_MAX_LINES", 3)
    await office.revoke("ada", "greet", "bob")
    assert office.audit.lost == 1
    monkeypatch.setattr(office.kept, "add_audit", add)
    assert await trail(office, "ada") == [("revoked", "bob", "greet")]
    assert await trail(office, "bob") == [("granted", "ada", "ada/greet"), ("revoked", "ada", "ada/greet")]
