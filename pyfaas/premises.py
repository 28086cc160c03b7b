"""What a keeper takes before it starts anything: the data directory, the port, and a cgroup to make groups in.

Each is taken so that a second server cannot take it too, and each refusal is one line that says what to do. Nothing here
is undone at the end: the lock and the socket go with the process, the directory is the operator's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pyfaas.config import Config, environment, process_environment

STORES = ("bundles", "prepared", "environments", "staging")
_SCOPED = "PYFAAS_IN_SCOPE"  # set in the scope that was asked for: it is asked for once
_SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "-p", "Delegate=yes")
_ASKING_S = 10.0
_LAST_PORT = 65535


class Refused(Exception):
    """The server cannot be started; one line says why."""


def take_data(config: Config, uid: int) -> int:
    """Make and lock the data directory; returns the lock's descriptor, to be kept open. Raises Refused.

    What the server writes is given to `uid`, 0 for nobody else; links are not followed. The other stores are the launcher's.
    """
    data = config.data_dir
    try:
        os.makedirs(data, 0o700, exist_ok=True)
        os.chmod(data, 0o700)
        for name in (*STORES, "run"):
            os.makedirs(f"{data}/{name}", 0o700, exist_ok=True)
        lock = os.open(f"{data}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        told = f"the data directory {data} cannot be used: {error.strerror}; choose one with --data-dir"
        raise Refused(told) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        told = f"{data} is already served by process {pid}{_at(data)}; use another --data-dir"
        raise Refused(told) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    forget_endpoint(config)  # a crash left it
    if uid:
        for directory in (data, f"{data}/bundles"):
            _give(directory, uid)
    return lock


def _at(data: str) -> str:
    try:
        return f" at {Path(data, 'endpoint').read_text().strip()}"
    except OSError:
        return ""


def _give(directory: str, uid: int) -> None:
    os.chown(directory, uid, uid, follow_symlinks=False)
    for entry in os.scandir(directory):
        if entry.is_file(follow_symlinks=False) and entry.name != "lock":
            os.chown(entry.path, uid, uid, follow_symlinks=False)


def server_uid(config: Config) -> int:
    """Return the uid that the server gets; 0 means: the ordinary user's own. Raises Refused for an unknown user."""
    if os.getuid() != 0:
        return 0
    if not config.user:
        return config.uid_base
    try:
        uid = pwd.getpwnam(config.user).pw_uid
    except KeyError:
        raise Refused(f"there is no user {config.user!r}") from None
    if uid == 0:
        raise Refused("--user root: the server never runs as root; name another user")
    return uid


def bind(config: Config) -> socket.socket:
    """Listen on the configured place; raises Refused."""
    listen: socket.socket | None = None
    try:
        if not 0 <= config.port <= _LAST_PORT:
            raise OSError(errno.EINVAL, "no such port")  # getaddrinfo would take it modulo 65536
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listen = socket.socket(family, kind, protocol)
        listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listen.bind(address)
        listen.listen(1024)
    except OSError as error:
        if listen is not None:
            listen.close()
        told = (
            f"{config.host}:{config.port} cannot be listened on: {error.strerror}; choose another with --host or --port"
        )
        raise Refused(told) from None
    return listen


def url_of(listen: socket.socket) -> str:
    """Return where a bound socket is reached."""
    host, port = listen.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def tell_endpoint(config: Config, url: str) -> None:
    """Write DATA/endpoint, whole or not at all."""
    path = f"{config.data_dir}/endpoint"
    with open(path + ".new", "w") as file:
        file.write(url + "\n")
    os.replace(path + ".new", path)


def forget_endpoint(config: Config) -> None:
    """Remove DATA/endpoint: nobody answers there any more."""
    Path(config.data_dir, "endpoint").unlink(missing_ok=True)


def ask_for_scope(*, has_cgroups: bool) -> None:
    """Go on in a delegated cgroup of the user's systemd, when there is none yet and systemd gives one; else return.

    Everything that was given to this process, arguments included, is given to the one that replaces it.
    """
    if has_cgroups or os.getuid() == 0 or environment(_SCOPED) or shutil.which(_SCOPE[0]) is None:
        return
    if _answers([*_SCOPE, "--", "true"]):
        env = {**process_environment(), _SCOPED: "1"}
        os.execvpe(_SCOPE[0], [*_SCOPE, "--", sys.executable, *sys.orig_argv[1:]], env)  # noqa: S606


def _answers(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASKING_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
