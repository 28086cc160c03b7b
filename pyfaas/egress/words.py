"""What server and egress tell each other: packets of a Unix socket (SOCK_SEQPACKET), each a JSON object.

server → egress   {"open": VM, "plan": …} with the doors, in the plan's order, then the resolver's two sockets and that for knocks
                  {"close": VM}
egress → server   {"used": [[VM, bytes in, bytes out, connections], …]}  each second, of those that used something, and after a close
                  {"refused": VM, "why": a sentence}
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from pyfaas.network import Door, NetworkPlan

LONGEST = 128 << 10
MOST_DOORS = 67  # 64 listeners, the resolver's two and that for knocks; a packet carries 253 (SCM_MAX_FD)
USED_AT_ONCE = 200
Used = tuple[str, int, int, int]


def opening(vm: str, plan: NetworkPlan) -> bytes:
    """Return the packet that hands over a VM."""
    return json.dumps({"open": vm, "plan": asdict(plan)}).encode()


def closing(vm: str) -> bytes:
    """Return the packet that takes a VM back."""
    return json.dumps({"close": vm}).encode()


def using(rows: Iterable[Used]) -> bytes:
    """Return the packet that tells what VMs used since the last one."""
    return json.dumps({"used": list(rows)}).encode()


def refusing(vm: str, why: str) -> bytes:
    """Return the packet that tells of a refusal."""
    return json.dumps({"refused": vm, "why": why}).encode()


def plan_of(values: Mapping[str, Any]) -> NetworkPlan:
    """Read a plan as `opening` wrote it; raises KeyError or TypeError for anything else."""
    return NetworkPlan(
        entries=tuple(values["entries"]),
        doors=tuple(Door(**door) for door in values["doors"]),
        names=tuple((name, address) for name, address in values["names"]),
        ranges=tuple(values["ranges"]),
        is_trusted=bool(values["is_trusted"]),
    )


def receive(end: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Take the next packet and the descriptors that came with it; None when the other side is gone.

    Raises BlockingIOError when nothing waits.
    """
    try:
        packet, descriptors, _, _ = socket.recv_fds(end, LONGEST, MOST_DOORS, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return None, []
    if not packet:
        return None, descriptors
    word = json.loads(packet)
    return word if isinstance(word, dict) else {}, descriptors
