"""Every directory of examples/, deployed as it is by the command that its README names, and called on the real input beside it."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.house import REPOSITORY, Answer, House

EXAMPLES = REPOSITORY / "examples"
SHAPES = {
    "asgi": "asgi",
    "fanout": "typed",
    "graph": "typed",
    "hello": "typed",
    "page": "typed",
    "report": "event",
    "stream": "typed",
    "text": "event",
    "thumbnail": "event",
}
# As the table's and the network's publications have them: birds and mean body mass by species, who leads the two factions.
PENGUINS = {"Adelie": 152, "Gentoo": 124, "Chinstrap": 68}
MASSES_G = {"Adelie": 3701, "Gentoo": 5076, "Chinstrap": 3733}
LEADERS = {1, 34}


@dataclass(slots=True)
class Gallery:
    """An account with all examples deployed."""

    house: House
    account: str
    deployed: dict[str, dict[str, Any]]

    def call(self, name: str, event: Any, **headers: str) -> Answer:
        """Call an example with a JSON event, or with bytes as they are."""
        if isinstance(event, bytes):
            path = f"/v1/functions/{name}/invoke"
            return self.house.call("POST", path, event, token=self.account, content_type="image/jpeg", **headers)
        return self.house.invoke(name, event, token=self.account, **headers)


def photo(name: str) -> bytes:
    """Return a photograph of the examples."""
    return (EXAMPLES / "photos" / f"{name}.jpg").read_bytes()


def table() -> str:
    """Return the table of the examples."""
    return (EXAMPLES / "tables" / "penguins.csv").read_text()


def size(jpeg: bytes) -> tuple[int, int]:
    """Return a JPEG's width and height, from its frame header (ITU T.81, B.2.2)."""
    assert jpeg[:2] == b"\xff\xd8"
    at = 2
    while jpeg[at + 1] not in range(0xC0, 0xC4):
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    height, width = (int.from_bytes(jpeg[at + n : at + n + 2], "big") for n in (5, 7))
    return width, height


@pytest.fixture(scope="module")
def gallery(house: House) -> Gallery:
    """Deploy all examples, all at once, each by `pyfaas deploy DIRECTORY`."""
    account = house.account("gallery")
    env = {**os.environ, "PYFAAS_URL": house.url, "PYFAAS_TOKEN": house.token(account)}
    command = [sys.executable, "-m", "pyfaas", "-o", "json", "deploy"]
    running = {
        name: subprocess.Popen(
            [*command, f"examples/{name}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=REPOSITORY
        )
        for name in SHAPES
    }
    deployed = {}
    for name, process in running.items():
        out, errors = process.communicate(timeout=100)
        assert process.returncode == 0, f"{name}: {errors}"
        deployed[name] = json.loads(out)
    return Gallery(house, account, deployed)


def test_every_example_is_here() -> None:
    """No example is without a test, and each is named like its directory and says in its first lines what it shows."""
    found = sorted(path.parent.name for path in EXAMPLES.glob("*/pyfaas.toml"))
    assert found == sorted(SHAPES)
    for name in found:
        assert tomllib.loads((EXAMPLES / name / "pyfaas.toml").read_text())["name"] == name
        assert f"| `{name}` |" in (EXAMPLES / "README.md").read_text()
        assert (EXAMPLES / name / "main.py").read_text().startswith('"""')


@pytest.mark.parametrize("place", ["photos", "tables", "graph"])
def test_every_input_has_its_source(place: str) -> None:
    """What was made elsewhere is small, and SOURCES.md beside it names it and its licence."""
    said = (EXAMPLES / place / "SOURCES.md").read_text()
    assert "licence" in said.lower()
    for path in (EXAMPLES / place).iterdir():
        if path.suffix in {".jpg", ".csv", ".txt"}:
            assert path.name in said
            assert path.stat().st_size <= 60_000


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_example_is_ready_in_its_shape(gallery: Gallery, name: str) -> None:
    """Each example is deployable as it is, and its shape is found by itself."""
    assert (gallery.deployed[name]["function"], gallery.deployed[name]["state"]) == (name, "ready")
    assert gallery.house.call("GET", f"/v1/functions/{name}", token=gallery.account).json["shape"] == SHAPES[name]


def test_hello(gallery: Gallery) -> None:
    """Arguments are checked against annotations: the right ones greet, a wrong one is the caller's fault."""
    assert gallery.call("hello", {"name": "Ada", "times": 2}).json == {"greeting": "hello, Ada! hello, Ada!"}
    refused = gallery.call("hello", {"times": "many"})
    assert (refused.status, refused.json["code"], refused.outcome) == (400, "invalid_event", "rejected")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("astronaut", (512, 512), (128, 128)), ("chelsea", (451, 300), (128, 85)), ("coffee", (600, 400), (128, 85))],
)
def test_thumbnail(gallery: Gallery, name: str, before: tuple[int, int], after: tuple[int, int]) -> None:
    """A photograph's bytes go in, a small JPEG of the same proportions comes out, and the log says so."""
    answer = gallery.call("thumbnail", photo(name))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert (size(photo(name)), size(answer.body)) == (before, after)
    lines = gallery.house.logs("thumbnail", token=gallery.account)
    own = [line["line"] for line in lines if line["invocation"] == answer.headers["pyfaas-invocation-id"]]
    assert own == [f"JPEG {before[0]}x{before[1]} to {after[0]}x{after[1]}"]


def test_thumbnail_of_what_is_no_picture(gallery: Gallery) -> None:
    """Bytes that are no picture are the function's error, with Pillow's own name for it."""
    answer = gallery.call("thumbnail", b"not a picture")
    assert (answer.status, answer.outcome, answer.json["errorType"]) == (500, "error", "UnidentifiedImageError")


def test_page(gallery: Gallery) -> None:
    """The template that is part of the bundle is filled, and what is filled in is escaped."""
    rows = [{"island": "Biscoe", "birds": 168}, {"island": "<Dream>", "birds": 124}]
    page = gallery.call("page", {"title": "Penguins & islands", "rows": rows}).json
    assert "<h1>Penguins &amp; islands</h1>" in page
    assert "<td>Biscoe</td><td>168</td>" in page
    assert "<td>&lt;Dream&gt;</td><td>124</td>" in page


def test_report(gallery: Gallery) -> None:
    """The real table is summed by groups: the published counts and means; a column of words is left out."""
    answer = gallery.call("report", {"csv": table(), "by": "species"}).json
    assert (answer["rows"], answer["by"]) == (sum(PENGUINS.values()), "species")
    assert {name: group["year"]["count"] for name, group in answer["groups"].items()} == PENGUINS
    assert {name: round(group["body_mass_g"]["mean"]) for name, group in answer["groups"].items()} == MASSES_G
    assert all("island" not in group for group in answer["groups"].values())


def test_report_of_bytes(gallery: Gallery) -> None:
    """The same table as a file's bytes, ungrouped: the two birds that were not measured are not counted."""
    answer = gallery.call("report", table().encode()).json
    assert list(answer["groups"]) == ["all"]
    assert answer["groups"]["all"]["body_mass_g"]["count"] == sum(PENGUINS.values()) - 2


def test_graph(gallery: Gallery) -> None:
    """The paper's network has its size, its two leaders rank highest, and a path is made of friendships."""
    answer = gallery.call("graph", {"start": 17, "end": 34}).json
    assert (answer["members"], answer["friendships"]) == (34, 78)
    assert {member for member, _ in answer["rank"][:2]} == LEADERS
    lines = (EXAMPLES / "graph" / "karate.txt").read_text().splitlines()
    friends = {frozenset(map(int, line.split())) for line in lines if line and not line.startswith("#")}
    path = answer["path"]
    assert (path[0], path[-1], len(path)) == (17, 34, 5)
    assert all(frozenset(pair) in friends for pair in itertools.pairwise(path))


def test_fanout(gallery: Gallery) -> None:
    """All waits pass at once: they end by length, in less time than one after another."""
    answer = gallery.call("fanout", {"delays_ms": [600, 200, 400]}).json
    assert answer["order"] == [200, 400, 600]
    assert answer["took_ms"] < answer["sum_ms"]


def open_stream(gallery: Gallery, text: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Call the stream example as a stream; nothing of the body is read yet."""
    parts = urlsplit(gallery.house.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    headers = {
        "Authorization": f"Bearer {gallery.house.token(gallery.account)}",
        "Accept": "application/x-ndjson",
        "Content-Type": "application/json",
    }
    connection.request("POST", "/v1/functions/stream/invoke", json.dumps({"text": text}), headers)
    return connection, connection.getresponse()


def test_stream(gallery: Gallery) -> None:
    """Called as a stream each item is a line of JSON, in order, and the stream ends with the generator."""
    connection, answer = open_stream(gallery, "To be, or not to be")
    lines = [json.loads(line) for line in answer.read().splitlines()]
    connection.close()
    assert answer.status == 200
    assert [(line["word"], line["count"]) for line in lines] == [
        ("to", 1), ("be", 1), ("or", 1), ("not", 1), ("to", 2), ("be", 2),
    ]  # fmt: skip


def test_stream_that_is_left(gallery: Gallery) -> None:
    """The first item can be read while most are still to be made, and leaving then closes the generator."""
    words = 150_000
    connection, answer = open_stream(gallery, " ".join(f"word-{n:020}" for n in range(words)))
    first = json.loads(answer.readline())
    invocation = answer.headers["pyfaas-invocation-id"]
    answer.close()
    connection.close()
    assert first == {"position": 0, "word": f"word-{0:020}", "count": 1}
    until = time.monotonic() + 30
    own: list[str] = []
    while not own and time.monotonic() < until:
        lines = gallery.house.logs("stream", token=gallery.account)
        own = [line["line"] for line in lines if line["invocation"] == invocation and line["stream"] == "out"]
    assert len(own) == 1
    made, rest = own[0].split(maxsplit=1)
    assert rest == "different words"
    assert 0 < int(made) < words


def test_asgi(gallery: Gallery) -> None:
    """The application under its own URL: a query, a body, a path that is not there; nothing without a token."""
    base = f"/f/{gallery.account}/asgi"
    call: Callable[..., Answer] = gallery.house.call
    shown = call("GET", f"{base}/?q=1", token=gallery.account)
    assert shown.json == {"path": f"{base}/", "root_path": base, "query": {"q": "1"}}
    assert call("POST", f"{base}/echo", "penguin", token=gallery.account).json == {"echo": "PENGUIN"}
    assert call("GET", f"{base}/nothing", token=gallery.account).status == 404
    assert call("GET", f"{base}/", token=None).status == 401


def test_asynchronously(gallery: Gallery) -> None:
    """An example runs asynchronously too: 202 with a place, and the result there when it is waited for."""
    queued = gallery.call("graph", {"start": 1, "end": 34}, prefer="respond-async")
    assert queued.status == 202
    ended = gallery.house.call("GET", queued.headers["location"] + "?wait=30", token=gallery.account).json
    assert (ended["id"], ended["state"], ended["outcome"]) == (queued.json["id"], "succeeded", "ok")
    assert (ended["result"]["path"][0], ended["result"]["path"][-1]) == (1, 34)


def test_text(gallery: Gallery) -> None:
    """A text is shortened to the sentences with its most frequent words, and says what it is about; common words are not."""
    text = "The penguin swims. Penguins and a penguin eat fish with the other penguins. It rained."
    shown = gallery.house.invoke("text", {"text": text, "sentences": 1}, token=gallery.account).json
    assert shown["about"][0] in {"penguins", "penguin"}
    assert (shown["summary"] in text, shown["words"]) == (True, 15)
    whole = gallery.house.invoke("text", {"text": text, "sentences": 9}, token=gallery.account).json
    assert whole["summary"] == text


def test_the_steps_of_the_readme(gallery: Gallery, tmp_path: Path) -> None:
    """The commands that examples/README.md shows do what they say, typed as they stand."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "pyfaas").write_text(f'#!/bin/sh\nexec {sys.executable} -m pyfaas "$@"\n')
    (binaries / "pyfaas").chmod(0o755)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    env = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYFAAS_URL": gallery.house.url,
        "PYFAAS_TOKEN": gallery.house.token(gallery.account),
    }
    steps = [line[2:] for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith("$ ")]
    assert len(steps) >= 4
    shown = [subprocess.run(step, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout for step in steps]
    assert size((tmp_path / "small.jpg").read_bytes()) == (128, 128)
    assert json.loads(shown[-1])["path"][-1] == 34
