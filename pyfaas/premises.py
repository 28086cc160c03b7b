"""What a keeper takes before it starts anything: the data directory, the port, and a cgroup to make groups in.

Each is taken so that a second server cannot take it too, and each refusal is one line that says what to do. Nothing here
is undone at the end: the lock and the socket go with the process, the directory is the operator's.

The data directory belongs to the server's uid, and the server parses what strangers send; a keeper with root must not be
led elsewhere by what an earlier server left there. So nothing is opened, written or given away through a link, and what
is the launcher's own must still be its own directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pyfaas.config import Config, environment, process_environment

STORES = ("bundles", "prepared", "environments", "staging")
_LAUNCHERS = ("prepared", "environments", "staging", "run")
_READ_BY_SERVER = ("prepared", "environments")  # a backup holds them, and what nobody needs is removed
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
        for name in ("bundles", *_LAUNCHERS):
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{data}/{name}", 0o700)
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
    try:
        check_stores(config)
    except Refused:
        os.close(lock)
        raise
    for name in _READ_BY_SERVER:
        opened = os.open(f"{data}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.fchmod(opened, 0o755)  # the data directory is closed to everybody but the server
        os.close(opened)
    forget_endpoint(config)  # a crash left it
    if uid:
        for directory in (data, f"{data}/bundles"):
            _give(directory, uid)
    return lock


def check_stores(config: Config) -> None:
    """See that what is the launcher's is a directory of its own, and no link to somewhere else; raises Refused."""
    for name in ("bundles", *_LAUNCHERS):
        path = f"{config.data_dir}/{name}"
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or (name in _LAUNCHERS and found.st_uid != os.geteuid()):
            told = f"{path} is not a directory of uid {os.geteuid()}: it was put there by somebody else; look, and remove it"
            raise Refused(told)


def _at(data: str) -> str:
    try:
        return f" at {Path(data, 'endpoint').read_text().strip()}"
    except OSError:
        return ""


def _give(path: str, uid: int) -> None:
    """Give a directory and the plain files in it to a uid: no link is followed, none that has a second name is given."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(directory, uid, uid)
        for name in os.listdir(directory):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and name != "lock":
                os.chown(name, uid, uid, dir_fd=directory, follow_symlinks=False)
    finally:
        os.close(directory)


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
    Path(path + ".new").unlink(missing_ok=True)
    opened = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "w") as file:
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
