"""What is kept for a while only, and its end: logs, finished jobs, usage, and files that nobody needs any more.

A *sweep* is run now and then, off the way of any call. It works in small batches, so that a durable write waits for one at
most, and stops after a bounded number of them: the next sweep goes on. It deletes no file while a backup is being taken.

A file is needed while a living version names it. When it is not, it stays for `unused_hours` more: a removed version's last runs
still read it, and a version on its way names it only when it is committed. The hours are counted by this process, so
that a restart begins them anew; the disk is not worth a timestamp in every directory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

from pyfaas.config import Config
from pyfaas.errors import PyfaasError
from pyfaas.ports import Bundles, Clock, Kept, Locks, Store, Trees, Workers
from sandbox.errors import SandboxError

log = logging.getLogger(__name__)
_DAY_S, _HOUR_S = 86_400, 3600
_FOLD_AFTER_S = 2 * _DAY_S  # usage is kept by the minute for so long, then by the hour
_BATCHES = 200  # of one kind in one sweep
_LOG_BATCHES = 20_000  # ten million lines: faster than a minute's calls write them
_PAGES, _SHRINKS = 500, 20  # 4 KiB each, given back to the file system in one transaction, and those in a sweep
_TREES = ("prepared", "environments")


@dataclass(slots=True)
class Retention:
    """Sweeps; `is_held` says that files must stay for now."""

    config: Config
    store: Store
    bundles: Bundles
    trees: Trees
    workers: Workers
    clock: Clock
    is_held: Callable[[], bool]
    locks: Locks
    turn: asyncio.Lock
    _unneeded: dict[tuple[str, str], float] = field(default_factory=dict)  # (store, name) → since when, monotonic

    async def relieve(self) -> None:
        """Remove the logs above an account's cap: more often than the rest, since a busy account writes that much in minutes."""
        try:
            await _repeated(lambda: self.store.cap_logs(self.config.log_account_bytes), _LOG_BATCHES)
        except PyfaasError as error:
            log.warning("sweep_failed", extra={"error": str(error)})

    async def sweep(self) -> None:
        """Remove a bounded amount of what is too old, too much, or needed by nobody; what fails is logged and tried again."""
        await self.relieve()
        try:
            await self._records()
            await self._files()
        except (PyfaasError, SandboxError) as error:
            log.warning("sweep_failed", extra={"error": str(error)})

    async def _records(self) -> None:
        config, now = self.config, self.clock.now()
        days: Mapping[Kept, int] = {
            "logs": config.log_days,
            "build_logs": config.build_log_days,
            "events": config.log_days,
            "jobs": config.job_days,
            "usage": config.usage_days,
            "audit": config.usage_days,
        }
        gone: dict[str, int] = {kind: await _repeated(lambda k=kind, b=now - kept * _DAY_S: self.store.trim(k, b)) for kind, kept in days.items()}  # type: ignore[misc]
        await _repeated(lambda: self.store.fold_usage(now - _FOLD_AFTER_S))
        for _ in range(_SHRINKS):
            await self.store.shrink(_PAGES)
        if any(gone.values()):
            log.info("records_trimmed", extra=gone)

    async def _files(self) -> None:
        await self.locks.trim()
        needed = await self.store.needed()
        present: dict[str, Collection[str]] = {"bundles": await self.bundles.names()}
        for store in _TREES:
            present[store] = await self.trees.names(store)
        now = self.clock.monotonic()
        found = {(store, name) for store, names in present.items() for name in names if name not in needed[store]}
        self._unneeded = {key: self._unneeded.get(key, now) for key in found}
        due = [key for key, since in self._unneeded.items() if now - since >= self.config.unused_hours * _HOUR_S]
        removed = 0
        for store, name in due[:_BATCHES]:
            if self.is_held():
                break
            # Asked again: a version that names it may have been published while this was at work. From here to its end no preparation
            # looks whether something is there: `service/environments.py`.
            async with self.turn:
                if name not in (await self.store.needed())[store]:
                    await self._remove(store, name)
                    removed += 1
        if removed:
            log.info("files_removed", extra={"count": removed})

    async def _remove(self, store: str, name: str) -> None:
        if store == "bundles":
            await self.bundles.remove_unused(name)
        else:
            await self.workers.discard(store, name)
        self._unneeded.pop((store, name), None)


async def _repeated(work: Callable[[], Awaitable[int]], most: int = _BATCHES) -> int:
    """Do it until there is nothing left to do, a bounded number of times; returns the sum."""
    total = 0
    for _ in range(most):
        done = await work()
        total += done
        if not done:
            break
    return total
