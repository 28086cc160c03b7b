"""The layout of packets: what one side lays out the other reads, and hostile bytes raise one error only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import wire
from sandbox.errors import LocalWireError, RemoteWireError
from sandbox.wire import Kind

_ID = b"0" * wire.ID_BYTES
_MAX = wire.MAX_PACKET
_sizes = st.sampled_from([0, 1, 1000, _MAX - 200, _MAX - 60, _MAX - 55, _MAX, _MAX + 1, 3 * _MAX])


def joined(first: bytes, rest: list[bytes]) -> bytes:
    """Put a body together as a receiver does."""
    assert all(packet[:1] == b"P" and len(packet) > 1 for packet in rest)
    return first + b"".join(packet[1:] for packet in rest)


@given(size=_sizes, meta=st.binary(max_size=300), flags=st.integers(0, 7), deadline=st.floats(0, 1e11))
def test_a_call_is_read_as_it_was_laid_out(size: int, meta: bytes, flags: int, deadline: float) -> None:
    """Header, meta and body survive, whatever the body's length is beside a packet's."""
    body = bytes(range(256)) * (size // 256 + 1)
    first, *rest = wire.call_packets(flags, _ID, deadline, meta, body[:size])
    assert max(map(len, (first, *rest))) <= _MAX
    call = wire.parse_call(first)
    assert (call.flags, call.id, call.deadline, call.meta, call.body_length) == (flags, _ID, deadline, meta, size)
    assert joined(call.body, rest) == body[:size]


@given(out=_sizes, err=_sizes, result=_sizes, micros=st.integers(0, 1 << 40), status=st.sampled_from(list(wire.Status)))
def test_an_answer_is_read_as_it_was_laid_out(out: int, err: int, result: int, micros: int, status: wire.Status) -> None:
    """The texts and the result are told apart by their lengths; more microseconds than fit are the most that fit."""
    first, *rest = wire.answer_packets(status, _ID, micros, b"o" * out, b"e" * err, b"r" * result)
    assert max(map(len, (first, *rest))) <= _MAX
    answer = wire.parse_answer(first)
    assert (answer.status, answer.id, answer.micros) == (status, _ID, min(micros, 0xFFFFFFFF))
    assert (answer.out_length, answer.err_length, answer.result_length) == (out, err, result)
    assert joined(answer.rest, rest) == b"o" * out + b"e" * err + b"r" * result
    assert answer.rest_length == out + err + result


@given(raw=st.binary(max_size=200))
def test_garbage_raises_one_error(raw: bytes) -> None:
    """Whatever a container sends as an answer is read, or refused as its mistake."""
    try:
        answer = wire.parse_answer(raw)
    except RemoteWireError:
        return
    assert len(answer.rest) <= answer.rest_length


def test_an_answer_longer_than_it_says_is_refused() -> None:
    """Bytes beyond the announced lengths are the other side's mistake; the same packet without them is read."""
    (packet,) = wire.answer_packets(0, _ID, 1, b"", b"", b"result")
    assert wire.parse_answer(packet).rest == b"result"
    with pytest.raises(RemoteWireError):
        wire.parse_answer(packet + b"x")


@pytest.mark.parametrize("packet", [b"", b"A", b"A" * 40])
def test_a_short_answer_is_refused(packet: bytes) -> None:
    """A packet that ends within its header is the other side's mistake."""
    with pytest.raises(RemoteWireError):
        wire.parse_answer(packet)


def test_what_does_not_fit_is_our_mistake() -> None:
    """An id of another length is never sent."""
    with pytest.raises(LocalWireError):
        wire.call_packets(0, b"short", 0.0, b"", b"")
    assert wire.call_packets(0, _ID, 0.0, b"", b"")


@given(size=_sizes, extra=_sizes, flags=st.integers(0, 15))
def test_a_meta_of_any_size_arrives(size: int, extra: int, flags: int) -> None:
    """A meta that does not fit a packet travels before the body, and both are told apart again."""
    meta, body = b"m" * extra, b"b" * size
    first, *rest = wire.call_packets(flags, _ID, 7.0, meta, body)
    assert max(map(len, (first, *rest))) <= _MAX
    read = wire.parse_call(first)
    whole = joined(read.body, rest)
    assert len(whole) == read.body_length
    call, left = wire.split_meta(read, whole)
    assert (call.flags, call.id, call.deadline, call.meta, left) == (flags, _ID, 7.0, meta, body)


def test_a_packet_is_a_kind_and_its_payload() -> None:
    """The simple kinds carry their payload as it is, up to what a receiver takes at once."""
    assert wire.packet(Kind.LOAD, json.dumps({}).encode()) == b"L{}"
    assert len(wire.packet(Kind.ITEM, bytes(_MAX - 1))) == _MAX
    with pytest.raises(LocalWireError):
        wire.packet(Kind.ITEM, bytes(_MAX))


def test_every_kind_upwards_has_its_place_in_the_table() -> None:
    """The table names each kind that a container sends, and leads only to states that it has."""
    sent = {kind for row in wire.TRANSITIONS.values() for kind in row}
    assert sent == {Kind.BORN, Kind.LOADED, Kind.FAILED, Kind.HEAD, Kind.ITEM, Kind.ANSWER}
    assert {state for row in wire.TRANSITIONS.values() for state in row.values()} <= set(wire.TRANSITIONS)
    assert len({kind.value for kind in Kind}) == len(Kind)
