"""Generators as answers: sent item by item, or collected into one array.

Theory of operation. The first item is fetched before HEAD leaves, so a generator that fails at once is
a plain error. Its type decides the kind: bytes items are a raw stream, anything else is one JSON document
an ITEM. Between items the inbox is looked at for the caller's CANCEL; then the generator is closed,
which raises GeneratorExit inside it, and the answer is CANCELLED. Sending blocks while the host's buffer is
full: a slow reader slows the generator.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyfaas.runtime import codec, outcome, report, tagged
from pyfaas.runtime.aio import Aio
from pyfaas.runtime.inbox import Inbox
from pyfaas.runtime.outcome import Ended
from sandbox import wire
from sandbox.wire import Kind, Status

_ITEM_ROOM = wire.MAX_PACKET - 1
_Bytes = bytes | bytearray | memoryview


def is_stream(result: Any) -> bool:
    """Tell whether a result is a generator of either kind."""
    return isinstance(result, types.GeneratorType | types.AsyncGeneratorType)


@dataclass(frozen=True, slots=True)
class Stream:
    """A generator with what turning its items into bytes needs."""

    generator: Any
    encode: codec.Encode
    aio: Aio
    output_bytes: int

    def items(self) -> Iterator[Any]:
        """Yield the generator's items, whichever kind it is."""
        if isinstance(self.generator, types.GeneratorType):
            yield from self.generator
            return
        while True:
            try:
                item = self.aio.run(self.generator.__anext__())
            except StopAsyncIteration:
                return
            yield item

    def close(self) -> None:
        """Close the generator; what its `finally` raises is raised."""
        if isinstance(self.generator, types.GeneratorType):
            self.generator.close()
        else:
            self.aio.run(self.generator.aclose())


def collect(stream: Stream) -> Ended:
    """Run a generator to its end and answer with a JSON array; raises what the generator raises."""
    pieces: list[bytes] = []
    size = 2
    for item in stream.items():
        try:
            piece = stream.encode(_tag_bytes(item))
        except BaseException as error:  # noqa: BLE001 -- items() of a hostile dict
            stream.close()
            return outcome.not_json(error)
        size += len(piece) + 1
        if size > stream.output_bytes:
            stream.close()
            return Ended(Status.LIMIT, report.output_limit(size, stream.output_bytes))
        pieces.append(piece)
    return Ended(Status.OK_JSON, b"[" + b",".join(pieces) + b"]")


def send(stream: Stream, call_id: bytes, inbox: Inbox) -> Ended:
    """Send a generator's items as they come; the ANSWER that ends the stream is left to the loop."""
    sender = Sender(inbox)
    try:
        for item in stream.items():
            problem = sender.item(item, stream.encode)
            if problem is not None:
                stream.close()
                return problem
            if inbox.is_cancelled(call_id):
                stream.close()
                return Ended(Status.CANCELLED, b"")
    except BaseException as error:  # noqa: BLE001 -- the loop outlives whatever the tenant raises
        return outcome.raised(error)
    if not sender.begun:
        sender.head({"kind": "json"})
    return Ended(Status.OK_STREAM, b"")


class Sender:
    """HEAD once, then ITEMs."""

    def __init__(self, inbox: Inbox) -> None:
        """Send nothing yet."""
        self._send = inbox.channel.send
        self.begun = False
        self._raw = False

    def head(self, fields: dict[str, Any]) -> None:
        """Send HEAD."""
        self.begun = True
        self._send(wire.packet(Kind.HEAD, codec.encode_plain(fields)))

    def raw(self, piece: bytes) -> None:
        """Send bytes in as many ITEMs as they need."""
        for start in range(0, len(piece), _ITEM_ROOM):
            self._send(b"I" + piece[start : start + _ITEM_ROOM])

    def item(self, item: Any, encode: codec.Encode) -> Ended | None:
        """Send one item of a generator; returns the end of the stream when it cannot be sent."""
        if not self.begun:
            self._raw = isinstance(item, _Bytes)
            self.head({"kind": "bytes" if self._raw else "json"})
        if self._raw:
            if not isinstance(item, _Bytes):
                refused = codec.InvalidResult(f"a stream that began with bytes yielded {type(item).__name__!r}")
                return outcome.not_json(refused)
            self.raw(bytes(item))
            return None
        try:
            piece = encode(_tag_bytes(item))
        except BaseException as error:  # noqa: BLE001 -- items() of a hostile dict
            return outcome.not_json(error)
        if len(piece) > _ITEM_ROOM:
            return Ended(Status.LIMIT, report.output_limit(len(piece), _ITEM_ROOM, "stream item"))
        self._send(b"I" + piece)
        return None


def _tag_bytes(item: Any) -> Any:
    return tagged.encode_default(item) if isinstance(item, _Bytes) else item
