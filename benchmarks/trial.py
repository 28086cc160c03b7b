"""A deploy under an open load, acted out: a load begins, a quiet phase passes, something is done to the function, the load ends.

The load tells what it saw when it has ended; whether traffic has moved is asked meanwhile by calls of our own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.deploys import Account, Deploy, failures
from benchmarks.stage import Peer, Stage
from benchmarks.steady import Answer, Plan, Steady
from tests.e2e.house import House, packed

RATE = 200.0
_WARM_S = 0.3
_MOVES_S = 60.0  # at most, from ready to the first answer of the new version
_ASKED_S = 0.05
_BODY = '{"n": 50}'

# Each says of itself which it is, by what it computes: what ran is not taken from the head that is to be checked.
PLAIN = """
def handler(event, context):
    return {{"version": sum([{number}]), "value": sum(n * n for n in range(event["n"]))}}
"""
HEAVY = """
import numpy, pandas

def handler(event, context):
    n = numpy.arange(event["n"])
    return {{"version": int(pandas.Series([{number}]).sum()), "value": int((n * n).sum())}}
"""
BROKEN = "import a_module_that_is_not_there\n" + PLAIN
HEAVY_REQUIREMENTS = ["numpy", "pandas"]


def plan(peer: Peer) -> Plan:
    """Return a load of a function."""
    order = peer.order(body=_BODY)
    return Plan(host=order.host, port=order.port, head=order.head, body=order.body, rate=RATE)


@dataclass(slots=True)
class Seen:
    """What a load saw; filled when it has ended."""

    answers: list[Answer]


@contextlib.contextmanager
def under_load(stage: Stage, peer: Peer, before_s: float, after_s: float) -> Iterator[Seen]:
    """Load a function: `before_s` pass, then the body of the context is run, then `after_s` pass."""
    seen = Seen([])
    with Steady(plan(peer)) as load:
        time.sleep(_WARM_S)
        since = time.monotonic()
        stage.tell(f"{RATE:g} requests/s, quiet for {before_s:g} s")
        time.sleep(before_s)
        yield seen
        stage.tell(f"{RATE:g} requests/s, {after_s:g} s more")
        time.sleep(after_s)
        seen.answers = [answer for answer in load.stop() if answer.planned >= since]


def publish(stage: Stage, house: House, name: str, source: str | Mapping[str, str | bytes], old: int, **config: Any) -> Deploy:
    """Publish a version and wait until it is ready and answers, or has failed; raises RuntimeError when it is refused, or never answers."""
    stage.tell("publishing")
    bundle = packed({"main.py": source} if isinstance(source, str) else source)
    moved = time.monotonic()
    answer = house.put(name, bundle, **config)
    told = time.monotonic()
    if answer.status != 201:
        raise RuntimeError(f"{name} was refused: {answer.body.decode()[:500]}")
    new = int(answer.json["version"])
    stage.tell(f"version {new} is being prepared")
    state = house.wait(name, new, seconds=600).json
    ready = time.monotonic()
    if state["state"] != "ready":
        return Deploy(old=old, new=0, moved=moved, told=told, ready=ready)
    wait_for(house, name, new)
    return Deploy(old=old, new=new, moved=moved, told=told, ready=ready)


def roll_back(stage: Stage, house: House, name: str, old: int, new: int) -> Deploy:
    """Go back to `new` from `old`, and wait until it answers."""
    stage.tell("rolling back")
    moved = time.monotonic()
    answer = house.call("POST", f"/v1/functions/{name}/rollback")
    told = time.monotonic()
    if answer.status not in (200, 204):
        raise RuntimeError(f"{name} was not rolled back: {answer.body.decode()[:500]}")
    wait_for(house, name, new)
    return Deploy(old=old, new=new, moved=moved, told=told, ready=told)


def wait_for(house: House, name: str, version: int) -> None:
    """Call until a version answers; raises RuntimeError when it does not."""
    until = time.monotonic() + _MOVES_S
    while time.monotonic() < until:
        answer = house.call("POST", f"/v1/functions/{name}/invoke", _BODY, content_type="application/json")
        if answer.status == 200 and answer.headers.get("pyfaas-executed-version") == str(version):
            return
        time.sleep(_ASKED_S)
    raise RuntimeError(f"{name} is not answered by version {version} after {_MOVES_S:g} s")


def promise(stage: Stage, page: str, accounts: Sequence[Account]) -> None:
    """Add what every deploy promises: no wrong answer, and a p99 that stays near the one before."""
    wrong, asked = [float(a.wrong) for a in accounts], [float(a.asked) for a in accounts]
    stage.row(f"{page}-wrong", [w / n for w, n in zip(wrong, asked, strict=True)], ("answers", wrong), ("requests", "", asked))
    if told := failures(accounts):
        stage.result.notes.append(f"Requests that failed: {told}.")
    before, since = [a.p99_before for a in accounts], [a.p99_since for a in accounts]
    stage.row(f"{page}-p99", [a.ratio for a in accounts], ("ms", since), ("p99 before", "ms", before))
