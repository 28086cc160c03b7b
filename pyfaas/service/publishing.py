"""From an upload to a version that is ready, or that says why it failed.

`publish` checks and keeps the bundle, decides what it means, and returns; preparing goes on beside the version
that answers. Everything that touches the bundle's content runs in a confined container of a VM that holds nothing
else: unpacking, installing, compiling, and the import that finds the handler's shape. A version that a crash left
half prepared is prepared again at the next start.

    stored     durable, with its bundle; without `preload` it stays so until the first call that names it
    preparing  begun; after a restart it is gone on with, whatever `preload` says
    ready      every file is in place, and was loaded once
    failed     with a reason; published again, it is prepared again
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from pyfaas.bundle import BundleError, inspect_packed
from pyfaas.config import Config
from pyfaas.decisions import publish
from pyfaas.decisions.access import require
from pyfaas.decisions.canary import ordered
from pyfaas.decisions.exits import permit
from pyfaas.decisions.routing import LATEST
from pyfaas.errors import Code, PyfaasError
from pyfaas.manifest import Bounds, code_id, parse
from pyfaas.model import (
    Account,
    Caller,
    Canary,
    CanaryOrder,
    EventKind,
    Function,
    FunctionId,
    PointerMove,
    Reason,
    Scope,
    Settings,
    Shape,
    Version,
    VersionState,
)
from pyfaas.names import check_name
from pyfaas.ports import Bundles, Clock, Store, Transfers
from pyfaas.service.dialogue import PreparationFailed, lost
from pyfaas.service.environments import Environments, is_lock_kept
from pyfaas.service.happenings import Happenings
from pyfaas.service.preparing import Preparing
from pyfaas.service.registry import Entry, Registry
from sandbox.errors import SandboxError

log = logging.getLogger(__name__)
_ATTEMPTS = 3
_BACK_OFF_S = 1.0
_STORE_S = 2.0
_CORRUPT = "bundle_corrupt"
_BROKEN = Reason(code="internal", message="a defect of the server ended its preparation; the server's log has the cause")
_LATER = frozenset({Code.STORAGE_FULL, Code.INTERNAL, Code.NOT_READY})  # the last: a successor writes, or nobody does and we go on


class Publisher:
    """Owns the preparations. `prepared` is told of each version that became ready or failed."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        store: Store,
        bundles: Bundles,
        preparing: Preparing,
        environments: Environments,
        clock: Clock,
        happenings: Happenings,
    ) -> None:
        """Prepare through `preparing`, at most `config.builds` at once."""
        self._config, self._registry, self._store, self._bundles = config, registry, store, bundles
        self._preparing, self._environments, self._clock, self._happenings = preparing, environments, clock, happenings
        self.prepared: Callable[[Entry, Version], None] = lambda _entry, _version: None
        self._gate = asyncio.Semaphore(config.builds)
        self._running: dict[tuple[FunctionId, int], asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._keeping: Counter[str] = Counter()  # digest → uploads of it that are under way

    def resume(self) -> int:
        """Start what an earlier server left unprepared; returns how many. What waits for its first call goes on waiting."""
        begun = {VersionState.PREPARING, *([VersionState.STORED] if self._config.preload else [])}
        running = self._running
        left = [(e, v) for e, v in self._registry.all_versions() if v.state in begun and (v.function, v.number) not in running]
        for entry, version in left:
            self.prepare(entry, version)
        return len(left)

    @property
    def is_preparing(self) -> bool:
        """Whether any version is being prepared: files of no version yet are being made."""
        return bool(self._running)

    @property
    def transfers(self) -> Transfers:
        """What was brought near to be prepared."""
        return self._bundles.transfers

    def is_waiting_for_a_call(self, version: Version) -> bool:
        """Whether nothing happens to a version until somebody calls it."""
        is_begun = (version.function, version.number) in self._running
        return version.state is VersionState.STORED and not is_begun and not self._config.preload

    async def finish(self, seconds: float) -> None:
        """Wait, not longer than that, for the preparations that are under way."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=seconds)

    async def close(self) -> None:
        """Stop the preparations; they are resumed at the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._environments.close()

    # ---- publishing

    async def publish(
        self, caller: Caller, name: str, config: Mapping[str, Any], packed: bytes, order: CanaryOrder | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Keep an upload as a version; returns the HTTP status (201 new, 200 the same) and what to answer.

        With a new version its `order` is kept, in the same transaction; whoever moves pointers takes it from there.

        Raises invalid_request, unknown_key, not_allowed (for its network), payload_too_large, conflict (also while the function is being removed) or
        storage_full; nothing is half-written.
        """
        require(caller, Scope.DEPLOY)
        check_name(name)
        settings = {key: value for key, value in config.items() if key != "pickled"}
        parsed = parse(settings, bounds=Bounds(env_bytes=self._config.env_bytes), pickled=config.get("pickled") is True)
        self._permit(caller.account, parsed.revision.network)
        digest, size = await self._inspect(packed)
        identity = code_id(digest, parsed.revision)
        async with self._kept(caller, name, identity, digest, packed) as is_kept, self._lock:
            entry = self._registry.by_name.get((caller.account.id, name))
            old = entry.function if entry else None
            now = self._clock.now()
            function = replace(old, settings=parsed.settings) if old else _new_function(caller, name, parsed.settings, now)
            plan = publish.plan(
                entry.newest() if entry else None,
                entry.highest if entry else 0,
                identity,
                parsed.settings,
                old.settings if old else None,
            )
            version, move = None, None
            if plan.is_new:
                if not is_kept:  # it was the newest version's, and somebody published another meanwhile
                    await self._bundles.put(digest, packed)
                version = Version(
                    function=function.id,
                    number=plan.number,
                    code_id=identity,
                    bundle=digest,
                    size_bytes=size,
                    revision=parsed.revision,
                    state=VersionState.STORED,
                    created=now,
                )
                seq = entry.next_seq() if entry else 1
                move = PointerMove(function=function.id, pointer=LATEST, seq=seq, version=plan.number, at=now)
            if plan.changed or plan.is_new:
                canary = _canary(order, entry, function.id, plan.number, now) if order and version else None
                await self._store.publish(function, version, move, canary)
            entry = self._registry.put_function(function)
            if version is not None and move is not None:
                entry.put(version)
                entry.move(move)
        if plan.is_new:
            self._happenings.tell(function.id, plan.number, EventKind.STORED)
        if plan.prepare:
            await self._begin(entry, entry.versions[plan.number])
        current = entry.versions[plan.number]
        shown = {"function": name, "version": plan.number, "state": current.state.value, "changed": plan.changed}
        return (201 if plan.is_new else 200), shown

    def _permit(self, account: Account, entries: tuple[str, ...]) -> None:
        has_doors = self._preparing.is_live("doors")
        permit(entries, may_use_network=account.network, private=self._config.egress_private, has_doors=has_doors)

    @contextlib.asynccontextmanager
    async def _kept(self, caller: Caller, name: str, identity: str, digest: str, packed: bytes) -> AsyncIterator[bool]:
        """Keep an upload, unless a version that did not fail has it: whether it is kept now.

        A new bundle is taken back when its version is refused: on a full disk it would only take room.
        """
        entry = self._registry.by_name.get((caller.account.id, name))
        newest = entry.newest() if entry else None
        is_kept = newest is None or newest.code_id != identity or newest.state is VersionState.FAILED
        self._keeping[digest] += 1
        try:
            if newest is not None and newest.code_id == identity and newest.reason is not None and newest.reason.code == _CORRUPT:
                await self._bundles.remove(digest)  # one that is there would stay as it is
            is_known = not is_kept or await self._bundles.has(digest)
            if is_kept:
                await self._bundles.put(digest, packed)
            try:
                yield is_kept
            except PyfaasError as error:
                if not is_known and self._keeping[digest] == 1 and not self._is_needed(digest):
                    await self._bundles.remove(digest)
                if error.code is Code.GONE:
                    raise PyfaasError(Code.CONFLICT, "the function is being removed", hint="publish again") from None
                raise
        finally:
            self._keeping[digest] -= 1
            if not self._keeping[digest]:
                del self._keeping[digest]

    def _is_needed(self, digest: str) -> bool:
        return any(version.bundle == digest for _, version in self._registry.all_versions())

    async def _begin(self, entry: Entry, version: Version) -> None:
        """Prepare a version that was published, or leave it to its first call."""
        if version.state is not VersionState.STORED:  # whoever waits for it must not take the old failure for the new end
            version = _anew(version, VersionState.STORED)
            await self._store.set_version(version)
            entry.put(version)
        if self._config.preload:
            self.prepare(entry, version)

    async def _inspect(self, packed: bytes) -> tuple[str, int]:
        if len(packed) > self._config.bundle_packed:
            raise _too_large("bundle_packed", self._config.bundle_packed, len(packed))
        try:
            digest, size = await asyncio.to_thread(inspect_packed, packed, self._config.bundle_unpacked)
        except BundleError as error:
            if error.code == "too_large":
                raise PyfaasError(Code.PAYLOAD_TOO_LARGE, error.message, evidence={"limit": "bundle_unpacked"}) from None
            raise PyfaasError(Code.INVALID_REQUEST, error.message, evidence={"bundle": error.code}) from None
        return "sha256-" + digest, size

    # ---- preparing

    def prepare(self, entry: Entry, version: Version) -> None:
        """Start a version's preparation, unless it is running already."""
        key = (version.function, version.number)
        if key in self._running:
            return
        task = asyncio.get_running_loop().create_task(self._prepare(entry, version))
        self._running[key] = task
        task.add_done_callback(lambda done: self._ended(entry, version, done))

    def _ended(self, entry: Entry, version: Version, task: asyncio.Task[None]) -> None:
        self._running.pop((version.function, version.number), None)
        if not task.cancelled() and task.exception() is not None:
            log.error("preparation_broke", exc_info=task.exception())
            current = entry.versions[version.number]
            if current.state is VersionState.PREPARING and self._is_wanted(entry, current):
                broken = replace(current, state=VersionState.FAILED, reason=_BROKEN)
                entry.put(broken)  # in memory only: the next start tries again
                self._conclude(entry, broken)

    async def _prepare(self, entry: Entry, version: Version) -> None:
        version = await self._set(entry, _anew(version, VersionState.PREPARING))
        await self._environments.settle()
        async with self._gate:
            if self._is_wanted(entry, version):
                version = await self._with_patience(entry, version)
        if self._is_wanted(entry, version):
            self._conclude(entry, await self._set(entry, version))

    def _is_wanted(self, entry: Entry, version: Version) -> bool:
        """Whether neither the version nor its function was removed meanwhile."""
        return self._registry.entries.get(version.function) is entry and not entry.versions[version.number].deleted

    def _conclude(self, entry: Entry, version: Version) -> None:
        """Tell everybody of a version that became ready or failed."""
        if version.reason is not None:
            detail = {"code": version.reason.code, "message": version.reason.message}
            self._happenings.tell(version.function, version.number, EventKind.FAILED, **detail)
        else:
            self._happenings.tell(version.function, version.number, EventKind.PREPARED)
        self.prepared(entry, version)

    async def _with_patience(self, entry: Entry, version: Version) -> Version:
        """Prepare, trying a passing fault again with back-off; returns the version as it then is."""
        account = self._registry.accounts[entry.function.account]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._steps(entry, version, account)
            except (PreparationFailed, SandboxError, PyfaasError) as error:
                version = entry.versions[version.number]  # with the environment that it has by now
                failed = error if isinstance(error, PreparationFailed) else lost("the platform could not prepare it", error)
                if not failed.is_passing or attempt == _ATTEMPTS:
                    return replace(version, state=VersionState.FAILED, reason=failed.reason)
                log.warning("preparation_again", extra={"function": entry.function.name, "reason": failed.reason.code})
            await asyncio.sleep(_BACK_OFF_S * attempt)
        raise AssertionError("the last attempt returns")  # pragma: no cover

    async def _steps(self, entry: Entry, version: Version, account: Account) -> Version:
        version, found = await self._preparing.prepare(version, entry.function.name, account)
        shape = found.get("shape")
        return replace(
            version,
            state=VersionState.READY,
            handler=str(found.get("handler") or version.revision.handler or ""),
            shape=Shape(shape) if shape in set(Shape) else None,
            generator=bool(found.get("generator")),
        )

    async def _set(self, entry: Entry, version: Version) -> Version:
        current = entry.versions[version.number]
        version = replace(version, withdrawn=current.withdrawn, deleted=current.deleted)
        while True:
            try:
                await self._store.set_version(version)
                break
            except PyfaasError as error:
                if error.code not in _LATER:
                    raise
                log.warning("version_state_waits", extra={"function": entry.function.name, "code": error.code.value})
            await asyncio.sleep(_STORE_S)  # a state that was reached is told once the store can be written again
        current = entry.versions[version.number]  # it may have been withdrawn or removed meanwhile
        version = replace(version, withdrawn=current.withdrawn, deleted=current.deleted)
        entry.put(version)
        return version


def _anew(version: Version, state: VersionState) -> Version:
    """Return a version as it is before it is prepared, once more perhaps."""
    return replace(version, state=state, reason=None, environment=version.environment if is_lock_kept(version) else None)


def _new_function(caller: Caller, name: str, settings: Settings, now: float) -> Function:
    return Function(id=FunctionId(str(uuid.uuid4())), account=caller.account.id, name=name, settings=settings, created=now)


def _canary(order: CanaryOrder, entry: Entry | None, function: FunctionId, number: int, now: float) -> Canary:
    return ordered(order, function, number, entry.current(order.pointer) if entry else None, now)


def _too_large(limit: str, value: int, observed: int) -> PyfaasError:
    return PyfaasError(
        Code.PAYLOAD_TOO_LARGE,
        f"the bundle has {observed} bytes; {value} are allowed",
        hint=f"the operator can raise {limit}",
        evidence={"limit": limit, "value": value, "observed": observed},
    )

