"""Preparations that are killed, whose files get lost, that wait for a call, that run a hundred at once, or that fill the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import House, packed, started
from tests.e2e.index import Index

OLD = "def handler(event, context):\n    return 'old'\n"
NEW = "def handler(event, context):\n    return 'new'\n"
NEEDY = "import part\ndef handler(event, context):\n    return part.VERSION\n"
ROOM = 32 << 20
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")


@pytest.fixture
def index() -> Iterator[Index]:
    """Return an index with one small wheel."""
    made = Index()
    made.add("part", "1.0")
    yield made
    made.close()


def until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill(house: House) -> None:
    """Kill the keeper, and with it everything."""
    house.process.kill()
    house.process.wait()


def is_at(house: House, step: str) -> bool:
    """Tell whether version 2 of `f` has reached a step."""
    events = house.call("GET", "/v1/functions/f/events?after=0&version=2").json["items"]
    return any(event.get("step") == step for event in events)


def check_whole(house: House, answer: Any) -> None:
    """See that version 2 becomes ready and answers, and that nothing half-made lies about."""
    shown = house.wait("f", 2).json
    assert shown["state"] == "ready", shown
    until(lambda: house.invoke("f").json == answer)
    assert os.listdir(house.data / "staging") == []
    assert len(os.listdir(house.data / "environments")) <= 1


@pytest.mark.parametrize(("held", "who"), [("part", "keeper"), ("part-1.0-py3-none-any.whl", "keeper"), ("part-1.0-py3-none-any.whl", "server")])
def test_killed_while_requirements_are_had(tmp_path: Path, index: Index, held: str, who: str) -> None:
    """Killed while it locks or installs, a version is ready after the next start, with one environment and nothing half-made."""
    with started(tmp_path / "data", env=index.env) as house:
        house.deploy("f", OLD)
        index.hold(held)
        house.deploy("f", NEEDY, requirements=["part"], wait=False)
        index.arrived(held)
        if who == "keeper":
            kill(house)
        else:
            os.kill(house.children()["server"], signal.SIGKILL)
        index.let_go(held)
        if who == "server":
            until(lambda: house.invoke("f").status == 200)
            check_whole(house, "1.0")
    if who == "keeper":
        with started(tmp_path / "data", env=index.env) as house:
            assert house.invoke("f").json in ("old", "1.0")
            check_whole(house, "1.0")


@pytest.mark.parametrize(
    ("step", "files"),
    [
        ("compile", {"main.py": NEW} | {f"m{n}.py": "x = [" + "(1, 2, 'three'), " * 100 + "]\n" for n in range(300)}),
        ("probe", {"main.py": "import time\ntime.sleep(1.5)\n" + NEW}),
    ],
    ids=["compile", "probe"],
)
def test_killed_while_code_is_prepared(tmp_path: Path, step: str, files: dict[str, str | bytes]) -> None:
    """Killed while it compiles or is loaded for the first time, a version is ready after the next start."""
    with started(tmp_path / "data") as house:
        house.deploy("f", OLD)
        house.deploy("f", files, wait=False)
        until(lambda: is_at(house, step))
        kill(house)
    with started(tmp_path / "data") as house:
        assert house.invoke("f").json in ("old", "new")
        check_whole(house, "new")


def test_a_lost_environment_is_built_again_from_its_lock(tmp_path: Path, index: Index) -> None:
    """An environment that is gone comes back with the same pins, though the index has something newer by now."""
    with started(tmp_path / "data", env=index.env) as house:
        shown = house.deploy("f", NEEDY, requirements=["part"]).json
        assert shown["state"] == "ready", shown
    subprocess.run(["rm", "-rf", str(tmp_path / "data" / "environments" / shown["environment"])], check=True)
    index.add("part", "2.0")
    with started(tmp_path / "data", env=index.env) as house:
        again = house.wait("f", 1).json
        assert (again["state"], again["environment"]) == ("ready", shown["environment"])
        assert house.invoke("f").json == "1.0"


def test_without_preloading_a_version_waits_for_its_call(tmp_path: Path) -> None:
    """Published without preloading, a version stays stored, after a restart too, until a call names it."""
    with started(tmp_path / "data", "-s", "preload=false") as house:
        assert house.put("f", packed({"main.py": NEW})).json["state"] == "stored"
    with started(tmp_path / "data", "-s", "preload=false") as house:
        time.sleep(1.5)  # longer than a start waits before it goes on with what was begun
        assert house.call("GET", "/v1/functions/f/versions/1").json["state"] == "stored"
        assert house.invoke("f").json == "new"
        assert house.call("GET", "/v1/functions/f/versions/1").json["state"] == "ready"


def test_a_hundred_publications_at_once(house: House) -> None:
    """Publications of one function at once get numbers without a gap, each new or the same, and all become ready."""

    def publish(n: int) -> tuple[int, int]:
        answer = house.put("crowd", packed({"main.py": f"def handler(event, context):\n    return {n // 8}\n"}))
        return answer.status, answer.json["version"]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(publish, range(100)))
    assert {status for status, _ in answers} <= {200, 201}
    new = sorted(number for status, number in answers if status == 201)
    assert new == list(range(1, len(new) + 1))
    assert len(new) >= 13
    assert {number for _, number in answers} == set(new)
    states = Counter(house.wait("crowd", number).json["state"] for number in new)
    assert states == {"ready": len(new)}


def test_publishing_while_the_function_is_removed(house: House) -> None:
    """Publications and removals of one function at once: each succeeds, or says in its answer what was in the way."""
    answers: Counter[tuple[str, int]] = Counter()
    lock = threading.Lock()

    def work(n: int) -> None:
        removes = n % 3 == 2
        answer = house.call("DELETE", "/v1/functions/torn") if removes else house.put("torn", packed({"main.py": OLD + f"# {n}\n"}))
        with lock:
            answers[("DELETE" if removes else "PUT", answer.status)] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(60)))
    assert set(answers) <= {("PUT", 200), ("PUT", 201), ("PUT", 409), ("DELETE", 204), ("DELETE", 404)}, answers
    assert answers[("PUT", 201)] > 0
    assert answers[("DELETE", 204)] > 0
    shown = house.deploy("torn", NEW).json
    assert shown["state"] == "ready", shown
    assert house.invoke("torn").json == "new"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of a few MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=755", "pyfaas-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@needs_root
def test_a_disk_that_fills_while_a_version_is_prepared(disk: Path, index: Index) -> None:
    """Requirements or code for which there is no room fail the version by that name, take none, and with room it becomes ready."""
    block = os.urandom(16 << 10)
    index.add("large", "1.0", {"large.py": "", "large_files/blob": block * (3 << 10)})
    with started(disk / "data", "-s", "reserve_bytes=0", env=index.env) as house:
        house.deploy("f", OLD)
        for files, config in (({"main.py": NEW}, {"requirements": ["large"]}), ({"main.py": NEW, "blob": block * (3 << 10)}, {})):
            shown = house.deploy("f", files, **config).json
            assert (shown["state"], shown["reason"]["code"]) == ("failed", "storage_full"), shown
            assert shown["reason"]["message"] == "the disk is full"
            assert house.invoke("f").json == "old"
            assert os.listdir(house.data / "staging") == []
            assert os.listdir(house.data / "environments") == []
        assert house.deploy("f", NEW + "# small\n").json["state"] == "ready"
        assert house.invoke("f").json == "new"
