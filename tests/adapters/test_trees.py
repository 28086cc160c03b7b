"""Lines of prepared files: counted where they are, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from pyfaas.adapters.trees import TreeDirectories


def test_lines_are_those_of_plain_files_inside(tmp_path: Path) -> None:
    """A file's lines are counted; what is not there, leads out of the version, is no plain file or is large has none."""
    inside = tmp_path / "prepared" / "sha256-1"
    (inside / "lib").mkdir(parents=True)
    (tmp_path / "outside.py").write_text("1\n2\n")
    (inside / "main.py").write_text("a\nb\nc")
    (inside / "lib" / "part.py").write_text("a\n")
    (inside / "link.py").symlink_to(tmp_path / "outside.py")
    (inside / "away").symlink_to(tmp_path)
    (inside / "large.py").write_bytes(b"\n" * ((1 << 20) + 1))
    os.mkfifo(inside / "pipe.py")
    trees = TreeDirectories(tmp_path)
    counted = {path: trees.lines_nowait("sha256-1", path) for path in ("main.py", "lib/part.py")}
    assert counted == {"main.py": 3, "lib/part.py": 1}
    for path in ("none.py", "link.py", "away/outside.py", "../../outside.py", "lib/../main.py", "large.py", "pipe.py", "lib"):
        assert trees.lines_nowait("sha256-1", path) == 0, path
