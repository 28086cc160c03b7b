"""Events of a deploy as they are followed: by waiting, and as a stream that is resumed, across a restart too."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.house import House, started
from tests.e2e.releases import ENOUGH_S, ask, events, publish, source, until
from tests.e2e.test_kills import served_again
from tests.e2e.test_upgrade import upgrade

DEPLOYED = ["stored", "moved", "preparing", "prepared", "cut_over"]


@contextlib.contextmanager
def stream(house: House, name: str, last: int | None = None, query: str = "") -> Iterator[http.client.HTTPResponse]:
    """Open a stream of events."""
    parts = urlsplit(house.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=ENOUGH_S)
    headers = {"Authorization": "Bearer " + house.token("default"), "Accept": "text/event-stream"}
    connection.request("GET", f"/v1/functions/{name}/events{query}", headers=headers | ({"Last-Event-ID": str(last)} if last is not None else {}))
    answer = connection.getresponse()
    try:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
        yield answer
    finally:
        connection.close()


def next_event(answer: http.client.HTTPResponse) -> dict[str, Any] | None:
    """Read the next event of a stream, comments left out; None at its end."""
    lines: dict[str, str] = {}
    while line := answer.readline().decode():
        if line == "\n" and lines:
            found: dict[str, Any] = json.loads(lines["data"])
            assert (str(found["cursor"]), found["kind"]) == (lines["id"], lines["event"])
            return found
        if not line.startswith(":") and line.strip():
            key, _, value = line.strip().partition(": ")
            lines[key] = value
    return None


def up_to(answer: http.client.HTTPResponse, kind: str) -> list[dict[str, Any]]:
    """Read a stream up to an event of a kind."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["kind"] != kind:
        one = next_event(answer)
        assert one is not None, found
        found.append(one)
    return found


def kinds(found: list[dict[str, Any]]) -> list[str]:
    """Return what happened, steps of one thing once."""
    names = [event["kind"] for event in found]
    return [name for n, name in enumerate(names) if not n or names[n - 1] != name]


def test_a_deploy_is_followed_by_waiting(house: House, name: Callable[[], str]) -> None:
    """Waiting from cursor to cursor shows a deploy whole and in order, each event once."""
    made = name()
    publish(house, made, source(1))
    seen: list[dict[str, Any]] = []
    after = 0
    while "cut_over" not in kinds(seen):
        answer = house.call("GET", f"/v1/functions/{made}/events?after={after}&wait=30&limit=2").json
        assert len(answer["items"]) <= 2
        seen += answer["items"]
        after = answer["next"]
    assert kinds(seen)[:5] == DEPLOYED
    assert seen == events(house, made)[: len(seen)]
    assert [e["cursor"] for e in seen] == sorted({e["cursor"] for e in seen})
    assert {(e["function"], e["version"]) for e in seen} == {(made, 1)}


def test_a_stream_shows_a_deploy_and_is_resumed(house: House, name: Callable[[], str]) -> None:
    """A stream that breaks off and is opened again with the last id shows what a whole one shows: no gap, nothing twice."""
    made = name()
    assert house.deploy(made, source(1)).json["state"] == "ready"
    before = events(house, made)[-1]["cursor"]
    with stream(house, made, before) as whole:
        publish(house, made, source(2))
        with stream(house, made, before) as broken:
            first = up_to(broken, "stored")
        with stream(house, made, first[-1]["cursor"], "?after=0") as resumed:
            rest = up_to(resumed, "cut_over")
        assert first + rest == up_to(whole, "cut_over")
    assert kinds(first + rest) == DEPLOYED


def test_a_watcher_of_one_version(house: House, name: Callable[[], str]) -> None:
    """Who follows a version hears of it, and of weights that it is given, and of nothing else."""
    made = name()
    for number in (1, 2):
        assert house.deploy(made, source(number)).json["state"] == "ready"
    ask(house, "PUT", f"/v1/functions/{made}/aliases/live", {"version": 1, "weights": {"2": 10}})
    ask(house, "PUT", f"/v1/functions/{made}/aliases/live", {"version": 1})
    found = events(house, made, "&version=2")
    assert [(e["version"], e["weights"]) for e in found if e["kind"] == "moved" and e["pointer"] == "live"] == [(1, {"2": 10})]
    assert {e["version"] for e in found if e["kind"] != "moved"} == {2}


def test_a_removed_function_ends_its_streams(house: House, name: Callable[[], str]) -> None:
    """When the function is removed its streams end, and whoever waits is told that it is not there."""
    made = name()
    assert house.deploy(made, source(1)).json["state"] == "ready"
    last = events(house, made)[-1]["cursor"]
    waited: list[int] = []
    path = f"/v1/functions/{made}/events?after={last}&wait=60"
    waiting = threading.Thread(target=lambda: waited.append(house.call("GET", path, timeout=90).status))
    with stream(house, made, 0) as watched:
        waiting.start()
        up_to(watched, "cut_over")
        assert house.call("DELETE", f"/v1/functions/{made}").status == 204
        while next_event(watched) is not None:
            pass
        waiting.join(ENOUGH_S)
    assert waited == [404]


def test_events_go_on_after_a_kill_an_upgrade_and_a_stop(tmp_path: Path) -> None:
    """Cursors from before a kill, an upgrade and a stop go on without a gap; each of them ends a stream, and a stop waits for none."""
    with started(tmp_path / "data") as house:
        assert house.deploy("f", source(1)).json["state"] == "ready"
        first = events(house, "f")
        until(lambda: _kept(house) >= len(first))
        os.kill(house.children()["server"], signal.SIGKILL)
        served_again(house)
        assert events(house, "f")[: len(first)] == first
        with stream(house, "f", first[-1]["cursor"]) as watched:
            publish(house, "f", source(2))
            second = up_to(watched, "cut_over")
            upgrade(house)
            while next_event(watched) is not None:
                pass
        with stream(house, "f", second[-1]["cursor"]) as watched:
            publish(house, "f", source(3))
            third = up_to(watched, "cut_over")
            assert {e["version"] for e in third if e["kind"] == "stored"} == {3}
            house.process.send_signal(signal.SIGTERM)
            while next_event(watched) is not None:
                pass
        assert house.process.wait(ENOUGH_S) == 0
    with started(tmp_path / "data") as again:
        cursors = [e["cursor"] for e in events(again, "f")]
    assert cursors == sorted(set(cursors))
    assert {e["cursor"] for e in first + second + third} <= set(cursors)


def test_nobody_waits_while_it_stops(tmp_path: Path) -> None:
    """While a stop waits for a run, who waits for events is answered at once, and told where to go on."""
    with started(tmp_path / "data") as house:
        code = "import time\ndef handler(event, context):\n    time.sleep(event['s'])\n"
        assert house.deploy("slow", code).json["state"] == "ready"
        last = events(house, "slow")[-1]["cursor"] + 60_000
        path, headers = f"/v1/functions/slow/events?after={last}&wait=60", {"Authorization": "Bearer " + house.token("default")}
        parts = urlsplit(house.url)
        waiting = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=ENOUGH_S)
        waiting.request("GET", path, headers=headers)
        running = threading.Thread(target=lambda: house.invoke("slow", {"s": 1}))
        running.start()
        until(lambda: any(f["running"] for f in house.call("GET", "/v1/fleets").json["functions"]))
        house.process.send_signal(signal.SIGTERM)
        answer = waiting.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"items": [], "next": last})
        running.join(ENOUGH_S)
        waiting.close()
        assert house.process.wait(ENOUGH_S) == 0


def _kept(house: House) -> int:
    with contextlib.closing(sqlite3.connect(house.data / "pyfaas.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
