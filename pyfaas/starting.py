"""How a keeper starts things: what it finds out first, a launcher, an egress, a server, and the three tied together."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pyfaas import network, premises
from pyfaas.adapters import credentials, indexes, places
from pyfaas.children import Child, Team
from pyfaas.config import Config, process_environment
from pyfaas.egress import settings
from pyfaas.egress.options import EgressOptions
from pyfaas.handover import Handover
from pyfaas.premises import STORES, Refused
from sandbox import doctor
from sandbox.host.spawn import memory_file, spawn
from sandbox.launcher.options import LauncherOptions

# Run by the server's interpreter. A cell that cannot be built is a refusal: the kernel will not change its mind.
SERVER = """
import gc, os, sys
gc.disable()  # until it serves: a tenth of its start
sys.modules["numpy"] = None  # what opens the database would import it where it is installed: a fifth of the start, for nothing
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
# Run by the egress's interpreter; it imports its heavier half once it is confined.
_EGRESS = """
import os, sys
sys.modules["numpy"] = None
sys.path.insert(0, {path!r})
sys.path.extend(path for path in {search!r} if path not in sys.path)
from pyfaas.egress import settings
from pyfaas.egress.options import EgressOptions
from sandbox.errors import SandboxError
from sandbox.launcher.cell import RESOLVING, Cell, enter
given = EgressOptions.from_descriptor({descriptor})
try:
    enter(Cell(data="", uid=given.uid, needed=given.needed, without=given.without, hidden=(given.hidden,), system=RESOLVING))
except SandboxError as error:
    os.write(2, f"pyfaas serve: the way out cannot be confined: {{error}}\\n".encode())
    os._exit(78)
from pyfaas.egress.main import main
main(given)
"""


def survey(config: Config) -> Handover:
    """Find out all that a server is given but its descriptors; raises Refused, LayerMissing, PyfaasError or ValueError."""
    check_exits(config)
    place = places.find(config.bundles, config.s3_endpoint, config.s3_region, process_environment())
    layers = doctor.layers()
    allowed = [name for name in config.allow_weaker_isolation.split(",") if name]
    premises.ask_for_scope(has_cgroups=any(layer.live for layer in layers if layer.name == "cgroups"))
    weaker = doctor.require(layers, allowed)
    found = indexes.discover(process_environment(), os.path.expanduser("~"))
    return Handover(
        config=replace(config, data_dir=os.path.abspath(config.data_dir)),
        uid=premises.server_uid(config),
        needed=_needed(),
        layers=tuple(layers),
        weaker=tuple(weaker),
        tool=found.order(),
        binds=found.binds,
        exits=found.exits,
        place=place,
        sealing_keys=credentials.find(process_environment()),
    )


def start_team(given: Handover, program: str, half: int, beside: Sequence[str], inherit: socket.socket | None) -> Team:
    """Start a launcher, an egress and a server, which gets what is given and listens there; raises OSError or Refused.

    `beside` are the tags of launchers that live, `inherit` is where a predecessor's connections come from, `half` tells
    which part of the uids the VMs get.
    """
    life_read, life_write = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)  # noqa: FBT003 - the call's shape
    tag = new_tag()
    check_exits(given.config)  # before anything is started that would have to be ended again
    control, launcher = start_launcher(given, life_read, tag, half, beside)
    way_out, egress = start_egress(given)
    server = _start_server(
        replace(
            given,
            launcher=control.fileno(),
            egress=way_out.fileno(),
            keeper=theirs.fileno(),
            life=life_write,
            inherit=inherit.fileno() if inherit is not None else -1,
        ),
        program,
    )
    for opened in (theirs, control, way_out):
        opened.close()
    os.close(life_write)
    now = time.monotonic()
    return Team(server, launcher, egress, ours, life_read, tag, half, now, now, now)


def new_tag() -> str:
    """Return a launcher's part in the names of its groups."""
    return os.urandom(3).hex()


def _start_server(given: Handover, program: str) -> Child:
    descriptor = memory_file(given.encode())
    program = program.format(path=_project(), search=[p for p in sys.path if p], descriptor=descriptor)
    passed = [given.listen, given.launcher, given.egress, given.keeper, given.life, descriptor]
    try:
        return _execute(program, "pyfaas-server", passed if given.inherit < 0 else [*passed, given.inherit])
    finally:
        os.close(descriptor)


def start_launcher(given: Handover, life: int, tag: str, half: int, beside: Sequence[str]) -> tuple[socket.socket, Child]:
    """Start a launcher; returns its control socket and the process. Raises OSError or Refused."""
    config, data = given.config, given.config.data_dir
    premises.check_stores(config)  # the server that runs beside could have changed them
    first, count = uids(config, half)
    options = LauncherOptions(
        instance=_instance(data),
        tag=tag,
        beside=tuple(beside),
        root=f"{data}/run",
        entry="pyfaas.runtime.container:serve",
        warm="pyfaas.runtime.warm:warm",
        awaits_code=True,
        rehearse="pyfaas.runtime.warm:rehearse",
        uid_base=first,
        uid_count=count,
        stores={name: f"{data}/{name}" for name in STORES},
        binds=given.binds,
        without=given.weaker,
        life=life,
    )
    control, process = spawn(options)
    return control, Child(process)


def check_exits(config: Config) -> str | None:
    """Return the text of the operator's hosts file, None without one; raises Refused, ValueError or PyfaasError for what says nothing."""
    network.ranges(config.egress_private)
    if config.egress_resolver:
        settings.server_of(config.egress_resolver)
    settings.Proxy.parse(_proxy())
    if not config.egress_hosts:
        return None
    try:
        return Path(config.egress_hosts).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"egress_hosts: {config.egress_hosts} cannot be read: {error}") from None


def start_egress(given: Handover) -> tuple[socket.socket, Child]:
    """Start the way out; returns the server's end of its control socket, and the process. Raises OSError or Refused."""
    config, environ = given.config, process_environment()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    options = EgressOptions(
        control=theirs.fileno(),
        uid=config.uid_base + 1 if given.uid else 0,
        needed=given.needed,
        hidden=config.data_dir,
        without=given.weaker,
        connections=config.egress_connections,
        private=config.egress_private,
        hosts=check_exits(config),
        resolver=config.egress_resolver,
        proxy=_proxy(),
        no_proxy=environ.get("NO_PROXY") or environ.get("no_proxy", ""),
    )
    descriptor = memory_file(options.encode())
    program = _EGRESS.format(path=_project(), search=[p for p in sys.path if p], descriptor=descriptor)
    try:
        return ours, _execute(program, "pyfaas-egress", [theirs.fileno(), descriptor])
    finally:
        theirs.close()
        os.close(descriptor)


def _proxy() -> str:
    environ = process_environment()
    return next(filter(None, (environ.get(name, "") for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))), "")


def _execute(program: str, name: str, passed: Sequence[int]) -> Child:
    """Run a program by an interpreter of this kind, with nothing of our environment."""
    return Child(
        subprocess.Popen(
            [sys.executable, "-I", "-c", program, name],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            process_group=0,  # Ctrl-C is the keeper's to pass on, once
        )
    )


def uids(config: Config, half: int) -> tuple[int, int]:
    """Return the first uid of a launcher's VMs and how many it has: two launchers at once must not share any.

    A range too small for two gives both the whole: then, for the time of an upgrade, VMs of two launchers may have one uid.
    """
    first, count = config.uid_base + 2, config.uid_count - 2  # the first is the server's, the second the egress's
    if count // 2 < config.max_vms:
        return first, count
    return first + half * (count // 2), count // 2


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
