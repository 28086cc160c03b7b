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
from collections.abc import Iterator
from pathlib import Path

from pyfaas.errors import Code, PyfaasError

_DIGEST = re.compile(r"sha256-[0-9a-f]{64}")
_TEMPORARY = ".part"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class BundleDirectory:
    """`ports.Bundles` in one directory; calls that touch the disk run in a thread."""

    def __init__(self, directory: Path) -> None:
        """Make the directory when missing, and remove what an interrupted write left. Raises storage_full or internal."""
        self._directory = directory
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

    async def remove(self, digest: str) -> None:
        """Remove a bundle; one that is not there is removed already."""
        await asyncio.to_thread(self._remove, self._file(digest))

    def _file(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise PyfaasError(Code.INVALID_REQUEST, f"{digest[:80]!r} is not the name of a bundle")
        return self._directory / (digest + ".zip")

    def _put(self, file: Path, packed: bytes) -> None:
        temporary = file.with_name(f"{file.stem}.{secrets.token_hex(8)}{_TEMPORARY}")
        with _translated():
            if file.exists():
                return
            try:
                _write_synced(temporary, packed)
                temporary.rename(file)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(self._directory)

    def _remove(self, file: Path) -> None:
        with _translated():
            file.unlink(missing_ok=True)
            _sync_directory(self._directory)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            hint = "ask the operator to free space in the data directory"
            raise PyfaasError(Code.STORAGE_FULL, "the server's disk is full", hint=hint) from error
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        raise PyfaasError(Code.INTERNAL, "the bundle store failed", evidence={"errno": name}) from error


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)  # a VM's uid reads it where it is attached; the data directory is closed to others
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
