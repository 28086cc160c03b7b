"""What an ordinary user is given by root: a directory of his own, and a cgroup subtree in every hierarchy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sandbox.launcher import cgroups


def home_of(uid: int, parent: Path) -> Path:
    """Make a directory of the user's."""
    made = parent / "home"
    made.mkdir()
    os.chown(made, uid, uid)
    return made


@contextlib.contextmanager
def group_of(uid: int) -> Iterator[str]:
    """Hand a cgroup subtree over, and yield its name."""
    name = f"pyfaas-test-{uid}-{os.getpid()}"
    paths = [Path(base, name) for base in cgroups.detect().bases()]
    for path in paths:
        path.mkdir()
        for entry in (path, *path.iterdir()):
            os.chown(entry, uid, uid)
    yield name
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
