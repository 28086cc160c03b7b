"""Everything about a call that is not the warm way: flags, large bodies, coroutines, streams, HTTP."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from typing import Any

from pyfaas.runtime import codec, outcome, report, streams
from pyfaas.runtime.aio import Aio
from pyfaas.runtime.context import Context
from pyfaas.runtime.inbox import Inbox
from pyfaas.runtime.loader import Order
from pyfaas.runtime.outcome import Ended
from pyfaas.runtime.shapes import Bound, Shape
from sandbox.wire import Call, Flag, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """A loaded version and what answering its calls needs."""

    order: Order
    bound: Bound
    inbox: Inbox
    aio: Aio

    def start(self) -> dict[str, Any] | None:
        """Do what a shape needs once before its first call; the error document when that fails."""
        return None

    def slow(self, call: Call) -> Ended:
        """Answer any call; never raises."""
        body = self.inbox.whole_body(call)
        if 0 < call.deadline <= time.time():
            return Ended(Status.EXPIRED, b"")
        try:
            event = self._event(call, body)
            result = self.bound.call(event, Context(call.id, call.deadline, self.order.assignment, call.meta))
            del event, body
            if inspect.iscoroutine(result):
                result = self.aio.run(result)
            return self._result(result, call)
        except BaseException as error:  # noqa: BLE001 -- the loop outlives whatever the tenant raises
            return outcome.raised(error)

    def finish(self, result: Any, error: BaseException, call_id: bytes) -> Ended:
        """Answer with a result that the quick encoder refused."""
        try:
            if inspect.iscoroutine(result):
                result = self.aio.run(result)
            elif not streams.is_stream(result) and not isinstance(result, bytes | bytearray | memoryview):
                return outcome.not_json(error)
            return self._result(result, Call(0, call_id, 0.0, b"", 0, b""))
        except BaseException as second:  # noqa: BLE001 -- as above
            return outcome.raised(second)

    def _event(self, call: Call, body: bytes) -> Any:
        if not body:
            return {}
        return body if call.flags & Flag.BYTES else codec.decode(body)

    def _result(self, result: Any, call: Call) -> Ended:
        if isinstance(result, bytes | bytearray | memoryview):
            return Ended(Status.OK_BYTES, bytes(result))
        if streams.is_stream(result):
            stream = streams.Stream(result, self.bound.encode, self.aio, self.order.output_bytes)
            if call.flags & Flag.STREAM:
                return streams.send(stream, call.id, self.inbox)
            return streams.collect(stream)
        try:
            return Ended(Status.OK_JSON, self.bound.encode(result))
        except BaseException as error:  # noqa: BLE001 -- items() of a hostile dict
            return outcome.not_json(error)


__all__ = ["Answering", "Shape", "report"]
