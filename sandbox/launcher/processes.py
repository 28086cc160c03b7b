"""The launcher's children as processes: what they report, and how they and what they leave are ended."""

from __future__ import annotations

import array
import os
import signal
import socket
import sys
from collections.abc import Callable

from sandbox import kernel
from sandbox.spec import MAX_LISTENERS

_ROOM = socket.CMSG_SPACE((MAX_LISTENERS + 3) * 4)  # a VM's doors; everything else that is reported is fewer


def receive(report: socket.socket) -> tuple[bytes, list[int]]:
    """Read one report with its descriptors; an ended child reads as empty."""
    try:
        text, ancillary, _, _ = report.recvmsg(512, _ROOM, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", []
    handles = array.array("i")
    for _level, kind, raw in ancillary:
        if kind == socket.SCM_RIGHTS:
            handles.frombytes(raw[: len(raw) - len(raw) % handles.itemsize])
    return text, list(handles)


def failure(tag: bytes, pid: int) -> tuple[str, str, str]:
    """Return the step, the error's number and the text of a child's last report, which need not be one of a failure."""
    words = tag.decode("utf-8", "replace").split(" ", 3) if tag.startswith(b"e ") else []
    return (words[1], words[2], words[3]) if len(words) == 4 else ("child", "0", f"process {pid} ended before it was ready")


def reap(pid: int) -> int:
    """Wait for a child and return its status; 0 for one that was waited for."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def end_orphans(init: int) -> None:
    """Without a cgroup: kill what ended containers left, which by then are the children of the VM's init."""
    for _ in range(100):
        try:
            with open(f"/proc/{init}/task/{init}/children") as file:
                pids = file.read().split()
        except OSError:  # the VM is gone, and everything with it
            return
        if not pids:
            return
        for pid in pids:
            kill(int(pid))


def fork_for(work: Callable[[], None]) -> int:
    """Do something in a child, which exits with 0 or the error's number; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70  # EX_SOFTWARE
    try:
        kernel.set_parent_death_signal(signal.SIGKILL)
        sys.setrecursionlimit(100_000)  # a path may be as deep as a tenant could make it
        work()
        status = 0
    except OSError as error:
        status = error.errno or status
    finally:
        os._exit(status)
