"""Calls of an API's operations, from a request to what is run: who may, which operation, and the event, checked.

The order of refusals keeps what is private: an API that the caller may not know of is not there; only who may know of it hears that it is
not subscribed, and only a subscriber hears what became of a version and which operations it has. A refused call is counted for the audit trail
and charged to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from pyfaas.decisions.access import require
from pyfaas.decisions.inputs import MAX_EVENT_BYTES
from pyfaas.decisions.operations import event_of, match
from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Caller, Scope
from pyfaas.service.apis import Apis, retired
from pyfaas.service.inputs import Input, encoded, parsed
from pyfaas.service.shares import Shares
from pyfaas.sharing import Api, ApiState, ApiVersion, Operation, Subscription, SubscriptionState

_MAX_COMPILED = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is run: `name` is SUBSCRIPTION/OPERATION; `headers` are for the answer, whatever becomes of the call."""

    name: str
    version: str | None
    body: bytes
    is_bytes: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a request says beside whose it is: `path` in its encoded form without the first slash, `query` decoded and in order."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    body: bytes
    is_json: bool


class Operations:
    """Prepares calls; runs none."""

    def __init__(self, shares: Shares, apis: Apis) -> None:
        """Look into what is lent."""
        self._shares, self._apis, self._catalogue = shares, apis, apis.catalogue
        self._compiled: dict[tuple[str, str], Input] = {}  # (an API version's digest, an operation's name)

    def prepare(
        self, caller: Caller, api_path: tuple[str, str, str], method: str, path: str, *, query: Sequence[tuple[str, str]], body: bytes, is_json: bool
    ) -> Prepared:
        """Return what a request below an API's version runs.

        `api_path` is its owner (name or id), name and version; `path` the rest in its encoded form, without the first slash; `query` is
        decoded and in order. Raises not_allowed; not_found; gone; method_not_allowed, with evidence `allowed`; invalid_event; payload_too_large.
        """
        require(caller, Scope.INVOKE)
        owner, name, version = api_path
        api = self._catalogue.seen(caller.account.id, owner, name, version)
        try:
            asked = _Asked(method=method, path=path, query=query, body=body, is_json=is_json)
            return self._prepared(api, version, self._subscription(caller, api), asked)
        except PyfaasError as error:
            self._refused(caller, api, error)
            raise

    def checked(self, caller: Caller, name: str, body: bytes, *, version: str | None = None, is_json: bool = True) -> Prepared:
        """Return a call of SUBSCRIPTION/OPERATION by name, checked by the version that is named, else by the newest that has it.

        Who may call it, and that it is there at all, is for whoever runs it to say. Raises invalid_event or payload_too_large.
        """
        found = self._named(caller, name, version)
        if found is None:
            return Prepared(name=name, version=version, body=body)
        api, by, operation = found
        try:
            return Prepared(name=name, version=by.version, body=self._checked(by, operation, body, is_json=is_json), headers=warnings(by))
        except PyfaasError as error:
            self._refused(caller, api, error)
            raise

    def version_of(self, caller: Caller, name: str) -> str | None:
        """Return the newest API version that has SUBSCRIPTION/OPERATION, None when there is none."""
        found = self._named(caller, name, None)
        return found[1].version if found is not None else None

    def event_of(self, caller: Caller, name: str, version: str | None, body: bytes) -> bytes:
        """Return the event of a call by name; raises as `checked` does."""
        return self.checked(caller, name, body, version=version).body

    # ---- inside

    def _subscription(self, caller: Caller, api: Api) -> Subscription:
        """Return the caller's active subscription; raises not_allowed, or gone for one that ended."""
        found, path = self._catalogue.last(caller.account.id, api), self._catalogue.path(api)
        hint = f"pyfaas api subscribe {path} --as NAME"
        if found is None:
            raise PyfaasError(Code.NOT_ALLOWED, f"this account is not subscribed to the API {path}", hint=hint)
        if found.state is SubscriptionState.PENDING:
            raise PyfaasError(Code.NOT_ALLOWED, f"the subscription of the API {path} is pending", hint="its owner has to approve it")
        if found.state is SubscriptionState.REFUSED:
            raise PyfaasError(Code.NOT_ALLOWED, f"the owner of the API {path} refused the subscription", hint="ask its owner")
        if found.state is SubscriptionState.ENDED:
            raise PyfaasError(Code.GONE, f"the subscription of the API {path} has ended", hint=hint)
        return found

    def _prepared(self, api: Api, named: str, subscription: Subscription, asked: _Asked) -> Prepared:
        version = self._catalogue.versions(api)[named]
        if version.state is ApiState.RETIRED:
            raise retired(self._catalogue.path(api), version.version)
        found = match(version.operations, asked.method, asked.path)
        if found.operation is None:
            if found.allowed:
                possible = ", ".join(found.allowed)
                raise PyfaasError(Code.METHOD_NOT_ALLOWED, f"{asked.method} is not possible here; {possible} are", evidence={"allowed": possible})
            raise not_found("operation at", "/" + asked.path[:200])
        body = self._event(version, found.operation, found.parameters or {}, asked)
        return Prepared(
            name=f"{subscription.name}/{found.operation.name}",
            version=version.version,
            body=body,
            is_bytes=not asked.is_json and bool(asked.body),
            headers=warnings(version),
        )

    def _event(self, version: ApiVersion, operation: Operation, bound: Any, asked: _Asked) -> bytes:
        """Return the event's text: the body as it came where nothing joins it."""
        if not bound and not asked.query:
            return self._checked(version, operation, asked.body, is_json=asked.is_json)
        if asked.body and not asked.is_json:
            raise _no_json()
        event = event_of(operation.input, bound, asked.query, parsed(_bounded(operation, asked.body)))
        text = encoded(event)
        if operation.input is not None:
            self._input(version, operation).check(event, text)
        return text

    def _checked(self, version: ApiVersion, operation: Operation, body: bytes, *, is_json: bool) -> bytes:
        if operation.input is None:
            return body
        if body and not is_json:
            raise _no_json()
        self._input(version, operation).check(parsed(_bounded(operation, body)), body or b"{}")
        return body

    def _input(self, version: ApiVersion, operation: Operation) -> Input:
        key = (version.digest, operation.name)
        found = self._compiled.get(key)
        if found is None:
            if len(self._compiled) >= _MAX_COMPILED:
                self._compiled.clear()
            found = self._compiled[key] = Input(operation.input or {}, "input")
        return found

    def _named(self, caller: Caller, name: str, version: str | None) -> tuple[Api, ApiVersion, Operation] | None:
        """Return what SUBSCRIPTION/OPERATION is: of the version that is named, else of the newest that has it, as `ways` finds it."""
        subscriber, _, wanted = name.partition("/")
        subscription = self._shares.subscription_names.get((caller.account.id, subscriber))
        api = self._shares.apis.get(subscription.api) if subscription is not None else None
        if api is None:
            return None
        living = [v for v in self._catalogue.versions(api).values() if v.state is not ApiState.RETIRED and version in (None, v.version)]
        for each in sorted(living, key=lambda v: v.created, reverse=True):
            for operation in each.operations:
                if operation.name == wanted:
                    return api, each, operation
        return None

    def _refused(self, caller: Caller, api: Api, error: PyfaasError) -> None:
        me, audit = caller.account.id, self._apis.audit
        audit.refused(me, api.owner if api.owner != me else None, self._catalogue.path(api), error.code.value)
        if api.owner != me:
            audit.refused(api.owner, me, api.name, error.code.value)


def warnings(version: ApiVersion) -> dict[str, str]:
    """Return the headers that an answer of a deprecated version has: Deprecation, and Sunset (RFC 8594) when it was told."""
    if version.state is not ApiState.DEPRECATED:
        return {}
    sunset = {"Sunset": formatdate(version.sunset, usegmt=True)} if version.sunset is not None else {}
    return {"Deprecation": "true", **sunset}


def _bounded(operation: Operation, body: bytes) -> bytes:
    """Raise payload_too_large before a body that is checked is even read."""
    if operation.input is not None and len(body) > MAX_EVENT_BYTES:
        evidence = {"limit": "validated event", "value": MAX_EVENT_BYTES, "observed": len(body), "unit": "bytes"}
        message = f"the body has {len(body)} bytes; {MAX_EVENT_BYTES} are checked by a schema at most"
        raise PyfaasError(Code.PAYLOAD_TOO_LARGE, message, evidence=evidence)
    return body


def _no_json() -> PyfaasError:
    return PyfaasError(
        Code.INVALID_EVENT, "this operation takes JSON", hint="send Content-Type: application/json", evidence={"pointer": "", "rule": "json"}
    )
