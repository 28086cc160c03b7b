"""Copying code into a VM's own files, inside a confined container that runs nothing of the tenant's.

Theory of operation. A blank is told `{"do": "copy", "from": {NAME: SOURCE, …}, "out": OUT, "bytes": MOST}`. Each source is a
tree of the near store, attached read-only; its copy is made as OUT/NAME with the modes that `tree.seal` leaves. What is read is
hashed on its way, the copy is read back and hashed as well, and the two must agree, so that a copy is whole or is none. Files are
streamed through one buffer; what they take in memory is counted to the container's own leaf until the copy is kept.

No link is followed. A link is copied when it is relative and leads to something inside its tree, as environments have them;
anything else that is neither a file nor a directory is refused.

Answers LOADED with `files`, `bytes` (the memory that the copy takes, in whole pages; at most MOST) and `sha256` (of names, modes
and contents in order), or FAILED with a `code`: `too_large` (more than MOST), `storage_full`, `corrupt`, or `internal`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox import wire
from sandbox.wire import Kind

_BUFFER = 1 << 20
_CODES = {errno.ENOSPC: "storage_full", errno.EDQUOT: "storage_full", errno.EFBIG: "too_large"}


class CopyFailed(Exception):
    """The copy was not made; `code` as in the module's docstring."""

    def __init__(self, code: str, message: str) -> None:
        """Keep what FAILED tells."""
        self.code, self.message = code, message
        super().__init__(message)


def serve(payload: Mapping[str, Any], channel: socket.socket) -> None:
    """Do what a `copy` LOAD asks, and answer; raises OSError when the host is gone."""
    kind, fields = run(payload)
    channel.send(wire.packet(kind, json.dumps(fields).encode()))


def run(payload: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    """Do what a `copy` LOAD asks; returns LOADED or FAILED with its fields, never raises for what the trees hold."""
    try:
        sources = {str(name): str(path) for name, path in payload["from"].items()}
        return Kind.LOADED, copy(sources, str(payload["out"]), int(payload["bytes"]))
    except CopyFailed as error:
        return Kind.FAILED, _failure(error.code, error.message)
    except OSError as error:
        return Kind.FAILED, _failure(_CODES.get(error.errno or 0, "internal"), str(error))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Kind.FAILED, _failure("internal", repr(error))


def _failure(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "errorMessage": message, "log_tail": ""}


def copy(sources: Mapping[str, str], out: str, most: int) -> dict[str, Any]:
    """Copy trees to directories of their names in `out`, and verify them; raises CopyFailed or OSError."""
    reading, read_back = Reading(most), Reading(most)
    for name, source in sorted(sources.items()):
        reading.tree(source, f"{out}/{name}")
    for name in sorted(sources):
        read_back.tree(f"{out}/{name}", None)
    told = reading.told()
    if read_back.told() != told:
        raise CopyFailed("corrupt", "the copy is not what was copied")
    return told


class Reading:
    """Trees being read, in an order of their own, and what was read."""

    def __init__(self, most: int) -> None:
        """Begin with nothing; `most` bounds what the copy takes, in bytes."""
        self._files = self._bytes = 0
        self._most, self._sum, self._buffer = most, hashlib.sha256(), memoryview(bytearray(_BUFFER))

    def told(self) -> dict[str, Any]:
        """Return what was read, as LOADED tells it."""
        return {"files": self._files, "bytes": self._bytes, "sha256": self._sum.hexdigest()}

    def tree(self, root: str, target: str | None) -> None:
        """Read a tree, and write what is read to `target` where there is one; raises CopyFailed or OSError."""
        self._note("tree", 0, "")
        inside = os.path.realpath(root) + os.sep
        if target is not None:
            _make_directory(target)
        for name, status in _entries(root):
            path, copied = f"{root}/{name}", None if target is None else f"{target}/{name}"
            if stat.S_ISDIR(status.st_mode):
                self._note("directory", 0, name)
                if copied is not None:
                    _make_directory(copied)
            elif stat.S_ISREG(status.st_mode):
                self._file(path, name, status, copied)
            elif stat.S_ISLNK(status.st_mode):
                self._link(path, name, inside, copied)
            else:
                raise CopyFailed("corrupt", f"{name} is neither a file nor a directory")

    def _note(self, kind: str, size: int, name: str) -> None:
        self._sum.update(f"{kind} {size} {len(name)} {name}\n".encode("utf-8", "surrogateescape"))

    def _file(self, path: str, name: str, status: os.stat_result, copied: str | None) -> None:
        self._files += 1
        self._bytes += -(-status.st_size // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._bytes > self._most:
            raise CopyFailed("too_large", f"it takes more than {self._most} bytes")
        is_executable = bool(status.st_mode & 0o111)
        self._note("program" if is_executable else "file", status.st_size, name)
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mode = 0o555 if is_executable else 0o444
            read = self._stream(source, -1) if copied is None else self._write(source, copied, mode)
        finally:
            os.close(source)
        if read != status.st_size:
            raise CopyFailed("corrupt", f"{name} has {read} bytes instead of {status.st_size}")

    def _write(self, source: int, path: str, mode: int) -> int:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            read = self._stream(source, target)
            os.fchmod(target, mode)
        finally:
            os.close(target)
        return read

    def _stream(self, source: int, target: int) -> int:
        total = 0
        while count := os.readv(source, (self._buffer,)):
            piece = self._buffer[:count]
            self._sum.update(piece)
            total += count
            while target >= 0 and piece:
                piece = piece[os.write(target, piece) :]
        return total

    def _link(self, path: str, name: str, inside: str, copied: str | None) -> None:
        leads_to = os.readlink(path)
        if os.path.isabs(leads_to) or not os.path.realpath(path).startswith(inside):
            raise CopyFailed("corrupt", f"the link {name} leads out of its tree")
        self._files += 1
        self._note("link", 0, f"{name} {leads_to}")
        if copied is not None:
            os.symlink(leads_to, copied)


def _make_directory(path: str) -> None:
    os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103 -- as `tree.seal` leaves them; the umask is another


def _entries(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what lies below `root` by relative path, a directory before what is in it, in the order of names."""
    waiting = [""]
    while waiting:
        within = waiting.pop()
        with os.scandir(f"{root}/{within}" if within else root) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            name, status = f"{within}/{entry.name}" if within else entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                waiting.append(name)
            yield name, status
