"""Attaching: what is done in a container's own mount namespace once it waits there, confined."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from sandbox import kernel
from sandbox.launcher import tree
from sandbox.launcher.confine import BUILD_DIR
from sandbox.launcher.vms import ContainerRecord, come_back

_REMOUNT = kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def slot_path(slot: str, mode: str) -> str:
    """Return where a slot is in a container; raises ValueError for one that does not exist."""
    if mode == "rw" and slot in tree.BUILD_SLOTS:
        return f"{BUILD_DIR}/{slot}"
    if mode == "ro" and slot in tree.SLOTS:
        return f"/app/{slot}"
    raise ValueError(f"no slot {slot} for {mode}")


def within(box: ContainerRecord, own: int, trees: Iterable[tuple[str, int]], tmp_bytes: int) -> None:
    """Attach trees in a container's mount namespace and size its /tmp, and come back to `own` whatever happens; raises OSError."""
    trees = list(trees)
    if not trees and tmp_bytes == box.tmp_bytes:
        return
    kernel.setns(box.mnt, kernel.NEWNS)
    try:
        for path, descriptor in trees:
            kernel.move_mount(descriptor, path)
        if tmp_bytes != box.tmp_bytes:
            for path in ("/tmp", "/dev/shm"):  # noqa: S108 - inside the container
                kernel.mount(None, path, None, _REMOUNT, f"size={tmp_bytes}")
            box.tmp_bytes = tmp_bytes
    finally:
        come_back(own, kernel.NEWNS)


def tell(box: ContainerRecord) -> None:
    """Tell a container that waits for it; nothing that it may have written is ever read."""
    try:
        box.report.send(b"a", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:  # it did not wait, was told before, or has ended
        return
    box.report.close()


def close_all(trees: Iterable[tuple[str, int]]) -> None:
    """Close the descriptors of trees."""
    for _, descriptor in trees:
        os.close(descriptor)
