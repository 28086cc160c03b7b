"""How a name that is no function of one's own leads to a function: through account aliases, grants and subscriptions.

Theory of operation. A *way* is resolved when a name is first called, checked at every hop (`decisions/access`), and kept until anything about
lending, accounts or functions changes; so what a revocation ended cannot be called once it was taken note of here. Calls are known
by what they came through (`Use`: grants, aliases, subscriptions), which is how a revocation reaches those that wait and run, and where the
owner's caps are counted: for each account that it lent to, however many aliases that makes, and whomever it lends on to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pyfaas.calls import Request
from pyfaas.decisions.access import Allowed, Hop, authorise, gone
from pyfaas.decisions.quota import Pace
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import AccountId, FunctionId, TenantKey
from pyfaas.network import intersect
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.shares import Shares
from pyfaas.sharing import (
    MAX_HOPS,
    AccountAlias,
    ApiState,
    ApiVersion,
    CallableId,
    Grant,
    Operation,
    Payer,
    Subscription,
    SubscriptionState,
    Terms,
)

if TYPE_CHECKING:
    from pyfaas.service.lane import AccountLoad, Call

_LAYERS = 24 << 10  # bytes of parameters that may travel with a call
_UNLIMITED = 1 << 30
_FREE = Terms()


@dataclass(slots=True, eq=False)
class Use:
    """What runs and waits through one grant, alias or subscription for one caller, or of one function for one pair; caps are counted here."""

    id: str
    limit: int = _UNLIMITED  # runs at once
    pace: Pace = field(default_factory=Pace)
    running: int = 0
    calls: dict[Call, None] = field(default_factory=dict)  # accepted, and not ended
    held: set[AccountLoad] = field(default_factory=set)  # whose calls may wait for this limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """Everything that a call through an account alias or a subscription needs to know beside its function.

    `tenant` tells whose containers may answer it, `home` which VMs they live in. `meta` is what the container is told with each call,
    parameters' `layers` among it, outermost first. `secrets` are (owner's id, keys or None for all), of which later ones win.
    """

    id: CallableId  # of the alias or subscription that was called
    name: str  # as its holder calls it
    caller: AccountId  # the outermost one
    owner: AccountId  # of the function
    payer: AccountId
    entry: Entry
    qualifier: str | None
    tenant: TenantKey
    home: TenantKey
    gates: tuple[Use, ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    encoded: bytes = b""  # `meta` as the container reads it
    secrets: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    network: tuple[str, ...] | None = None  # None: whatever the version lists
    memory_bytes: int | None = None
    timeout_ms: int | None = None
    is_fresh: bool = True  # a container answers one call
    keeps_logs: bool = False  # for the caller, under `id`
    is_own: bool = False  # an alias on a function of one's own: nothing is sealed
    api: str = ""  # OWNER/NAME
    operation: str = ""
    is_deprecated: bool = False

    @property
    def is_free(self) -> bool:
        """Whether another run may begin, as far as the function and what it is lent through say."""
        return all(use.running < use.limit for use in self.gates)


class Ways:
    """Finds the way that a name is. Reads the registry and what is lent; changes neither."""

    def __init__(self, registry: Registry, shares: Shares) -> None:
        """Begin with nothing resolved."""
        self._registry, self._shares = registry, shares
        self._found: dict[tuple[AccountId, str, str | None], Way] = {}
        self._uses: dict[tuple[str, AccountId], Use] = {}
        shares.on_change = registry.on_change = self.forget

    def forget(self) -> None:
        """Resolve anew from here on: something changed."""
        for way in self._found.values():
            way.entry.routes.pop(way, None)
        self._found.clear()

    def find(self, account: AccountId, name: str, api_version: str | None = None) -> Way:
        """Return where an account's name leads; raises not_found, gone, not_allowed or invalid_request."""
        key = (account, name, api_version)
        way = self._found.get(key)
        if way is None:
            way = self._resolve(account, name, api_version)
            self._found[key] = way
        return way

    def known(self, account: AccountId, name: str) -> Way | None:
        """Return the way that a name is, if it was called since anything changed; never raises."""
        return self._found.get((account, name, None))

    def lead(self, account: AccountId, request: Request) -> tuple[Entry, Way | None]:
        """Return what a request's name stands for: a function of the account's own, or the way to another. Raises as `find`, or invalid_request."""
        entry = self._registry.by_name.get((account, request.name))
        if entry is not None:
            return entry, None
        way = self.find(account, request.name, request.api_version)
        if request.qualifier is not None:
            message = f"{request.name!r} takes no qualifier: it says itself which version"
            raise PyfaasError(Code.INVALID_REQUEST, message, hint="leave out what follows the colon")
        return way.entry, way

    def uses_of(self, ended: str) -> list[Use]:
        """Return the uses of a grant, an alias or a subscription, by every caller."""
        return [use for (of, _), use in self._uses.items() if of == ended]

    def uses_by(self, way: CallableId) -> list[Use]:
        """Return what is counted when an alias or a subscription is called, by its id; nothing for one that is gone."""
        alias, subscription = self._shares.aliases.get(way), self._shares.subscriptions.get(way)
        if subscription is not None:
            return [self.use(subscription.id, subscription.account)]
        if alias is None:
            return []
        try:
            hops, _ = self.chain(alias)
        except PyfaasError:
            return []
        return [self.use(grant.id, hop.account) for hop in hops if (grant := self._grant(hop)) is not None]

    def use(self, of: str, caller: AccountId) -> Use:
        """Return the one count of what a caller runs through a grant, an alias or a subscription."""
        found = self._uses.get((of, caller))
        if found is None:
            found = self._uses[(of, caller)] = Use(of)
        return found

    def names_through(self, right: Grant | AccountAlias | Subscription) -> list[CallableId]:
        """Return what cannot be called without a grant, an alias or a subscription: those, and aliases of others that lead through them."""
        if isinstance(right, Grant):
            return list(self._through([a.id for a in self._shares.aliases.values() if a.grant == right.id]))
        return list(self._through([right.id]))

    def _through(self, aliases: Sequence[CallableId]) -> Iterator[CallableId]:
        seen: set[CallableId] = set()
        todo = list(aliases)
        while todo:
            alias = todo.pop()
            if alias not in seen:
                seen.add(alias)
                yield alias
                todo += [a.id for a in self._shares.aliases.values() if a.target == alias]

    # ---- resolving

    def _resolve(self, account: AccountId, name: str, api_version: str | None) -> Way:
        alias = self._shares.alias_names.get((account, name))
        if alias is not None:
            return self._through_aliases(alias)
        subscriber, slash, operation = name.partition("/")
        subscription = self._shares.subscription_names.get((account, subscriber))
        if subscription is None:
            raise not_found("function", name)
        if not slash:
            message = f"{name!r} is a subscription: say which operation"
            raise PyfaasError(Code.INVALID_REQUEST, message, hint=f"pyfaas invoke {name}/OPERATION; pyfaas api describe shows them")
        return self._through_api(subscription, operation, api_version)

    def chain(self, alias: AccountAlias) -> tuple[list[AccountAlias], Entry]:
        """Return the aliases from one inwards, and the function that they lead to; raises gone, or invalid_request for a loop or a long way."""
        hops = [alias]
        while True:
            entry = self._registry.entries.get(FunctionId(hops[-1].target))
            if entry is not None:
                return hops, entry
            target = self._shares.aliases.get(hops[-1].target)
            if target is None:
                raise gone()
            if any(hop.id == target.id for hop in hops):
                raise PyfaasError(Code.INVALID_REQUEST, f"the account alias {alias.name!r} leads to itself")
            hops.append(target)
            if len(hops) > MAX_HOPS:
                raise PyfaasError(Code.INVALID_REQUEST, f"more than {MAX_HOPS} account aliases lead to this function", hint="alias its target directly")

    def allowed(self, hops: Sequence[AccountAlias], entry: Entry) -> Allowed:
        """Check a chain; raises gone or invalid_request."""
        owners = [hop.account for hop in hops[1:]] + [entry.function.account]
        facts = [
            Hop(holder=hop.account, owner=owner, grant=self._grant(hop), qualifier=hop.qualifier, placement=hop.placement)
            for hop, owner in zip(hops, owners, strict=True)
        ]
        for hop, fact in zip(hops, facts, strict=True):
            if (hop.grant is not None and fact.grant is None) or fact.holder not in self._registry.accounts:
                raise gone()
        return authorise(facts)

    def _grant(self, alias: AccountAlias) -> Grant | None:
        grant = self._shares.grants.get(alias.grant) if alias.grant is not None else None
        return grant if grant is not None and grant.target == alias.target else None

    def _through_aliases(self, alias: AccountAlias) -> Way:
        hops, entry = self.chain(alias)
        allowed = self.allowed(hops, entry)
        grants = [self._grant(hop) for hop in hops]
        uses = [self.use(hop.id, hop.account) for hop in hops]
        uses += [self._capped(grant.id, grant.terms, hop.account) for hop, grant in zip(hops, grants, strict=True) if grant is not None]
        layers = [layer for hop, grant in zip(hops, grants, strict=True) if (layer := _layer(grant.terms if grant else _FREE, hop.params))]
        tenant, is_shared = allowed.tenant, allowed.is_own and not (alias.memory_bytes or alias.timeout_ms)
        travelling = _common([set(grant.terms.secrets) for grant in grants if grant is not None])
        lists = [entries for hop, grant in zip(hops, grants, strict=True) if grant is not None for entries in (grant.terms.network, hop.network)]
        return Way(
            id=alias.id,
            name=alias.name,
            caller=alias.account,
            owner=entry.function.account,
            payer=allowed.payer,
            entry=entry,
            qualifier=allowed.qualifier,
            tenant=tenant if is_shared else _lane_key(tenant, alias.id, hops, grants),
            home=tenant,
            gates=(*uses, self._stand(entry, alias.account)),
            layers=_bounded(layers),
            meta=(meta := _meta(alias.account, alias.name, layers)),
            encoded=msgspec.json.encode(meta),
            secrets=(*((hop.id, None) for hop in hops), (entry.function.id, travelling)),
            network=self._network(lists, allowed.accounts) if lists else None,
            memory_bytes=_least(hop.memory_bytes for hop in hops),
            timeout_ms=_least(hop.timeout_ms for hop in hops),
            is_fresh=allowed.is_fresh,
            keeps_logs=allowed.keeps_logs,
            is_own=allowed.is_own,
        )

    def _through_api(self, subscription: Subscription, name: str, api_version: str | None) -> Way:
        if subscription.state is not SubscriptionState.ACTIVE:
            raise PyfaasError(Code.NOT_ALLOWED, f"the subscription {subscription.name!r} is not active yet", hint="its owner has to approve it")
        api = self._shares.apis.get(subscription.api)
        if api is None:
            raise gone()
        version, operation = self._operation(subscription, name, api_version)
        entry = self._registry.entries.get(operation.function)
        if entry is None or api.owner not in self._registry.accounts:
            raise gone()
        terms, caller = version.terms, subscription.account
        layers = [layer] if (layer := _layer(terms, subscription.params)) else []
        is_own = api.owner == caller
        tenant = TenantKey(caller if is_own else f"{api.owner}+{caller}")
        path = f"{self._registry.accounts[api.owner].name}/{api.name}"
        return Way(
            id=subscription.id,
            name=subscription.name,
            caller=caller,
            owner=api.owner,
            payer=api.owner if terms.payer is Payer.OWNER else caller,
            entry=entry,
            qualifier=operation.qualifier,
            tenant=_lane_key(tenant, subscription.id, operation.timeout_ms, terms, subscription.network),
            home=tenant,
            gates=(self._capped(subscription.id, terms, caller), self._stand(entry, caller)),
            layers=_bounded(layers),
            meta=(meta := _meta(caller, subscription.name, layers)),
            encoded=msgspec.json.encode(meta),
            secrets=((subscription.id, None), (entry.function.id, None if is_own else terms.secrets)),
            network=None if is_own else self._network([terms.network, subscription.network], (api.owner, caller)),
            timeout_ms=operation.timeout_ms,
            is_fresh=not (is_own or terms.reuse),
            keeps_logs=terms.logs,
            is_own=is_own,
            api=path,
            operation=operation.name,
            is_deprecated=version.state is ApiState.DEPRECATED,
        )

    def _operation(self, subscription: Subscription, name: str, api_version: str | None) -> tuple[ApiVersion, Operation]:
        """Return an operation, of the newest version that has it unless one is named."""
        versions = self._shares.api_versions.get(subscription.api, {})
        if api_version is not None and (named := versions.get(api_version)) is not None and named.state is ApiState.RETIRED:
            raise PyfaasError(Code.GONE, f"version {api_version} of this API was retired", hint="pyfaas api describe shows its versions")
        living = [v for v in versions.values() if v.state is not ApiState.RETIRED and api_version in (None, v.version)]
        for version in sorted(living, key=lambda v: v.created, reverse=True):
            for operation in version.operations:
                if operation.name == name:
                    return version, operation
        raise not_found("operation", f"{subscription.name}/{name}")

    # ---- parts

    def _capped(self, of: str, terms: Terms, caller: AccountId) -> Use:
        use = self.use(of, caller)
        use.limit = terms.max_concurrency or _UNLIMITED
        use.pace.set(terms.rate or 0.0, terms.per_day or 0)
        return use

    def _stand(self, entry: Entry, caller: AccountId) -> Use:
        """Return the count of a function's runs for one caller, which is what its own limit means for lent runs."""
        stand = self.use(entry.function.id, caller)
        stand.limit = entry.limit
        return stand

    def _network(self, lists: Sequence[Sequence[str]], accounts: Sequence[AccountId]) -> tuple[str, ...]:
        """Return what all lists allow; nothing when an account on the way may not use the network."""
        may = all(self._registry.accounts[account].network for account in accounts if account in self._registry.accounts)
        return intersect(*lists) if may else ()


def _lane_key(home: TenantKey, way: CallableId, *bounds: object) -> TenantKey:
    """Return whose containers may answer a way: one's that was made under the same terms, since a container keeps what it was made with."""
    return TenantKey(f"{home}/{way}/{hashlib.sha256(repr(bounds).encode()).hexdigest()[:16]}")


def _layer(terms: Terms, stored: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a layer of parameters as the container merges it; None when there is nothing to merge."""
    layer = {"lock": dict(terms.lock), "require": list(terms.require), "allow": list(terms.allow), "stored": dict(stored)}
    kept = {key: value for key, value in layer.items() if value}
    return kept or None


def _bounded(layers: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    if len(msgspec.json.encode(layers)) > _LAYERS:
        raise PyfaasError(Code.INVALID_REQUEST, f"the parameters on this way are more than {_LAYERS} bytes", hint="store fewer or smaller ones")
    return tuple(layers)


def _meta(caller: AccountId, name: str, layers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {"caller": caller, "alias": name, **({"params": list(layers)} if layers else {})}


def _common(sets: Sequence[set[str]]) -> tuple[str, ...] | None:
    """Return the keys that all grants let travel; None, all of them, when nothing is lent."""
    return tuple(sorted(set.intersection(*sets))) if sets else None


def _least(values: Iterator[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
