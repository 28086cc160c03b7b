"""A lane: everything that the calls of one version under one tenant key share; and a call on its way.

What is constant for an assignment (the LOAD packet, limits, mounts, the network) is made once per lane. A lane of a *way* is for the calls
through one account alias or subscription: its containers live in the VMs of that pair of accounts, and answer nobody else.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pyfaas.calls import Request, Sink
from pyfaas.config import Config
from pyfaas.decisions.downloads import Target
from pyfaas.decisions.quota import Pace
from pyfaas.decisions.staleness import Tally
from pyfaas.model import AccountId, FunctionId, InvocationId, TenantKey, Version
from pyfaas.network import plan
from pyfaas.ports import Mounted
from sandbox.spec import Limits
from sandbox.wire import Flag, Kind, call_packets, packet

if TYPE_CHECKING:
    from pyfaas.service.dispatch import Dispatcher
    from pyfaas.service.registry import Entry
    from pyfaas.service.session import Session
    from pyfaas.service.ways import Use, Way

_MOST_SPARES = 8  # some 3 MiB each
_SMALL = 32 << 10  # bytes of a call, which then is one packet
CODE, ENVIRONMENT = "/app/code", "/app/environment"


class AccountLoad:
    """What one account pays for, running and waiting; `held` are functions (or ways) with calls over a limit, in turn."""

    __slots__ = ("held", "id", "limit", "pace", "running", "waiting")

    def __init__(self, account: AccountId, limit: int, pace: Pace) -> None:
        """Begin idle; `limit` is of runs at once."""
        self.id, self.limit, self.pace = account, limit, pace
        self.running = 0
        self.waiting = 0
        self.held: dict[Entry | Way, deque[Call]] = {}


class Lane:
    """One version under one tenant key."""

    def __init__(
        self, entry: Entry, version: Version, tenant: TenantKey, account_name: str, config: Config, *, way: Way | None = None, network: tuple[str, ...] = ()
    ) -> None:
        """Prepare what every container of the lane is told; `network` is what they may reach."""
        self.entry, self.version, self.tenant, self.way = entry, version, tenant, way
        self.key = (version.function, version.number)
        self.payer = way.payer if way is not None else entry.function.account
        self.is_fresh = way is not None and way.is_fresh  # a container answers one call
        self.network = plan(network) if network else None
        self._plain = way.home if way is not None else tenant
        self.accounts = {entry.function.account, *self._plain.split("+"), *((way.caller,) if way is not None else ())}  # who have a part in it
        self.home = TenantKey(f"{self._plain} {self.network.key}") if self.network is not None else self._plain  # whose VMs
        revision = version.revision
        self.timeout_s = min(revision.timeout_ms, (way and way.timeout_ms) or revision.timeout_ms) / 1000
        self.init_timeout_s = revision.init_timeout_ms / 1000
        self.memory = min(revision.memory_bytes, (way and way.memory_bytes) or revision.memory_bytes)
        self.output_limit, self.log_limit = config.sync_payload, config.log_bytes
        self.limits = Limits(
            memory_bytes=self.memory, tmp_bytes=self.memory // 2, output_bytes=config.sync_payload
        )
        self.mounts = mounts_of(version)
        order = load_order(version, entry.function.name, account_name, config)
        order |= {"awaits": True, "memory_mib": self.memory >> 20, "timeout_ms": round(self.timeout_s * 1000)}
        self.load = packet(Kind.LOAD, json.dumps(order).encode())
        self.waiting: deque[Call] = deque()
        self.coming = 0  # containers being loaded, forked or opened for this lane
        self.promised = 0  # containers that load with their first call sent along
        self.near = ""  # the VM of an older version's containers, beside which these are loaded
        self.is_brought = False  # its code lies there, or nothing more is tried
        self.target: Target | None = None  # where its code goes there; None: not decided yet, or the near store
        self.ahead = 0  # containers wanted before a call asks for them: a version is loaded beside the one that runs
        self.busy = 0
        self.containers = 0
        self.loading = 0  # of the containers, those that have not said yet that they loaded
        self.is_new = True  # nothing ran since it was made, or since a pointer came here
        self.is_gone = False  # it had nothing left, and was forgotten
        self.is_dropped = False  # the version was removed: containers end after their run
        self._second = self._taken = 0  # blanks that were taken in a second of the clock

    def spares(self, now: float) -> int:
        """Return how many blanks its VM is to keep when one was taken at `now`: where each call needs one, as many as a second's calls, to a bound."""
        if not self.is_fresh:
            return 1
        if int(now) != self._second:
            self._second, self._taken = int(now), 0
        self._taken += 1
        return min(_MOST_SPARES, self._taken)

    def lose_network(self) -> None:
        """Let containers that come from now on reach nothing."""
        self.network, self.home = None, self._plain

    @property
    def loaded(self) -> int:
        """How many containers have its code, as far as is known: a promised one is counted when it has begun."""
        return self.containers - self.loading


def mounts_of(version: Version) -> tuple[Mounted, ...]:
    """Return what is attached to a container of a version."""
    mounts = [Mounted(slot="code", store="prepared", name=version.code_id)]
    if version.environment:
        mounts.append(Mounted(slot="environment", store="environments", name=version.environment))
    return tuple(mounts)


def load_order(version: Version, name: str, account: str, config: Config) -> dict[str, Any]:
    """Return the LOAD order of a version, as the runtime reads it."""
    revision = version.revision
    return {
        "do": "load",
        "function": name,
        "version": version.number,
        "account": account,
        "handler": version.handler or revision.handler,
        "shape": (version.shape or revision.shape),
        "code": CODE,
        "paths": [CODE, ENVIRONMENT] if version.environment or revision.requirements else [CODE],
        "env": dict(revision.env),
        "memory_mib": revision.memory_bytes >> 20,
        "timeout_ms": revision.timeout_ms,
        "output_bytes": config.sync_payload,
        "log_bytes": config.log_bytes,
        "pickled": revision.pickled,
    }


class Call:
    """One accepted call; implements `pyfaas.calls.Running`."""

    __slots__ = (
        "account",
        "body",
        "dispatcher",
        "entry",
        "expires",
        "extra",
        "flags",
        "gates",
        "id",
        "init_s",
        "is_cancelled",
        "is_done",
        "is_left",
        "is_revoked",
        "lane",
        "meta",
        "request",
        "requested",
        "session",
        "sink",
        "started",
        "submitted",
        "tally",
        "waits_until",
        "way",
        "why",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        call_id: InvocationId,
        request: Request,
        sink: Sink,
        entry: Entry,
        way: Way | None,
        account: AccountLoad,
        now: float,
    ) -> None:
        """Begin at `now`, monotonic seconds."""
        self.dispatcher, self.id, self.request, self.sink = dispatcher, call_id, request, sink
        self.entry, self.way, self.account = entry, way, account
        self.gates: tuple[Entry | Use, ...] = way.gates if way is not None else entry.gates
        self.body = request.body
        self.flags = 0
        self.meta: Mapping[str, Any] | None = None  # what it carries beside its body
        self.extra = 0  # bytes of that and of its secrets, at most; 0 for nothing of either
        if request.is_bytes:
            self.flags |= Flag.BYTES
        if request.wants_stream:
            self.flags |= Flag.STREAM
        if request.http is not None:
            self.flags |= Flag.HTTP
        if way is not None and way.layers:
            self.flags |= Flag.PARAMS
        self.lane: Lane | None = None
        self.session: Session | None = None
        self.requested: int | None = None
        self.submitted, self.started, self.init_s = now, 0.0, 0.0
        self.expires = now + request.timeout_ms / 1000 if request.timeout_ms is not None else 0.0
        self.tally: Tally | None = None  # where it counts as an older version's answer
        self.waits_until = 0.0
        self.is_done = self.is_left = self.is_cancelled = self.is_revoked = False
        self.why = "idle"

    @property
    def is_plain(self) -> bool:
        """Whether a container may have it before its code is loaded: small, with no deadline but its function's."""
        return not (self.flags & ~Flag.PARAMS or self.request.http or self.expires) and len(self.body) + self.extra <= _SMALL

    @property
    def subject(self) -> Entry | Way:
        """What it takes its turn under while it is held by a limit."""
        return self.entry if self.way is None else self.way

    @property
    def log(self) -> FunctionId | None:
        """Whose log its lines are kept in: the function's, of a lent run its caller's, under the id of what was called, or nobody's."""
        if self.way is None or self.way.is_own:
            return self.entry.function.id
        return FunctionId(self.way.id) if self.way.keeps_logs else None

    def packets(self, deadline: float) -> list[bytes]:
        """Lay the call out for a container that begins it now: secrets are opened here, and not kept.

        `deadline` is in seconds since the epoch; a negative one is that many seconds from when the call begins.
        """
        meta = b""
        if self.extra:
            document, secrets = self.meta, self.dispatcher.secrets_of(self)
            if secrets:
                document = {**(document or {}), "secrets": secrets}
            is_known = self.way is not None and document is self.way.meta
            meta = self.way.encoded if self.way is not None and is_known else msgspec.json.encode(document)
        return call_packets(self.flags, self.id.encode(), deadline, meta, self.body)

    @property
    def executed(self) -> int | None:
        """The version that runs it, once that is decided."""
        return self.lane.version.number if self.lane is not None else None

    def left(self) -> None:
        """Take note that the client has gone."""
        self.dispatcher.client_left(self)

    def cancel(self) -> None:
        """End the call with outcome `cancelled`."""
        self.dispatcher.cancel(self)

    def pause(self) -> None:
        """Stop taking items of a stream; not of one that is being closed, which would never read its end."""
        if self.session is not None and not (self.is_done or self.is_cancelled):
            self.session.box.pause()

    def resume(self) -> None:
        """Go on taking items of a stream."""
        if self.session is not None and not self.is_done:
            self.session.box.resume()


def meta_of(request: Request, way: Way | None) -> Mapping[str, Any] | None:
    """Return what a call carries beside its body, but for secrets; None for a plain one."""
    if way is not None and request.http is None:
        return way.meta
    meta: dict[str, Any] = dict(way.meta) if way is not None else {}
    if request.http is not None:
        meta["http"] = request.http
    if request.qualifier is not None:
        meta["qualifier"] = request.qualifier
    return meta or None
