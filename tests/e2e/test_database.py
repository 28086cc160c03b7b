"""A server whose database is not what it should be refuses in one line; one of an earlier release goes on."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.house import REPOSITORY, given_up, started

FIRST = REPOSITORY / "tests" / "adapters" / "version1.sql"


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory in which a server has been, and is no more."""
    data = tmp_path_factory.mktemp("used") / "data"
    with started(data) as house:
        assert house.account("other") == "other"
    return data


def newer(path: Path) -> None:
    """Make it a later release's."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO _migrations VALUES (99, 'from the future', '9.8.7', 0)")
        connection.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    """Write over two pages in the middle."""
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 8192)


def read_only(path: Path) -> None:
    """Take the right to write away."""
    path.chmod(0o400)


BROKEN = {
    newer: ("pyfaas 9.8.7", "start pyfaas 9.8.7"),
    damaged: ("damaged", "pyfaas restore"),
    read_only: ("cannot be written", "writable"),
}


@pytest.mark.parametrize(("harm", "said"), BROKEN.items(), ids=[harm.__name__ for harm in BROKEN])
def test_a_database_that_is_not_right_is_refused(harm: Callable[[Path], None], said: tuple[str, ...], used: Path, tmp_path: Path) -> None:
    """`serve` ends with 3 and one line that says what is wrong and what to do, and does not begin anew."""
    data = tmp_path / "data"
    subprocess.run(["cp", "-a", str(used), str(data)], check=True)
    harm(data / "pyfaas.db")
    left = {p.name: p.stat().st_size for p in data.glob("pyfaas.db") if p.stat().st_size}
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", *given_up(), "--data-dir", str(data)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    for words in said:
        assert words in ended.stderr
    assert {p.name: p.stat().st_size for p in data.glob("pyfaas.db") if p.stat().st_size} == left


def test_a_database_of_the_first_schema_is_served(tmp_path: Path) -> None:
    """A data directory of the first release is migrated at the start: its accounts are there, and new things are made."""
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(sqlite3.connect(data / "pyfaas.db")) as connection:
        connection.executescript(FIRST.read_text())
    with started(data, "-s", "drain_seconds=1") as house:  # its queued call waits for a version that cannot be prepared
        shown = house.call("GET", "/v1/accounts", token="admin").json["items"]
        assert {"alice", "default"} <= {account["account"] for account in shown}
        assert house.deploy("f", "def handler(e, c):\n    return e").json["state"] == "ready"
        assert house.invoke("f", 3).json == 3
        assert (data / "pyfaas.db.before-migration").exists()
