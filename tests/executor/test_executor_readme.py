"""The README's program for SandboxExecutor does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_what_happens(tmp_path: Path) -> None:
    """The program runs as it stands there, and prints what is written beside each line."""
    section = (PROJECT / "README.md").read_text().partition("## SandboxExecutor\n")[2].partition("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    (tmp_path / "program.py").write_text(found[1])
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    said = [line.partition("#")[2].strip().partition(": a worker")[0] for line in found[1].splitlines() if "print(" in line]
    assert [re.sub(r"=[\d.e-]+", "=…", line) for line in ended.stdout.splitlines()] == said
