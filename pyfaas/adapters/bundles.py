"""`ports.Bundles` as a directory of zips, each named by the hash of its content.

A bundle is written under a temporary name, synced, renamed and the directory synced, so a name that exists is a whole file, also
after a power cut. What a crash leaves behind has a temporary name and goes at the next start. Only the server's
user can pass the directory (0700); the files are 0644, since a VM's uid reads one where the launcher attaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from pyfaas.errors import Code, PyfaasError

_DIGEST = re.compile(r"sha256-[0-9a-f]{64}")
_TEMPORARY = ".part"
_HINT = "ask the operator to free space in the data directory"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class BundleDirectory:
    """`ports.Bundles` in one directory; calls that touch the disk run in a thread."""

    def __init__(self, directory: Path, reserve: int = 0) -> None:
        """Make the directory when missing, and remove what an interrupted write left. Raises storage_full or internal.

        `reserve` bytes of the disk are left free by `put`: for the database, whose writes are small and must go on longest.
        """
        self._directory, self._reserve = directory, reserve
        self._turn = threading.Lock()
        self._fresh: tuple[set[str], set[str]] = (set(), set())  # put since the last `names`, and since the one before
        with _translated():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            for leftover in directory.glob("*" + _TEMPORARY):
                leftover.unlink(missing_ok=True)

    async def put(self, digest: str, packed: bytes) -> None:
        """Keep a bundle; on the disk when this returns. One that is there stays as it is.

        Raises storage_full, invalid_request for a name that is no digest, or internal.
        """
        await asyncio.to_thread(self._put, self._file(digest), packed)

    async def has(self, digest: str) -> bool:
        """Whether the bundle is there, whole."""
        return await asyncio.to_thread(self._file(digest).exists)

    async def path_name(self, digest: str) -> str:
        """Return the file's name inside the directory. Raises not_found."""
        if not await self.has(digest):
            raise PyfaasError(Code.NOT_FOUND, f"no bundle {digest}")
        return self._file(digest).name

    async def names(self) -> Collection[str]:
        """Return the bundles that are there, by digest."""
        return await asyncio.to_thread(self._names)

    async def remove(self, digest: str) -> None:
        """Remove a bundle; one that is not there is removed already."""
        await asyncio.to_thread(self._remove, self._file(digest))

    async def remove_unused(self, digest: str) -> None:
        """Remove a bundle, unless it was put since the call of `names` before the last: what for may not be told yet."""
        await asyncio.to_thread(self._remove, self._file(digest), keeps_fresh=True)

    def _file(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise PyfaasError(Code.INVALID_REQUEST, f"{digest[:80]!r} is not the name of a bundle")
        return self._directory / (digest + ".zip")

    def _put(self, file: Path, packed: bytes) -> None:
        temporary = file.with_name(f"{file.stem}.{secrets.token_hex(8)}{_TEMPORARY}")
        with _translated():
            with self._turn:
                self._fresh[0].add(file.stem)
                if file.exists():
                    return
            self._refuse_below_reserve(len(packed))
            try:
                _write_synced(temporary, packed)
                temporary.rename(file)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(self._directory)

    def _refuse_below_reserve(self, size: int) -> None:
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        if free < self._reserve + size:
            raise PyfaasError(
                Code.STORAGE_FULL,
                "the server's disk is nearly full",
                hint=_HINT + ", or lower reserve_bytes",
                evidence={"limit": "reserve_bytes", "value": self._reserve, "observed": free, "unit": "bytes free"},
            )

    def _names(self) -> Collection[str]:
        with self._turn:
            self._fresh = (set(), self._fresh[0])
        with _translated():
            return [name.removesuffix(".zip") for name in os.listdir(self._directory) if name.endswith(".zip")]

    def _remove(self, file: Path, *, keeps_fresh: bool = False) -> None:
        with _translated():
            with self._turn:
                if not (keeps_fresh and any(file.stem in fresh for fresh in self._fresh)):
                    file.unlink(missing_ok=True)
            sync_directory(self._directory)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            evidence = {"errno": errno.errorcode[error.errno or 0]}
            raise PyfaasError(Code.STORAGE_FULL, "the server's disk is full", hint=_HINT, evidence=evidence) from error
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        raise PyfaasError(Code.INTERNAL, "the bundle store failed", evidence={"errno": name}) from error


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)  # a VM's uid reads it where it is attached; the data directory is closed to others
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Bring what was made, moved or removed in a directory to the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
