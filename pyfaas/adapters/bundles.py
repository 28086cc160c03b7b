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
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pyfaas.errors import Code, PyfaasError
from pyfaas.ports import Transfers

_DIGEST = re.compile(r"sha256-[0-9a-f]{64}")
_ENDING = ".zip"
PART, NEAR = ".part", ".near"  # on its way; a copy of what is kept elsewhere (see `objects`)
_HINT = "ask the operator to free space in the data directory"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Fresh:
    """The bundles that were put lately: what for may not be told yet, so that nothing else shows that they are needed."""

    def __init__(self) -> None:
        """Begin with none."""
        self._now: set[str] = set()
        self._before: set[str] = set()

    def add(self, digest: str) -> None:
        """Take in what is being put."""
        self._now.add(digest)

    def turn(self) -> None:
        """Say that `names` is called: what was put before its last call is not fresh any more."""
        self._now, self._before = set(), self._now

    def __contains__(self, digest: str) -> bool:
        """Whether it was put since the call of `names` before the last."""
        return digest in self._now or digest in self._before


class BundleDirectory:
    """`ports.Bundles` in one directory; calls that touch the disk run in a thread. What is there is near: nothing is ever brought."""

    def __init__(self, directory: Path, reserve: int = 0) -> None:
        """Make the directory when missing, and remove what an interrupted write left. Raises storage_full or internal.

        `reserve` bytes of the disk are left free by `put`: for the database, whose writes are small and must go on longest.
        """
        self._directory, self._reserve = directory, reserve
        self._turn = threading.Lock()
        self._fresh = Fresh()
        self.transfers = Transfers()
        with translated():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            for ending in (PART, NEAR):
                for leftover in directory.glob("*" + ending):
                    leftover.unlink(missing_ok=True)

    async def put(self, digest: str, packed: bytes) -> None:
        """Keep a bundle; on the disk when this returns. One that is there stays as it is.

        Raises storage_full, invalid_request for a name that is no digest, or internal.
        """
        await asyncio.to_thread(self._put, self._file(digest), packed)

    async def has(self, digest: str) -> bool:
        """Whether the bundle is there, whole."""
        return await asyncio.to_thread(self._file(digest).exists)

    async def path_name(self, digest: str, told: Callable[[int, int], None] | None = None) -> str:  # noqa: ARG002 - the port's
        """Return the file's name inside the directory. Raises not_found."""
        if not await self.has(digest):
            raise missing(digest, "the data directory")
        return self._file(digest).name

    async def release(self, digest: str) -> None:
        """Do nothing: it is kept here."""

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
        return self._directory / file_name(digest)

    def _put(self, file: Path, packed: bytes) -> None:
        temporary = file.with_name(f"{file.stem}.{secrets.token_hex(8)}{PART}")
        with translated():
            with self._turn:
                self._fresh.add(file.stem)
                if file.exists():
                    return
            self.check_room(len(packed))
            try:
                _write_synced(temporary, packed)
                temporary.rename(file)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(self._directory)

    def check_room(self, size: int) -> None:
        """Raise storage_full when the disk would have less than the reserve left; OSError when it cannot be asked."""
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
            self._fresh.turn()
        with translated():
            return [digest for name in os.listdir(self._directory) if (digest := digest_of(name))]

    def _remove(self, file: Path, *, keeps_fresh: bool = False) -> None:
        with translated():
            with self._turn:
                if not (keeps_fresh and file.stem in self._fresh):
                    file.unlink(missing_ok=True)
            sync_directory(self._directory)


def file_name(digest: str) -> str:
    """Return how a bundle is called wherever it is kept; raises invalid_request for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise PyfaasError(Code.INVALID_REQUEST, f"{digest[:80]!r} is not the name of a bundle")
    return digest + _ENDING


def digest_of(name: str) -> str:
    """Return the digest of the bundle that is kept under a name, "" for what is none."""
    digest = name.removesuffix(_ENDING)
    return digest if digest != name and _DIGEST.fullmatch(digest) else ""


def missing(digest: str, place: str) -> PyfaasError:
    """Return the error for a bundle that is not at its place any more."""
    evidence = {"bundle": "missing", "digest": digest}
    return PyfaasError(Code.NOT_FOUND, f"the code is not in {place} any more; publish it again", evidence=evidence)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise storage_full or internal for an OSError."""
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
