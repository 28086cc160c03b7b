"""Copies of trees: whole, verified, with the modes of what is sealed, or refused by a code."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyfaas.runtime import copying, tree
from sandbox.wire import Kind

from .conftest import Guest

_PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def near(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return two trees as preparing leaves them: code, and an environment with programs and links."""
    files = {
        "code/main.py": b"value = 7\n",
        "code/deep/er/x.bin": bytes(range(256)) * 5000,
        "code/empty": b"",
        "environment/lib/libx.so.1": b"\x7fELF" + b"x" * 5000,
        "environment/bin/tool": b"#!/bin/sh\n",
        "environment/with space/é.py": b"",
    }
    for name, content in files.items():
        tree.write(str(tmp_path / "near" / name), [content], executable="bin/tool" in name)
    (tmp_path / "near/environment/lib/libx.so").symlink_to("libx.so.1")
    (tmp_path / "near/environment/lib/again").symlink_to("../bin")
    (tmp_path / "near/code/nothing").mkdir()
    for name in ("code", "environment"):
        tree.seal(str(tmp_path / "near" / name))
    (tmp_path / "out").mkdir()
    yield {name: str(tmp_path / "near" / name) for name in ("code", "environment")}
    for path in tmp_path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def order(near: dict[str, str], most: int = 1 << 30) -> dict[str, Any]:
    """Return a copy order."""
    out = Path(near["code"]).parents[1] / "out"
    return {"do": "copy", "from": near, "out": str(out), "bytes": most}


def shown(root: Path) -> dict[str, tuple[str, object]]:
    """Return every path below a directory with its kind, mode and content."""
    found: dict[str, tuple[str, object]] = {}
    for path in sorted(root.rglob("*")):
        mode = stat.filemode(path.lstat().st_mode)
        content = os.readlink(path) if path.is_symlink() else (path.read_bytes() if path.is_file() else None)
        found[str(path.relative_to(root))] = (mode, content)
    return found


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """Return a container's runtime in a process of its own."""
    made = Guest(tmp_path)
    yield made
    made.channel.close()
    made.process.wait(30)
    for descriptor in (made.out_read, made.err_read):
        os.close(descriptor)


def test_a_container_copies_when_it_is_told_to(guest: Guest, near: dict[str, str]) -> None:
    """The order comes as a LOAD; the copy is the same, modes and links included, and what it takes is said in whole pages."""
    kind, told = guest.ask(order(near))
    assert kind == "R", told
    out = Path(order(near)["out"])
    assert shown(out) == shown(Path(near["code"]).parent)
    pages = sum(-(-path.stat().st_size // _PAGE) for path in out.rglob("*") if path.is_file() and not path.is_symlink())
    assert (told["files"], told["bytes"]) == (8, pages * _PAGE)
    kind, again = guest.ask(order(near))  # another order, to a place that is taken
    assert (kind, again["code"]) == ("F", "internal")


@pytest.mark.parametrize("change", ["content", "name", "mode", "link", "directory"])
def test_the_sum_is_of_all_that_counts(near: dict[str, str], tmp_path: Path, change: str) -> None:
    """Equal trees have equal sums, wherever they lie; one other byte, name, mode, link or directory makes another."""
    def summed(number: int) -> str:
        (tmp_path / f"o{number}").mkdir()
        return str(copying.copy(near, str(tmp_path / f"o{number}"), 1 << 30)["sha256"])

    first = summed(1)
    assert summed(2) == first
    code, lib = Path(near["code"]), Path(near["environment"]) / "lib"
    if change == "content":
        (code / "main.py").chmod(0o644)
        (code / "main.py").write_text("value = 8\n")
    elif change == "name":
        (code / "empty").rename(code / "emptz")
    elif change == "mode":
        (code / "main.py").chmod(0o555)
    elif change == "link":
        (lib / "libx.so").unlink()
        (lib / "libx.so").symlink_to("./libx.so.1")
    else:
        (code / "nothing").rename(code / "deep" / "nothing")
    assert summed(3) != first


@pytest.mark.parametrize("kind", ["out", "absolute", "through", "dangling", "fifo"])
def test_what_leads_out_is_refused(near: dict[str, str], kind: str) -> None:
    """A link that leaves its tree, by its text or through another, one that leads nowhere outside, and what is no file: corrupt."""
    code = Path(near["code"])
    if kind == "out":
        (code / "l").symlink_to("../environment")
    elif kind == "absolute":
        (code / "l").symlink_to(code / "main.py")
    elif kind == "through":
        (code / "deep" / "a").symlink_to("er")
        (code / "l").symlink_to("deep/a/../../../environment/bin/tool")
    elif kind == "dangling":
        (code / "l").symlink_to("../../nowhere")
    else:
        os.mkfifo(code / "l")
    told, fields = copying.run(order(near))
    assert (told, fields["code"]) == (Kind.FAILED, "corrupt")
    assert " l " in fields["errorMessage"] or fields["errorMessage"].startswith("l ")
    (code / "l").unlink()
    for path in Path(order(near)["out"]).iterdir():
        path.rename(path.with_name("before-" + path.name))
    assert copying.run(order(near))[0] == Kind.LOADED


def test_more_than_may_be_is_too_large(near: dict[str, str]) -> None:
    """One page less than it takes is too little, and exactly that is enough."""
    takes = copying.run(order(near))[1]["bytes"]
    out = Path(order(near)["out"])
    for number, (most, kind) in enumerate(((takes - _PAGE, Kind.FAILED), (takes, Kind.LOADED), (0, Kind.FAILED))):
        out.rename(out.with_name(f"was{number}"))
        out.mkdir()
        told, fields = copying.run(order(near, most))
        assert (told, fields.get("code", "too_large")) == (kind, "too_large")


def test_a_copy_that_is_not_the_same_is_corrupt(near: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is read back: one byte that the memory did not keep is found."""
    written = copying.Reading._write

    def spoiled(self: copying.Reading, source: int, path: str, mode: int) -> int:
        read = written(self, source, path, mode)
        if path.endswith("x.bin"):
            os.chmod(path, 0o644)
            with open(path, "r+b") as file:
                file.seek(70_000)
                file.write(b"?")
            os.chmod(path, mode)
        return read

    monkeypatch.setattr(copying.Reading, "_write", spoiled)
    told, fields = copying.run(order(near))
    assert (told, fields["code"]) == (Kind.FAILED, "corrupt")


def test_an_order_that_makes_no_sense_is_answered(near: dict[str, str]) -> None:
    """A missing field, and a source that is not there, are failures with a code and not the end of the container."""
    for change in ({"from": None}, {"bytes": "many"}, {"from": {"code": near["code"] + "-gone"}}):
        told, fields = copying.run({**order(near), **change})
        assert (told, fields["code"]) == (Kind.FAILED, "internal")
