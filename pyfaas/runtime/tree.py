"""Files of a build: written once, compiled, made readable for all, and put on the disk for good."""

from __future__ import annotations

import importlib
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

_TEXT = 500  # characters of one syntax error


class Size(NamedTuple):
    """How much a directory holds, links not followed."""

    files: int
    bytes: int


def write(path: str, pieces: Iterable[bytes], *, executable: bool) -> None:
    """Write a new file with mode 0444 or 0555; raises OSError, FileExistsError included."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.fchmod(fd, 0o555 if executable else 0o444)
    finally:
        os.close(fd)


def byte_compile(root: str, told: Callable[[int, int], None] = lambda _done, _total: None) -> list[dict[str, str]]:
    """Compile every module below `root`; returns the files that cannot be, with the reason. `told` hears of (done, total).

    The compiled files are unchecked-hash ones: the code never changes, so an import need not look at the source.
    """
    compiler: Any = importlib.import_module("py_compile")
    mode = compiler.PycInvalidationMode.UNCHECKED_HASH
    problems: list[dict[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes of other people's packages
        modules = [path for path, _ in walk(root) if path.endswith(".py")]
        for done, path in enumerate(modules):
            told(done, len(modules))
            try:
                compiler.compile(path, doraise=True, invalidation_mode=mode)
            except (compiler.PyCompileError, RecursionError, ValueError, MemoryError) as error:
                text = str(getattr(error, "exc_value", error))
                problems.append({"path": os.path.relpath(path, root), "message": text[:_TEXT]})
    return problems


def measure(root: str) -> Size:
    """Count what lies below `root`; files that vanish while it is being written are skipped."""
    files = total = 0
    for _, status in walk(root):
        files, total = files + 1, total + status.st_size
    return Size(files, total)


def seal(root: str) -> Size:
    """Make everything below `root` readable for all and durable; returns its size.

    What is executable stays so; links that leave `root` are removed.
    """
    files = total = 0
    inside = os.path.realpath(root) + os.sep
    for path, status in walk(root):
        files, total = files + 1, total + status.st_size
        if stat.S_ISLNK(status.st_mode):
            if not os.path.realpath(path).startswith(inside):
                os.unlink(path)
            continue
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fchmod(fd, 0o555 if status.st_mode & 0o111 else 0o444)
            os.fsync(fd)
        finally:
            os.close(fd)
    for directory, _, _ in os.walk(root):
        os.chmod(directory, 0o755)  # noqa: S103 -- the container of a version reads it as another user
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    return Size(files, total)


def walk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every file and link below `root` with its lstat."""
    for directory, subdirectories, names in os.walk(root):
        links = [name for name in subdirectories if os.path.islink(os.path.join(directory, name))]
        for name in (*names, *links):
            path = os.path.join(directory, name)
            try:
                yield path, os.lstat(path)
            except FileNotFoundError:
                continue
