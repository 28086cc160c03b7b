"""The bundle directory: whole files, only the server's to read."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pyfaas.adapters.bundles import BundleDirectory
from pyfaas.adapters.clock import SystemClock
from pyfaas.errors import Code, PyfaasError

DIGEST = "sha256-" + "a" * 64


@pytest.mark.asyncio
async def test_put_then_found_by_name(tmp_path: Path) -> None:
    """A bundle is there under its digest, whole, behind a directory closed to others, and nothing else lies beside it."""
    bundles = BundleDirectory(tmp_path / "bundles")
    assert not await bundles.has(DIGEST)
    await bundles.put(DIGEST, b"zip")
    assert await bundles.has(DIGEST)
    name = await bundles.path_name(DIGEST)
    file = tmp_path / "bundles" / name
    assert (name, file.read_bytes()) == (DIGEST + ".zip", b"zip")
    assert [stat.S_IMODE(p.stat().st_mode) for p in (file, file.parent)] == [0o644, 0o700]
    assert [p.name for p in file.parent.iterdir()] == [name]


@pytest.mark.asyncio
async def test_concurrent_puts_of_one_digest_leave_one_file(tmp_path: Path) -> None:
    """Two uploads of the same code at once both succeed, and one file is there."""
    bundles = BundleDirectory(tmp_path)
    await asyncio.gather(*(bundles.put(DIGEST, b"zip" * 10_000) for _ in range(8)))
    assert [(p.name, p.stat().st_size) for p in tmp_path.iterdir()] == [(DIGEST + ".zip", 30_000)]


@pytest.mark.asyncio
async def test_remove(tmp_path: Path) -> None:
    """A removed bundle is not found, and removing it again is no error."""
    bundles = BundleDirectory(tmp_path)
    await bundles.put(DIGEST, b"zip")
    await bundles.remove(DIGEST)
    await bundles.remove(DIGEST)
    assert not await bundles.has(DIGEST)
    with pytest.raises(PyfaasError) as missing:
        await bundles.path_name(DIGEST)
    assert missing.value.code is Code.NOT_FOUND


@pytest.mark.asyncio
@pytest.mark.parametrize("digest", ["../x", "sha256-" + "a" * 63, "sha256-" + "A" * 64, DIGEST + "\n", ""])
async def test_only_digests_are_names(tmp_path: Path, digest: str) -> None:
    """What is no digest never becomes a path; a digest does."""
    bundles = BundleDirectory(tmp_path / "in")
    for refused in (bundles.put(digest, b"x"), bundles.has(digest), bundles.remove(digest)):
        with pytest.raises(PyfaasError) as failed:
            await refused
        assert failed.value.code is Code.INVALID_REQUEST
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    await bundles.put(DIGEST, b"x")


def test_leftovers_of_a_crash_go_at_the_start(tmp_path: Path) -> None:
    """A half written file of an earlier process is removed, and whole ones stay."""
    (tmp_path / (DIGEST + ".0123.part")).write_bytes(b"half")
    (tmp_path / (DIGEST + ".zip")).write_bytes(b"whole")
    BundleDirectory(tmp_path)
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
