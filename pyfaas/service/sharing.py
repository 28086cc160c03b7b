"""Lending as owners and callers decide it: grants, account aliases, their ends, and who is told.

Every change is commit → swap `Shares` → tell the audit trail → end what runs → answer. What changes for one account waits its turn by that
account's lock, in which everything that was true before it is looked at again: a grant is changed under its owner's, an alias under its
holder's. What belonged to a function or an account that was removed is ended by id, here and, should the server have died meanwhile, at
the next start.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from pyfaas.decisions.access import require
from pyfaas.decisions.terms import parse_order, parse_terms
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Account, AccountId, Caller, FunctionId, Scope
from pyfaas.names import check_name
from pyfaas.ports import Clock
from pyfaas.ports import Sharing as Store
from pyfaas.service import lent_views as views
from pyfaas.service.accepting import Accepting, ended
from pyfaas.service.audit import Audit, Side, pair
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.shares import Shares
from pyfaas.service.ways import Ways
from pyfaas.sharing import AccountAlias, AuditKind, CallableId, Grant, GrantId

EVERYBODY = ("*", "public")
MAX_GRANTS, MAX_ALIASES = 1000, 1000  # of one account, living
Revoked = Callable[[Grant | AccountAlias, bool], Awaitable[None]]


class Secrets(Protocol):
    """What lending asks of whoever keeps secrets, by the id of their owner."""

    def names(self, owner: str) -> list[str]:
        """Return the keys of an owner's secrets."""

    async def set_all(self, owner: str, values: Mapping[str, str]) -> None:
        """Keep these in place of all that an owner has, or raise and change nothing."""

    async def forget(self, owner: str) -> None:
        """Remove all that an owner has."""


class Sharing:
    """The use cases of lending. `revoked` ends what waits and runs through a grant or an alias, and returns when it has; True stops it."""

    def __init__(
        self, registry: Registry, shares: Shares, ways: Ways, store: Store, clock: Clock, secrets: Secrets, audit: Audit, revoked: Revoked
    ) -> None:
        """Work on what is in memory, through the store."""
        self._registry, self._shares, self._ways, self._store = registry, shares, ways, store
        self._clock, self._secrets, self._audit, self._revoked = clock, secrets, audit, revoked
        self._turns: defaultdict[AccountId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._held: dict[tuple[AccountId, str, AccountId | None], GrantId] = {}  # the last that ended
        self._remember(sorted((g for g in shares.grants.values() if g.ended is not None), key=lambda g: g.ended or 0.0))
        self._accepting = Accepting(registry, shares, ways, lambda owner, name, caller: (owner, name, caller) in self._held)

    # ---- grants

    async def grant(self, caller: Caller, name: str, account: str, given: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Lend a function, or an account alias where that is allowed, to an account or to everybody; other terms replace those there are.

        Returns 201, or 200 for a grant that was there, and the grant. Raises not_found, gone, not_allowed, unknown_key,
        payload_too_large or invalid_request.
        """
        require(caller, Scope.DEPLOY)
        check_name(name)
        terms, owner = parse_terms(given), caller.account.id
        async with self._turns[owner]:
            self._check_lives(owner)
            borrower = self._borrower(account)
            if borrower == owner:
                raise PyfaasError(Code.INVALID_REQUEST, "nothing needs to be lent to oneself", hint="an account alias on your own needs no grant")
            self._accepting.check_network(owner, terms.network)
            target = self._accepting.lendable(owner, name, terms)
            old = self._shares.living.get((target, borrower))
            if old is None:
                _check_room("grants", MAX_GRANTS, sum(each.owner == owner for each in self._shares.living.values()))
            if old is not None and old.terms == terms:
                return 200, self._given(old)
            now = self._clock.now()
            grant = replace(old, terms=terms) if old is not None else Grant(
                id=GrantId(str(uuid.uuid4())), owner=owner, target=target, name=name, caller=borrower, terms=terms, created=now
            )  # fmt: skip
            await self._store.put_grant(grant)
            self._shares.put_grant(grant)
            detail = {"terms": "changed"} if old is not None else {}
            await self._audit.tell(pair(now, AuditKind.GRANTED, *self._sides(grant), detail))
        return 200 if old is not None else 201, self._given(grant)

    async def revoke(self, caller: Caller, name: str, account: str, *, is_stopping: bool = True) -> None:
        """Take a grant back: no later run succeeds; those that run are stopped, or, unless `is_stopping`, finish. Raises not_found."""
        require(caller, Scope.DEPLOY)
        check_name(name)
        async with self._turns[caller.account.id]:
            grant = self._shares.living.get((self._target(caller.account.id, name), self._borrower(account)))
            if grant is None:
                raise not_found("grant", f"{name} to {account}")
            await self._end([grant], [])
        await self._revoked(self._shares.grants[grant.id], is_stopping)

    def grants(self, caller: Caller) -> dict[str, Any]:
        """Show what an account lends, and what is lent to it."""
        require(caller, Scope.READ)
        return self._views(caller.account.id, self._shares.living.values())

    def grants_of(self, caller: Caller, name: str) -> dict[str, Any]:
        """Show what is lent of a function or an account alias; of the latter also the grant that it is bound to. Raises not_found."""
        require(caller, Scope.READ)
        account = caller.account.id
        target, alias = self._target(account, name), self._shares.alias_names.get((account, name))
        bound = alias.grant if alias is not None else None
        return self._views(account, [g for g in self._shares.living.values() if g.target == target or g.id == bound])

    def _views(self, account: AccountId, grants: Iterable[Grant]) -> dict[str, Any]:
        found = sorted(grants, key=lambda grant: (grant.created, grant.id))
        given = [self._given(grant) for grant in found if grant.owner == account]
        lent = [grant for grant in found if grant.owner != account and grant.caller in (None, account) and self._leads(grant)]
        received = [views.received_view(grant, self._name) for grant in lent]
        return {"given": given, "received": received}

    def _leads(self, grant: Grant) -> bool:
        """Tell whether what is lent on by a grant may still be, by whoever does that; what is lent first always leads somewhere."""
        alias = self._shares.aliases.get(grant.target)
        if alias is None:
            return True
        return self.is_open(alias) and all(each.terms.relend for each in self._accepting.grants(self._ways.chain(alias)[0]))

    def _given(self, grant: Grant) -> dict[str, Any]:
        return views.given_view(grant, self._name, self._secrets.names(grant.target))

    # ---- account aliases

    async def accept(self, caller: Caller, name: str, given: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Bind a name to what is lent, or is one's own; the same target again replaces what the name is bound with.

        Returns 201, or 200 for an alias that was there, and how to use it. Raises not_found, gone, conflict, unknown_key, invalid_name,
        payload_too_large or invalid_request.
        """
        require(caller, Scope.DEPLOY)
        check_name(name, "account alias")
        order, account = parse_order(given), caller.account.id
        async with self._turns[account]:
            self._check_lives(account)
            now = self._clock.now()
            binding = self._accepting.bind(account, name, order, now)
            alias, old = binding.alias, binding.old
            if old is None:
                _check_room("account aliases", MAX_ALIASES, sum(each.account == account for each in self._shares.aliases.values()))
            if order.secrets is not None:
                await self._secrets.set_all(alias.id, order.secrets)
            try:
                await self._store.put_alias(alias, old.id if old is not None and binding.is_new else None)
            except PyfaasError:
                if binding.is_new:
                    await self._secrets.forget(alias.id)
                raise
            if old is not None and binding.is_new:
                await self._replaced(old)
            self._shares.put_alias(alias)
            await self._tell(AuditKind.ACCEPTED, alias)
        return 200 if old is not None else 201, self._alias_view(alias)

    async def _replaced(self, old: AccountAlias) -> None:
        """Forget an alias whose grant had ended, when its name is bound to another one: whatever was its own does not come along."""
        self._shares.drop_alias(old)
        await self._secrets.forget(old.id)
        if on := self._lent_of({old.id}):
            await self._end(on, [])

    def aliases(self, caller: Caller) -> list[dict[str, Any]]:
        """List an account's aliases by name."""
        require(caller, Scope.READ)
        mine = [alias for (account, _), alias in self._shares.alias_names.items() if account == caller.account.id]
        return [self._alias_view(alias) for alias in sorted(mine, key=lambda alias: alias.name)]

    def alias(self, caller: Caller, name: str) -> dict[str, Any]:
        """Show an account alias; raises not_found."""
        require(caller, Scope.READ)
        return self._alias_view(self._alias(caller.account.id, name))

    async def remove_alias(self, caller: Caller, name: str, *, is_stopping: bool = True) -> None:
        """Remove an account alias with what was lent of it; its queued runs are cancelled. Raises not_found."""
        require(caller, Scope.DEPLOY)
        check_name(name, "account alias")
        async with self._turns[caller.account.id]:
            alias = self._alias(caller.account.id, name)
            grants = self._lent_of({alias.id})
            await self._end(grants, [alias])
        await self._over([*self._ended(grants), alias], is_stopping=is_stopping)

    def _alias(self, account: AccountId, name: str) -> AccountAlias:
        found = self._shares.alias_names.get((account, name))
        if found is None:
            raise not_found("account alias", name)
        return found

    def _alias_view(self, alias: AccountAlias) -> dict[str, Any]:
        grant = self._shares.grants.get(alias.grant) if alias.grant is not None else None
        shown = views.alias_view(alias, grant, self._name, self._secrets.names(alias.id))
        return {**shown, "state": "active" if self.is_open(alias) else "gone"}

    def is_open(self, alias: AccountAlias) -> bool:
        """Tell whether an alias leads to a function now, through grants that all live."""
        try:
            self._ways.allowed(*self._ways.chain(alias))
        except PyfaasError:
            return False
        return True

    # ---- the audit trail

    async def audit(self, caller: Caller, after: int, limit: int) -> dict[str, Any]:
        """Show an account's own side of what was lent, taken, called and refused, after a cursor."""
        require(caller, Scope.READ)
        found = await self._audit.view(caller.account.id, after, limit + 1)
        shown = [views.audit_view(cursor, line, self._name) for cursor, line in found[:limit]]
        return {"items": shown, "next": str(shown[-1]["cursor"]) if len(found) > limit else None}

    # ---- what is removed takes its rights along

    async def function_removed(self, entry: Entry) -> None:
        """End what was lent of a function that was removed, and the runs that came by it."""
        async with self._turns[entry.function.account]:
            grants = self._lent_of({CallableId(entry.function.id)})
            await self._end(grants, [])
        await self._over(self._ended(grants), is_stopping=True)

    async def account_removed(self, account: Account) -> None:
        """End what an account that was removed lent and was lent, and remove its aliases with their secrets."""
        gone: list[Grant | AccountAlias] = []
        for owner in {g.owner for g in self._shares.living.values() if g.caller == account.id}:
            async with self._turns[owner]:
                grants = [g for g in self._shares.living.values() if g.owner == owner and g.caller == account.id]
                await self._end(grants, [])
                gone += self._ended(grants)
        async with self._turns[account.id]:
            grants = [g for g in self._shares.living.values() if g.owner == account.id]
            aliases = [a for a in self._shares.aliases.values() if a.account == account.id]
            await self._end(grants, aliases)
            gone += [*self._ended(grants), *aliases]
        self._turns.pop(account.id, None)
        await self._over(gone, is_stopping=True)

    async def recover(self) -> int:
        """At start: end what was left of functions, aliases and accounts that are gone; returns how much that was."""
        accounts = self._registry.accounts
        aliases = [a for a in self._shares.aliases.values() if a.account not in accounts]
        dead = {a.id for a in aliases}
        grants = [
            g
            for g in self._shares.living.values()
            if g.owner not in accounts or (g.caller is not None and g.caller not in accounts) or not self._is_there(g.target, dead)
        ]
        await self._end(grants, aliases)
        return len(grants) + len(aliases)

    def _is_there(self, target: CallableId, dead: set[CallableId]) -> bool:
        return FunctionId(target) in self._registry.entries or (target in self._shares.aliases and target not in dead)

    # ---- inside

    def _lent_of(self, targets: set[CallableId]) -> list[Grant]:
        return [grant for grant in self._shares.living.values() if grant.target in targets]

    def _ended(self, grants: Iterable[Grant]) -> list[Grant | AccountAlias]:
        return [self._shares.grants[grant.id] for grant in grants]

    async def _end(self, grants: list[Grant], aliases: list[AccountAlias]) -> None:
        """Write, swap and tell the end of grants and aliases; whoever calls has the turn of their account."""
        if not grants and not aliases:
            return
        now = self._clock.now()
        await self._store.end([grant.id for grant in grants], [alias.id for alias in aliases], now)
        for alias in aliases:
            self._shares.drop_alias(alias)
        for grant in grants:
            self._shares.put_grant(ended(grant, now))
        self._remember(grants)
        await self._audit.tell(line for grant in grants for line in pair(now, AuditKind.REVOKED, *self._sides(grant)))
        for alias in aliases:
            await self._secrets.forget(alias.id)
            await self._tell(AuditKind.REMOVED, alias)

    def _remember(self, grants: Iterable[Grant]) -> None:
        """Keep in mind who held what; of what ended under one name, and has no alias, the last is enough, or it would grow for ever."""
        bound = {alias.grant for alias in self._shares.aliases.values()}
        for grant in grants:
            key = (grant.owner, grant.name, grant.caller)
            before, self._held[key] = self._held.get(key), grant.id
            if before is not None and before not in bound:
                self._shares.grants.pop(before, None)

    async def _over(self, what: Iterable[Grant | AccountAlias], *, is_stopping: bool) -> None:
        """End the runs of what has ended, all of it whatever goes wrong with some; raises the first failure."""
        failures: list[PyfaasError] = []
        for each in what:
            try:
                await self._revoked(each, is_stopping)
            except PyfaasError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    async def _tell(self, kind: AuditKind, alias: AccountAlias) -> None:
        """Tell both sides of an alias: its holder by its name, the owner, when that is another, by what it lent."""
        path = f"{self._name(alias.owner)}/{alias.target_name}"
        is_own = alias.owner == alias.account
        holder = Side(alias.account, None if is_own else alias.owner, alias.name)
        lines = pair(self._clock.now(), kind, holder, detail={"target": path})
        if not is_own:
            lines += pair(self._clock.now(), kind, Side(alias.owner, alias.account, alias.target_name))
        await self._audit.tell(lines)

    def _sides(self, grant: Grant) -> tuple[Side, Side | None]:
        owner = Side(grant.owner, grant.caller, grant.name)
        path = f"{self._name(grant.owner)}/{grant.name}"
        return owner, Side(grant.caller, grant.owner, path) if grant.caller is not None else None

    def _check_lives(self, account: AccountId) -> None:
        if account not in self._registry.accounts:
            raise PyfaasError(Code.UNAUTHENTICATED, "the token is missing, unknown, expired or revoked", hint="run pyfaas login")

    def _borrower(self, account: str) -> AccountId | None:
        return None if account in EVERYBODY else self._registry.account(account).id

    def _target(self, account: AccountId, name: str) -> CallableId:
        """Return the id of what an account calls by a name; raises not_found."""
        alias = self._shares.alias_names.get((account, name))
        return alias.id if alias is not None else CallableId(self._registry.entry(account, name).function.id)

    def _name(self, account: AccountId) -> str:
        """Return an account's name; that of one which is gone is its id."""
        found = self._registry.accounts.get(account)
        return found.name if found is not None else account


def _check_room(what: str, most: int, there: int) -> None:
    if there >= most:
        evidence = {"limit": what.replace(" ", "_"), "value": most, "observed": there, "unit": "count"}
        raise PyfaasError(Code.CONFLICT, f"an account has at most {most} {what}", hint="remove what is not needed", evidence=evidence)
