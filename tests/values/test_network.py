"""The `network` list: what is an entry, what lists have in common, what is private, and how a VM is made."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfaas.errors import Code, PyfaasError
from pyfaas.network import (
    MOST_ENTRIES,
    SYNTHETIC,
    Door,
    canonical,
    covers,
    intersect,
    is_public,
    missing,
    needs_private,
    not_allowed,
    parse,
    plan,
    ranges,
)


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("api.example.com:443", "api.example.com:443"),
        ("API.Example.com.:443", "api.example.com:443"),
        ("*.example.org:443", "*.example.org:443"),
        ("10.1.2.3/32:5432", "10.1.2.3:5432"),
        ("10.1.2.3:80", "10.1.2.3:80"),
        ("10.1.0.0/16:0080", "10.1.0.0/16:80"),
        ("db.internal:5432@10.0.0.0/8", "db.internal:5432@10.0.0.0/8"),
        ("db:5432@10.1.0.0/16,10.0.0.0/8,192.168.0.1", "db:5432@10.0.0.0/8,192.168.0.1"),
        ("*.internal:443@10.0.0.0/8", "*.internal:443@10.0.0.0/8"),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
        ("ns.example.com:53", "ns.example.com:53"),
    ],
)
def test_entries(entry: str, kept: str) -> None:
    """Hosts, wildcards and ranges with a port are destinations, and have one form each."""
    assert parse(entry).text == kept
    assert parse(kept).text == kept


@pytest.mark.parametrize(
    "entry",
    [
        *("", "example.com", "a.com:0", "a.com:65536", "a.com:", ":80", "*:80", "a.*.com:1", "*a.com:1", "-a.com:1", "a..b:1", "a.com:8a"),
        *("10.0.0.1/8:1", "1.2.3:1", "1.2.3.4.5:1", "256.1.1.1:1", "010.1.1.1:1", "10.0.0.0/33:1", "10.0.0.0/8:1@10.0.0.0/8"),
        *("::1:80", "[::1]:80", "[fe80::/10]:1", "fe80::1/64:2"),
        *("a.com:1@", "a.com:1@::/0", "a.com:1@a.com", "a.com:1@10.0.0.1/8", "a@10.0.0.0/8:1", "a.com:1@" + ",".join(f"10.{i}.0.0/16" for i in range(9))),
        *("https://a.com:443", "user@a.com:443", "a.com:443/path", "a b.com:1", "a.com :1", "a.com:1\n", "bücher.example:443", "a" * 64 + ".com:1"),
        *("198.18.0.5:443", "198.19.0.0/16:443", "*.a.com:53", "10.0.0.0/8:53", "127.0.0.53:53", "０.com:１"),
    ],
)
def test_entries_that_are_none(entry: str) -> None:
    """Anything else is refused, by the key and in a sentence, before somebody could read it in two ways."""
    with pytest.raises(PyfaasError) as caught:
        canonical([entry], "k")
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.message.startswith("k[0]: expected ")
    assert len(caught.value.message) < 250


def test_addresses_of_ipv6_are_refused_by_name() -> None:
    """Who writes an IPv6 address hears that these are not supported, not that it is no host."""
    with pytest.raises(PyfaasError, match="IPv6 addresses are not supported"):
        parse("[2001:db8::1]:443")


def test_a_list_is_merged_and_bounded() -> None:
    """Entries of one name and port are one; a list longer than a VM has listeners is refused."""
    assert canonical(["b:1@10.2.0.0/16", "a:1", "b:1@10.3.0.0/16", "b:1", "A:1"]) == ("a:1", "b:1@10.2.0.0/15")
    assert len(canonical(f"a:{port}" for port in range(1, MOST_ENTRIES + 1))) == MOST_ENTRIES
    with pytest.raises(PyfaasError, match="65 entries"):
        canonical(f"a:{port}" for port in range(1, MOST_ENTRIES + 2))


@pytest.mark.parametrize(
    ("lists", "common"),
    [
        ([], ()),
        ([["a.x:1", "b.x:1"]], ("a.x:1", "b.x:1")),
        ([["a.x:1", "b.x:1"], ["b.x:1", "c.x:1"]], ("b.x:1",)),
        ([["*.x:1"], ["a.x:1", "x:1", "a.x:2", "a.b.x:1"]], ("a.b.x:1", "a.x:1")),
        ([["*.x:1"], ["*.b.x:1"]], ("*.b.x:1",)),
        ([["*.x:1"], ["*.y:1"]], ()),
        ([["10.0.0.0/8:1"], ["10.1.0.0/16:1", "11.0.0.0/8:1", "10.2.0.0/16:2"]], ("10.1.0.0/16:1",)),
        ([["10.1.2.3:1"], ["0.0.0.0/0:1"]], ("10.1.2.3:1",)),
        ([["a:1@10.0.0.0/8"], ["a:1"]], ("a:1",)),
        ([["a:1@10.0.0.0/8,192.168.0.0/16"], ["a:1@10.1.0.0/16"]], ("a:1@10.1.0.0/16",)),
        ([["a:1@10.0.0.0/8"], ["10.0.0.0/8:1"]], ()),
        ([["*.x:1", "a.x:1"], ["*.x:1"]], ("*.x:1",)),
        ([["a:1"], ["a:1"], []], ()),
        ([["*.x:1"], ["*.a.x:1"], ["b.a.x:1", "c.x:1"]], ("b.a.x:1",)),
    ],
)
def test_what_lists_have_in_common(lists: list[list[str]], common: tuple[str, ...]) -> None:
    """A run through somebody else's grant reaches what every list allows, and no more."""
    assert intersect(*lists) == common
    assert intersect(*reversed(lists)) == common


NAMES = st.sampled_from(["x", "a.x", "b.x", "c.a.x", "*.x", "*.a.x", "*.c.a.x", "y"])
NETWORKS = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "192.168.0.0/16", "8.8.8.8", "0.0.0.0/0", "93.184.0.0/16"])
PORTS = st.sampled_from(["80", "443"])
ENTRIES = st.one_of(
    st.builds("{}:{}".format, st.one_of(NAMES, NETWORKS), PORTS),
    st.builds(lambda name, port, some: f"{name}:{port}@{','.join(some)}", NAMES, PORTS, st.lists(NETWORKS, min_size=1, max_size=3)),
)
LISTS = st.lists(ENTRIES, max_size=5).map(canonical)
NAMED = st.tuples(st.sampled_from(["x", "a.x", "b.x", "c.a.x", "d.c.a.x", "y", "z"]), st.sampled_from(["10.1.2.3", "10.9.9.9", "192.168.3.3", "93.184.1.1"]))


def allows(entries: tuple[str, ...], name: str, port: int, address: str) -> bool:
    """Tell, by the module's first sentences, whether a connection by a name to an address is allowed; no name is a literal."""
    found = ipaddress.IPv4Address(address)
    for text in entries:
        entry = parse(text)
        if not name and entry.literal is not None and entry.port == port and found in entry.literal:
            return True
        if name and entry.is_for(name, port) and (is_public(address) or any(found in one for one in entry.ranges)):
            return True
    return False


@settings(max_examples=300, deadline=None, derandomize=True)
@given(LISTS, LISTS, st.sampled_from([80, 443]), NAMED, st.booleans())
def test_a_common_list_allows_exactly_what_each_does(a: tuple[str, ...], b: tuple[str, ...], port: int, named: tuple[str, str], is_literal: bool) -> None:
    """A connection is allowed by the intersection when both lists allow it, and only then."""
    name = "" if is_literal else named[0]
    assert allows(intersect(a, b), name, port, named[1]) == (allows(a, name, port, named[1]) and allows(b, name, port, named[1]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(LISTS, LISTS)
def test_a_common_list_is_within_each(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    """The intersection is canonical, covered by both lists, and all of a list that is covered by the other."""
    common = intersect(a, b)
    assert canonical(common) == common
    assert covers(a, common)
    assert covers(b, common)
    assert set(missing(b, a)) <= set(a)
    if covers(b, a):
        assert covers(common, a)


@pytest.mark.parametrize(
    ("entry", "private"),
    [
        ("a.com:443", ()),
        ("*.a.com:443", ()),
        ("8.8.8.8:53000", ()),
        ("a.com:443@8.8.8.0/24", ()),
        ("10.1.2.3:80", ("10.1.2.3/32",)),
        ("127.0.0.1:80", ("127.0.0.1/32",)),
        ("169.254.169.254:80", ("169.254.169.254/32",)),
        ("100.64.0.0/10:80", ("100.64.0.0/10",)),
        ("224.0.0.1:80", ("224.0.0.1/32",)),
        ("255.255.255.255:80", ("255.255.255.255/32",)),
        ("0.0.0.0:80", ("0.0.0.0/32",)),
        ("db:1@10.0.0.0/8,8.8.8.8", ("10.0.0.0/8",)),
        ("172.0.0.0/8:80", ("172.16.0.0/12",)),
    ],
)
def test_what_only_the_operator_may_allow(entry: str, private: tuple[str, ...]) -> None:
    """Private, loopback, link-local, metadata, carriers' and reserved ranges are told; public ones are not."""
    assert needs_private([entry]) == private


def test_the_whole_internet_holds_every_private_range() -> None:
    """A range that holds private ones needs the operator's leave for these."""
    assert {"10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16"} <= set(needs_private(["0.0.0.0/0:80"]))


def test_the_operators_ranges() -> None:
    """What the operator's ranges do not hold is named, with what it is; two halves make a whole."""
    assert not_allowed(["10.0.0.0/8:1", "127.0.0.1:1"], ranges("10.0.0.0/9, 10.128.0.0/9")) == (("127.0.0.1", "loopback"),)
    assert not_allowed(["10.1.2.3:1"], ranges("10.1.0.0/16")) == ()
    assert not_allowed(["169.254.169.254:80"], ranges("")) == (("169.254.169.254", "link-local, where clouds keep their metadata"),)
    with pytest.raises(PyfaasError, match="egress_private"):
        ranges("10.0.0.1/8")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("127.0.0.1", False), ("10.0.0.1", False), ("169.254.169.254", False), ("100.64.1.1", False), ("0.0.0.0", False)),
        *(("172.32.0.1", True), ("192.168.1.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("192.0.0.1", False)),
        *(("2606:4700::1", True), ("::1", False), ("::", False), ("fe80::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("ff02::1", False)),
        *(("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True)),
        *(("2002:7f00:1::", False), ("2001:0:53aa::1", False), ("2001:db8::1", False), ("64:ff9b:1::1", False), ("::127.0.0.1", False)),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    """Only addresses of the public internet are public, whatever way an address is wrapped in another."""
    assert is_public(address) is public


def test_a_plan() -> None:
    """Exact names have their addresses and doors there; a wildcard or a range opens its port everywhere; every address has a route."""
    made = plan(canonical(["b.com:443", "a.com:443", "a.com:5432", "*.c.com:8443", "d.com:8443", "10.1.2.3:6379", "10.2.0.0/16:6380", "127.0.0.1:80"]))
    assert dict(made.names) == {"a.com": "198.18.0.1", "b.com": "198.18.0.2", "d.com": "198.18.0.3"}
    wanted = {("198.18.0.1", 443), ("198.18.0.2", 443), ("198.18.0.1", 5432), ("0.0.0.0", 8443), ("10.1.2.3", 6379), ("0.0.0.0", 6380), ("127.0.0.1", 80)}
    assert set(made.doors) == {Door(address=address, port=port) for address, port in wanted}
    assert made.ranges == ("0.0.0.0/0",)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(LISTS)
def test_plans_can_be_built(entries: tuple[str, ...]) -> None:
    """Each port of a list has a door, no two doors are in each other's way, and no two names share an address."""
    made = plan(entries)
    assert made == plan(reversed(entries))
    assert made.key == " ".join(entries)
    assert {door.port for door in made.doors} == {parse(text).port for text in entries}
    assert len(made.doors) <= MOST_ENTRIES
    wide = {door.port for door in made.doors if door.address == "0.0.0.0"}
    assert not [door for door in made.doors if door.port in wide and door.address != "0.0.0.0"]
    addresses = [address for _, address in made.names]
    assert len(set(addresses)) == len(addresses)
    assert all(ipaddress.IPv4Address(address) in ipaddress.IPv4Network(SYNTHETIC) for address in addresses)


def test_localhost_is_where_its_clients_look_for_it() -> None:
    """The name localhost is not asked for: its door is where every resolver says that it is."""
    assert plan(["localhost:80@127.0.0.0/8"]).doors == (Door(address="127.0.0.1", port=80),)


def test_a_trusted_list_is_another_profile() -> None:
    """VMs of the operator's own list are never a tenant's, though the entries be the same."""
    assert plan(["a:1"], is_trusted=True).key != plan(["a:1"]).key
