"""A container that runs pickled calls of an executor, one after the other, and answers with data.

The host sends LOAD: how to answer, and behind it cloudpickle's code and the pickled initializer; then CALLs whose body is a
pickled `(function, arguments, keywords)`. Pickles come from the host only, which is trusted here. What goes back is written
by `sandbox.values`, or, where the host asked for it, a pickle.

Functions that travelled by value keep their module's globals here, one dictionary for each module and worker: what an
initializer sets, later calls see. A name that the worker has bound itself stays; every other follows the caller's.

What this cannot promise: the call shares this process, and can write to the channel itself. It can forge its own answer
only, since the host accepts one answer, to the call that is running.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import json
import marshal
import os
import pickle
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

from sandbox import values
from sandbox.wire import MAX_PACKET, Kind, Status, answer_packets, packet, parse_call, parts

CLOUDPICKLE = "cloudpickle.cloudpickle"
_UNSET = object()
# What cloudpickle and ordinary functions import: once, before the first fork, instead of in every worker.
_PRELOADED = (
    *("ast", "copyreg", "dataclasses", "dis", "enum", "inspect", "io", "itertools", "logging", "math", "opcode", "operator"),
    *("pathlib", "platform", "random", "string", "tempfile", "textwrap", "threading", "warnings", "weakref"),
)


def warm() -> None:
    """Import what every worker would; run once by the launcher."""
    for name in _PRELOADED:
        importlib.import_module(name)


def serve(channel: socket.socket, out: int, err: int) -> None:
    """Load, then answer calls until the host closes the channel."""
    os.close(out)
    os.close(err)
    gc.enable()  # the launcher keeps it off while it builds what its children share
    os.register_at_fork(after_in_child=channel.close)
    order = channel.recv(MAX_PACKET)
    if not order:
        return
    worker = Worker(channel, json.loads(order[1:]))
    if worker.load():
        while worker.answer():
            pass


def run_chunk(function: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> list[Any]:
    """Call a function with each tuple of arguments: one piece of `SandboxExecutor.map`."""
    return [function(*arguments) for arguments in chunk]


class Worker:
    """One worker: its channel and how it answers."""

    def __init__(self, channel: socket.socket, order: dict[str, Any]) -> None:
        """Keep the order; nothing is loaded yet."""
        self._channel, self._order, self._pid = channel, order, os.getpid()
        self._is_trusted, self._most = bool(order["trusted"]), int(order["payload"])

    def load(self) -> bool:
        """Install cloudpickle, find the paths, run the initializer; tells the host whether that went well."""
        size, initializer = self._order["code"], self._order["initializer"]
        body = self._gather(b"", size + initializer)
        sys.path += self._order["paths"]
        try:
            _install(marshal.loads(body[:size]))  # noqa: S302 - the host's own, of the same interpreter
            if initializer:
                function, arguments = pickle.loads(body[size:])  # noqa: S301 - likewise
                function(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever it raises breaks the pool, and the host says so
            failed = self._failure(error)
            self._end_of_fork()
            self._channel.send(packet(Kind.FAILED, json.dumps({"bytes": len(failed)}).encode()))
            for piece in parts(failed, 0):
                self._channel.send(piece)
            return False
        self._end_of_fork()
        self._channel.send(packet(Kind.LOADED, b"{}"))
        return True

    def answer(self) -> bool:
        """Answer one call; False when the host has left."""
        first = self._channel.recv(MAX_PACKET)
        if not first:
            return False
        call = parse_call(first)
        started = time.perf_counter_ns()
        status, result = self._run(self._gather(call.body, call.body_length))
        self._end_of_fork()
        for piece in answer_packets(status, call.id, (time.perf_counter_ns() - started) // 1000, b"", b"", result):
            self._channel.send(piece)
        return True

    def _gather(self, first: bytes, length: int) -> bytes:
        """Return a body that began in one packet and may go on in others."""
        if len(first) == length:
            return first
        pieces, have = [first], len(first)
        while have < length:
            piece = self._channel.recv(MAX_PACKET)
            if not piece:
                os._exit(0)  # the host has left
            pieces.append(piece[1:])
            have += len(piece) - 1
        return b"".join(pieces)

    def _run(self, body: bytes) -> tuple[int, bytes]:
        try:
            function, arguments, keywords = pickle.loads(body)  # noqa: S301 - written by the host
            del body
            status, result = self._written(function(*arguments, **keywords))
        except BaseException as error:  # noqa: BLE001 - no exception of the call ends the worker
            status, result = Status.ERROR, self._failure(error)
        if len(result) > self._most:
            status, result = Status.LIMIT, values.encode(len(result))
        return status, result

    def _written(self, result: Any) -> tuple[int, bytes]:
        if self._is_trusted:
            return Status.OK_BYTES, sys.modules[CLOUDPICKLE].dumps(result)
        return Status.OK_JSON, values.encode(result)

    def _failure(self, error: BaseException) -> bytes:
        pickled = None
        if self._is_trusted:
            try:
                pickled = sys.modules[CLOUDPICKLE].dumps(error)
            except BaseException:  # noqa: BLE001 - it travels as data then
                pickled = None
        return failure(error, pickled)

    def _end_of_fork(self) -> None:
        """End a forked child that returned from the call: what follows is not its business. Else show what was printed."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # the call may have closed or replaced it
                continue
        if os.getpid() != self._pid:
            os._exit(0)


def failure(error: BaseException, pickled: bytes | None = None) -> bytes:
    """Write an exception as data: its type's name, arguments where they are data, message, traceback as text, notes."""
    try:
        told = _told(error)
    except BaseException as worse:  # noqa: BLE001 - `str()` of a hostile exception
        told = {"message": f"an exception that cannot be shown: {type(worse).__name__}", "traceback": "", "notes": []}
    told |= {"module": str(type(error).__module__), "type": str(type(error).__qualname__), "pickle": pickled}
    try:
        return values.encode({**told, "arguments": _arguments(error), "names": _names(error)})
    except BaseException:  # noqa: BLE001 - arguments that are no data; whatever `__reduce__` does
        return values.encode({**told, "arguments": None, "names": {}})


def _told(error: BaseException) -> dict[str, Any]:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    notes = [str(note) for note in getattr(error, "__notes__", None) or ()]
    text = "".join(traceback.format_exception(type(error), error, frames))
    return {"message": str(error), "traceback": text, "notes": notes}


def _arguments(error: BaseException) -> tuple[Any, ...] | None:
    """Return what a built-in exception is made again from."""
    if type(error).__module__ != "builtins":
        return None
    made = error.__reduce__()
    return made[1] if isinstance(made, tuple) and made[0] is type(error) else None


def _names(error: BaseException) -> dict[str, str]:
    """Return the attributes that no argument carries."""
    found = {name: getattr(error, name, None) for name in ("name", "path")}
    return {name: value for name, value in found.items() if type(value) is str}


# ---- cloudpickle, from the host's code


def _install(codes: dict[str, types.CodeType]) -> None:
    """Make modules from their code: there is no file of theirs in here."""
    made = {}
    for name in codes:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package="." not in name)
        module.__package__ = name.partition(".")[0]
        if "." not in name:
            module.__path__ = []
        made[name] = sys.modules[name] = module
    for name, code in codes.items():
        exec(code, made[name].__dict__)  # noqa: S102 - that is how a module is loaded
    if CLOUDPICKLE in made:
        _keep_globals(made[CLOUDPICKLE])


def _keep_globals(cloudpickle: Any) -> None:
    """Let functions of one module share its globals over all pickles, and keep what the worker has bound itself."""
    kept: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # module → its globals, and what arrived for them last
    make, set_state = cloudpickle._make_function, cloudpickle._function_setstate  # noqa: SLF001 - what its pickles name

    def make_function(code: types.CodeType, own: dict[str, Any], *rest: Any) -> Any:
        return make(code, kept.setdefault(str(own.get("__name__")), (own, {}))[0], *rest)

    def set_function_state(function: Any, state: Any) -> None:
        present, arrived = kept[str(function.__globals__.get("__name__"))]
        brought = state[1]["__globals__"]
        fresh = {k: v for k, v in brought.items() if k not in present or present[k] is arrived.get(k, _UNSET)}
        arrived.update(fresh)
        state[1]["__globals__"] = fresh
        set_state(function, state)

    cloudpickle._make_function, cloudpickle._function_setstate = make_function, set_function_state  # noqa: SLF001
