"""Everything about a call that is not the warm way: flags, parameters, large bodies, coroutines, streams, HTTP."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pyfaas.runtime import codec, http_answer, http_event, outcome, params, report, streams, typed
from pyfaas.runtime.aio import Aio
from pyfaas.runtime.asgi import Asgi
from pyfaas.runtime.codec import InvalidResult
from pyfaas.runtime.context import Context
from pyfaas.runtime.inbox import Inbox
from pyfaas.runtime.loader import Order
from pyfaas.runtime.outcome import Ended
from pyfaas.runtime.shapes import Bound, Shape
from sandbox import wire
from sandbox.wire import Call, Flag, Status

_Bytes = bytes | bytearray | memoryview
_SAID = int(Flag.HTTP | Flag.PARAMS)  # the meta says what is needed before the handler is called


class Answering:
    """A loaded version and what answering its calls needs."""

    def __init__(self, order: Order, bound: Bound, inbox: Inbox) -> None:
        """Take the loaded version; `start` must come before the first call."""
        self.order, self.bound, self._inbox = order, bound, inbox
        self._aio = Aio()
        self._asgi: Asgi | None = None
        if bound.shape is Shape.ASGI:
            self._asgi = Asgi(bound.call, self._aio, inbox, order.output_bytes)

    def start(self) -> dict[str, Any] | None:
        """Do what the shape needs once before its first call; returns the error document when that fails."""
        if self._asgi is None:
            return None
        try:
            return self._asgi.lifespan.start()
        except BaseException as error:  # noqa: BLE001 -- the loop outlives whatever the tenant raises
            return report.failure_fields(error)

    def slow(self, call: Call) -> Ended:
        """Answer any call; never raises."""
        call, body = wire.split_meta(call, self._inbox.whole_body(call))
        if 0 < call.deadline <= time.time():
            return Ended(Status.EXPIRED, b"")
        try:
            said: dict[str, Any] | None = codec.scan(str(call.meta, "utf-8"), 0)[0] if call.flags & _SAID else None
            http = said.get("http") or {} if said is not None and call.flags & Flag.HTTP else None
            event = None if self._asgi is not None else self._event(call, http, body)
            if said is not None and call.flags & Flag.PARAMS:
                event, said["params"] = self._merged(said["params"], event, http)
            context = Context(call.id, call.deadline, self.order.assignment, b"" if said is not None else call.meta, said)
            if self._asgi is not None:
                return _no_http() if http is None else self._asgi.answer(call, http, body, context)
            del body, said
            return self._result(self._called(event, context), call, http)
        except BaseException as error:  # noqa: BLE001 -- the loop outlives whatever the tenant raises
            return outcome.raised(error)

    def finish(self, result: Any, error: BaseException, call_id: bytes) -> Ended:
        """Answer with a result that the quick encoder refused for `error`; never raises."""
        try:
            if isinstance(error, UnicodeEncodeError) or inspect.iscoroutine(result) or streams.is_stream(result):
                result = self._aio.run(result) if inspect.iscoroutine(result) else result
                return self._result(result, Call(0, call_id, 0.0, b"", 0, b""), None)
            return Ended(Status.OK_BYTES, bytes(result)) if isinstance(result, _Bytes) else outcome.not_json(error)
        except BaseException as second:  # noqa: BLE001 -- as above
            return outcome.raised(second)

    def _called(self, event: Any, context: Context) -> Any:
        result = self.bound.call(event, context)
        return self._aio.run(result) if inspect.iscoroutine(result) else result

    def _event(self, call: Call, http: Mapping[str, Any] | None, body: bytes) -> Any:
        if http is not None and self.bound.shape is Shape.EVENT:
            return http_event.event(http, call.id.decode("ascii", "replace"), body)
        if not body:
            return {} if http is None else http_event.query_parameters(http)
        return body if call.flags & Flag.BYTES else codec.decode(body)

    def _merged(self, layers: Sequence[Mapping[str, Any]], event: Any, http: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Merge parameters into an event. A URL's event is not the caller's object; a typed call by our SDK has its own in `$kwargs`."""
        if self.bound.shape is not Shape.TYPED:
            merged, found = params.merge(layers, event if http is None else None)
            return event if http is not None else merged, found
        if not typed.is_spelled_out(event):
            return params.merge(layers, event)
        named, found = params.merge(layers, event.get("$kwargs", {}))
        return {**event, "$kwargs": named}, found

    def _result(self, result: Any, call: Call, http: Mapping[str, Any] | None) -> Ended:
        if streams.is_stream(result):
            stream = streams.Stream(result, self.bound.encode, self._aio, self.order.output_bytes)
            if call.flags & Flag.STREAM:
                return streams.send(stream, call.id, self._inbox)
            collected = streams.collect(stream)
            if http is None or collected.status is not Status.OK_JSON:
                return collected
            return http_answer.whole(200, [http_event.JSON], collected.body)
        try:
            if http is not None:
                return http_event.answer(result, self.bound.encode, interpret=self.bound.shape is Shape.EVENT)
            if isinstance(result, _Bytes):
                return Ended(Status.OK_BYTES, bytes(result))
            return Ended(Status.OK_JSON, self.bound.encode(result))
        except (MemoryError, InvalidResult) as error:
            return outcome.raised(error) if isinstance(error, MemoryError) else outcome.not_json(error)
        except BaseException as error:  # noqa: BLE001 -- items() of a hostile dict
            return outcome.not_json(error)


def _no_http() -> Ended:
    message = "an ASGI app answers HTTP requests only: call the function's URL, /f/ACCOUNT/NAME/"
    return Ended(Status.ERROR, report.document("NotHttp", message, stackTrace=[]))
