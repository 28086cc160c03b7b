"""Lines of JSON at the edges of `map`: read as they come, written whole, remembered by number.

Nothing here holds more than a piece of the input. A terminal or a pipe is waited for on the loop and not in a thread,
so that Ctrl-C ends a wait for input at once. Each line goes out in one write to a descriptor without a buffer of ours:
a process that is killed leaves whole lines, but for the one that the kernel was copying, which `Results.open` cuts off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pyfaas.client.errors import invalid

_PIECE = 1 << 16
_STDIN, _STDOUT = 0, 1


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the input: its number among those that are not empty, from 0, its bytes, and where it ends."""

    number: int
    content: bytes
    end: int


class Source:
    """The lines of a file, a pipe or a terminal; `size` is None where nobody can know it."""

    def __init__(self, path: str) -> None:
        """Open a file, or stdin for `-`; raises InvalidRequest."""
        try:
            self.descriptor = _STDIN if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            found = os.fstat(self.descriptor)
        except OSError as error:
            raise invalid(f"{path}: {error.strerror}") from None
        if stat.S_ISDIR(found.st_mode):
            raise invalid(f"{path}: Is a directory")
        self.is_file = stat.S_ISREG(found.st_mode)
        self.size = found.st_size if self.is_file else None

    async def lines(self) -> AsyncIterator[Line]:
        """Yield the lines that are not empty; the last one needs no end."""
        number, end, rest = 0, 0, b""
        while True:
            piece = await self._read()
            *whole, rest = (rest + piece).split(b"\n") if piece else (rest, b"")
            for content in whole:
                end += len(content) + 1
                if content.strip():
                    yield Line(number, content.strip(), end)
                    number += 1
            if not piece:
                return

    async def _read(self) -> bytes:
        if not self.is_file:
            await _readable(self.descriptor)
        return os.read(self.descriptor, _PIECE)

    def close(self) -> None:
        """Let go of the file."""
        if self.descriptor != _STDIN:
            os.close(self.descriptor)


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read; a device that cannot be waited for has it already (epoll_ctl(2), EPERM)."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


@dataclass(slots=True)
class Numbers:
    """A set of small numbers, one bit each: a million of them are 125 kB."""

    bits: bytearray = field(default_factory=bytearray)

    def add(self, number: int) -> None:
        """Put a number in."""
        place, bit = divmod(number, 8)
        if place >= len(self.bits):
            self.bits.extend(bytes(place + 1 - len(self.bits)))
        self.bits[place] |= 1 << bit

    def __contains__(self, number: int) -> bool:
        """Tell whether a number is in it."""
        place, bit = divmod(number, 8)
        return place < len(self.bits) and bool(self.bits[place] >> bit & 1)


class Results:
    """The output of `map`: whole lines, one write each; `done` and `failed` say what it holds."""

    def __init__(self, path: str, *, resume: bool) -> None:
        """Open a file, or stdout for `-`; with `resume` its whole lines are kept. Raises InvalidRequest."""
        self.path, self.done = path, Numbers()
        self.succeeded = self.failed = 0
        self._descriptor = _STDOUT if path == "-" else self._open(path, resume=resume)

    def __enter__(self) -> Self:
        """Return the output."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._descriptor != _STDOUT:
            os.close(self._descriptor)

    def write(self, number: int, key: str, value: bytes) -> None:
        """Write the line of an item; raises OSError, and leaves no part of a line then."""
        self._write(b'{"i": %d, "%s": %s}\n' % (number, key.encode(), value))
        self.succeeded += key == "ok"
        self.failed += key != "ok"

    def _write(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            if written:  # of a pipe nothing can be taken back
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise

    def _open(self, path: str, *, resume: bool) -> int:
        try:
            found = Path(path).stat() if Path(path).exists() else None
            if found and stat.S_ISREG(found.st_mode) and found.st_size:
                if not resume:
                    raise invalid(f"{path} is not empty", "--resume goes on where it ends; otherwise remove it first")
                os.truncate(path, self._remember(path))
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise invalid(f"{path}: {error.strerror}") from None

    def _remember(self, path: str) -> int:
        """Take note of the items of an earlier run; returns where its last whole line ends."""
        end = 0
        with open(path, "rb") as lines:  # noqa: PTH123 - one line at a time
            for count, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                self._count(line, f"{path}, line {count}")
                end += len(line)
        return end

    def _count(self, line: bytes, place: str) -> None:
        document = parsed(line)
        number = document.get("i") if isinstance(document, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise invalid(f"{place} was not written by map", "choose another file for -o")
        if number not in self.done:
            self.done.add(number)
            self.failed += "error" in document
            self.succeeded += "error" not in document


def parsed(line: bytes) -> Any:
    """Return what a line of JSON says; None, which no line of ours is, when it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
