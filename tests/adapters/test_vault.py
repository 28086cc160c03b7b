"""Sealed secrets in SQLite: kept, replaced, removed, and gone with what they belonged to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfaas.adapters.keyring import opened
from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.adapters.sqlite.vault import SqliteVault
from pyfaas.ports import Sealed
from tests.adapters.samples import ALICE, BOB, RESIZE, account, function


def sealed(owner: str = "o1", key: str = "K", content: bytes = b"\x00\xff", key_id: str = "k0", at: float = 1.5) -> Sealed:
    return Sealed(owner=owner, key=key, key_id=key_id, sealed=content, at=at)


@pytest.fixture
def vault(database: Database) -> SqliteVault:
    """Return a vault over a new database."""
    return SqliteVault(database)


async def test_what_is_put_is_loaded(vault: SqliteVault) -> None:
    """Every field comes back, ordered by owner and key; the same owner and key again replaces."""
    await vault.put([sealed("o2", "B"), sealed("o1", "Z"), sealed("o1", "A")])
    await vault.put([sealed("o1", "Z", b"new", "k1", 2.5)])
    assert await vault.load() == [sealed("o1", "A"), sealed("o1", "Z", b"new", "k1", 2.5), sealed("o2", "B")]


async def test_one_or_all_of_an_owner_are_removed(vault: SqliteVault) -> None:
    """Removing names one secret, or all of one owner's, and never another's; what is not there stays so."""
    await vault.put([sealed("o1", "A"), sealed("o1", "B"), sealed("o2", "A")])
    await vault.remove("o1", "A")
    await vault.remove("o1", "nothing")
    assert await vault.load() == [sealed("o1", "B"), sealed("o2", "A")]
    await vault.remove("o1")
    assert await vault.load() == [sealed("o2", "A")]


async def test_replacing_is_of_one_owner(vault: SqliteVault) -> None:
    """All that an owner had is replaced at once, also by nothing."""
    await vault.put([sealed("o1", "A"), sealed("o1", "B"), sealed("o2", "A")])
    await vault.replace("o1", [sealed("o1", "C")])
    assert await vault.load() == [sealed("o1", "C"), sealed("o2", "A")]
    await vault.replace("o1", [])
    assert await vault.load() == [sealed("o2", "A")]


async def test_it_is_on_the_disk(tmp_path: Path, database: Database, vault: SqliteVault) -> None:
    """Another connection sees what was put, and no value is in any file of the database."""
    keys = opened(tmp_path, is_needed=False)
    await vault.put([keys.seal("o1", "K", "canary-on-the-disk", 1.0)])
    again = open_database(database.path)
    try:
        (found,) = await SqliteVault(again).load()
        assert keys.open(found) == "canary-on-the-disk"
    finally:
        await again.close()
    files = list(tmp_path.iterdir())
    assert len(files) > 1
    assert [path.name for path in files if b"canary" in path.read_bytes()] == []


async def test_a_function_takes_its_secrets_along(store: SqliteStore, vault: SqliteVault) -> None:
    """Removing a function, or its account, removes the function's secrets in the same transaction, and nobody else's."""
    await store.add_account(account(), None)
    await store.add_account(account(BOB, "bob"), None)
    for name in (RESIZE, "f-other"):
        await store.publish(function(name, name), None, None)
    await vault.put([sealed(RESIZE), sealed("f-other"), sealed("elsewhere")])
    await store.remove_function(RESIZE, 9.0)
    assert [each.owner for each in await vault.load()] == ["elsewhere", "f-other"]
    await store.remove_account(BOB, 9.0)
    assert [each.owner for each in await vault.load()] == ["elsewhere", "f-other"]
    await store.remove_account(ALICE, 9.0)
    assert [each.owner for each in await vault.load()] == ["elsewhere"]
