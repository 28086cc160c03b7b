"""Ports: what the service needs of the world, as protocols; the adapters implement them, tests fake them.

A second machine attaches here later (another Store, Queue, Bundles): nothing above may know where a VM is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pyfaas.model import (
    Account,
    AccountId,
    Attempt,
    Canary,
    Event,
    Function,
    FunctionId,
    InvocationId,
    Job,
    JobState,
    LogLine,
    Outcome,
    PointerMove,
    Token,
    UsageRow,
    Version,
)
from pyfaas.network import NetworkPlan
from pyfaas.sharing import AccountAlias, Api, ApiId, ApiVersion, AuditLine, CallableId, Grant, GrantId, Subscription
from sandbox.spec import Ending, Layer, Limits, Usage

Kept = Literal["logs", "build_logs", "events", "jobs", "usage", "audit"]  # what is kept for a while only


class Clock(Protocol):
    """Time, injected. Both in seconds."""

    def now(self) -> float:
        """Wall clock, since the epoch."""

    def monotonic(self) -> float:
        """A clock that only goes forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that the in-memory registry holds, as loaded at the start (tombstones left out)."""

    accounts: Sequence[Account]
    tokens: Sequence[Token]
    functions: Sequence[Function]
    versions: Sequence[Version]
    moves: Sequence[PointerMove]
    canaries: Sequence[Canary] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What belongs to one state of the database: names of bundles, of prepared trees and environments, and a few counts."""

    schema: int
    counts: Mapping[str, int]
    bundles: tuple[str, ...]
    prepared: tuple[str, ...]
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSum:
    """How many runs one payer had of a function for a caller, by one way ("": directly), and the bytes they moved over the network."""

    account: AccountId
    caller: AccountId
    owner: AccountId
    function: FunctionId
    way: CallableId
    calls: int
    net_bytes: int


class Store(Protocol):
    """Durable state. A returned write is on the disk (synchronous=FULL), except what is added or counted in batches.

    Raises PyfaasError with `conflict` for a taken name, `storage_full` when the disk is full; no driver's exception leaves.
    """

    async def load(self) -> Snapshot: ...
    async def add_account(self, account: Account, token: Token | None) -> None: ...
    async def set_account(self, account: Account) -> None:
        """Replace an account's staleness policy, quota and whether it may use the network."""

    async def remove_account(self, account: AccountId, at: float) -> None: ...
    async def add_token(self, token: Token) -> None: ...
    async def revoke_token(self, token_id: str, at: float) -> None: ...
    async def publish(
        self, function: Function, version: Version | None, move: PointerMove | None, canary: Canary | None = None
    ) -> None:
        """Write a new or changed function, with a new version, the move of `latest` and a canary when given, in one transaction."""

    async def set_version(self, version: Version) -> None:
        """Replace a version's mutable part: state, reason, handler, shape, generator, environment, deleted."""

    async def move_pointer(self, move: PointerMove, withdrawn: Mapping[int, bool] = ..., canary: Canary | None = None) -> None:
        """Keep a move, in one transaction with which versions are withdrawn (True) or not, and how its canary now stands."""

    async def set_canary(self, canary: Canary) -> None:
        """Keep a pointer's canary, in place of the one before."""

    async def count_canaries(self, canaries: Sequence[Canary]) -> None:
        """Keep the counts of canaries that still stand as they did (a batch)."""

    async def remove_pointer(self, function: FunctionId, pointer: str) -> None:
        """Remove a pointer and its canary."""

    async def remove_function(self, function: FunctionId, at: float) -> None: ...
    async def add_usage(self, rows: Sequence[UsageRow]) -> None: ...
    async def usage(self, account: AccountId | None, since: float, until: float) -> Sequence[Mapping[str, Any]]:
        """Sum what an account pays for, called, or owns, by day (an ISO date, UTC), kind, payer, caller, owner, function, way and operation.

        None is every account. `outcomes` is a mapping, `calls` counts only kind `call`; names are those at their removal when they are gone,
        as `removed` and `way_removed` tell. Minutes from the one of `since` to before `until`.
        """

    async def calls_since(self, minute: int) -> Sequence[CallSum]:
        """Count runs and bytes over the network since a minute (of the epoch): what quotas of a day begin with."""

    async def add_logs(self, lines: Sequence[LogLine]) -> None: ...
    async def logs(
        self,
        function: FunctionId,
        *,
        version: int | None = None,
        invocation: InvocationId | None = None,
        since: float = 0.0,
        build: bool = False,
        after: int = 0,
        limit: int = 1000,
    ) -> Sequence[tuple[int, LogLine]]:
        """Return (cursor, line) in order; `after` is the last cursor seen."""

    async def add_events(self, events: Sequence[tuple[int, Event]]) -> None:
        """Append events with their cursors (a batch)."""

    async def events(self, function: FunctionId, after: int, version: int | None, limit: int) -> Sequence[tuple[int, Event]]:
        """Return (cursor, event) in order after a cursor; of `version`, those that are about it or give it a weight."""

    async def last_event(self) -> int:
        """Return the highest cursor of an event, 0 when there is none."""

    async def trim(self, kind: Kept, before: float) -> int:
        """Delete a batch of what is older than `before`, jobs with their results; returns how many rows went."""

    async def fold_usage(self, before: float) -> int:
        """Sum a batch of older minutes to hours, exactly; returns how many rows went."""

    async def cap_logs(self, limit: int) -> int:
        """Delete a batch of the oldest lines of an account whose logs take more than `limit` bytes; returns how many."""

    async def shrink(self, pages: int) -> None:
        """Give at most so many unused pages back to the file system."""

    async def needed(self) -> Mapping[str, Collection[str]]:
        """Return the names of what living versions need, by store."""

    async def close(self) -> None: ...


class Locks(Protocol):
    """What requirements resolved to, durable. Raises as Store does."""

    async def keep(self, function: FunctionId, version: int, environment: str, lock: str) -> None:
        """Keep a lock's text, and that a version has the environment that is made of it, in one transaction."""

    async def text(self, environment: str) -> str | None:
        """Return an environment's lock, if it is known."""

    async def trim(self) -> int:
        """Forget the locks of environments that no living version has; returns how many."""


class Sharing(Protocol):
    """Grants, account aliases and the audit trail, durable when a method returns. Raises as Store does; `conflict` for a taken name."""

    async def load(self) -> tuple[Sequence[Grant], Sequence[AccountAlias]]:
        """Return all grants, ended ones too, and the living aliases."""

    async def put_grant(self, grant: Grant) -> None:
        """Keep a grant, new or with other terms. Raises gone for one that ended."""

    async def put_alias(self, alias: AccountAlias, replaces: CallableId | None = None) -> None:
        """Keep an alias, new or with another binding, in one transaction with the end of the one that it replaces.

        Raises gone for one that was removed.
        """

    async def end(self, grants: Collection[GrantId], aliases: Collection[CallableId], at: float) -> None:
        """End grants and remove aliases, in one transaction; the first time counts. Terms and parameters are forgotten."""

    async def add_audit(self, lines: Sequence[AuditLine]) -> None:
        """Append lines (a batch, as logs are)."""

    async def audit(self, account: AccountId, after: int, limit: int) -> Sequence[tuple[int, AuditLine]]:
        """Return (cursor, line) of an account's side, in order after a cursor."""


class Apis(Protocol):
    """APIs, their versions and subscriptions, durable when a method returns. Raises as Store does; `conflict` for a taken name."""

    async def load(self) -> tuple[Sequence[Api], Sequence[ApiVersion], Sequence[Subscription]]: ...
    async def publish(self, api: Api, version: ApiVersion) -> None:
        """Keep a version, and its API when that is new, in one transaction."""

    async def set_version(self, version: ApiVersion) -> None:
        """Keep a version's state, `sunset` and `changed`."""

    async def remove_api(self, api: ApiId, at: float) -> None:
        """Remove an API and end its subscriptions, in one transaction."""

    async def put_subscription(self, subscription: Subscription) -> None:
        """Keep a subscription, new or changed; its name is free once it ended or was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A secret as it is kept: `sealed` is nonce and ciphertext under the key `key_id`, bound to the owner's id and the secret's key."""

    owner: str  # id of a function, an account alias or a subscription
    key: str
    key_id: str
    sealed: bytes
    at: float


class Vault(Protocol):
    """Sealed secrets, durable when a method returns. Raises as Store does."""

    async def load(self) -> Sequence[Sealed]: ...
    async def put(self, sealed: Sequence[Sealed]) -> None:
        """Keep secrets, in one transaction, each in place of one with its owner and key."""

    async def replace(self, owner: str, sealed: Sequence[Sealed]) -> None:
        """Keep these in place of all that an owner has, in one transaction."""

    async def remove(self, owner: str, key: str | None = None) -> None:
        """Remove a secret, or all of an owner's."""


class Keyring(Protocol):
    """The keys that secrets are sealed with; one of them is current. Every change is on the disk when a method returns."""

    current: str | None  # the id of the key that seals; None where none can be had
    is_fixed: bool  # the operator keeps the keys: none is made or removed here

    def seal(self, owner: str, key: str, value: str, at: float) -> Sealed:
        """Seal a value under the current key, bound to its owner, its key and the key's id. Raises not_ready without a key."""

    def open(self, sealed: Sealed) -> str:
        """Return the value. Raises internal, with no part of it, when its key is gone or it was sealed for somebody else."""

    def ids(self) -> Sequence[str]:
        """Return the ids of all keys, the current one first."""

    def renew(self) -> str:
        """Make a new current key and return its id; those before stay. Raises conflict where the keys are fixed, storage_full or internal."""

    def retire(self, used: Collection[str]) -> Sequence[str]:
        """Remove the keys that are neither current nor used; returns their ids. Raises storage_full or internal."""


class Egress(Protocol):
    """The way out of VMs: takes their doors, and tells what they used and what was refused."""

    on_used: Callable[[str, int, int, int], None]  # VM, and since the last time: bytes in, bytes out, connections
    on_refused: Callable[[str, str], None]  # VM, a sentence that names the entry which is missing

    def open(self, vm: str, plan: NetworkPlan, doors: Sequence[int]) -> None:
        """Let what comes through a VM's doors reach what the plan allows; the descriptors are duplicated, and kept for an egress that is started anew."""

    def close(self, vm: str) -> None:
        """Close a VM's doors and connections."""


class Queue(Protocol):
    """Durable asynchronous invocations. Every method is one transaction."""

    async def put(self, job: Job) -> None:
        """Keep a job; durable when it returns (before the 202)."""

    async def claim(self, limit: int, now: float, instance: str) -> Sequence[Job]:
        """Take due jobs, oldest first: queued → running with a new fence and a new attempt."""

    async def finish_attempt(
        self, job_id: InvocationId, fence: int, attempt: Attempt, state: JobState, usage: Sequence[UsageRow] = (), **ended: Any
    ) -> bool:
        """Record an attempt's end and the job's next state (`due`, `outcome`, `result`, `result_is_bytes`, `error`, `lost`), with its usage.

        False when the fence is stale or the job is terminal: the first terminal write wins; the usage is kept all the same.
        """

    async def cancel(self, job_id: InvocationId, at: float) -> Job | None: ...
    async def get(self, job_id: InvocationId) -> Job | None: ...
    async def list(
        self, account: AccountId, *, state: JobState | None = None, after: str = "", limit: int = 100
    ) -> Sequence[Job]: ...
    async def next_due(self) -> float | None: ...
    async def queued(self) -> int:
        """Count the jobs that wait for an attempt."""

    async def recover(self, instance: str, now: float, max_lost: int = 3) -> int:
        """At start: attempts of other instances become `lost` and their jobs queued again; returns how many."""

    async def cancel_function(self, function: FunctionId, at: float) -> Sequence[InvocationId]:
        """Cancel the queued jobs of a removed function."""

    async def cancel_way(self, way: CallableId, at: float) -> Sequence[InvocationId]:
        """Cancel the queued jobs of an account alias or a subscription that ended."""


@dataclass(slots=True)
class Transfers:
    """How much was brought from where bundles are kept to the near store, since the start; a failed one's bytes count too."""

    running: int = 0
    finished: int = 0
    failed: int = 0
    bytes: int = 0


class Bundles(Protocol):
    """Bundles by content hash, as the zip that was uploaded and checked.

    They may be kept elsewhere. `path_name` brings one to the near store, the data directory's `bundles`, once for all who ask
    at the same time. Its errors have evidence: `bundle` is `unreachable` (passing), `corrupt` or `missing`.
    """

    transfers: Transfers

    async def put(self, digest: str, packed: bytes) -> None:
        """Keep a bundle; durable when it returns. Raises storage_full, not_ready where it cannot be kept now, or internal."""

    async def has(self, digest: str) -> bool: ...
    async def path_name(self, digest: str, told: Callable[[int, int], None] | None = None) -> str:
        """Return the file's name inside the `bundles` store, for a launcher to attach. It is there until it is released.

        `told` hears how many bytes have come, and of how many, when any have to. Raises not_found, not_ready, storage_full or
        internal.
        """

    async def release(self, digest: str) -> None:
        """Say, once for each `path_name` that returned, that the file is not needed near any more."""

    async def remove(self, digest: str) -> None: ...
    async def names(self) -> Collection[str]:
        """Return the bundles that are there, by digest."""

    async def remove_unused(self, digest: str) -> None:
        """Remove a bundle, unless it was put since the call of `names` before the last."""



@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """Code to be attached to a container: (slot, store, name) each.

    In the store `vm`, the VM's own files, a name is that of a kept entry and a directory in it, `entry/code`, or of a staged one.
    """

    slot: str
    store: str
    name: str
    writable: bool = False


class Container(Protocol):
    """A confined process that waits for code; owned by the adapter, chosen by placement."""

    id: str
    vm: str
    on_packet: Callable[[bytes], None]
    on_end: Callable[[Ending], None]

    def send(self, packets: Iterable[bytes]) -> None: ...
    def limit(self, limits: Limits) -> None: ...
    def usage(self) -> Usage: ...
    def cpu_ns(self) -> int:
        """Return the process's own CPU time, in nanoseconds, without its children (see architecture.md)."""

    def read_logs(self) -> tuple[bytes, bytes]:
        """Return what waits in its two log pipes, without blocking."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def kill(self) -> None: ...
    async def attach(self, mounts: Sequence[Mounted]) -> None: ...
    def attach_nowait(self, mounts: Sequence[Mounted], done: Callable[[Exception | None], None]) -> None:
        """Attach, and call `done` with what went wrong, or None: a first call waits for no task."""



class Trees(Protocol):
    """What containers see, by name: the stores `prepared` and `environments`."""

    async def names(self, store: str) -> Collection[str]: ...


class Backups(Protocol):
    """Backups of everything that is kept."""

    def read(self, now: float) -> AsyncGenerator[bytes, None]:
        """Yield a backup's bytes; `now` is told in it. Raises storage_full or internal; a stream that raised is no backup."""


class Workers(Protocol):
    """VMs and containers, wherever they are. Raises PyfaasError no_capacity when nothing can be made."""

    on_lost: Callable[[], None]  # the launcher ended, and every VM with it
    on_vm_lost: Callable[[str], None]  # one VM ended, by itself or because it was closed

    async def open_vm(self, *, network: NetworkPlan | None = None, limits: Limits | None = None) -> tuple[str, Container]:
        """Make an unassigned VM with one blank container in it; with a plan, one that reaches what that allows, for as long as it lives."""

    async def weigh(self, vm: str, *, is_background: bool) -> None:
        """Let a VM run when nobody else wants the processors, or as any other."""

    async def fork(self, vm: str, *, is_hurried: bool = False) -> Container: ...
    async def close_vm(self, vm: str) -> None: ...
    async def replace(self, vm: str, container: str) -> Container:
        """Kill all that is in a container and put a blank in its place, with a blank's limits and the same id.

        The old one's `on_end` is called first. When it fails the container is gone.
        """

    async def stage(self, vm: str, name: str, *, inside: bool = False) -> None:
        """Make a directory that the VM's code may write when it is attached: in the staging store, or in the VM's own files."""

    async def keep(self, vm: str, staged: str, name: str) -> None:
        """Give a directory of the VM's own files its final name; who wrote it ends, and it never changes any more."""

    async def forget(self, vm: str, name: str) -> None:
        """Remove a directory of the VM's own files; refused while a container has one attached that is kept."""


    async def commit(self, staged: str, store: str, name: str) -> None: ...
    async def discard(self, store: str, name: str) -> None: ...
    def layers(self) -> Sequence[Layer]: ...


__all__ = [
    "Attempt",
    "Backups",
    "Bundles",
    "CallSum",
    "Clock",
    "Container",
    "Contents",
    "Keyring",
    "Locks",
    "Mounted",
    "Outcome",
    "Queue",
    "Snapshot",
    "Store",
    "Trees",
    "Workers",
]
