"""What `pyfaas serve` is: it starts launcher and server, starts again what dies, and passes signals on.

It holds the listening socket, so that a new server answers the connections that waited while it started. It reads exit
statuses, signals and one word from the server, and nothing of any stranger. Who dies with whom: the keeper's children
die with it (PDEATHSIG); the launcher ends when the server does, by a pipe that only the server holds; a launcher that
ends alone is started again, and its socket is handed to the server.
"""

from __future__ import annotations

import hashlib
import os
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

from pyfaas import premises
from pyfaas.adapters import indexes
from pyfaas.config import Config, load, process_environment
from pyfaas.errors import PyfaasError
from pyfaas.handover import Handover, hand_launcher
from pyfaas.premises import STORES, Refused
from sandbox import doctor
from sandbox.errors import LayerMissing, SandboxError
from sandbox.host.spawn import memory_file, spawn
from sandbox.launcher.options import LauncherOptions
from sandbox.spec import Layer

_REFUSES = 78  # EX_CONFIG of sysexits.h: said by a server that another try would not help
_BACK_OFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 30.0
_FIRST_TRIES = 3  # of a server that was never ready: a defect, which more tries would only hide
_LAUNCHER_ENDS_S = 5.0
# Run by the server's interpreter. A cell that cannot be built is a refusal: the kernel will not change its mind.
SERVER = """
import os, sys
sys.path.insert(0, {path!r})
sys.path.extend(path for path in {search!r} if path not in sys.path)  # the keeper's own: what -I leaves out of it
from pyfaas.handover import Handover
from sandbox.errors import SandboxError
from sandbox.launcher.cell import Cell, enter
given = Handover.from_descriptor({descriptor})
try:
    enter(Cell(data=given.config.data_dir, uid=given.uid, needed=given.needed, without=given.weaker))
except SandboxError as error:
    os.write(2, f"pyfaas serve: the server cannot be confined: {{error}}\\n".encode())
    os._exit(78)
from pyfaas.server import main
main(given)
"""


def run(
    flags: Mapping[str, Any], file: Path | None = None, *, print_config: bool = False, program: str = SERVER
) -> int:
    """Serve until told to stop; returns the exit status: 0, or 3 when serving is refused, with one line on stderr."""
    try:
        config, origin = load(flags, file=file)
        if print_config:
            for name, where in origin.items():
                print(f"{name} = {getattr(config, name)!r}  # {where}")
            return 0
        return Keeper(config, program).serve()
    except (Refused, SandboxError, PyfaasError, OSError, ValueError) as error:
        print(f"pyfaas serve: {error}{_way_out(error)}", file=sys.stderr)
        return 3


def _way_out(error: Exception) -> str:
    """Return how to do without what is missing, where one can."""
    if isinstance(error, LayerMissing) and error.layer in doctor.OPTIONAL:
        return f" (--allow-weaker-isolation {error.layer} gives it up)"
    return ""


@dataclass(slots=True)
class Children:
    """What runs now."""

    server: subprocess.Popen[bytes]
    launcher: subprocess.Popen[bytes]
    server_end: socket.socket
    life: int  # the pipe's reading end, for launchers to come
    since: float
    launcher_since: float


class BackOff:
    """How long to wait before the next try: longer with each failure in a row, not at all after a steady while."""

    def __init__(self) -> None:
        """Begin without a failure."""
        self.failures = 0

    def after(self, lived_s: float) -> float:
        """Count one more end, of what lived so long; returns the seconds to wait."""
        self.failures = 1 if lived_s > _STEADY_S else self.failures + 1
        return _BACK_OFF_S[min(self.failures, len(_BACK_OFF_S)) - 1]


class Keeper:
    """Starts, watches, starts again."""

    def __init__(self, config: Config, program: str = SERVER) -> None:
        """Take the data directory and the port; raises Refused, LayerMissing or ValueError.

        `program` is what the server's interpreter runs, with {path} and {descriptor} to be filled in.
        """
        self.config = replace(config, data_dir=os.path.abspath(config.data_dir))
        self.program = program
        self.layers: list[Layer] = doctor.layers()
        allowed = [name for name in config.allow_weaker_isolation.split(",") if name]
        premises.ask_for_scope(has_cgroups=any(layer.live for layer in self.layers if layer.name == "cgroups"))
        self.weaker = doctor.require(self.layers, allowed)
        self.uid = premises.server_uid(config)
        self._lock = premises.take_data(self.config, self.uid)
        self.listen = premises.bind(config)
        self.url = premises.url_of(self.listen)
        self.indexes = indexes.discover(process_environment(), os.path.expanduser("~"))
        self.is_stopping = self.is_told = False
        self.server_tries, self.launcher_tries = BackOff(), BackOff()

    # ---- running

    def serve(self) -> int:
        """Run until stopped; returns the exit status."""
        self._wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(caught, lambda _number, _frame: None)
        children = self._start()
        while True:
            self._wait(children)
            status = children.server.poll()
            if status is not None:
                self._end(children)
                if (ended := self._verdict(status)) is not None:
                    premises.forget_endpoint(self.config)
                    return ended
                print(f"pyfaas serve: the server ended with status {status}; starting again", file=sys.stderr)
                self._pause(self.server_tries.after(time.monotonic() - children.since))
                if self.is_stopping:
                    premises.forget_endpoint(self.config)
                    return 0
                children = self._start()
            elif children.launcher.poll() is not None and not self.is_stopping:
                self._restart_launcher(children)

    def _verdict(self, status: int) -> int | None:
        """Return the keeper's own exit status after the server's; None when it is to be started again."""
        if self.is_stopping:
            return 0 if status in (0, -signal.SIGTERM) else 1  # SIGTERM: it had not begun to listen for it
        if status == _REFUSES:
            return 3
        if not self.is_told and self.server_tries.failures + 1 >= _FIRST_TRIES:
            print(f"pyfaas serve: the server was never ready in {_FIRST_TRIES} tries; giving up", file=sys.stderr)
            return 3
        return None

    def _wait(self, children: Children | None, seconds: float | None = None) -> None:
        """Wait for a signal (a child's end is one) or the server's word, and act on them."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            if children is not None and children.server_end.fileno() >= 0:
                selector.register(children.server_end, selectors.EVENT_READ)
            selector.select(seconds)
        if children is not None:
            self._hear(children)
        for number in _pending(self._wake):
            self._signalled(number, children)

    def _pause(self, seconds: float, children: Children | None = None) -> None:
        """Wait before another try; a signal to stop ends it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.is_stopping:
            self._wait(children, left)

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
            uid=self.uid,
            needed=_needed(),
            layers=tuple(self.layers),
            weaker=tuple(self.weaker),
            tool=self.indexes.order(),
        )
        server = self._spawn_server(given)
        for opened in (theirs, control):
            opened.close()
        os.close(life_write)
        now = time.monotonic()
        return Children(server, launcher, ours, life_read, now, now)

    def _spawn_server(self, given: Handover) -> subprocess.Popen[bytes]:
        descriptor = memory_file(given.encode())
        program = self.program.format(path=_project(), search=[p for p in sys.path if p], descriptor=descriptor)
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-c", program, "pyfaas-server"],
                pass_fds=[given.listen, given.launcher, given.keeper, given.life, descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                process_group=0,  # Ctrl-C is the keeper's to pass on, once
            )
        finally:
            os.close(descriptor)

    def _spawn_launcher(self, life: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        data = self.config.data_dir
        premises.check_stores(self.config)  # the server that runs beside could have changed them
        options = LauncherOptions(
            instance=_instance(data),
            root=f"{data}/run",
            entry="pyfaas.runtime.container:serve",
            warm="pyfaas.runtime.warm:warm",
            awaits_code=True,
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
        lived = time.monotonic() - children.launcher_since
        self._pause(self.launcher_tries.after(lived), children)
        if self.is_stopping or children.server.poll() is not None:
            return
        control, children.launcher = self._spawn_launcher(children.life)
        children.launcher_since = time.monotonic()
        print("pyfaas serve: the launcher ended; a new one was started", file=sys.stderr)
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
            premises.tell_endpoint(self.config, self.url)
            if not self.is_told:
                self.is_told = True
                print(f"pyfaas ready url={self.url} isolation={isolation}", flush=True)

    def _signalled(self, number: int, children: Children | None) -> None:
        if number == signal.SIGHUP:
            print("pyfaas serve: upgrading in place is not available yet", file=sys.stderr)
        elif number in (signal.SIGTERM, signal.SIGINT):
            if children is not None:
                children.server.send_signal(signal.SIGKILL if self.is_stopping else signal.SIGTERM)
            self.is_stopping = True

    def _end(self, children: Children) -> None:
        """See that the launcher of a server that is gone goes too."""
        try:
            children.launcher.wait(_LAUNCHER_ENDS_S)
        except subprocess.TimeoutExpired:
            children.launcher.kill()
            children.launcher.wait()
        children.server_end.close()
        os.close(children.life)


def _pending(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 64)
    except BlockingIOError:
        return b""


def _project() -> str:
    return str(Path(__file__).resolve().parents[1])


def _needed() -> tuple[str, ...]:
    """Return what an interpreter like this one reads: its prefixes, the project and the module search path."""
    paths = {
        sys.prefix,
        sys.base_prefix,
        os.path.realpath(sys.base_prefix),
        os.path.realpath(sys.executable),
        _project(),
    }
    paths |= {path for path in sys.path if path and os.path.isdir(path)}
    return tuple(sorted(os.path.abspath(path) for path in paths if os.path.exists(path)))


def _instance(data: str) -> str:
    """Name this data directory's cgroups, so that a later start finds what a crash left."""
    return hashlib.sha256(data.encode()).hexdigest()[:8]
