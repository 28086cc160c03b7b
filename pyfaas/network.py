"""What a version's `network` list means: entries, what two lists have in common, and the addresses that stand for names inside.

An entry is `HOST:PORT`: a name, `*.` and a name (whatever is below it, at any depth), an IPv4 address, or a range in CIDR notation.
`NAME:PORT@RANGE[,RANGE]` lets a name lead into a private range; without one a name leads to public addresses only. A list allows what
any of its entries allows.

A list becomes a `NetworkPlan`: a VM knows addresses only, and egress knows which names and ranges they stand for. Each exact name has
an address of `SYNTHETIC` from the plan; what a wildcard covers gets one when it is first asked for.

What is public is told by the special-purpose registries (RFC 6890, IANA): everything in them is private here. An IPv6 address that
carries an IPv4 one (NAT64, RFC 6052; mapped) is as public as that.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pyfaas.errors import Code, PyfaasError

SYNTHETIC = "198.18.0.0/15"  # RFC 2544: routed nowhere
RESOLVER = "127.0.0.53"
MOST_ENTRIES = 64  # as many listeners as a VM may have
_SYNTHETIC = IPv4Network(SYNTHETIC)
_ANY_ADDRESS, _ANY = "0.0.0.0", IPv4Network("0.0.0.0/0")  # noqa: S104 - inside of a VM
_DNS_PORT, _MOST_PORT, _MOST_NAME, _MOST_RANGES = 53, 65_535, 253, 8
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_EXPECTED = "host:port, *.domain:port, address/bits:port or name:port@address/bits"
_SPECIAL_TEXTS = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "a carrier's own"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for measurements"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
SPECIAL = tuple((IPv4Network(text), what) for text, what in _SPECIAL_TEXTS)
_GLOBAL_6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_SPECIAL_6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A TCP listener inside of a VM. `address` is a name's synthetic one, or 0.0.0.0 where a wildcard or a range needs it."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What a VM with network is made with. Doors are handed out in this order, then the resolver's two sockets, UDP and TCP, and one for knocks.

    `entries` are sorted and canonical, `names` maps an exact name to its address inside, `ranges` are those that need a route: every
    address does, so that an unlisted one is refused at once too, and heard of as a knock. `is_trusted`: the operator's own list
    (dependency builds), whose private ranges need nobody's leave.
    """

    entries: tuple[str, ...]
    doors: tuple[Door, ...]
    names: tuple[tuple[str, str], ...] = ()
    ranges: tuple[str, ...] = ()
    is_trusted: bool = False

    @property
    def key(self) -> str:
        """Return what tells this network profile from others: VMs of one are never used for another."""
        return " ".join((*self.entries, *(["(trusted)"] if self.is_trusted else [])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry: a name (`*.` before it, or `*` alone for the operator's any), or a literal range; and a port.

    `ranges` are where a name may lead beside public addresses.
    """

    port: int
    name: str | None = None
    literal: IPv4Network | None = None
    ranges: tuple[IPv4Network, ...] = ()

    @property
    def is_wildcard(self) -> bool:
        """Whether it covers names that it does not say."""
        return self.name is not None and self.name.startswith("*")

    @property
    def text(self) -> str:
        """Return it in its canonical form."""
        host = self.name if self.literal is None else _range_text(self.literal)
        ranges = "@" + ",".join(map(_range_text, self.ranges)) if self.ranges else ""
        return f"{host}:{self.port}{ranges}"

    def is_for(self, name: str, port: int) -> bool:
        """Tell whether it covers a name, lower case and without a last dot, and a port."""
        return self.port == port and self.name is not None and _is_below(name, self.name)


def _is_below(name: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def _range_text(network: IPv4Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


# ---- reading


def _wrong(key: str, text: object, expected: str, hint: str = "") -> PyfaasError:
    shown = repr(text)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    return PyfaasError(Code.INVALID_REQUEST, f"{key}: expected {expected}, not {shown}", hint=hint, evidence={"key": key})


def parse(text: str, key: str = "network", *, is_operator: bool = False) -> Entry:
    """Read an entry; `is_operator` allows `*:PORT` too. Raises invalid_request naming `key`."""
    destination, at, ranges = text.partition("@")
    host, colon, port = destination.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= _MOST_PORT:
        raise _wrong(key, text, _EXPECTED, "a port is needed: 443 for https" if "://" not in text else "leave the scheme out")
    if ":" in host:
        raise _wrong(key, text, "a name or an IPv4 address; IPv6 addresses are not supported", "name the host: it is reached by IPv6 too")
    if host.replace(".", "").replace("/", "").isdigit():
        if at:
            raise _wrong(key, text, "a range after @ only with a name")
        return _literal(host, int(port), key, text)
    return _named(host, int(port), ranges.split(",") if at else [], key, text, is_operator=is_operator)


def _literal(host: str, port: int, key: str, text: str) -> Entry:
    network = _range(host, key, text)
    if port == _DNS_PORT:
        raise _wrong(key, text, "another port than 53, where names are asked for inside, unless a single name is given")
    if network.subnet_of(_SYNTHETIC):
        raise _wrong(key, text, f"another range than {SYNTHETIC}, which stands for names inside")
    return Entry(port=port, literal=network)


def _range(host: str, key: str, text: str) -> IPv4Network:
    try:
        return IPv4Network(host, strict=True)
    except ValueError:
        pass
    try:
        hint = f"the range is {IPv4Network(host, strict=False)}"
    except ValueError:
        hint = ""
    raise _wrong(key, text, _EXPECTED, hint)


def _named(host: str, port: int, ranges: Sequence[str], key: str, text: str, *, is_operator: bool) -> Entry:  # noqa: PLR0913 - the parts of an entry
    name = host.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    is_any = name == "*" and is_operator
    if not is_any and (len(name) > _MOST_NAME or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit()):
        raise _wrong(key, text, _EXPECTED, "" if text.isascii() else "write it as DNS does: xn--…")
    if name.startswith("*") and port == _DNS_PORT:
        raise _wrong(key, text, "another port than 53, where names are asked for inside, unless a single name is given")
    if len(ranges) > _MOST_RANGES:
        raise _wrong(key, text, f"at most {_MOST_RANGES} ranges")
    found = (_range(one, key, text) for one in ranges)
    return Entry(port=port, name=name, ranges=_collapsed(found))


def _collapsed(networks: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    return tuple(sorted(ipaddress.collapse_addresses(networks)))


def canonical(entries: Iterable[str], key: str = "network") -> tuple[str, ...]:
    """Return a list in the form in which it is kept: each entry canonical, those of one name and port merged, sorted.

    Raises invalid_request naming `key` and the place, for an entry that is none, and for more than MOST_ENTRIES.
    """
    found = _merged(parse(text, f"{key}[{i}]") for i, text in enumerate(entries))
    if len(found) > MOST_ENTRIES:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key}: {len(found)} entries are more than {MOST_ENTRIES}", evidence={"key": key})
    return _texts(found)


def canonical_trusted(entries: Iterable[str]) -> tuple[str, ...]:
    """Return the operator's own list in its canonical form; what is no entry is left out, since another tool's settings say it."""
    found = []
    for text in entries:
        with contextlib.suppress(PyfaasError):
            found.append(parse(text, is_operator=True))
    return _texts(_merged(found)[:MOST_ENTRIES])


def _merged(entries: Iterable[Entry]) -> list[Entry]:
    named: dict[tuple[str, int], Entry] = {}
    literal: set[Entry] = set()
    for entry in entries:
        if entry.name is None:
            literal.add(entry)
            continue
        old = named.get((entry.name, entry.port))
        ranges = _collapsed((*entry.ranges, *(old.ranges if old else ())))
        named[entry.name, entry.port] = Entry(port=entry.port, name=entry.name, ranges=ranges)
    return [*named.values(), *literal]


def _texts(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(sorted({entry.text for entry in entries}))


@lru_cache(maxsize=4096)
def _read(text: str) -> Entry:
    return parse(text, is_operator=True)  # what is kept was checked when it came


# ---- comparing


def intersect(*lists: Iterable[str]) -> tuple[str, ...]:
    """Return what all of the canonical lists allow, canonical; nothing for no list.

    A name and a literal range have nothing in common: which addresses a name has is nobody's promise.
    """
    if not lists:
        return ()
    found = [_read(text) for text in lists[0]]
    for other in lists[1:]:
        read = [_read(text) for text in other]
        found = _merged(filter(None, (_both(a, b) for a, b in itertools.product(found, read))))
    found = _merged(found)
    return _texts(a for a in found if not any(_covers(b, a) for b in found if b != a))


def _both(a: Entry, b: Entry) -> Entry | None:
    if a.port != b.port:
        return None
    if a.literal is not None and b.literal is not None:
        literal = _narrower(a.literal, b.literal)
        return None if literal is None else Entry(port=a.port, literal=literal)
    if a.name is None or b.name is None:
        return None
    name = b.name if _is_below(b.name, a.name) else a.name if _is_below(a.name, b.name) else None
    if name is None:
        return None
    return Entry(port=a.port, name=name, ranges=_collapsed(filter(None, itertools.starmap(_narrower, itertools.product(a.ranges, b.ranges)))))


def _narrower(a: IPv4Network, b: IPv4Network) -> IPv4Network | None:
    return a if a.subnet_of(b) else b if b.subnet_of(a) else None


def _covers(outer: Entry, inner: Entry) -> bool:
    if outer.port != inner.port:
        return False
    if inner.literal is not None:
        return outer.literal is not None and inner.literal.subnet_of(outer.literal)
    return (
        outer.name is not None
        and inner.name is not None
        and _is_below(inner.name, outer.name)
        and all(any(one.subnet_of(wide) for wide in outer.ranges) for one in inner.ranges)
    )


def covers(outer: Iterable[str], inner: Iterable[str]) -> bool:
    """Tell whether a canonical list allows all that another one does."""
    return not missing(outer, inner)


def missing(allowed: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the entries of `wanted` that no entry of `allowed` covers; both canonical."""
    given = [_read(text) for text in allowed]
    return tuple(text for text in wanted if not any(_covers(outer, _read(text)) for outer in given))


# ---- what is public


def needs_private(entries: Iterable[str]) -> tuple[str, ...]:
    """Return the private ranges that a canonical list reaches, in order: only the operator may allow them."""
    reached = (network for text in entries for network in _reached(_read(text)))
    parts = (_narrower(network, special) for network in reached for special, _ in SPECIAL)
    return tuple(str(network) for network in _collapsed(filter(None, parts)))


def _reached(entry: Entry) -> tuple[IPv4Network, ...]:
    return entry.ranges if entry.literal is None else (entry.literal,)


def ranges(text: str, key: str = "egress_private") -> tuple[IPv4Network, ...]:
    """Read comma-separated IPv4 ranges; raises invalid_request naming `key`."""
    words = [word.strip() for word in text.split(",")]
    return _collapsed(_range(word, key, text) for word in words if word)


def not_allowed(entries: Iterable[str], private: Sequence[IPv4Network]) -> tuple[tuple[str, str], ...]:
    """Return (range, what it is) of the private ranges that a list reaches and the operator's `private` does not hold."""
    wanted = (IPv4Network(text) for text in needs_private(entries))
    return tuple((_range_text(one), kind(one)) for one in wanted if not any(one.subnet_of(wide) for wide in private))


def kind(network: IPv4Network) -> str:
    """Say what a private range is for."""
    return next((what for special, what in SPECIAL if _narrower(network, special)), "private")


@lru_cache(maxsize=4096)  # asked for each connection
def is_public(address: str) -> bool:
    """Tell whether an address, IPv4 or IPv6, is one of the public internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, IPv4Address):
        return not any(found in special for special, _ in SPECIAL)
    carried = carried_by(found)
    if carried is not None:
        return is_public(str(carried))
    return found in _GLOBAL_6 and not any(found in special for special in _SPECIAL_6)


def carried_by(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 one leads to, if it is of such a kind."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


# ---- planning


def plan(entries: Iterable[str], *, is_trusted: bool = False) -> NetworkPlan:
    """Return how a VM with this canonical list is made. A trusted list may have `*:PORT`, and no bounds."""
    read = sorted(_merged(_read(text) for text in entries), key=lambda entry: entry.text)
    exact = sorted({entry.name for entry in read if entry.name is not None and not entry.is_wildcard})
    names = {name: "127.0.0.1" if name == "localhost" else str(_SYNTHETIC[i]) for i, name in enumerate(exact, 1)}
    wide = {entry.port for entry in read if entry.is_wildcard or _is_wide(entry)}
    doors = {(_ANY_ADDRESS, port) for port in wide}
    doors |= {(_inside(entry, names), entry.port) for entry in read if entry.port not in wide}
    return NetworkPlan(
        entries=_texts(read),
        doors=tuple(Door(address=address, port=port) for address, port in sorted(doors)),
        names=tuple(sorted(names.items())),
        ranges=(str(_ANY),),
        is_trusted=is_trusted,
    )


def _is_wide(entry: Entry) -> bool:
    return entry.literal is not None and entry.literal.prefixlen < entry.literal.max_prefixlen


def _inside(entry: Entry, names: dict[str, str]) -> str:
    return str(entry.literal.network_address) if entry.literal is not None else names[str(entry.name)]
