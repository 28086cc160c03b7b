"""When the code on the disk was saved: what belongs to a bundle is watched, and nothing else.

Theory of operation. Only directories are watched, each by itself: an editor that writes another file and renames it, or removes
and creates one, changes its directory; and a tree of installed packages that no bundle takes is never entered. A directory
that came is watched from the next round on. What was written before that is not seen, so each round says once that it
has begun, and whoever listens looks at everything then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import Change, awatch
from watchfiles._rust_notify import WatchfilesRustInternalError

from pyfaas.client.errors import Error
from pyfaas.client.packing import IGNORE_FILE, Rule, belongs, directories, read_rules, rules_of

# What editors write beside a file while it is edited; lines of a .pyfaasignore.
EDITORS = ("*.sw?", "*~", ".#*", "[#]*#", "4913", "*.___jb_*", ".goutputstream-*", ".DS_Store")
_STEP_MS, _LONGEST_MS = 15, 100  # a save is over when nothing came for a step; two saves within the longest are one
_ROUND_MS = 250  # until a round that sees nothing says that it has begun
_GONE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What is watched for a path: directories, and which of the files in them count. `more` are files beside the code."""

    path: Path
    root: Path | None  # of a directory of code; None for a single file
    folders: frozenset[tuple[Path, int]]  # with the inode: another directory of the same name is watched anew
    more: frozenset[Path]
    rules: tuple[Rule, ...]

    @property
    def is_there(self) -> bool:
        """Whether the outermost directory is still the one that is watched."""
        outermost = self.root or self.path.parent
        return (outermost, _inode(outermost)) in self.folders

    def counts(self, changed: Path) -> bool:
        """Tell whether a changed path may change what is published."""
        if changed in self.more or changed == self.path:
            return True
        if self.root is None or not changed.is_relative_to(self.root):
            return False
        inside = changed.relative_to(self.root).as_posix()
        return inside == IGNORE_FILE or belongs(inside, list(self.rules))


def places(path: Path, more: Sequence[Path] = ()) -> Places:
    """Return what is to be watched for a directory, or for a file; of what is not there, what it would lie in."""
    path = path.absolute()
    beside = frozenset(each.absolute() for each in more)
    folders = {each.parent for each in beside}
    rules: list[Rule] = []
    if path.is_dir():
        try:
            rules = rules_of(path, EDITORS)
        except Error:  # told when it is packed
            rules = read_rules("\n".join(EDITORS))
        folders |= set(directories(path, rules))
    else:
        folders.add(path.parent)
    root = path if path.is_dir() else None
    numbered = frozenset((folder, _inode(folder)) for folder in folders)
    return Places(path=path, root=root, folders=numbered, more=beside, rules=tuple(rules))


def _inode(folder: Path) -> int:
    try:
        return folder.stat().st_ino
    except OSError:
        return 0


async def saves(path: Path, more: Sequence[Path] = ()) -> AsyncIterator[frozenset[Path]]:
    """Yield what was saved, each time; an empty set says that all has to be looked at. Never ends by itself."""
    must_poll = False
    while True:
        watched = places(path, more)
        is_begun = False
        try:
            async for changes in awatch(
                *(folder for folder, _ in watched.folders),
                watch_filter=_filter(watched),
                step=_STEP_MS,
                debounce=_LONGEST_MS,
                rust_timeout=_ROUND_MS,
                yield_on_timeout=True,
                recursive=False,
                force_polling=must_poll or None,
            ):
                if changes:
                    yield _paths(changes)
                elif not is_begun:
                    is_begun = True
                    yield frozenset()
                if (changes or not watched.is_there) and places(path, more) != watched:
                    break
        except FileNotFoundError:  # what is watched was removed; it may come back
            await asyncio.sleep(_GONE_S)
        except WatchfilesRustInternalError:
            if must_poll:
                raise
            must_poll = True  # no inotify watches are left (inotify(7)): look at the files instead


def _filter(watched: Places) -> Callable[[Change, str], bool]:
    return lambda _, name: watched.counts(Path(name))


def _paths(changes: set[tuple[Change, str]]) -> frozenset[Path]:
    return frozenset(Path(name) for _, name in changes)
