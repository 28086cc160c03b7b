"""Questions for names from inside a VM, as bytes."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfaas.egress.naming import Answers, answer
from pyfaas.egress.rules import Rules
from pyfaas.network import canonical, plan

RULES = Rules(plan(canonical(["api.test:443", "*.wild.test:443"])), ())


def ask(name: str, kind: str = "A") -> tuple[dns.message.Message, list[str]]:
    """Return the answer to a question, and what was told of it."""
    told: list[str] = []
    packet = answer(dns.message.make_query(name, kind).to_wire(), RULES, told.append)
    assert packet is not None
    return dns.message.from_wire(packet), told


@pytest.mark.parametrize(("name", "address"), [("api.test", "198.18.0.1"), ("API.Test", "198.18.0.1"), ("x.wild.test", "198.19.0.2")])
def test_a_listed_name_has_its_address(name: str, address: str) -> None:
    """A question for a listed name is answered with the address that stands for it, whatever its case."""
    found, told = ask(name)
    assert found.rcode() == dns.rcode.NOERROR
    assert [row.to_text() for rows in found.answer for row in rows] == [address]
    assert told == []


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "SRV", "HTTPS", "MX", "ANY"])
def test_other_records_of_a_listed_name_are_empty(kind: str) -> None:
    """A listed name has no address of IPv6 and nothing else: an empty answer, not an error."""
    found, told = ask("api.test", kind)
    assert (found.rcode(), found.answer, told) == (dns.rcode.NOERROR, [], [])


def test_an_unlisted_name_does_not_exist() -> None:
    """Any other name is NXDOMAIN at once, and the log learns which entry is missing."""
    found, told = ask("evil.test")
    assert (found.rcode(), found.answer) == (dns.rcode.NXDOMAIN, [])
    assert len(told) == 1
    assert 'evil.test is not in this version\'s network list: add "evil.test:443"' in told[0]
    assert ask("1.0.0.127.in-addr.arpa", "PTR")[1] == []


def test_an_answer_fits_its_question() -> None:
    """The answer has the question's id and is marked as an answer of a resolver."""
    asked = dns.message.make_query("api.test", "A", use_edns=True)
    packet = answer(asked.to_wire(), RULES, lambda _why: None)
    assert packet is not None
    found = dns.message.from_wire(packet)
    assert asked.is_response(found)
    assert found.flags & dns.flags.RA


def test_what_is_no_question_is_not_answered() -> None:
    """An answer is not answered, or two resolvers would talk for ever; an update is not implemented."""
    asked = dns.message.make_query("api.test", "A")
    assert answer(dns.message.make_response(asked).to_wire(), RULES, pytest.fail) is None
    asked.set_opcode(dns.opcode.STATUS)
    packet = answer(asked.to_wire(), RULES, pytest.fail)
    assert packet is not None
    assert dns.message.from_wire(packet).rcode() == dns.rcode.NOTIMP


def test_an_answer_is_given_again() -> None:
    """The same question gets the same answer under its own id, from what was read once; an unlisted name is told each time."""
    told: list[str] = []
    answers = Answers(RULES, told.append)
    for name in ("api.test", "evil.test"):
        packets = [dns.message.make_query(name, "A").to_wire() for _ in range(3)]
        found = [answers.of(packet) or b"" for packet in packets]
        assert [packet[:2] for packet in packets] == [packet[:2] for packet in found]
        assert len({packet[2:] for packet in found}) == 1
    assert len(told) == 3
    assert len(answers._kept) == 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda rest: dns.message.make_query("api.test", "A").to_wire()[:12] + rest)))
def test_hostile_bytes_do_no_harm(packet: bytes) -> None:
    """Whatever a VM sends is answered or left alone; nothing is raised."""
    found = answer(packet, RULES, lambda _why: None)
    assert found is None or len(found) >= 12


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(0, 255))
def test_damaged_questions_do_no_harm(at: int, value: int) -> None:
    """A question with any one byte changed is answered or left alone."""
    packet = bytearray(dns.message.make_query("x.wild.test", "A", use_edns=True).to_wire())
    packet[at % len(packet)] = value
    found = answer(bytes(packet), RULES, lambda _why: None)
    assert found is None or len(found) >= 12
