"""`ports.Bundles` in object storage: kept there, and brought near only while somebody needs them.

Theory of operation. `put` returns when the store has the bundle. `path_name` downloads it to the near store, the `bundles`
directory in the data directory, from where the launcher attaches it: in pieces, into a file with a temporary name, checked
against the SHA-256 that was kept beside the object, and only then named. All who ask for a bundle at the same time share
one download, and hold it; when the last one has let go, the copy is removed. So the disk holds what is being prepared, not
what was ever deployed, and no size has to be chosen for a cache: what containers run is in `prepared/`.

A copy is worth nothing after a crash, so it is never synced, and what a crash left goes at the next start. A download that
breaks off begins again, a bounded number of times; one whose bytes are wrong, once more. The digest names what is *in* the zip,
the sum says that the store gave back what it was given; the container that unpacks it checks the former.

A bundle that the data directory keeps is taken from there: from before this option was set, or from a backup. Nothing is removed
unasked from a place that is another server's (`claims`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyfaas.adapters.bucket import Bucket, Download, Missing, Patience
from pyfaas.adapters.bundles import NEAR, PART, BundleDirectory, Fresh, digest_of, file_name, missing, translated
from pyfaas.adapters.claims import Claim
from pyfaas.errors import Code, PyfaasError
from pyfaas.ports import Transfers

Told = Callable[[int, int], None]


class _Corrupt(Exception):
    """The bytes are not those that were kept."""


@dataclass(slots=True, eq=False)
class _Near:
    """A bundle that is near, or on its way; `holds` counts who waits for it or uses it."""

    name: str
    task: asyncio.Task[None] | None = None
    holds: int = 0
    listeners: list[Told] = field(default_factory=list)


class ObjectBundles:
    """Bundles under one prefix of a bucket, and near in a directory."""

    def __init__(self, bucket: Bucket, directory: Path, reserve: int = 0) -> None:
        """Make the directory when missing, and remove what was near. Raises storage_full or internal.

        `reserve` bytes of the disk are left free by `put`, as by `BundleDirectory`: a bundle is prepared on it.
        """
        self._bucket, self._directory = bucket, directory
        self._kept = BundleDirectory(directory, reserve)
        self._fresh, self._claim = Fresh(), Claim(bucket, directory)
        self._is_ours = False
        self._near: dict[str, _Near] = {}
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.transfers = Transfers()

    async def put(self, digest: str, packed: bytes) -> None:
        """Keep a bundle; the store has it when this returns. One that is there stays as it is.

        Raises storage_full, invalid_request for a name that is no digest, or not_ready.
        """
        name = file_name(digest)
        self._fresh.add(digest)
        async with self._turn(digest):
            if not await self.has(digest):
                with translated():
                    await asyncio.to_thread(self._kept.check_room, len(packed))
                await self._bucket.put(name, packed)

    async def has(self, digest: str) -> bool:
        """Whether the bundle is kept, here or in the store."""
        return await self._kept.has(digest) or await self._bucket.has(file_name(digest))

    async def path_name(self, digest: str, told: Told | None = None) -> str:
        """Bring a bundle near, and return its file's name inside the directory; to be released once.

        Raises not_found, not_ready, internal for bytes that are wrong, or storage_full.
        """
        if await self._kept.has(digest):
            return file_name(digest)
        near = self._near.get(digest)
        if near is None:
            near = self._near[digest] = _Near(f"{digest}.{secrets.token_hex(8)}{NEAR}")  # no copy meets an earlier one's end
            near.task = asyncio.get_running_loop().create_task(self._bring(digest, near))
        near.holds += 1
        if told is not None:
            near.listeners.append(told)
        is_here = False
        try:
            assert near.task is not None  # noqa: S101 - set above
            await asyncio.shield(near.task)
            is_here = True
        finally:
            if told is not None:
                near.listeners.remove(told)
            if not is_here:
                await self._let_go(digest, near)
        return near.name

    async def release(self, digest: str) -> None:
        """Let go of a bundle that `path_name` brought near; the last one's copy is removed."""
        if near := self._near.get(digest):
            await self._let_go(digest, near)

    async def names(self) -> Collection[str]:
        """Return the bundles that are kept, by digest; foreign objects under the prefix are not counted."""
        self._fresh.turn()
        self._is_ours = await self._claim.holds()
        kept = await self._bucket.names()
        return {digest for name in kept if (digest := digest_of(name))} | set(await self._kept.names())

    async def remove(self, digest: str) -> None:
        """Remove a bundle; one that is not there is removed already."""
        async with self._turn(digest):
            await self._remove(digest)

    async def remove_unused(self, digest: str) -> None:
        """Remove a bundle, unless it was put since the call of `names` before the last, or the place is another server's."""
        async with self._turn(digest):
            if digest not in self._fresh:
                await (self._remove(digest) if self._is_ours else self._kept.remove(digest))

    async def _remove(self, digest: str) -> None:
        await self._bucket.remove(file_name(digest))
        await self._kept.remove(digest)

    def _turn(self, digest: str) -> asyncio.Lock:
        """Return the lock of a bundle: one that is being put is not removed under way."""
        lock = self._turns.get(digest)
        if lock is None:
            lock = self._turns[digest] = asyncio.Lock()
        return lock

    async def _let_go(self, digest: str, near: _Near) -> None:
        near.holds -= 1
        if near.holds:
            return
        if self._near.get(digest) is near:
            del self._near[digest]
        if near.task is not None and not near.task.done():
            near.task.cancel()  # nobody waits for it any more; it removes what it made
        else:
            await asyncio.to_thread(_unlink, self._directory / near.name)

    # ---- a transfer

    async def _bring(self, digest: str, near: _Near) -> None:
        self.transfers.running += 1
        is_here = False
        try:
            await self._patiently(digest, near)
            is_here = True
        finally:
            self.transfers.running -= 1
            self.transfers.finished += is_here
            self.transfers.failed += not is_here
            if not is_here and self._near.get(digest) is near:
                del self._near[digest]  # whoever comes now begins anew

    async def _patiently(self, digest: str, near: _Near) -> None:
        """Download until it succeeds: again after what may pass, and once more after wrong bytes."""
        patience, failures, is_doubted = self._bucket.patience, 0, False
        while True:
            try:
                await self._download(digest, near)
            except Missing:
                raise missing(digest, "the object store") from None
            except _Corrupt as error:
                if is_doubted:
                    message = "the object store gives back other bytes than it was given; publish the code again"
                    raise PyfaasError(Code.INTERNAL, message, evidence={"bundle": "corrupt", "digest": digest}) from error
                is_doubted = True
            except PyfaasError as error:
                failures += 1
                if error.retry_after is None or failures == patience.attempts:
                    raise
                await asyncio.sleep(patience.back_off_s * 2**failures)
            else:
                return

    async def _download(self, digest: str, near: _Near) -> None:
        download = await self._bucket.download(file_name(digest))
        target = self._directory / near.name
        part = target.with_suffix(PART)
        try:
            await self._receive(download, part, near)
            with translated():
                await asyncio.to_thread(part.rename, target)
        finally:
            part.unlink(missing_ok=True)  # unless it has its name; without an await: this may be a cancellation

    async def _receive(self, download: Download, part: Path, near: _Near) -> None:
        """Write what comes, tell how much, and see that it is what was kept; raises _Corrupt, not_ready or storage_full."""
        done, whole = 0, hashlib.sha256()
        with translated():
            file = part.open("xb", buffering=0)
        with file:
            _tell(near.listeners, 0, download.size)
            async for piece in download.pieces:
                with translated():
                    await asyncio.to_thread(_append, file.fileno(), piece, whole)
                done += len(piece)
                self.transfers.bytes += len(piece)
                _tell(near.listeners, done, download.size)
            os.fchmod(file.fileno(), 0o644)  # a VM's uid reads it where it is attached; the data directory is closed to others
        if done != download.size or download.sum not in ("", whole.hexdigest()):
            raise _Corrupt


def opened(place: Mapping[str, str], directory: Path, reserve: int) -> ObjectBundles:
    """Return the bundles at a place that `places.find` found; connects to nothing yet. Raises as ObjectBundles and Bucket do."""
    return ObjectBundles(Bucket(place, Patience()), directory, reserve)


def _append(descriptor: int, piece: bytes, whole: hashlib._Hash) -> None:
    whole.update(piece)
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]


def _tell(listeners: list[Told], done: int, total: int) -> None:
    for told in list(listeners):
        told(done, total)


def _unlink(path: Path) -> None:
    with translated():
        path.unlink(missing_ok=True)
