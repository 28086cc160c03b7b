"""Accounts and tokens: made, listed, revoked. A token's text is shown once and kept nowhere."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyfaas.decisions.access import require
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.manifest import parse_policy
from pyfaas.model import Account, AccountId, Caller, Quota, Scope, Token
from pyfaas.names import check_account_name
from pyfaas.ports import Clock, Store
from pyfaas.service.registry import Registry
from pyfaas.service.views import account_view, token_view

OWN_SCOPES = frozenset({Scope.INVOKE, Scope.DEPLOY, Scope.READ})
_QUOTA = ("concurrency", "rate", "per_day")
_MOST = 1_000_000_000


class Accounts:
    """The use cases around accounts and tokens."""

    def __init__(self, registry: Registry, store: Store, clock: Clock) -> None:
        """Work on the registry, through the store."""
        self._registry, self._store, self._clock = registry, store, clock
        self._changing = asyncio.Lock()  # two changes of one policy, from what they read to what they write

    def whoami(self, caller: Caller) -> dict[str, Any]:
        """Tell who a token speaks for."""
        return {
            "account": caller.account.name,
            "id": caller.account.id,
            "scopes": sorted(caller.token.scopes),
            "expires": caller.token.expires,
        }

    async def create(self, caller: Caller, name: str, *, network: bool = True) -> dict[str, Any]:
        """Create an account with its first token; raises conflict for a taken name."""
        require(caller, Scope.ADMIN)
        return await self.make(name, OWN_SCOPES, network=network)

    async def make(self, name: str, scopes: frozenset[Scope], *, network: bool = True) -> dict[str, Any]:
        """Create an account without asking who wants it: the first start does."""
        check_account_name(name)
        if name in self._registry.account_names:
            raise PyfaasError(Code.CONFLICT, f"the account {name!r} exists already")
        now = self._clock.now()
        account = Account(id=self._new_id(), name=name, network=network, created=now)
        text, token = new_token(account.id, scopes, "first", now, None)
        await self._store.add_account(account, token)
        self._registry.put_account(account)
        self._registry.put_token(token)
        return {"account": name, "id": account.id, "token": text}

    def listed(self, caller: Caller) -> list[dict[str, Any]]:
        """List every account, for an admin; the own one otherwise."""
        if caller.may(Scope.ADMIN):
            return [account_view(a) for _, a in sorted(self._registry.account_names.items())]
        return [account_view(self._registry.account(caller.account.id))]

    async def set(
        self,
        caller: Caller,
        name_or_id: str,
        policy: Mapping[str, Any],
        quota: Mapping[str, Any] | None = None,
        network: bool | None = None,  # noqa: FBT001 - a value that is kept
    ) -> dict[str, Any]:
        """Change what an account says of staleness, and, for an admin, what it may use: what is not there stays, None removes.

        Raises not_found, not_allowed or invalid_request.
        """
        require(caller, Scope.DEPLOY)
        if not caller.may(Scope.ADMIN) and name_or_id not in (caller.account.name, caller.account.id):
            raise not_found("account", name_or_id)
        if quota is not None or network is not None:
            require(caller, Scope.ADMIN)
        if "min_version" in policy:
            hint = "set it on a function or a release alias"
            raise PyfaasError(Code.INVALID_REQUEST, "min_version is a number of one function's versions", hint=hint)
        async with self._changing:
            account = self._registry.account(name_or_id)
            account = replace(account, policy=parse_policy(policy, account.policy), quota=_quota(quota or {}, account.quota))
            account = account if network is None else replace(account, network=network)
            await self._store.set_account(account)
            if account.id in self._registry.accounts:
                self._registry.put_account(account)
        return account_view(account)

    async def remove(self, caller: Caller, name_or_id: str) -> Account:
        """Remove an account: its tokens die at once; its usage stays by id."""
        require(caller, Scope.ADMIN)
        account = self._registry.account(name_or_id)
        if account.id == caller.account.id:
            raise PyfaasError(Code.CONFLICT, "an account cannot remove itself")
        await self._store.remove_account(account.id, self._clock.now())
        self._registry.drop_account(account)
        return account

    async def create_token(
        self, caller: Caller, *, scopes: Sequence[str], expires: float | None = None, label: str = "", account: str | None = None
    ) -> dict[str, Any]:
        """Create a token with no more scopes than the caller's; an admin may name another account."""
        owner = caller.account
        if account is not None and account not in (owner.name, owner.id):
            require(caller, Scope.ADMIN)
            owner = self._registry.account(account)
        wanted = _scopes(scopes)
        if not all(caller.may(scope) for scope in wanted):
            raise PyfaasError(Code.NOT_ALLOWED, "a token cannot be given scopes that its maker lacks")
        if expires is not None and expires <= self._clock.now():
            raise PyfaasError(Code.INVALID_REQUEST, "expires must lie in the future")
        text, token = new_token(owner.id, wanted, label, self._clock.now(), expires)
        await self._store.add_token(token)
        self._registry.put_token(token)
        return {**token_view(token), "token": text}

    def list_tokens(self, caller: Caller) -> list[dict[str, Any]]:
        """List the account's tokens."""
        tokens = sorted(self._registry.tokens.values(), key=lambda t: t.created)
        return [token_view(t) for t in tokens if t.account == caller.account.id]

    async def revoke_token(self, caller: Caller, token_id: str) -> None:
        """Revoke a token: refused from the moment this returns."""
        token = self._registry.tokens.get(token_id)
        if token is None or not (token.account == caller.account.id or caller.may(Scope.ADMIN)):
            raise not_found("token", token_id)
        await self._store.revoke_token(token_id, self._clock.now())
        self._registry.drop_token(token)

    async def rotate_admin(self, caller: Caller, keep: Callable[[str], None]) -> dict[str, Any]:
        """Replace the admin's token by a new one; `keep` writes its text where the operator finds it.

        The old one dies last: whatever fails before that, one of the two is known and works.
        """
        require(caller, Scope.ADMIN)
        text, token = new_token(caller.account.id, caller.token.scopes, "admin", self._clock.now(), None)
        await self._store.add_token(token)
        try:
            await asyncio.to_thread(keep, text)
        except OSError as error:
            await self._store.revoke_token(token.id, self._clock.now())
            raise _not_kept(error) from error
        self._registry.put_token(token)
        await self.revoke_token(caller, caller.token.id)
        return {**token_view(token), "token": text}

    def _new_id(self) -> AccountId:
        while (new := f"{secrets.randbelow(10**12):012d}") in self._registry.accounts:
            pass
        return AccountId(new)


def new_token(account: AccountId, scopes: frozenset[Scope], label: str, now: float, expires: float | None) -> tuple[str, Token]:
    """Make a token; returns its text and what is kept of it."""
    text = "pf_" + secrets.token_urlsafe(32)
    digest = hashlib.sha256(text.encode()).digest()
    token = Token(
        id=str(uuid.uuid4()), account=account, digest=digest, scopes=scopes, label=label, created=now, expires=expires
    )
    return text, token


def _quota(asked: Mapping[str, Any], before: Quota) -> Quota:
    """Return a quota changed as asked; raises unknown_key or invalid_request."""
    for key, value in asked.items():
        if key not in _QUOTA:
            raise PyfaasError(Code.UNKNOWN_KEY, f"quota: unknown key {key[:64]!r}", hint=f"the keys are {', '.join(_QUOTA)}")
        kinds = (int, float) if key == "rate" else (int,)
        least = 1 if key == "concurrency" else 0
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= _MOST):
            message = f"quota.{key} must be a {'number' if key == 'rate' else 'whole number'} of at least {least}, or null"
            raise PyfaasError(Code.INVALID_REQUEST, message)
    return replace(before, **asked)


def _not_kept(error: OSError) -> PyfaasError:
    evidence = {"errno": errno.errorcode.get(error.errno or 0, str(error.errno))}
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "ask the operator to free space in the data directory"
        return PyfaasError(Code.STORAGE_FULL, "the server's disk is full", hint=hint, evidence=evidence)
    return PyfaasError(Code.INTERNAL, "the token's file cannot be written; the old one is valid", evidence=evidence)


def _scopes(names: Sequence[str]) -> frozenset[Scope]:
    try:
        scopes = frozenset(Scope(name) for name in names)
    except ValueError:
        known = ", ".join(s.value for s in Scope)
        raise PyfaasError(Code.INVALID_REQUEST, f"scopes must be some of {known}") from None
    return scopes or OWN_SCOPES
