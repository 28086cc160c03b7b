"""Every directory beside this file, deployed to a real server and called as a user's function would be.

A directory is a function: `main.py`, `pyfaas.toml` and `cases.toml`, which says what it is asked and what it must answer.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import Answer, House, missing, packed, started

HERE = Path(__file__).resolve().parent
TOPICS = sorted(path.parent.name for path in HERE.glob("*/cases.toml"))
_BUILD_S = 400.0  # the largest wheels are 100 MB; an index may be slow
pytestmark = pytest.mark.timeout(500)


@functools.cache
def cases(topic: str) -> dict[str, Any]:
    """Return what a topic's cases.toml says."""
    return tomllib.loads((HERE / topic / "cases.toml").read_text())


@dataclass(slots=True)
class Shop:
    """A server and an account in which every selected topic is being made ready."""

    house: House
    account: str
    versions: dict[str, int]

    def ready(self, topic: str) -> None:
        """Wait until a topic's version is ready."""
        made = self.house.wait(topic, self.versions[topic], token=self.account, seconds=_BUILD_S)
        assert made.json.get("state") == "ready", f"{made.body.decode()}\n{self.build_log(topic)}"

    def build_log(self, topic: str) -> str:
        """Return what the installer said."""
        return self.house.call("GET", f"/v1/functions/{topic}/logs?build=1", token=self.account).body.decode()[-3000:]

    def ask(self, topic: str, name: str, case: dict[str, Any]) -> Answer:
        """Send a case's event, by default its name; a case with a `path` is a request to the function's own URL."""
        if "path" not in case:
            return self.house.invoke(topic, case.get("event", {"case": name}), token=self.account, timeout=120)
        path = f"/f/{self.account}/{topic}{case['path']}"
        body, kind = case.get("body"), case.get("type", "application/json")
        return self.house.call(case.get("method", "GET"), path, body, token=self.account, timeout=120, content_type=kind)


@pytest.fixture(scope="module")
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Start a server and publish all selected topics at once: they are made ready while the first are tried."""
    items = [item for item in request.session.items if item.path == request.path and isinstance(item, pytest.Function)]
    tried = [item.callspec.params for item in items if hasattr(item, "callspec")]
    topics = sorted({params["topic"] for params in tried if "name" in params})
    with started(tmp_path_factory.mktemp("wheels") / "data") as house:
        account = house.account("wheels")
        versions = {}
        for topic in topics:
            config = tomllib.loads((HERE / topic / "pyfaas.toml").read_text())
            del config["name"]  # the request's path says it
            files = {p.relative_to(HERE / topic).as_posix(): p.read_bytes() for p in sorted((HERE / topic).rglob("*")) if p.is_file()}
            code = packed({path: content for path, content in files.items() if "__pycache__" not in path})
            answer = house.put(topic, code, token=account, **config)
            assert answer.status == 201, f"{topic}: {answer.body.decode()}"
            versions[topic] = answer.json["version"]
        yield Shop(house, account, versions)


@pytest.mark.parametrize(("topic", "name"), [pytest.param(t, name, id=f"{t}-{name}") for t in TOPICS for name in cases(t)["cases"]])
def test_does_its_job(shop: Shop, topic: str, name: str) -> None:
    """A small real job in the container gives the result that it gives anywhere."""
    case = cases(topic)["cases"][name]
    if case.get("needs") in missing():
        pytest.skip(f"needs {case['needs']}, which this user does not have here")
    shop.ready(topic)
    answer = shop.ask(topic, name, case)
    told = f"{answer.status} {answer.outcome} {answer.body.decode(errors='replace')[:4000]}"
    assert answer.status == case.get("status", 200), told
    assert "path" in case or answer.outcome == case.get("outcome", "ok"), told  # a bridge may stream, and a stream has no outcome
    if "answer" in case:
        assert answer.json == case["answer"], told
    if "starts" in case:
        assert answer.body.startswith(bytes.fromhex(case["starts"])), answer.body[:16]
    if "text" in case:
        assert answer.body.decode() == case["text"]


def test_isolation_is_full(shop: Shop) -> None:
    """What is shown here is shown behind every layer that this user can have."""
    assert shop.house.isolation == ("weaker:" + ",".join(missing()) if missing() else "full")
    assert shop.house.call("GET", "/readyz", token=None).status == 200


@pytest.mark.parametrize("topic", TOPICS)
def test_topic_is_named_like_its_directory(topic: str) -> None:
    """A directory is deployable by `pyfaas deploy` too, under its own name, and its row in the README says what it does."""
    assert tomllib.loads((HERE / topic / "pyfaas.toml").read_text())["name"] == topic
    assert f"| `{topic}` |" in (HERE / "README.md").read_text()
    assert set(cases(topic)) <= {"quick", "cases"}
    assert json.dumps(cases(topic)["cases"])
