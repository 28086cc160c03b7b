"""Execute a command as an ordinary user: `as_user.py UID CGROUP|- COMMAND…`, run by root.

The interpreter and the checkout may lie where that user cannot go (a virtual environment in root's home), so they are
bound, in a mount namespace of this process's own, under an empty directory that is open.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sandbox import kernel
from sandbox.launcher import cgroups
from sandbox.launcher.cell import closed_parent, outermost


def main(uid: int, group: str, command: list[str]) -> None:
    """Enter the group, open the way to what is needed, become the user, and execute."""
    if group != "-":
        for base in cgroups.detect().bases():
            Path(base, group, "cgroup.procs").write_text("0")
    kernel.own_mounts()
    needed = {sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), *filter(os.path.isdir, sys.path), command[-1]}
    hidden = [path for path in outermost(sorted(needed)) if closed_parent(path)]
    trees = [(path, kernel.open_tree(kernel.AT_FDCWD, path, recursive=True)) for path in hidden]
    for top in sorted({closed_parent(path) for path in hidden}):
        kernel.mount("tmpfs", top, "tmpfs", 0, "size=1m,mode=755")
    for path, tree in trees:
        os.makedirs(path, exist_ok=True)
        kernel.move_mount(tree, path)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir("/")
    home = command[-1]
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    os.execve(command[0], command, {"PATH": "/usr/bin:/bin", "HOME": home, "PYTHONPATH": sys.path[0], **keys})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
