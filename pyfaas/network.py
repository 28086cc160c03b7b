"""What a version's `network` list means: entries, what two lists have in common, and the addresses that stand for names inside.

An entry is `HOST:PORT`: a name, `*.` and a name, an IPv4 address, or a range in CIDR notation; `NAME:PORT@RANGE` lets a name lead into a
private range. A list becomes a `NetworkPlan`: a VM knows addresses only, and egress knows which names and ranges they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass

SYNTHETIC = "198.18.0.0/15"  # RFC 2544: routed nowhere
RESOLVER = "127.0.0.53"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A TCP listener inside of a VM. `address` is a name's synthetic one, or 0.0.0.0 where a wildcard or a range needs it."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What a VM with network is made with. Doors are handed out in this order, then the resolver's two sockets: UDP, TCP.

    `entries` are sorted and canonical, `names` maps an exact name to its synthetic address, `ranges` are the literal ranges that
    need a route. `is_open`: any public host on the ports (dependency builds).
    """

    entries: tuple[str, ...]
    doors: tuple[Door, ...]
    names: tuple[tuple[str, str], ...] = ()
    ranges: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return what tells this network profile from others: VMs of one are never used for another."""
        return " ".join(self.entries)
