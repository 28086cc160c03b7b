"""What counts as a save, and what cannot be compiled: without a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from pyfaas.cli import saves as saving
from pyfaas.cli.saves import places, saves
from pyfaas.cli.syntax import Checker
from pyfaas.client.packing import pack_files

PATIENCE_S = 60  # for a save to be seen on a busy machine
CODE = b"def handler(event, context): ...\n"


@contextlib.asynccontextmanager
async def watching(path: Path) -> AsyncIterator[Callable[[Callable[[Path], bool]], asyncio.Future[None]]]:
    """Watch a path once the watch has begun; gives what waits until a path is seen for which something holds."""
    seen: asyncio.Queue[frozenset[Path]] = asyncio.Queue()
    begun = asyncio.Event()

    async def watch() -> None:
        async for changed in saves(path):
            begun.set()
            seen.put_nowait(changed)

    async def until(fact: Callable[[Path], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not any(map(fact, await seen.get())):
                pass

    task = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
        yield lambda fact: asyncio.ensure_future(until(fact))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def named(name: str) -> Callable[[Path], bool]:
    """Return what tells whether a path ends in a name."""
    return lambda path: path.name == name


def by_writing(path: Path) -> None:
    """Write in place."""
    path.write_text("2")


def by_renaming(path: Path) -> None:
    """Write beside it and rename, as many editors do."""
    beside = path.with_name(path.name + "~")
    beside.write_text("2")
    beside.replace(path)


def by_making_anew(path: Path) -> None:
    """Remove it and create it."""
    path.unlink()
    path.write_text("2")


@pytest.mark.parametrize("save", [by_writing, by_renaming, by_making_anew])
@pytest.mark.parametrize("is_file", [True, False])
async def test_ways_of_saving(tmp_path: Path, save: Callable[[Path], None], is_file: bool) -> None:  # noqa: FBT001 - a value, not a mode
    """However an editor saves, it is seen, of a directory and of a single file."""
    file = tmp_path / "main.py"
    file.write_text("1")
    async with watching(file if is_file else tmp_path) as until:
        save(file)
        await until(named("main.py"))


async def test_directories_come_and_go(tmp_path: Path) -> None:
    """A new directory is watched, too; and so is the whole one when it was removed and is made again."""
    root = tmp_path / "greet"
    root.mkdir()
    async with watching(root) as until:
        (root / "pkg").mkdir()
        await until(named("pkg"))
        waiting = until(named("a.py"))
        while not waiting.done():  # the new round of watching begins at its own time
            (root / "pkg" / "a.py").write_text("1")
            await asyncio.wait([waiting], timeout=0.2)
        await waiting
        shutil.rmtree(root)
        root.mkdir()
        waiting = until(named("b.py"))
        while not waiting.done():
            (root / "b.py").write_text("1")
            await asyncio.wait([waiting], timeout=0.2)
        await waiting


async def test_what_no_bundle_takes_is_no_save(tmp_path: Path) -> None:
    """Neither installed packages, nor what is ignored, nor what editors write beside a file; those directories are not entered."""
    for folder in (".venv/lib/deep", "node_modules/x", "data", ".git"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".pyfaasignore").write_text("data/\n*.tmp\n")
    watched = places(tmp_path)
    assert {folder for folder, _ in watched.folders} == {tmp_path}
    for name in (".venv/a.py", "data/a.csv", "x.tmp", ".main.py.swp", "main.py~", ".#main.py", "#main.py#", "4913", "__pycache__/a.pyc"):
        assert not watched.counts(tmp_path / name), name
    for name in ("main.py", "pkg/a.py", "pyfaas.toml", ".pyfaasignore"):
        assert watched.counts(tmp_path / name), name
    async with watching(tmp_path) as until:
        (tmp_path / ".venv" / "lib" / "deep" / "a.py").write_text("1")
        (tmp_path / "x.tmp").write_text("1")
        (tmp_path / "main.py").write_text("1")
        await until(lambda path: path.name == "main.py" or pytest.fail(f"{path} is no save"))


async def test_where_no_watch_is_left_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose inotify watches are all taken (inotify(7)) makes it slower, and not impossible."""
    real, refused = saving.awatch, []

    def awatch(*paths: Path, force_polling: bool | None = None, **options: Any) -> Any:
        if not force_polling:
            refused.append(paths)
            raise WatchfilesRustInternalError("no space left on device")
        return real(*paths, force_polling=force_polling, **options)

    monkeypatch.setattr(saving, "awatch", awatch)
    async with watching(tmp_path) as until:
        (tmp_path / "main.py").write_text("1")
        await until(named("main.py"))
    assert refused == [(tmp_path,)]


def test_another_directory_of_the_same_name_is_watched_anew(tmp_path: Path) -> None:
    """A directory that was replaced is told from the one before."""
    root = tmp_path / "greet"
    root.mkdir()
    before = places(root)
    (tmp_path / "other").mkdir()
    os.rename(root, tmp_path / "old")  # noqa: PTH104 - one word for each step
    os.rename(tmp_path / "other", root)  # noqa: PTH104
    assert before.is_there is False
    assert places(root) != before
    assert places(root).is_there


def test_a_file_that_cannot_be_compiled_is_told_with_its_place() -> None:
    """Path, line and caret, as a traceback has them; a file that can is no matter."""
    found = Checker().broken(pack_files({"main.py": (b"x = 1\ndef handler(:\n", False), "good.py": (CODE, False)}))
    assert [(each.path, each.line) for each in found] == [("main.py", 2)]
    assert found[0].text.splitlines()[1:] == ["    def handler(:", "                ^", "SyntaxError: invalid syntax"]


@pytest.mark.parametrize("content", [b"x = '\0'\n", b"# coding: nonsense\n", b"x = '\xff'\n"])
def test_other_ways_of_being_broken(content: bytes) -> None:
    """Null bytes, an unknown encoding, and what is not in it."""
    assert len(Checker().broken(pack_files({"main.py": (content, False)}))) == 1


def test_what_became_ready_is_let_pass() -> None:
    """A template that no Python can compile is no obstacle once it was in a version that is ready; when changed it is."""
    checker = Checker()
    template, changed = b"{{ name }} = \n", b"{{ other }} = \n"
    bundle = pack_files({"main.py": (CODE, False), "templates/a.py": (template, False)})
    assert checker.broken(bundle) == [], "at first only the top is looked at"
    checker.let_pass(bundle)
    assert checker.broken(pack_files({"main.py": (b"\n" + CODE, False), "templates/a.py": (template, False)})) == []
    again = checker.broken(pack_files({"main.py": (CODE, False), "templates/a.py": (changed, False)}))
    assert [each.path for each in again] == ["templates/a.py"]


def test_a_broken_zip_is_left_to_the_server() -> None:
    """What is no zip is no syntax error."""
    assert Checker().broken(b"no zip") == []
