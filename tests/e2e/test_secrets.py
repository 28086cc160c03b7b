"""Secrets over HTTP: delivered to the code that they are for, and found nowhere else."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import REPOSITORY, Answer, House, given_up, started

SHOW = "def handler(event, context):\n    return context.secrets\n"
TYPED = "from pyfaas import Context\ndef handler(n: int, context: Context) -> dict:\n    return {'n': n, **context.secrets}\n"
ASGI = """
import json

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(scope["pyfaas"]["secrets"]).encode()})
"""
RETRIED = """
import time

def handler(event, context):
    if context.secrets["STEP"] == event["wanted"]:
        return len(context.secrets["KEY"])
    raise ValueError("not yet")
"""


def canary() -> str:
    """Return a text that is nowhere else."""
    return "canary" + secrets.token_hex(8)


def put(house: House, name: str, key: str, value: str, *, token: str = "default") -> Answer:
    """Set a secret as the clients do."""
    return house.call("PUT", f"/v1/functions/{name}/secrets/{key}", json.dumps({"value": value}), token=token, content_type="application/json")


def kept(house: House, name: str, key: str, value: str) -> None:
    """Set a secret, and see that it was taken."""
    answer = put(house, name, key, value)
    assert (answer.status, answer.json["key"]) == (200, key), answer.body


def test_every_shape_gets_them(house: House, name: Callable[[], str]) -> None:
    """Event handlers, typed functions, ASGI apps and Lambda's URL events find a function's secrets, in new and in warm containers."""
    value = canary()
    event, typed, asgi = name(), name(), name()
    for function, source in ((event, SHOW), (typed, TYPED), (asgi, ASGI)):
        assert house.deploy(function, source, **({"handler": "main:app"} if function == asgi else {})).json["state"] == "ready"
        kept(house, function, "KEY", value)
    for _ in range(2):
        assert house.invoke(event, {}).json == {"KEY": value}
        assert house.invoke(typed, {"n": 1}).json == {"n": 1, "KEY": value}
        for function in (event, asgi):
            assert house.call("GET", f"/f/default/{function}/").json == {"KEY": value}


def test_a_change_counts_from_the_next_run_on(house: House, name: Callable[[], str]) -> None:
    """Setting, replacing and removing a secret is seen by the next run, whichever version runs; its names are listed, never its value."""
    f = name()
    house.deploy(f, SHOW)
    first, second = canary(), canary()
    assert house.invoke(f, {}).json == {}
    kept(house, f, "B_KEY", first)
    kept(house, f, "A.key-1", second)
    assert house.invoke(f, {}).json == {"A.key-1": second, "B_KEY": first}
    listed = house.call("GET", f"/v1/functions/{f}/secrets")
    assert [item["key"] for item in listed.json["items"]] == ["A.key-1", "B_KEY"]
    assert house.call("GET", f"/v1/functions/{f}/secrets?limit=1").json["next"] == "A.key-1"
    kept(house, f, "B_KEY", second)
    house.deploy(f, SHOW + "# another version\n")
    assert house.invoke(f, {}).json["B_KEY"] == second
    assert house.call("DELETE", f"/v1/functions/{f}/secrets/B_KEY").status == 204
    assert house.call("DELETE", f"/v1/functions/{f}/secrets/B_KEY").status == 404
    assert house.invoke(f, {}).json == {"A.key-1": second}
    shown = listed.body + house.call("GET", f"/v1/functions/{f}").body + house.call("GET", f"/v1/functions/{f}/versions").body
    assert not any(value.encode() in shown for value in (first, second))


def test_values_are_any_text(house: House, name: Callable[[], str]) -> None:
    """A value may be empty, any UTF-8, sent raw or as JSON, and as large as the limit, with all its bytes."""
    f = name()
    house.deploy(f, SHOW)
    values = {"EMPTY": "", "TEXT": "é\n\u0000\u2028\U0001f600 ", "LARGE": "\u0001" * 16384}
    for key, value in values.items():
        kept(house, f, key, value)
    raw = house.call("PUT", f"/v1/functions/{f}/secrets/RAW", b'{"value": "as it is"}', content_type="text/plain")
    assert raw.status == 200
    assert house.invoke(f, {}).json == {**values, "RAW": '{"value": "as it is"}'}


BAD: list[tuple[str, str, bytes, str, int, str]] = [
    ("PUT", "1BAD", b'{"value": "CANARY"}', "application/json", 400, "invalid_name"),
    ("PUT", "CANARY%20", b'{"value": "CANARY"}', "application/json", 400, "invalid_name"),
    ("PUT", "A" * 129, b'{"value": "CANARY"}', "application/json", 400, "invalid_name"),
    ("PUT", "KEY", b'{"valeu": "CANARY"}', "application/json", 400, "unknown_key"),
    ("PUT", "KEY", b'{"CANARY": 1}', "application/json", 400, "unknown_key"),
    ("PUT", "KEY", b'{"value": ["CANARY"]}', "application/json", 400, "invalid_request"),
    ("PUT", "KEY", b"CANARY", "application/json", 400, "invalid_request"),
    ("PUT", "KEY", b'["CANARY"]', "application/json", 400, "invalid_request"),
    ("PUT", "KEY", b"", "application/json", 400, "invalid_request"),
    ("PUT", "KEY", b'{"value": "CANARY\\ud800"}', "application/json", 400, "invalid_request"),
    ("PUT", "KEY", b"CANARY\xff", "text/plain", 400, "invalid_request"),
    ("PUT", "KEY", b"CANARY" * 3000, "text/plain", 413, "payload_too_large"),
    ("PUT", "KEY", json.dumps({"value": "CANARY" * 3000}).encode(), "application/json", 413, "payload_too_large"),
    ("PUT", "KEY", b" " * 200_000, "application/json", 413, "payload_too_large"),
    ("DELETE", "NOTHING", b"", "", 404, "not_found"),
]


@pytest.mark.parametrize(("method", "key", "body", "kind", "status", "code"), BAD)
def test_bad_input_is_not_repeated(house: House, method: str, key: str, body: bytes, kind: str, status: int, code: str) -> None:
    """What cannot be a secret is refused with its reason, and no refusal has a word of what was sent."""
    if house.call("GET", "/v1/functions/bad-secrets").status == 404:
        house.deploy("bad-secrets", SHOW)
    answer = house.call(method, f"/v1/functions/bad-secrets/secrets/{key}", body, content_type=kind or "application/json")
    assert (answer.status, answer.json["code"]) == (status, code)
    assert b"CANARY" not in answer.body.replace(b"CANARY%20", b"")
    if status == 413:
        assert {"limit", "value", "observed", "unit"} <= set(answer.json["evidence"])
    assert house.call("GET", "/v1/functions/bad-secrets/secrets").json["items"] == []


def test_together_they_are_bounded(house: House, name: Callable[[], str]) -> None:
    """The secrets of one function have twice the limit together."""
    f = name()
    house.deploy(f, SHOW)
    for key in ("A", "B"):
        kept(house, f, key, "x" * 16384)
    refused = put(house, f, "C", "x")
    assert (refused.status, refused.json["evidence"]["value"], refused.json["evidence"]["observed"]) == (413, 32768, 32769)


def test_who_may(house: House, name: Callable[[], str]) -> None:
    """Another account has no such function, a token without the scope may not, nobody without a token; rotating is the admin's."""
    f, other = name(), house.account("secrets-other")
    house.deploy(f, SHOW)
    kept(house, f, "KEY", canary())
    scopes = json.dumps({"scopes": ["read", "invoke"]})
    house.tokens["secrets-reader"] = house.call("POST", "/v1/tokens", scopes, content_type="application/json").json["token"]
    wanted = {other: (404, 404, 404, 403), "secrets-reader": (200, 403, 403, 403), None: (401, 401, 401, 401)}
    for token, statuses in wanted.items():
        came = [
            house.call("GET", f"/v1/functions/{f}/secrets", token=token),
            house.call("PUT", f"/v1/functions/{f}/secrets/KEY", '{"value": "x"}', token=token, content_type="application/json"),
            house.call("DELETE", f"/v1/functions/{f}/secrets/KEY", token=token),
            house.call("POST", "/v1/secrets/rotate", token=token),
        ]
        assert tuple(answer.status for answer in came) == statuses, token
    assert house.call("POST", "/v1/secrets/rotate", token="default").status == 403
    missing = house.call("GET", f"/v1/functions/{name()}/secrets", token=other).json["detail"]
    assert house.call("GET", f"/v1/functions/{f}/secrets", token=other).json["detail"].split("'")[::2] == missing.split("'")[::2]


def test_a_new_function_has_none_of_the_old_ones(house: House, name: Callable[[], str]) -> None:
    """A function that is removed and published again under its name has no secrets."""
    f = name()
    house.deploy(f, SHOW)
    kept(house, f, "KEY", canary())
    assert house.call("DELETE", f"/v1/functions/{f}").status == 204
    house.deploy(f, SHOW)
    assert house.invoke(f, {}).json == {}
    assert house.call("GET", f"/v1/functions/{f}/secrets").json["items"] == []


def test_each_attempt_reads_them_anew(house: House, name: Callable[[], str]) -> None:
    """A queued run has its secrets from when an attempt starts: one that was set after the first attempt counts for the next."""
    f, value = name(), canary()
    house.deploy(f, RETRIED, retries={"max": 20, "initial": "1s", "factor": 1})
    kept(house, f, "KEY", value)
    kept(house, f, "STEP", "one")
    queued = house.invoke(f, {"wanted": "two"}, Prefer="respond-async").json["id"]
    wait(lambda: len(job(house, queued)["attempts"]) >= 1 and job(house, queued)["attempts"][0]["finished"])
    kept(house, f, "STEP", "two")
    wait(lambda: job(house, queued)["state"] == "succeeded")
    assert job(house, queued)["result"] == len(value)
    assert value not in json.dumps(job(house, queued))


def job(house: House, job_id: str) -> Any:
    """Return how an asynchronous run stands."""
    return house.call("GET", f"/v1/invocations/{job_id}").json


def wait(condition: Callable[[], Any]) -> None:
    """Wait until something has come to be."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def told(data: Path, **env: str) -> str:
    """Start a server that refuses, and return what it says."""
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", "--data-dir", str(data), *given_up()]
    ended = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    assert ended.stdout == ""
    return ended.stderr


def found(value: str, *places: Path) -> list[str]:
    """Return the files below places, members of archives too, in which a value is: as it is, or in base64."""
    wanted = [value.encode(), *(base64.b64encode(b"x" * shift + value.encode())[4:-4] for shift in range(3))]
    met = []
    for path in (path for place in places for path in ([place] if place.is_file() else place.rglob("*"))):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            met += [str(path) for text in wanted if text in content]
    return met


def processes(house: House) -> str:
    """Return the command lines and environments of the server's processes."""
    pids = [str(house.process.pid), *Path(f"/proc/{house.process.pid}/task/{house.process.pid}/children").read_text().split()]
    assert len(pids) >= 3
    found = ""
    for path in (Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")):
        with contextlib.suppress(PermissionError):  # of a process that is not dumpable only root may read it
            found += path.read_bytes().decode(errors="replace")
    return found


def test_a_value_is_nowhere_else(tmp_path: Path) -> None:
    """After runs that succeed, fail, are refused, queued and killed, no file, log, job, backup or process has a secret's value."""
    value, data = canary(), tmp_path / "data"
    with started(data, "-s", "debug=true") as house:
        house.deploy("show", "def handler(event, context):\n    return len(context.secrets['KEY'])\n")
        house.deploy("fail", "def handler(event, context):\n    raise ValueError(repr(context))\n")
        house.deploy("die", "import os\ndef handler(event, context):\n    context.secrets\n    os.kill(os.getpid(), 9)\n")
        for f in ("show", "fail", "die"):
            kept(house, f, "KEY", value)
            assert put(house, f, "1BAD", value).status >= 400
        assert house.invoke("show", {}).json == len(value)
        assert [house.invoke(f, {}).status for f in ("fail", "die")] == [500, 502]
        queued = [house.invoke(f, {}, Prefer="respond-async").json["id"] for f in ("show", "fail")]
        wait(lambda: all(job(house, each)["attempts"] for each in queued))
        backup = house.call("GET", "/v1/backup", token="admin")
        assert house.call("POST", "/v1/secrets/rotate", token="admin").json["sealed"] == 3
        assert value not in processes(house) + json.dumps([house.logs(f) for f in ("show", "fail", "die")])
        house.process.kill()  # and all that it started with it: what was not put away is looked at too
        house.process.wait()
    left = found(value, data)
    with started(data) as house:  # which clears up after it
        assert house.invoke("show", {}).json == len(value)
    archive, unpacked = tmp_path / "backup.tar", tmp_path / "unpacked"
    archive.write_bytes(backup.body)
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked)
    assert (unpacked / "secrets.key").is_file()
    assert left + found(value, data, tmp_path / "serve.log", unpacked) == []
    (tmp_path / "control").write_bytes(b"ab" + base64.b64encode(b"x" + value.encode() + b"yz"))
    assert len(found(value, tmp_path / "control")) >= 1
    with sqlite3.connect(data / "pyfaas.db") as database:
        assert database.execute("SELECT count(*) FROM secrets").fetchone()[0] == 3
        assert value not in str([*database.iterdump()])


def test_keys_survive_what_a_server_goes_through(tmp_path: Path) -> None:
    """Secrets open after a restart, a rotation, a backup restored elsewhere; without the key a start is refused and says what to do."""
    value, data, other = canary(), tmp_path / "data", tmp_path / "other"
    with started(data) as house:
        house.deploy("show", SHOW)
        kept(house, "show", "KEY", value)
        first = (data / "secrets.key").read_text()
        assert ((data / "secrets.key").stat().st_mode & 0o777, len(first.splitlines())) == (0o600, 1)
    with started(data) as house:
        assert house.invoke("show", {}).json == {"KEY": value}
        rotated = house.call("POST", "/v1/secrets/rotate", token="admin").json
        wait(lambda: len((data / "secrets.key").read_text().splitlines()) == 1)
        assert (data / "secrets.key").read_text().split()[0] == rotated["key"] != first.split()[0]
        assert house.invoke("show", {}).json == {"KEY": value}
        (tmp_path / "backup").write_bytes(house.call("GET", "/v1/backup", token="admin").body)
    restored = [sys.executable, "-m", "pyfaas", "restore", str(tmp_path / "backup"), "--data-dir", str(other)]
    assert subprocess.run(restored, cwd=REPOSITORY, check=False, capture_output=True, timeout=60).returncode == 0
    with started(other) as house:
        assert house.invoke("show", {}).json == {"KEY": value}
    key = other / "secrets.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.rename(tmp_path / "aside")
    complaint = told(other)
    assert "secrets.key is gone" in complaint
    assert "backup" in complaint
    assert not key.exists()
    key.write_text(first)
    with started(other) as house:  # another key than theirs: they stay closed, the rest goes on
        closed = house.invoke("show", {})
        assert (closed.status, closed.json["code"]) == (500, "internal")
        assert "'KEY'" in closed.json["detail"]
        kept(house, "show", "KEY", "again")
        assert house.invoke("show", {}).json == {"KEY": "again"}


def test_a_credential_takes_the_files_place(tmp_path: Path) -> None:
    """Keys that systemd gives are used and kept out of the data directory; a new first line seals anew at the next start."""
    value, data, given = canary(), tmp_path / "data", tmp_path / "credentials"
    given.mkdir()
    lines = [f"k{n} {base64.b64encode(secrets.token_bytes(32)).decode()} {n}\n" for n in range(2)]
    (given / "pyfaas-secrets-key").write_text(lines[0])
    env = {"CREDENTIALS_DIRECTORY": str(given)}
    with started(data, env=env) as house:
        house.deploy("show", SHOW)
        kept(house, "show", "KEY", value)
        refused = house.call("POST", "/v1/secrets/rotate", token="admin")
        assert (refused.status, refused.json["code"]) == (409, "conflict")
        assert lines[0].split()[1] not in processes(house)
    (given / "pyfaas-secrets-key").write_text(lines[1] + lines[0])
    with started(data, env=env) as house:
        assert house.invoke("show", {}).json == {"KEY": value}
        wait(lambda: sealed_with(data) == {"k1"})
    assert not (data / "secrets.key").exists()
    assert found(lines[0].split()[1], data, tmp_path / "serve.log") == []
    shutil.rmtree(given)
    assert "secrets.key is gone" in told(data)


def sealed_with(data: Path) -> set[str]:
    """Return the ids of the keys that the database's rows need."""
    with sqlite3.connect(data / "pyfaas.db") as database:
        return {row[0] for row in database.execute("SELECT DISTINCT key_id FROM secrets")}


def test_lent_runs_get_what_was_given_along(house: House, name: Callable[[], str]) -> None:
    """A lent run has the alias's secrets, those of the owner's that the grant names, and parameters; a call against these is told which."""
    f, alias, holder = name(), name(), house.account("secrets-holder")
    travels, stays, theirs, locked = (canary() for _ in range(4))
    house.deploy(f, "def handler(event, context):\n    return [event, context.params, context.secrets, context.caller, context.alias]\n")
    for key, value in (("TRAVELS", travels), ("STAYS", stays)):
        kept(house, f, key, value)
    terms = {"lock": {"model": locked}, "require": ["size"], "secrets": ["TRAVELS"]}
    granted = house.call("PUT", f"/v1/functions/{f}/grants/{holder}", json.dumps(terms), content_type="application/json")
    assert granted.status in (200, 201), granted.body
    order = {"target": f"default/{f}", "params": {}, "secrets": {"THEIRS": theirs}}
    bound = house.call("PUT", f"/v1/aliases/{alias}", json.dumps(order), token=holder, content_type="application/json")
    assert bound.status in (200, 201), bound.body
    event, params, found, caller, called = house.invoke(alias, {"size": 1, "text": "a"}, token=holder).json
    assert (event, params) == ({"size": 1, "text": "a", "model": locked}, {"size": 1, "model": locked})
    assert (found, called) == ({"TRAVELS": travels, "THEIRS": theirs}, alias)
    assert caller == house.call("GET", "/v1/whoami", token=holder).json["id"]
    for sent, told_ in (({"size": 1, "model": "other"}, "the parameter 'model' is set by the owner"), ({}, "the parameter 'size' is missing")):
        refused = house.invoke(alias, sent, token=holder)
        assert (refused.status, refused.json["code"], refused.json["detail"]) == (400, "invalid_event", told_)
        assert locked.encode() not in refused.body
    assert house.invoke(f, {}).json[2] == {"TRAVELS": travels, "STAYS": stays}
    listed = house.call("GET", f"/v1/aliases/{alias}", token=holder)
    assert listed.json["secrets"] == ["THEIRS"]
    assert theirs.encode() not in listed.body
