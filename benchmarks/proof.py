"""The proof that confinement was on: what a function in the measured server was refused, and that it is possible outside.

The same program tries the same things in a container and, as the control, in a plain process of the harness: what is
refused there as well proves nothing, and is told as such. A figure without a proof is not written.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.house import House

ATTEMPTS = {
    "unshare": "make a user namespace: unshare(CLONE_NEWUSER)",
    "file": "read a file of the host",
    "connect": "connect to the server's own port",
}
_PROGRAM = """
def attempt(name, event):
    import ctypes, os, socket
    if name == "unshare":
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(0x10000000):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    elif name == "file":
        with open(event["file"]) as file:
            if file.read() != event["text"]:
                raise OSError(2, "another file")
    elif name == "connect":
        socket.create_connection((event["host"], event["port"]), timeout=2).close()

def handler(event, context):
    answers = {}
    for name in event["attempts"]:
        try:
            attempt(name, event)
            answers[name] = "done"
        except OSError as error:
            answers[name] = error.strerror or str(error)
    return answers
"""


class NotConfined(Exception):
    """A function did what it must not be able to do: nothing of that server is measured."""


def prove(house: House, folder: Path) -> list[dict[str, Any]]:
    """Try everything inside and outside; raises NotConfined when something was possible inside, or nothing is proven."""
    witness = folder / "witness"
    witness.write_text(secrets.token_hex(16))
    witness.chmod(0o644)
    at = urlsplit(house.url)
    event = {"attempts": list(ATTEMPTS), "file": str(witness), "text": witness.read_text(), "host": at.hostname, "port": at.port}
    ready = house.deploy("confined", _PROGRAM, wait=False)  # the call waits for it, also where nothing is prepared before one
    answer = house.invoke("confined", event)
    if answer.status != 200:
        raise NotConfined(f"the proof did not run: {ready.body.decode()[:300]} {answer.body.decode()[:300]}")
    return judge(answer.json, _outside(event))


def _outside(event: Mapping[str, Any]) -> dict[str, str]:
    program = f"{_PROGRAM}\nimport json, sys\nprint(json.dumps(handler(json.loads(sys.argv[1]), None)))"
    told = subprocess.run([sys.executable, "-I", "-c", program, json.dumps(event)], capture_output=True, text=True, check=True)
    answers: dict[str, str] = json.loads(told.stdout)
    return answers


def judge(inside: Mapping[str, str], outside: Mapping[str, str]) -> list[dict[str, Any]]:
    """Put both sides together; raises NotConfined."""
    if done := [ATTEMPTS[name] for name in ATTEMPTS if inside.get(name) == "done"]:
        raise NotConfined("a function could " + ", and ".join(done))
    proof = [
        {"attempt": text, "inside": inside[name], "outside": outside[name], "proves": outside[name] == "done"}
        for name, text in ATTEMPTS.items()
    ]
    if not any(line["proves"] for line in proof):
        raise NotConfined("nothing that was refused inside is possible outside: no proof")
    return proof
