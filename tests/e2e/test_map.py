"""`map`: a call for each line, streaming both ways, each item's end by its place."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.house import Answer, House
from tests.e2e.lending import accept, accounts, grant
from tests.e2e.test_front import runs_of

Name = Callable[[], str]
CODE = """
import time

def handler(event, context):
    if isinstance(event, dict):
        time.sleep(event.get("sleep", 0))
        if "raise" in event:
            raise ValueError(event["raise"])
        if "exit" in event:
            import os
            os._exit(event["exit"])
        if "bytes" in event:
            return event["bytes"].encode()
        if "pad" in event:
            return "x" * event["pad"]
        if event.get("who"):
            return context.function_version
    return event
"""


@pytest.fixture
def mapped(house: House, name: Name) -> str:
    """Return the name of a function that does what its events say."""
    house.deploy(made := name(), CODE)
    return made


def run(house: House, name: str, body: bytes | str, query: str = "", **headers: str) -> Answer:
    """Send a whole request and read its answer."""
    return house.call("POST", f"/v1/functions/{name}/map{query}", body, **{"content_type": "application/x-ndjson", **headers})


def items(answer: Answer) -> dict[int, Any]:
    """Return the items by their place; each place is there once."""
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.body
    found = [json.loads(line) for line in answer.body.splitlines()]
    assert len({item["i"] for item in found}) == len(found)
    return {item["i"]: item for item in found}


class Talk:
    """A map request whose lines are sent one by one."""

    def __init__(self, house: House, name: str, query: str = "", *, receive_buffer: int | None = None) -> None:
        """Send the head."""
        parts = urlsplit(house.url)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect((str(parts.hostname), parts.port or 80))
        head = f"POST /v1/functions/{name}/map{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token('default')}\r\n"
        self.socket.sendall(f"{head}Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        self.answer: http.client.HTTPResponse | None = None

    def line(self, event: object) -> None:
        """Send a line as a chunk of its own."""
        line = json.dumps(event).encode() + b"\n"
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(line), line))

    def end(self) -> None:
        """Say that no more lines come."""
        self.socket.sendall(b"0\r\n\r\n")

    def item(self) -> Any:
        """Read one line of the answer; None when it has ended."""
        if self.answer is None:
            self.answer = http.client.HTTPResponse(self.socket)
            self.answer.begin()
            assert self.answer.status == 200
        line = self.answer.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        """Leave."""
        if self.answer is not None:
            self.answer.close()
        self.socket.close()


@pytest.fixture
def talk(house: House) -> Iterator[Callable[..., Talk]]:
    """Return a maker of requests, which are closed at the end."""
    made: list[Talk] = []

    def begin(*given: Any, **named: Any) -> Talk:
        made.append(Talk(house, *given, **named))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_each_line_is_a_call(house: House, mapped: str) -> None:
    """A thousand lines are a thousand calls, each answered by its place, and each is in the usage."""
    answer = run(house, mapped, "".join(f'{{"n": {n}}}\n' for n in range(1000)))
    found = items(answer)
    assert found == {n: {"i": n, "ok": {"n": n}} for n in range(1000)}
    assert (answer.headers["pyfaas-requested-version"], answer.headers["pyfaas-executed-version"]) == ("1", "1")
    assert runs_of(house, mapped) == 1000


def test_empty_input_is_empty_output(house: House, mapped: str) -> None:
    """No line, or only empty ones, is no call and no line; nor do empty ones count among others."""
    assert items(run(house, mapped, b"")) == {}
    assert items(run(house, mapped, b"\n\r\n  \n")) == {}
    assert runs_of(house, mapped) == 0
    assert items(run(house, mapped, b"\n1\r\n\n 2 ")) == {0: {"i": 0, "ok": 1}, 1: {"i": 1, "ok": 2}}


def test_a_bad_line_is_its_own_items_error(house: House, mapped: str) -> None:
    """What fails, of the caller or of the function, is told at its place; the others go on."""
    lines = ["1", "{broken", '{"raise": "no"}', '{"exit": 3}', '{"bytes": "ab"}', "NaN x", "2"]
    found = items(run(house, mapped, "\n".join(lines)))
    assert sorted(found) == list(range(7))
    assert [found[n]["ok"] for n in (0, 4, 6)] == [1, {"$bytes": base64.b64encode(b"ab").decode()}, 2]
    codes = {n: (found[n]["error"]["code"], found[n]["error"]["fault"]) for n in (1, 2, 3, 5)}
    assert codes == {1: ("invalid_event", "caller"), 2: ("error", "function"), 3: ("crashed", "function"), 5: ("invalid_event", "caller")}
    assert (found[2]["error"]["errorType"], found[2]["error"]["errorMessage"]) == ("ValueError", "no")
    assert found[2]["error"]["invocationId"]


def test_results_come_as_they_are_ready(talk: Callable[..., Talk], mapped: str) -> None:
    """A quick item is answered while an earlier one runs, and before the request has ended."""
    begun = talk(mapped)
    begun.line({"sleep": 60})
    begun.line(2)
    assert begun.item() == {"i": 1, "ok": 2}
    begun.line(3)
    assert begun.item() == {"i": 2, "ok": 3}


def test_both_ways_stream(talk: Callable[..., Talk], mapped: str) -> None:
    """A client may wait for each item before it sends the next, as long as it likes to go on."""
    begun = talk(mapped)
    for number in range(50):
        begun.line(number)
        assert begun.item() == {"i": number, "ok": number}
    begun.end()
    assert begun.item() is None


def test_no_more_at_once_than_asked(house: House, mapped: str) -> None:
    """With a concurrency of one, items run one after the other, in their order."""
    answer = run(house, mapped, "".join(f'{{"sleep": 0.0{9 - n}, "n": {n}}}\n' for n in range(10)), "?concurrency=1")
    assert [json.loads(line)["i"] for line in answer.body.splitlines()] == list(range(10))


def test_a_slow_reader_holds_its_own_request_back(house: House, mapped: str, talk: Callable[..., Talk]) -> None:
    """While a client does not read, no more lines of its are taken than fit into buffers; then all are answered."""
    begun = talk(mapped, "?concurrency=4", receive_buffer=64 << 10)
    begun.socket.settimeout(1.0)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 10_000:
            begun.line({"pad": 200_000, "fill": "y" * 20_000})  # 200 MB, if nobody holds them back: no buffer has as much
            sent += 1
    assert 4 <= sent < 10_000
    ran = runs_of(house, mapped)
    assert ran < sent
    begun.socket.settimeout(60)
    assert len({begun.item()["i"] for _ in range(ran)}) == ran


def _busy(house: House, name: str) -> int:
    vms = house.call("GET", "/v1/fleets").json["vms"]
    return sum(box["function"] == name and box["state"] == "busy" for vm in vms for box in vm["containers"])


def _quiet(house: House, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_leaves_cancels_what_runs(house: House, mapped: str, talk: Callable[..., Talk]) -> None:
    """When the client goes, what runs is cancelled and nothing of it waits any more."""
    begun = talk(mapped, "?concurrency=3")
    for _ in range(3):
        begun.line({"sleep": 600})
    _quiet(house, lambda: _busy(house, mapped) == 3)
    begun.line({"sleep": 600})
    begun.close()
    _quiet(house, lambda: _busy(house, mapped) == 0)
    rows = [row for row in house.call("GET", "/v1/usage").json["items"] if row["function"] == mapped]
    assert sum(row["outcomes"].get("cancelled", 0) for row in rows) == 3
    assert house.invoke(mapped, 1).json == 1


def test_a_line_over_the_limit(house: House, mapped: str) -> None:
    """A line that is longer than a call's body may be is that item's error, with the limit; its neighbours run."""
    limit = house.call("GET", "/v1/limits").json["sync_payload"]["value"]
    long = b'"' + b"a" * limit + b'"'
    found = items(run(house, mapped, b"1\n" + long + b"\n" + long[:1] + long[3:] + b"\n2"))
    assert (found[0]["ok"], found[3]["ok"], len(found[2]["ok"])) == (1, 2, limit - 2)
    assert found[1]["error"]["code"] == "payload_too_large"
    assert found[1]["error"]["evidence"] == {"limit": "sync_payload", "value": limit, "observed": limit + 2, "unit": "bytes"}


def test_all_items_run_one_version(house: House, talk: Callable[..., Talk], name: Name) -> None:
    """A version that is published meanwhile does not get the rest of the items."""
    house.deploy(called := name(), "def handler(event, context):\n    return 1")
    begun = talk(called)
    begun.line({})
    assert begun.item()["ok"] == 1
    house.deploy(called, "def handler(event, context):\n    return 2")
    assert house.invoke(called, {}).json == 2
    begun.line({})
    assert begun.item()["ok"] == 1
    begun.end()
    assert begun.item() is None
    assert items(run(house, called, "{}")) == {0: {"i": 0, "ok": 2}}
    assert items(run(house, called, "{}", "?qualifier=1")) == {0: {"i": 0, "ok": 1}}


def test_an_older_version_runs_while_the_newest_cannot(house: House, name: Name) -> None:
    """When the newest version has failed, all items run the one before, and the headers say so."""
    house.deploy(called := name(), "def handler(event, context):\n    return 1")
    house.deploy(called, "raise ValueError")
    answer = run(house, called, "{}\n{}")
    assert [item["ok"] for item in items(answer).values()] == [1, 1]
    assert (answer.headers["pyfaas-requested-version"], answer.headers["pyfaas-executed-version"]) == ("2", "1")
    assert {item["error"]["code"] for item in items(run(house, called, "{}\n{}", "?qualifier=2")).values()} == {"init_error"}


def test_a_timeout_is_each_items(house: House, mapped: str) -> None:
    """Pyfaas-Timeout shortens each item, and not the whole of them."""
    found = items(run(house, mapped, '1\n{"sleep": 60}\n2', Pyfaas_Timeout="2s"))
    assert (found[0]["ok"], found[2]["ok"], found[1]["error"]["code"]) == (1, 2, "timeout")


def test_what_is_refused_as_a_whole(house: House, mapped: str) -> None:
    """An unknown function or version, and a wrong number or header, are refused before anything runs."""
    for target, query, headers, status in (
        ("nobody-has-this", "", {}, 404),
        (mapped, "?qualifier=99", {}, 404),
        (mapped, "?qualifier=a%20b", {}, 400),
        (mapped, "?concurrency=0", {}, 400),
        (mapped, "?concurency=4", {}, 400),
        (mapped, "", {"Pyfaas_Timeout": "soon"}, 400),
        (mapped, "", {"Idempotency_Key": "k"}, 400),
    ):
        answer = run(house, target, "1\n2", query, **headers)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), (target, query, headers)
    assert runs_of(house, mapped) == 0


def test_more_than_the_account_may_have_waiting(house: House, mapped: str) -> None:
    """Far more lines than an account may have waiting are all run: what finds no room waits for its turn."""
    answer = run(house, mapped, "".join(f"{n}\n" for n in range(3000)), "?concurrency=1000")
    assert items(answer) == {n: {"i": n, "ok": n} for n in range(3000)}


def test_an_account_alias_is_mapped(house: House, name: Name) -> None:
    """What is lent runs once for each line too, the version being the alias's to say."""
    owner, caller, lent = name(), name(), name()
    accounts(house, owner, caller)
    house.deploy(lent, CODE, token=owner)
    grant(house, lent, caller, owner=owner)
    accept(house, "borrowed", f"{owner}/{lent}", caller=caller)
    answer = house.call("POST", "/v1/functions/borrowed/map", "1\n2\n", token=caller)
    assert {i: item["ok"] for i, item in items(answer).items()} == {0: 1, 1: 2}
