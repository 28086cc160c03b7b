"""Writing a backup (see `archive`) of a data directory that is being served: `ports.Backups`.

The database is copied first, and the copy says which bundles, trees and so on belong to it; what a version needs was on the
disk before the version was committed. Whoever removes files waits until the backup is over (`service/retention.py`), so
the directory and the copy agree. Everything is read by one thread, a piece at a time and no faster than the client takes it:
memory stays constant, the event loop does nothing but hand pieces on, and writers never wait, since a reader of a WAL blocks none.

Bundles that are kept elsewhere are brought near one by one, so a backup is whole, or none, wherever they are.

Trees were made by confined processes, so they are read as what a stranger left: by descriptors, without following a link, plain
files only.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import stat
import tarfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pyfaas import __version__
from pyfaas.adapters import archive
from pyfaas.adapters.archive import Sum
from pyfaas.errors import Code, PyfaasError
from pyfaas.ports import Bundles, Contents

_PIECE = 1 << 18
T = TypeVar("T")


class BackupDirectory:
    """`ports.Backups` over one data directory; `copy` writes a copy of its database and tells what belongs to it.

    `keys` are the files of keys that are the directory's; what seals secrets may be the operator's, who keeps it elsewhere.
    """

    def __init__(self, data: Path, copy: Callable[[str], Contents], bundles: Bundles, keys: Sequence[str] = archive.KEYS) -> None:
        """Remove what a crash left of an earlier backup."""
        self._data, self._copy, self._bundles, self._keys = data, copy, bundles, keys
        self._part = data / f"backup-{os.getpid()}.db.part"
        for leftover in data.glob("backup-*.db.part*"):
            if not os.path.exists(f"/proc/{leftover.name.removeprefix('backup-').partition('.')[0]}"):
                leftover.unlink(missing_ok=True)  # nor is it that of a server that is being replaced

    async def read(self, now: float) -> AsyncGenerator[bytes, None]:
        """Yield a backup's bytes; the first ones come when the database is copied. One at a time.

        Raises storage_full, not_ready for a bundle that cannot be had now, or internal; once bytes have come, the stream is then cut and no backup.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="backup")
        loop = asyncio.get_running_loop()
        pieces = _translated(self._pieces(now, _Lender(self._bundles, self._data / archive.BUNDLES, loop)))
        try:
            while piece := await loop.run_in_executor(thread, next, pieces, b""):
                yield piece
        finally:
            # In the same thread, so after what it does now: a generator cannot be closed while it runs.
            await asyncio.shield(loop.run_in_executor(thread, pieces.close))
            thread.shutdown(wait=False)

    def _pieces(self, now: float, lender: _Lender) -> Generator[bytes, None, None]:
        try:
            contents = self._copy(str(self._part))
            yield from _gathered(_Archive(self._data, lender, self._keys).pieces(self._part, contents, now))
        finally:
            self._forget()

    def _forget(self) -> None:
        for made in (self._part, Path(f"{self._part}-journal")):
            made.unlink(missing_ok=True)


class _Lender:
    """Has bundles near while the thread reads them."""

    def __init__(self, bundles: Bundles, near: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._bundles, self._near, self._loop = bundles, near, loop

    @contextlib.contextmanager
    def lend(self, digest: str) -> Iterator[Path]:
        """Yield where a bundle lies; raises as `path_name` does, and not_found only before it yields."""
        name = self._ask(self._bundles.path_name(digest))
        try:
            yield self._near / name
        finally:
            self._ask(self._bundles.release(digest))

    def _ask(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()


class _Archive:
    """One archive on its way: what was packed so far, and its digests."""

    def __init__(self, data: Path, lender: _Lender, keys: Sequence[str]) -> None:
        self._data, self._lender, self._keys = data, lender, keys
        self._sums: dict[str, str] = {}
        self._sum = Sum()
        self._missing: list[str] = []
        self._files = self._bytes = 0

    def pieces(self, copy: Path, contents: Contents, now: float) -> Iterator[bytes]:
        """Yield the whole archive."""
        who = {"kind": archive.SIGNATURE, "format": archive.FORMAT, "pyfaas": __version__, "schema": contents.schema}
        yield from _document(archive.HEAD, {**who, "made": now, "platform": archive.platform()})
        yield from self._plain(archive.DATABASE, copy)
        for name in self._keys:
            yield from self._plain(name, self._data / name)
        for name in contents.bundles:
            yield from self._bundle(name)
        for store, names in zip(archive.TREES, (contents.prepared, contents.environments), strict=True):
            for name in names:
                yield from self._tree(f"{store}/{name}")
        counts = {**contents.counts, "files": self._files, "bytes": self._bytes}
        end = {**who, "entries": self._sums, "missing": self._missing, "counts": counts, "end": archive.SIGNATURE}
        yield from _document(archive.MANIFEST, end)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _bundle(self, digest: str) -> Iterator[bytes]:
        member = f"{archive.BUNDLES}/{digest}.zip"
        try:
            with self._lender.lend(digest) as path:
                yield from self._plain(member, path, 0o644)
        except PyfaasError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            self._missing.append(member)

    def _plain(self, name: str, path: Path, mode: int = 0o600) -> Iterator[bytes]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._missing.append(name)
            return
        self._sum = Sum()
        yield from self._file(name, descriptor, mode)
        self._sums[name] = self._sum.hex()

    def _tree(self, entry: str) -> Iterator[bytes]:
        self._sum = Sum()
        try:
            for place, directories, names, descriptor in os.fwalk(self._data / entry, onerror=_raise):
                directories.sort()
                inside = os.path.relpath(place, self._data)
                yield self._directory(inside)
                links = [d for d in directories if stat.S_ISLNK(os.lstat(d, dir_fd=descriptor).st_mode)]
                for name in sorted([*names, *links]):
                    yield from self._leaf(f"{inside}/{name}", name, descriptor)
        except FileNotFoundError:
            return  # a version that is being prepared, or failed: what lacks is made at the next start
        self._sums[entry] = self._sum.hex()

    def _leaf(self, member: str, name: str, directory: int) -> Iterator[bytes]:
        mode = os.lstat(name, dir_fd=directory).st_mode
        if stat.S_ISLNK(mode):
            target = os.readlink(name, dir_fd=directory)
            self._sum.member(member, mode, 0, target)
            yield _header(member, tarfile.SYMTYPE, 0o777, 0, target)
        elif stat.S_ISREG(mode):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            yield from self._file(member, os.open(name, flags, dir_fd=directory))

    def _directory(self, member: str) -> bytes:
        self._sum.member(member, stat.S_IFDIR, 0)
        return _header(member, tarfile.DIRTYPE, 0o755, 0)

    def _file(self, member: str, descriptor: int, mode: int | None = None) -> Iterator[bytes]:
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PyfaasError(Code.INTERNAL, f"{member} in the data directory is no plain file")
            size, mode = status.st_size, mode or (0o755 if status.st_mode & 0o111 else 0o644)
            self._sum.member(member, status.st_mode, size)
            yield _header(member, tarfile.REGTYPE, mode, size)
            left = size
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise PyfaasError(Code.INTERNAL, f"{member} shrank while it was read")
                left -= len(piece)
                self._sum.content(piece)
                yield piece
        yield bytes(-size % tarfile.BLOCKSIZE)
        self._files, self._bytes = self._files + 1, self._bytes + size


def _header(name: str, kind: bytes, mode: int, size: int, target: str = "") -> bytes:
    """Return a member's head; without owner and times, so that equal data directories have equal backups."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, size, target
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _document(name: str, value: Mapping[str, Any]) -> Iterator[bytes]:
    text = json.dumps(value, indent=1).encode()
    yield _header(name, tarfile.REGTYPE, 0o644, len(text)) + text + bytes(-len(text) % tarfile.BLOCKSIZE)


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of a size that is worth a change of threads."""
    waiting = io.BytesIO()
    for piece in pieces:
        waiting.write(piece)
        if waiting.tell() >= _PIECE:
            yield waiting.getvalue()
            waiting = io.BytesIO()
    if waiting.tell():
        yield waiting.getvalue()


def _translated(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    with contextlib.closing(pieces):
        try:
            yield from pieces
        except OSError as error:
            evidence = {"path": str(error.filename), "error": error.strerror}
            raise PyfaasError(Code.INTERNAL, "the data directory cannot be read", evidence=evidence) from error


def _raise(error: OSError) -> None:
    raise error
