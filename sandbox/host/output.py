"""What a worker prints, passed on to a descriptor of this process, as a child's output would be.

Whoever reads that descriptor may be slow, and the event loop waits for nobody: while it takes nothing, nothing is read, so
that in the end the worker waits in its `print`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select

_PIECE = 4_096  # PIPE_BUF: what a pipe that is ready takes at once, see pipe(7)
_AGAIN_S = 0.02
_MOST_PIECES = 64


class Output:
    """One stream; `target` -1 lets everything fall."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: int, target: int) -> None:
        """Begin to read `source`, a nonblocking pipe that the caller closes after `close`."""
        self._loop, self._source, self._target = loop, source, target
        self._poll = select.poll()
        if target >= 0:
            self._poll.register(target, select.POLLOUT)
        self._timer: asyncio.TimerHandle | None = None
        self._held = b""
        self._listen()

    def drain(self) -> None:
        """Pass on what is there, as far as it is taken."""
        for _ in range(_MOST_PIECES):
            if not self._pass():
                return

    def close(self) -> None:
        """Pass on the rest, and let go of the pipe."""
        self.drain()
        self._rest()

    def _listen(self) -> None:
        self._timer = None
        self._loop.add_reader(self._source, self.drain)

    def _rest(self) -> None:
        self._loop.remove_reader(self._source)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pass(self) -> bool:
        if not self._held:
            try:
                self._held = os.read(self._source, _PIECE)
            except BlockingIOError:
                return False
            if not self._held:  # every writer has closed it
                self._rest()
                return False
        if self._target >= 0 and not self._poll.poll(0):
            self._rest()
            self._timer = self._loop.call_later(_AGAIN_S, self._listen)
            return False
        piece, self._held = self._held, b""
        if self._target >= 0:
            with contextlib.suppress(OSError):  # nobody reads ours
                _write(self._target, piece)
        return True


def _write(target: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(target, piece) :]
