"""Secrets as the service keeps them: sealed in memory too, bounded, forgotten with their owner, and rotated through every crash."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pyfaas.adapters.clock import SystemClock
from pyfaas.adapters.keyring import KeyFile, opened
from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.vault import SqliteVault
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Account, AccountId, Caller, Function, FunctionId, Scope, Settings, Token
from pyfaas.ports import Sealed, Snapshot
from pyfaas.service.registry import Registry
from pyfaas.service.secrets import BATCH, MOST_KEYS, Secrets

LIMIT = 1000
A, B = (Account(id=AccountId(f"00000000000{n}"), name=name, created=0.0) for n, name in enumerate("ab"))


def caller(account: Account, *scopes: Scope) -> Caller:
    token = Token(id="t", account=account.id, digest=b"", scopes=frozenset(scopes or Scope), created=0.0)
    return Caller(account=account, token=token)


class Kept:
    """A database, its keys, and the secrets over them, as a start makes them."""

    def __init__(self, directory: Path, database: Database, is_held: Callable[[], bool]) -> None:
        """Open nothing yet."""
        self.directory, self.database, self.vault = directory, database, SqliteVault(database)
        functions = [Function(id=FunctionId(f"id-{owner.name}"), account=owner.id, name="f", settings=Settings(), created=0.0) for owner in (A, B)]
        self.registry = Registry(Snapshot(accounts=[A, B], tokens=(), functions=functions, versions=(), moves=()))
        self.is_held = is_held
        self.keys: KeyFile
        self.secrets: Secrets

    async def start(self) -> Secrets:
        """Start anew over what is on the disk."""
        sealed = await self.vault.load()
        self.keys = opened(self.directory, is_needed=bool(sealed))
        self.secrets = Secrets(self.registry, self.vault, self.keys, SystemClock(), LIMIT, self.is_held)
        self.secrets.take(sealed)
        return self.secrets

    async def key_ids(self) -> set[str]:
        """Return the ids of the keys that the rows on the disk need."""
        return {each.key_id for each in await self.vault.load()}


@asynccontextmanager
async def kept(directory: Path, is_held: Callable[[], bool] = lambda: False) -> AsyncIterator[Kept]:
    """Open a directory's secrets, and close them."""
    database = open_database(str(directory / "pyfaas.db"))
    made = Kept(directory, database, is_held)
    await made.start()
    try:
        yield made
    finally:
        await made.secrets.close()
        await database.close()


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until something has come to be."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def refusal(error: pytest.ExceptionInfo[PyfaasError]) -> tuple[Code, Any]:
    return error.value.code, error.value.evidence.get("observed")


async def test_what_is_set_opens_after_a_start(tmp_path: Path) -> None:
    """A secret opens at once and after a start, for its owner only; a later value replaces it."""
    async with kept(tmp_path) as house:
        for value in ("first", "second ü"):
            await house.secrets.set("o", "K", value)
        await house.secrets.set("p", "K", "theirs")
        for secrets in (house.secrets, await house.start()):
            assert (secrets.opened("o"), secrets.opened("p"), secrets.opened("q")) == ({"K": "second ü"}, {"K": "theirs"}, {})
            assert (secrets.has("o"), secrets.has("q"), secrets.names("o")) == (True, False, ["K"])


async def test_memory_holds_no_value(tmp_path: Path) -> None:
    """What is kept between calls has no value in it, and shows none."""
    async with kept(tmp_path) as house:
        await house.secrets.set("o", "K", "canary-in-memory")
        assert "canary" not in f"{house.secrets!r} {house.secrets._kept!r} {vars(house.secrets)}"
        assert house.secrets.opened("o") == {"K": "canary-in-memory"}


async def test_some_of_several_owners(tmp_path: Path) -> None:
    """Sources are merged in their order; an owner gives the keys that are wanted of it and that it has."""
    async with kept(tmp_path) as house:
        await house.secrets.set_all("o", {"A": "1", "B": "2"})
        await house.secrets.set_all("p", {"B": "3", "C": "4"})
        assert house.secrets.of([("o", None), ("p", ["B", "nothing"]), ("q", None)]) == {"A": "1", "B": "3"}
        assert house.secrets.size_of([("o", ["A"])]) == len('{"A":"1"}')
        assert (house.secrets.of([]), house.secrets.of([("o", ())]), house.secrets.size_of([("q", None)])) == ({}, {}, 0)


async def test_setting_all_replaces_all(tmp_path: Path) -> None:
    """A whole set takes the place of what was there, also an empty one; a refused one changes nothing."""
    async with kept(tmp_path) as house:
        await house.secrets.set_all("o", {"A": "1", "B": "2"})
        with pytest.raises(PyfaasError):
            await house.secrets.set_all("o", {"C": "3", "bad key": "4"})
        await house.start()
        assert house.secrets.opened("o") == {"A": "1", "B": "2"}
        await house.secrets.set_all("o", {"C": "3"})
        assert house.secrets.opened("o") == (await house.start()).opened("o") == {"C": "3"}
        await house.secrets.set_all("o", {})
        assert not house.secrets.has("o")
        assert not (await house.start()).has("o")


async def test_values_are_bounded(tmp_path: Path) -> None:
    """A value has at most the limit in bytes, an owner's together twice as much, and no more than so many keys."""
    async with kept(tmp_path) as house:
        await house.secrets.set("o", "A", "é" * (LIMIT // 2))
        with pytest.raises(PyfaasError) as refused:
            await house.secrets.set("o", "B", "é" * (LIMIT // 2) + "x")
        assert refusal(refused) == (Code.PAYLOAD_TOO_LARGE, LIMIT + 1)
        assert refused.value.evidence["limit"] == "secret_bytes"
        await house.secrets.set("o", "B", "x" * LIMIT)
        with pytest.raises(PyfaasError) as refused:
            await house.secrets.set("o", "C", "x")
        assert refusal(refused) == (Code.PAYLOAD_TOO_LARGE, 2 * LIMIT + 1)
        await house.secrets.set("o", "B", "y" * LIMIT)  # in its place there is room
        with pytest.raises(PyfaasError) as refused:
            await house.secrets.set_all("o", {f"K{n}": "" for n in range(MOST_KEYS + 1)})
        assert refusal(refused) == (Code.PAYLOAD_TOO_LARGE, MOST_KEYS + 1)
        await house.secrets.set_all("o", {f"K{n}": "" for n in range(MOST_KEYS)})


@pytest.mark.parametrize("key", ["", "1a", "-a", "a b", "a/b", "ä", "a\n", "a" * 129])
async def test_what_is_no_key_is_not_repeated(tmp_path: Path, key: str) -> None:
    """A key outside the grammar is refused, and the refusal does not have it: it may be a value in the wrong place."""
    async with kept(tmp_path) as house:
        with pytest.raises(PyfaasError) as refused:
            await house.secrets.set("o", key, "canary")
        assert refused.value.code is Code.INVALID_NAME
        assert key == "" or repr(key) not in str(refused.value)
        assert await house.vault.load() == []


async def test_own_functions_only(tmp_path: Path) -> None:
    """An account sets, lists and removes secrets of its own functions; what it has not is not there, and scopes are asked for."""
    async with kept(tmp_path) as house:
        shown = await house.secrets.put(caller(A), "f", "K", "canary")
        assert set(shown) == {"key", "updated"}
        assert house.secrets.listed(caller(A), "f") == [shown]
        assert house.secrets.listed(caller(B), "f") == []
        for name, key in (("f", "L"), ("g", "K")):
            with pytest.raises(PyfaasError) as refused:
                await house.secrets.take_away(caller(A), name, key)
            assert refused.value.code is Code.NOT_FOUND
        for weak in (house.secrets.put(caller(A, Scope.READ), "f", "K", "v"), house.secrets.take_away(caller(A, Scope.INVOKE), "f", "K")):
            with pytest.raises(PyfaasError) as refused:
                await weak
            assert refused.value.code is Code.NOT_ALLOWED
        with pytest.raises(PyfaasError):
            await house.secrets.rotate(caller(A, Scope.DEPLOY, Scope.READ))
        await house.secrets.take_away(caller(A), "f", "K")
        assert not (await house.start()).has("id-a")


async def test_a_removed_owner_is_forgotten(tmp_path: Path) -> None:
    """From the moment on that an owner is forgotten nothing of it opens, also not what was being set meanwhile."""
    async with kept(tmp_path) as house:
        await house.secrets.set("o", "K", "v")
        setting = asyncio.ensure_future(house.secrets.set("o", "L", "v"))
        await asyncio.sleep(0)
        forgetting = asyncio.ensure_future(house.secrets.forget("o"))
        await asyncio.sleep(0)
        await asyncio.gather(setting, forgetting)
        assert house.secrets.opened("o") == {}
        assert await house.vault.load() == []


async def test_a_function_removed_meanwhile(tmp_path: Path) -> None:
    """A secret that is set while its function is being removed is not kept."""
    async with kept(tmp_path) as house:
        putting = asyncio.ensure_future(house.secrets.put(caller(A), "f", "K", "v"))
        await asyncio.sleep(0)
        house.registry.drop_function(house.registry.by_name[(A.id, "f")])
        with pytest.raises(PyfaasError) as refused:
            await putting
        assert refused.value.code is Code.NOT_FOUND
        assert await house.vault.load() == []


async def test_rotating_seals_all_anew(tmp_path: Path) -> None:
    """After a rotation everything opens, is under the new key, kept its time, and the old key is in the file no more."""
    async with kept(tmp_path) as house:
        owners = [f"o{n}" for n in range(2 * BATCH + 1)]
        for owner in owners:
            await house.secrets.set(owner, "K", f"value of {owner}")
        old, before = house.keys.current, {each.owner: each.at for each in await house.vault.load()}
        done = await house.secrets.rotate(caller(A))
        assert (done["sealed"], done["key"] != old) == (len(owners), True)
        assert await house.key_ids() == {done["key"]}
        await settled(lambda: list(opened(tmp_path, is_needed=True).ids()) == [done["key"]])
        for secrets in (house.secrets, await house.start()):
            assert {owner: secrets.opened(owner) for owner in owners} == {owner: {"K": f"value of {owner}"} for owner in owners}
        assert {each.owner: each.at for each in await house.vault.load()} == before


async def test_what_is_set_during_a_rotation_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that are set, removed and forgotten while everything is sealed anew are as they were left, and one rotates at a time."""
    async with kept(tmp_path) as house:
        for n in range(3 * BATCH):
            await house.secrets.set(f"o{n}", "K", "old")
        put, begun, gate = house.vault.put, asyncio.Event(), asyncio.Event()

        async def held(sealed: Sequence[Sealed]) -> None:
            begun.set()
            await gate.wait()
            await put(sealed)

        monkeypatch.setattr(house.vault, "put", held)
        rotating = asyncio.ensure_future(house.secrets.rotate(caller(A)))
        await begun.wait()
        with pytest.raises(PyfaasError) as refused:
            await house.secrets.rotate(caller(A))
        last = f"o{3 * BATCH - 1}"
        changes = asyncio.gather(house.secrets.set(last, "K", "new"), house.secrets.remove("o250", "K"), house.secrets.forget("o1"), house.secrets.forget("o251"))
        await asyncio.sleep(0)
        assert house.secrets.opened("o1") == {}  # of the batch that is being kept
        gate.set()
        await changes
        done = await rotating
        assert refused.value.code is Code.CONFLICT
        for secrets in (house.secrets, await house.start()):
            assert [secrets.opened(owner) for owner in (last, "o250", "o1", "o251", "o2")] == [{"K": "new"}, {}, {}, {}, {"K": "old"}]
        assert await house.key_ids() == {done["key"]}


async def test_a_rotation_that_is_stopped_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a rotation when the server stops is told to come again; the next start goes on with the new key."""
    async with kept(tmp_path) as house:
        await house.secrets.set("o", "K", "v")
        begun = asyncio.Event()

        async def held(_sealed: Sequence[Sealed]) -> None:
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(house.vault, "put", held)
        rotating = asyncio.ensure_future(house.secrets.rotate(caller(A)))
        await begun.wait()
        await house.secrets.close()
        with pytest.raises(PyfaasError) as refused:
            await rotating
        assert refused.value.code is Code.NOT_READY
        monkeypatch.undo()
        secrets = await house.start()
        secrets.resume()
        await settled(lambda: len(opened(tmp_path, is_needed=True).ids()) == 1)
        assert await house.key_ids() == {house.keys.current}
        assert secrets.opened("o") == {"K": "v"}


async def test_a_key_stays_while_a_backup_is_taken(tmp_path: Path) -> None:
    """The old key leaves the file only when no backup is being taken: its database may be older than the file beside it."""
    held = [True]
    async with kept(tmp_path, lambda: held[0]) as house:
        await house.secrets.set("o", "K", "v")
        old = house.keys.current
        done = await house.secrets.rotate(caller(A))
        assert await house.key_ids() == {done["key"]}
        assert list(opened(tmp_path, is_needed=True).ids()) == [done["key"], old]
        held[0] = False
        await settled(lambda: list(opened(tmp_path, is_needed=True).ids()) == [done["key"]])


async def test_a_secret_without_its_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a key is gone its secrets are told once, refused by name, and can be set again; the others open, and rotate."""
    async with kept(tmp_path) as house:
        await house.secrets.set("o", "K", "v")
        house.keys.renew()
        await house.secrets.set("p", "K", "v")
        await house.secrets.set("o", "L", "v")
        path = tmp_path / "secrets.key"
        path.write_text(path.read_text().splitlines()[0] + "\n")
        with caplog.at_level(logging.ERROR):
            secrets = await house.start()
        assert [(record.message, record.__dict__["count"], record.__dict__["owners"]) for record in caplog.records] == [("secrets_closed", 1, ["o"])]
        assert (secrets.opened("p"), secrets.names("o"), secrets.size_of([("p", None)]) > 0) == ({"K": "v"}, ["K", "L"], True)
        with pytest.raises(PyfaasError) as refused:
            secrets.size_of([("o", None)])
        assert (refused.value.code, "'K'" in refused.value.message) == (Code.INTERNAL, True)
        assert secrets.size_of([("o", ["L"])]) > 0
        await secrets.rotate(caller(A))
        await secrets.set("o", "K", "again")
        assert secrets.of([("o", None)]) == {"K": "again", "L": "v"}


async def test_a_new_line_in_a_credential_is_a_rotation(tmp_path: Path) -> None:
    """With keys that the operator keeps, what is under an older one is sealed anew at the start, and none is removed."""
    async with kept(tmp_path) as house:
        await house.secrets.set("o", "K", "v")
        house.keys.renew()
        lines = (tmp_path / "secrets.key").read_text().splitlines()
        secrets = Secrets(house.registry, house.vault, KeyFile(lines, None), SystemClock(), LIMIT)
        secrets.take(await house.vault.load())
        secrets.resume()
        await settled(lambda: secrets._retiring is not None and secrets._retiring.done())
        assert await house.key_ids() == {lines[0].split()[0]}
        assert secrets.opened("o") == {"K": "v"}
        with pytest.raises(PyfaasError) as refused:
            await secrets.rotate(caller(A))
        assert refused.value.code is Code.CONFLICT
        await secrets.close()
        assert (tmp_path / "secrets.key").read_text().splitlines() == lines


POINTS = [("key", 1), ("placed", 1), ("batch", 1), ("sealed", 1), ("batch", 2), ("sealed", 2), ("sealed", 3), ("key", 2), ("placed", 2)]


async def test_a_rotation_goes_on_after_any_kill(tmp_path: Path) -> None:
    """Killed at each point of a rotation, one after the other, every secret opens at the next start, which finishes what was begun."""
    owners = [f"o{n}" for n in range(2 * BATCH + 1)]
    async with kept(tmp_path) as house:
        await asyncio.gather(*(house.secrets.set(owner, "K", f"value of {owner}") for owner in owners))
    for point, count in POINTS:
        command = [sys.executable, "-m", "tests.service.rotating", str(tmp_path), point, str(count)]
        ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == -signal.SIGKILL, (point, count, ended)
        async with kept(tmp_path) as house:
            assert {owner: house.secrets.opened(owner) for owner in owners} == {owner: {"K": f"value of {owner}"} for owner in owners}, (point, count)
            current = house.keys.current
            house.secrets.resume()
            await settled(lambda: list(opened(tmp_path, is_needed=True).ids()) == [current])  # noqa: B023 - awaited here
            assert await house.key_ids() == {current}, (point, count)
            assert {owner: house.secrets.opened(owner) for owner in owners} == {owner: {"K": f"value of {owner}"} for owner in owners}
        assert not (tmp_path / "secrets.key.new").exists()
