"""Questions for names from inside a VM: bytes to bytes. Nothing is ever asked elsewhere.

A listed name has one A record, with a short life, since an address here stands for a name as long as the VM lives. It has no
address of IPv6 and no record of another type: an empty answer, so that a client goes on. An unlisted name does not exist.
"""

from __future__ import annotations

from collections.abc import Callable

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pyfaas.egress.rules import Refused, Rules, unlisted

LONGEST = 1232  # of a question, and of an answer over UDP; ours have some forty bytes (RFC 9715)
_LIFE_S = 60
_ID = 2  # bytes, which come first and are all that two askings of one question differ in
_KEPT, _KEPT_BYTES = 128, 128  # answers of a VM; reading a question takes 0.3 ms, and each connection asks two
_ASKED_FOR_ADDRESSES = frozenset({dns.rdatatype.A, dns.rdatatype.AAAA})


class Answers:
    """One VM's answers: given again as they are while the question stays the same, since a listed name keeps its address."""

    def __init__(self, rules: Rules, refused: Callable[[str], None]) -> None:
        """`refused` hears of unlisted names, each time."""
        self._rules, self._refused = rules, refused
        self._kept: dict[bytes, bytes] = {}

    def of(self, packet: bytes) -> bytes | None:
        """Return the answer to a question, None for what is none."""
        kept = self._kept.get(packet[_ID:])
        if kept is not None:
            return packet[:_ID] + kept
        said: list[str] = []
        made = answer(packet, self._rules, said.append)
        for why in said:
            self._refused(why)
        if made is not None and not said and len(self._kept) < _KEPT and len(packet) <= _KEPT_BYTES:
            self._kept[packet[_ID:]] = made[_ID:]
        return made


def answer(packet: bytes, rules: Rules, refused: Callable[[str], None]) -> bytes | None:
    """Return the answer to a question, None for what is none. `refused` hears of an unlisted name that was asked for by address."""
    try:
        asked = dns.message.from_wire(packet, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, IndexError):  # hostile bytes
        return None
    if asked.flags & dns.flags.QR:
        return None
    answered = dns.message.make_response(asked, recursion_available=True)
    if asked.opcode() != dns.opcode.QUERY or len(asked.question) != 1 or asked.question[0].rdclass != dns.rdataclass.IN:
        answered.set_rcode(dns.rcode.NOTIMP)
        return answered.to_wire()
    question = asked.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    try:
        address = rules.address_of(name)
    except Refused as error:
        refused(str(error))
        answered.set_rcode(dns.rcode.REFUSED)
        return answered.to_wire()
    if address is None:
        answered.set_rcode(dns.rcode.NXDOMAIN)
        if question.rdtype in _ASKED_FOR_ADDRESSES and name != "localhost":
            refused(unlisted(name))
    elif question.rdtype == dns.rdatatype.A:
        answered.answer.append(dns.rrset.from_text(question.name, _LIFE_S, dns.rdataclass.IN, dns.rdatatype.A, address))
    return answered.to_wire()
