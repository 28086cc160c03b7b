"""The values that pyfaas is about: accounts, functions, versions, pointers, invocations.

Nothing here does anything; every value is frozen. Times are seconds since the epoch (float),
durations milliseconds, sizes bytes; the unit is in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

import msgspec

AccountId = NewType("AccountId", str)  # 12 digits
FunctionId = NewType("FunctionId", str)  # uuid
InvocationId = NewType("InvocationId", str)  # uuid7 text
TenantKey = NewType("TenantKey", str)  # whom a VM is dedicated to: see service/ways.py


class Scope(StrEnum):
    """What a token may do; `admin` is the operator's and includes all."""

    INVOKE = "invoke"
    DEPLOY = "deploy"
    READ = "read"
    ADMIN = "admin"


class Shape(StrEnum):
    """How a handler is called."""

    EVENT = "event"
    TYPED = "typed"
    ASGI = "asgi"


class VersionState(StrEnum):
    """How far a version's preparation is."""

    STORED = "stored"
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"


class Outcome(StrEnum):
    """How an invocation ended: a closed set."""

    OK = "ok"
    ERROR = "error"
    INIT_ERROR = "init_error"
    TIMEOUT = "timeout"
    OOM = "oom"
    LIMIT = "limit"
    FORBIDDEN_SYSCALL = "forbidden_syscall"
    CRASHED = "crashed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    LOST = "lost"


class JobState(StrEnum):
    """Where an asynchronous invocation stands; all but queued and running are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OOM = "oom"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StalePolicy:
    """Whether, and how far, an older version may answer for the one that was named; None: this level says nothing of it.

    Said by account, function, release alias and request, and merged by `decisions/staleness.py`. Times are milliseconds
    since the pointer moved, `stale_percent` is a share of the answers since then.
    """

    stale: str | None = None  # allow | forbid
    max_stale_time_ms: int | None = None
    max_stale_requests: int | None = None
    stale_percent: int | None = None
    min_version: int | None = None
    max_wait_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What an account may have running and begin, whoever it runs; None: what the server's options say, 0: no limit (but of `concurrency`)."""

    concurrency: int | None = None  # runs at once
    rate: float | None = None  # runs that begin in a second
    per_day: int | None = None  # runs in a day, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An owner of functions; the unit of isolation. `network`: its functions may reach what they list."""

    id: AccountId
    name: str
    network: bool = True
    created: float
    policy: StalePolicy = field(default_factory=StalePolicy)
    quota: Quota = field(default_factory=Quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token as kept: only the sha256 of its text. `expires` and `revoked` are None or times."""

    id: str
    account: AccountId
    digest: bytes
    scopes: frozenset[Scope]
    label: str = ""
    created: float
    expires: float | None = None
    revoked: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, after authentication."""

    account: Account
    token: Token

    def may(self, scope: Scope) -> bool:
        """Whether the token carries the scope."""
        return scope in self.token.scopes or Scope.ADMIN in self.token.scopes


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Retries of an asynchronous run after the first attempt."""

    max: int = 2
    initial_ms: int = 1000
    factor: float = 2.0
    max_delay_ms: int = 300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a version's code id covers beside its bundle: a change of any of these is a new version."""

    handler: str | None = None  # None: found by the rules of interface.md at the probe
    shape: Shape | None = None  # None: found at the probe
    memory_bytes: int = 256 << 20
    timeout_ms: int = 30_000
    init_timeout_ms: int = 60_000
    requirements: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    network: tuple[str, ...] = ()
    pickled: bool = False  # the bundle holds function.pkl from a notebook or __main__


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(StalePolicy):
    """Settings of a function, in force at once for all its versions."""

    concurrency: int = 20
    public: bool = False
    idempotent: bool = False
    retries: Retries = field(default_factory=Retries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a version failed: a code and a sentence, with the end of the build's log."""

    code: str
    message: str
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A revision with a number. `environment` names the dependency environment once it is known."""

    function: FunctionId
    number: int
    code_id: str
    bundle: str  # "sha256-…" of the bundle's content
    size_bytes: int
    revision: Revision
    state: VersionState
    reason: Reason | None = None
    created: float
    withdrawn: bool = False
    handler: str | None = None  # as the probe found it
    shape: Shape | None = None
    generator: bool = False
    environment: str | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A named piece of deployable code of one account."""

    id: FunctionId
    account: AccountId
    name: str
    settings: Settings
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PointerMove:
    """One move of `latest` or of a release alias; `weights` maps one further version to its whole percents."""

    function: FunctionId
    pointer: str
    seq: int
    version: int
    at: float
    weights: Mapping[int, int] = field(default_factory=dict)
    policy: StalePolicy = field(default_factory=StalePolicy)


class CanaryState(StrEnum):
    """Where a canary stands; all but waiting and running are ends."""

    WAITING = "waiting"  # for its version to be ready
    RUNNING = "running"
    PROMOTED = "promoted"
    BACK = "back"
    ENDED = "ended"  # by a move of somebody's hand, or a version that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A release alias on its way from `base` (None: it named nothing) to `version`, a step of weight at a time.

    `percent` is the first step's weight; 100 goes there at once. `since` is when the step began (seconds since the epoch), `runs` and
    `faults` count executed runs of `version` since the canary began; `seq` is the pointer move that it made last.
    """

    function: FunctionId
    pointer: str
    version: int
    base: int | None
    state: CanaryState
    percent: int = 100
    promote_after_ms: int = 0
    error_budget: float = 1.0  # percent of the runs
    step: int = 0
    since: float = 0.0
    runs: int = 0
    faults: int = 0
    seq: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryOrder:
    """What a publication asks of a release alias: that it moves to the new version, at once (100) or step by step."""

    pointer: str
    percent: int = 100
    promote_after_ms: int = 300_000
    error_budget: float = 1.0


class EventKind(StrEnum):
    """What is told of a function's versions."""

    STORED = "stored"
    PREPARING = "preparing"  # detail: step (fetch | lock | install | compile | probe), done, total
    PREPARED = "prepared"
    FAILED = "failed"  # detail: code, message
    DOWNLOADED = "downloaded"  # detail: target, vm, bytes
    FIRST_RUN = "first_run"  # the first run of a version since a pointer named it
    CUT_OVER = "cut_over"  # detail: pointer
    OLD_GONE = "old_gone"  # its last container ended
    MOVED = "moved"  # detail: pointer, version, weights
    ROLLED_BACK = "rolled_back"  # detail: pointer, from, reason
    PROMOTED = "promoted"  # detail: pointer
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a version, for whoever watches a deploy."""

    at: float
    function: FunctionId
    version: int
    kind: EventKind
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at an asynchronous invocation."""

    n: int
    started: float
    finished: float | None = None
    requested: int | None = None
    executed: int | None = None
    outcome: Outcome | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An asynchronous invocation as stored. `result` is the answer's bytes, JSON unless `result_is_bytes`."""

    id: InvocationId
    account: AccountId
    function: FunctionId
    name: str
    qualifier: str | None
    event: bytes
    event_is_bytes: bool
    state: JobState
    due: float
    created: float
    deadline: float | None = None
    finished: float | None = None
    outcome: Outcome | None = None
    attempts: tuple[Attempt, ...] = ()
    lost: int = 0  # attempts lost to a platform failure; they do not count against retries
    result: bytes | None = None
    result_is_bytes: bool = False
    error: Mapping[str, Any] | None = None
    fence: int = 0
    replay_of: InvocationId | None = None
    way: str = ""  # the account alias or subscription that it was called by, by id; `function` is what that led to


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a function's log, or of a version's build (`invocation` None)."""

    at: float
    function: FunctionId
    version: int
    invocation: InvocationId | None
    stream: str  # out | err | log | platform | build
    line: str


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one run, or one idle, init or build stretch, used; `kind` is call | init | idle | build.

    `count` 0 adds to what other rows counted: processor time that was found later, say. One is made for every call: a Struct is made
    in a sixth of a dataclass's time.
    """

    kind: str
    at: float
    account: AccountId  # the payer
    caller: AccountId
    owner: AccountId
    function: FunctionId
    version: int
    invocation: InvocationId | None
    outcome: Outcome | None
    way: str = ""  # the account alias or subscription, by id
    operation: str = ""  # of an API
    wall_us: int = 0
    cpu_us: int = 0
    memory_bytes: int = 0  # that it may use
    peak_bytes: int = 0  # the highest that was seen
    bytes_in: int = 0
    bytes_out: int = 0
    net_in: int = 0  # from the network, by egress
    net_out: int = 0
    connections: int = 0
    count: int = 1  # runs or stretches that the row stands for
