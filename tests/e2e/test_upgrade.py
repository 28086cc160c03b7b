"""SIGHUP under load: nothing is refused, nothing fails, nothing that was acknowledged is lost, and clients keep their connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.house import House, packed, started
from tests.e2e.test_kills import alive, cgroups, served_again, tree

FUNCTION = """
import time
def handler(event, context):
    time.sleep(event.get("s", 0))
    return event
"""
STREAM = """
import time
def handler(event, context):
    for n in range(event["n"]):
        yield {"n": n}
        time.sleep(0.1)
"""
_ENOUGH_S = 60.0
_DONE = "upgraded; "


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return a server that is replaced again and again, with a function and one that streams."""
    with started(tmp_path_factory.mktemp("upgrade") / "data") as house:
        assert house.deploy("f", FUNCTION).json["state"] == "ready"
        assert house.deploy("stream", STREAM).json["state"] == "ready"
        assert house.invoke("f", {"x": 1}).status == 200
        yield house


def said(house: House, part: str, times: int = 1) -> str:
    """Wait until the keeper has said something so often; returns all that it said."""
    log = house.data.parent / "serve.log"
    until = time.monotonic() + _ENOUGH_S
    while (text := log.read_text()).count(part) < times:
        assert time.monotonic() < until, text[-3000:]
        assert house.process.poll() is None, text[-3000:]
        time.sleep(0.02)
    return text


def upgrade(house: House) -> None:
    """Replace the server; returns when the new one serves, while the old one may still finish its calls."""
    before = (house.data.parent / "serve.log").read_text().count(_DONE)
    house.process.send_signal(signal.SIGHUP)
    said(house, _DONE, before + 1)


def connected(house: House) -> http.client.HTTPConnection:
    """Return a connection to a server."""
    parts = urlsplit(house.url)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=_ENOUGH_S)


def head(house: House, length: int) -> bytes:
    """Return the head of a call with a body of this length."""
    lines = ("POST /v1/functions/f/invoke HTTP/1.1", "Host: x", f"Authorization: Bearer {house.token('default')}")
    return "\r\n".join((*lines, "Content-Type: application/json", f"Content-Length: {length}", "", "")).encode()


class Load:
    """Clients that do something again and again until told to stop, and what went wrong."""

    def __init__(self, house: House) -> None:
        """Begin without clients."""
        self.house = house
        self.wrong: list[object] = []
        self.count = 0
        self.slowest = 0.0
        self.tokens: list[str] = []
        self.jobs: list[str] = []
        self.versions: list[int] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._connections: list[http.client.HTTPConnection] = []

    def start(self, *works: Callable[[int], object]) -> None:
        """Do each work in a thread of its own; it is given a number and returns what went wrong."""
        for work in works:
            self._threads.append(threading.Thread(target=self._again, args=(work,)))
            self._threads[-1].start()

    def stop(self) -> None:
        """Let each client finish what it does."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    def _again(self, work: Callable[[int], object]) -> None:
        n = 0
        while not self._stop.is_set():
            n += 1
            began = time.monotonic()
            try:
                wrong = work(n)
            except (OSError, http.client.HTTPException) as error:
                wrong = repr(error)
            self.count += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if wrong:
                self.wrong.append(wrong)

    def kept(self) -> Callable[[int], object]:
        """Call on one connection, which is never made anew."""
        connection = connected(self.house)
        self._connections.append(connection)

        def work(n: int) -> object:
            sent = json.dumps({"n": n})
            headers = {"Authorization": "Bearer " + self.house.token("default"), "Content-Type": "application/json"}
            connection.request("POST", "/v1/functions/f/invoke", sent, headers)
            answer = connection.getresponse()
            got = answer.read()
            return None if (answer.status, json.loads(got)) == (200, {"n": n}) else (answer.status, got)

        return work

    def fresh(self, n: int) -> object:
        """Call on a new connection."""
        answer = self.house.invoke("f", {"n": n})
        return None if answer.status == 200 and answer.json == {"n": n} else ("fresh", answer)

    def control(self, n: int) -> object:
        """Create a token, use it, and publish a version now and then."""
        made = self.house.call("POST", "/v1/tokens", json.dumps({"label": f"t{n}"}), content_type="application/json")
        if made.status not in (200, 201):
            return ("token", made)
        self.tokens.append(made.json["token"])
        self.house.tokens[f"t{n}"] = made.json["token"]
        if (used := self.house.invoke("f", {"n": n}, token=f"t{n}")).status != 200:
            return ("used", used)
        if n % 10 == 0:
            answer = self.house.put("g", packed({"main.py": f"def handler(e, c):\n    return {n}"}))
            if answer.status != 201:
                return ("put", answer)
            self.versions.append(answer.json["version"])
        return None

    def queue(self, n: int) -> object:
        """Queue a job."""
        answer = self.house.invoke("f", {"n": n, "s": 0.05}, Prefer="respond-async")
        if answer.status != 202:
            return ("queue", answer)
        self.jobs.append(answer.json["id"])
        time.sleep(0.02)
        return None


def test_under_load(own: House) -> None:
    """Two upgrades in a row under load of every kind: 0 refused, 0 failed, 0 lost; slow calls and streams are finished."""
    load = Load(own)
    load.start(load.kept(), load.kept(), load.fresh, load.control, load.queue)
    ended: list[object] = []
    idle = connected(own)
    idle.connect()
    for _ in range(2):
        before = own.children()
        running = [
            threading.Thread(target=lambda: ended.append(own.invoke("f", {"s": 4}).json)),
            threading.Thread(target=lambda: ended.append(len(own.invoke("stream", {"n": 40}).body.splitlines()))),
        ]
        for thread in running:
            thread.start()
        while sum(f["running"] for f in own.call("GET", "/v1/fleets").json["functions"] if f["function"] == "stream") == 0:
            time.sleep(0.01)
        upgrade(own)
        for thread in running:
            thread.join()
        while alive(before["server"]) or alive(before["launcher"]):
            time.sleep(0.02)
    load.stop()
    print(f"{load.count} requests, slowest {load.slowest:.3f} s, {len(load.jobs)} jobs, {len(load.versions)} versions")
    assert load.wrong == []
    assert sorted(map(str, ended)) == sorted(map(str, [{"s": 4}, 40] * 2))
    for job in load.jobs:
        shown = own.call("GET", f"/v1/invocations/{job}?wait=20").json
        assert (shown["state"], len(shown["attempts"])) == ("succeeded", 1), shown
    for n, token in enumerate(load.tokens):
        own.tokens[f"again{n}"] = token
        assert own.call("GET", "/v1/whoami", token=f"again{n}").status == 200
    shown = [v["version"] for v in own.call("GET", "/v1/functions/g/versions?limit=1000").json["items"]] if load.versions else []
    assert set(load.versions) <= set(shown)
    assert all(own.wait("g", number).json["state"] == "ready" for number in load.versions)
    idle.request("GET", "/healthz")
    assert idle.getresponse().read()  # a connection that was idle all the time
    idle.close()


def test_a_request_in_pieces(own: House) -> None:
    """What the old server has read of a request is not lost: head and body may come before and after."""
    body = json.dumps({"long": "x" * 20_000}).encode()
    whole = head(own, len(body)) + body
    parts = urlsplit(own.url)
    connections = []
    for cut in (1, 40, len(whole) - len(body), len(whole) - 10_000):
        connection = socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=_ENOUGH_S)
        connection.sendall(whole[:cut])
        connections.append((connection, cut))
    assert own.invoke("f", {}).status == 200  # the server has read what was sent before
    upgrade(own)
    for connection, cut in connections:
        with connection:
            connection.sendall(whole[cut:])
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (cut, answer.status, json.loads(answer.read())) == (cut, 200, json.loads(body))


def test_an_upload_that_takes_long(own: House) -> None:
    """A body that is still coming when the old server has to yield is refused in a way that says: again. Nothing is half done."""
    body = json.dumps({"long": "x" * 300_000}).encode()
    whole = head(own, len(body)) + body
    parts = urlsplit(own.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=_ENOUGH_S) as connection:
        connection.sendall(whole[:-1000])
        assert own.invoke("f", {}).status == 200
        upgrade(own)
        connection.sendall(whole[-1000:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.getheader("Retry-After")) == (503, "1"), answer.read()
    assert own.invoke("f", json.loads(body)).json == json.loads(body)


def test_a_call_longer_than_the_drain(tmp_path: Path) -> None:
    """A call in the old server is given the time of a drain; a job that takes longer is run again by the new one."""
    with started(tmp_path / "data", "-s", "drain_seconds=1", "-s", "async_workers=2") as house:
        assert house.deploy("f", FUNCTION, timeout="900s", retries={"max": 0}).json["state"] == "ready"
        assert house.invoke("f", {}).status == 200
        job = house.invoke("f", {"s": 600}, Prefer="respond-async").json["id"]
        while house.call("GET", f"/v1/invocations/{job}").json["state"] != "running":
            time.sleep(0.01)
        answers: list[object] = []

        def call() -> None:
            try:
                answers.append(house.invoke("f", {"s": 600}).outcome)
            except (OSError, http.client.HTTPException):
                answers.append(None)

        thread = threading.Thread(target=call)
        thread.start()
        while sum(f["running"] for f in house.call("GET", "/v1/fleets").json["functions"]) < 2:
            time.sleep(0.01)
        upgrade(house)
        assert house.invoke("f", {"now": 1}).json == {"now": 1}
        thread.join()
        assert answers[0] in (None, "lost", "cancelled")
        while len(attempts := house.call("GET", f"/v1/invocations/{job}").json["attempts"]) < 2:
            time.sleep(0.02)
        assert [attempt["outcome"] for attempt in attempts] == ["lost", None]
        assert house.call("DELETE", f"/v1/invocations/{job}").json["state"] == "cancelled"


def test_an_upgrade_that_fails_changes_nothing(own: House) -> None:
    """A database that the new server refuses is found when the old one has yielded: that one takes everything back."""
    load = Load(own)
    load.start(load.kept(), load.fresh, load.control)
    keeper = own.process.pid
    while len(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()) > 3:  # until the one before has finished
        time.sleep(0.02)
    before = own.children()
    # Neither is what an operator would do: it makes the new server, and only that one, fail at its very last step.
    (own.data / "default.token").rename(own.data / "kept.token")
    (own.data / "default.token").mkdir()
    (own.data / "default.token.new").mkdir()
    (own.data / "default.token").rmdir()
    own.process.send_signal(signal.SIGHUP)
    text = said(own, "not upgraded")
    assert "ended with status" in text
    (own.data / "default.token.new").rmdir()
    (own.data / "kept.token").rename(own.data / "default.token")
    assert own.children() == before
    count = load.count
    while load.count < count + 50 and not load.wrong:
        time.sleep(0.01)
    load.stop()
    assert load.wrong == []
    job = own.invoke("f", {"s": 0}, Prefer="respond-async").json["id"]
    assert own.call("GET", f"/v1/invocations/{job}?wait=20").json["state"] == "succeeded"
    upgrade(own)
    assert own.invoke("f", {"x": 3}).json == {"x": 3}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to see which files a server has open")
@pytest.mark.parametrize("later_ms", [0, 5, 15, 30, 60, 120])
def test_a_successor_killed_as_it_opens(own: House, later_ms: int) -> None:
    """Whatever it had read by then, each call ends in an answer or a closed connection, and everybody is served again."""
    waited: list[str] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                own.call("POST", "/v1/functions/f/invoke", "{}", timeout=25.0)
            except TimeoutError:
                waited.append("a call that nobody had")
            except (OSError, http.client.HTTPException):
                continue

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = tree(own.process.pid)
    own.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 30
    while (pid := opener(own, before)) is None:
        assert time.monotonic() < until
    time.sleep(later_ms / 1000)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    served_again(own)
    stop.set()
    for thread in threads:
        thread.join()
    assert waited == []
    served_again(own)
    assert own.deploy("after", "def handler(event, context): return 1").json["state"] == "ready"


def opener(house: House, before: set[int]) -> int | None:
    """Return the new server once it has the database open."""
    for pid in tree(house.process.pid) - before:
        with contextlib.suppress(OSError):
            if any(os.readlink(file).endswith("/pyfaas.db") for file in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
    return None


def test_nothing_stays(own: House) -> None:
    """After upgrades and a stop there is no process, cgroup, mount or staged file of either server."""
    pids: set[int] = set()
    for n in range(2):
        pids |= tree(own.process.pid)
        upgrade(own)
        assert own.invoke("f", {"n": n}).status == 200
    pids |= tree(own.process.pid)
    assert own.stop(60) == 0
    assert not [pid for pid in pids if alive(pid)]
    assert cgroups(own) == set()
    assert os.listdir(own.data / "staging") == []
    assert str(own.data) not in Path("/proc/self/mountinfo").read_text()
