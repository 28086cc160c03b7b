"""Making a data directory out of a backup: what `pyfaas restore` does, without a server.

Everything is unpacked and checked in a new directory beside the wanted one, which is then moved into its place. That one
move is the commit: the kernel refuses it when there is anything in the place, a server's lock for example, so there
is no moment at which a served or a half-restored directory could be taken for the other.

Nothing can be moved onto a mount point. There the new directory is made inside, and what is in it is moved up, under the lock
that a server takes, the database last: a server that finds keys without their database refuses to start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pyfaas.adapters import archive
from pyfaas.adapters.bundles import sync_directory
from pyfaas.adapters.sqlite.copying import examine
from pyfaas.adapters.sqlite.schema import MIGRATIONS
from pyfaas.adapters.unpacking import Head, Unpacking, newer
from pyfaas.errors import Code, PyfaasError

_FOUND = "lost+found"  # which a new file system has at its top


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored, and what the next start has to make anew: `installs` versions' requirements."""

    directory: Path
    head: Head
    accounts: int
    functions: int
    versions: int
    installs: int


def restore(source: BinaryIO, data: Path) -> Restored:
    """Make the data directory `data`, which must be missing or empty, out of a backup.

    Raises conflict for a directory that is not empty, invalid_request for what is no whole backup or one of a newer
    release, storage_full or internal; then nothing has changed.
    """
    data = data.absolute()
    _refuse_full(data)
    with _beside(data) as made:  # or inside, for a mount point
        head, _ = Unpacking(source, made).run()
        if head.schema > len(MIGRATIONS):
            raise newer(head.pyfaas)
        contents = examine(str(made / archive.DATABASE))
        installs = 0
        if head.platform != archive.platform():
            installs = len(contents.environments)
            shutil.rmtree(made / "environments")  # they hold programs for another interpreter or machine
            (made / "environments").mkdir(0o700)
        os.sync()  # thousands of files: one wait for all of them
        (_move_up if data.is_mount() else _move)(made, data)
    counts = contents.counts
    return Restored(
        directory=data,
        head=head,
        accounts=counts["accounts"],
        functions=counts["functions"],
        versions=counts["versions"],
        installs=installs,
    )


def _refuse_full(data: Path) -> None:
    try:
        found = sorted(path.name for path in data.iterdir() if not (path.name == _FOUND and data.is_mount()))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise PyfaasError(Code.CONFLICT, f"{data} is no directory") from None
    if found:
        raise _not_empty(data, found[0])


def _not_empty(data: Path, name: str) -> PyfaasError:
    message = f"{data} is not empty: there is {name!r} in it"
    hint = "stop its server and move it away, or choose another with --data-dir; nothing was changed"
    return PyfaasError(Code.CONFLICT, message, hint=hint)


@contextlib.contextmanager
def _beside(data: Path) -> Iterator[Path]:
    """Make a directory beside another one, in it when it is a mount point; it is removed in the end. Raises internal."""
    place = data if data.is_mount() else data.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{data.name}.restoring-", dir=place))
    except OSError as error:
        message = f"nothing can be written beside {data}: {error.strerror}"
        raise PyfaasError(Code.INTERNAL, message, hint="choose another place with --data-dir") from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _move(made: Path, data: Path) -> None:
    try:
        made.rename(data)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _not_empty(data, "something new") from error
        raise PyfaasError(Code.INTERNAL, f"{data} cannot be made: {error.strerror}") from error
    sync_directory(data.parent)


def _move_up(made: Path, data: Path) -> None:
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new = {path.name for path in data.iterdir()} - {made.name, "lock", _FOUND}
        if new:
            raise _not_empty(data, min(new))
        for path in sorted(made.iterdir(), key=lambda path: path.name == archive.DATABASE):
            sync_directory(data)  # what was moved before is on the disk before the database is
            path.rename(data / path.name)
        data.chmod(0o700)
        sync_directory(data)
    except BlockingIOError:
        raise _not_empty(data, "lock") from None
    finally:
        os.close(lock)
