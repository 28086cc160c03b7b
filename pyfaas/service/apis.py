"""APIs as their owner makes them: published in versions that never change, deprecated, retired, removed.

A definition names functions as their owner calls them; what is kept names them by id, so a function that was removed and made again is
another one. A target with a number is that version; without, it follows its pointer at each call.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol

from pyfaas.apifile import Definition, OperationOrder, check_api_name, check_version, parse
from pyfaas.decisions.access import require
from pyfaas.decisions.terms import parse_terms
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import AccountId, Caller, FunctionId, Scope
from pyfaas.names import CODE_ID
from pyfaas.ports import Apis as Store
from pyfaas.ports import Clock
from pyfaas.service.audit import Side, pair
from pyfaas.service.catalogue import LIVING, Catalogue
from pyfaas.service.documents import document
from pyfaas.service.inputs import Input, check_output
from pyfaas.service.registry import Entry, Registry
from pyfaas.service.shares import Shares
from pyfaas.sharing import (
    Api,
    ApiId,
    ApiState,
    ApiVersion,
    AuditKind,
    AuditLine,
    Operation,
    Subscription,
    SubscriptionState,
)

MAX_APIS, MAX_VERSIONS = 100, 200  # of one account, and of one API
LAST_TIME = 253_402_300_800  # that a header can tell as a date
_NEW, _SAME = 201, 200


class Secrets(Protocol):
    """What is asked of stored secrets; an owner is a subscription's id."""

    def check(self, values: Mapping[str, str]) -> None: ...  # noqa: D102 - as service/secrets
    def names(self, owner: str) -> list[str]: ...  # noqa: D102
    async def set_all(self, owner: str, values: Mapping[str, str]) -> None: ...  # noqa: D102
    async def forget(self, owner: str) -> None: ...  # noqa: D102


class Audit(Protocol):
    """What is asked of the audit trail."""

    def refused(self, account: AccountId, other: AccountId | None, name: str, code: str) -> None: ...  # noqa: D102 - as service/audit
    async def tell(self, lines: Iterable[AuditLine]) -> None: ...  # noqa: D102


Revoked = Callable[[Subscription, bool], Awaitable[None]]  # a subscription that ended, and whether what runs is stopped


class Apis:
    """The use cases of an API's owner, and what others may read of it.

    `revoked` is called for each subscription that ended, after that is durable and taken note of, before the answer.
    """

    def __init__(self, registry: Registry, shares: Shares, store: Store, clock: Clock, secrets: Secrets, revoked: Revoked, audit: Audit) -> None:
        """Work on what is lent, through the store."""
        self.catalogue = Catalogue(registry, shares)
        self._registry, self._shares, self._store, self._clock = registry, shares, store, clock
        self.secrets, self.revoked, self.audit = secrets, revoked, audit
        self.changing = asyncio.Lock()  # from what a change reads to what it writes

    async def publish(self, caller: Caller, name: str, table: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Publish a version: 201, or 200 for the same content again. `table` has api.toml's keys.

        Raises what `apifile.parse` does; not_found for a function, a version or an account that is not there; conflict for other
        content under a version that is there, and for too many.
        """
        require(caller, Scope.DEPLOY)
        check_api_name(name)
        definition = parse(table)
        if definition.name not in (None, name):
            raise PyfaasError(Code.INVALID_REQUEST, f"name: the definition is of {definition.name!r}, and it is published as {name!r}")
        await _check_schemas(definition)
        async with self.changing:
            made = self._made(caller.account.id, name, definition)
            old = self._shares.api_versions.get(made.api, {}).get(made.version)
            if old is not None:
                return _SAME, self._published(caller, name, _same(old, made, name))
            api = self._room(caller.account.id, name, made)
            await self._store.publish(api, made)
            if api.id not in self._shares.apis:
                self._shares.put_api(api)
            self._shares.put_api_version(made)
        return _NEW, self._published(caller, name, made)

    def directory(self, caller: Caller) -> list[dict[str, Any]]:
        """List the APIs of the directory, the caller's own and those that it is listed for, by owner and name."""
        require(caller, Scope.READ)
        me = caller.account.id
        found = [self.catalogue.api_view(me, api) for api in self._shares.apis.values() if self.catalogue.is_listed(me, api)]
        return sorted(found, key=cursor)

    def describe(self, caller: Caller, owner: str | None, name: str) -> dict[str, Any]:
        """Show an API that the caller may know of; without an owner, an own one. Raises not_found."""
        require(caller, Scope.READ)
        me = caller.account.id
        api = self.catalogue.own(me, name) if owner is None else self.catalogue.seen(me, owner, name)
        return self.catalogue.api_view(me, api)

    def document(self, caller: Caller, owner: str, name: str, version: str, url: str) -> dict[str, Any]:
        """Return a version's OpenAPI document, served at `url`; raises not_found, or gone for a retired one."""
        api = self.catalogue.seen(caller.account.id, owner, name, version)
        found = self.catalogue.versions(api)[version]
        if found.state is ApiState.RETIRED:
            raise retired(self.catalogue.path(api), version)
        return document(self.catalogue.path(api), found, url)

    async def set_state(self, caller: Caller, name: str, version: str, state: ApiState, sunset: float | None = None) -> dict[str, Any]:
        """Deprecate or retire a version; raises not_found, conflict for one that was retired, or invalid_request."""
        require(caller, Scope.DEPLOY)
        if sunset is not None and not 0 < sunset < LAST_TIME:
            raise PyfaasError(Code.INVALID_REQUEST, "sunset must be seconds since the epoch, before the year 10000", evidence={"key": "sunset"})
        async with self.changing:
            api = self.catalogue.own(caller.account.id, name)
            found = self.catalogue.versions(api).get(check_version(version))
            if found is None:
                raise not_found("API version", f"{name}/{version}")
            if found.state is ApiState.RETIRED and state is not ApiState.RETIRED:
                raise PyfaasError(Code.CONFLICT, f"version {version} of {name!r} is retired for good", hint="publish another version")
            changed = replace(found, state=state, sunset=sunset if state is ApiState.DEPRECATED else found.sunset, changed=self._clock.now())
            await self._store.set_version(changed)
            self._shares.put_api_version(changed)
        return {"api": name, **self.catalogue.version_view(changed, is_owner=True)}

    async def remove(self, caller: Caller, name: str, *, stop: bool = True) -> None:
        """Remove an API with its versions; its subscriptions end. `stop` also what runs through them."""
        require(caller, Scope.DEPLOY)
        async with self.changing:
            ended = await self._remove(self.catalogue.own(caller.account.id, name))
        await self.ended(ended, stop=stop)

    async def account_removed(self, account: AccountId) -> None:
        """Remove an account's APIs, and end its subscriptions."""
        ended = []
        async with self.changing:
            for api in [api for api in self._shares.apis.values() if api.owner == account]:
                ended += await self._remove(api)
            for subscription in [s for s in self._shares.subscriptions.values() if s.account == account and s.state in LIVING]:
                gone = over(subscription, self._clock.now())
                await self._store.put_subscription(gone)
                self._shares.put_subscription(gone)
                ended.append(gone)
        await self.ended(ended, stop=True)

    async def ended(self, subscriptions: Iterable[Subscription], *, stop: bool) -> None:
        """Let an end that is durable reach what runs and what is kept."""
        for subscription in subscriptions:
            await self.revoked(subscription, stop)
            await self.secrets.forget(subscription.id)

    def named_by(self, function: FunctionId, number: int | None = None) -> list[str]:
        """Return the API versions, as NAME/VERSION, that name a function, or one version of it by its number; retired ones do not count."""
        return [
            f"{self._shares.apis[api].name}/{version.version}"
            for api, versions in self._shares.api_versions.items()
            for version in versions.values()
            if version.state is not ApiState.RETIRED
            and any(o.function == function and (number is None or _names(self._registry, o, number)) for o in version.operations)
        ]

    def refuse_named(self, function: FunctionId, what: str, number: int | None = None) -> None:
        """Raise conflict while an API version that is not retired needs a function, or one version of it."""
        if named := self.named_by(function, number):
            raise PyfaasError(Code.CONFLICT, f"{what} is an operation of the API version {named[0]}", hint="retire it first: pyfaas api retire NAME VERSION")

    # ---- inside

    def _made(self, owner: AccountId, name: str, definition: Definition) -> ApiVersion:
        """Return the version that a definition is, with ids for names; raises not_found for what is not there."""
        known = self._shares.api_names.get((owner, name))
        operations = tuple(self._operation(owner, order) for order in definition.operations)
        terms = parse_terms(definition.terms)
        self.catalogue.check_network(owner, terms.network)
        now = self._clock.now()
        made = ApiVersion(
            api=known.id if known is not None else ApiId(str(uuid.uuid4())),
            version=definition.version,
            digest="",
            access=definition.access,
            accounts=tuple(sorted(self._registry.account(account).id for account in definition.accounts)),
            is_public=definition.is_public,
            title=definition.title,
            description=definition.description,
            terms=terms,
            operations=operations,
            created=now,
            changed=now,
        )
        return replace(made, digest=_digest(made))

    def _operation(self, owner: AccountId, order: OperationOrder) -> Operation:
        entry = self._registry.entry(owner, order.function)
        self._check_target(entry, order.qualifier)
        return Operation(
            name=order.name,
            method=order.method,
            path=order.path,
            function=entry.function.id,
            function_name=order.function,
            qualifier=order.qualifier,
            input=order.input,
            output=order.output,
            timeout_ms=order.timeout_ms,
            description=order.description,
        )

    def _check_target(self, entry: Entry, qualifier: str | None) -> None:
        """Raise not_found or gone for a number, a pointer or a code id that a function has not."""
        if qualifier is None:
            return
        if qualifier.isdigit():
            self._registry.version(entry, int(qualifier))
        elif CODE_ID.fullmatch(qualifier):
            if not any(v.code_id == qualifier and not v.deleted for v in entry.versions.values()):
                raise not_found("version", f"{entry.function.name}:{qualifier}")
        elif qualifier not in entry.moves:
            raise not_found("release alias", f"{entry.function.name}:{qualifier}")

    def _room(self, owner: AccountId, name: str, made: ApiVersion) -> Api:
        """Return the API that a new version is of; raises conflict when there are too many."""
        known = self._shares.api_names.get((owner, name))
        if known is None and sum(api.owner == owner for api in self._shares.apis.values()) >= MAX_APIS:
            raise PyfaasError(Code.CONFLICT, f"an account has at most {MAX_APIS} APIs", hint="remove one")
        if known is not None and len(self.catalogue.versions(known)) >= MAX_VERSIONS:
            raise PyfaasError(Code.CONFLICT, f"an API has at most {MAX_VERSIONS} versions", hint="begin another API")
        return known or Api(id=made.api, owner=owner, name=name, created=made.created)

    def _published(self, caller: Caller, name: str, version: ApiVersion) -> dict[str, Any]:
        return {"owner": caller.account.name, "api": name, **self.catalogue.version_view(version, is_owner=True)}

    async def _remove(self, api: Api) -> list[Subscription]:
        """Remove an API; returns the subscriptions that ended with it."""
        at = self._clock.now()
        await self._store.remove_api(api.id, at)
        ended = [over(s, at) for s in self._shares.subscriptions.values() if s.api == api.id and s.state in LIVING]
        for subscription in ended:
            self._shares.put_subscription(subscription)
        self._shares.drop_api(api)
        lines = [
            line
            for s in ended
            for line in pair(at, AuditKind.REVOKED, Side(api.owner, s.account, api.name), Side(s.account, api.owner, s.name))
        ]
        await self.audit.tell(lines)
        return ended


async def _check_schemas(definition: Definition) -> None:
    """Raise invalid_request for a schema that cannot be used; each takes some milliseconds, and calls go on in between."""
    for i, order in enumerate(definition.operations):
        if order.input is not None:
            Input(order.input, f"operations[{i}].input")
        if order.output is not None:
            check_output(order.output, f"operations[{i}].output")
        await asyncio.sleep(0)


def over(subscription: Subscription, at: float) -> Subscription:
    """Return a subscription as it is kept once it ended: what was stored with it is forgotten."""
    return replace(subscription, state=SubscriptionState.ENDED, ended=at, params={}, network=())


def cursor(item: Mapping[str, Any]) -> str:
    """Return an API's place in the directory."""
    return f"{item['owner']}/{item['api']}"


def retired(path: str, version: str) -> PyfaasError:
    """Return the error of a version that is no more."""
    return PyfaasError(Code.GONE, f"version {version} of the API {path} was retired", hint=f"GET /v1/apis/{path} shows its versions")


def _same(old: ApiVersion, made: ApiVersion, name: str) -> ApiVersion:
    if old.digest != made.digest:
        message = f"version {old.version} of {name!r} is published with other content"
        raise PyfaasError(Code.CONFLICT, message, hint="a published version never changes: give the new content another version")
    return old


def _digest(version: ApiVersion) -> str:
    """Return the hash of what a version says: everything but its API's id and its times."""
    said = {key: value for key, value in asdict(version).items() if key not in ("api", "digest", "state", "sunset", "created", "changed")}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _names(registry: Registry, operation: Operation, number: int) -> bool:
    """Tell whether an operation names a version by its number, or its code id."""
    entry = registry.entries.get(operation.function)
    version = entry.versions.get(number) if entry is not None else None
    return operation.qualifier == str(number) or (version is not None and operation.qualifier == version.code_id)
