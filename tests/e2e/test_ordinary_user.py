"""The server as an ordinary user: with a cgroup subtree handed over it isolates in full, without one it says what lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.house import House, running
from tests.e2e.ordinary import group_of, home_of

UID = 64_123
PROBE = """
import os
def handler(event, context):
    if event.get("do") == "memory":
        held = []
        while True: held.append(bytearray(1 << 20))
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    open("/tmp/mine", "w").write("x")
    try: shadow = open("/etc/shadow").read()
    except OSError as error: shadow = type(error).__name__
    return {"caps": status["CapBnd"].strip(), "seccomp": status["Seccomp"], "uid": os.getuid(), "shadow": shadow, "pids": [p for p in os.listdir("/proc") if p.isdigit()]}
"""
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root; run as a user, every other test is this test")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a directory of the ordinary user's."""
    return home_of(UID, tmp_path)


@pytest.fixture
def group() -> Iterator[str]:
    """Hand a cgroup subtree to the user in every hierarchy."""
    with group_of(UID) as name:
        yield name


def command(home: Path, group: str, *options: str) -> list[str]:
    """Return the command that serves as the user."""
    script = str(Path(__file__).with_name("as_user.py"))
    serve = [sys.executable, "-m", "pyfaas", "serve", "--port", "0", *options, "--data-dir", str(home)]
    return [sys.executable, script, str(UID), group, *serve]


def check(house: House) -> None:
    """Deploy and call a function, and see that it is confined."""
    assert house.deploy("probe", PROBE).json["state"] == "ready"
    shown = house.invoke("probe", {}).json
    assert (shown["caps"], shown["seccomp"], shown["uid"], shown["shadow"]) == ("0" * 16, "2", 1000, "FileNotFoundError")
    assert len(shown["pids"]) <= 2


def test_with_a_subtree_the_isolation_is_full(home: Path, group: str) -> None:
    """With delegated cgroups an ordinary user's server is as confined as root's; memory is limited."""
    with running(command(home, group), home) as house:
        assert house.isolation == "full"
        check(house)
        assert house.invoke("probe", {"do": "memory"}).outcome == "oom"


def test_without_a_subtree_it_refuses_in_one_line(home: Path) -> None:
    """Without cgroups `serve` says which layer lacks, why, and what mends it."""
    ended = subprocess.run(command(home, "-"), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert len(ended.stderr.strip().splitlines()) == 1
    for word in ("cgroups", "Delegate=yes", "--allow-weaker-isolation"):
        assert word in ended.stderr


def test_without_a_subtree_on_request(home: Path) -> None:
    """Given up by name, everything else is in force, and every face says what lacks."""
    with running(command(home, "-", "--allow-weaker-isolation", "cgroups"), home) as house:
        assert house.isolation == "weaker:cgroups"
        assert house.call("GET", "/readyz", token=None).json["isolation"] == "weaker:cgroups"
        check(house)
