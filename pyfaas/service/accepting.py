"""What an account alias is bound to: a caller's order held against what its owner lends, at the moment of accepting.

The same is checked again when the alias is called (`service/ways.py`), where nothing depends on what was true here. Nothing is written
here, and whatever is not lent to the caller is answered as what does not exist, whoever it belongs to and whether it was ever there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pyfaas.decisions import terms as decisions
from pyfaas.decisions.access import gone
from pyfaas.decisions.routing import resolve
from pyfaas.decisions.terms import Order
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import AccountId, Version
from pyfaas.names import CODE_ID
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.shares import Shares
from pyfaas.service.ways import Ways
from pyfaas.sharing import AccountAlias, CallableId, Grant, Placing, Terms

_WasHeld = Callable[[AccountId, str, AccountId], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """An alias as it will be, and what had its name; `is_new` when that has ended, or there was nothing."""

    alias: AccountAlias
    old: AccountAlias | None

    @property
    def is_new(self) -> bool:
        """Whether the alias begins anew, with an id of its own."""
        return self.old is None or self.old.id != self.alias.id


class Accepting:
    """Reads the registry and what is lent; changes neither. `was_held` tells whether a caller once held a grant on (owner, name)."""

    def __init__(self, registry: Registry, shares: Shares, ways: Ways, was_held: _WasHeld) -> None:
        """Look into these."""
        self._registry, self._shares, self._ways, self._was_held = registry, shares, ways, was_held

    def bind(self, account: AccountId, name: str, order: Order, now: float) -> Binding:
        """Return what an account's alias will be; raises not_found, gone, conflict or invalid_request."""
        owner, target, grant = self._lent(account, name, order)
        old = self._free(account, name, owner, target, order)
        keeps = old is not None and old.target == target and self._lives(old)
        alias = AccountAlias(
            id=old.id if old is not None and keeps else CallableId(str(uuid.uuid4())),
            account=account,
            name=name,
            grant=grant.id if grant is not None else None,
            owner=owner,
            target=target,
            target_name=order.name,
            qualifier=order.qualifier,
            params=order.params,
            memory_bytes=order.memory_bytes,
            timeout_ms=order.timeout_ms,
            network=order.network,
            placement=order.placement,
            created=old.created if old is not None and keeps else now,
        )
        hops, entry = self._ways.chain(alias)
        if hops[1:]:
            self._ways.allowed(hops[1:], entry)
        beneath = self.grants(hops[1:])
        self._check(alias, grant, beneath)
        version = self._version(alias, grant, hops[1:], entry)
        _check_bounds(alias, version, hops[1:])
        self._ways.allowed(hops, entry)
        return Binding(alias=alias, old=old)

    def grants(self, hops: Sequence[AccountAlias]) -> list[Grant]:
        """Return the grants that aliases are bound to, ended ones too; one on something of one's own has none."""
        return [grant for hop in hops if hop.grant is not None and (grant := self._shares.grants.get(hop.grant)) is not None]

    def _lives(self, alias: AccountAlias) -> bool:
        return alias.grant is None or self._shares.grants[alias.grant].ended is None

    def _lent(self, account: AccountId, name: str, order: Order) -> tuple[AccountId, CallableId, Grant | None]:
        """Find what is to be aliased and the grant that allows it; raises not_found, or gone to who once held one."""
        path = f"{order.owner}/{order.name}"
        known = self._registry.account_names.get(order.owner) or self._registry.accounts.get(AccountId(order.owner))
        if known is None:
            raise not_found("function", path)
        entry, alias = self._registry.by_name.get((known.id, order.name)), self._shares.alias_names.get((known.id, order.name))
        target = CallableId(entry.function.id) if entry is not None else alias.id if alias is not None else None
        if known.id == account:
            if entry is None and order.name == name:
                raise PyfaasError(Code.INVALID_REQUEST, f"the account alias {name!r} would lead to itself", hint="name what it is to stand for")
            if target is None:
                raise not_found("function", path)
            return known.id, target, None
        living = self._shares.living
        grant = (living.get((target, account)) or living.get((target, None))) if target is not None else None
        if target is not None and grant is not None:
            return known.id, target, grant
        old = self._shares.alias_names.get((account, name))
        if self._was_held(known.id, order.name, account) or (old is not None and (old.owner, old.target_name) == (known.id, order.name)):
            raise gone()
        raise not_found("function", path)

    def _free(self, account: AccountId, name: str, owner: AccountId, target: CallableId, order: Order) -> AccountAlias | None:
        """Return the alias that has this name and is to be bound anew; raises conflict when the name is taken by anything else."""
        old = self._shares.alias_names.get((account, name))
        if old is not None:
            if old.target == target or (not self._lives(old) and (old.owner, old.target_name) == (owner, order.name)):
                return old
            hint = "remove it first, or take another name"
            raise PyfaasError(Code.CONFLICT, f"the account alias {name!r} stands for something else", hint=hint)
        if (account, name) in self._registry.by_name or self._shares.is_taken(account, name):
            raise PyfaasError(Code.CONFLICT, f"the name {name!r} is taken in this account", hint="take another one")
        return None

    def check_network(self, account: AccountId, wanted: Sequence[str]) -> None:
        """Raise not_allowed when an account that may not use the network lets something do."""
        if wanted and not self._registry.accounts[account].network:
            raise PyfaasError(Code.NOT_ALLOWED, "this account may not use the network", hint="leave network out; an admin can allow it")

    def _check(self, alias: AccountAlias, grant: Grant | None, beneath: Sequence[Grant]) -> None:
        terms = grant.terms if grant is not None else Terms()
        decisions.check_params(alias.params, terms, [each.terms for each in beneath])
        if grant is not None:
            self.check_network(alias.account, alias.network)
            decisions.check_network(alias.network, terms.network)
            for each in (terms, *(further.terms for further in beneath)):
                decisions.check_placement(alias.placement, each.placement)
        elif alias.network or alias.placement is not Placing.PAIR:
            key = "network" if alias.network else "placement"
            message = f"{key}: what is your own needs none"
            raise PyfaasError(Code.INVALID_REQUEST, message, hint="the version's own list says what it reaches" if alias.network else "leave it out")

    def _version(self, alias: AccountAlias, grant: Grant | None, inner: Sequence[AccountAlias], entry: Entry) -> Version:
        """Return the version that the alias leads to now; raises invalid_request, not_found or gone."""
        pinned = self._pinned(inner)
        for each in (pinned, str(grant.terms.version) if grant is not None and grant.terms.version is not None else None):
            decisions.check_version(each, alias.qualifier)
            pinned = each or pinned
        named = alias.qualifier or pinned
        if named is not None and CODE_ID.fullmatch(named) and entry.function.account != alias.account:
            raise PyfaasError(Code.NOT_FOUND, f"no version {named!r}")  # a hash is not to be guessed at
        return entry.versions[resolve(named, entry.versions, entry.moves, "").requested]

    def _pinned(self, inner: Sequence[AccountAlias]) -> str | None:
        """Return what the innermost alias that says anything says, or what a grant is limited to."""
        for hop in reversed(inner):
            grant = self._shares.grants.get(hop.grant) if hop.grant is not None else None
            said = hop.qualifier or (str(grant.terms.version) if grant is not None and grant.terms.version is not None else None)
            if said is not None:
                return said
        return None

    # ---- lending

    def lendable(self, account: AccountId, name: str, terms: Terms) -> CallableId:
        """Return what an account may lend under a name: its function, or its alias where that may be lent on.

        Raises not_found, gone, not_allowed, or invalid_request for terms that promise more than there is.
        """
        entry, alias = self._registry.by_name.get((account, name)), self._shares.alias_names.get((account, name))
        if entry is not None:
            _check_lent_version(entry, terms.version)
            return CallableId(entry.function.id)
        if alias is None:
            raise not_found("function", name)
        hops, entry = self._ways.chain(alias)
        allowed = self._ways.allowed(hops, entry)
        grants = self.grants(hops)
        if not all(grant.terms.relend for grant in grants):
            raise PyfaasError(Code.NOT_ALLOWED, f"{name!r} may not be lent on", hint="its owner would have to grant it with relend")
        if grants:
            decisions.check_relent(terms, [grant.terms for grant in grants])
            decisions.check_network(terms.network, next(hop.network for hop in hops if hop.grant is not None))
            decisions.check_placement(terms.placement, allowed.placement)
        if terms.version is not None:
            decisions.check_version(allowed.qualifier, str(terms.version))
        _check_lent_version(entry, terms.version)
        return alias.id


def _check_lent_version(entry: Entry, version: int | None) -> None:
    if version is not None:
        resolve(str(version), entry.versions, {}, "")


def _check_bounds(alias: AccountAlias, version: Version, inner: Sequence[AccountAlias]) -> None:
    memory, timeout = version.revision.memory_bytes, version.revision.timeout_ms
    decisions.check_bound("memory", alias.memory_bytes, min([memory, *(hop.memory_bytes or memory for hop in inner)]), "bytes")
    decisions.check_bound("timeout", alias.timeout_ms, min([timeout, *(hop.timeout_ms or timeout for hop in inner)]), "ms")


def ended(grant: Grant, at: float) -> Grant:
    """Return a grant as it is once it was taken back: what was agreed is nobody's business any more."""
    return replace(grant, ended=at, terms=Terms())
