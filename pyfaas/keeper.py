"""What `pyfaas serve` is: it starts launcher and server, starts again what dies, and passes signals on.

It holds the listening socket, so that a new server answers the connections that waited while it started. It reads exit
statuses, signals and one word from the server, and nothing of any stranger. Who dies with whom: the keeper's children
die with it (PDEATHSIG); the launcher ends when the server does, by a pipe that only the server holds; a launcher that
ends alone is started again, and its socket is handed to the server.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyfaas.adapters import indexes
from pyfaas.config import Config, load, process_environment
from pyfaas.errors import PyfaasError
from pyfaas.handover import Handover, hand_launcher
from sandbox import doctor
from sandbox.errors import LayerMissing
from sandbox.host.spawn import memory_file, spawn
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import Layer

STORES = ("bundles", "prepared", "environments", "staging")
_REFUSES = 78  # EX_CONFIG of sysexits.h: said by a server that another try would not help
_BACK_OFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 30.0
_BOOT = (
    "import sys; sys.path.insert(0, {path!r}); from sandbox.launcher.cell import Cell, enter; "
    "from pyfaas.handover import Handover; given = Handover.from_descriptor({descriptor}); "
    "enter(Cell(data=given.config.data_dir, uid=given.uid, needed=given.needed, without=given.weaker)); "
    "from pyfaas.server import main; main(given)"
)


class Refused(Exception):
    """The server cannot be started; one line says why."""


def run(flags: Mapping[str, Any], file: Path | None = None, *, print_config: bool = False) -> int:
    """Serve until told to stop; returns the exit status: 0, or 3 when serving is refused, with one line on stderr."""
    try:
        config, origin = load(flags, file=file)
        if print_config:
            for name, where in origin.items():
                print(f"{name} = {getattr(config, name)!r}  # {where}")
            return 0
        return Keeper(config).serve()
    except (Refused, LayerMissing, PyfaasError, ValueError) as error:
        hint = " (--allow-weaker-isolation " + error.layer + " gives it up)" if isinstance(error, LayerMissing) else ""
        print(f"pyfaas serve: {error}{hint}", file=sys.stderr)
        return 3


@dataclass(slots=True)
class Children:
    """What runs now."""

    server: subprocess.Popen[bytes]
    launcher: subprocess.Popen[bytes]
    server_end: socket.socket
    life: int  # the pipe's reading end, for launchers to come
    since: float


class Keeper:
    """Starts, watches, starts again."""

    def __init__(self, config: Config) -> None:
        """Take the data directory and the port; raises Refused, LayerMissing or ValueError."""
        self.config = replace(config, data_dir=os.path.abspath(config.data_dir))
        self.layers: list[Layer] = doctor.layers()
        allowed = [name for name in config.allow_weaker_isolation.split(",") if name]
        self.weaker = doctor.require(self.layers, allowed)
        self._take_data()
        self.listen = self._bind()
        self.indexes = indexes.discover(process_environment(), os.path.expanduser("~"))
        self.is_stopping = self.is_told = False
        self.failures = 0

    # ---- taking

    def _take_data(self) -> None:
        data = self.config.data_dir
        try:
            os.makedirs(data, 0o700, exist_ok=True)
            os.chmod(data, 0o700)
            for name in (*STORES, "run"):
                os.makedirs(f"{data}/{name}", 0o700, exist_ok=True)
            self._lock = os.open(f"{data}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._lock, 32).decode(errors="replace").strip()
            raise Refused(f"{data} is already served by process {pid}; use another --data-dir") from None
        except OSError as error:
            raise Refused(f"the data directory {data} cannot be used: {error.strerror}; choose one with --data-dir") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        if os.getuid() == 0:
            self._give_to_server(data)

    def _give_to_server(self, data: str) -> None:
        """Let the server's uid own what it writes; links are not followed. The other stores are the launcher's."""
        uid = self.server_uid()
        for directory in (data, f"{data}/bundles"):
            os.chown(directory, uid, uid, follow_symlinks=False)
            for entry in os.scandir(directory):
                if entry.is_file(follow_symlinks=False) and entry.name != "lock":
                    os.chown(entry.path, uid, uid, follow_symlinks=False)

    def server_uid(self) -> int:
        """Return the uid that the server runs as; 0 means: the ordinary user's own."""
        if os.getuid() != 0:
            return 0
        if not self.config.user:
            return self.config.uid_base
        try:
            return pwd.getpwnam(self.config.user).pw_uid
        except KeyError:
            raise Refused(f"there is no user {self.config.user!r}") from None

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.config.host else socket.AF_INET
        listen = socket.socket(family, socket.SOCK_STREAM)
        listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listen.bind((self.config.host, self.config.port))
            listen.listen(1024)
        except OSError as error:
            place = f"{self.config.host}:{self.config.port}"
            raise Refused(f"{place} cannot be listened on: {error.strerror}; choose another with --port") from None
        return listen

    @property
    def url(self) -> str:
        """Where the server is reached."""
        host, port = self.listen.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    # ---- running

    def serve(self) -> int:
        """Run until stopped; returns the exit status."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(caught, lambda _number, _frame: None)
        children = self._start()
        while True:
            with selectors.DefaultSelector() as selector:
                selector.register(wake_read, selectors.EVENT_READ)
                if children.server_end.fileno() >= 0:
                    selector.register(children.server_end, selectors.EVENT_READ)
                selector.select()
            self._hear(children)
            for number in _pending(wake_read):
                self._signalled(number, children)
            status = children.server.poll()
            if status is not None:
                self._end(children)
                if self.is_stopping:
                    return 0 if status == 0 else 1
                if status == _REFUSES:
                    return 3
                self._wait_before_restart(children, status)
                children = self._start()
            elif children.launcher.poll() is not None and not self.is_stopping:
                self._restart_launcher(children)

    def _start(self) -> Children:
        life_read, life_write = os.pipe2(os.O_CLOEXEC)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control, launcher = self._spawn_launcher(life_read)
        given = Handover(
            config=self.config,
            listen=self.listen.fileno(),
            launcher=control.fileno(),
            keeper=theirs.fileno(),
            life=life_write,
            uid=self.server_uid(),
            needed=_needed(),
            layers=tuple(self.layers),
            weaker=tuple(self.weaker),
            tool=self.indexes.order(),
        )
        descriptor = memory_file(given.encode())
        boot = _BOOT.format(path=_project(), descriptor=descriptor)
        server = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-I", "-c", boot, "pyfaas-server"],
            pass_fds=[given.listen, given.launcher, given.keeper, given.life, descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        for opened in (theirs, control):
            opened.close()
        os.close(life_write)
        os.close(descriptor)
        return Children(server, launcher, ours, life_read, time.monotonic())

    def _spawn_launcher(self, life: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        data = self.config.data_dir
        options = LauncherOptions(
            instance=_instance(data),
            root=f"{data}/run",
            entry="pyfaas.runtime.container:serve",
            warm="pyfaas.runtime.warm:warm",
            rehearse="pyfaas.runtime.warm:rehearse",
            uid_base=self.config.uid_base + 1,
            uid_count=self.config.uid_count - 1,
            stores={name: f"{data}/{name}" for name in STORES},
            binds=self.indexes.binds,
            without=tuple(self.weaker),
            life=life,
        )
        return spawn(options)

    def _restart_launcher(self, children: Children) -> None:
        control, children.launcher = self._spawn_launcher(children.life)
        try:
            hand_launcher(children.server_end, control)
        except OSError:
            pass  # the server is going too; its end is handled next
        control.close()

    def _hear(self, children: Children) -> None:
        try:
            text = children.server_end.recv(256, socket.MSG_DONTWAIT)
        except OSError:
            return
        if not text:
            children.server_end.close()
        elif text == b"ready":
            isolation = "weaker:" + ",".join(self.weaker) if self.weaker else "full"
            _write(f"{self.config.data_dir}/endpoint", self.url + "\n")
            if not self.is_told:
                self.is_told = True
                print(f"pyfaas ready url={self.url} isolation={isolation}", flush=True)

    def _signalled(self, number: int, children: Children) -> None:
        if number == signal.SIGHUP:
            print("pyfaas serve: upgrading in place is not available yet", file=sys.stderr)
        elif number in (signal.SIGTERM, signal.SIGINT):
            children.server.send_signal(signal.SIGKILL if self.is_stopping else signal.SIGTERM)
            self.is_stopping = True

    def _end(self, children: Children) -> None:
        """See that the launcher of a server that is gone goes too."""
        try:
            children.launcher.wait(5)
        except subprocess.TimeoutExpired:
            children.launcher.kill()
            children.launcher.wait()
        children.server_end.close()
        os.close(children.life)

    def _wait_before_restart(self, children: Children, status: int) -> None:
        steady = time.monotonic() - children.since > _STEADY_S
        self.failures = 0 if steady else self.failures + 1
        pause = _BACK_OFF_S[min(self.failures, len(_BACK_OFF_S)) - 1] if self.failures else 0.0
        print(f"pyfaas serve: the server ended with status {status}; starting again", file=sys.stderr)
        time.sleep(pause)


def _pending(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 64)
    except BlockingIOError:
        return b""


def _project() -> str:
    return str(Path(__file__).resolve().parents[1])


def _needed() -> tuple[str, ...]:
    """Return what an interpreter like this one reads: its prefixes, the project and the module search path."""
    paths = {sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), os.path.realpath(sys.executable), _project()}
    paths |= {path for path in sys.path if path and os.path.isdir(path)}
    return tuple(sorted(os.path.abspath(path) for path in paths if os.path.exists(path)))


def _instance(data: str) -> str:
    """Name this data directory's cgroups, so that a later start finds what a crash left."""
    return hashlib.sha256(data.encode()).hexdigest()[:8]


def _write(path: str, text: str) -> None:
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)
