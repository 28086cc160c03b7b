"""Deploys that go wrong: each a clear `failed`, the version before it serving, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.launcher import cgroups
from tests.e2e.house import House, needs_cgroups, packed, started
from tests.e2e.index import Index

OLD = "def handler(event, context):\n    return 'old'\n"
NEW = "def handler(event, context):\n    return 'new'\n"
ROOM = 3 << 20  # of an environment
NOISE = b"".join(i.to_bytes(4, "little") for i in range(1 << 20))


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    """Return an index with a few wheels, most of them wrong in one way."""
    made = Index()
    made.add("good", "1.0")
    made.add("also_good", "1.0", requires="good<2")
    made.add("needs_good_2", "1.0", requires="good>=2")
    made.add("windows_only", "1.0", tag="cp311-cp311-win_amd64")
    made.add("ancient", "1.0", tag="cp27-none-any")
    made.add("liar", "1.0", lies=True)
    made.add("huge", "1.0", {"huge/__init__.py": "", "huge/noise": NOISE})
    yield made
    made.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, index: Index) -> Iterator[House]:
    """Return a server that asks that index, and takes small environments only."""
    with started(tmp_path_factory.mktemp("deploys") / "data", "-s", f"environment_size={ROOM}", env=index.env) as house:
        yield house


@pytest.fixture
def function(own: House, request: pytest.FixtureRequest) -> str:
    """Return a function whose version 1 answers."""
    name = "f" + request.node.name.translate(str.maketrans("[]-.", "____"))[:50]
    assert own.deploy(name, OLD).json["state"] == "ready"
    return name


def left(house: House) -> dict[str, set[str]]:
    """Return what a preparation may leave on the disk."""
    return {store: set(os.listdir(house.data / store)) for store in ("staging", "environments", "prepared", "bundles")}


def vms_beside(house: House) -> int:
    """Return how many VMs there are, by their cgroups, that neither serve nor wait to."""
    prefix = f"pyfaas-{hashlib.sha256(str(house.data).encode()).hexdigest()[:8]}-"
    groups = {name for base in cgroups.detect().bases() for name in os.listdir(base) if name.startswith(prefix)}
    fleet = house.call("GET", "/v1/fleets", token="admin").json
    return len(groups) - len(fleet["vms"]) - fleet["warming"]["ready"]


def until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def check_failed(house: House, function: str, files: dict[str, str | bytes], code: str, *words: str, **config: Any) -> dict[str, Any]:
    """Deploy what fails, and see the reason, who answers, and that nothing is left."""
    before = left(house)
    shown = house.deploy(function, files, **config).json
    assert (shown["state"], shown["reason"]["code"]) == ("failed", code), shown
    for word in words:
        assert word in shown["reason"]["message"], shown["reason"]
    answer = house.invoke(function)
    assert (answer.json, answer.headers["pyfaas-executed-version"]) == ("old", "1")
    after = left(house)
    for found in (before, after):  # the version exists, and with it what it consists of
        found["prepared"].discard(shown["code_id"])
        found["bundles"].discard(shown["bundle"] + ".zip")
    assert after == before
    if os.getuid() == 0:
        until(lambda: vms_beside(house) <= 0)
    reason: dict[str, Any] = shown["reason"]
    return reason


@pytest.mark.parametrize(
    ("requirements", "code", "words"),
    [
        (["nowhere"], "requirements_failed", ["nowhere was not found in the package registry"]),
        (["good==9"], "requirements_failed", ["there is no version of good==9"]),
        (["good==1.0", "needs-good-2"], "requirements_failed", ["good>=2", "unsatisfiable"]),
        (["windows-only"], "requirements_failed", ["windows-only", "no wheels with a matching"]),
        (["ancient"], "requirements_failed", ["ancient", "no wheels with a matching"]),
        (["liar"], "requirements_failed", ["ash mismatch", "liar"]),
        (["huge"], "too_large", ["more than 3 MiB", "environment_size"]),
    ],
    ids=["name", "version", "conflict", "platform", "python", "hash", "size"],
)
def test_requirements_that_cannot_be_had(own: House, function: str, requirements: list[str], code: str, words: list[str]) -> None:
    """Requirements that cannot be installed fail the version with what is wrong in a sentence; the build's log has it too."""
    check_failed(own, function, {"main.py": NEW}, code, *words, requirements=requirements)
    assert own.logs(function, build="1", version="2") or code == "too_large"


@pytest.mark.parametrize(
    ("source", "code", "words", "config"),
    [
        ("import not_there\n" + NEW, "init_error", ["ModuleNotFoundError", "not_there"], {}),
        ("from json import not_there\n" + NEW, "init_error", ["ImportError", "not_there"], {}),
        (NEW, "init_error", ["HandlerNotFound", "absent"], {"handler": "main:absent"}),
        ("def handler(:\n", "init_error", ["SyntaxError"], {}),
        ("raise ValueError('at import')\n", "init_error", ["ValueError: at import"], {}),
        ("import os\nos._exit(3)\n", "crashed", ["the process ended by itself: exited 3"], {}),
        ("import os, time\nif not os.fork():\n    time.sleep(600)\ntime.sleep(600)\n", "timeout", ["longer than 1 s"], {"init_timeout": "1s"}),
        pytest.param("x = bytearray(200 << 20)\n", "oom", ["memory"], {"memory": "64M"}, marks=needs_cgroups),
    ],
    ids=["module", "attribute", "handler", "syntax", "raises", "exits", "hangs", "memory"],
)  # fmt: skip
def test_code_that_cannot_be_loaded(own: House, function: str, source: str, code: str, words: list[str], config: dict[str, Any]) -> None:
    """Code whose one import fails, for whatever reason, fails its version by that reason."""
    check_failed(own, function, {"main.py": source}, code, *words, **config)


def test_more_files_than_a_bundle_may_have(own: House, function: str) -> None:
    """Too many files are refused at the upload or fail the version, with the number."""
    answer = own.put(function, packed({f"d{n % 100}/f{n}": b"" for n in range(20_001)} | {"main.py": NEW}))
    assert answer.status in (400, 413), answer.body
    assert "20000" in answer.json["detail"]
    assert own.invoke(function).json == "old"


def test_an_index_that_is_away_for_a_moment(own: House, index: Index, function: str) -> None:
    """A version whose index is away is tried again, then failed by that name; published again it is ready, with the same number."""
    index.is_down, before = True, index.asked["good"]
    try:
        words = "the package index cannot be reached: http://"
        reason = check_failed(own, function, {"main.py": NEW}, "index_unreachable", words, requirements=["good"])
    finally:
        index.is_down = False
    assert index.asked["good"] - before == 3
    assert "503" in reason["log"]
    again = own.put(function, packed({"main.py": NEW}), requirements=["good"])
    assert (again.status, again.json["version"]) == (200, 2)
    shown = own.wait(function, 2).json
    assert shown["state"] == "ready", shown
    assert own.invoke(function).json == "new"


def steps(house: House, function: str, version: int) -> list[str]:
    """Return the steps that were told of a version, in order."""
    events = house.call("GET", f"/v1/functions/{function}/events?after=0&version={version}").json["items"]
    told = [event["step"] for event in events if event["kind"] == "preparing"]
    return list(dict.fromkeys(told))


def test_the_steps_are_told(own: House, function: str) -> None:
    """A preparation tells each of its steps in order."""
    own.deploy(function, NEW, requirements=["also-good"])
    assert steps(own, function, 2) == ["fetch", "lock", "install", "compile", "probe"]


def test_one_build_for_all_who_need_the_same(own: House, index: Index) -> None:
    """Versions of two accounts whose requirements differ in words and resolve to the same set cause one installation."""
    wheel = index.add("shared", "1.0")
    own.account("other")
    index.hold(wheel)
    own.deploy("one", "import shared\n" + NEW, requirements=["shared"], wait=False)
    index.arrived(wheel)
    own.deploy("two", "import shared\n" + NEW, requirements=["shared>=1"], token="other", wait=False)  # noqa: S106
    until(lambda: any("being installed already" in line["line"] for line in own.logs("two", token="other", build="1", version="1")))  # noqa: S106
    index.let_go(wheel)
    shown = [own.wait("one", 1).json, own.wait("two", 1, token="other").json]  # noqa: S106
    assert [one["state"] for one in shown] == ["ready", "ready"], shown
    assert shown[0]["environment"] == shown[1]["environment"]
    assert index.asked[wheel] == 1
    own.deploy("three", "import shared\n" + NEW, requirements=["shared<2"])
    assert index.asked[wheel] == 1, "what is there was installed again"
    assert own.invoke("three").json == "new"


def test_a_change_of_code_alone_needs_no_index(own: House, index: Index, function: str) -> None:
    """The same requirements keep their lock: no request is made, though the index has something newer."""
    name = "often_released"
    index.add(name, "1.0")
    assert own.deploy(function, f"import {name}\ndef handler(e, c): return {name}.VERSION\n", requirements=["often-released"]).json["state"] == "ready"
    index.add(name, "1.1")
    before = index.asked.copy()
    own.deploy(function, f"import {name}\ndef handler(e, c): return [{name}.VERSION]\n", requirements=["often-released"])
    assert own.invoke(function).json == ["1.0"]
    assert index.asked == before
    own.deploy(function, f"import {name}\ndef handler(e, c): return [{name}.VERSION]\n", requirements=["often-released>=1"])
    assert own.invoke(function).json == ["1.1"], "changed text is locked anew"
