"""A disk that is full: what must be kept is refused, what need not be goes on, and room that is made is used at once."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.house import Answer, House, packed, started

SOURCE = "def handler(e, c):\n    print('said')\n    return e\n"
ROOM = 48 << 20
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root; tests/adapters has a full disk for everybody")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of a few MiB; a server's own mounts on it are gone before it is."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=755", "pyfaas-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Take all the room that there is, to the last byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with contextlib.suppress(OSError):
            while True:
                file.write(b"x")
    yield
    ballast.unlink()


def post(house: House, path: str, **body: object) -> Answer:
    """Send a JSON body as the admin."""
    return house.call("POST", path, json.dumps(body), token="admin", content_type="application/json")


def until_refused(house: House) -> tuple[list[str], Answer]:
    """Queue calls until one is refused; returns those that were acknowledged, and the refusal."""
    kept: list[str] = []
    for n in range(500):
        answer = house.invoke("f", {"n": n, "pad": "x" * 100_000}, Prefer="respond-async")
        if answer.status != 202:
            return kept, answer
        kept.append(answer.json["id"])
    pytest.fail("the disk is not full")


def first_refused(write: Callable[[int], Answer]) -> Answer:
    """Write small things until one is refused; returns the refusal."""
    for n in range(2000):
        if (answer := write(n)).status >= 400:
            return answer
    pytest.fail("the disk is not full")


def check_refusal(answer: Answer) -> None:
    """See that a refusal says what it is, whose fault, and how it is known."""
    shown = answer.json
    assert (answer.status, shown["code"], shown["fault"]) == (507, "storage_full", "platform")
    assert shown["hint"]
    assert shown["evidence"]


def check_whole(data: Path, accounts: set[str]) -> None:
    """See that the database is whole, holds these accounts, and that no half-written file lies about."""
    with contextlib.closing(sqlite3.connect(data / "pyfaas.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert {row[0] for row in database.execute("SELECT name FROM accounts")} == accounts
    assert [path for path in data.rglob("*") if path.name.endswith((".part", ".new"))] == []


@needs_root
def test_a_full_disk_refuses_writes_and_runs_calls(disk: Path) -> None:
    """Publications, queued calls, accounts and tokens are 507, calls are answered, and with room all goes on with nothing lost."""
    with started(disk / "data", "-s", "reserve_bytes=0") as house:
        assert house.deploy("f", SOURCE).json["state"] == "ready"
        with full(disk):
            jobs, refused = until_refused(house)
            check_refusal(refused)
            # What is small may find room in pages that are free already, but not for ever.
            check_refusal(first_refused(lambda n: post(house, "/v1/accounts", name=f"small{n}")))
            check_refusal(first_refused(lambda n: post(house, "/v1/tokens", label=f"{n}" + "x" * 150)))
            check_refusal(house.put("g", packed({"main.py": SOURCE, "blob": os.urandom(1 << 20)})))
            check_refusal(house.call("GET", "/v1/backup", token="admin"))
            assert [house.invoke("f", n).json for n in range(50)] == list(range(50))
        seen = [account["account"] for account in house.call("GET", "/v1/accounts", token="admin").json["items"]]
        assert house.call("GET", "/v1/functions/g").status == 404
        for job in jobs:
            assert house.call("GET", f"/v1/invocations/{job}?wait=60").json["state"] == "succeeded"
        assert house.deploy("g", SOURCE).json["state"] == "ready"
        assert post(house, "/v1/accounts", name="late").status == 201
        assert post(house, "/v1/tokens/rotate-admin").status == 200
    check_whole(disk / "data", {*seen, "late"})
    with started(disk / "data") as house:
        rows = house.call("GET", "/v1/usage", token="admin").json["items"]
        calls = sum(row["outcomes"].get("ok", 0) for row in rows if row["function"] == "f" and row["kind"] == "call")
        assert calls == 50 + len(jobs)


@needs_root
def test_a_disks_reserve_is_left_to_what_is_small(disk: Path) -> None:
    """With less room than the reserve a publication is refused by the option's name, and calls are queued and run."""
    with started(disk / "data") as house:
        assert house.deploy("f", SOURCE).status == 507, "the disk is smaller than the reserve"
    with started(disk / "data", "-s", f"reserve_bytes={ROOM // 2}") as house:
        assert house.deploy("f", SOURCE).json["state"] == "ready"
        with (disk / "ballast").open("wb") as ballast:
            ballast.write(bytes(ROOM * 6 // 10))
        refused = house.put("g", packed({"main.py": SOURCE + "# 2"}))
        check_refusal(refused)
        assert refused.json["evidence"]["limit"] == "reserve_bytes"
        job = house.invoke("f", 1, Prefer="respond-async").json["id"]
        assert house.call("GET", f"/v1/invocations/{job}?wait=60").json["state"] == "succeeded"
        (disk / "ballast").unlink()
        assert house.deploy("g", SOURCE + "# 2").json["state"] == "ready"
