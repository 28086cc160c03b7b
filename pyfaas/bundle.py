"""What a bundle may contain, and what names it: rules over the entries of a zip, without touching a disk.

Theory of operation. The server checks a bundle when it is uploaded, and the build container checks it
again before it unpacks; both use `inspect`. What is doubtful is rejected, never rewritten: CPython's
`zipfile` would silently turn `../../x` into `x` and cut a name at a NUL, so the names are judged as they
are in the archive (`orig_filename`). Only plain files and directories, stored or deflated, are taken; what
could collide on another file system (case, Unicode form) is rejected. `digest` names the content: times,
order and compression of the archive do not matter.

`zipfile` itself is imported when a bundle is opened: containers import this module and need no threads.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import stat
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

_STORED, _DEFLATED = 0, 8
_REFUSED_FLAGS = 0x1 | 0x40 | 0x2000  # encrypted, strongly encrypted, masked headers
_LOCAL_HEADER = 30  # bytes, before the name
_RATIO_FROM = 1 << 20  # entries smaller than this cannot hurt, however well they pack
_CHUNK = 1 << 18
_NAME_BYTES, _PART_BYTES, _DEPTH = 1000, 255, 64
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_DRIVE = 2  # a letter and a colon


class BundleError(Exception):
    """A bundle that is not taken: `code` is `invalid_bundle` or `too_large`, `message` names the entry and the rule."""

    def __init__(self, code: str, message: str) -> None:
        """Keep both parts."""
        self.code, self.message = code, message
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How large a bundle may be. `ratio` bounds unpacked to packed size of entries above 1 MiB."""

    files: int = 20_000
    unpacked_bytes: int = 250 << 20
    ratio: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of a bundle; `name` is its key in the ZipFile, `path` where it goes."""

    name: str
    path: str
    executable: bool
    size: int


def open_bundle(source: str | IO[bytes]) -> ZipFile:
    """Open a bundle from a path or a seekable file; raises BundleError when it is no zip."""
    zipfile = importlib.import_module("zipfile")
    try:
        opened: ZipFile = zipfile.ZipFile(source)
    except _unreadable() as error:
        raise BundleError("invalid_bundle", f"the bundle is not a readable zip: {error}") from None
    return opened


def inspect(archive: ZipFile, rules: Rules | None = None) -> list[Entry]:
    """Check every entry and return the files, sorted by path; raises BundleError for the first that breaks a rule."""
    limits = rules or Rules()
    infos = archive.infolist()
    if len(infos) > limits.files:
        raise BundleError("too_large", f"the bundle has {len(infos)} entries; at most {limits.files} are taken")
    _check_sizes(infos, limits)
    _check_layout(archive, infos)
    entries: list[Entry] = []
    seen: dict[str, str] = {}
    for info in infos:
        path = _checked_path(info)
        _check_collision(path, seen)
        _check_kind(info)
        if not info.is_dir():
            executable = bool(info.external_attr >> 16 & 0o111)
            entries.append(Entry(name=info.filename, path=path, executable=executable, size=info.file_size))
    _check_directories(entries)
    if not entries:
        raise BundleError("invalid_bundle", "the bundle has no files")
    return sorted(entries, key=lambda entry: entry.path.encode())


def inspect_packed(packed: bytes, unpacked_bytes: int) -> tuple[str, int]:
    """Check an uploaded bundle; returns its digest and its unpacked size in bytes. Raises BundleError."""
    with open_bundle(io.BytesIO(packed)) as archive:
        entries = inspect(archive, Rules(unpacked_bytes=unpacked_bytes))
        return digest(archive, entries), sum(entry.size for entry in entries)


def read(archive: ZipFile, entry: Entry) -> Iterator[bytes]:
    """Yield a file's content in pieces; raises BundleError when it is damaged or not as long as announced."""
    length = 0
    try:
        with archive.open(entry.name) as file:
            while piece := file.read(_CHUNK):
                length += len(piece)
                if length > entry.size:
                    break
                yield piece
    except _unreadable() as error:
        raise BundleError("invalid_bundle", f"{entry.path!r} cannot be unpacked: {error}") from None
    if length != entry.size:
        raise BundleError("invalid_bundle", f"{entry.path!r} is not as long as the archive says")


def digest(archive: ZipFile, entries: Sequence[Entry]) -> str:
    """Return the hex sha256 over the sorted (path, executable bit, content) of a checked bundle."""
    whole = hashlib.sha256(b"pyfaas bundle 1\n")
    for entry in sorted(entries, key=lambda each: each.path.encode()):
        content = hashlib.sha256()
        for piece in read(archive, entry):
            content.update(piece)
        path = entry.path.encode()
        whole.update(b"%d:%b:%c:" % (len(path), path, b"x" if entry.executable else b"-") + content.digest())
    return whole.hexdigest()


def _unreadable() -> tuple[type[BaseException], ...]:
    zipfile: Any = importlib.import_module("zipfile")
    # RuntimeError is zipfile's word for encrypted, NotImplementedError for an unknown method.
    return (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, NotImplementedError)


def _check_sizes(infos: Sequence[ZipInfo], limits: Rules) -> None:
    total = sum(info.file_size for info in infos)
    if total > limits.unpacked_bytes:
        message = f"the bundle unpacks to {total} bytes; at most {limits.unpacked_bytes} are taken"
        raise BundleError("too_large", message)
    for info in infos:
        if info.file_size > _RATIO_FROM and info.file_size > limits.ratio * max(info.compress_size, 1):
            message = f"{info.orig_filename!r} unpacks to more than {limits.ratio} times its packed size"
            raise BundleError("too_large", message)


def _check_layout(archive: ZipFile, infos: Sequence[ZipInfo]) -> None:
    """Reject overlapping entries (quoted-overlap bombs) and data before the first."""
    end = 0
    for info in sorted(infos, key=lambda each: each.header_offset):
        if info.header_offset < end or (end == 0 and info.header_offset != 0):
            message = f"{info.orig_filename!r} overlaps another entry or follows foreign data"
            raise BundleError("invalid_bundle", message)
        end = info.header_offset + _LOCAL_HEADER + len(info.orig_filename) + info.compress_size
    if end > archive.start_dir:
        raise BundleError("invalid_bundle", "an entry reaches into the archive's directory")


def _checked_path(info: ZipInfo) -> str:
    raw = info.orig_filename
    problem = _name_problem(raw.removesuffix("/"))
    if problem is None and info.filename != raw:
        problem = "would be rewritten"
    if problem is not None:
        raise BundleError("invalid_bundle", f"the name {raw[:200]!r} {problem}")
    return raw.removesuffix("/")


def _name_problem(name: str) -> str | None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    if not name or length > _NAME_BYTES:
        return f"is empty or longer than {_NAME_BYTES} bytes"
    if name.startswith("/") or (len(name) >= _DRIVE and name[1] == ":"):
        return "is absolute"
    if "\\" in name:
        return "has a backslash"
    if any(unicodedata.category(letter) in _INVISIBLE for letter in name):
        return "has an invisible or control character"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode form NFC"
    return _parts_problem(name.split("/"))


def _parts_problem(parts: Sequence[str]) -> str | None:
    if len(parts) > _DEPTH:
        return f"is deeper than {_DEPTH} directories"
    for part in parts:
        if part in ("", ".", ".."):
            return "has an empty part, '.' or '..'"
        if part[-1] in ". ":
            return "has a part that ends in a dot or a space"
        if len(part.encode()) > _PART_BYTES:
            return f"has a part longer than {_PART_BYTES} bytes"
    return None


def _check_collision(path: str, seen: dict[str, str]) -> None:
    key = unicodedata.normalize("NFC", path.casefold())
    other = seen.get(key)
    seen[key] = path
    if other is not None:
        raise BundleError("invalid_bundle", f"{path!r} collides with {other!r}")


def _check_kind(info: ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        raise BundleError("invalid_bundle", f"{info.orig_filename!r} is neither a file nor a directory")
    if info.flag_bits & _REFUSED_FLAGS:
        raise BundleError("invalid_bundle", f"{info.orig_filename!r} is encrypted")
    if info.compress_type not in (_STORED, _DEFLATED):
        raise BundleError("invalid_bundle", f"{info.orig_filename!r} is packed in a way other than stored or deflated")
    if info.is_dir() and info.file_size:
        raise BundleError("invalid_bundle", f"the directory {info.orig_filename!r} has content")


def _check_directories(entries: Sequence[Entry]) -> None:
    """Reject a file that another entry uses as a directory, in whatever case it is written."""
    files = {entry.path.casefold() for entry in entries}
    for entry in entries:
        parts = entry.path.casefold().split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in files:
                raise BundleError("invalid_bundle", f"{entry.path!r} lies under a file")
