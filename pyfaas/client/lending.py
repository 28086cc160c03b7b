"""The clients' methods for what is lent: grants, account aliases, secrets, APIs and subscriptions, and who did what.

*Owner* is the account whose code runs, *caller* the one that runs it. Everything is sent as the server's documents have it; what
makes no sense in itself is refused before it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from pyfaas.client.asking import Asking
from pyfaas.client.calls import function_path, segment
from pyfaas.client.errors import from_refusal, invalid
from pyfaas.client.http import json_call
from pyfaas.client.releasing import duration
from pyfaas.errors import PyfaasError
from pyfaas.names import check_name

EVERYBODY = ("public", "*")
RUNNING = ("stop", "finish")


class Lent(TypedDict, total=False):
    """What an owner lends, and how far; caps hold for each caller. With none of lock, require and allow any parameter is taken."""

    version: int | None  # only this one
    lock: Mapping[str, Any]  # parameters that the owner sets
    require: Sequence[str]  # that must be given
    allow: Sequence[str]  # that a call may give itself, although the alias stored them
    max_concurrency: int | None
    rate: float | None  # runs that begin in a second
    per_day: int | None  # runs in a day, UTC
    relend: bool  # the caller may lend its alias on
    network: Sequence[str]  # destinations that a lent run may reach, at most
    secrets: Sequence[str]  # keys of the function's own secrets that travel along
    logs: bool  # the caller sees what its runs print
    reuse: bool  # a container may answer the same alias again
    placement: str  # pair | owner | caller
    payer: str  # caller | owner


class Lending(Asking):
    """What `AsyncClient` has beside its own functions."""

    # ---- lending one's own

    async def grant(self, name: str, account: str, **terms: Unpack[Lent]) -> dict[str, Any]:
        """Lend a function to an account, or with `"public"` to everybody; the same again with other terms replaces them.

        An account alias can be lent on where its grant has `relend`. Raises NotFound, InvalidRequest.
        """
        document = {key: list(value) if isinstance(value, tuple | set | frozenset) else value for key, value in terms.items()}
        return await self._json(json_call("PUT", _grant_path(name, account), _plain(document, "terms")))

    async def revoke(self, name: str, account: str, *, running: str = "stop") -> None:
        """Take a grant back: no later run succeeds; what runs is stopped, or with `running="finish"` ends by itself."""
        await self._done(json_call("DELETE", _grant_path(name, account), query={"running": _ending(running)}))

    async def grants(self, name: str | None = None) -> dict[str, Any]:
        """Show {given, received}: what the account lends, and what is lent to it; of one function, what of it is lent."""
        return await self._get(f"{function_path(name)}/grants" if name is not None else "/v1/grants")

    # ---- account aliases

    async def accept(
        self,
        target: str,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        memory: str | int | None = None,
        timeout: str | float | None = None,  # noqa: ASYNC109 - the alias's, sent
        network: Sequence[str] | None = None,
        placement: str | None = None,
    ) -> dict[str, Any]:
        """Make an account alias: the own `name` stands for `"owner/name"` or `"owner/name:version"`, lent to this account.

        Stored `params` and `secrets` reach the code without the call containing them. Returns {name, target, url, …}; the alias
        is invoked as a function of one's own. Raises NotFound where nothing of that name is lent, Gone where it no more is.
        """
        document = {
            "target": _target(target),
            "params": dict(params) if params is not None else None,
            "secrets": _texts(secrets) if secrets is not None else None,
            "memory": memory,
            "timeout": _duration(timeout),
            "network": list(network) if network is not None else None,
            "placement": placement,
        }
        return await self._json(json_call("PUT", _named("/v1/aliases/", name, "account alias"), _said(document)))

    async def account_aliases(self) -> list[dict[str, Any]]:
        """List the account's aliases on what is lent to it."""
        return await self._pages("/v1/aliases")

    async def account_alias(self, name: str) -> dict[str, Any]:
        """Show an account alias, with the names of its secrets."""
        return await self._get(_named("/v1/aliases/", name, "account alias"))

    async def remove_account_alias(self, name: str) -> None:
        """Remove an account alias with its parameters and secrets; runs that wait are cancelled."""
        await self._done(json_call("DELETE", _named("/v1/aliases/", name, "account alias")))

    async def audit(self, *, after: int | None = None) -> list[dict[str, Any]]:
        """List what was granted, accepted, called, refused and revoked, the account's own side, behind the cursor `after`."""
        return await self._pages("/v1/audit", after=after)

    # ---- secrets of one's own functions

    async def set_secret(self, name: str, key: str, value: str) -> dict[str, Any] | None:
        """Keep a secret for a function: its code finds it in `context.secrets`, from the next run on."""
        _texts({key: value})
        async with self._transport.exchange(json_call("PUT", _secret_path(name, key), {"value": value})) as reply:
            body = await reply.read()
            return json.loads(body) if body else None

    async def secrets(self, name: str) -> list[dict[str, Any]]:
        """List the names of a function's secrets; no value is ever shown."""
        return await self._pages(f"{function_path(name)}/secrets")

    async def remove_secret(self, name: str, key: str) -> None:
        """Remove a function's secret."""
        await self._done(json_call("DELETE", _secret_path(name, key)))

    async def rotate_secrets(self) -> dict[str, Any]:
        """Make a new key for all secrets of the server, and encrypt them anew with it (admin)."""
        return await self._json(json_call("POST", "/v1/secrets/rotate"))

    # ---- APIs of one's own

    async def publish_api(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Publish a version of an API: api.toml's keys, with each operation's `input` as a JSON Schema.

        A version that is published does not change: the same again is fine, anything else under its number a conflict.
        """
        name = definition.get("name")
        if not isinstance(name, str):
            raise invalid("the API has no name", 'write name = "…" at the top of its api.toml')
        return await self._json(json_call("PUT", _named("/v1/apis/", name, "API"), _plain(dict(definition), "the definition")))

    async def deprecate_api(self, name: str, version: str, *, sunset: float | None = None) -> dict[str, Any]:
        """Say that an API's version should not be used any more; it goes on answering, with a header that says so.

        `sunset` is when it will be retired, in seconds since the epoch: the header tells it too.
        """
        document = {"sunset": sunset} if sunset is not None else {}
        return await self._json(json_call("POST", f"{_version_path(name, version)}/deprecate", document))

    async def retire_api(self, name: str, version: str) -> dict[str, Any]:
        """End an API's version: from now on it is gone."""
        return await self._json(json_call("POST", f"{_version_path(name, version)}/retire"))

    async def remove_api(self, name: str) -> None:
        """Remove an API; all subscriptions of it end."""
        await self._done(json_call("DELETE", _named("/v1/apis/", name, "API")))

    async def approvals(self, name: str) -> list[dict[str, Any]]:
        """List who asked for an API whose access is `approval`, and what became of it."""
        return await self._pages(_named("/v1/apis/", name, "API") + "/approvals")

    async def approve(self, name: str, account: str) -> dict[str, Any]:
        """Let an account that asked use an API."""
        return await self._json(json_call("POST", _approval_path(name, account), {"approve": True}))

    async def refuse(self, name: str, account: str) -> dict[str, Any]:
        """Tell an account that asked that it may not use an API."""
        return await self._json(json_call("POST", _approval_path(name, account), {"approve": False}))

    async def end_subscription(self, name: str, account: str, *, running: str = "stop") -> None:
        """End an account's subscription of an own API; `running` as in `revoke`."""
        await self._done(json_call("DELETE", _approval_path(name, account), query={"running": _ending(running)}))

    # ---- APIs of others

    async def apis(self) -> list[dict[str, Any]]:
        """List the APIs that the account can see: its own, public ones, those it is listed for."""
        return await self._pages("/v1/apis")

    async def api(self, name: str) -> dict[str, Any]:
        """Show an API: `"owner/name"`, or the name of an own one."""
        return await self._get(_api_path(name))

    async def api_openapi(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Return the OpenAPI document of an API's version, by default of its newest one that is not retired."""
        owner, _, api = name.rpartition("/")
        if version is None:
            version = _newest(await self.api(name), name)
        if not owner:
            owner = str((await self._get("/v1/whoami"))["account"])
        return await self._get(f"/v1/apis/{segment(owner)}/{segment(api)}/{segment(version)}/openapi.json")

    async def subscribe(
        self,
        api: str,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        network: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Subscribe to `"owner/api"` under an own name; returns {name, state, url, operations}.

        Its operations are called as `"name/operation"`. `state` is pending where the owner has to approve. Stored `params` and
        `secrets` reach the code as an account alias's do.
        """
        document = {
            "api": _target(api),
            "params": dict(params) if params is not None else None,
            "secrets": _texts(secrets) if secrets is not None else None,
            "network": list(network) if network is not None else None,
        }
        return await self._json(json_call("PUT", _named("/v1/subscriptions/", name, "subscription"), _said(document)))

    async def subscriptions(self) -> list[dict[str, Any]]:
        """List the account's subscriptions."""
        return await self._pages("/v1/subscriptions")

    async def subscription(self, name: str) -> dict[str, Any]:
        """Show a subscription, with its operations."""
        return await self._get(_named("/v1/subscriptions/", name, "subscription"))

    async def unsubscribe(self, name: str) -> None:
        """End a subscription of one's own."""
        await self._done(json_call("DELETE", _named("/v1/subscriptions/", name, "subscription")))


def _grant_path(name: str, account: str) -> str:
    return f"{function_path(name)}/grants/{segment('*' if account in EVERYBODY else account)}"


def _secret_path(name: str, key: str) -> str:
    return f"{function_path(name)}/secrets/{segment(key)}"


def _version_path(name: str, version: str) -> str:
    return f"{_named('/v1/apis/', name, 'API')}/versions/{segment(version)}"


def _approval_path(name: str, account: str) -> str:
    return f"{_named('/v1/apis/', name, 'API')}/approvals/{segment(account)}"


def _api_path(name: str) -> str:
    owner, slash, api = name.rpartition("/")
    return f"/v1/apis/{segment(owner)}/{segment(api)}" if slash else _named("/v1/apis/", name, "API")


def _named(path: str, name: str, what: str) -> str:
    try:
        return path + check_name(name, what)
    except PyfaasError as error:
        raise from_refusal(error) from None


def _target(text: str) -> str:
    owner, slash, name = text.partition("/")
    if not owner or not slash or not name or "/" in name:
        raise invalid(f"{text!r} does not say whose it is", "write OWNER/NAME")
    return text


def _ending(running: str) -> str:
    if running not in RUNNING:
        raise invalid(f"running: {running!r} is neither stop nor finish")
    return running


def _duration(value: str | float | None) -> str | None:
    try:
        return None if value is None else duration(value, "timeout")
    except PyfaasError as error:
        raise from_refusal(error) from None


def _said(document: Mapping[str, Any]) -> dict[str, Any]:
    return _plain({key: value for key, value in document.items() if value is not None}, "params")


def _plain(document: dict[str, Any], what: str) -> dict[str, Any]:
    """Return what JSON can carry; raises InvalidRequest for anything else, without showing it."""
    try:
        json.dumps(document, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise invalid(f"{what}: not all of it is JSON", "text, numbers, true, false, null, lists and objects of them") from None
    return document


def _texts(secrets: Mapping[str, str]) -> dict[str, str]:
    for key, value in secrets.items():
        if not isinstance(value, str):
            raise invalid(f"the secret {key!r} is no text")
    return dict(secrets)


def _newest(shown: Mapping[str, Any], name: str) -> str:
    living = [str(each["version"]) for each in shown.get("versions") or () if each.get("state") != "retired"]
    if not living:
        raise invalid(f"{name} has no version that is not retired")
    return living[-1]
