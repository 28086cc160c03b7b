"""What functions reach when the way out is measured, and the client that measures it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import origin


@pytest.fixture(scope="module")
def place() -> Iterator[dict[str, Any]]:
    """Serve, and say where."""
    with origin.served() as port:
        yield {"host": "localhost", "port": port}


def test_each_kind_is_timed_as_often_as_asked(place: dict[str, Any]) -> None:
    """The client in a plain process does each of its kinds as often as it is asked, and tells what each took."""
    with origin.Outside() as outside:
        for what in ("kept", "known", "named", "received", "sent"):
            took = outside.ask({**place, "what": what, "count": 3, "size": 300_000})
            assert len(took) == 3
            assert min(took) > 0


def test_a_client_that_fails_is_told(place: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    """What the client cannot do ends the measurement, rather than being a figure."""
    with origin.Outside() as outside, pytest.raises(RuntimeError, match="failed"):
        outside.ask({**place, "what": "nothing", "count": 1})
    assert "KeyError: 'nothing'" in capfd.readouterr().err


def test_a_length_is_read_from_a_head() -> None:
    """The length of a body is found in whatever case it is written, and is nothing where none is told."""
    assert origin.length(b"PUT / HTTP/1.1\r\ncontent-Length: 12\r\nHost: x\r\n\r\n") == 12
    assert origin.length(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == 0
