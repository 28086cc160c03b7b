"""The loop of a container: load one version, then answer one call after the other.

Theory of operation. Runs in the confined process, single-threaded unless the tenant starts threads,
with no right but to read its code, write /tmp and talk over one channel. `serve` waits for LOAD,
answers LOADED or FAILED, then turns each CALL into exactly one ANSWER (HEAD and ITEMs before it for a
stream). The warm way of a small JSON event is written out in `_loop`, as few operations as it can be:
unpack, scan, call, encode, two FIONREADs, send. Whatever is unusual (flags, PARTs, a deadline passed,
an exception, a result that is not plain JSON) leaves that way for `Answering`.

What must stay true: no exception of the tenant's code ends the loop, SystemExit included; a call whose
deadline has passed never starts; a forked child never answers (its copy of the channel is closed).

What this cannot promise: the tenant's code shares this process and can write to the channel itself, from
a thread or before a fork. It can forge its own answers only: the host accepts an ANSWER in the state BUSY
or STREAMING only, for the id it is waiting for, once; anything else ends the container. Ids are not
guessable, so an answer cannot be sent ahead of its call.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import time
from typing import Any

from pyfaas.runtime import build, codec, copying, loader, outcome, shapes
from pyfaas.runtime.answering import Answering
from pyfaas.runtime.console import Console
from pyfaas.runtime.context import Context
from pyfaas.runtime.inbox import Inbox
from pyfaas.runtime.outcome import Ended
from sandbox import wire
from sandbox.guest import attached
from sandbox.wire import Kind, Status

_CALL = struct.Struct("<cB36sdII")  # as in sandbox.wire, whose parser makes an object that the warm way does not need
_ANSWER = struct.Struct("<cB36sIIII")
_INVOCATION = b"PYFAAS_INVOCATION_ID"
_OK_JSON = int(Status.OK_JSON)


def serve(channel: socket.socket, out_read: int, err_read: int) -> None:
    """Serve one container until the host closes the channel, then return.

    `channel` is a blocking SOCK_SEQPACKET socket; fd 1 and 2 must be the write ends of the
    pipes whose nonblocking read ends are `out_read` and `err_read`.
    """
    gc.enable()  # the launcher keeps it off while it builds what its children share
    os.register_at_fork(after_in_child=channel.close)
    console = Console(out_read, err_read)
    console.open()
    Container(channel, console).run()


class Container:
    """One container: its channel, its console and what it has loaded."""

    def __init__(self, channel: socket.socket, console: Console) -> None:
        """Take the channel and the console; nothing is read yet."""
        self._channel, self._console = channel, console
        self._inbox, self._pid = Inbox(channel), os.getpid()
        self._pending = b""  # the id of the call that is being answered

    def run(self) -> None:
        """Wait for LOAD, act on it, then answer calls until the host leaves."""
        while packet := self._channel.recv(wire.MAX_PACKET):
            if packet[0] == Kind.LOAD:
                self._on_load(json.loads(packet[1:]))

    def _on_load(self, payload: dict[str, Any]) -> None:
        arrive = attached.wait if payload.get("awaits") else attached.let_go
        if payload.get("do") == "build":
            arrive()
            self._console.flush()
            build.serve(payload, self._channel)
            return
        if payload.get("do") == "copy":
            arrive()
            copying.serve(payload, self._channel)
            return
        started = time.perf_counter_ns()
        try:
            order = loader.Order.parse(payload)
            name, bound = loader.load(order, arrive)
        except loader.LoadFailed as failed:
            self._send(Kind.FAILED, failed.fields)
            return
        except (KeyError, TypeError, ValueError) as error:
            self._send(Kind.FAILED, {"errorType": "InvalidLoad", "errorMessage": repr(error), "stackTrace": []})
            return
        self._console.log_bytes = order.log_bytes
        answering = Answering(order, bound, self._inbox)
        problem = answering.start()
        if problem is not None:
            self._send(Kind.FAILED, problem)
            return
        self._send(
            Kind.LOADED,
            {
                "shape": bound.shape,
                "handler": name,
                "generator": bound.generator,
                "us": (time.perf_counter_ns() - started) // 1000,
                "printed": self._console.has_text(),
                **({"signature": bound.signature} if bound.signature is not None else {}),
            },
        )
        if payload.get("awaits"):
            self._console.wait_until_read()  # the first call may be here already, and its log is its own
        self.answer_calls(order, answering)

    def _send(self, kind: Kind, fields: dict[str, Any]) -> None:
        self._console.flush()  # what the import printed
        self._channel.send(wire.packet(kind, json.dumps(fields, default=repr).encode()))

    def answer_calls(self, order: loader.Order, answering: Answering) -> None:
        """Answer calls of a loaded version until the host leaves."""
        while True:
            try:
                self._loop(order, answering)
            except OSError:  # the channel is gone
                if os.getpid() != self._pid:
                    os._exit(0)  # a forked child that returned from the handler: what follows is not its business
                return
            except BaseException as error:  # noqa: BLE001 -- a tenant's signal handler raised in our own code
                self._answer_late(error)
            else:
                return

    def _answer_late(self, error: BaseException) -> None:
        """Answer the call whose answer an exception from outside the handler prevented."""
        call_id, self._pending = self._pending, b""
        if call_id:
            ended = outcome.raised(error)
            for packet in wire.answer_packets(ended.status, call_id, 0, b"", b"", ended.body):
                self._channel.send(packet)

    def _loop(self, order: loader.Order, answering: Answering) -> None:  # noqa: C901, PLR0912, PLR0915 -- for speed
        bound, assignment, output_bytes = answering.bound, order.assignment, order.output_bytes
        quick = bound.shape is shapes.Shape.EVENT and not bound.asynchronous and not bound.generator
        recv, send, kept, take = self._channel.recv, self._channel.send, self._inbox.kept, self._console.take
        unpack, pack, head, room = _CALL.unpack_from, _ANSWER.pack, _CALL.size, wire.MAX_PACKET - _ANSWER.size
        scan, chunks, join, handler = codec.scan, codec.chunks_plain, "".join, bound.call
        now, clock, environb = time.time, time.perf_counter_ns, os.environb
        most, call_kind = wire.MAX_PACKET, int(Kind.CALL)
        while True:
            packet = kept.popleft() if kept else recv(most)
            if not packet:
                return
            if packet[0] != call_kind:  # the CANCEL of a call that has ended
                continue
            started = clock()
            _, flags, call_id, deadline, meta_length, length = unpack(packet)
            start = head + meta_length
            environb[_INVOCATION] = self._pending = call_id
            ended = None
            if deadline < 0.0:  # it came with the order, and may have been withdrawn since
                packet, deadline = wire.dated(packet, now()), now() - deadline
                ended = Ended(Status.CANCELLED, b"") if self._inbox.is_cancelled(call_id) else None
            if ended is not None:
                pass
            elif quick and not flags and len(packet) - start == length and now() < deadline:
                try:
                    text = str(packet[start:], "utf-8")
                    event, end = scan(text, 0)
                    if end != len(text):
                        raise ValueError  # noqa: TRY301 -- white space at the end, or more
                except (ValueError, StopIteration, RecursionError):
                    ended = answering.slow(wire.parse_call(packet))
                else:
                    try:
                        result = handler(event, Context(call_id, deadline, assignment, packet[head:start]))
                    except BaseException as error:  # noqa: BLE001 -- the loop outlives whatever the tenant raises
                        ended = outcome.raised(error)
                    else:
                        try:
                            status, body = _OK_JSON, join(chunks(result, 0)).encode()
                        except BaseException as error:  # noqa: BLE001 -- items() of a hostile dict
                            ended = answering.finish(result, error, call_id)
                        del result
                    del event, text
            else:
                ended = answering.slow(wire.parse_call(packet))
            if ended is not None:
                status, body = ended
            if len(body) > output_bytes:
                status, body = outcome.bounded(Ended(Status(status), body), output_bytes)
            out, err = take()
            micros = (clock() - started) // 1000
            if len(out) + len(err) + len(body) <= room and micros < 0xFFFFFFFF:
                send(pack(b"A", status, call_id, micros, len(out), len(err), len(body)) + out + err + body)
            else:
                for each in wire.answer_packets(status, call_id, micros, out, err, body):
                    send(each)
            self._pending = b""
            del packet, body, out, err, ended  # idle memory: nothing of a call is kept until the next one
