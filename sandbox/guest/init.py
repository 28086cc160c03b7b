"""PID 1 of a VM: does nothing, and so holds the VM's namespaces together.

Orphans of the containers become its children; with SIGCHLD ignored the kernel reaps them. It ends when the launcher
does: its socket then reads end-of-file (getppid() is always 0 here, so that tells nothing).
"""

from __future__ import annotations

import os
import signal


def wait(life: int) -> None:
    """Wait for the launcher's end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while os.read(life, 1):
        continue
