"""The real process, as a keeper starts it, and the server's side of its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import dns.message
import pytest

from pyfaas.adapters.egress import EgressSocket
from pyfaas.children import Child
from pyfaas.starting import _needed
from tests.egress.rig import Outside, doors, echo, process

ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Rig:
    """The port over a running process, and what it was told."""

    port: EgressSocket
    child: Child
    start: Callable[[], tuple[socket.socket, Child]]
    used: list[tuple[str, int, int, int]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def sum(self, vm: str) -> tuple[int, int, int]:
        """Sum what a VM used: bytes in, bytes out, connections."""
        rows = [row[1:] for row in self.used if row[0] == vm]
        return tuple(sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0)  # type: ignore[return-value]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return the port over a real process, whose outside is loopback."""
    with process(tmp_path, ["127.0.0.1 x.test y.test"], egress_connections=64) as (control, child, start):
        made = Rig(EgressSocket(control), child, start)
        made.port.on_used = lambda *row: made.used.append(row)
        made.port.on_refused = lambda vm, why: made.refused.append((vm, why))
        yield made
        made.port.shut()


async def until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.01)


async def asked(address: tuple[str, int], sent: bytes) -> bytes:
    """Send, say that it was all, and return the answer."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(sent)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def test_a_vm_reaches_what_it_lists_and_is_metered(rig: Rig) -> None:
    """Bytes go through the process, and what they were is told exactly, by VM; a VM that is closed has its last numbers told."""
    with Outside(echo) as server:
        plan, sockets = doors(("x.test", server.port))
        with contextlib.ExitStack() as stack:
            for opened in sockets:
                stack.enter_context(opened)
            rig.port.open("vm-1", plan, [opened.fileno() for opened in sockets])
            where = plan.doors[0].address, plan.doors[0].port
            for size in (1, 100_000, 1 << 20):
                assert len(await asked(where, b"x" * size)) == size
            total = 1 + 100_000 + (1 << 20)
            await until(lambda: rig.sum("vm-1") == (total, total, 3))
            assert await asked(where, b"last") == b"last"
            rig.port.close("vm-1")
            await until(lambda: rig.sum("vm-1") == (total + 4, total + 4, 4))
            assert rig.port.count == 0


async def test_names_and_refusals(rig: Rig) -> None:
    """An unlisted name does not exist at once; the VM's log learns which entry is missing."""
    plan, sockets = doors(("x.test", 0), at="127.0.4.1")
    with contextlib.ExitStack() as stack:
        for opened in sockets:
            stack.enter_context(opened)
        rig.port.open("vm-2", plan, [opened.fileno() for opened in sockets])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
            client.connect(sockets[-3].getsockname())
            client.send(dns.message.make_query("evil.test", "A").to_wire())
            async with asyncio.timeout(60):
                found = dns.message.from_wire(await asyncio.get_running_loop().sock_recv(client, 4096))
        assert found.rcode() == 3
        await until(lambda: bool(rig.refused))
        assert rig.refused[0][0] == "vm-2"
        assert 'add "evil.test:443"' in rig.refused[0][1]


async def test_doors_outlive_the_process(rig: Rig) -> None:
    """A killed process is followed by one that gets the doors of every VM; a connection that was made meanwhile is served by it."""
    with Outside(echo) as server:
        plan, sockets = doors(("x.test", server.port), at="127.0.5.1")
        where = plan.doors[0].address, plan.doors[0].port
        rig.port.open("vm-3", plan, [opened.fileno() for opened in sockets])
        for opened in sockets:
            opened.close()  # the port has its own
        assert await asked(where, b"a") == b"a"
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        rig.child.signal(signal.SIGKILL)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        waiting = asyncio.get_running_loop().create_task(asked(where, b"meanwhile"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        control, rig.child = rig.start()
        rig.port.adopt(control)
        assert await waiting == b"meanwhile"


async def test_the_keepers_proxy_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the keeper's environment says of a proxy holds for what is public, and for nothing that NO_PROXY names."""
    heads: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        heads.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.1 200 ok\r\n\r\nby proxy")

    with Outside(proxy) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("NO_PROXY", "near.test")
        plan, sockets = doors(("far.test", 0), ("near.test", 0), at="127.0.7.1")
        with contextlib.ExitStack() as stack:
            for opened in sockets:
                stack.enter_context(opened)
            control, _, _ = stack.enter_context(process(tmp_path, ["93.184.216.34 far.test", "127.0.0.1 near.test"]))
            port = EgressSocket(control)
            stack.callback(port.shut)
            port.open("vm", plan, [opened.fileno() for opened in sockets])
            far, near = ((door.address, door.port) for door in plan.doors)
            assert await asked(far, b"") == b"by proxy"
            assert heads[0].startswith(f"CONNECT far.test:{far[1]} HTTP/1.1\r\n".encode())
            with pytest.raises(OSError):  # noqa: PT011 - nobody listens there: it is reset while it is made, written or read
                await asked(near, b"")
            assert len(heads) == 1


async def test_it_ends_with_its_server(rig: Rig) -> None:
    """When the server's end of the control socket is gone the process goes, by itself and without an error."""
    assert rig.child.poll() is None
    rig.port.shut()
    await until(lambda: rig.child.poll() is not None)
    assert rig.child.poll() == 0


async def test_it_is_confined(rig: Rig, tmp_path: Path) -> None:
    """It has no capability, gains nothing by executing, and as root's child an own uid and no group."""
    plan, sockets = doors(("x.test", 0), at="127.0.6.1")
    rig.port.open("vm", plan, [opened.fileno() for opened in sockets])
    with socket.create_connection((plan.doors[0].address, plan.doors[0].port)):  # it answers: it is past its confinement
        await until(lambda: bool(rig.refused))
    for opened in sockets:
        opened.close()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{rig.child.pid}/status").read_text().splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd" if os.getuid() == 0 else "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    if os.getuid() == 0:
        assert len(set(status["Uid"].split())) == 1
        assert int(status["Uid"].split()[0]) == 2_000_001
        assert status["Groups"].strip() == ""


_TRY = """
import json, os, sys
sys.path.insert(0, {path!r})
from sandbox.launcher.cell import RESOLVING, Cell, enter
hidden, needed, uid, is_confined = json.loads(sys.argv[1])
if is_confined:
    enter(Cell(data="", uid=uid, needed=tuple(needed), hidden=(hidden,), system=RESOLVING))

def tried(work):
    try:
        return repr(work())
    except OSError as error:
        return type(error).__name__

def write(path):
    with open(path, "w") as file:
        return file.write("x")

print(json.dumps({{
    "data": tried(lambda: open(hidden + "/secret").read()),
    "module": tried(lambda: open(hidden + "/venv/lib/module").read()),
    "listing": tried(lambda: os.listdir(hidden)),
    "elsewhere": tried(lambda: os.listdir(os.path.dirname(hidden))),
    "write": tried(lambda: write(hidden + "/new")),
    "temporary": tried(lambda: write("/tmp/pyfaas-egress-try")),
    "execute": tried(lambda: os.posix_spawn("/bin/true", ["true"], {{}}) > 0),
    "hosts": tried(lambda: len(open("/etc/hosts").read()) > 0),
}}))
"""


@pytest.mark.parametrize("is_confined", [True, False])
def test_what_it_may_touch(tmp_path: Path, is_confined: bool) -> None:
    """It reads what names are resolved with, and nothing of the data directory; it writes and executes nothing. Unconfined it could."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "secret").write_text("word")
    (data / "venv/lib").mkdir(parents=True)  # what is read may lie in the data directory
    (data / "venv/lib/module").write_text("read")
    tmp_path.chmod(0o755)
    data.chmod(0o755)
    program = _TRY.format(path=str(ROOT))
    uid = 2_000_001 if os.getuid() == 0 else 0
    told = subprocess.run(
        [sys.executable, "-I", "-c", program, json.dumps([str(data), [*_needed(), f"{data}/venv"], uid, is_confined])], capture_output=True, text=True, check=True
    )
    Path("/tmp/pyfaas-egress-try").unlink(missing_ok=True)
    found = json.loads(told.stdout)
    assert (found.pop("hosts"), found.pop("module")) == ("True", "'read'")
    if is_confined:
        assert {name: text for name, text in found.items() if "Error" not in text} in ({}, {"listing": "[]"}, {"listing": "['venv']"})
    else:
        assert found == {**found, "data": "'word'", "write": "1", "temporary": "1", "execute": "True"}
        assert "secret" in found["listing"]
