"""What the containers of these tests run: Python source comes in, what it leaves in `result` goes out as JSON.

It runs on the confined side, under the interpreter that the launcher has, with nothing but the standard library.
"""

from __future__ import annotations

import json
import socket

from sandbox.guest import attached
from sandbox.wire import Kind, packet


def serve(channel: socket.socket, _out: int, _err: int) -> None:
    """Run what LOAD packets bring, until the host closes the channel."""
    seen: dict[str, object] = {"channel": channel}
    while order := channel.recv(65536):
        try:
            exec(json.loads(order[1:])["source"], seen)  # noqa: S102 - that is the purpose
            answer = packet(Kind.LOADED, json.dumps({"got": seen.pop("result", None)}).encode())
        except BaseException as error:  # noqa: BLE001 - told to the test, which decides
            told = {"error": type(error).__name__, "errno": getattr(error, "errno", None), "text": str(error)}
            answer = packet(Kind.FAILED, json.dumps(told).encode())
        channel.send(answer)


def serve_when_attached(channel: socket.socket, out: int, err: int) -> None:
    """Take the first order at once, and run it when the launcher has attached the code; then be like `serve`."""
    order = channel.recv(65536)
    channel.send(packet(Kind.HEAD, b"{}"))
    attached.wait()
    exec(json.loads(order[1:])["source"], seen := {})  # noqa: S102 - that is the purpose
    channel.send(packet(Kind.LOADED, json.dumps({"got": seen["result"]}).encode()))
    serve(channel, out, err)
