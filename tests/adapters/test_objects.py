"""Bundles in object storage that is slow, goes away, lies or forgets; and where bundles are kept, as options say it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pyfaas.adapters import places
from pyfaas.adapters.bucket import Bucket, Patience
from pyfaas.adapters.claims import OWNER
from pyfaas.adapters.objects import ObjectBundles
from pyfaas.errors import Code, PyfaasError
from tests.adapters.object_store import ObjectStore, certificate, object_store

DIGEST = "sha256-" + "b" * 64
ZIP = bytes(range(256)) * 2400
SIZE = len(ZIP)
HURRIED = Patience(attempts=2, back_off_s=0.01, connect_s=2.0, silent_s=0.5, write_s=0.5, slowest=10 << 20)
PATIENT = Patience(attempts=2, back_off_s=0.01)


@pytest.fixture
def bundles(objects: ObjectStore, tmp_path: Path) -> ObjectBundles:
    """Give bundles in it that wait as long as a busy machine may take."""
    return ObjectBundles(Bucket(objects.place(), PATIENT), tmp_path)


def hurried(objects: ObjectStore, near: Path) -> ObjectBundles:
    """Give bundles that lose patience within half a second."""
    return ObjectBundles(Bucket(objects.place(), HURRIED), near)


async def refusal(awaited: Any) -> PyfaasError:
    """Return what is raised."""
    with pytest.raises(PyfaasError) as raised:
        await awaited
    return raised.value


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a limit that only a test that fails reaches."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def left(near: Path) -> list[str]:
    """Return what lies in the near store."""
    return sorted(path.name for path in near.iterdir() if path.name != OWNER)


@pytest.mark.asyncio
async def test_nothing_stays_near(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """A bundle is kept in the store only; it comes near while it is held, and the disk is empty again afterwards."""
    await bundles.put(DIGEST, ZIP)
    assert (objects.keys(), left(tmp_path)) == ([f"bundles/{DIGEST}.zip"], [])
    name = await bundles.path_name(DIGEST)
    assert (tmp_path / name).read_bytes() == ZIP
    await bundles.release(DIGEST)
    assert left(tmp_path) == []
    await bundles.release(DIGEST)
    assert objects.keys() == [f"bundles/{DIGEST}.zip"]


@pytest.mark.asyncio
async def test_one_transfer_for_all_who_ask_at_once(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """A hundred who ask while a bundle is on its way get the one file of the one transfer, each hears how far it is."""
    await bundles.put(DIGEST, ZIP)
    objects.rate(2 << 20)
    heard: dict[int, list[tuple[int, int]]] = {n: [] for n in range(100)}
    names = await asyncio.gather(*(bundles.path_name(DIGEST, lambda *far, n=n: heard[n].append(far)) for n in range(100)))
    assert len(set(names)) == 1
    assert objects.counts()["gets"] == 1
    assert (bundles.transfers.finished, bundles.transfers.running, bundles.transfers.bytes) == (1, 0, SIZE)
    for told in heard.values():
        assert told == sorted(told)
        assert told[-1] == (SIZE, SIZE)
    assert len(heard[0]) > 2
    for _ in range(100):
        assert left(tmp_path) == [names[0]]
        await bundles.release(DIGEST)
    assert left(tmp_path) == []


@pytest.mark.asyncio
async def test_a_transfer_ends_with_the_last_who_waits(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """One of two who wait may leave; when both have left, the transfer ends and leaves nothing; later it can be had."""
    await bundles.put(DIGEST, ZIP)
    objects.rate(200_000)
    waiting = [asyncio.ensure_future(bundles.path_name(DIGEST)) for _ in range(2)]
    await until(lambda: bundles.transfers.bytes > 0)
    for task in waiting:
        assert bundles.transfers.running == 1
        task.cancel()
        await asyncio.wait({task})
    await until(lambda: bundles.transfers.running == 0)
    assert (left(tmp_path), bundles.transfers.failed) == ([], 1)
    objects.rate(0)
    assert (tmp_path / await bundles.path_name(DIGEST)).read_bytes() == ZIP


@pytest.mark.asyncio
async def test_a_cut_transfer_begins_again(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """A connection that is reset in the middle costs another try, and the bundle comes whole."""
    await bundles.put(DIGEST, ZIP)
    objects.cut_after(SIZE // 2, times=1)
    assert (tmp_path / await bundles.path_name(DIGEST)).read_bytes() == ZIP
    assert (objects.counts()["gets"], bundles.transfers.finished, len(left(tmp_path))) == (2, 1, 1)


@pytest.mark.asyncio
async def test_a_store_that_always_cuts_is_unreachable(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """When every try breaks off the error says so, nothing is left, and once the store is well the bundle comes."""
    await bundles.put(DIGEST, ZIP)
    objects.cut_after(SIZE // 2)
    errors = await asyncio.gather(*(refusal(bundles.path_name(DIGEST)) for _ in range(3)))
    assert {(error.code, error.evidence["bundle"]) for error in errors} == {(Code.NOT_READY, "unreachable")}
    assert (left(tmp_path), bundles.transfers.failed, objects.counts()["gets"]) == ([], 1, PATIENT.attempts)
    objects.cut_after(0, times=0)
    assert (tmp_path / await bundles.path_name(DIGEST)).read_bytes() == ZIP


@pytest.mark.asyncio
async def test_a_store_that_is_away_refuses_everything(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """Every request says that the store cannot be reached, which may pass; nothing is half kept; then all is as before."""
    await bundles.put(DIGEST, ZIP)
    other = "sha256-" + "c" * 64
    objects.away()
    for refused in (bundles.put(other, ZIP), bundles.path_name(DIGEST), bundles.has(DIGEST), bundles.names(), bundles.remove(DIGEST)):
        error = await refusal(refused)
        assert (error.code, error.evidence["bundle"]) == (Code.NOT_READY, "unreachable")
        assert error.retry_after is not None
        assert "127.0.0.1" not in f"{error.message} {error.hint} {error.evidence}"
    assert left(tmp_path) == []
    objects.back()
    assert list(await bundles.names()) == [DIGEST]


@pytest.mark.asyncio
async def test_a_store_that_hangs_is_given_up(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """Reads and writes of a store that answers nothing more end by themselves, also in the middle of a transfer."""
    await bundles.put(DIGEST, ZIP)
    impatient = hurried(objects, tmp_path / "near")
    objects.rate(200_000)
    waiting = asyncio.ensure_future(impatient.path_name(DIGEST))
    await until(lambda: impatient.transfers.bytes > 0 or waiting.done())
    objects.stall()
    assert (await refusal(waiting)).evidence["bundle"] == "unreachable"
    assert (await refusal(impatient.put("sha256-" + "c" * 64, ZIP))).code is Code.NOT_READY
    assert left(tmp_path / "near") == []
    objects.back()
    objects.rate(0)
    assert await bundles.has(DIGEST)


@pytest.mark.asyncio
async def test_a_slow_upload_is_not_given_up(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """An upload may take longer than a read may be silent, as long as it is not slower than it must be."""
    impatient = ObjectBundles(Bucket(objects.place(), Patience(attempts=3, silent_s=1.5)), tmp_path)
    objects.rate(200_000)
    await impatient.put(DIGEST, ZIP)
    objects.rate(0)
    assert objects.counts()["puts"] == 1
    assert (tmp_path / await bundles.path_name(DIGEST)).read_bytes() == ZIP


@pytest.mark.asyncio
async def test_wrong_bytes_are_never_near(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """A byte that changed on the way costs another try; one that changed in the store is an error that only a new upload mends."""
    await bundles.put(DIGEST, ZIP)
    objects.flip()
    assert (tmp_path / await bundles.path_name(DIGEST)).read_bytes() == ZIP
    await bundles.release(DIGEST)
    assert objects.counts()["gets"] == 2
    objects.spoil(f"bundles/{DIGEST}.zip")
    error = await refusal(bundles.path_name(DIGEST))
    assert (error.code, error.evidence["bundle"], error.retry_after) == (Code.INTERNAL, "corrupt", None)
    assert (left(tmp_path), objects.counts()["gets"]) == ([], 4)
    await bundles.remove(DIGEST)
    await bundles.put(DIGEST, ZIP)
    assert (tmp_path / await bundles.path_name(DIGEST)).read_bytes() == ZIP


@pytest.mark.asyncio
async def test_a_lost_object_is_missing(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """What the store has forgotten is said to be missing at once, and can be put again."""
    await bundles.put(DIGEST, ZIP)
    objects.lose(f"bundles/{DIGEST}.zip")
    error = await refusal(bundles.path_name(DIGEST))
    assert (error.code, error.evidence["bundle"], objects.counts()["gets"]) == (Code.NOT_FOUND, "missing", 1)
    await bundles.put(DIGEST, ZIP)
    assert (tmp_path / await bundles.path_name(DIGEST)).read_bytes() == ZIP


@pytest.mark.asyncio
async def test_a_missing_bucket_is_no_missing_bundle(objects: ObjectStore, tmp_path: Path) -> None:
    """A bucket that is not there is the operator's to mend: bundles are not said to be lost, and nothing is tried again."""
    bundles = ObjectBundles(Bucket({**objects.place(), "bucket": "elsewhere"}, PATIENT), tmp_path)
    for refused in (bundles.path_name(DIGEST), bundles.put(DIGEST, ZIP)):
        error = await refusal(refused)
        assert (error.code, error.evidence["bundle"], error.retry_after) == (Code.NOT_READY, "unreachable", None)


@pytest.mark.asyncio
async def test_foreign_objects_are_left_alone(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """What lies under the prefix, or beside it, and is no bundle is not listed."""
    await bundles.put(DIGEST, ZIP)
    await ObjectBundles(Bucket(objects.place("bundles2")), tmp_path / "2").put("sha256-" + "c" * 64, ZIP)
    await Bucket(objects.place()).put("notes.txt", b"x")
    assert list(await bundles.names()) == [DIGEST]
    assert len(objects.keys()) == 2
    assert await Bucket(objects.place()).has("notes.txt")


@pytest.mark.asyncio
async def test_nothing_of_another_server_is_removed(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """A second data directory at one place removes nothing that is not needed, until the place is given to it; the first one does."""
    await bundles.put(DIGEST, ZIP)
    await bundles.names()
    second = ObjectBundles(Bucket(objects.place(), PATIENT), tmp_path / "second")
    assert await swept(second)
    objects.lose("bundles/owner")
    assert not await swept(second)
    await bundles.put(DIGEST, ZIP)
    assert await swept(bundles)
    again = ObjectBundles(Bucket(objects.place(), PATIENT), tmp_path / "second")
    assert not await swept(again)


async def swept(bundles: ObjectBundles) -> bool:
    """Remove the bundle as retention does when nobody needs it, and tell whether it is there yet."""
    for _ in range(3):
        await bundles.names()
    await bundles.remove_unused(DIGEST)
    return await bundles.has(DIGEST)


@pytest.mark.asyncio
async def test_what_the_data_directory_keeps_is_taken_from_there(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """A bundle from before the option was set, or from a backup, needs no store; it is listed, kept at the start, and removed."""
    await places.open_bundles({}, tmp_path, 0).put(DIGEST, ZIP)
    again = ObjectBundles(Bucket(objects.place(), PATIENT), tmp_path)
    objects.away()
    name = await again.path_name(DIGEST)
    await again.release(DIGEST)
    assert ((tmp_path / name).read_bytes(), left(tmp_path)) == (ZIP, [f"{DIGEST}.zip"])
    objects.back()
    assert list(await again.names()) == [DIGEST]
    await again.remove(DIGEST)
    assert left(tmp_path) == []


_SMALL_DISK = """
import asyncio, json, os, subprocess, sys
from pathlib import Path
from pyfaas.adapters.places import open_bundles
from pyfaas.errors import PyfaasError

async def main(path, place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", path], check=True)
    bundles, ballast = open_bundles(place, Path(path, "near"), 0), Path(path, "ballast")
    ballast.write_bytes(bytes(700_000))
    try:
        await bundles.path_name(sys.argv[3])
    except PyfaasError as error:
        print(error.code, os.listdir(Path(path, "near")))
    ballast.unlink()
    print(Path(path, "near", await bundles.path_name(sys.argv[3])).stat().st_size)

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


@pytest.mark.asyncio
async def test_a_disk_without_room_for_a_copy_is_storage_full(objects: ObjectStore, bundles: ObjectBundles, tmp_path: Path) -> None:
    """What does not fit near is storage_full, with nothing left; once there is room it comes."""
    await bundles.put(DIGEST, ZIP)
    told = [str(tmp_path), json.dumps(objects.place()), DIGEST]
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _SMALL_DISK, *told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.stdout.splitlines()) == ("", ["storage_full []", str(SIZE)])


@pytest.mark.asyncio
async def test_a_store_is_trusted_by_its_certificate(tmp_path: Path) -> None:
    """Over https, a store whose authority is named is spoken with; without that it is refused."""
    alone, both = certificate(tmp_path)
    with object_store(certificate=both) as store:
        place = places.find(f"s3://{store.bucket}/x", store.endpoint, "", {**store.env, "AWS_CA_BUNDLE": str(alone)})
        await ObjectBundles(Bucket(place, PATIENT), tmp_path / "near").put(DIGEST, ZIP)
        assert store.keys() == [f"x/{DIGEST}.zip"]
        unknown = ObjectBundles(Bucket(places.find(f"s3://{store.bucket}/x", store.endpoint, "", store.env), PATIENT), tmp_path / "other")
        assert (await refusal(unknown.has(DIGEST))).evidence["bundle"] == "unreachable"


KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        (("gs://bucket", "", ""), KEYS, "s3://BUCKET/PREFIX"),
        (("s3://Bucket/x", "", ""), KEYS, "s3://BUCKET/PREFIX"),
        (("s3://bucket/../x", "", ""), KEYS, "s3://BUCKET/PREFIX"),
        (("s3://bucket/x", "localhost:9000", ""), KEYS, "s3_endpoint"),
        (("s3://bucket/x", "http://user:word@localhost", ""), KEYS, "s3_endpoint"),
        (("s3://bucket/x", "http://localhost:x", ""), KEYS, "s3_endpoint"),
        (("s3://bucket/x", "", ""), {"AWS_ACCESS_KEY_ID": "id"}, "AWS_SECRET_ACCESS_KEY is not"),
        (("s3://bucket/x", "", ""), {**KEYS, "AWS_CA_BUNDLE": "/nonexistent"}, "cannot be read"),
    ],
)
def test_options_that_are_none_are_refused(options: tuple[str, str, str], environ: Mapping[str, str], said: str) -> None:
    """A wrong option is refused in one sentence that names it, and never shows a secret."""
    with pytest.raises(PyfaasError) as refused:
        places.find(*options, environ)
    assert said in refused.value.message
    assert "secret" not in refused.value.message


def test_where_bundles_are_kept() -> None:
    """Options decide before the environment, which decides before the defaults; no option is the data directory."""
    assert places.find("", "", "", KEYS) == {}
    found = places.find("s3://bucket/a/b/", "https://store.example/", "", {**KEYS, "AWS_REGION": "eu-west-1", "AWS_SESSION_TOKEN": "t"})
    assert (found["bucket"], found["prefix"], found["endpoint"], found["region"]) == ("bucket", "a/b", "https://store.example", "eu-west-1")
    assert (found["access_key_id"], found["secret_access_key"], found["session_token"]) == ("id", "secret", "t")
    assert places.find("s3://bucket", "", "mars-1", {"AWS_REGION": "eu-west-1"})["region"] == "mars-1"
    assert places.find("s3://bucket", "", "", {})["region"] == "us-east-1"


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client library the refusal says what installs it; the data directory needs none."""
    monkeypatch.setattr(places.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(PyfaasError) as refused:
        places.find("s3://bucket/x", "", "", KEYS)
    assert "pip install 'pyfaas[s3]'" in refused.value.message
    assert places.find("", "", "", KEYS) == {}
