"""The values of lending: grants, account aliases, APIs, subscriptions, and what is told of them.

Nothing here does anything; every value is frozen, as in `model`. *Owner* is the account whose code runs, *caller* the one that
runs it. What carries a right is an id, never a name: something that was removed and made again under the same name has another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

from pyfaas.model import AccountId, FunctionId

CallableId = NewType("CallableId", str)  # uuid of what an account calls by name: a function, an account alias or a subscription
GrantId = NewType("GrantId", str)  # uuid
ApiId = NewType("ApiId", str)  # uuid

MAX_HOPS = 8  # account aliases between a call and the function


class Placing(StrEnum):
    """Where a lent function runs; the last two only when both sides asked for them."""

    PAIR = "pair"  # VMs of the ordered accounts, of nobody else
    OWNER = "owner"  # VMs in which the owner's own code runs too
    CALLER = "caller"  # VMs in which the caller's own code runs too


class Payer(StrEnum):
    """Whose quota and usage a lent run is."""

    CALLER = "caller"  # the outermost one
    OWNER = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an owner lends, and how far. Caps hold for each caller; None is no cap.

    `lock` are parameters that the owner sets, `require` those that must be given, `allow` those that a call may give itself although
    the alias stored them. With none of the three any parameter is taken. `secrets` are keys of the owner's that travel along.
    """

    version: int | None = None  # only this one; None: any that the caller names
    lock: Mapping[str, Any] = field(default_factory=dict)
    require: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    max_concurrency: int | None = None
    rate: float | None = None  # runs that begin in a second
    per_day: int | None = None  # runs in a day, UTC
    relend: bool = False  # the caller may lend its alias on
    network: tuple[str, ...] = ()  # destinations that a lent run may reach, at most
    secrets: tuple[str, ...] = ()
    logs: bool = False  # the caller sees what its runs print
    reuse: bool = False  # a container may answer the same alias again
    placement: Placing = Placing.PAIR
    payer: Payer = Payer.CALLER


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A function, or an account alias (`relend`), lent to an account, or to everybody (`caller` None). `ended` is when it was taken back."""

    id: GrantId
    owner: AccountId
    target: CallableId
    name: str  # the target's, as its owner calls it
    caller: AccountId | None
    terms: Terms
    created: float
    ended: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountAlias:
    """A name in `account` for something of `owner`'s, bound to one grant; for something of its own `grant` is None.

    `qualifier` says which version, as in a call; `memory_bytes` and `timeout_ms` are at most the version's. Secrets are kept apart.
    """

    id: CallableId
    account: AccountId
    name: str
    grant: GrantId | None
    owner: AccountId
    target: CallableId
    target_name: str
    qualifier: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    memory_bytes: int | None = None
    timeout_ms: int | None = None
    network: tuple[str, ...] = ()
    placement: Placing = Placing.PAIR
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of an API version: `METHOD path`, and the owner's own function that answers it."""

    name: str
    method: str
    path: str  # with {parameters}
    function: FunctionId
    function_name: str
    qualifier: str | None = None
    input: Mapping[str, Any] | None = None  # JSON Schema of the event
    output: Mapping[str, Any] | None = None  # likewise of the result: told, not checked
    timeout_ms: int | None = None
    description: str = ""


class Access(StrEnum):
    """Who may subscribe to an API."""

    OPEN = "open"
    LISTED = "listed"
    APPROVAL = "approval"


class ApiState(StrEnum):
    """Where an API version stands; a deprecated one answers with a warning, a retired one is gone."""

    PUBLISHED = "published"
    DEPRECATED = "deprecated"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A named set of operations of one owner, in versions."""

    id: ApiId
    owner: AccountId
    name: str
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiVersion:
    """An immutable definition; only `state`, `sunset` and `changed` change. `digest` is the definition's hash."""

    api: ApiId
    version: str
    digest: str
    access: Access
    accounts: tuple[AccountId, ...] = ()  # for listed
    is_public: bool = True  # in the directory
    title: str = ""
    description: str = ""
    terms: Terms = field(default_factory=Terms)
    operations: tuple[Operation, ...] = ()
    state: ApiState = ApiState.PUBLISHED
    sunset: float | None = None  # when a deprecated one is meant to be retired, as its owner told
    created: float
    changed: float


class SubscriptionState(StrEnum):
    """Where a subscription stands; refused and ended are terminal."""

    PENDING = "pending"
    ACTIVE = "active"
    REFUSED = "refused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """An account's right to call an API, under a name of its own: every operation of every version."""

    id: CallableId
    account: AccountId
    name: str
    api: ApiId
    state: SubscriptionState
    params: Mapping[str, Any] = field(default_factory=dict)
    network: tuple[str, ...] = ()
    created: float
    ended: float | None = None


class AuditKind(StrEnum):
    """What the audit trail tells."""

    GRANTED = "granted"
    ACCEPTED = "accepted"
    CALLED = "called"  # detail: count, outcomes; by the minute
    REFUSED = "refused"  # likewise
    REVOKED = "revoked"
    REMOVED = "removed"  # an alias or a subscription, by its holder
    SUBSCRIBED = "subscribed"
    APPROVED = "approved"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One line of one account's side of the trail; `other` is the other side."""

    at: float
    account: AccountId
    kind: AuditKind
    other: AccountId | None
    name: str  # of the function, alias, API or subscription, as this account calls it
    detail: Mapping[str, Any] = field(default_factory=dict)
