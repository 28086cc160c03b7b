"""Which APIs an account may know of, and how they are shown to it. Reads what is lent; changes nothing.

An API is *seen* by its owner, by whoever is subscribed or listed, by everybody when it is in the directory, and, by its name alone, by
everybody when anybody may subscribe or ask to. For all others it is not there, in the words used for what does not exist. The newest
version that is not retired says who that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyfaas.decisions.terms import given_terms
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import AccountId
from pyfaas.service.registry import Registry
from pyfaas.service.shares import Shares
from pyfaas.sharing import Access, Api, ApiState, ApiVersion, Operation, Subscription, SubscriptionState

LIVING = (SubscriptionState.PENDING, SubscriptionState.ACTIVE)


class Catalogue:
    """Finds APIs for whoever asks, and shows them."""

    def __init__(self, registry: Registry, shares: Shares) -> None:
        """Look things up in both."""
        self.registry, self.shares = registry, shares

    def own(self, owner: AccountId, name: str) -> Api:
        """Return an account's own API; raises not_found."""
        api = self.shares.api_names.get((owner, name))
        if api is None:
            raise not_found("API", name)
        return api

    def seen(self, viewer: AccountId, owner: str, name: str, version: str | None = None) -> Api:
        """Return an API that an account may know of, by its owner's name or id; raises not_found, the same for all that is not seen.

        With a `version`, one that it has.
        """
        try:
            api = self.shares.api_names.get((self.registry.account(owner).id, name))
        except PyfaasError:
            api = None
        if api is None or not self.is_seen(viewer, api) or (version is not None and version not in self.versions(api)):
            raise not_found("API", "/".join(part for part in (owner, name, version) if part is not None))
        return api

    def versions(self, api: Api) -> Mapping[str, ApiVersion]:
        """Return an API's versions, oldest first."""
        return self.shares.api_versions.get(api.id, {})

    def policy(self, api: Api) -> ApiVersion | None:
        """Return the version that says who may subscribe: the newest that is not retired, else the newest; None before the first."""
        versions = sorted(self.versions(api).values(), key=lambda v: v.created, reverse=True)
        return next((v for v in versions if v.state is not ApiState.RETIRED), versions[0] if versions else None)

    def is_seen(self, viewer: AccountId, api: Api) -> bool:
        """Tell whether an account may know of an API."""
        policy = self.policy(api)
        return self.is_listed(viewer, api) or (policy is not None and policy.access is not Access.LISTED)

    def is_listed(self, viewer: AccountId, api: Api) -> bool:
        """Tell whether an API is in the directory that an account reads."""
        policy = self.policy(api)
        if api.owner == viewer or self.living(viewer, api) is not None:
            return True
        return policy is not None and (policy.is_public or (policy.access is Access.LISTED and viewer in policy.accounts))

    def living(self, account: AccountId, api: Api) -> Subscription | None:
        """Return an account's one subscription of an API that is pending or active."""
        return next((s for s in self.shares.subscriptions_of(api.id, account) if s.state in LIVING), None)

    def last(self, account: AccountId, api: Api) -> Subscription | None:
        """Return an account's living subscription of an API, else its last one."""
        found = sorted(self.shares.subscriptions_of(api.id, account), key=lambda s: (s.state in LIVING, s.created))
        return found[-1] if found else None

    def check_network(self, account: AccountId, wanted: Sequence[str]) -> None:
        """Raise not_allowed when an account that may not use the network lets something do."""
        if wanted and not self.registry.accounts[account].network:
            raise PyfaasError(Code.NOT_ALLOWED, "this account may not use the network", hint="leave network out; an admin can allow it")

    def account_name(self, account: AccountId) -> str:
        """Return an account's name, or its id once it is removed."""
        known = self.registry.accounts.get(account)
        return known.name if known is not None else account

    def path(self, api: Api) -> str:
        """Return OWNER/NAME."""
        return f"{self.account_name(api.owner)}/{api.name}"

    # ---- shapes

    def api_view(self, viewer: AccountId, api: Api) -> dict[str, Any]:
        """Show an API: its versions, oldest first, and under which name the viewer has subscribed; more to its owner."""
        policy, living = self.policy(api), self.living(viewer, api)
        return {
            "owner": self.account_name(api.owner),
            "api": api.name,
            "access": policy.access.value if policy is not None else None,
            "directory": policy is not None and policy.is_public,
            "title": policy.title if policy is not None else "",
            "description": policy.description if policy is not None else "",
            "created": api.created,
            "subscribed": {"name": living.name, "state": living.state.value} if living is not None else None,
            "versions": [self.version_view(v, is_owner=api.owner == viewer) for v in sorted(self.versions(api).values(), key=lambda v: v.created)],
        }

    def version_view(self, version: ApiVersion, *, is_owner: bool) -> dict[str, Any]:
        """Show a version; what is behind its operations, and its terms, to its owner."""
        shown: dict[str, Any] = {
            "version": version.version,
            "state": version.state.value,
            "sunset": version.sunset,
            "created": version.created,
            "operations": [operation_view(operation, is_owner=is_owner) for operation in version.operations],
        }
        if is_owner:
            terms = given_terms(version.terms)
            kept = {key: terms[key] for key in ("network", "logs", "reuse", "max_concurrency", "rate", "per_day", "secrets", "payer")}
            accounts = [self.account_name(account) for account in version.accounts]
            shown |= {"access": version.access.value, "accounts": accounts, "digest": version.digest, "terms": kept}
        return shown


def operation_view(operation: Operation, *, is_owner: bool = False) -> dict[str, Any]:
    """Show an operation; to its owner with its function."""
    shown: dict[str, Any] = {"name": operation.name, "method": operation.method, "path": operation.path}
    if operation.description:
        shown["description"] = operation.description
    if is_owner:
        target = operation.function_name + (f":{operation.qualifier}" if operation.qualifier is not None else "")
        shown |= {"function": target, "timeout_ms": operation.timeout_ms}
    return shown
