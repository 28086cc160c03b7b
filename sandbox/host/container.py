"""A container as its host holds it: a channel, two log pipes, a leaf, and one end.

Theory of operation. The channel is a sequenced-packet socket on the event loop: `on_packet` is called straight from
the reader callback, once per packet, without a task or a future. Sending does not block: what the socket does not take
at once is kept in order and follows when it can. A container ends once: when its channel reads end-of-file the launcher
is asked to see to it, and when the launcher says how the process ended, `on_end` is called with an Ending, evidence
included. Packets that had arrived before the end are delivered first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sandbox.host.leaf import Leaf
from sandbox.spec import Ending, Fate, Limits, Usage
from sandbox.wire import MAX_PACKET

if TYPE_CHECKING:
    from sandbox.host.launcher import Launcher

_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid
_MAX_BACKLOG = 64  # packets read in one go before others get their turn


class Container:
    """One confined process that waits for orders. Set `on_packet` and `on_end` before sending."""

    def __init__(
        self, launcher: Launcher, vm: str, key: str, pid: int, descriptors: list[int], labels: list[str], limits: Limits
    ) -> None:
        """Take over the descriptors: channel, fd 1, fd 2, then the leaf's files."""
        self.id, self.vm, self.pid = key.partition(":")[0], vm, pid
        self.key = key  # of this process: one that replaces it has the same id
        self.on_packet: Callable[[bytes], None] = self._unasked
        self.on_end: Callable[[Ending], None] = lambda _ending: None
        self.out_fd, self.err_fd = descriptors[1], descriptors[2]
        self.limits = limits
        self.ending: Ending | None = None
        self._launcher = launcher
        self._socket = socket.socket(fileno=descriptors[0])
        self._socket.setblocking(False)
        self._receive: Callable[[int], bytes] = self._first
        self._leaf = Leaf(dict(zip(labels, descriptors[3:], strict=True)), limits)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._killed = False
        self._is_reading = False
        self._base: Usage | None = None
        self.resume()

    def __repr__(self) -> str:
        """Show what it is."""
        return f"<Container {self.id} pid {self.pid}{' ended' if self.ending else ''}>"

    def send(self, packet: bytes) -> None:
        """Send a packet; one for a container that ended is dropped, since its end is told anyway."""
        if self._queue:
            self._queue.append(packet)
            return
        try:
            self._socket.send(packet)
        except BlockingIOError:
            self._queue.append(packet)
            self._loop.add_writer(self._socket.fileno(), self._flush)
        except OSError:
            return

    def limit(self, limits: Limits) -> None:
        """Set what it may use, by its cgroup leaf."""
        self._leaf.limit(limits)
        self.limits = limits

    def usage(self) -> Usage:
        """Read its leaf's counters; of a leaf that it took over, what has come since, but for the peak (see `cgroups.Leaf.reset`)."""
        usage = self._leaf.usage()
        return usage if self._base is None else usage.since(self._base)

    def count_from(self, base: Usage) -> None:
        """Leave out what its leaf had counted before it."""
        self._base = base if base != Usage() else None

    def pause(self) -> None:
        """Stop reading packets; the container blocks when its socket is full."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Go on reading packets."""
        if not self._is_reading and self.ending is None and self._socket.fileno() >= 0:
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def give_up(self) -> None:
        """Expect its end, which somebody else sees to: killing by the leaf would hit who comes after it."""
        self._killed = True

    def kill(self) -> None:
        """End it, and all that it started; `on_end` follows."""
        if not self._killed and self.ending is None:
            self._killed = True
            if not self._leaf.kill():
                self._launcher.tell("kill", self.vm, self.key)

    async def attach(self, mounts: Sequence[tuple[str, str, str, bool]]) -> None:
        """Attach entries of stores, `(slot, store, name, writable)` each, and size /tmp by the limits; raises SetupError."""
        await self._launcher.ask("attach", self.vm, self.key, *self._attachment(mounts))

    def attach_nowait(self, mounts: Sequence[tuple[str, str, str, bool]], done: Callable[[Exception | None], None]) -> None:
        """Attach as `attach` does; `done` is called with what went wrong, or None."""
        self._launcher.ask_nowait(done, "attach", self.vm, self.key, *self._attachment(mounts))

    def _attachment(self, mounts: Sequence[tuple[str, str, str, bool]]) -> list[str]:
        words = [f"{slot}:{store}:{name}:{'rw' if writable else 'ro'}" for slot, store, name, writable in mounts]
        return [str(self.limits.tmp_bytes), *words]

    # ---- inside

    def _first(self, size: int) -> bytes:
        """Read the first packet with its sender: an ordinary user's launcher counts pids of its own, which are not ours.

        The kernel tells the sender's pid as this process sees it: unix(7), SCM_CREDENTIALS.
        """
        packet, ancillary, _, _ = self._socket.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
        for _level, kind, raw in ancillary:
            if kind == socket.SCM_CREDENTIALS and len(raw) >= _CREDENTIALS.size:
                self.pid = _CREDENTIALS.unpack_from(raw)[0]
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        self._receive = self._socket.recv
        return packet

    def _readable(self) -> None:
        for _ in range(_MAX_BACKLOG):
            try:
                packet = self._receive(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._closed()
                return
            self.on_packet(packet)
            if not self._is_reading:
                return

    def _flush(self) -> None:
        while self._queue:
            try:
                self._socket.send(self._queue[0])
            except BlockingIOError:
                return
            except OSError:
                self._queue.clear()
                break
            self._queue.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _closed(self) -> None:
        """Its channel is closed: whatever lives of it is of no use any more."""
        self.pause()
        self._launcher.tell("kill", self.vm, self.key)

    def _unasked(self, _packet: bytes) -> None:
        self.kill()  # a blank has nothing to say

    def ended(self, status: int | None, usage: Usage) -> None:
        """Take the wait status and the last counters that the launcher saw; status None when the launcher is gone."""
        if self.ending is not None:
            return
        if self._is_reading:
            self._readable()
        self.ending = self._judge(status, usage)
        self.pause()
        self._loop.remove_writer(self._socket.fileno())
        try:
            self.on_end(self.ending)
        finally:
            self._socket.close()
            self._leaf.close()
            os.close(self.out_fd)
            os.close(self.err_fd)

    def _judge(self, status: int | None, usage: Usage) -> Ending:
        if status is None:
            return Ending(fate=Fate.LOST)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        evidence: Mapping[str, int | str] = {
            "memory_peak_bytes": usage.memory_peak_bytes,
            "oom_kills": usage.oom_kills,
            "pids_refused": usage.pids_refused,
            "cpu_us": usage.cpu_us,
        }
        if usage.oom_kills:
            fate = Fate.OOM
        elif number == signal.SIGSYS:
            fate = Fate.FORBIDDEN_SYSCALL
        elif self._killed:
            fate = Fate.KILLED
        else:
            fate = Fate.SIGNALLED if number else Fate.EXITED
        return Ending(fate=fate, signal=number, status=code, evidence=evidence)
