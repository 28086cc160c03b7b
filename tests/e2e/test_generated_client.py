"""A client that a stock generator makes of a served document calls the API with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import House
from tests.e2e.publishing import CODE, STREAM, definition, publish, subscribe

PROGRAM = """
import json
import sys

from texts_client import AuthenticatedClient
from texts_client.api.default import find, raw, show, summarise
from texts_client.models import Failure, Problem, SummariseBody, SummariseInputHow

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
told = {}
body = SummariseBody(text="one two three", tags=["a"], how=SummariseInputHow(short=True))
made = summarise.sync(client=client, id=7, body=body)
told["typed"] = [type(made).__name__, made.id, made.words]
told["query"] = find.sync_detailed(client=client, limit=5, tags=["x", "y"]).status_code
told["path"] = json.loads(show.sync_detailed(client=client, what="a/b c").content)["what"]
told["free"] = json.loads(raw.sync_detailed(client=client, body={"text": "a b"}).content)["words"]
long = summarise.sync(client=client, id=7, body=SummariseBody(text="x" * 101))
told["problem"] = [isinstance(long, Problem), long.code, long.evidence.to_dict()]
fails = SummariseBody(text="a")
fails["fail"] = True
failed = summarise.sync(client=client, id=7, body=fails)
told["failure"] = [isinstance(failed, Failure), failed.error_type]
stranger = summarise.sync(client=AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[3]), id=7, body=body)
told["stranger"] = [isinstance(stranger, Problem), stranger.code]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def api(house: House) -> tuple[str, str, str]:
    """Publish an API, and subscribe to it; returns who publishes, who has it and who has not."""
    north, south, east = (house.account(f"made-{name}") for name in ("north", "south", "east"))
    assert house.deploy("texts", CODE, token=north).json["state"] == "ready"
    assert house.deploy("stream", STREAM, token=north).json["state"] == "ready"
    publish(house, "text", definition(), owner=north)
    subscribe(house, "mine", f"{north}/text", caller=south)
    return north, south, east


def test_a_generated_client_calls_the_api(house: House, api: tuple[str, str, str], tmp_path: Path) -> None:
    """openapi-python-client makes a client of the document; it sends typed parameters, and reads results, problems and failures as types."""
    north, south, east = api
    base = f"/v1/apis/{north}/text/1"
    document = tmp_path / "openapi.json"
    document.write_bytes(house.call("GET", f"{base}/openapi.json", token=south).body)
    out = tmp_path / "texts_client"
    command = ["generate", "--path", str(document), "--output-path", str(out), "--meta", "none", "--fail-on-warning"]
    quiet = tmp_path / "config.yml"
    quiet.write_text("post_hooks: []\n")
    generated = _run(["-m", "openapi_python_client", *command, "--config", str(quiet)], tmp_path)
    assert generated.returncode == 0, generated.stdout + generated.stderr
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    told = _run([str(program), house.url + base, house.token(south), house.token(east)], tmp_path)
    assert told.returncode == 0, told.stderr
    expected: dict[str, Any] = {
        "typed": ["SummariseResponse200", 7, 3],
        "query": 200,
        "path": "a/b c",
        "free": 2,
        "problem": [True, "invalid_event", {"pointer": "/text", "rule": "maxLength"}],
        "failure": [True, "FunctionError"],
        "stranger": [True, "not_allowed"],
    }
    assert json.loads(told.stdout) == expected


def _run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "PYTHONPATH": str(folder), "NO_PROXY": "*"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment, timeout=100, check=False)
