"""What a VM's plan allows, without a socket."""

from __future__ import annotations

import pytest

from pyfaas.egress import rules
from pyfaas.egress.rules import Destination, Refused, Rules, checked
from pyfaas.network import canonical, plan, ranges


def rules_of(*entries: str, private: str = "", is_trusted: bool = False) -> Rules:
    """Return the rules of a list."""
    return Rules(plan(canonical(entries) if not is_trusted else entries, is_trusted=is_trusted), ranges(private))


def refusal(made: Rules, address: str, port: int) -> str:
    """Return why a connection is refused."""
    with pytest.raises(Refused) as caught:
        made.destination(address, port)
    return str(caught.value)


def test_the_dialled_address_tells_the_name() -> None:
    """A name's address inside leads to that name on a listed port, and to nothing on another."""
    made = rules_of("api.test:443", "api.test:8443", "*.wild.test:80")
    address = str(made.address_of("api.test"))
    assert made.destination(address, 443) == Destination(host="api.test", port=443, is_literal=False)
    assert made.destination(address, 8443).text == "api.test:8443"
    assert 'add "api.test:80"' in refusal(made, address, 80)


def test_a_wildcards_names_get_addresses_when_they_are_asked_for() -> None:
    """What a wildcard covers has an address of its own, the same each time; the bare domain and others have none."""
    made = rules_of("*.wild.test:443")
    first, second = made.address_of("a.wild.test"), made.address_of("b.c.wild.test")
    assert first is not None
    assert first != second
    assert made.address_of("A.Wild.Test.") == first
    assert made.destination(first, 443).host == "a.wild.test"
    assert made.address_of("wild.test") is None
    assert made.address_of("notwild.test") is None


def test_an_address_that_was_never_given_leads_nowhere() -> None:
    """Loopback, a synthetic address of no name and any literal that is not listed are refused."""
    made = rules_of("api.test:443", "*.wild.test:443", "10.1.0.0/16:443", private="10.0.0.0/8")
    for address in ("127.0.0.1", "198.19.77.1", "198.18.0.77", "10.2.0.1", "8.8.8.8", "0.0.0.0"):
        assert "is not in this version's network list" in refusal(made, address, 443)
    assert made.destination("10.1.9.9", 443).is_literal


def test_names_of_a_wildcard_are_bounded() -> None:
    """A VM that asks for ever more names is refused, and keeps those that it has."""
    made = rules_of("*.wild.test:443")
    first = made.address_of("n0.wild.test")
    for number in range(1, rules.MOST_NAMES):
        made.address_of(f"n{number}.wild.test")
    with pytest.raises(Refused, match="1024 names"):
        made.address_of("one-more.wild.test")
    assert made.address_of("n0.wild.test") == first


def test_private_addresses_need_the_entry_and_the_operator() -> None:
    """An address in a private range passes only where the entry's range and the operator's both hold it."""
    for entry, private, passes in (
        ("db.test:1", "", False),
        ("db.test:1", "10.0.0.0/8", False),
        ("db.test:1@10.0.0.0/8", "", False),
        ("db.test:1@10.0.0.0/8", "192.168.0.0/16", False),
        ("db.test:1@10.0.0.0/8", "10.0.0.0/8", True),
        ("db.test:1@10.0.0.0/8", "10.1.0.0/16", True),
        ("db.test:1@10.1.2.3", "10.0.0.0/8", True),
        ("db.test:1@10.0.0.0/8", "10.2.0.0/16", False),
    ):
        made = rules_of(entry, private=private)
        destination = made.destination(str(made.address_of("db.test")), 1)
        assert rules.is_allowed("10.1.2.3", destination) is passes, (entry, private)
        assert rules.is_allowed("93.184.216.34", destination)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "0.0.0.0", "100.64.0.1"]
)
def test_a_public_name_does_not_lead_inwards(address: str) -> None:
    """A name whose only addresses are not public is refused, without saying which address it was."""
    destination = Destination(host="evil.test", port=80, is_literal=False)
    with pytest.raises(Refused) as caught:
        checked(destination, [address])
    assert "leads to an address that is not public" in str(caught.value)
    assert address not in str(caught.value)
    assert checked(destination, [address, "93.184.216.34"]) == ["93.184.216.34"]


def test_two_entries_for_one_name_allow_what_either_does() -> None:
    """The ranges of all entries that cover a name count together."""
    made = rules_of("*.test:1@10.0.0.0/8", "db.test:1@192.168.0.0/16", private="0.0.0.0/0")
    destination = made.destination(str(made.address_of("db.test")), 1)
    assert rules.is_allowed("10.1.1.1", destination)
    assert rules.is_allowed("192.168.1.1", destination)
    assert not rules.is_allowed("172.16.0.1", destination)


def test_a_literal_on_loopback_beside_localhost() -> None:
    """127.0.0.1 is what was dialled by either name; each has its own port."""
    made = rules_of("localhost:80@127.0.0.0/8", "127.0.0.1:81", private="127.0.0.0/8")
    assert made.destination("127.0.0.1", 80).host == "localhost"
    assert made.destination("127.0.0.1", 81).is_literal


def test_all_ranges_are_not_anywhere() -> None:
    """Where operator and entry allow every IPv4 address, private ones of IPv6 are still refused: nobody listed them."""
    made = rules_of("x.test:1@0.0.0.0/0", private="0.0.0.0/0")
    destination = made.destination(str(made.address_of("x.test")), 1)
    assert checked(destination, ["127.0.0.1", "::1", "::ffff:10.0.0.1"]) == ["127.0.0.1", "::ffff:10.0.0.1"]


def test_the_operators_own_list() -> None:
    """Builds reach public hosts on the indexes' ports, and an index wherever it is, without anybody's leave."""
    made = rules_of("*:443", "index.test:443@0.0.0.0/0", "127.0.0.1:3141", is_trusted=True)
    index = made.destination(str(made.address_of("index.test")), 443)
    other = made.destination(str(made.address_of("files.test")), 443)
    assert checked(index, ["10.1.1.1", "::1"]) == ["10.1.1.1", "::1"]
    assert checked(made.destination("127.0.0.1", 3141), ["127.0.0.1"]) == ["127.0.0.1"]
    with pytest.raises(Refused):
        checked(other, ["10.1.1.1"])
