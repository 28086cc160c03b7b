"""Starts the fake server as a process of its own, and reads what it was asked."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAKE = Path(__file__).with_name("fake_server.py")


@dataclass(frozen=True, slots=True)
class Fake:
    """A running fake server."""

    url: str

    def seen(self) -> dict[str, Any]:
        """Return {requests, cancelled, functions}."""
        with urllib.request.urlopen(self.url + "/fake/requests") as answer:  # noqa: S310 - our own http URL
            seen: dict[str, Any] = json.load(answer)
            return seen

    def asked(self, method: str, path: str) -> dict[str, Any]:
        """Return the headers of the last request of that method and path; fails when there was none."""
        found = [r for r in self.seen()["requests"] if r["method"] == method and r["path"].partition("?")[0] == path]
        assert found, (method, path)
        headers: dict[str, Any] = found[-1]["headers"]
        return headers


@contextlib.contextmanager
def started(directory: Path) -> Iterator[Fake]:
    """Run the fake server until the block ends."""
    place = directory / "url"
    process = subprocess.Popen([sys.executable, str(FAKE), str(place)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), "the fake server did not start"
        yield Fake(place.read_text())
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def until(fact: Any, seconds: float = 60.0) -> bool:
    """Return whether a fact came true within the time, which is ample for a busy machine."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if fact():
            return True
        time.sleep(0.01)
    return False
