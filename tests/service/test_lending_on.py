"""Lending on, and what ends with what: chains of account aliases, removed functions and accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pyfaas.errors import Code
from tests.service.lenders import IDS, Office, first_office, refused, texts

CANARY = "canary-5c3d"


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """Open a new database with Ada's function."""
    opened = await first_office(tmp_path / "pyfaas.db")
    yield opened
    assert await opened.is_true()
    await opened.database.close()


async def test_lending_on_needs_leave_at_every_hop(office: Office) -> None:
    """An alias is lent on only where its own grant allows it, and every grant that is passed on."""
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    error = await refused(office.grant("bob", "mine", "cyd"))
    assert (error.code, "may not be lent on" in error.message) == (Code.NOT_ALLOWED, True)
    await office.grant("ada", "greet", "bob", relend=True)
    await office.grant("bob", "mine", "cyd")
    await office.accept("cyd", "theirs", "bob/mine")
    assert (await refused(office.grant("cyd", "theirs", "dan"))).code is Code.NOT_ALLOWED
    assert office.state("cyd", "theirs") == "active"
    await office.grant("ada", "greet", "bob")  # without relend
    assert (office.state("bob", "mine"), office.state("cyd", "theirs")) == ("active", "gone")
    assert (await refused(office.accept("cyd", "more", "bob/mine"))).code is Code.GONE
    assert office.sharing.grants(office.caller("cyd"))["received"] == []


async def test_the_end_of_a_grant_in_the_middle(office: Office) -> None:
    """Whoever came through it is gone, and nobody can lend it on; what others have of the same is not touched."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.grant("ada", "greet", "dan")
    await office.accept("bob", "mine", "ada/greet")
    await office.accept("dan", "mine", "ada/greet")
    await office.grant("bob", "mine", "cyd", relend=True)
    await office.accept("cyd", "theirs", "bob/mine")
    await office.revoke("ada", "greet", "bob")
    assert [office.state(*each) for each in (("bob", "mine"), ("cyd", "theirs"), ("dan", "mine"))] == ["gone", "gone", "active"]
    for who, name, other in (("bob", "mine", "dan"), ("cyd", "theirs", "dan")):
        assert (await refused(office.grant(who, name, other))).code is Code.GONE
    assert (await refused(office.accept("cyd", "more", "bob/mine"))).code is Code.GONE


async def test_eight_hops_and_no_more(office: Office) -> None:
    """A chain of eight account aliases is made, the ninth is refused."""
    previous = "greet"
    for n in range(1, 9):
        await office.accept("ada", f"h{n}", f"ada/{previous}")
        previous = f"h{n}"
    assert office.state("ada", "h8") == "active"
    error = await refused(office.accept("ada", "h9", "ada/h8"))
    assert (error.code, "more than 8" in error.message) == (Code.INVALID_REQUEST, True)


async def test_no_name_leads_to_itself(office: Office) -> None:
    """Two accounts cannot lend each other the same alias round and round, whatever they remove and make again."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.accept("bob", "one", "ada/greet")
    await office.grant("bob", "one", "ada", relend=True)
    await office.accept("ada", "two", "bob/one")
    await office.grant("ada", "two", "bob", relend=True)
    assert (await refused(office.accept("bob", "one", "ada/two"))).code is Code.CONFLICT
    await office.sharing.remove_alias(office.caller("bob"), "one")
    assert (await refused(office.accept("bob", "one", "ada/two"))).code is Code.GONE
    assert office.state("ada", "two") == "gone"


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ({"version": 2}, "'1'"),
        ({"logs": True}, "logs"),
        ({"reuse": True}, "reuse"),
        ({"payer": "owner"}, "payer"),
        ({"network": ["b.example:443"]}, "b.example:443"),
        ({"placement": "caller"}, "placement"),
    ],
)
async def test_nobody_lends_on_more_than_was_lent(office: Office, terms: dict[str, Any], word: str) -> None:
    """Terms of an alias promise no more than its binding and its grant have."""
    await office.grant("ada", "greet", "bob", version=1, relend=True, network=["a.example:443", "b.example:443"], placement="owner")
    await office.accept("bob", "mine", "ada/greet", network=["a.example:443"], placement="owner")
    error = await refused(office.grant("bob", "mine", "cyd", **terms))
    assert (error.code, word in error.message) == (Code.INVALID_REQUEST, True), error.message
    await office.grant("bob", "mine", "cyd", version=1, network=["a.example:443"], placement="owner", rate=1)


async def test_a_chain_binds_its_outer_aliases(office: Office) -> None:
    """Version, limits and locked parameters of an inner alias bind the outer one; their values are not told."""
    await office.grant("ada", "greet", "bob", relend=True, lock={"k": CANARY})
    await office.accept("bob", "mine", "ada/greet:1", memory="100M", timeout="3s")
    await office.grant("bob", "mine", "cyd")
    for order, word in (({"params": {"k": 1}}, "'k'"), ({"memory": "101M"}, "memory"), ({"timeout": "4s"}, "timeout")):
        error = await refused(office.accept("cyd", "theirs", "bob/mine", **order))
        assert (error.code, word in error.message, CANARY in texts(error)) == (Code.INVALID_REQUEST, True, False)
    assert (await refused(office.accept("cyd", "theirs", "bob/mine:2"))).code is Code.INVALID_REQUEST
    await office.accept("cyd", "theirs", "bob/mine:1", memory="100M", timeout="3s")


# ---- what is removed


async def test_an_account_takes_along_what_it_lent_and_was_lent(office: Office) -> None:
    """Its grants, those to it, and its aliases end, with their runs; others' aliases on it are gone, and a new account of the name has none of it."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.grant("ada", "greet", "cyd")
    await office.accept("bob", "mine", "ada/greet", secrets={"K": "v"})
    await office.grant("bob", "mine", "cyd")
    await office.accept("cyd", "theirs", "bob/mine")
    await office.accept("cyd", "hers", "ada/greet")
    await office.remove_account("bob")
    assert len(office.ended) == 3
    assert office.secrets.kept == {}
    assert (office.state("cyd", "theirs"), office.state("cyd", "hers")) == ("gone", "active")
    assert [each["account"] for each in office.sharing.grants(office.caller("ada"))["given"]] == ["cyd"]
    assert (await refused(office.grant("ada", "greet", "bob"))).message == "no account 'bob'"
    assert (await refused(office.accept("bob", "again", "ada/greet"))).code is Code.UNAUTHENTICATED
    shown = office.sharing.alias(office.caller("cyd"), "theirs")
    assert shown["target"] == f"{IDS['bob']}/mine"


async def test_a_start_ends_what_a_crash_left(office: Office) -> None:
    """Whatever the server died in the middle of removing is removed by the next one."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.grant("ada", "greet", "dan")
    await office.accept("bob", "mine", "ada/greet", secrets={"K": "v"})
    await office.grant("bob", "mine", "cyd")
    await office.store.remove_account(IDS["bob"], 9.0)
    later = await office.again()
    assert await later.sharing.recover() == 3
    assert await later.is_true()
    assert (len(later.shares.living), later.shares.aliases, later.secrets.kept) == (1, {}, {})
    await later.store.remove_function(later.registry.entry(IDS["ada"], "greet").function.id, 9.0)
    last = await later.again()
    assert (await last.sharing.recover(), await last.sharing.recover(), last.shares.living) == (1, 0, {})
    office.shares = last.shares  # what the fixture compares with the disk
