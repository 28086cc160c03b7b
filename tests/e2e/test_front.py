"""The front of a real server: bytes over a socket, calls that really run, and what the log says of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest

from tests.e2e.house import Answer, House, started

Name = Callable[[], str]
ECHO = "def handler(event, context):\n    return event"
SLOW = "import time\n\ndef handler(event, context):\n    time.sleep(event.get('sleep', 0))\n    return event"


class Wire:
    """A connection that sends bytes as they are."""

    def __init__(self, house: House) -> None:
        """Connect."""
        parts = urlsplit(house.url)
        self.socket = socket.create_connection((str(parts.hostname), parts.port or 80), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.token, self.kept = house.token("default"), b""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self.socket.close()

    def call(self, name: str, event: object, further: str = "", *, token: str | None = None) -> bytes:
        """Return the bytes of a call."""
        body = json.dumps(event).encode()
        head = f"POST /v1/functions/{name}/invoke HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token or self.token}\r\n"
        return f"{head}Content-Type: application/json\r\n{further}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def send(self, *segments: bytes) -> None:
        """Send segments, each as a packet of its own."""
        for number, segment in enumerate(segments):
            if number:
                time.sleep(0.02)
            self.socket.sendall(segment)

    def answer(self) -> Answer | None:
        """Read one answer; None when the server has closed the connection."""
        while b"\r\n\r\n" not in self.kept:
            if not self._more():
                return None
        head, _, self.kept = self.kept.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self.kept) < length:
            if not self._more():
                return None
        body, self.kept = self.kept[:length], self.kept[length:]
        return Answer(int(first.split()[1]), headers, body)

    def _more(self) -> bool:
        try:
            more = self.socket.recv(1 << 16)
        except ConnectionError:
            return False
        self.kept += more
        return bool(more)


@pytest.fixture
def wire(house: House) -> Iterator[Wire]:
    """Return a connection to the shared server."""
    with Wire(house) as connection:
        yield connection


def runs_of(house: House, name: str) -> int:
    """Return how many calls of a function were counted."""
    rows = house.call("GET", "/v1/usage").json["items"]
    return sum(row["calls"] for row in rows if row["function"] == name)


def values(wire: Wire, count: int) -> list[object]:
    """Read answers and return their bodies."""
    return [answer.json if (answer := wire.answer()) is not None else None for _ in range(count)]


def test_pipelined(house: House, name: Name, wire: Wire) -> None:
    """Calls and reads in one segment are answered in their order."""
    house.deploy(echo := name(), ECHO)
    get = f"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {wire.token}\r\n\r\n".encode()
    wire.send(b"".join([wire.call(echo, 1), wire.call(echo, 2), get, wire.call(echo, 3), get, wire.call(echo, 4)]))
    one, two, who, three, _, four = values(wire, 6)
    assert (one, two, three, four) == (1, 2, 3, 4)
    assert isinstance(who, dict)
    assert who["account"] == "default"


def test_sent_while_a_call_runs(house: House, name: Name, wire: Wire) -> None:
    """What comes while a call runs waits for its answer."""
    house.deploy(slow := name(), SLOW)
    wire.send(wire.call(slow, {"sleep": 0.3, "n": 1}), wire.call(slow, {"n": 2}))
    assert [v["n"] if isinstance(v, dict) else v for v in values(wire, 2)] == [1, 2]


def test_a_body_is_never_a_call(house: House, name: Name, wire: Wire) -> None:
    """An upload whose body looks like a call runs nothing, in one segment or with the body in a segment of its own."""
    house.deploy(echo := name(), ECHO)
    assert house.invoke(echo, 1).json == 1
    before = runs_of(house, echo)
    inner = wire.call(echo, 666)
    head = f"PUT /v1/functions/{echo} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {wire.token}\r\n"
    head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(inner)}\r\n\r\n"
    for segments in ((head.encode() + inner,), (head.encode(), inner)):
        wire.send(*segments)
        answer = wire.answer()
        assert answer is not None
        assert answer.status == 400
    wire.send(wire.call(echo, 2))
    assert values(wire, 1) == [2]
    assert runs_of(house, echo) == before + 1


@pytest.mark.parametrize(
    "line", [b"Content-Length: 3", b"Transfer-Encoding: chunked", b"X-A : b", b"X-A: b\0c", b"X-A: " + b"a" * 9000], ids=lambda v: v[:20]
)
def test_a_head_that_cannot_be_read(house: House, name: Name, line: bytes, wire: Wire) -> None:
    """It is 400 with a problem document, the connection's end, nothing run, and one line in the log without a traceback."""
    house.deploy(echo := name(), ECHO)
    log = house.data.parent / "serve.log"
    before = len(log.read_text())
    wire.send(wire.call(echo, 1, line.decode("latin-1") + "\r\n"))
    answer = wire.answer()
    assert answer is not None
    assert (answer.status, answer.json["code"], answer.json["fault"]) == (400, "invalid_request", "caller")
    assert answer.headers["content-type"] == "application/problem+json"
    assert wire.answer() is None, "the connection goes on"
    assert house.invoke(echo, 2).json == 2, "the next client is served"
    said = _settled(log, before, "unreadable_request")
    assert said.count("unreadable_request") == 1
    assert "Traceback" not in said
    assert runs_of(house, echo) == 1


def _settled(log: Path, start: int, word: str) -> str:
    """Return what the log says from a place on, once a word is in it."""
    until = time.monotonic() + 10
    while word not in (said := log.read_text()[start:]) and time.monotonic() < until:
        time.sleep(0.02)
    return said


def test_a_refusal_is_the_same_on_both_ways(house: House, name: Name, wire: Wire) -> None:
    """What the front refuses itself, it refuses in the words of the general way, and the connection goes on."""
    house.deploy(echo := name(), ECHO)
    usual = "Pyfaas-On-Disconnect: finish\r\n"
    for token, function, status in (("pf_wrong", echo, 401), (None, "nobody-has-this", 404)):
        pairs = []
        for further in ("", usual):
            wire.send(wire.call(function, 1, further, token=token))
            answer = wire.answer()
            assert answer is not None
            pairs.append((answer.status, {k: v for k, v in answer.headers.items() if k != "date"}, answer.body))
        assert pairs[0] == pairs[1]
        assert pairs[0][0] == status
    wire.send(wire.call(echo, 5))
    assert values(wire, 1) == [5]


def test_a_client_that_leaves_disturbs_nobody(house: House, name: Name, wire: Wire) -> None:
    """A client leaves during its call; another's call that runs, and the next one, are answered."""
    house.deploy(slow := name(), SLOW)
    assert house.invoke(slow, {}).status == 200
    wire.send(wire.call(slow, {"sleep": 0.5, "n": 1}))
    for _ in range(3):
        with Wire(house) as leaving:
            leaving.send(leaving.call(slow, {"sleep": 0.3}))
            time.sleep(0.05)
    assert values(wire, 1) == [{"sleep": 0.5, "n": 1}]
    wire.send(wire.call(slow, {"n": 2}))
    assert values(wire, 1) == [{"n": 2}]


def test_too_large_is_answered_early(house: House, name: Name, wire: Wire) -> None:
    """413 comes before the body has, also to a client that asked first; a body of exactly the limit is a call."""
    house.deploy(echo := name(), ECHO)
    limit = house.call("GET", "/v1/limits").json["sync_payload"]["value"]
    head, _, _ = wire.call(echo, 1, "Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    wire.send(head.replace(b"Content-Length: 1", b"Content-Length: %d" % (limit + 1)) + b"\r\n\r\n")
    answer = wire.answer()
    if answer is not None and answer.status == 100:
        answer = wire.answer()
    assert answer is not None
    assert (answer.status, answer.json["code"], answer.json["evidence"]["limit"]) == (413, "payload_too_large", "sync_payload")
    text = "a" * (limit - 2)
    assert house.invoke(echo, text).json == text


def test_a_stop_waits_for_answers(tmp_path: Path) -> None:
    """A stop closes an idle connection and lets a running call, hot or not, get its answer."""
    with started(tmp_path / "data") as house:
        house.deploy("slow", SLOW)
        assert house.invoke("slow", {}).status == 200
        with Wire(house) as hot, Wire(house) as general, Wire(house) as idle:
            idle.send(idle.call("slow", {"n": 0}))
            assert values(idle, 1) == [{"n": 0}]
            hot.send(hot.call("slow", {"sleep": 1, "n": 1}))
            general.send(general.call("slow", {"sleep": 1, "n": 2}, "Pyfaas-On-Disconnect: finish\r\n"))
            _running(house, 2)
            stopping = threading.Thread(target=house.stop)
            stopping.start()
            assert idle.answer() is None
            assert values(hot, 1) == [{"sleep": 1, "n": 1}]
            assert values(general, 1) == [{"sleep": 1, "n": 2}]
            assert hot.answer() is None
            stopping.join(30)
        assert house.process.poll() == 0


def _running(house: House, count: int) -> None:
    """Wait until so many calls run."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        vms = house.call("GET", "/v1/fleets").json["vms"]
        if [c["state"] for vm in vms for c in vm["containers"]].count("busy") >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"never {count} calls at once: {vms}")
