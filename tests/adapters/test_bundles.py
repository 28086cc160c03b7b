"""Bundles, wherever they are kept: one contract for the data directory and for object storage, then what is the directory's own."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyfaas.adapters.clock import SystemClock
from pyfaas.adapters.places import open_bundles
from pyfaas.errors import Code, PyfaasError
from pyfaas.ports import Bundles
from tests.adapters.object_store import PAGE, ObjectStore

DIGEST = "sha256-" + "a" * 64


@pytest.fixture(params=["directory", "objects"])
def place(request: pytest.FixtureRequest, objects: ObjectStore) -> Mapping[str, str]:
    """Give an empty place to keep bundles in, of either kind."""
    return objects.place() if request.param == "objects" else {}


@pytest.fixture
def bundles(place: Mapping[str, str], tmp_path: Path) -> Bundles:
    """Give empty bundles, near in tmp_path/bundles."""
    return open_bundles(place, tmp_path / "bundles", 0)


@pytest.mark.asyncio
async def test_put_then_found_by_name(tmp_path: Path, bundles: Bundles) -> None:
    """A bundle is there under its digest, whole, behind a directory closed to others, and nothing else lies beside it."""
    assert not await bundles.has(DIGEST)
    await bundles.put(DIGEST, b"zip")
    assert await bundles.has(DIGEST)
    name = await bundles.path_name(DIGEST)
    file = tmp_path / "bundles" / name
    assert (name.startswith(DIGEST), file.read_bytes()) == (True, b"zip")
    assert [stat.S_IMODE(p.stat().st_mode) for p in (file, file.parent)] == [0o644, 0o700]
    assert [p.name for p in file.parent.iterdir()] == [name]
    await bundles.release(DIGEST)
    assert await bundles.has(DIGEST)


@pytest.mark.asyncio
async def test_concurrent_puts_of_one_digest_leave_one(bundles: Bundles) -> None:
    """Two uploads of the same code at once both succeed, and one is there."""
    await asyncio.gather(*(bundles.put(DIGEST, b"zip" * 10_000) for _ in range(8)))
    assert list(await bundles.names()) == [DIGEST]


@pytest.mark.asyncio
async def test_what_is_there_stays_as_it_is(tmp_path: Path, bundles: Bundles) -> None:
    """The same content packed in another way does not replace what was kept first."""
    await bundles.put(DIGEST, b"first")
    await bundles.put(DIGEST, b"second")
    assert (tmp_path / "bundles" / await bundles.path_name(DIGEST)).read_bytes() == b"first"


@pytest.mark.asyncio
async def test_remove(bundles: Bundles) -> None:
    """A removed bundle is not found, and removing it again is no error."""
    await bundles.put(DIGEST, b"zip")
    await bundles.remove(DIGEST)
    await bundles.remove(DIGEST)
    assert not await bundles.has(DIGEST)
    with pytest.raises(PyfaasError) as missing:
        await bundles.path_name(DIGEST)
    assert (missing.value.code, missing.value.evidence["bundle"]) == (Code.NOT_FOUND, "missing")


@pytest.mark.asyncio
async def test_all_names_are_listed(bundles: Bundles) -> None:
    """Every bundle is listed once, however many pages they take."""
    digests = {f"sha256-{n:064x}" for n in range(2 * PAGE + 1)}
    await asyncio.gather(*(bundles.put(digest, b"zip") for digest in digests))
    assert sorted(await bundles.names()) == sorted(digests)


@pytest.mark.asyncio
async def test_what_was_put_lately_is_not_unused(bundles: Bundles) -> None:
    """A bundle stays until names was called twice after it was put: the version that needs it may not be written yet."""
    await bundles.put(DIGEST, b"zip")
    found = []
    for _ in range(3):
        await bundles.remove_unused(DIGEST)
        found.append(await bundles.has(DIGEST))
        await bundles.names()
    assert found == [True, True, False]


@pytest.mark.asyncio
async def test_a_bundle_is_near_until_all_have_let_go(tmp_path: Path, bundles: Bundles) -> None:
    """What several need at once is there for the last of them, also when others let go, and can be had again."""
    await bundles.put(DIGEST, b"zip")
    first, second = await asyncio.gather(bundles.path_name(DIGEST), bundles.path_name(DIGEST))
    await bundles.release(DIGEST)
    assert [(tmp_path / "bundles" / name).read_bytes() for name in (first, second)] == [b"zip", b"zip"]
    await bundles.release(DIGEST)
    assert (tmp_path / "bundles" / await bundles.path_name(DIGEST)).read_bytes() == b"zip"


@pytest.mark.asyncio
@pytest.mark.parametrize("digest", ["../x", "sha256-" + "a" * 63, "sha256-" + "A" * 64, DIGEST + "\n", ""])
async def test_only_digests_are_names(tmp_path: Path, digest: str, bundles: Bundles) -> None:
    """What is no digest never becomes a path; a digest does."""
    for refused in (bundles.put(digest, b"x"), bundles.has(digest), bundles.path_name(digest), bundles.remove(digest)):
        with pytest.raises(PyfaasError) as failed:
            await refused
        assert failed.value.code is Code.INVALID_REQUEST
    assert [p.name for p in tmp_path.iterdir()] == ["bundles"]
    await bundles.put(DIGEST, b"x")


@pytest.mark.asyncio
async def test_no_publication_below_the_reserve(tmp_path: Path, place: Mapping[str, str], bundles: Bundles) -> None:
    """A bundle that would not leave the reserve on the disk is refused wherever it would be kept; with room it is kept."""
    with pytest.raises(PyfaasError) as full:
        await open_bundles(place, tmp_path / "bundles", 1 << 60).put(DIGEST, b"zip")
    assert (full.value.code, full.value.evidence["limit"]) == (Code.STORAGE_FULL, "reserve_bytes")
    assert not await bundles.has(DIGEST)
    await bundles.put(DIGEST, b"zip")


def test_leftovers_of_a_crash_go_at_the_start(tmp_path: Path, place: Mapping[str, str]) -> None:
    """What an earlier process wrote by half, or brought near for a while, is removed, and whole bundles stay."""
    (tmp_path / (DIGEST + ".0123.part")).write_bytes(b"half")
    (tmp_path / (DIGEST + ".0123.near")).write_bytes(b"a copy")
    (tmp_path / (DIGEST + ".zip")).write_bytes(b"whole")
    open_bundles(place, tmp_path, 0)
    assert [p.name for p in tmp_path.iterdir()] == [DIGEST + ".zip"]


_SMALL_DISK = """
import asyncio, subprocess, sys
from pathlib import Path
from pyfaas.adapters.bundles import BundleDirectory
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.errors import PyfaasError

async def attempt(awaitable):
    try:
        return await awaitable
    except PyfaasError as error:
        return str(error.code)

async def main(path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", path], check=True)
    bundles = BundleDirectory(Path(path) / "bundles")
    database = open_database(path + "/x.db")
    digests = ["sha256-" + c * 64 for c in "abc"]
    print(await attempt(bundles.put(digests[0], b"x" * (3 << 20))), await attempt(bundles.put(digests[1], b"x" * (3 << 20))))
    print(await bundles.has(digests[0]), await bundles.has(digests[1]), len(list((Path(path) / "bundles").iterdir())))
    await database.write(lambda c: c.execute("CREATE TABLE t (k TEXT, v BLOB)") and None)
    add = lambda size: database.write(lambda c: c.execute("INSERT INTO t VALUES ('x', zeroblob(?))", (size,)) and "ok")
    print(await attempt(add(2 << 20)), await attempt(add(10)))
    await bundles.remove(digests[0])
    print(await attempt(add(1 << 18)), await attempt(bundles.put(digests[2], b"small")))
    await database.close()

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_is_storage_full(tmp_path: Path) -> None:
    """On a disk of 4 MiB what does not fit is storage_full and leaves nothing; what fits is kept, and room made is used."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["None storage_full", "True False 1", "storage_full ok", "ok None"]


def test_the_clock_goes_forward() -> None:
    """Both clocks tell seconds, the wall clock since the epoch."""
    clock = SystemClock()
    assert clock.now() > 1_700_000_000
    assert clock.monotonic() <= clock.monotonic()
