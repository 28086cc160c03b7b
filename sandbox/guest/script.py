"""A container that runs one script as `python script.py` would, and ends with its status.

The host sends LOAD with the script's name, its arguments and its length, and the source in PART packets. What the script
prints goes to the log pipes, which only the host reads.
"""

from __future__ import annotations

import atexit
import json
import linecache
import os
import socket
import sys
import threading
import traceback
import types

from sandbox.wire import MAX_PACKET


def serve(channel: socket.socket, out: int, err: int) -> None:
    """Receive a script, run it, and leave the process with its status."""
    os.close(out)
    os.close(err)
    order = channel.recv(MAX_PACKET)
    if not order:
        os._exit(0)  # the host has left
    told = json.loads(order[1:])
    source = b""
    while len(source) < told["bytes"]:
        source += channel.recv(MAX_PACKET)[1:]
    status = 1
    try:
        _run(told["name"], told["arguments"], source.decode())
        status = 0
    except SystemExit as leaving:
        status = _status(leaving.code)
    finally:
        failed = sys.exception()
        if failed is not None:
            traceback.print_exception(type(failed), failed, _of_script(failed.__traceback__, told["name"]))
        _leave(status)


def _run(name: str, arguments: list[str], source: str) -> None:
    main = types.ModuleType("__main__")
    main.__file__ = name
    sys.modules["__main__"], sys.argv = main, [name, *arguments]
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for tracebacks: there is no file
    exec(compile(source, name, "exec"), main.__dict__)  # noqa: S102 - that is what a script is for


def _of_script(trace: types.TracebackType | None, name: str) -> types.TracebackType | None:
    """Return a traceback from the script's first line on: how it came to be run is not its business."""
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    return trace


def _status(code: object) -> int:
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _leave(status: int) -> None:
    """End as an interpreter does: wait for threads, run what was registered, flush."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # noqa: SLF001 - os._exit below would skip them; returning would go back to the launcher's code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
