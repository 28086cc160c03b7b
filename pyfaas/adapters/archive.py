"""What a backup is, as a file: the words that the writer (`backups`) and the reader (`unpacking`) share.

A plain tar (POSIX pax), uncompressed: bundles are zips already, a processor that answers calls has better to do, and whoever
wants it smaller pipes it through a compressor of his own. Any tar shows and unpacks it. In this order:

    backup.json         who made it, when, of which format and schema; the first 512-byte blocks name a foreign file
    pyfaas.db           one consistent copy of the database, without a WAL
    *.token, secrets.key  the keys that the data directory holds
    bundles/…           the uploads of every living version
    prepared/…, environments/…   what containers see, of every version that was ready
    manifest.json       a digest for each entry, and counts: what is cut before it is no backup

An *entry* is what has one digest: a file, or a whole tree under `prepared/` or `environments/`, so that the manifest, the only
thing that is kept in memory, stays small however many files there are.
"""

from __future__ import annotations

import hashlib
import stat
import sys
import sysconfig

FORMAT = 1
HEAD, DATABASE, MANIFEST = "backup.json", "pyfaas.db", "manifest.json"
TOKENS = ("admin.token", "default.token")
KEYS = (*TOKENS, "secrets.key")
BUNDLES, TREES = "bundles", ("prepared", "environments")
SIGNATURE = "pyfaas backup"  # the value of `kind` in both documents


def entry_of(name: str) -> str:
    """Return the entry that a member of the archive belongs to: a tree's first two parts, or the name itself."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] in TREES else name


def platform() -> str:
    """Name what an installed environment fits: the interpreter and the machine."""
    return f"{sys.implementation.cache_tag} {sysconfig.get_platform()}"


class Sum:
    """The digest of an entry: of each member's kind, name and content, in the archive's order."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._hash = hashlib.sha256()

    def member(self, name: str, mode: int, size: int, target: str = "") -> None:
        """Take in a member before its content; `target` is a link's."""
        kind = "l" if target else "d" if stat.S_ISDIR(mode) else "x" if mode & 0o111 else "f"
        self._hash.update(f"{kind} {size} {name}\0{target}\0".encode("utf-8", "surrogateescape"))

    def content(self, piece: bytes) -> None:
        """Take in content."""
        self._hash.update(piece)

    def hex(self) -> str:
        """Return the digest so far."""
        return self._hash.hexdigest()
