"""Subscriptions: an account's right to call an API under a name of its own, asked for, approved, ended by either side."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyfaas.decisions.access import require
from pyfaas.decisions.terms import Order, check_keys, check_network, parse_order
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import AccountId, Caller, Scope
from pyfaas.names import check_name
from pyfaas.network import canonical
from pyfaas.ports import Apis as Store
from pyfaas.ports import Clock
from pyfaas.service.apis import Apis, over
from pyfaas.service.audit import Side, pair
from pyfaas.service.catalogue import LIVING, operation_view
from pyfaas.service.registry import Registry
from pyfaas.service.shares import Shares
from pyfaas.sharing import Access, Api, ApiState, ApiVersion, AuditKind, CallableId, Subscription, SubscriptionState

_KEYS = ("api", "params", "secrets", "network")
MAX_SUBSCRIPTIONS = 1000  # of one account, living
_NEW, _SAME = 201, 200


class Subscriptions:
    """The use cases of who subscribes, and of an owner with those who do."""

    def __init__(self, registry: Registry, shares: Shares, store: Store, clock: Clock, apis: Apis) -> None:
        """Work beside `apis`, one change at a time."""
        self._registry, self._shares, self._store, self._clock, self._apis = registry, shares, store, clock, apis
        self._catalogue = apis.catalogue

    # ---- who subscribes

    async def put(self, caller: Caller, name: str, given: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Subscribe to an API, or replace the parameters and destinations stored with a subscription: 201 or 200.

        Secrets that are given replace all that are kept; none given leaves them. Raises not_found for an API that the caller may not
        know of, not_allowed for one that it may not have, conflict for a name that is taken or an API that it has under another name.
        """
        require(caller, Scope.DEPLOY)
        check_name(name, "subscription")
        order = _order(given)
        if order.secrets is not None:
            self._apis.secrets.check(order.secrets)
        async with self._apis.changing:
            api = self._catalogue.seen(caller.account.id, order.owner, order.name)
            self._catalogue.check_network(caller.account.id, order.network)
            check_network(order.network, self._lent(api))
            old = self._old(caller.account.id, name, api)
            made = self._made(caller.account.id, name, api, order, old)
            await self._keep(made, order.secrets, is_new=old is None)
            lines = [] if old is not None else self._lines(AuditKind.SUBSCRIBED, api, made, {"state": made.state.value})
        await self._apis.audit.tell(lines)
        return (_NEW if old is None else _SAME), self.view(made)

    def get(self, caller: Caller, name: str) -> dict[str, Any]:
        """Show a subscription; raises not_found."""
        require(caller, Scope.READ)
        return self.view(self._own(caller.account.id, name))

    def listed(self, caller: Caller) -> list[dict[str, Any]]:
        """List an account's subscriptions that are pending or active, by name."""
        require(caller, Scope.READ)
        mine = [s for (account, _), s in self._shares.subscription_names.items() if account == caller.account.id]
        return [self.view(s) for s in sorted(mine, key=lambda s: s.name)]

    async def remove(self, caller: Caller, name: str, *, stop: bool = True) -> None:
        """End a subscription of one's own, `stop` also what runs through it; raises not_found."""
        require(caller, Scope.DEPLOY)
        async with self._apis.changing:
            gone = await self._end(self._own(caller.account.id, name))
            await self._apis.audit.tell(self._lines(AuditKind.REMOVED, self._shares.apis[gone.api], gone))
        await self._apis.ended([gone], stop=stop)

    # ---- the owner

    def approvals(self, caller: Caller, api_name: str) -> list[dict[str, Any]]:
        """List who asked for an own API and who has it, by account."""
        require(caller, Scope.READ)
        api = self._catalogue.own(caller.account.id, api_name)
        last: dict[AccountId, Subscription] = {}
        for subscription in sorted((s for s in self._shares.subscriptions.values() if s.api == api.id), key=lambda s: s.created):
            last[subscription.account] = subscription
        shown = [self._asked(s) for s in last.values() if s.account in self._registry.accounts]
        return sorted(shown, key=lambda item: str(item["account"]))

    async def decide(self, caller: Caller, api_name: str, account: str, *, is_approved: bool) -> dict[str, Any]:
        """Approve or refuse what an account asked for; raises not_found, or conflict for what is decided already, and otherwise."""
        require(caller, Scope.DEPLOY)
        async with self._apis.changing:
            api = self._catalogue.own(caller.account.id, api_name)
            asked = self._asker(api, account)
            wanted = SubscriptionState.ACTIVE if is_approved else SubscriptionState.REFUSED
            if asked.state is wanted:
                return self._asked(asked)
            if asked.state is not SubscriptionState.PENDING:
                hint = "DELETE the approval to end it" if asked.state is SubscriptionState.ACTIVE else "it may ask again"
                raise PyfaasError(Code.CONFLICT, f"what {account!r} asked for is {asked.state.value} already", hint=hint)
            decided = replace(asked, state=wanted) if is_approved else replace(over(asked, self._clock.now()), state=wanted)
            await self._store.put_subscription(decided)
            self._shares.put_subscription(decided)
            await self._apis.audit.tell(self._lines(AuditKind.APPROVED if is_approved else AuditKind.REFUSED, api, decided))
        if not is_approved:
            await self._apis.ended([decided], stop=True)
        return self._asked(decided)

    async def revoke(self, caller: Caller, api_name: str, account: str, *, stop: bool) -> None:
        """End an account's subscription of an own API, `stop` also what runs through it; raises not_found."""
        require(caller, Scope.DEPLOY)
        async with self._apis.changing:
            api = self._catalogue.own(caller.account.id, api_name)
            found = self._asker(api, account)
            if found.state not in LIVING:
                raise not_found("subscription of", account)
            gone = await self._end(found)
            await self._apis.audit.tell(self._lines(AuditKind.REVOKED, api, gone))
        await self._apis.ended([gone], stop=stop)

    # ---- shapes

    def view(self, subscription: Subscription) -> dict[str, Any]:
        """Show a subscription to its holder: where it is called, its operations, and the names of its secrets."""
        api = self._shares.apis[subscription.api]
        version = self._newest(api)
        return {
            "name": subscription.name,
            "api": self._catalogue.path(api),
            "state": subscription.state.value,
            "version": version.version if version is not None else None,
            "url": f"/v1/apis/{self._catalogue.path(api)}/{version.version}" if version is not None else None,
            "operations": [operation_view(operation) for operation in version.operations] if version is not None else [],
            "params": dict(subscription.params),
            "secrets": self._apis.secrets.names(subscription.id),
            "network": list(subscription.network),
            "created": subscription.created,
        }

    def _asked(self, subscription: Subscription) -> dict[str, Any]:
        account = self._catalogue.account_name(subscription.account)
        return {"account": account, "state": subscription.state.value, "created": subscription.created, "ended": subscription.ended}

    # ---- inside

    def _own(self, account: AccountId, name: str) -> Subscription:
        found = self._shares.subscription_names.get((account, name))
        if found is None:
            raise not_found("subscription", name)
        return found

    def _old(self, account: AccountId, name: str, api: Api) -> Subscription | None:
        """Return the living subscription that is replaced; raises conflict when the name or the API is taken otherwise."""
        old = self._catalogue.living(account, api)
        if old is not None and old.name != name:
            raise PyfaasError(Code.CONFLICT, f"this API is subscribed as {old.name!r} already", hint="an account has one subscription of an API")
        if old is None and (self._shares.is_taken(account, name) or (account, name) in self._registry.by_name):
            raise PyfaasError(Code.CONFLICT, f"something of this account is called {name!r} already", hint="choose another name")
        return old

    def _made(self, account: AccountId, name: str, api: Api, order: Order, old: Subscription | None) -> Subscription:
        if old is not None:
            return replace(old, params=order.params, network=order.network)
        if sum(key == account for key, _ in self._shares.subscription_names) >= MAX_SUBSCRIPTIONS:
            raise PyfaasError(Code.CONFLICT, f"an account has at most {MAX_SUBSCRIPTIONS} subscriptions", hint="end one that is not needed")
        return Subscription(
            id=CallableId(str(uuid.uuid4())),
            account=account,
            name=name,
            api=api.id,
            state=self._state(account, api),
            params=order.params,
            network=order.network,
            created=self._clock.now(),
        )

    def _state(self, account: AccountId, api: Api) -> SubscriptionState:
        """Return what a new subscription is; raises not_allowed, or gone when there is nothing left to call."""
        policy = self._catalogue.policy(api)
        if policy is None or policy.state is ApiState.RETIRED:
            raise PyfaasError(Code.GONE, f"all versions of the API {self._catalogue.path(api)} were retired")
        if account == api.owner or policy.access is Access.OPEN or (policy.access is Access.LISTED and account in policy.accounts):
            return SubscriptionState.ACTIVE
        if policy.access is Access.LISTED:
            message = f"the API {self._catalogue.path(api)} is for the accounts that its owner listed"
            raise PyfaasError(Code.NOT_ALLOWED, message, hint="ask its owner")
        return SubscriptionState.PENDING

    async def _keep(self, made: Subscription, secrets: Mapping[str, str] | None, *, is_new: bool) -> None:
        """Write secrets before what makes them needed, and take them back when that fails."""
        if secrets is not None:
            await self._apis.secrets.set_all(made.id, secrets)
        try:
            await self._store.put_subscription(made)
        except PyfaasError:
            if is_new and secrets:
                await self._apis.secrets.forget(made.id)
            raise
        self._shares.put_subscription(made)

    async def _end(self, subscription: Subscription) -> Subscription:
        gone = over(subscription, self._clock.now())
        await self._store.put_subscription(gone)
        self._shares.put_subscription(gone)
        return gone

    def _asker(self, api: Api, account: str) -> Subscription:
        """Return an account's living subscription of an own API, else its last; raises not_found, also for an account that is not there."""
        try:
            found = self._catalogue.last(self._registry.account(account).id, api)
        except PyfaasError:
            found = None
        if found is None:
            raise not_found("subscription of", account)
        return found

    def _newest(self, api: Api) -> ApiVersion | None:
        policy = self._catalogue.policy(api)
        return policy if policy is not None and policy.state is not ApiState.RETIRED else None

    def _lent(self, api: Api) -> tuple[str, ...]:
        """Return the destinations that any living version lends; each call has what its own version does."""
        living = [v for v in self._catalogue.versions(api).values() if v.state is not ApiState.RETIRED]
        return canonical(sorted({entry for version in living for entry in version.terms.network}))

    def _lines(self, kind: AuditKind, api: Api, subscription: Subscription, detail: Mapping[str, Any] | None = None) -> Any:
        holder = Side(subscription.account, api.owner, subscription.name)
        if api.owner == subscription.account:
            return pair(self._clock.now(), kind, holder, None, detail)
        return pair(self._clock.now(), kind, Side(api.owner, subscription.account, api.name), holder, detail)


def _order(given: Mapping[str, Any]) -> Order:
    check_keys(given, _KEYS)
    target = given.get("api")
    if not isinstance(target, str) or target.count("/") != 1 or ":" in target:
        raise PyfaasError(Code.INVALID_REQUEST, "api: expected OWNER/NAME", evidence={"key": "api"})
    return parse_order({"target": target, **{key: given[key] for key in _KEYS[1:] if key in given}})
