"""`pyfaas demo` as people run it: it works, it leaves nothing behind, and it does not call a failure a success."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.house import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
UID = 64_124
_LINE = re.compile(r"(?P<verdict>ok|FAILED) +\d+ ms  (?P<name>.{22}) (?P<seen>.+)")


def command(*options: str) -> list[str]:
    """Return the command, for any working directory."""
    return [sys.executable, "-m", "pyfaas", *options]


def environment(place: Path) -> dict[str, str]:
    """Return an environment in which temporary directories are made in `place`."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(place)}


def steps(text: str) -> dict[str, tuple[str, str]]:
    """Return each step's verdict and what it saw, by its name."""
    found = [match for line in text.splitlines() if (match := _LINE.fullmatch(line))]
    return {match["name"].strip(): (match["verdict"], match["seen"]) for match in found}


def of(place: Path) -> list[str]:
    """Return the command lines of the processes that name a place."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in line:
            lines.append(line)
    return lines


def mounts(place: Path) -> list[str]:
    """Return what is mounted under a place."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an empty directory for everything temporary."""
    made = tmp_path / "place"
    made.mkdir()
    return made


def assert_nothing_is_left(place: Path) -> None:
    """See that files, mounts and processes are gone."""
    assert (list(place.iterdir()), mounts(place), of(place)) == ([], [], [])


def test_it_works_and_leaves_nothing(place: Path) -> None:
    """Every step is ok, every example is deployed, no call fails during the redeploy, and nothing is left behind."""
    ended = subprocess.run(command("demo"), capture_output=True, text=True, timeout=110, check=False, env=environment(place), cwd="/")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = steps(ended.stdout)
    assert {verdict for verdict, _ in seen.values()} == {"ok"}
    assert ended.stdout.splitlines()[-1].startswith(f"{len(seen)} steps, 0 failed, ")
    for example in EXAMPLES.glob("*/pyfaas.toml"):
        assert seen[f"deploy {example.parent.name}"][1].startswith("into 2 accounts")
    redeploy = re.fullmatch(r"(\d+) calls, 0 errors: (\d+) by version 1, (\d+) by version 2", seen["redeploy during calls"][1])
    assert redeploy is not None
    calls, before, after = map(int, redeploy.groups())
    assert before > 0
    assert after > 0
    assert calls == before + after
    assert "fetched with south's own key, once both allow it" in seen["accept it"][1]
    assert seen["take it back"][1].startswith("410 for south at once")
    assert re.fullmatch(r"south pays for \d+ runs of short and 2 of the API; north sees \d+ by south", seen["usage of both sides"][1])
    assert "\x1b" not in ended.stdout
    assert_nothing_is_left(place)


def test_a_broken_example_is_told(place: Path, tmp_path: Path) -> None:
    """An example that cannot be imported fails its step with the reason; the rest goes on, and the exit code is 1."""
    copy = tmp_path / "copy"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "fanout" / "main.py").write_text("import no_such_module_anywhere\n")
    shutil.rmtree(copy / "thumbnail")
    (copy / "page" / "pyfaas.toml").write_text('name = "page"\nhandler = "main:handler"\nrequirements = ["jinja2>=3.1"]\nmemmory = "1G"\n')
    ended = subprocess.run(
        command("-o", "json", "demo", "--examples", str(copy)), capture_output=True, text=True, timeout=110, check=False, env=environment(place)
    )
    assert ended.returncode == 1
    seen = {step["step"]: step for step in json.loads(ended.stdout)["items"]}
    failed = {name for name, step in seen.items() if not step["ok"]}
    assert failed >= {"deploy fanout", "deploy thumbnail", "deploy page"}
    assert "no_such_module_anywhere" in seen["deploy fanout"]["seen"]
    assert "memmory" in seen["deploy page"]["seen"]
    assert not failed & {"call hello", "stream", "graphs: graph", "redeploy during calls", "stop the server"}
    assert_nothing_is_left(place)


@pytest.mark.parametrize("after", ["start a server", "deploy graph"])
def test_ctrl_c(place: Path, after: str) -> None:
    """Ctrl-C in the middle ends it with 130, the server too, and nothing is left behind."""
    process = subprocess.Popen(
        command("demo"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place), start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if after in line:
            break
    assert len(of(place)) > 0
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, out + errors
    assert "Traceback" not in out + errors
    until = time.monotonic() + 10
    while of(place) and time.monotonic() < until:
        time.sleep(0.1)
    assert_nothing_is_left(place)


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root; run as a user, every other test is this test")
def test_as_an_ordinary_user(place: Path, tmp_path: Path) -> None:
    """Without cgroups the demo says in one line what it does without, and every step is ok all the same."""
    home = tmp_path / "home"
    shutil.copytree(EXAMPLES, home, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (place, home):
        os.chown(path, UID, UID)
    script = str(Path(__file__).with_name("as_user.py"))
    # as_user gives an environment of its own: what names the package index is handed through by name.
    passed = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(("PIP_", "UV_", "SSL_CERT", "HTTP", "http"))]
    run = ["/usr/bin/env", f"TMPDIR={place}", *passed, *command("demo", "--examples", str(home))]
    ended = subprocess.run([sys.executable, script, str(UID), "-", *run], capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    notes = [line for line in ended.stderr.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert "cgroups" in notes[0]
    seen = steps(ended.stdout)
    assert seen["start a server"][1].startswith("isolation weaker:cgroups")
    assert {verdict for verdict, _ in seen.values()} == {"ok"}
    assert_nothing_is_left(place)
