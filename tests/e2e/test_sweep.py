"""`kill -9` of one process after another under mixed load: what was acknowledged is there afterwards, and nothing else stays.

Now and then nobody is killed, and an upgrade is begun instead: what is killed next may be in the middle of it.
A call may end in an outcome or in a closed connection, and in nothing else. `--kills N` says how many processes are killed;
`make test-kills` kills a hundred. What is killed, and when, follows from a seed; what the kill meets does not.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.house import Answer, House, packed, started
from tests.e2e.test_kills import cgroups, left_of, tree

_SEED = 20
_ENOUGH_S = 90.0
_OUTCOMES = {"lost", "crashed", "rejected", "cancelled", "init_error", "timeout"}  # what a kill may make of a call
_VICTIMS = ("server", "launcher", "egress", "init", "container", "keeper", "nobody")
_WEIGHTS = (4, 4, 2, 4, 6, 1, 2)
SOURCE = "def handler(event, context):\n    return event"
STREAM = "import time\ndef handler(event, context):\n    for n in range(5):\n        yield n\n        time.sleep(0.02)"


@dataclass(slots=True)
class Ledger:
    """What the server has acknowledged, and what it must not have answered."""

    tokens: dict[str, str] = field(default_factory=dict)  # id → text, of those that live
    revoked: dict[str, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    versions: dict[int, int] = field(default_factory=dict)  # number → what it returns
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[object] = field(default_factory=list)


class Victims:
    """A server that is killed piece by piece, and started again when its keeper was the piece."""

    def __init__(self, data: Path) -> None:
        """Start it."""
        self.data = data
        self.is_down = True
        self.pids: set[int] = set()
        self._stack = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        """Start a keeper over the data directory."""
        self.house: House = self._stack.enter_context(started(self.data, "-s", "warm_vms=2", "-s", "builds=1"))
        self.is_down = False

    def find(self, kind: str) -> int | None:
        """Return a process of a kind; None when there is none just now."""
        if kind == "keeper":
            return self.house.process.pid
        children = self.house.children()
        if kind in children:
            return children[kind]
        found = [pid for pid in tree(children["launcher"]) - {children["launcher"]} if is_init(pid) == (kind == "init")]
        return found[0] if found else None

    def kill(self, kind: str) -> bool:
        """Kill one of a kind; False when there was none. Where nobody is to be killed, upgrade."""
        if kind == "nobody":
            self.house.process.send_signal(signal.SIGHUP)
            return True
        try:
            self.pids |= tree(self.house.process.pid)
            pid = self.find(kind)
        except (KeyError, OSError):
            return False
        if pid is None:
            return False
        self.is_down = kind == "keeper"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if kind == "keeper":
            self.house.process.wait()
            self.start()
        until = time.monotonic() + _ENOUGH_S
        while kind in ("server", "launcher", "egress") and self._child(kind) in (None, pid):
            assert time.monotonic() < until, f"no other {kind}"
            time.sleep(0.01)
        return True

    def _child(self, kind: str) -> int | None:
        try:
            return self.house.children().get(kind)
        except OSError:  # one ended while it was looked at
            return None

    def stop(self) -> int:
        """Stop it; returns the exit status."""
        self.is_down = True
        self.pids |= tree(self.house.process.pid)
        status = self.house.stop(_ENOUGH_S)
        self._stack.close()
        return status


def is_init(pid: int) -> bool:
    """Tell whether a process is PID 1 of its innermost namespace."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1] == "1"
    except OSError:
        pass
    return False


class Load:
    """Clients of every kind, and what they were told."""

    def __init__(self, victims: Victims) -> None:
        """Begin without clients."""
        self.victims, self.ledger = victims, Ledger()
        self._stop = threading.Event()
        works = (self.call, self.call, self.queue, self.stream, self.token, self.publish)
        self._threads = [threading.Thread(target=self._again, args=(work, n)) for n, work in enumerate(works)]

    def __enter__(self) -> Ledger:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self.ledger

    def __exit__(self, *_error: object) -> None:
        """Stop when each has finished what it does."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _again(self, work: Callable[[int], None], offset: int) -> None:
        n = offset
        while not self._stop.is_set():
            n += 10
            was_down = self.victims.is_down
            try:
                work(n)
            except (OSError, http.client.HTTPException) as error:
                self.ledger.counts["closed"] += 1
                if isinstance(error, ConnectionRefusedError) and not (was_down or self.victims.is_down):
                    self.ledger.wrong.append(("refused", work.__name__))
            time.sleep(0.01)

    def _is_refusal(self, answer: Answer) -> bool:
        """Tell an answer that a kill explains; any other one that is no success is wrong."""
        self.ledger.counts[answer.outcome or str(answer.status)] += 1
        if answer.status in (429, 500, 502, 503, 504) and (answer.outcome in _OUTCOMES or "Retry-After".lower() in answer.headers):
            return True
        self.ledger.wrong.append((answer.status, dict(answer.headers), answer.body))
        return False

    def call(self, n: int) -> None:
        """Call, and compare."""
        answer = self.victims.house.invoke("f", {"n": n})
        if answer.status != 200:
            self._is_refusal(answer)
        elif answer.json != {"n": n}:
            self.ledger.wrong.append((n, answer.body))
        else:
            self.ledger.counts["ok"] += 1

    def queue(self, n: int) -> None:
        """Queue a job."""
        answer = self.victims.house.invoke("f", {"n": n}, Prefer="respond-async")
        if answer.status == 202:
            self.ledger.jobs.append(answer.json["id"])
        else:
            self._is_refusal(answer)

    def stream(self, _n: int) -> None:
        """Read a stream: what comes is a beginning of what it yields, and ends whole, or with an error, or broken off."""
        answer = self.victims.house.invoke("stream", {})
        if answer.status != 200:
            self._is_refusal(answer)
            return
        items = [json.loads(line) for line in answer.body.splitlines()]
        ended_badly = bool(items) and isinstance(items[-1], dict) and "$error" in items[-1]
        good = items[:-1] if ended_badly else items
        self.ledger.counts["broken stream" if ended_badly else "stream"] += 1
        if good != list(range(5))[: len(good)] or not (ended_badly or len(good) == 5):
            self.ledger.wrong.append(items)

    def token(self, n: int) -> None:
        """Create a token, and revoke every second one."""
        house = self.victims.house
        made = house.call("POST", "/v1/tokens", json.dumps({"label": str(n)}), content_type="application/json")
        if made.status not in (200, 201):
            self._is_refusal(made)
            return
        name, text = made.json["id"], made.json["token"]
        self.ledger.tokens[name] = text
        if n % 20 < 10:
            self.ledger.tokens.pop(name)  # until it is acknowledged nobody knows
            revoked = house.call("DELETE", f"/v1/tokens/{name}")
            if revoked.status == 204:
                self.ledger.revoked[name] = text
            else:
                self._is_refusal(revoked)
        time.sleep(0.05)

    def publish(self, n: int) -> None:
        """Publish a version that returns its number."""
        answer = self.victims.house.put("g", packed({"main.py": f"def handler(event, context):\n    return {n}"}))
        if answer.status == 201:
            self.ledger.versions[answer.json["version"]] = n
        else:
            self._is_refusal(answer)
        time.sleep(1.0)


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Victims]:
    """Return a server that may be killed, with two functions."""
    made = Victims(tmp_path / "data")
    try:
        for name, source in (("f", SOURCE), ("stream", STREAM)):
            assert made.house.deploy(name, source).json["state"] == "ready"
        yield made
    finally:
        if made.house.process.poll() is None:
            made.stop()


def served_again(victims: Victims) -> None:
    """Wait until a call is answered."""
    until = time.monotonic() + _ENOUGH_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if victims.house.invoke("f", {"again": 1}).status == 200:
                return
        time.sleep(0.01)
    pytest.fail("not served again: " + (victims.data.parent / "serve.log").read_text()[-3000:])


@pytest.mark.timeout(1800)  # for a hundred kills on a machine with other things to do
def test_kills(victims: Victims, request: pytest.FixtureRequest) -> None:
    """Everything acknowledged is there, every call was answered rightly or not at all, and the host is as it was before."""
    chance = random.Random(_SEED)  # noqa: S311 - to be repeatable
    took: dict[str, list[float]] = {kind: [] for kind in _VICTIMS}
    count = request.config.getoption("--kills")
    with Load(victims) as ledger:
        for kind in chance.choices(_VICTIMS, _WEIGHTS, k=count):
            time.sleep(chance.uniform(0.05, 0.4))
            began = time.monotonic()
            while not victims.kill(kind):
                assert time.monotonic() < began + _ENOUGH_S, f"no {kind} to kill"
                time.sleep(0.01)
                began = time.monotonic() if kind != "keeper" else began
            served_again(victims)
            took[kind].append(time.monotonic() - began)
    _tell(took, ledger)
    assert ledger.wrong == []
    _check_acknowledged(victims.house, ledger)
    assert victims.stop() == 0
    _check_host(victims)


def _tell(took: dict[str, list[float]], ledger: Ledger) -> None:
    for kind, times in took.items():
        if times:
            print(f"{kind}: {len(times)} killed, served again after {statistics.median(times):.3f} s, at most {max(times):.3f} s")
    kept = f"{len(ledger.jobs)} jobs, {len(ledger.tokens)}+{len(ledger.revoked)} tokens, {len(ledger.versions)} versions"
    print(f"{dict(ledger.counts)}; acknowledged: {kept}")


def _check_acknowledged(house: House, ledger: Ledger) -> None:
    for job in ledger.jobs:
        until = time.monotonic() + _ENOUGH_S
        while (shown := house.call("GET", f"/v1/invocations/{job}?wait=20").json)["state"] in ("queued", "running"):
            assert time.monotonic() < until, shown
        assert shown["state"] == "succeeded" or shown["outcome"] in _OUTCOMES, shown
        assert [a["outcome"] for a in shown["attempts"]].count("ok") <= 1
    for tokens, status in ((ledger.tokens, 200), (ledger.revoked, 401)):
        for name, text in tokens.items():
            house.tokens[name] = text
            assert house.call("GET", "/v1/whoami", token=name).status == status
    for number, result in ledger.versions.items():
        state = house.wait("g", number, seconds=_ENOUGH_S).json
        if state["state"] == "failed":
            assert state["reason"]["code"]
        else:
            assert house.call("POST", f"/v1/functions/g/invoke?qualifier={number}", "{}", content_type="application/json").json == result


def _check_host(victims: Victims) -> None:
    assert left_of(victims.pids) == []
    assert cgroups(victims.house) == set()
    assert str(victims.data) not in Path("/proc/self/mountinfo").read_text()
    assert [path.name for name in ("staging", "run") for path in (victims.data / name).iterdir()] == []
    assert not [path for path in victims.data.rglob("*") if path.suffix in (".new", ".part")]
