"""Reading a backup (see `archive`), which may come from anybody: what is not exactly as the writer makes it is refused.

Nothing is written but plain files, directories and, inside a tree, links that stay in it; every name is made anew beneath the
given directory, nothing is opened through a link, and no file is written twice. Whoever calls throws the directory away when
this raises.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pyfaas import __version__
from pyfaas.adapters import archive
from pyfaas.adapters.archive import Sum
from pyfaas.errors import Code, PyfaasError

_PIECE = 1 << 18
_DOCUMENT = 256 << 20  # bytes of a manifest; a million versions have fewer
_SHA = r"sha256-[0-9a-f]{64}"
_PLAIN = re.compile(rf"{archive.DATABASE}|{'|'.join(archive.KEYS)}|{archive.BUNDLES}/{_SHA}\.zip")
_TREE = re.compile(rf"(?:{'|'.join(archive.TREES)})/{_SHA}(?:/.+)?", re.DOTALL)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a backup says about itself at its beginning."""

    format: int
    pyfaas: str
    schema: int
    made: float
    platform: str


class Unpacking:
    """One backup on its way into an empty directory."""

    def __init__(self, source: BinaryIO, directory: Path) -> None:
        """Read from `source`, which need not seek; write beneath `directory`."""
        self._source, self._directory = source, directory
        self._sums: dict[str, str] = {}
        self._directories = {archive.BUNDLES, *archive.TREES, ""}
        self._entry, self._sum = "", Sum()

    def run(self) -> tuple[Head, Mapping[str, Any]]:
        """Unpack everything; returns what the backup says about itself at its beginning and at its end.

        Raises invalid_request for what is no whole backup, or of a newer release, storage_full, or internal.
        """
        try:
            for name in (archive.BUNDLES, *archive.TREES):
                (self._directory / name).mkdir(0o700)
            with tarfile.open(fileobj=self._source, mode="r|", errorlevel=2) as tar:
                return self._unpack(tar)
        except (tarfile.TarError, EOFError, ValueError, RecursionError, OverflowError) as error:
            raise _broken("it is cut off, or no backup") from error
        except FileExistsError as error:
            raise _broken(f"{os.path.basename(error.filename)!r} is in it twice") from error
        except OSError as error:
            if error.errno in _FULL:
                raise PyfaasError(Code.STORAGE_FULL, "the disk is full", hint="nothing was restored") from error
            raise PyfaasError(Code.INTERNAL, f"the backup cannot be unpacked: {error.strerror}") from error

    def _unpack(self, tar: tarfile.TarFile) -> tuple[Head, Mapping[str, Any]]:
        first = tar.next()
        if first is None or first.name != archive.HEAD:
            raise _broken("it does not begin as one")
        head = _head(_document(tar, first))
        while (member := tar.next()) is not None and member.name != archive.MANIFEST:
            self._member(tar, member)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep one for each file
        if member is None:
            raise _broken("its end is missing")
        self._close_entry()
        end = _document(tar, member)
        self._compare(end)
        return head, end

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name
        is_tree = _is_tree(name)
        if not (is_tree or _PLAIN.fullmatch(name)):
            raise _broken(f"it has a member {name[:200]!r}, which no backup has")
        if os.path.dirname(name) not in self._directories:
            raise _broken(f"{name[:200]!r} in it lies in no directory of it")
        entry = archive.entry_of(name)
        if entry != self._entry:
            self._close_entry()
            if entry in self._sums:
                raise _broken(f"{entry} is in it twice")
            self._entry, self._sum = entry, Sum()
        self._write(tar, member, is_tree=is_tree)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, *, is_tree: bool) -> None:
        path = self._directory / member.name
        if member.type == tarfile.DIRTYPE and is_tree:
            self._sum.member(member.name, 0o040755, 0)
            self._directories.add(member.name)
            path.mkdir(0o755)
        elif member.type == tarfile.SYMTYPE and is_tree and _stays(member.name, member.linkname):
            self._sum.member(member.name, 0, 0, member.linkname)
            path.symlink_to(member.linkname)
        elif member.type == tarfile.REGTYPE and not member.sparse:
            self._file(tar, member, path, _mode(member, is_tree=is_tree))
        else:
            raise _broken(f"{member.name[:200]!r} in it is no plain file")

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, mode: int) -> None:
        self._sum.member(member.name, mode, member.size)
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101 - a plain file, as was seen
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            left = member.size
            while left:
                piece = content.read(min(left, _PIECE))
                if not piece:
                    raise _broken("it is cut off")
                left -= len(piece)
                self._sum.content(piece)
                file.write(piece)
            os.fchmod(descriptor, mode)

    def _close_entry(self) -> None:
        if self._entry:
            self._sums[self._entry] = self._sum.hex()

    def _compare(self, end: Mapping[str, Any]) -> None:
        """See that what came is what the manifest lists, each with its digest."""
        listed = end.get("entries")
        if end.get("kind") != archive.SIGNATURE or not isinstance(listed, dict):
            raise _broken("its manifest is none")
        if listed != self._sums:
            wrong = sorted(e for e in {*listed, *self._sums} if listed.get(e) != self._sums.get(e))
            raise _broken(f"{wrong[0]} is not what its manifest says")
        if archive.DATABASE not in listed:
            raise _broken("it holds no database")


def _head(shown: Mapping[str, Any]) -> Head:
    if shown.get("kind") != archive.SIGNATURE:
        raise _broken("it does not begin as one")
    try:
        head = Head(
            format=int(shown["format"]),
            pyfaas=str(shown["pyfaas"])[:50],
            schema=int(shown["schema"]),
            made=float(shown["made"]),
            platform=str(shown["platform"]),
        )
    except (KeyError, TypeError) as error:
        raise _broken("its beginning is incomplete") from error
    if head.format > archive.FORMAT:
        raise newer(head.pyfaas)
    return head


def newer(release: str) -> PyfaasError:
    """Return the refusal of a backup that a newer release made."""
    message = f"the backup was made by pyfaas {release}; this is pyfaas {__version__}"
    return PyfaasError(Code.INVALID_REQUEST, message, hint=f"restore it with pyfaas {release} or later")


def _broken(why: str) -> PyfaasError:
    return PyfaasError(Code.INVALID_REQUEST, f"this is no whole backup of pyfaas: {why}", hint="nothing was restored")


def _document(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Mapping[str, Any]:
    if member.type != tarfile.REGTYPE or not 0 < member.size <= _DOCUMENT:
        raise _broken(f"{member.name} in it is no document")
    content = tar.extractfile(member)
    assert content is not None  # noqa: S101 - a plain file
    shown = json.loads(content.read())
    if not isinstance(shown, dict):
        raise _broken(f"{member.name} in it is no document")
    return shown


def _is_tree(name: str) -> bool:
    return _TREE.fullmatch(name) is not None and not {"", ".", ".."} & set(name.split("/")) and "\0" not in name


def _stays(name: str, target: str) -> bool:
    """Tell whether a link stays in its tree: it goes up only at its beginning, and no further than to the tree's top."""
    parts = target.split("/")
    ups = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return bool(target) and not target.startswith("/") and ".." not in parts[ups:] and ups <= name.count("/") - 2


def _mode(member: tarfile.TarInfo, *, is_tree: bool) -> int:
    if is_tree:
        return 0o555 if member.mode & 0o111 else 0o444
    return 0o644 if member.name.startswith(archive.BUNDLES) else 0o600
