"""Packets between a host and one container: how they are laid out, and nothing else.

Theory of operation. Host and container share one SOCK_SEQPACKET Unix socket, made
for that container; the launcher never sees what passes. One packet is one kind byte
and a payload of that kind. A body that does not fit a packet follows in PART packets
until the length announced in the first packet is reached. The layout is fixed and
carries lengths, bytes and JSON only: the host never unpickles, and never reads more
than `MAX_PACKET` at once. What may follow what is the table `TRANSITIONS`.

    host → container   LOAD, CALL (+ PART …), CANCEL
    container → host   BORN, LOADED | FAILED, (HEAD, ITEM …,) ANSWER (+ PART …)

Everything that comes from a container is hostile input: the parsers here raise
`RemoteWireError` and nothing else, whatever the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from sandbox.errors import LocalWireError, RemoteWireError

MAX_PACKET = 64 * 1024  # what either side receives at once
ID_BYTES = 36  # a UUID's text


class Kind(IntEnum):
    """The first byte of a packet."""

    LOAD = ord("L")  # down: JSON, what to load (the entry decides its keys)
    CALL = ord("C")  # down: a call's header, its meta JSON, the start of its body
    CANCEL = ord("X")  # down: the id of a call whose caller has left
    BORN = ord("B")  # up: JSON, the read-back report, before any code arrives
    LOADED = ord("R")  # up: JSON, what was loaded
    FAILED = ord("F")  # up: JSON, why loading failed
    HEAD = ord("H")  # up: JSON, a streamed answer begins
    ITEM = ord("I")  # up: one piece of a streamed answer
    ANSWER = ord("A")  # up: a call's end: header, log texts, result
    PART = ord("P")  # both: more bytes of the body announced before


class Flag(IntEnum):
    """Bits of a CALL."""

    BYTES = 1  # the event is bytes, not JSON
    STREAM = 2  # the caller takes a streamed answer
    HTTP = 4  # the event is an HTTP request: its head is in the meta, its body is the body
    PARAMS = 8  # the meta has parameters to be merged into the event
    META = 16  # the meta does not fit the first packet: the body begins with it, behind 4 length bytes


class Status(IntEnum):
    """What a container says of its call; the host translates, and may overrule it."""

    OK_JSON = 0
    OK_BYTES = 1
    OK_HTTP = 2  # a whole HTTP answer: the result is 4 length bytes, a JSON head, the body
    OK_STREAM = 3  # ends a stream; no result
    ERROR = 4  # the function raised: result is JSON {errorType, errorMessage, stackTrace}
    INVALID_EVENT = 5  # the caller's body is wrong: result is JSON {errorType, errorMessage}
    LIMIT = 6  # a limit that the container itself met: JSON {errorType, errorMessage, limit, …}
    EXPIRED = 7  # the deadline had passed before the handler began
    CANCELLED = 8


_CALL = struct.Struct("<cB36sdII")  # kind, flags, id, deadline (s since the epoch), meta bytes, body bytes
_DEADLINE = struct.calcsize("<cB36s")  # where a CALL's deadline is
_ANSWER = struct.Struct("<cB36sIIII")  # kind, status, id, handler microseconds, fd 1 bytes, fd 2 bytes, result bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A CALL's header with what the first packet brought of the body."""

    flags: int
    id: bytes
    deadline: float
    meta: bytes
    body_length: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An ANSWER's header; `rest` is what the first packet brought of out + err + result."""

    status: int
    id: bytes
    micros: int
    out_length: int
    err_length: int
    result_length: int
    rest: bytes

    @property
    def rest_length(self) -> int:
        """How many bytes out, err and result have together."""
        return self.out_length + self.err_length + self.result_length


def call_packets(flags: int, call_id: bytes, deadline: float, meta: bytes, body: bytes) -> list[bytes]:
    """Lay out a call; raises LocalWireError for an id of another length. A large meta travels as the body's beginning.

    `deadline` is in seconds since the epoch; a negative one is that many seconds from when the call begins.
    """
    if len(call_id) != ID_BYTES:
        raise LocalWireError(f"a call's id has {ID_BYTES} bytes")
    if len(meta) > MAX_PACKET - _CALL.size:
        flags, body, meta = flags | Flag.META, len(meta).to_bytes(4, "little") + meta + body, b""
    head = _CALL.pack(b"C", flags, call_id, deadline, len(meta), len(body))
    room = MAX_PACKET - len(head) - len(meta)
    if len(body) <= room:
        return [head + meta + body]
    return [head + meta + body[:room], *parts(body, room)]


def dated(packet: bytes, now: float) -> bytes:
    """Return a CALL that begins `now` (seconds since the epoch), whose deadline was relative to that."""
    before, deadline, after = packet[:_DEADLINE], packet[_DEADLINE : _DEADLINE + 8], packet[_DEADLINE + 8 :]
    return before + struct.pack("<d", now - struct.unpack("<d", deadline)[0]) + after


def parse_call(packet: bytes) -> Call:
    """Read a CALL packet (guest side)."""
    if len(packet) < _CALL.size:
        raise RemoteWireError("short CALL")
    _, flags, call_id, deadline, meta_length, body_length = _CALL.unpack_from(packet)
    at = _CALL.size + meta_length
    return Call(flags, call_id, deadline, packet[_CALL.size : at], body_length, packet[at:])


def split_meta(call: Call, body: bytes) -> tuple[Call, bytes]:
    """Return a call with its meta and its whole body apart, wherever the meta travelled (guest side)."""
    if not call.flags & Flag.META:
        return call, body
    end = 4 + int.from_bytes(body[:4], "little")
    rest = body[end:]
    return Call(call.flags & ~Flag.META, call.id, call.deadline, body[4:end], len(rest), rest), rest


def answer_packets(status: int, call_id: bytes, micros: int, out: bytes, err: bytes, result: bytes) -> list[bytes]:
    """Lay out an answer; `micros` is the handler's own time in microseconds."""
    head = _ANSWER.pack(b"A", status, call_id, min(micros, 0xFFFFFFFF), len(out), len(err), len(result))
    rest = out + err + result if out or err else result
    room = MAX_PACKET - len(head)
    if len(rest) <= room:
        return [head + rest]
    return [head + rest[:room], *parts(rest, room)]


def parse_answer(packet: bytes) -> Answer:
    """Read an ANSWER packet (host side)."""
    if len(packet) < _ANSWER.size:
        raise RemoteWireError("short ANSWER")
    _, status, call_id, micros, out, err, result = _ANSWER.unpack_from(packet)
    rest = packet[_ANSWER.size :]
    if len(rest) > out + err + result:
        raise RemoteWireError("ANSWER longer than it says")
    return Answer(status, call_id, micros, out, err, result, rest)


def parts(body: bytes, start: int) -> list[bytes]:
    """Lay out the bytes of `body` from `start` as PART packets."""
    step, view = MAX_PACKET - 1, memoryview(body)
    return [b"".join((b"P", view[at : at + step])) for at in range(start, len(body), step)]


def packet(kind: Kind, payload: bytes) -> bytes:
    """Lay out a packet of the kinds that are one kind byte and a payload."""
    if len(payload) >= MAX_PACKET:
        raise LocalWireError(f"{kind.name} of {len(payload)} bytes does not fit a packet")
    return bytes((kind,)) + payload


# State of the container as the host sees it → kinds it may send → next state.
# BLANK has read back its confinement, LOADING has got LOAD, IDLE waits, BUSY runs, STREAMING has sent HEAD,
# ENDING still owes parts of an answer.
TRANSITIONS: dict[str, dict[Kind, str]] = {
    "NEWBORN": {Kind.BORN: "BLANK"},
    "BLANK": {},
    "LOADING": {Kind.LOADED: "IDLE", Kind.FAILED: "SPENT"},
    "IDLE": {},
    "BUSY": {Kind.HEAD: "STREAMING", Kind.ANSWER: "IDLE"},
    "STREAMING": {Kind.ITEM: "STREAMING", Kind.ANSWER: "IDLE"},
    "SPENT": {},
}
