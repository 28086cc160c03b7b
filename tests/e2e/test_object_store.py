"""Code that lives in object storage: what a deploy is then, and what happens when the store fails in the middle of one.

Versions are prepared when they are first called (`preload=false`), so that a test can harm the store between the two.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyfaas.adapters.claims import OWNER
from pyfaas.model import VersionState
from tests.adapters.object_store import ObjectStore, certificate, object_store
from tests.e2e.house import REPOSITORY, House, packed, running, started
from tests.e2e.ordinary import group_of, home_of

SIZE = 400_000
UID = 64_124


def code(version: int) -> bytes:
    """Return a bundle that takes its time on a slow way: random bytes are not packed."""
    noise = random.Random(version).randbytes(SIZE)  # noqa: S311 - the same each time
    return packed({"main.py": f"def handler(e, c):\n    return {version}\n", "noise.bin": noise})


@pytest.fixture(scope="module")
def storage() -> Iterator[ObjectStore]:
    """Start the object store."""
    with object_store() as opened:
        yield opened


@pytest.fixture(scope="module")
def place(storage: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Start a server that keeps bundles there and prepares a version when it is called."""
    data = tmp_path_factory.mktemp("objects") / "data"
    with started(data, *storage.flags, "-s", "preload=false", env=storage.env) as house:
        yield house


@pytest.fixture
def objects(storage: ObjectStore) -> Iterator[ObjectStore]:
    """Give the store in order; what a test broke is mended, for the server that goes on."""
    storage.reset()
    yield storage
    storage.reset()


def publish(house: House, name: str, version: int) -> None:
    """Publish a version that is then stored, and not yet prepared."""
    answer = house.put(name, code(version))
    assert (answer.status, answer.json["version"]) == (201, version), answer.body


def served(house: House, name: str, objects: ObjectStore) -> None:
    """Publish version 1 and call it, and publish version 2."""
    publish(house, name, 1)
    assert house.invoke(name).json == 1
    publish(house, name, 2)
    assert len(objects.keys()) == 2


def key(house: House, name: str, version: int) -> str:
    """Return the key of a version's object."""
    return f"bundles/{shown(house, name, version)['bundle']}.zip"


def shown(house: House, name: str, version: int) -> Any:
    """Return what the server says of a version."""
    return house.call("GET", f"/v1/functions/{name}/versions/{version}").json


def ended(house: House, name: str, version: int) -> tuple[str, str]:
    """Wait until a version is ready or failed; returns that and the reason's code."""
    found = house.wait(name, version).json
    return found["state"], (found["reason"] or {}).get("code", "")


def near(house: House) -> list[str]:
    """Return what lies in the near store."""
    return sorted(path.name for path in (house.data / "bundles").iterdir() if path.name != OWNER)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a limit that only a test that fails reaches."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_code_lives_in_the_store_only(place: House, objects: ObjectStore) -> None:
    """A deploy puts the bundle into the store and nothing under the data directory; all calls at once cost one download."""
    publish(place, "only", 1)
    assert (objects.keys(), near(place)) == ([key(place, "only", 1)], [])
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: place.invoke("only").json, range(20)))
    assert answers == [1] * 20
    assert ended(place, "only", 1) == (VersionState.READY, "")
    counts = objects.counts()
    assert (counts["gets"], counts["puts"], near(place)) == (1, 1, [])
    assert counts["bytes"] > SIZE
    figures = dict(line.rsplit(" ", 1) for line in place.call("GET", "/metrics").body.decode().splitlines() if "bundle_download" in line)
    assert float(figures['pyfaas_bundle_downloads_total{end="finished"}']) >= 1
    assert float(figures["pyfaas_bundle_download_bytes_total"]) >= SIZE


def test_a_download_that_takes_its_time_keeps_nobody_waiting(place: House, objects: ObjectStore) -> None:
    """While version 2 is on its way version 1 answers, and how far it is can be read; then version 2 answers."""
    served(place, "slow", objects)
    objects.rate(400_000)
    assert place.invoke("slow").json == 1
    until(lambda: any(name.endswith(".part") for name in near(place)))
    assert place.invoke("slow").json == 1
    assert ended(place, "slow", 2) == (VersionState.READY, "")
    until(lambda: place.invoke("slow").json == 2)
    told = place.call("GET", "/v1/functions/slow/events").json["items"]
    fetched = [(one["done"], one["total"]) for one in told if one["version"] == 2 and one.get("step") == "fetch"]
    assert fetched == sorted(fetched)
    assert fetched[-1][0] == fetched[-1][1] > SIZE
    assert (objects.counts()["gets"], near(place)) == (2, [])


def test_a_store_that_goes_away_in_the_middle(place: House, objects: ObjectStore) -> None:
    """A download that always breaks off is tried again and then the version's failure, by name; version 1 answers on."""
    served(place, "cut", objects)
    before = objects.counts()["gets"]
    objects.cut_after(SIZE // 2)
    assert place.invoke("cut").json == 1
    assert ended(place, "cut", 2) == (VersionState.FAILED, "bundle_unreachable")
    assert "cannot be reached" in shown(place, "cut", 2)["reason"]["message"]
    assert objects.counts()["gets"] > before + 1
    assert (place.invoke("cut").json, near(place)) == (1, [])
    objects.cut_after(0, times=0)
    assert place.put("cut", code(2)).status == 200
    until(lambda: place.invoke("cut").json == 2)


def test_a_store_that_lies_about_bytes(place: House, objects: ObjectStore) -> None:
    """Bytes that are not what was published never run; publishing the code again mends it."""
    served(place, "lies", objects)
    objects.spoil(key(place, "lies", 2))
    assert place.invoke("lies").json == 1
    assert ended(place, "lies", 2) == (VersionState.FAILED, "bundle_corrupt")
    assert "publish" in shown(place, "lies", 2)["reason"]["message"]
    assert (place.invoke("lies").json, near(place)) == (1, [])
    assert place.put("lies", code(2)).status == 200
    until(lambda: place.invoke("lies").json == 2)


def test_a_store_that_lies_and_agrees_with_itself(place: House, objects: ObjectStore) -> None:
    """Another whole bundle under a version's name, with a sum that is right, is seen where it is unpacked, and never runs."""
    served(place, "false", objects)
    objects.swap(key(place, "false", 2), key(place, "false", 1))
    assert place.invoke("false").json == 1
    assert ended(place, "false", 2) == (VersionState.FAILED, "bundle_corrupt")
    assert (place.invoke("false").json, near(place)) == (1, [])
    assert place.put("false", code(2)).status == 200
    until(lambda: place.invoke("false").json == 2)


def test_a_store_that_lost_an_object(place: House, objects: ObjectStore) -> None:
    """An object that is gone is the version's failure, by name; publishing the code again mends it."""
    served(place, "lost", objects)
    objects.lose(key(place, "lost", 2))
    assert place.invoke("lost").json == 1
    assert ended(place, "lost", 2) == (VersionState.FAILED, "bundle_missing")
    assert (place.invoke("lost").json, near(place)) == (1, [])
    assert place.put("lost", code(2)).status == 200
    until(lambda: place.invoke("lost").json == 2)


def test_a_store_that_is_away_at_a_publication(place: House, objects: ObjectStore) -> None:
    """A publication that cannot be kept is refused with what to do, and nothing of it is kept; what is deployed goes on."""
    publish(place, "away", 1)
    assert place.invoke("away").json == 1
    objects.away()
    refused = place.put("away", code(2))
    assert (refused.status, refused.json["code"], int(refused.headers["retry-after"]) > 0) == (503, "not_ready", True)
    assert ("object store" in refused.json["detail"], "127.0.0.1" in refused.body.decode()) == (True, False)
    assert (place.put("away", code(1)).status, place.invoke("away").json) == (200, 1)  # it has that: nothing is to be kept
    objects.back()
    assert [one["version"] for one in place.call("GET", "/v1/functions/away/versions").json["items"]] == [1]
    assert (len(objects.keys()), near(place)) == (1, [])
    publish(place, "away", 2)


def test_a_store_that_hangs_holds_up_only_who_needs_it(place: House, objects: ObjectStore) -> None:
    """While one publication waits for the store, another that needs nothing of it is answered, as are calls; both are kept."""
    publish(place, "other", 1)
    assert place.invoke("other").json == 1
    objects.stall()
    before = objects.counts()["heads"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(place.put, "hangs", code(1))
        until(lambda: objects.counts()["heads"] > before)
        assert (place.put("other", code(1), concurrency=7).status, place.invoke("other").json) == (200, 1)
        assert not waiting.done()
        objects.back()
        assert waiting.result().status == 201


def test_a_backup_holds_what_the_store_holds(place: House, objects: ObjectStore, tmp_path: Path) -> None:
    """A backup is restored, and prepared anew, where there is no object store."""
    publish(place, "kept", 1)
    (tmp_path / "all.tar").write_bytes(place.call("GET", "/v1/backup", token="admin").body)
    assert near(place) == []
    command = [sys.executable, "-m", "pyfaas", "restore", str(tmp_path / "all.tar"), "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects.away()
    with started(tmp_path / "data") as restored:
        assert restored.invoke("kept").json == 1


def test_a_server_that_is_killed_in_the_middle_of_a_download(objects: ObjectStore, tmp_path: Path) -> None:
    """The next server removes what was on its way, downloads it again, and the version is ready; version 1 answers before."""
    with started(tmp_path / "data", *objects.flags, "-s", "preload=false", env=objects.env) as house:
        served(house, "killed", objects)
        objects.rate(100_000)
        assert house.invoke("killed").json == 1
        until(lambda: any(path.stat().st_size for path in (house.data / "bundles").glob("*.part")))
        left = near(house)
        server = house.children()["server"]
        os.kill(server, signal.SIGKILL)
        until(lambda: house.children().get("server", server) != server)
        until(lambda: _answers(house, "killed"))
        until(lambda: not set(left) & set(near(house)))
        objects.rate(0)
        assert ended(house, "killed", 2) == (VersionState.READY, "")
        until(lambda: house.invoke("killed").json == 2)
        assert near(house) == []


def _answers(house: House, name: str) -> bool:
    try:
        return bool(house.invoke(name).status == 200)
    except OSError:
        return False


SEEN = """
import os
def handler(event, context):
    seen = [repr(dict(os.environ))]
    for name in os.listdir("/proc"):
        try: seen.append(open(f"/proc/{name}/environ").read())
        except OSError as error: seen.append(type(error).__name__)
    return seen
"""


def test_keys_and_authorities_are_the_servers_alone(tmp_path: Path) -> None:
    """Over https, with an authority that only the keeper can read; keys are in no output, no VM and no data directory."""
    alone, both = certificate(tmp_path)
    alone.chmod(0o600)
    with object_store(certificate=both) as objects:
        env = {**objects.env, "AWS_CA_BUNDLE": str(alone), "AWS_SECRET_ACCESS_KEY": "the-secret-word"}
        with started(tmp_path / "data", *objects.flags, env=env) as house:
            assert house.deploy("seen", SEEN).json["state"] == "ready"
            answer = house.invoke("seen")
            assert (answer.status, b"the-secret-word" in answer.body) == (200, False), answer.body
        assert len(objects.keys()) == 1
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert files
    assert [path for path in [*files, tmp_path / "serve.log"] if b"the-secret-word" in path.read_bytes()] == []
    shown = serve("-s", "bundles=s3://code/x", "--print-config", AWS_SECRET_ACCESS_KEY="the-secret-word")
    assert ("s3://code/x" in shown.stdout, "the-secret-word" in shown.stdout + shown.stderr) == (True, False)


def serve(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `pyfaas serve` where it ends by itself."""
    command = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", "--data-dir", "/nonexistent/data", *options]
    return subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False)


def test_a_wrong_place_is_refused_in_one_line() -> None:
    """A server that could keep no code does not start, and says which option is wrong."""
    for options, said in ((("bundles=gs://x",), "s3://BUCKET/PREFIX"), (("bundles=s3://code/x", "s3_endpoint=localhost"), "s3_endpoint")):
        done = serve(*(word for option in options for word in ("-s", option)))
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1), done.stderr
        assert said in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root; run as a user, every other test is this test")
def test_an_ordinary_users_server_reaches_the_store(objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of an ordinary user, confined in a user namespace, keeps code there likewise."""
    for name, value in objects.env.items():
        monkeypatch.setenv(name, value)
    home = home_of(UID, tmp_path)
    script = str(Path(__file__).with_name("as_user.py"))
    with group_of(UID) as group:
        serving = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", *objects.flags, "--data-dir", str(home)]
        with running([sys.executable, script, str(UID), group, *serving], home) as house:
            assert house.deploy("mine", "def handler(e, c):\n    return 7\n").json["state"] == "ready"
            assert house.invoke("mine").json == 7
            assert (len(objects.keys()), near(house)) == (1, [])
