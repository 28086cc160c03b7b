"""What is lent, in memory: grants, account aliases, APIs and subscriptions, by every key they are asked for.

As with the registry, every control write is commit → swap here → answer; whoever swaps calls `changed`, which drops what was
resolved from the old state. Reads never touch the disk. Ended grants and subscriptions stay: their holders are told `gone`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyfaas.model import AccountId
from pyfaas.sharing import (
    AccountAlias,
    Api,
    ApiId,
    ApiVersion,
    CallableId,
    Grant,
    GrantId,
    Subscription,
    SubscriptionState,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """Everything of lending that the store holds, as loaded at the start; removed aliases left out."""

    grants: Sequence[Grant] = ()
    aliases: Sequence[AccountAlias] = ()
    apis: Sequence[Api] = ()
    api_versions: Sequence[ApiVersion] = ()
    subscriptions: Sequence[Subscription] = ()


class Shares:
    """Owns the state of lending. `on_change` hears of every change."""

    def __init__(self, lent: Lent) -> None:
        """Take in what the store holds."""
        self.grants: dict[GrantId, Grant] = {}
        self.living: dict[tuple[CallableId, AccountId | None], Grant] = {}  # (target, caller) → the one grant that has not ended
        self.aliases: dict[CallableId, AccountAlias] = {}
        self.alias_names: dict[tuple[AccountId, str], AccountAlias] = {}
        self.apis: dict[ApiId, Api] = {}
        self.api_names: dict[tuple[AccountId, str], Api] = {}
        self.api_versions: dict[ApiId, dict[str, ApiVersion]] = {}  # in order of publication
        self.subscriptions: dict[CallableId, Subscription] = {}
        self.subscription_names: dict[tuple[AccountId, str], Subscription] = {}  # not those that ended or were refused
        self._subscribed: dict[tuple[ApiId, AccountId], dict[CallableId, Subscription]] = {}
        self.on_change: Callable[[], None] = lambda: None
        for grant in lent.grants:
            self.put_grant(grant)
        for alias in lent.aliases:
            self.put_alias(alias)
        for api in lent.apis:
            self.put_api(api)
        for version in sorted(lent.api_versions, key=lambda v: v.created):
            self.put_api_version(version)
        for subscription in lent.subscriptions:
            self.put_subscription(subscription)

    def changed(self) -> None:
        """Drop what was resolved before."""
        self.on_change()

    def put_grant(self, grant: Grant) -> None:
        """Take in a grant, new, changed or ended."""
        self.grants[grant.id] = grant
        key = (grant.target, grant.caller)
        if grant.ended is None:
            self.living[key] = grant
        elif key in self.living and self.living[key].id == grant.id:
            del self.living[key]
        self.changed()

    def put_alias(self, alias: AccountAlias) -> None:
        """Take in an account alias, new or changed."""
        self.aliases[alias.id] = self.alias_names[(alias.account, alias.name)] = alias
        self.changed()

    def drop_alias(self, alias: AccountAlias) -> None:
        """Forget an account alias."""
        self.aliases.pop(alias.id, None)
        self.alias_names.pop((alias.account, alias.name), None)
        self.changed()

    def put_api(self, api: Api) -> None:
        """Take in an API."""
        self.apis[api.id] = self.api_names[(api.owner, api.name)] = api
        self.api_versions.setdefault(api.id, {})
        self.changed()

    def drop_api(self, api: Api) -> None:
        """Forget an API with its versions; its subscriptions are ended by whoever removes it."""
        self.apis.pop(api.id, None)
        self.api_names.pop((api.owner, api.name), None)
        self.api_versions.pop(api.id, None)
        self.changed()

    def put_api_version(self, version: ApiVersion) -> None:
        """Take in an API version, new or with another state."""
        self.api_versions.setdefault(version.api, {})[version.version] = version
        self.changed()

    def put_subscription(self, subscription: Subscription) -> None:
        """Take in a subscription, new or changed; one that ended gives its name free."""
        self.subscriptions[subscription.id] = subscription
        self._remember(subscription)
        key = (subscription.account, subscription.name)
        if subscription.state in (SubscriptionState.PENDING, SubscriptionState.ACTIVE):
            self.subscription_names[key] = subscription
        elif key in self.subscription_names and self.subscription_names[key].id == subscription.id:
            del self.subscription_names[key]
        self.changed()

    def _remember(self, subscription: Subscription) -> None:
        """Keep an account's subscriptions of an API in mind: of what ended the last is enough, or it would grow for ever."""
        known = self._subscribed.setdefault((subscription.api, subscription.account), {})
        for ended in [s for s in known.values() if s.ended is not None and s.id != subscription.id]:
            del known[ended.id]
            del self.subscriptions[ended.id]
        known[subscription.id] = subscription

    def subscriptions_of(self, api: ApiId, account: AccountId) -> list[Subscription]:
        """Return an account's subscriptions of an API, those that ended too."""
        return list(self._subscribed.get((api, account), {}).values())

    def is_taken(self, account: AccountId, name: str) -> bool:
        """Tell whether an account alias or a subscription has a name; functions are the registry's."""
        return (account, name) in self.alias_names or (account, name) in self.subscription_names
