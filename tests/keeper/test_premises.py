"""What a keeper takes, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyfaas import premises
from pyfaas.config import Config
from pyfaas.premises import Refused
from tests.keeper.conftest import ROOT

_ASKS = """
import os, sys
sys.path.insert(0, {root!r})
os.getuid = lambda: {uid}
from pyfaas.premises import ask_for_scope
ask_for_scope(has_cgroups={has_cgroups})
print(sys.argv[1], os.environ.get("PYFAAS_IN_SCOPE"))
"""
_SYSTEMD_RUN = """#!/bin/sh
echo "$1 $2 $3 $4 $5 $6 $7" >> "{log}"
[ -z "{refuses}" ] || exit 1
while [ "$1" != "--" ]; do shift; done
shift
exec "$@"
"""


def test_a_directory_is_locked_once(tmp_path: Path) -> None:
    """The lock holds against a second taker of the same process, and goes with its descriptor."""
    config = Config(data_dir=str(tmp_path / "data"))
    lock = premises.take_data(config, 0)
    with pytest.raises(Refused, match=f"already served by process {os.getpid()}"):
        premises.take_data(config, 0)
    os.close(lock)
    os.close(premises.take_data(config, 0))


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    """A file in the directory's place is named, with the option to change."""
    (tmp_path / "data").write_text("")
    with pytest.raises(Refused, match="--data-dir"):
        premises.take_data(Config(data_dir=str(tmp_path / "data")), 0)


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """The lock is written to, so it is never followed to somewhere else."""
    (tmp_path / "data").mkdir()
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "data/lock").symlink_to(tmp_path / "precious")
    with pytest.raises(Refused):
        premises.take_data(Config(data_dir=str(tmp_path / "data")), 0)
    assert (tmp_path / "precious").read_text() == "keep"


@pytest.mark.parametrize("name", ["bundles", "prepared", "environments", "staging", "run"])
def test_a_store_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    """A server that replaced a store by a link does not lead the next keeper, which may be root, elsewhere."""
    config = Config(data_dir=str(tmp_path / "data"))
    os.close(premises.take_data(config, 0))
    (tmp_path / "data" / name).rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match=name):
        premises.take_data(config, 0)
    (tmp_path / "data" / name).unlink()
    os.close(premises.take_data(config, 0))


@pytest.mark.skipif(os.getuid() != 0, reason="only root has a server of another uid")
def test_what_is_given_to_the_server(tmp_path: Path) -> None:
    """The server's uid gets its directories and plain files; nothing through a link or by a second name, and no lock."""
    config = Config(data_dir=str(tmp_path / "data"))
    os.close(premises.take_data(config, 0))
    data = tmp_path / "data"
    for name in ("plain", "precious", "other"):
        (tmp_path / name).write_text("")
    (data / "pyfaas.db").write_text("")
    (data / "link").symlink_to(tmp_path / "precious")
    os.link(tmp_path / "other", data / "second-name")
    os.close(premises.take_data(config, 4711))
    owners = {path.name: path.lstat().st_uid for path in (data, *data.iterdir())}
    assert {name for name, owner in owners.items() if owner == 4711} == {"data", "bundles", "pyfaas.db"}
    assert (tmp_path / "precious").stat().st_uid == (tmp_path / "other").stat().st_uid == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make what belongs to somebody else")
def test_a_store_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A directory that a server put in the place of the launcher's is not used."""
    config = Config(data_dir=str(tmp_path / "data"))
    os.close(premises.take_data(config, 0))
    os.chown(tmp_path / "data/environments", 4711, 4711)
    with pytest.raises(Refused, match="environments"):
        premises.take_data(config, 0)


def test_the_endpoint_is_not_written_through_a_link(tmp_path: Path) -> None:
    """A link in the new endpoint's place is replaced, not followed."""
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "endpoint.new").symlink_to(tmp_path / "precious")
    premises.tell_endpoint(Config(data_dir=str(tmp_path)), "http://127.0.0.1:1")
    assert (tmp_path / "precious").read_text() == "keep"
    assert (tmp_path / "endpoint").read_text() == "http://127.0.0.1:1\n"


def test_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's server gets an own uid, by range or by name; never root's, and none that does not exist."""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert premises.server_uid(Config(uid_base=7_000_000)) == 7_000_000
    assert premises.server_uid(Config(user="nobody")) == 65534
    for name in ("root", "nobody-of-this-name"):
        with pytest.raises(Refused, match=name):
            premises.server_uid(Config(user=name))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert premises.server_uid(Config(user="nobody")) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_places(host: str) -> None:
    """Both address families and names are listened on, and told as a URL."""
    with premises.bind(Config(host=host, port=0)) as listen:
        port = listen.getsockname()[1]
        assert premises.url_of(listen) in (f"http://127.0.0.1:{port}", f"http://[::1]:{port}")


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("192.0.2.1", 0), ("127.0.0.1", 70_000)])
def test_places_that_cannot_be(host: str, port: int) -> None:
    """An unknown name, somebody else's address and no port are refused with the place in the line."""
    with pytest.raises(Refused, match=f"{host}:{port}"):
        premises.bind(Config(host=host, port=port))


def test_endpoint(tmp_path: Path) -> None:
    """The endpoint is written, replaced and forgotten; forgetting what is not there is no failure."""
    config = Config(data_dir=str(tmp_path))
    for url in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        premises.tell_endpoint(config, url)
        assert (tmp_path / "endpoint").read_text() == url + "\n"
    premises.forget_endpoint(config)
    premises.forget_endpoint(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uid", "has_cgroups", "refuses", "asked", "in_scope"),
    [
        (1000, False, False, 2, "1"),  # tried with `true`, then for good
        (1000, False, True, 1, "None"),
        (1000, True, False, 0, "None"),
        (0, False, False, 0, "None"),
    ],
)
def test_a_scope_is_asked_for_once(
    tmp_path: Path, uid: int, has_cgroups: bool, refuses: bool, asked: int, in_scope: str
) -> None:
    """An ordinary user without a cgroup goes on inside systemd's scope, when it gives one; arguments are kept."""
    log, program = tmp_path / "log", tmp_path / "systemd-run"
    program.write_text(_SYSTEMD_RUN.format(log=log, refuses="yes" if refuses else ""))
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", _ASKS.format(root=str(ROOT), uid=uid, has_cgroups=has_cgroups), "an argument"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"an argument {in_scope}\n"
    lines = log.read_text().splitlines() if log.exists() else []
    assert len(lines) == asked
    assert set(lines) <= {"--user --scope --quiet --collect -p Delegate=yes --"}
