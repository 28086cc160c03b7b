"""SIGHUP replaces launcher and server under the same keeper; whatever fails leaves them as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfaas.config import Config
from pyfaas.handover import Handover
from pyfaas.starting import uids
from tests.keeper.conftest import Kept, gone


def said(kept: Kept, part: str) -> str:
    """Read the keeper's lines up to one with `part` in it, and return that."""
    assert kept.process.stderr is not None
    for line in kept.process.stderr:
        if part in line:
            return line
    raise AssertionError(f"the keeper ended without {part!r}")


def test_a_new_team_under_the_same_keeper(kept: Kept) -> None:
    """Both processes are new and the old ones end; the keeper's pid, the place and the lock stay; the program is executed anew."""
    before = kept.children()
    kept.signal(signal.SIGHUP)
    assert "upgraded" in said(kept, "upgraded")
    after = kept.ask("who")
    assert after not in before.values()
    assert all(gone(pid) for pid in before.values())
    assert kept.children()["server"] == after
    assert b"PYFAAS_KEEPER=resume" in Path(f"/proc/{kept.process.pid}/environ").read_bytes()
    assert (kept.data / "endpoint").read_text() == kept.words["url"] + "\n"
    kept.signal(signal.SIGTERM)
    status, out, _ = kept.end()
    assert (status, out) == (0, "")  # the ready line is not repeated


def test_again_and_again(kept: Kept) -> None:
    """One upgrade follows the other: a signal that comes while the old server still finishes is remembered."""
    seen = [kept.children()["server"]]
    for _ in range(3):
        kept.signal(signal.SIGHUP)
        said(kept, "upgraded")
        seen.append(kept.ask("who"))
    assert len(set(seen)) == 4
    while "alone" not in kept.ask("words"):
        pass  # it hears so when its predecessor has ended


def test_what_the_new_one_inherits(kept: Kept) -> None:
    """The new server has one descriptor more, by which connections come, and none of the keeper's own."""
    plain = kept.ask("surroundings")
    kept.signal(signal.SIGHUP)
    said(kept, "upgraded")
    heir = kept.ask("surroundings")
    assert len(heir["open"]) == len(plain["open"]) + 1
    assert heir["environment"] == plain["environment"]


def test_options_that_do_not_load(start: Callable[..., Kept], tmp_path: Path) -> None:
    """A file of options is read again: one that is wrong is named in one line and changes nothing, a right one is taken."""
    options = tmp_path / "options.toml"
    options.write_text("idle_seconds = 100\n")
    kept = start(file=options)
    before = kept.children()
    options.write_text("idle_secconds = 200\nport = 1\n")
    kept.signal(signal.SIGHUP)
    assert "idle_secconds" in said(kept, "not upgraded")
    assert kept.ask("who") == before["server"]
    assert kept.children() == before
    options.write_text("idle_seconds = 200\nuid_count = 77\n")
    kept.signal(signal.SIGHUP)
    assert "uid_count" in said(kept, "changed only by a stop")
    said(kept, "upgraded")
    assert kept.ask("options") == {"idle_seconds": 200, "uid_count": 10_000}


def test_a_launcher_that_does_not_come(kept: Kept, tmp_path: Path) -> None:
    """A store that is no directory any more is named, before anything was asked of the old server."""
    before = kept.children()
    os.rename(kept.data / "prepared", tmp_path / "prepared")
    (kept.data / "prepared").symlink_to(tmp_path / "prepared")
    kept.signal(signal.SIGHUP)
    assert "prepared" in said(kept, "not upgraded")
    assert kept.ask("who") == before["server"]
    assert kept.children() == before


def test_a_new_server_that_refuses(kept: Kept) -> None:
    """One that ends after its predecessor has yielded gives it everything back."""
    before = kept.children()
    (kept.data / "refuse").write_text("")
    kept.signal(signal.SIGHUP)
    assert "status 78" in said(kept, "not upgraded")
    assert kept.ask("who") == before["server"]
    assert kept.ask("words")[:2] == ["yield", "resume"]
    assert kept.children() == before
    (kept.data / "refuse").unlink()
    kept.signal(signal.SIGHUP)
    said(kept, "upgraded")
    assert kept.ask("who") != before["server"]


def test_a_stop_during_an_upgrade(kept: Kept) -> None:
    """SIGTERM at any moment of an upgrade ends everything, with status 0."""
    before = kept.children()
    kept.signal(signal.SIGHUP)
    kept.signal(signal.SIGTERM)
    assert kept.end()[0] == 0
    assert all(gone(pid, 0.0) for pid in before.values())
    assert not (kept.data / "endpoint").exists()


def test_a_stop_while_the_old_one_drains(kept: Kept) -> None:
    """A first signal stops the new server, a second one also the old server that does not end."""
    old = kept.children()
    kept.ask("be stubborn")
    kept.signal(signal.SIGHUP)
    said(kept, "upgraded")
    assert kept.ask("who") != old["server"]
    kept.signal(signal.SIGTERM)
    kept.signal(signal.SIGINT)
    kept.end()
    assert all(gone(pid, 0.0) for pid in old.values())


def test_a_dead_server_is_succeeded(start: Callable[..., Kept]) -> None:
    """A server that is killed during its upgrade is followed by the one that was coming, or by another: somebody answers."""
    kept = start()
    old = kept.children()
    kept.signal(signal.SIGHUP)
    os.kill(old["server"], signal.SIGKILL)
    answer = kept.ask("who")
    while answer is None:  # the old one had taken the connection
        answer = kept.ask("who")
    assert answer != old["server"]
    kept.signal(signal.SIGTERM)
    assert kept.end()[0] in (0, 1)


@pytest.mark.parametrize("count", [10_000, 2_100, 300])
def test_two_launchers_share_no_uid(count: int) -> None:
    """The halves of the range are apart and within it; a range too small for two launchers is not divided."""
    config = Config(uid_base=5000, uid_count=count, max_vms=1000)
    parts = [range(first, first + many) for first, many in (uids(config, 0), uids(config, 1))]
    assert all(part.start > 5000 and part.stop <= 5000 + count for part in parts)
    assert (not set(parts[0]) & set(parts[1])) == (count > 2000)


def test_a_handover_survives_its_encoding() -> None:
    """What one process writes another reads, with options that it does not know left out; it shows no key."""
    place = {"secret_access_key": "word"}
    given = Handover(config=Config(data_dir="/d"), uid=7, needed=("/a",), layers=(), weaker=("proc",), tool={"x": 1}, binds=("/b",), place=place)
    text = given.encode().replace(b'"host":', b'"of_another_release": 1, "host":')
    assert Handover.decode(text) == given
    assert "word" not in repr(given)
