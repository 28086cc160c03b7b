"""The log of one call: what its code wrote to fd 1 and fd 2, read back by the container itself.

Theory of operation. fd 1 and 2 are the write ends of two pipes whose read ends both this process
and the host hold. After the handler, FIONREAD says how much lies in each; it is read back into the
answer, so a line belongs to the call that wrote it, child processes and C code included. The host
reads the pipes only during long calls and after a death, so what is here is the rest. What a thread
or a child writes after the answer belongs to the next call: nobody could tell it apart.
"""

from __future__ import annotations

import array
import fcntl
import io
import os
import sys
import termios
import time

_READ = 65536
_NAP_S, _PATIENCE = 0.001, 1_000


class Console:
    """The two pipes, and the text streams that Python code writes to."""

    def __init__(self, out_read: int, err_read: int) -> None:
        """Take the read ends; `log_bytes` bounds what one call may add to its answer."""
        self._out, self._err = out_read, err_read
        self.log_bytes = 1 << 20
        self._count = array.array("i", [0])

    def open(self) -> None:
        """Give the code its sys.stdout and sys.stderr, on fd 1 and 2, whatever was there."""
        self.write_to(1, 2)

    def write_to(self, out: int, err: int) -> None:
        """Set sys.stdout and sys.stderr to line-buffered UTF-8 text on two descriptors."""
        stdout, stderr = _text(out), _text(err)
        sys.stdout, sys.stderr = stdout, stderr
        sys.__stdout__, sys.__stderr__ = stdout, stderr  # type: ignore[misc]
        self._flush_out, self._flush_err = stdout.flush, stderr.flush

    def flush(self) -> None:
        """Put what Python still holds into the pipes."""
        try:
            self._flush_out()
            self._flush_err()
        except (ValueError, OSError):  # the code closed sys.stdout, or fd 1 itself
            self.open()

    def has_text(self) -> bool:
        """Tell whether something lies in the pipes."""
        self.flush()
        try:
            return any(fcntl.ioctl(pipe, termios.FIONREAD, self._count) or self._count[0] for pipe in (self._out, self._err))
        except OSError:  # the code closed our read ends
            return False

    def wait_until_read(self) -> None:
        """Wait until the host has read what lies in the pipes, for as long as it may reasonably take."""
        for _ in range(_PATIENCE):
            if not self.has_text():
                return
            time.sleep(_NAP_S)

    def take(self) -> tuple[bytes, bytes]:
        """Return what was written to fd 1 and fd 2 since the last time, cut at `log_bytes` with a mark."""
        self.flush()
        count = self._count
        out = err = b""
        try:
            fcntl.ioctl(self._out, termios.FIONREAD, count)
            if count[0]:
                out = self._read(self._out, count[0])
            fcntl.ioctl(self._err, termios.FIONREAD, count)
            if count[0]:
                err = self._read(self._err, count[0])
        except OSError:  # the code closed our read ends: its own log is lost, the answer is not
            return out, err
        return out, err

    def _read(self, pipe: int, length: int) -> bytes:
        pieces: list[bytes] = []
        left = length
        while left > 0:
            try:
                piece = os.read(pipe, min(left, _READ))
            except BlockingIOError:  # the host's sweep was quicker
                break
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return cut(b"".join(pieces), self.log_bytes)


def cut(text: bytes, limit: int) -> bytes:
    """Shorten a log to `limit` bytes and say so in its last line."""
    if len(text) <= limit:
        return text
    return text[:limit] + f"\n[log cut: {len(text) - limit} bytes more were written]\n".encode()


def _text(fd: int) -> io.TextIOWrapper:
    return open(  # noqa: SIM115, PTH123 -- lives as long as the process
        fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
