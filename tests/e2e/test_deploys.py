"""A deploy is a non-event: what answers while a version is fetched, prepared and loaded, and where its bytes go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.object_store import object_store
from tests.e2e.house import Answer, House, packed, started

# Tells its version, and where its code lies: the mount that covers /app/code.
WHERE = """
import os
{top}
NUMBER = {number}

def handler(event, context):
    {body}
    with open("/proc/self/mountinfo") as mounts:
        fields = next(line.split() for line in mounts if line.split()[4] == "/app/code")
    return {{
        "version": NUMBER, "told": context.function_version, "root": fields[3], "kind": fields[fields.index("-") + 1],
        "writable": os.access("/app/code", os.W_OK), "event": event,
    }}
"""


def source(number: int, top: str = "", body: str = "pass") -> str:
    """Return a function's code; `top` runs at the import, `body` in each call."""
    return WHERE.format(number=number, top=top, body=body)


def place(answer: Answer) -> tuple[str, str]:
    """Return the VM and the container that answered."""
    words = dict(word.split("=", 1) for word in answer.headers["pyfaas-placement"].split("; "))
    return words["vm"], words["container"]


def executed(answer: Answer) -> tuple[int, int, int]:
    """Return status, requested and executed version, and hold the header against what the code says of itself."""
    assert answer.status == 200, answer.body
    found = int(answer.headers["pyfaas-executed-version"])
    assert answer.json["version"] == found
    assert answer.json["told"] == str(found)
    return answer.status, int(answer.headers["pyfaas-requested-version"]), found


def events(house: House, name: str, *kinds: str) -> list[dict[str, Any]]:
    """Return what was told of a function, of some kinds."""
    items = house.call("GET", f"/v1/functions/{name}/events?limit=1000").json["items"]
    return [item for item in items if not kinds or item["kind"] in kinds]


class Load:
    """Callers that call again as soon as they are answered, until they are stopped."""

    def __init__(self, call: Callable[[], Answer], callers: int = 3) -> None:
        """Begin at once."""
        self.answers: list[tuple[float, Answer | Exception]] = []  # when each was asked, and what came
        self._call, self._stop = call, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            asked = time.monotonic()
            try:
                self.answers.append((asked, self._call()))
            except Exception as error:  # noqa: BLE001 - whatever a user would see is what is asserted
                self.answers.append((asked, error))

    def stop(self) -> list[Answer]:
        """End, and return the answers in the order in which they came; raises what a caller met."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        found = []
        for _, answer in self.answers:
            if isinstance(answer, Exception):
                raise answer
            found.append(answer)
        return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serve with debug headers."""
    with started(tmp_path_factory.mktemp("deploys") / "data", "-s", "debug=true") as made:
        yield made


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serve without preparing anything before it is called."""
    with started(tmp_path_factory.mktemp("late") / "data", "-s", "debug=true", "-s", "preload=false") as made:
        yield made


def test_no_request_fails_and_every_answer_tells_its_version(house: House) -> None:
    """Through two deploys, a failed one and a roll-back under load: every answer is 200, tells its version, and after a cut-over none is older."""
    house.deploy("steady", source(1))
    load = Load(lambda: house.invoke("steady", {"n": 1}))
    cuts = []
    for number in (2, 3):
        assert house.deploy("steady", source(number, top="import time; time.sleep(0.3)")).json["state"] == "ready"
        cuts.append((time.monotonic(), number))
        time.sleep(0.2)
    failed = house.deploy("steady", source(4, top="import missing_module")).json
    assert (failed["state"], failed["reason"]["code"]) == ("failed", "init_error")
    assert "missing_module" in failed["reason"]["message"]
    back = time.monotonic()
    assert house.call("POST", "/v1/functions/steady/rollback", "{}", content_type="application/json").status == 200
    answers = load.stop()
    seen = [executed(answer)[2] for answer in answers]
    assert {1, 2, 3} <= set(seen) <= {1, 2, 3}
    for at, number in cuts:
        later = {int(a.headers["pyfaas-executed-version"]) for asked, a in load.answers if at < asked < back and isinstance(a, Answer)}
        assert later
        assert min(later) >= number


def test_a_hundred_at_once_cause_one_preparation_and_one_transfer(late: House) -> None:
    """100 concurrent requests that name an unprepared version: one preparation, one transfer into the VM, and all answered by that version."""
    late.deploy("crowd", source(1), wait=False, concurrency=100)
    assert executed(late.invoke("crowd"))[2] == 1
    late.deploy("crowd", source(2, top="import time; time.sleep(0.2)"), wait=False, concurrency=100)
    assert late.call("GET", "/v1/functions/crowd/versions/2").json["state"] == "stored"
    with ThreadPoolExecutor(100) as pool:
        ask = lambda _n: late.call("POST", "/v1/functions/crowd/invoke?qualifier=2", "{}")  # noqa: E731
        answers = list(pool.map(ask, range(100)))
    assert [executed(answer)[1:] for answer in answers] == [(2, 2)] * 100
    steps = [event["step"] for event in events(late, "crowd", "preparing") if event["version"] == 2 and not event["done"]]
    assert steps.count("compile") == steps.count("probe") == 1
    brought = [event["vm"] for event in events(late, "crowd", "downloaded") if event["version"] == 2]
    assert len(brought) == len(set(brought)) <= 1


def test_three_old_answers_are_three(late: House) -> None:
    """A limit of 3 old answers under 100 concurrent requests over HTTP gives exactly 3."""
    late.deploy("three", source(1), wait=False, concurrency=100, max_stale_requests=3)
    assert executed(late.invoke("three"))[2] == 1
    late.deploy("three", source(2, top="import time; time.sleep(0.3)"), wait=False, concurrency=100, max_stale_requests=3)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _n: executed(late.invoke("three")), range(100)))
    assert sorted(answers) == [(200, 2, 1)] * 3 + [(200, 2, 2)] * 97


def test_old_answers_from_its_container_while_new_is_downloaded(tmp_path: Path) -> None:
    """With code in a slow object store: the request that names the new version is answered by the old one's container; one transfer; then another of the same VM."""
    with object_store(bytes_per_second=1 << 20) as objects, started(
        tmp_path / "data", "-s", "debug=true", "-s", "preload=false", *objects.flags, env=objects.env
    ) as house:
        house.deploy("far", source(1), wait=False)
        before = house.invoke("far")
        assert executed(before)[1:] == (1, 1)
        first = objects.counts()
        house.put("far", packed({"main.py": source(2), "ballast.bin": os.urandom(1 << 20)}))
        answers = [house.invoke("far")]
        assert executed(answers[0])[1:] == (2, 1)
        assert place(answers[0]) == place(before)
        while executed(answers[-1])[2] == 1:
            answers.append(house.invoke("far"))
        after = objects.counts()
        assert after["gets"] - first["gets"] == 1
        assert (1 << 20) <= after["bytes"] - first["bytes"] < (2 << 20)
        assert {place(answer) for answer in answers[:-1]} == {place(before)}
        assert place(answers[-1])[0] == place(before)[0]
        assert place(answers[-1])[1] != place(before)[1]


def test_a_run_of_the_old_version_outlives_the_cut_over(house: House) -> None:
    """A run that began before the deploy ends as what it is; a request that names a number never gets another, in either direction."""
    slow = "import time; time.sleep(event.get('s', 0))"
    house.deploy("long", source(1, body=slow))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(house.invoke, "long", {"s": 3})
        while not house.call("GET", "/v1/functions/long/versions/1").json["containers"]:
            time.sleep(0.01)
        house.deploy("long", source(2, body=slow))
        assert executed(house.invoke("long", {}))[2] == 2
        assert not running.done()
        for number in (1, 2, 1, 2):
            named = house.call("POST", f"/v1/functions/long/invoke?qualifier={number}", "{}")
            assert executed(named)[1:] == (number, number)
        assert executed(running.result())[1:] == (1, 1)


TARGETS = ("second-container", "instance-cache", "same-container", "near-store")


@pytest.mark.parametrize("target", TARGETS)
def test_a_download_goes_where_it_says(tmp_path: Path, target: str) -> None:
    """Each target puts the bytes where it says: the VM's own memory or the server's disk; read-only; in the container and VM that it names."""
    with started(tmp_path / "data", "-s", "debug=true", "-s", f"download_to={target}") as house:
        house.deploy("f", source(1))
        old = house.invoke("f")
        assert old.json["root"].endswith(house.call("GET", "/v1/functions/f/versions/1").json["code_id"])
        house.put("f", packed({"main.py": source(2), "data/ballast.bin": b"x" * 300_000}))
        assert house.wait("f", 2).json["state"] == "ready"
        new = house.invoke("f")
        assert executed(new)[1:] == (2, 2)
        assert not new.json["writable"]
        assert place(new)[0] == place(old)[0]
        assert (place(new)[1] == place(old)[1]) == (target == "same-container")
        brought = events(house, "f", "downloaded")
        code_id = house.call("GET", "/v1/functions/f/versions/2").json["code_id"]
        if target == "near-store":
            assert brought == []
            assert new.json["root"].endswith(f"/prepared/{code_id}")
            return
        assert [(event["target"], event["vm"]) for event in brought] == [(target, place(new)[0])]
        assert brought[0]["bytes"] > 300_000
        figures = dict(line.rsplit(" ", 1) for line in house.call("GET", "/metrics").body.decode().splitlines() if "code_download" in line)
        assert float(figures[f'pyfaas_code_downloads_total{{target="{target}"}}']) == 1
        assert float(figures[f'pyfaas_code_download_bytes_total{{target="{target}"}}']) == brought[0]["bytes"]
        assert new.json["kind"] == "tmpfs"
        assert code_id not in new.json["root"]
        assert house.call("GET", "/v1/functions/f/versions/2").json["code_in"]["vms"] == [
            {"vm": place(new)[0], "target": target, "bytes": brought[0]["bytes"]}
        ]


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    """A target that does not exist stops the start, with the ones that do."""
    with pytest.raises(AssertionError, match="download_to must be one of second-container, instance-cache, same-container, near-store"), started(
        tmp_path / "data", "-s", "download_to=elsewhere"
    ):
        pass


def test_what_is_left_goes_after_its_grace(tmp_path: Path) -> None:
    """The containers of a version that was left stay idle for the grace, for a roll-back that starts nothing, and then leave; each is told."""
    with started(tmp_path / "data", "-s", "debug=true", "-s", "grace_seconds=2") as house:
        house.deploy("f", source(1))
        old = place(house.invoke("f"))
        house.deploy("f", source(2))
        assert executed(house.invoke("f"))[2] == 2
        assert house.call("POST", "/v1/functions/f/rollback", "{}", content_type="application/json").json["version"] == 1
        back = house.invoke("f")
        assert executed(back)[2] == 1
        assert place(back) == old
        while house.call("GET", "/v1/functions/f/versions/2").json["containers"]:
            time.sleep(0.05)
        told = [(event["kind"], event["version"]) for event in events(house, "f", "first_run", "cut_over", "old_gone", "rolled_back", "withdrawn")]
        assert [kind for kind, _ in told].count("old_gone") == 1
        assert told[-1] == ("old_gone", 2)
        assert ("first_run", 2) in told
