"""Backups as files: what goes in comes out, and what is not exactly one is refused with nothing left behind."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from pyfaas.adapters import archive
from pyfaas.adapters.backups import BackupDirectory
from pyfaas.adapters.bundles import BundleDirectory
from pyfaas.adapters.places import open_bundles
from pyfaas.adapters.sqlite.copying import copy
from pyfaas.adapters.sqlite.queue import SqliteQueue
from pyfaas.adapters.sqlite.schema import MIGRATIONS, open_database
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.contract import BACKUP_TAIL, is_backup_end
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import VersionState
from pyfaas.restore import restore
from tests.adapters.object_store import ObjectStore
from tests.adapters.samples import account, function, job, move, token, version

READY = version(state=VersionState.READY, environment="sha256-" + "e" * 64)
CODE, ENVIRONMENT = f"prepared/{READY.code_id}", f"environments/{READY.environment}"


def fill(data: Path) -> None:
    """Put beside a database what belongs to it, with names and kinds that an archive must keep."""
    (data / "admin.token").write_text("pf_admin\n")
    (data / "default.token").write_text("pf_default\n")
    (data / "secrets.key").write_text("k0 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= 1\n")
    for place in (CODE, ENVIRONMENT):
        (data / place / "inner").mkdir(parents=True)
    (data / CODE / "main.py").write_text("def handler(e, c): ...\n")
    (data / CODE / "inner" / ("long" * 60 + "-é.py")).write_bytes(b"")
    (data / ENVIRONMENT / "inner" / "library.so.1").write_bytes(os.urandom(700_000))
    (data / ENVIRONMENT / "inner" / "library.so").symlink_to("library.so.1")
    (data / ENVIRONMENT / "up").symlink_to("inner/library.so")
    (data / ENVIRONMENT / "program").write_text("#!/bin/sh\n")
    (data / ENVIRONMENT / "program").chmod(0o555)
    (data / "environments" / ("sha256-" + "f" * 64)).mkdir()  # of no version


@pytest_asyncio.fixture
async def data(tmp_path: Path) -> Path:
    """Return a data directory as a server leaves it."""
    made = tmp_path / "data"
    made.mkdir()
    database = open_database(str(made / "pyfaas.db"))
    store = SqliteStore(database)
    await store.add_account(account(), token())
    await store.publish(function(), READY, move())
    await SqliteQueue(database).put(job())
    await BundleDirectory(made / "bundles").put(READY.bundle, b"zip" * 1000)
    await store.close()
    fill(made)
    return made


def backups_of(data: Path, place: Mapping[str, str] | None = None) -> BackupDirectory:
    """Return what backs up a data directory whose bundles are kept in it, or at a place."""
    return BackupDirectory(data, partial(copy, str(data / "pyfaas.db")), open_bundles(place or {}, data / "bundles", 0))


async def backup(data: Path, place: Mapping[str, str] | None = None) -> bytes:
    """Return a backup of a data directory."""
    return b"".join([piece async for piece in backups_of(data, place).read(5.0)])


def tree(place: Path) -> dict[str, tuple[str, bytes | str]]:
    """Return what lies under a directory: kind and content by path."""
    found: dict[str, tuple[str, bytes | str]] = {}
    for path in place.rglob("*"):
        name = str(path.relative_to(place))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = ("program" if path.stat().st_mode & 0o111 else "file", path.read_bytes())
        else:
            found[name] = ("directory", b"")
    return found


@pytest.mark.asyncio
async def test_what_goes_in_comes_out(data: Path, tmp_path: Path) -> None:
    """A restored directory has the same files, links and rows; keys are closed to others; what no version needs stays behind."""
    made = await backup(data)
    done = restore(io.BytesIO(made), tmp_path / "new")
    assert (done.accounts, done.functions, done.versions, done.installs) == (1, 1, 1, 0)
    before, after = tree(data), tree(tmp_path / "new")
    assert {k: v for k, v in after.items() if k != "pyfaas.db"} == {
        k: v for k, v in before.items() if not k.startswith("pyfaas.db") and "f" * 64 not in k
    }
    assert [(tmp_path / "new" / name).stat().st_mode & 0o777 for name in ("", *archive.KEYS, "pyfaas.db")] == [0o700, *[0o600] * (len(archive.KEYS) + 1)]
    old, new = (SqliteStore(open_database(str(place / "pyfaas.db"))) for place in (data, tmp_path / "new"))
    assert await new.load() == await old.load()
    await old.close()
    await new.close()
    assert is_backup_end(made[-BACKUP_TAIL:])


@pytest.mark.asyncio
async def test_equal_directories_have_equal_backups(data: Path, tmp_path: Path) -> None:
    """A backup of what was restored is byte for byte the one it was restored from, but for the database's own pages."""
    made = await backup(data)
    restore(io.BytesIO(made), tmp_path / "new")
    assert members(await backup(tmp_path / "new")) == members(made)


def members(made: bytes) -> list[tuple[str, int, bytes]]:
    """Return an archive's members, without the database and the manifest that tells its digest."""
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        return [(m.name, m.mode, tar.extractfile(m).read() if m.isreg() else b"") for m in tar if m.name not in ("pyfaas.db", "manifest.json")]  # type: ignore[union-attr]


def refused(made: bytes, place: Path) -> PyfaasError:
    """Restore what must be refused; returns the refusal, after seeing that nothing is left of it."""
    place.mkdir(exist_ok=True)
    with pytest.raises(PyfaasError) as failed:
        restore(io.BytesIO(made), place / "new")
    assert list(place.iterdir()) == []
    assert failed.value.hint
    return failed.value


@pytest.mark.asyncio
async def test_a_cut_backup_is_refused_wherever_it_is_cut(data: Path, tmp_path: Path) -> None:
    """Cut between members or within one, in the first block or just before the end, it is no backup; nor does a client take it for one."""
    made = await backup(data)
    last = made.rindex(b"manifest.json")
    for end in (0, 1, 512, 600, 1024, len(made) // 3, len(made) // 2, last - 700_000, last, last + 100, len(made) - 1024 - 512):
        assert refused(made[:end], tmp_path / "place").code is Code.INVALID_REQUEST, end
        assert not is_backup_end(made[:end][-BACKUP_TAIL:])
    assert not is_backup_end(made[:-1024][-BACKUP_TAIL:])


@pytest.mark.asyncio
async def test_a_changed_byte_is_found(data: Path, tmp_path: Path) -> None:
    """A byte that is not as it was, in the database, in a key or in a tree, is found by its entry's digest."""
    made = await backup(data)
    for sought in (b"SQLite format 3", b"pf_admin", b"zipzip", b"def handler"):
        changed = bytearray(made)
        changed[made.index(sought) + 3] ^= 1
        assert refused(bytes(changed), tmp_path / "place").code is Code.INVALID_REQUEST, sought


def rebuilt(made: bytes, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]) -> bytes:
    """Return an archive whose members went through `change`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(made)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            content = old.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            for info, text in change(member, content):
                info.size = len(text) if info.isreg() else 0
                new.addfile(info, io.BytesIO(text))
    return out.getvalue()


def evil(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Return a member that no backup has."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o4777
    return info


EVIL = {
    "up": evil("../evil"),
    "up from a tree": evil(f"{CODE}/../../../evil"),
    "absolute": evil("/tmp/pyfaas-evil"),
    "another file": evil("lock"),
    "a link as a key": evil("default.token", tarfile.SYMTYPE, "/etc/shadow"),
    "a link to outside": evil(f"{CODE}/evil", tarfile.SYMTYPE, "../../../evil"),
    "an absolute link": evil(f"{CODE}/evil", tarfile.SYMTYPE, "/etc/passwd"),
    "a link that goes down and up": evil(f"{CODE}/evil", tarfile.SYMTYPE, "inner/../../../evil"),
    "a hard link": evil(f"{CODE}/evil", tarfile.LNKTYPE, "admin.token"),
    "a device": evil(f"{CODE}/evil", tarfile.CHRTYPE),
    "a pipe": evil(f"{CODE}/evil", tarfile.FIFOTYPE),
    "a file in no directory": evil(f"{CODE}/nowhere/evil"),
    "a key as a directory": evil("bundles/sha256-" + "a" * 64 + ".zip", tarfile.DIRTYPE),
    "a tree's name that is none": evil("prepared/x"),
    "twice": evil("admin.token"),
}


@pytest.mark.parametrize("case", EVIL)
@pytest.mark.asyncio
async def test_members_that_no_backup_has_are_refused(case: str, data: Path, tmp_path: Path) -> None:
    """Ways out of the directory, links, devices, names that mean nothing here and doubles are refused, and write nothing anywhere."""

    def add(member: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        behind = f"{CODE}/main.py"
        added = [(EVIL[case], b"evil" if EVIL[case].isreg() else b"")] if member.name == behind else []
        return [(member, content), *added]

    made = await backup(data)
    assert refused(rebuilt(made, add), tmp_path / "place").code is Code.INVALID_REQUEST
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/pyfaas-evil").exists()
    control = rebuilt(made, lambda member, content: [(member, content)])
    assert restore(io.BytesIO(control), tmp_path / "control").versions == 1


def told(made: bytes, name: str, **values: object) -> bytes:
    """Return an archive in which a document says something else."""

    def change(member: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        return [(member, json.dumps({**json.loads(content), **values}).encode() if member.name == name else content)]

    return rebuilt(made, change)


@pytest.mark.asyncio
async def test_a_backup_of_a_newer_release_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    """A format or a schema that this release does not know is refused, naming the release that does."""
    made = await backup(data)
    for key, value in (("format", archive.FORMAT + 1), ("schema", len(MIGRATIONS) + 1)):
        failed = refused(told(made, archive.HEAD, pyfaas="9.8.7", **{key: value}), tmp_path / "place")
        assert "9.8.7" in failed.message
        assert "9.8.7" in failed.hint


@pytest.mark.asyncio
async def test_another_interpreters_environments_are_left_out(data: Path, tmp_path: Path) -> None:
    """A backup of another Python gives code and data, and says how many sets of requirements are to be installed again."""
    made = await backup(data)
    done = restore(io.BytesIO(told(made, archive.HEAD, platform="cpython-39 linux-other")), tmp_path / "new")
    assert done.installs == 1
    assert list((tmp_path / "new" / "environments").iterdir()) == []
    assert (tmp_path / "new" / CODE / "main.py").exists()


@pytest.mark.asyncio
async def test_a_damaged_database_is_found_whatever_the_manifest_says(data: Path, tmp_path: Path) -> None:
    """A database that was damaged before the backup, or a row that leads nowhere, is refused."""
    with sqlite3.connect(data / "pyfaas.db") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM accounts")
    assert "database is damaged" in refused(await backup(data), tmp_path / "place").message


@pytest.mark.parametrize("content", [b"", b"hello\n" * 500, b"\x1f\x8b" + bytes(600), bytes(10240)], ids=["empty", "text", "gzip", "zeros"])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    """A file of another kind is told as what it is: no backup."""
    assert "no whole backup" in refused(content, tmp_path / "place").message


@pytest.mark.asyncio
async def test_a_directory_with_anything_in_it_is_not_restored_into(data: Path, tmp_path: Path) -> None:
    """A directory that holds a file, or is a file, is refused by name and stays as it is; an empty one is taken."""
    made = await backup(data)
    place = tmp_path / "place"
    place.mkdir()
    (place / "mine").write_text("x")
    for target in (place, place / "mine"):
        with pytest.raises(PyfaasError) as failed:
            restore(io.BytesIO(made), target)
        assert failed.value.code is Code.CONFLICT
        assert str(target) in failed.value.message
    assert [p.name for p in place.iterdir()] == ["mine"]
    (place / "mine").unlink()
    assert restore(io.BytesIO(made), place).functions == 1


@pytest.mark.asyncio
async def test_a_mount_point_is_restored_into(data: Path, tmp_path: Path) -> None:
    """What is the top of a disk of its own gets the files moved in, or nothing when the backup is none or something is there."""
    (tmp_path / "backup").write_bytes(await backup(data))
    (tmp_path / "disk").mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _MOUNTED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "invalid_request ['lost+found']",
        "conflict ['lost+found', 'other']",
        "1 ['admin.token', 'bundles', 'default.token', 'environments', 'lock', 'lost+found', 'prepared', 'pyfaas.db', 'secrets.key'] 0o700",
        "conflict",
    ]


_MOUNTED = """
import io, os, subprocess, sys
from pathlib import Path
from pyfaas.errors import PyfaasError
from pyfaas.restore import restore

disk, made = Path(sys.argv[1]) / "disk", (Path(sys.argv[1]) / "backup").read_bytes()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", str(disk)], check=True)
(disk / "lost+found").mkdir()

def attempt(content):
    try:
        return restore(io.BytesIO(content), disk).versions
    except PyfaasError as error:
        return error.code.value

def names():
    return sorted(os.listdir(disk))

print(attempt(made[:5000]), names())
(disk / "other").mkdir()
print(attempt(made), names())
(disk / "other").rmdir()
print(attempt(made), names(), oct(disk.stat().st_mode & 0o777))
print(attempt(made))
"""


@pytest.mark.asyncio
async def test_what_a_tree_lacks_is_told_and_made_later(data: Path) -> None:
    """A bundle that is gone is named in the manifest; a version that is not ready has no tree, and that is no fault."""
    store = SqliteStore(open_database(str(data / "pyfaas.db")))
    await store.publish(function(), replace(READY, number=2, code_id="sha256-" + "2" * 64, state=VersionState.STORED), None)
    await store.close()
    (data / "bundles" / f"{READY.bundle}.zip").unlink()
    with tarfile.open(fileobj=io.BytesIO(await backup(data))) as tar:
        shown = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert shown["missing"] == [f"bundles/{READY.bundle}.zip"]
    assert shown["counts"]["versions"] == 2


@pytest.mark.asyncio
async def test_a_reader_that_leaves_leaves_nothing(data: Path) -> None:
    """Whoever stops reading in the middle, or never begins, leaves no copy of the database behind."""
    backups = backups_of(data)
    pieces = backups.read(1.0)
    await anext(pieces)
    assert list(data.glob("*.part"))
    await pieces.aclose()
    assert list(data.glob("*.part*")) == []
    (data / "backup-999999999.db.part").write_bytes(b"of a process that is gone")
    backups_of(data)
    assert list(data.glob("*.part*")) == []


@pytest.mark.asyncio
async def test_bundles_that_are_kept_elsewhere_are_in_it(data: Path, objects: ObjectStore) -> None:
    """A backup is the same, byte for byte, wherever bundles are kept, and leaves none near; without the store there is none."""
    expected = await backup(data)
    file = data / "bundles" / f"{READY.bundle}.zip"
    await open_bundles(objects.place(), data / "other", 0).put(READY.bundle, file.read_bytes())
    file.unlink()
    assert await backup(data, objects.place()) == expected
    assert list((data / "bundles").iterdir()) == []
    objects.away()
    with pytest.raises(PyfaasError) as refused:
        await backup(data, objects.place())
    assert (refused.value.code, list(data.glob("*.part*"))) == (Code.NOT_READY, [])


@pytest.mark.asyncio
async def test_a_bundle_that_the_store_lost_is_told(data: Path, objects: ObjectStore) -> None:
    """What the object store has lost is listed as missing, as what the data directory has lost."""
    (data / "bundles" / f"{READY.bundle}.zip").unlink()
    with tarfile.open(fileobj=io.BytesIO(await backup(data, objects.place()))) as tar:
        shown = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert shown["missing"] == [f"bundles/{READY.bundle}.zip"]
