"""A backup of a server that is busy, and a second server that goes on from it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.house import REPOSITORY, House, packed, started

SOURCE = "import time\ndef handler(e, c):\n    time.sleep((e or {}).get('s', 0))\n    return {'n': (e or {}).get('n'), 'version': c.function_version}\n"
UNREACHABLE = dict.fromkeys(("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"), "http://127.0.0.1:1/simple")


def pyfaas(*words: str, data: Path | None = None, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command against the server of a data directory, or against nobody's."""
    env = {**os.environ, "HOME": "/nonexistent", "PYFAAS_DATA_DIR": str(data or "/nonexistent"), **options.pop("env", {})}
    given = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 100} | options
    if "input" in given:
        del given["stdin"]
    return subprocess.run([sys.executable, "-m", "pyfaas", *words], cwd=REPOSITORY, env=env, check=False, **given)


class Load:
    """Clients that deploy, call, queue and make tokens until told to stop; `acknowledged` holds what the server promised."""

    def __init__(self, house: House) -> None:
        """Begin with nothing promised."""
        self.house = house
        self.functions: list[str] = []
        self.jobs: list[str] = []
        self.tokens: list[str] = []
        self.calls = 0
        self.failures: list[Any] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._again, args=(work,)) for work in (self.deploy, self.call, self.queue, self.token)]

    def __enter__(self) -> Self:
        """Begin, and return when each kind has been promised some."""
        for thread in self._threads:
            thread.start()
        self.wait(lambda: min(len(self.functions), len(self.jobs), len(self.tokens), self.calls) >= 3)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and wait for what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, enough: Callable[[], bool]) -> None:
        """Wait until something has happened, or a failure shows that it will not."""
        until = time.monotonic() + 60
        while not enough() and not self.failures and time.monotonic() < until:
            time.sleep(0.01)
        assert enough(), self.failures

    def promised(self) -> tuple[list[str], list[str], list[str]]:
        """Return what has been promised by now."""
        return list(self.functions), list(self.jobs), list(self.tokens)

    def _again(self, work: Callable[[int], None]) -> None:
        n = 0
        while not self._stop.is_set():
            n += 1
            try:
                work(n)
            except Exception as error:  # noqa: BLE001 - told by the test, not by a thread that ends
                self.failures.append(error)
                return
            time.sleep(0.02)

    def deploy(self, n: int) -> None:
        """Publish a new function."""
        answer = self.house.deploy(f"load{n}", SOURCE + f"# {n}\n")
        self._see(answer.json["state"] == "ready", answer)
        self.functions.append(f"load{n}")

    def call(self, n: int) -> None:
        """Call a function."""
        answer = self.house.invoke("f", {"n": n})
        self._see(answer.status == 200 and answer.json["n"] == n, answer)
        self.calls += 1

    def queue(self, n: int) -> None:
        """Queue a call, some of which are waiting or running at any time."""
        answer = self.house.invoke("f", {"n": n, "s": 0.05}, Prefer="respond-async")
        self._see(answer.status == 202, answer)
        self.jobs.append(answer.json["id"])

    def token(self, n: int) -> None:
        """Make a token."""
        answer = self.house.call("POST", "/v1/tokens", json.dumps({"label": str(n)}), content_type="application/json")
        self._see(answer.status == 201, answer)
        self.tokens.append(answer.json["token"])

    def _see(self, is_good: bool, answer: Any) -> None:
        if not is_good:
            self.failures.append(answer)


def check_database(archive: Path, directory: Path) -> None:
    """See that the database in a backup is whole, and that every key in it leads somewhere."""
    with tarfile.open(archive) as tar:
        content = tar.extractfile("pyfaas.db")
        assert content is not None
        (directory / "pyfaas.db").write_bytes(content.read())
    with contextlib.closing(sqlite3.connect(directory / "pyfaas.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


def wheel(directory: Path) -> None:
    """Write the wheel of a distribution with one module, as the binary distribution format has it."""
    directory.chmod(0o755)
    info = "pyfaas_lent-1.0.dist-info"
    files = {
        "lent.py": "ANSWER = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: pyfaas-lent\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"lent.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    (directory / "pyfaas_lent-1.0-py3-none-any.whl").write_bytes(packed(files))


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return a server that holds a bit of everything."""
    place = tmp_path_factory.mktemp("busy")
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as wheels,  # not in /tmp: a VM has its own there
        started(place / "data", env={"PIP_FIND_LINKS": wheels}) as house,
    ):
        wheel(Path(wheels))
        assert house.deploy("f", SOURCE).json["state"] == "ready"
        assert house.deploy("f", SOURCE + "# 2\n").json["state"] == "ready"
        body = json.dumps({"version": 1, "weights": {"2": 10}})
        assert house.call("PUT", "/v1/functions/f/aliases/live", body, content_type="application/json").status == 200
        house.account("other")
        assert house.deploy("theirs", SOURCE, token="other").json["state"] == "ready"
        answer = house.deploy("lent", "import lent\ndef handler(e, c):\n    return lent.ANSWER\n", requirements=["pyfaas-lent==1.0"])
        assert answer.json["state"] == "ready", answer.json["reason"]
        yield house


def test_a_backup_under_load_is_restored_with_all_that_was_promised(busy: House, tmp_path: Path) -> None:
    """While clients deploy, call, queue and make tokens, none fails; a server made of the backup has what was promised before it."""
    archive = tmp_path / "backup.tar"
    with Load(busy) as load:
        functions, jobs, tokens = load.promised()
        done = pyfaas("backup", str(archive), data=busy.data)
        after = load.calls
        load.wait(lambda: load.calls > after)
    assert (done.returncode, done.stdout, load.failures) == (0, "", [])
    assert archive.stat().st_mode & 0o777 == 0o600
    check_database(archive, tmp_path)
    restored = pyfaas("restore", str(archive), "--data-dir", str(tmp_path / "new"))
    assert restored.returncode == 0, restored.stderr
    keys = [(busy.data / name).read_text() for name in ("admin.token", "default.token")]
    assert [(tmp_path / "new" / name).read_text() for name in ("admin.token", "default.token")] == keys
    with started(tmp_path / "new", env=UNREACHABLE) as house:
        house.tokens.update(busy.tokens)
        assert house.invoke("theirs", {"n": 1}, token="other").json["n"] == 1
        assert house.invoke("lent").json == 42
        assert [house.invoke(name, {"n": 2}).json["n"] for name in functions] == [2] * len(functions)
        assert house.call("GET", "/v1/functions/f/aliases/live").json == {"version": 1, "weights": {"2": 10}, "canary": None}
        for text in tokens:
            house.tokens["one"] = text
            assert house.call("GET", "/v1/whoami", token="one").json["account"] == "default"
        for job in jobs:
            assert house.call("GET", f"/v1/invocations/{job}?wait=30").json["state"] == "succeeded"
        assert house.deploy("f", SOURCE + "# 3\n").json["version"] == 3
    assert jobs
    assert functions
    assert tokens


def test_a_backup_goes_through_pipes(busy: House, tmp_path: Path) -> None:
    """`backup -` writes to stdout and `restore -` reads stdin, with nothing else said in between."""
    made = pyfaas("backup", "-", data=busy.data, text=False)
    assert (made.returncode, made.stderr) == (0, b"")
    restored = pyfaas("restore", "-", "--data-dir", str(tmp_path / "new"), "-o", "json", input=made.stdout, text=False)
    assert restored.returncode == 0, restored.stderr
    assert {key: json.loads(restored.stdout)[key] for key in ("accounts", "functions", "versions")} == counts(busy)


def counts(house: House) -> dict[str, int]:
    """Return how many living accounts, functions and versions a server has."""
    names = [[f["name"] for f in house.call("GET", "/v1/functions?limit=1000", token=token).json["items"]] for token in ("default", "other")]
    versions = len(house.call("GET", "/v1/functions/f/versions?limit=1000").json["items"])
    functions = sum(map(len, names))
    return {"accounts": 2, "functions": functions, "versions": functions - 1 + versions}


def test_what_is_there_is_not_written_over(busy: House, tmp_path: Path) -> None:
    """A file, and a data directory that holds anything, a served one most of all, stay as they are unless the file is given up."""
    archive = tmp_path / "backup.tar"
    archive.write_text("mine")
    refused = pyfaas("backup", str(archive), data=busy.data)
    assert (refused.returncode, archive.read_text()) == (2, "mine")
    assert "--force" in refused.stderr
    assert pyfaas("backup", str(archive), "--force", data=busy.data).returncode == 0
    refused = pyfaas("restore", str(archive), "--data-dir", str(busy.data))
    assert refused.returncode == 2
    assert str(busy.data) in refused.stderr
    assert "not empty" in refused.stderr
    assert busy.invoke("f", {"n": 4}).json["n"] == 4


def test_only_an_admin_takes_a_backup(busy: House, tmp_path: Path) -> None:
    """An account's token is refused with 403, the command ends with 4 and leaves no file."""
    assert busy.call("GET", "/v1/backup").status == 403
    variables = {"PYFAAS_URL": busy.url, "PYFAAS_TOKEN": busy.token("default")}
    refused = pyfaas("backup", str(tmp_path / "b.tar"), env=variables)
    assert refused.returncode == 4
    assert list(tmp_path.glob("*b.tar*")) == []


def _answer_once(listening: socket.socket, sent: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(sent)


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n"], ids=["cut", "ended too early"])
def test_a_broken_stream_leaves_no_file(end: bytes, tmp_path: Path) -> None:
    """An answer that is cut, or that ends without a backup's end, is told, ends with 3, and no file is there afterwards."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer_once, args=(listening, head + b"3e8\r\n" + bytes(1000) + b"\r\n" + end))
        thread.start()
        variables = {"PYFAAS_URL": f"http://127.0.0.1:{listening.getsockname()[1]}", "PYFAAS_TOKEN": "pf_x"}
        ended = pyfaas("backup", str(tmp_path / "b.tar"), env=variables)
        thread.join()
    assert ended.returncode == 3
    assert "broke off" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_leaves_ends_the_backup(busy: House) -> None:
    """After a client left in the middle the next backup is taken, and the copy of the database is gone."""
    assert busy.put("large", _incompressible(16 << 20)).status == 201
    host, port = busy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        request = f"GET /v1/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {busy.token('admin')}\r\n\r\n"
        connection.sendall(request.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert busy.call("GET", "/v1/backup", token="admin").status == 409
    until = time.monotonic() + 30
    while (answer := busy.call("GET", "/v1/backup", token="admin")).status != 200 and time.monotonic() < until:
        time.sleep(0.05)
    assert answer.status == 200
    assert list(busy.data.glob("*.part*")) == []
    assert busy.call("DELETE", "/v1/functions/large").status == 204


def _incompressible(size: int) -> bytes:
    """Return a bundle with that much in it."""
    return packed({"main.py": SOURCE, "blob": os.urandom(size)})


def test_versions_without_their_files_are_prepared_again(tmp_path: Path) -> None:
    """When the code that containers see is gone, the next start makes it from the bundle, and the same versions answer."""
    with started(tmp_path / "data") as house:
        assert house.deploy("f", SOURCE).json["state"] == "ready"
    for tree in (tmp_path / "data" / "prepared").iterdir():
        subprocess.run(["rm", "-rf", str(tree)], check=True)
    with started(tmp_path / "data") as house:
        assert house.wait("f", 1).json["state"] == "ready"
        assert house.invoke("f", {"n": 5}).json == {"n": 5, "version": "1"}
