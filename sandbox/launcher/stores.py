"""Stores: directories of the host from which code is attached, named at start, entered by descriptor only.

A command carries a store's name and an entry's name, never a path. What is opened stays beneath the store and follows
no link of any kind: in an experiment a "bundle" that was a link to /etc was mounted without this.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence

from sandbox import kernel

STAGING = "staging"


class Stores:
    """The stores by name; raises OSError for what is not there."""

    def __init__(self, paths: dict[str, str]) -> None:
        """Open every store."""
        self._directories = {name: os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for name, path in paths.items()}

    def tree(self, store: str, name: str, *, writable: bool) -> int:
        """Return a detached mount of an entry: read-only, nosuid, nodev, unless it is staged and to be written."""
        if writable and store != STAGING:
            raise PermissionError(1, "only staged directories can be written", store)
        found = kernel.open_beneath(self._directories[store], _entry(name), os.O_PATH)
        try:
            tree = kernel.open_tree(found, "")
        finally:
            os.close(found)
        flags = kernel.ATTR_NOSUID | kernel.ATTR_NODEV
        kernel.mount_setattr(tree, "", flags if writable else flags | kernel.ATTR_RDONLY)
        return tree

    def stage(self, name: str, uid: int) -> None:
        """Make a directory that a VM's uid may write."""
        directory = self._directories[STAGING]
        os.mkdir(_entry(name), 0o755, dir_fd=directory)
        if uid:
            os.chown(name, uid, uid, dir_fd=directory, follow_symlinks=False)

    def commit(self, staged: str, store: str, name: str) -> None:
        """Move a staged directory to its final name; where that exists already the staged one is removed."""
        source, target = self._directories[STAGING], self._directories[store]
        try:
            kernel.rename_noreplace(source, _entry(staged), target, _entry(name))
        except FileExistsError:
            self.discard(STAGING, staged)
            return
        os.fsync(target)

    def staged(self) -> list[str]:
        """Return what is being made, or was when somebody died."""
        return os.listdir(self._directories[STAGING]) if STAGING in self._directories else []

    def has(self, store: str, name: str) -> bool:
        """Tell whether a store has an entry."""
        try:
            os.stat(_entry(name), dir_fd=self._directories[store], follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def discard(self, store: str, name: str) -> None:
        """Remove an entry: its name is gone at once, so that no crash leaves half a directory under it.

        shutil.rmtree goes by descriptors here, so a link inside is removed and not followed.
        """
        directory = self._directories[store]
        if store != STAGING:
            source, directory = directory, self._directories[STAGING]
            gone = f"gone-{os.getpid()}-{_entry(name)}"
            try:
                kernel.rename_noreplace(source, name, directory, gone)
            except FileNotFoundError:
                return
            os.fsync(source)
            name = gone
        try:
            shutil.rmtree(_entry(name), dir_fd=directory)
        except NotADirectoryError:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except RecursionError:
            raise OSError(40, "nested too deeply", name) from None


    def discard_all(self, store: str, names: Sequence[str]) -> None:
        """Remove entries of a store."""
        for name in names:
            self.discard(store, name)


def _entry(name: str) -> str:
    """Return the name of an entry; a store itself and its parent are none."""
    if name in (".", "..") or "/" in name:
        raise OSError(errno.EINVAL, "this names no entry of a store", "stores")
    return name
