"""What runs used, by real leaves: nothing escapes, both sides see theirs, and a kill makes nobody pay twice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.launcher.cgroups import detect
from tests.e2e.house import House, needs_cgroups, started

BURN = """
import subprocess, sys, threading, time

WHILE = "import time\\nwhile time.process_time() < {}: pass"

def burn(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass

def handler(event, context):
    if "child" in event:
        subprocess.run([sys.executable, "-S", "-E", "-c", WHILE.format(event["child"])], check=True)
    if "later" in event:
        threading.Thread(target=burn, args=(event["later"],), daemon=True).start()
    return len(event)
"""
FAILS = """
def handler(event, context):
    print("printed", event["canary"])
    if event.get("own"):
        raise type(event["canary"], (Exception,), {})(event["canary"])
    if "file" in event:
        exec(compile("\\n" * event["line"] + "raise ValueError", "/app/code/" + event["file"], "exec"), {})
    raise KeyError(event["canary"])
"""
SLOW = "import time\ndef handler(e, c):\n    time.sleep(0.05)\n    return e"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return a server that tells which container answered."""
    with started(tmp_path_factory.mktemp("metering") / "data", "-s", "debug=true") as running:
        yield running


def until(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    """Wait for a condition and return what it gave."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.05)
    return found


def rows(house: House, function: str | None = None, *, token: str = "default", **query: str) -> list[dict[str, Any]]:  # noqa: S107 - a name
    """Return usage rows, of one function."""
    text = "&".join(f"{key}={value}" for key, value in query.items())
    answer = house.call("GET", f"/v1/usage?{text}", token=token)
    assert answer.status == 200, answer.body
    return [row for row in answer.json["items"] if function in (None, row["function"])]


def cpu_us(found: list[dict[str, Any]]) -> int:
    """Sum what containers used, in microseconds."""
    return sum(round(row["cpu_ms"] * 1000) for row in found if row["kind"] != "build")


def placed(answer: Any) -> str:
    """Return which container answered."""
    return dict(word.strip().split("=") for word in answer.headers["pyfaas-placement"].split(";"))["container"]


def container_of(house: House, caller: str) -> str:
    """Return the one container that works for a caller with its lender: what the operator sees, and the caller does not."""
    own = house.call("GET", "/v1/whoami", token=caller).json["id"]
    vms = house.call("GET", "/v1/fleets", token="admin").json["vms"]  # noqa: S106 - a name
    (found,) = [box["id"] for vm in vms if vm["tenant"].endswith(f"+{own}") for box in vm["containers"] if box["state"] != "blank"]
    return str(found)


def leaves(launcher: str) -> dict[str, int]:
    """Return what the leaf of each container of a launcher has counted, in microseconds, by the container's id."""
    groups = detect()
    base, file = (groups.v1["cpuacct"], "cpuacct.usage") if groups.v1 else (str(groups.v2), "cpu.stat")
    found = {}
    for leaf in Path(base).glob(f"pyfaas-*-{launcher}-*/[0-9]*/{file}"):
        vm = launcher + leaf.parent.parent.name.rpartition(launcher)[2]
        try:
            text = leaf.read_text()
        except OSError:  # it went while it was looked at
            continue
        found[f"{vm}.{leaf.parent.name}"] = int(text) // 1000 if groups.v1 else int(text.split()[1])
    return found


def quiet(launcher: str) -> dict[str, int]:
    """Return the leaves once nothing runs in any: they wait for code."""
    seen = leaves(launcher)
    limit = time.monotonic() + 30
    while True:
        time.sleep(0.3)
        before, seen = seen, leaves(launcher)
        if before == seen:
            return seen
        assert time.monotonic() < limit, "the containers do not come to rest"


@needs_cgroups
def test_children_and_work_after_the_reply_are_in_the_rows(house: House) -> None:
    """A second of a child's and a second after the reply are paid for, and the rows' sum is what the leaf counted, to the microsecond."""
    house.deploy("first", SLOW)
    launcher = placed(house.invoke("first", {})).rpartition("-")[0]
    for n in range(5):  # until it gets a container that was seen before it had anything to do
        house.deploy(name := f"burn{n}", BURN)
        before = quiet(launcher)
        if placed(house.invoke(name, {})) in before:
            break
    first = house.invoke(name, {"child": 1.0})
    second = house.invoke(name, {"later": 1.0})
    assert (first.json, second.json, placed(first)) == (1, 1, placed(second))
    container = placed(first)
    until(lambda: leaves(launcher)[container] - before[container] >= 2_000_000)
    used = quiet(launcher)[container] - before[container]
    until(lambda: cpu_us(rows(house, name)) == used)
    calls = [row for row in rows(house, name) if row["kind"] == "call"]
    assert sum(row["cpu_ms"] for row in calls) >= 1000
    assert sum(row["calls"] for row in calls) == 3
    assert all(row["peak_bytes"] > 1 << 20 for row in calls)
    assert used >= 2_000_000


def test_preparations_are_the_owners(house: House) -> None:
    """A step of a preparation has a row, one that failed too, with what its VM used."""
    house.deploy("fine", SLOW)
    house.deploy("broken", "import time\nuntil = time.process_time() + 0.1\nwhile time.process_time() < until: pass\nraise ValueError")
    fine, broken = (
        until(lambda name=name: [row for row in rows(house, name) if row["kind"] == "build"]) for name in ("fine", "broken")
    )
    assert (fine[0]["outcomes"], fine[0]["calls"], fine[0]["owner_name"]) == ({"ok": 1}, 0, "default")
    assert broken[0]["outcomes"] == {"init_error": 1}
    assert broken[0]["wall_ms"] > 100


@needs_cgroups
def test_what_a_preparation_burnt_is_in_its_row(house: House) -> None:
    """The processor time of the probe is its owner's, though nothing was ever called."""
    house.deploy("heavy", "import time\nuntil = time.process_time() + 0.3\nwhile time.process_time() < until: pass\ndef handler(e, c): return 1")
    (row,) = until(lambda: [row for row in rows(house, "heavy") if row["kind"] == "build"])
    assert row["cpu_ms"] >= 300
    assert row["peak_bytes"] > 1 << 20


def test_a_rejected_call_is_free(house: House) -> None:
    """It is counted, by its outcome, and takes no time."""
    house.deploy("typed", "def add(a: int, b: int) -> int:\n    return a + b", handler="main:add")
    assert house.invoke("typed", {"a": "no"}).outcome == "rejected"
    (row,) = until(lambda: [row for row in rows(house, "typed") if row["kind"] == "call"])
    assert (row["calls"], row["outcomes"], row["wall_ms"], row["cpu_ms"]) == (1, {"rejected": 1}, 0, 0)


def lent(house: House, name: str, source: str, **terms: Any) -> tuple[str, str, str]:
    """Deploy a function of a new account and lend it to another; returns owner, caller, and the caller's name for it."""
    owner, own_name = house.account(f"owner-{name}"), f"her-{name}"
    house.deploy(name, source, token=owner)
    return owner, borrower(house, owner, name, f"caller-{name}", own_name, **terms), own_name


def borrower(house: House, owner: str, function: str, caller: str, name: str = "mine", **terms: Any) -> str:
    """Make an account that has an alias on a function; returns it."""
    house.account(caller)
    made = house.call("PUT", f"/v1/functions/{function}/grants/{caller}", json.dumps(terms), token=owner, content_type="application/json")
    assert made.status in (200, 201), made.body
    order = json.dumps({"target": f"{owner}/{function}"})
    accepted = house.call("PUT", f"/v1/aliases/{name}", order, token=caller, content_type="application/json")
    assert accepted.status in (200, 201), accepted.body
    return caller


def test_both_sides_see_what_is_theirs(house: House) -> None:
    """The caller pays and sees all of it by its own name; the owner sees how often it ran for whom, and never that name."""
    owner, caller, name = lent(house, "cut", SLOW)
    for _ in range(3):
        assert house.invoke(name, {"text": "x" * 1000}, token=caller).outcome == "ok"
    mine = until(lambda: [row for row in rows(house, token=caller) if row["kind"] == "call" and row["calls"] == 3])
    assert [(row["alias"], row["function"], row["owner_name"], row["bytes_in"] > 3000) for row in mine] == [(name, "cut", owner, True)]
    (theirs,) = [row for row in rows(house, token=owner) if row["kind"] == "call"]
    assert (theirs["function"], theirs["calls"], theirs["outcomes"], theirs["caller_name"]) == ("cut", 3, {"ok": 3}, caller)
    assert (theirs["alias"], theirs["bytes_in"], theirs["cpu_ms"]) == (None, None, None)
    assert name not in json.dumps(rows(house, token=owner))
    (by_caller,) = [row for row in rows(house, token=owner, by="caller") if row["caller_name"] == caller]
    assert (by_caller["calls"], by_caller["day"], by_caller["wall_ms"] >= 150) == (3, None, True)
    assert {row["kind"] for row in rows(house, token=caller)} >= {"call", "init"}
    assert house.call("GET", "/v1/usage?by=color").status == 400


@needs_cgroups
def test_two_interleaved_callers_pay_what_ran_for_them(house: House) -> None:
    """Each caller's rows are what the leaf of its own container counted, children and imports with it; the owner pays nothing."""
    house.deploy("other", SLOW)
    launcher = placed(house.invoke("other", {})).rpartition("-")[0]
    for n in range(5):  # until both get containers that were seen before they had anything to do
        owner = house.account(f"lender{n}")
        house.deploy("share", BURN, token=owner)
        callers = [borrower(house, owner, "share", f"borrower{n}{letter}", reuse=True) for letter in "ab"]
        before = quiet(launcher)
        assert [house.invoke("mine", {}, token=caller).outcome for caller in callers] == ["ok", "ok"]
        where = {caller: container_of(house, caller) for caller in callers}
        if set(where.values()) <= set(before):
            break
    assert len(set(where.values())) == 2
    for turn in range(6):
        for each, caller in enumerate(callers):
            answer = house.invoke("mine", {"child": 0.01 * (1 + turn * each)}, token=caller)
            assert (answer.outcome, container_of(house, caller)) == ("ok", where[caller])
    after = quiet(launcher)
    for caller in callers:
        used = after[where[caller]] - before[where[caller]]
        until(lambda caller=caller, used=used: cpu_us(rows(house, token=caller)) == used)
        assert sum(row["calls"] for row in rows(house, token=caller)) == 7
    assert not [row for row in rows(house, token=owner) if row["kind"] != "build" and row["cpu_ms"] is not None]


def test_a_lent_runs_output_is_kept_for_nobody(house: House) -> None:
    """The owner learns that a run failed and by what kind of exception; nothing that was printed, said or named by what was read."""
    owner, caller, name = lent(house, "fails", FAILS)
    canary = f"canary{os.urandom(8).hex()}"
    assert house.invoke(name, {"canary": canary}, token=caller).outcome == "error"
    assert house.invoke(name, {"canary": canary, "own": True}, token=caller).outcome == "error"
    said = until(lambda: found if len(found := house.logs("fails", token=owner)) == 2 else None)
    assert [(line["stream"], line["line"], line["invocation"]) for line in said] == [
        ("platform", "a lent run failed: KeyError at main.py:8", None),
        ("platform", "a lent run failed: Exception at main.py:5", None),
    ]
    assert canary not in json.dumps(said)


def test_a_lent_runs_log_is_its_callers(house: House) -> None:
    """Where the owner lends logs, the caller reads what its runs print, by its own name; the owner does not, nor which version it was."""
    owner, caller, name = lent(house, "says", "print('imported')\ndef handler(e, c):\n    print('seen', e['canary'])", logs=True)
    canary = os.urandom(8).hex()
    assert house.invoke(name, {"canary": canary}, token=caller).outcome == "ok"
    lines = until(lambda: house.logs(name, token=caller))
    assert [(line["stream"], line["line"], line["version"]) for line in lines] == [("out", f"seen {canary}", None)]
    assert canary not in json.dumps(house.logs("says", token=owner))


def test_a_kill_makes_nobody_pay_twice(tmp_path: Path) -> None:
    """Of jobs that were acknowledged and ran to an end, with servers killed meanwhile, each has exactly one row."""
    with started(tmp_path / "data") as own:
        own.deploy("slow", SLOW)
        ids = []
        for n in range(40):
            answer = own.call("POST", "/v1/functions/slow/invoke", json.dumps(n), content_type="application/json", Prefer="respond-async")
            assert answer.status == 202, answer.body
            ids.append(answer.json["id"])

        def ended() -> int:
            try:
                found = [own.call("GET", f"/v1/invocations/{each}").json["state"] for each in ids]
            except OSError:
                return 0
            return sum(state == "succeeded" for state in found)

        until(lambda: ended() >= 5)
        os.kill(own.children()["server"], signal.SIGKILL)
        until(lambda: ended() == len(ids))

        def calls() -> dict[str, int]:
            outcomes: dict[str, int] = {}
            for row in rows(own, "slow"):
                if row["kind"] == "call":
                    for outcome, count in row["outcomes"].items():
                        outcomes[outcome] = outcomes.get(outcome, 0) + count
            return outcomes

        assert calls() == {"ok": len(ids)}
