"""The README's tour, run as it is written: every command in its order, and what it shows of their answers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.house import REPOSITORY, missing

TOUR = (REPOSITORY / "README.md").read_text().partition("## Five minutes\n")[2].partition("\n## ")[0]
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)
URL = "http://127.0.0.1:8787"
_MARK = "@@@ step"


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what the README shows of its answer; nothing shown is not compared."""

    command: str
    shown: str


def steps(text: str) -> list[Step]:
    """Return the tour's steps: `$ ` begins a command, a here-document belongs to it, other lines are its answer."""
    found: list[Step] = []
    for kind, body in BLOCK.findall(text):
        if kind == "python":
            found.append(Step(f"cat > tour.py <<'EOF'\n{body}EOF", ""))
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            first, _, rest = part.partition("\n")
            document, _, answer = rest.partition("\nEOF\n") if first.endswith("<<'EOF'") else ("", "", rest)
            found.append(Step(f"{first}\n{document}\nEOF" if document else first, answer.strip("\n")))
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an empty directory with the programs that the tour's PATH has."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, options in (("pyfaas", "-P -m pyfaas"), ("python3", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {options} "$@"\n')
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def environment(place: Path) -> dict[str, str]:
    """Return a newcomer's environment, but for another data directory and any free port."""
    extra = {"PYFAAS_ALLOW_WEAKER_ISOLATION": ",".join(missing())} if missing() else {}
    return {
        **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
        "HOME": str(place),
        "PYTHONPATH": str(REPOSITORY),
        "PYFAAS_DATA_DIR": str(place / "data"),
        "PYFAAS_PORT": "0",
        **extra,
    }


@pytest.fixture
def server(place: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run the tour's first block, which serves until it is stopped, and return the URL that it said."""
    first, second = steps(TOUR)[:2]
    assert second.command == "pyfaas serve"
    with (place / "serve.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"{first.command}\nexec {second.command}"], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        assert line.startswith("pyfaas ready url="), (place / "serve.log").read_text()
        url = line.split("url=")[1].split()[0]
        if not missing():
            assert line.replace(url, URL) == second.shown
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stdout.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_tour_does_what_it_says(place: Path, environment: dict[str, str], server: str) -> None:
    """Each command of the README's five minutes succeeds and answers what is shown there."""
    first, _serve, *others = steps(TOUR)
    assert len(others) > 15
    script = [first.command]
    for number, step in enumerate(others):
        script += [step.command.replace(URL, server), f'status=$?; printf "\\n{_MARK} {number}\\n"; [ $status -eq 0 ] || exit $status']
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout
    answers = re.split(rf"\n{_MARK} \d+\n", done.stdout)
    for step, answer in zip(others, answers, strict=False):
        if step.shown:
            pattern = re.escape(step.shown).replace("…", ".*")
            assert re.fullmatch(pattern, answer.strip()), f"{step.command}\nsays  {answer}\nnot {step.shown}"
    assert (place / "greetings.ndjson").read_text().count('"ok"') == 2
    assert (place / "pyfaas.tar").stat().st_mode & 0o777 == 0o600
