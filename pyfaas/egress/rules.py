"""What a VM's plan allows: decisions over plain values, without a socket or a clock.

An address inside stands for a name, or for itself where a literal range is listed. A name's addresses outside are looked at one by one:
public ones pass, private ones only where an entry's range and the operator's hold them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from pyfaas.network import SYNTHETIC, Entry, NetworkPlan, carried_by, is_public, kind, parse

_SYNTHETIC = IPv4Network(SYNTHETIC)
_WILD_FIRST = int(IPv4Address("198.19.0.0"))  # exact names have theirs from the plan, below
_IPV4_HEADER = 20
MOST_NAMES = 1024  # that wildcards of one VM give addresses to


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a connection is to go: a name or a literal address, a port, and the private ranges where it may end.

    `is_anywhere`: the operator's own index or proxy, wherever that is.
    """

    host: str
    port: int
    is_literal: bool
    private: tuple[IPv4Network, ...] = ()
    is_anywhere: bool = False

    @property
    def text(self) -> str:
        """Return it as it is written in a list."""
        return f"{self.host}:{self.port}"


class Refused(Exception):
    """A destination is not allowed; the message is for the function's log."""


class Rules:
    """One VM's plan, and the names that its wildcards have given addresses to."""

    def __init__(self, plan: NetworkPlan, private: Sequence[IPv4Network]) -> None:
        """`private` are the ranges that the operator allows; a trusted plan needs no leave."""
        self._entries = [parse(text, is_operator=True) for text in plan.entries]
        self._private = None if plan.is_trusted else tuple(private)
        self._address_of = dict(plan.names)
        self._name_of = {address: name for name, address in plan.names}

    def address_of(self, name: str) -> str | None:
        """Return the address that stands for a name here, None when no entry covers it. Raises Refused when there are too many."""
        name = name.lower().removesuffix(".")
        found = self._address_of.get(name)
        if found is not None or not any(_covers_name(entry, name) for entry in self._entries):
            return found
        if len(self._name_of) >= MOST_NAMES:
            raise Refused(f"{name} has no address here: this VM has asked for {MOST_NAMES} names already")
        address = str(IPv4Address(_WILD_FIRST + 1 + len(self._name_of)))
        self._address_of[name], self._name_of[address] = address, name
        return address

    def destination(self, address: str, port: int) -> Destination:
        """Return where a connection goes that was made inside to an address and a port; raises Refused."""
        name = self._name_of.get(address)
        if name is not None:
            entries = [entry for entry in self._entries if entry.is_for(name, port)]
            if entries:
                ranges = tuple(one for entry in entries for one in entry.ranges)
                is_anywhere = self._private is None and any(one.prefixlen == 0 for one in ranges)
                return Destination(host=name, port=port, is_literal=False, private=self._granted(ranges), is_anywhere=is_anywhere)
        if self._is_listed(IPv4Address(address), port):
            literal = (IPv4Network(address),)
            private, is_anywhere = self._granted(literal), self._private is None
            return Destination(host=address, port=port, is_literal=True, private=private, is_anywhere=is_anywhere)
        raise Refused(unlisted(name or address, port))

    def _is_listed(self, address: IPv4Address, port: int) -> bool:
        if address in _SYNTHETIC:
            return False  # of a name that was never asked for
        return any(entry.literal is not None and entry.port == port and address in entry.literal for entry in self._entries)

    def _granted(self, ranges: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
        """Return the parts of ranges that the operator allows too."""
        if self._private is None:
            return tuple(ranges)
        pairs = [(one, wide) for one in ranges for wide in self._private if one.overlaps(wide)]
        return tuple(one if one.subnet_of(wide) else wide for one, wide in pairs)


    def knocked(self, packet: bytes) -> str | None:
        """Say what was dialled that has no door, from the headers of its first packet (RFC 791, RFC 9293); None for what is no such packet."""
        start = (packet[0] & 0xF) * 4 if packet else 0
        if len(packet) < start + 4 or start < _IPV4_HEADER:
            return None
        address, port = str(IPv4Address(packet[16:20])), int.from_bytes(packet[start + 2 : start + 4], "big")
        return unlisted(self._name_of.get(address, address), port)


def _covers_name(entry: Entry, name: str) -> bool:
    return entry.is_for(name, entry.port)


def unlisted(host: str, port: int | None = None) -> str:
    """Say that a host is in no list, and what would have to be added."""
    if port is None:
        return f'{host} is not in this version\'s network list: add "{host}:443", with the port that it is reached at'
    return f'{host}:{port} is not in this version\'s network list: add "{host}:{port}"'


def is_allowed(address: str, destination: Destination) -> bool:
    """Tell whether an address that a destination leads to may be connected to."""
    if is_public(address):
        return True
    found = _plain(address)
    return isinstance(found, IPv4Address) and any(found in one for one in destination.private)


def checked(destination: Destination, addresses: Sequence[str]) -> list[str]:
    """Return the addresses that may be connected to, in their order; raises Refused when there are some and none of them may."""
    if destination.is_anywhere:
        return list(addresses)
    passed = [address for address in addresses if is_allowed(address, destination)]
    if addresses and not passed:
        raise Refused(not_public(destination, addresses[0]))
    return passed


def not_public(destination: Destination, address: str) -> str:
    """Say that a destination leads to a private range: which kind, not which address."""
    found = _plain(address)
    what = kind(IPv4Network(found)) if isinstance(found, IPv4Address) else "private"
    if destination.is_literal:
        return f"{destination.text} is not public ({what}), and the operator's egress_private does not hold it"
    return (
        f"{destination.text} leads to an address that is not public ({what}): that takes an entry with its range, "
        f'such as "{destination.text}@RANGE", and the operator\'s egress_private'
    )


def _plain(address: str) -> IPv4Address | IPv6Address:
    found = ipaddress.ip_address(address.partition("%")[0])
    return (carried_by(found) or found) if isinstance(found, IPv6Address) else found
