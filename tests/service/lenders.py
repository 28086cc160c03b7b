"""Accounts that lend and borrow, over a real database: Ada owns `greet`, in two versions, Bob and Cyd have what they accept."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.sharing import SqliteSharing
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import (
    Account,
    AccountId,
    Caller,
    Function,
    FunctionId,
    PointerMove,
    Revision,
    Scope,
    Settings,
    Token,
    Version,
    VersionState,
)
from pyfaas.service.audit import Audit
from pyfaas.service.registry import Registry
from pyfaas.service.shares import Lent, Shares
from pyfaas.service.sharing import Sharing
from pyfaas.service.ways import Ways
from pyfaas.sharing import AccountAlias, Grant

IDS = {name: AccountId(f"00000000000{n}") for n, name in enumerate(("ada", "bob", "cyd", "dan"), 1)}
FULL = frozenset({Scope.INVOKE, Scope.DEPLOY, Scope.READ})


@dataclass
class Ticking:
    """A clock that goes on by a second whenever somebody looks."""

    at: float = 1000.0

    def now(self) -> float:
        """Return the time."""
        self.at += 1
        return self.at

    def monotonic(self) -> float:
        """Return the time."""
        return self.at


@dataclass
class Kept:
    """Secrets as they are given."""

    kept: dict[str, dict[str, str]] = field(default_factory=dict)

    def names(self, owner: str) -> list[str]:
        """Return the keys of an owner's."""
        return sorted(self.kept.get(owner, {}))

    async def set_all(self, owner: str, values: Mapping[str, str]) -> None:
        """Keep values; one that is `refused` is."""
        await asyncio.sleep(0)
        if "refused" in values.values():
            raise PyfaasError(Code.PAYLOAD_TOO_LARGE, "too large")
        self.kept[owner] = dict(values)

    async def forget(self, owner: str) -> None:
        """Forget an owner's."""
        await asyncio.sleep(0)
        self.kept.pop(owner, None)


class Office:
    """What lends, with what it stands on; `ended` are the rights whose runs were ended, with whether these were stopped."""

    def __init__(self, database: Database, registry: Registry, lent: Lent, secrets: Kept) -> None:
        """Put the parts together."""
        self.database, self.store, self.registry, self.secrets, self.clock = database, SqliteStore(database), registry, secrets, Ticking()
        self.kept = SqliteSharing(database)
        self.shares = Shares(lent)
        self.ways = Ways(registry, self.shares)
        self.audit = Audit(self.kept, self.shares, self.clock)
        self.ended: list[tuple[str, bool]] = []
        self.sharing = Sharing(registry, self.shares, self.ways, self.kept, self.clock, self.secrets, self.audit, self._revoked)

    async def _revoked(self, right: Grant | AccountAlias, is_stopping: bool) -> None:
        """Take note, once it is true: what ended is ended on disk and in memory."""
        grants, aliases = await self.kept.load()
        if isinstance(right, Grant):
            assert right.ended is not None
            assert right in grants
            assert self.shares.grants[right.id] == right
            assert right not in self.shares.living.values()
        else:
            assert right.id not in {alias.id for alias in aliases}
            assert right.id not in self.shares.aliases
        self.ended.append((right.id, is_stopping))

    def caller(self, name: str, scopes: frozenset[Scope] = FULL) -> Caller:
        """Return an account as it asks."""
        account = self.registry.accounts.get(IDS[name]) or Account(id=IDS[name], name=name, created=1.0)
        return Caller(account=account, token=Token(id="t", account=account.id, digest=b"", scopes=scopes, created=1.0))

    async def grant(self, who: str, name: str, account: str, **terms: Any) -> dict[str, Any]:
        """Lend; returns the grant."""
        return (await self.sharing.grant(self.caller(who), name, account, terms))[1]

    async def accept(self, who: str, name: str, target: str, **order: Any) -> dict[str, Any]:
        """Make an account alias; returns it."""
        return (await self.sharing.accept(self.caller(who), name, {"target": target, **order}))[1]

    async def revoke(self, who: str, name: str, account: str, *, is_stopping: bool = True) -> None:
        """Take a grant back."""
        await self.sharing.revoke(self.caller(who), name, account, is_stopping=is_stopping)

    def alias(self, who: str, name: str) -> AccountAlias:
        """Return an alias as it is kept."""
        return self.shares.alias_names[(IDS[who], name)]

    def state(self, who: str, name: str) -> str:
        """Return how an alias stands."""
        return str(self.sharing.alias(self.caller(who), name)["state"])

    async def publish(self, who: str, name: str, number: int = 1, **revision: Any) -> None:
        """Publish a version of a function, which `latest` names then."""
        known = self.registry.by_name.get((IDS[who], name))
        key = known.function.id if known is not None else FunctionId(f"f-{who}-{name}-{self.clock.now()}")
        function = Function(id=key, account=IDS[who], name=name, settings=Settings(), created=1.0)
        version = Version(
            function=key,
            number=number,
            code_id=f"sha256-{number:064x}",
            bundle="sha256-" + "0" * 64,
            size_bytes=1,
            revision=Revision(**revision),
            state=VersionState.READY,
            created=1.0,
        )
        move = PointerMove(function=key, pointer="latest", seq=number, version=number, at=1.0)
        await self.store.publish(function, version, move)
        entry = self.registry.put_function(function)
        entry.put(version)
        entry.move(move)

    async def remove_function(self, who: str, name: str) -> None:
        """Remove a function as the service does."""
        entry = self.registry.entry(IDS[who], name)
        await self.store.remove_function(entry.function.id, self.clock.now())
        self.registry.drop_function(entry)
        await self.sharing.function_removed(entry)

    async def remove_version(self, who: str, name: str, number: int) -> None:
        """Remove a version as the service does."""
        entry = self.registry.entry(IDS[who], name)
        gone = dataclasses.replace(entry.versions[number], deleted=True)
        await self.store.set_version(gone)
        entry.put(gone)

    async def remove_account(self, who: str) -> None:
        """Remove an account as the service does."""
        account = self.registry.accounts[IDS[who]]
        await self.store.remove_account(account.id, self.clock.now())
        self.registry.drop_account(account)
        await self.sharing.account_removed(account)

    async def again(self) -> Office:
        """Return what another server finds in the same database."""
        return await open_office(self.database, self.secrets)

    async def is_true(self) -> bool:
        """Tell whether what is in memory is what is on the disk."""
        grants, aliases = await self.kept.load()
        living = {(grant.target, grant.caller): grant for grant in grants if grant.ended is None}
        names = {(alias.account, alias.name): alias for alias in aliases}
        kept = {grant.id: grant for grant in grants}
        forgotten = [kept.pop(key) for key in kept.keys() - self.shares.grants.keys()]
        bound = {alias.grant for alias in aliases}
        is_known = kept == self.shares.grants and all(grant.ended is not None and grant.id not in bound for grant in forgotten)
        return living == self.shares.living and names == self.shares.alias_names and is_known


async def open_office(database: Database, secrets: Kept) -> Office:
    """Read a database."""
    registry = Registry(await SqliteStore(database).load())
    grants, aliases = await SqliteSharing(database).load()
    return Office(database, registry, Lent(grants=grants, aliases=aliases), secrets)


async def first_office(path: Path) -> Office:
    """Make a database with the accounts and Ada's function."""
    database = open_database(str(path))
    store = SqliteStore(database)
    for name, key in IDS.items():
        await store.add_account(Account(id=key, name=name, created=1.0), None)
    office = await open_office(database, Kept())
    await office.publish("ada", "greet", 1)
    await office.publish("ada", "greet", 2, memory_bytes=128 << 20, timeout_ms=10_000)
    return office


async def refused(work: Any) -> PyfaasError:
    """Return the error that an awaitable is refused with."""
    with pytest.raises(PyfaasError) as raised:
        await work
    return raised.value


def texts(error: PyfaasError) -> str:
    """Return all that an error tells."""
    return f"{error.code} {error.message} {error.hint} {dict(error.evidence)}"
