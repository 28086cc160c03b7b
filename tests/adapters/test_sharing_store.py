"""Grants, account aliases and the audit trail in the real database: what is kept is what was given, and what ended stays ended."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.sharing import SqliteSharing
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import Code, PyfaasError
from pyfaas.sharing import AccountAlias, AuditKind, AuditLine, CallableId, Grant, GrantId, Payer, Placing, Terms
from tests.adapters.samples import ALICE, BOB, account, function

TARGET = CallableId("f-resize")
TERMS = Terms(
    version=3,
    lock={"style": {"tone": ["formal", None, 1.5, "ß"]}},
    require=("name",),
    allow=("name", "width"),
    max_concurrency=2,
    rate=0.5,
    per_day=100,
    relend=True,
    network=("a.example:443",),
    secrets=("KEY",),
    logs=True,
    reuse=True,
    placement=Placing.OWNER,
    payer=Payer.OWNER,
)


def grant(id: str = "g1", **more: Any) -> Grant:  # noqa: A002 - the field's name
    """Make a grant of Alice's to Bob."""
    return Grant(**{"id": GrantId(id), "owner": ALICE, "target": TARGET, "name": "resize", "caller": BOB, "terms": TERMS, "created": 5.0, **more})


def alias(id: str = "a1", **more: Any) -> AccountAlias:  # noqa: A002 - the field's name
    """Make an account alias of Bob's."""
    known: dict[str, Any] = {"id": CallableId(id), "account": BOB, "name": "mine", "grant": GrantId("g1"), "owner": ALICE, "target": TARGET}
    return AccountAlias(**{**known, "target_name": "resize", "created": 6.0, **more})


@pytest.fixture
async def sharing(database: Database, store: SqliteStore) -> SqliteSharing:
    """Give the adapter over a database with two accounts and a function of Alice's."""
    await store.add_account(account(), None)
    await store.add_account(account(BOB, "bob"), None)
    await store.publish(function(), None, None)
    return SqliteSharing(database)


async def refused(work: Any) -> Code:
    """Return the code that an awaitable is refused with."""
    with pytest.raises(PyfaasError) as raised:
        await work
    return raised.value.code


async def test_what_is_kept_is_what_was_given(sharing: SqliteSharing, database: Database, tmp_path: Path) -> None:
    """Grants and aliases come back as they were, whatever they hold, from the file as well."""
    full = alias(
        "a2", name="full", qualifier="live", params={"n": 2**60, "x": [True, None]}, memory_bytes=64 << 20, timeout_ms=2000, network=("a.example:443",), placement=Placing.OWNER
    )
    own = alias("a3", name="own", grant=None, owner=BOB)
    given = [grant(), grant("g2", caller=None, terms=Terms())]
    for each in given:
        await sharing.put_grant(each)
    for made in (full, own):
        await sharing.put_alias(made)
    assert await sharing.load() == (given, [full, own])
    await database.close()
    opened = open_database(str(tmp_path / "pyfaas.db"))
    assert await SqliteSharing(opened).load() == (given, [full, own])
    await opened.close()


async def test_other_terms_take_the_place_of_the_old(sharing: SqliteSharing) -> None:
    """A grant and an alias keep their id when they change."""
    await sharing.put_grant(grant())
    await sharing.put_grant(grant(terms=Terms()))
    await sharing.put_alias(alias())
    await sharing.put_alias(alias(params={"a": 1}))
    assert await sharing.load() == ([grant(terms=Terms())], [alias(params={"a": 1})])


async def test_one_grant_lives(sharing: SqliteSharing) -> None:
    """A second living grant on the same for the same is a conflict; one after the end of the first is not, nor one for everybody."""
    await sharing.put_grant(grant())
    assert await refused(sharing.put_grant(grant("g2"))) is Code.CONFLICT
    await sharing.put_grant(grant("g3", caller=None))
    assert await refused(sharing.put_grant(grant("g4", caller=None))) is Code.CONFLICT
    await sharing.end([GrantId("g1")], [], 7.0)
    await sharing.put_grant(grant("g2"))
    grants, _ = await sharing.load()
    assert {each.id: each.ended for each in grants} == {"g1": 7.0, "g2": None, "g3": None}


async def test_what_ended_stays_ended(sharing: SqliteSharing) -> None:
    """An ended grant and a removed alias take no change, their first end counts, and what was agreed is forgotten."""
    await sharing.put_grant(grant())
    await sharing.put_alias(alias())
    await sharing.end([GrantId("g1")], [CallableId("a1")], 7.0)
    await sharing.end([GrantId("g1")], [CallableId("a1")], 8.0)
    assert await refused(sharing.put_grant(grant(terms=Terms()))) is Code.GONE
    assert await refused(sharing.put_alias(alias(params={"a": 1}))) is Code.GONE
    assert await sharing.load() == ([grant(ended=7.0, terms=Terms())], [])


async def test_a_name_is_an_accounts_once(sharing: SqliteSharing, store: SqliteStore) -> None:
    """An alias and a function, or two aliases, cannot have one name; another account's is no matter, and a removed one's is free."""
    await sharing.put_grant(grant())
    await sharing.put_alias(alias())
    assert await refused(sharing.put_alias(alias("a2"))) is Code.CONFLICT
    assert await refused(sharing.put_alias(alias("a3", account=ALICE, name="resize"))) is Code.CONFLICT
    assert await refused(store.publish(replace(function("f-other", "mine"), account=BOB), None, None)) is Code.CONFLICT
    await sharing.put_alias(alias("a4", account=ALICE))
    await sharing.end([], [CallableId("a1")], 7.0)
    await store.publish(replace(function("f-other", "mine"), account=BOB), None, None)


async def test_an_alias_in_place_of_another(sharing: SqliteSharing) -> None:
    """A new binding takes the name of the one that it replaces, or neither happens."""
    await sharing.put_alias(alias())
    await sharing.put_alias(alias("a2", created=9.0), CallableId("a1"))
    assert await sharing.load() == ([], [alias("a2", created=9.0)])
    await sharing.put_alias(alias("a3", name="taken"))
    assert await refused(sharing.put_alias(alias("a4", name="taken"), CallableId("a2"))) is Code.CONFLICT
    _, aliases = await sharing.load()
    assert [each.id for each in aliases] == ["a2", "a3"]


async def test_what_a_removed_alias_was_bound_to(sharing: SqliteSharing, database: Database) -> None:
    """What it stood for stays, for the bill; its parameters do not."""
    await sharing.put_alias(alias(params={"k": "canary"}))
    await sharing.end([], [CallableId("a1")], 7.0)
    kept = await database.read(lambda c: [json.loads(row["binding"]) for row in c.execute("SELECT binding FROM account_aliases")])
    assert [(each["owner"], each["target_name"], each["params"]) for each in kept] == [(ALICE, "resize", {})]


async def test_an_account_takes_its_names_along(sharing: SqliteSharing, store: SqliteStore) -> None:
    """What ends after its account was removed ends all the same."""
    await sharing.put_grant(grant())
    await sharing.put_alias(alias())
    await store.remove_account(BOB, 8.0)
    await sharing.end([GrantId("g1")], [CallableId("a1")], 9.0)
    assert await sharing.load() == ([grant(ended=9.0, terms=Terms())], [])


async def test_a_race_for_a_name(sharing: SqliteSharing) -> None:
    """Of many aliases that want one name at once one has it."""
    outcomes = await asyncio.gather(*(sharing.put_alias(alias(f"a{n}")) for n in range(30)), return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is None] == [None]
    assert {outcome.code for outcome in outcomes if isinstance(outcome, PyfaasError)} == {Code.CONFLICT}


async def test_the_trail_is_each_accounts_own(sharing: SqliteSharing) -> None:
    """Lines come back in order after a cursor, those of one account."""
    lines = [
        AuditLine(at=float(n), account=(ALICE, BOB)[n % 2], kind=AuditKind.CALLED, other=None if n == 4 else ALICE, name=f"n{n}", detail={"count": n, "outcomes": {"ok": n}})
        for n in range(1200)
    ]
    await sharing.add_audit(lines)
    found = await sharing.audit(ALICE, 0, 10)
    assert [line for _, line in found] == lines[0:20:2]
    later = await sharing.audit(ALICE, found[-1][0], 1000)
    assert [line for _, line in found + later] == lines[::2]
    assert await sharing.audit(ALICE, later[-1][0], 10) == []
