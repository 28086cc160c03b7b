"""Run the container's own code once before the launcher freezes its memory.

Theory of operation. Every child shares the launcher's pages until it writes to them or needs something new. A
first call that decodes, calls, encodes, fails and reports touches what the tenants' first calls will touch:
caches of `re`, `traceback` and `linecache`, specialised byte code, interned strings. The handlers are ours and
harmless, nothing is loaded from a disk, and what a container changes about its process (console, environment)
is put back.
"""

from __future__ import annotations

import marshal
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from pyfaas.runtime import shapes
from pyfaas.runtime.answering import Answering
from pyfaas.runtime.compiled import HEADER
from pyfaas.runtime.console import Console
from pyfaas.runtime.container import Container
from pyfaas.runtime.context import Context
from pyfaas.runtime.inbox import Inbox
from pyfaas.runtime.loader import Order, load, standard_library
from sandbox import wire
from sandbox.wire import Flag

_ID = b"0" * wire.ID_BYTES
_BODY = b'{"text":"a","number":1.5,"list":[1,null,true],"nested":{"a":"b"}}'
_METAS = {
    Flag.HTTP: b'{"http":{"method":"POST","path":"/","headers":[["content-type","text/plain"]]}}',
    Flag.PARAMS: b'{"params":[{"lock":{"text":"a"},"require":["number"],"stored":{"key":"b"}}],"secrets":{"KEY":"c"},"caller":"0","alias":"a"}',
}
_REHEARSAL = HEADER + marshal.dumps(compile("def handler(event, context):\n    return event\n", "rehearsal.py", "exec"))
_ROUNDS = 16  # CPython specialises byte code after a few runs


def warm() -> None:
    """Run good and failing calls of harmless handlers through the loop; leaves nothing behind."""
    _run((_echo, _fail, _add), (0, *_METAS), _ROUNDS)


def _run(handlers: Sequence[Callable[..., Any]], flags: Sequence[int], rounds: int) -> None:
    kept, environment = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__), dict(os.environ)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    for descriptor in (out_read, err_read):
        os.set_blocking(descriptor, False)
    try:
        console = Console(out_read, err_read)
        console.write_to(out_write, err_write)
        for handler in handlers:
            _rounds(handler, console, flags, rounds)
    finally:
        sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = kept  # type: ignore[misc]
        os.environ.clear()
        os.environ.update(environment)
        for descriptor in (out_read, out_write, err_read, err_write):
            os.close(descriptor)


def rehearse() -> None:
    """Load and run a harmless module in a blank, as its first call will; leaves nothing behind.

    The memory that a first load and a plain call write to is copied now, off the path of a call, instead of then.
    """
    directory = "/tmp/.rehearsal"  # noqa: S108 -- the container's own
    compiled = f"{directory}/__pycache__/rehearsal.{sys.implementation.cache_tag}.pyc"
    os.makedirs(os.path.dirname(compiled), 0o700)
    try:
        with open(compiled, "wb") as file:
            file.write(_REHEARSAL)
        order = Order(function="warm", version="1", account="warm", handler="rehearsal:handler", code=directory, paths=(directory,))
        load(order)
        _run((_echo,), (0,), 1)
    finally:
        sys.modules.pop("rehearsal", None)
        sys.path_importer_cache.pop(directory, None)
        sys.path[:] = standard_library()
        os.chdir("/")
        os.unlink(compiled)
        os.removedirs(os.path.dirname(compiled))
        os.environ.clear()


def _rounds(handler: Any, console: Console, flags: Sequence[int], rounds: int) -> None:
    # Datagrams, since a confined blank may make no sequenced-packet sockets; closing one's own reading end is their end.
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        order = Order(function="warm", version="1", account="warm")
        answering = Answering(order, shapes.bind(handler), Inbox(far))
        deadline = time.time() + 60.0
        for flag in flags:
            meta = _METAS[Flag(flag)] if flag else b""
            for _ in range(rounds):
                near.send(wire.call_packets(flag, _ID, deadline, meta, _BODY)[0])
        far.shutdown(socket.SHUT_RD)
        Container(far, console).answer_calls(order, answering)
        for _ in range(len(flags) * rounds):
            wire.parse_answer(near.recv(wire.MAX_PACKET))


def _echo(event: Any, context: Context) -> Any:
    print(context.aws_request_id, file=sys.stdout)  # noqa: T201 -- warms the console
    return event


def _fail(event: Any, _context: Context) -> Any:
    raise ValueError(f"unsuitable: {event!r:.10}")


def _add(text: str, number: float, **more: object) -> dict[str, object]:
    return {"text": text, "number": number + 1, "more": len(more)}
