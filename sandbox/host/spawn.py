"""Executing a launcher: with its own interpreter, nothing of the site, and the descriptors that it is given."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sandbox import filters
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import Network

_BOOT = "import sys; sys.path.insert(0, {path!r}); from sandbox.launcher.main import main; main({descriptor}, {path!r})"

# A process's first environment stays on its stack for ever, and a fork copies it: whatever the launcher is given here,
# code in a container can read, though os.environ is empty there. So nothing of the host's.
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def spawn(options: LauncherOptions) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Execute a launcher; returns our end of its control socket, and the process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    filters_by_profile = {network.value: memory_file(_filter(network)) for network in options.networks}
    told = replace(options, control=theirs.fileno(), filters=filters_by_profile)
    descriptor = memory_file(told.encode())
    path = str(Path(__file__).resolve().parents[2])
    boot = _BOOT.format(path=path, descriptor=descriptor)
    passed = [theirs.fileno(), descriptor, *filters_by_profile.values(), *([options.life] if options.life >= 0 else [])]
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", "-c", boot, "pyfaas-launcher"], pass_fds=passed, stdin=subprocess.DEVNULL, env=ENVIRONMENT
    )
    theirs.close()
    for opened in (descriptor, *filters_by_profile.values()):
        os.close(opened)
    return ours, process


@functools.cache  # making one and checking it takes 50 ms, and a process may start many launchers
def _filter(network: Network) -> bytes:
    return filters.build(network)


def temporary_root() -> str:
    """Return an empty directory for a launcher's `root`."""
    return tempfile.mkdtemp(prefix="pyfaas-root-")


def memory_file(content: bytes) -> int:
    """Return a descriptor of an anonymous file with this content."""
    descriptor = os.memfd_create("pyfaas", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    return descriptor
