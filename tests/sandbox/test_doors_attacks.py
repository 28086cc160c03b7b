"""What code in a VM with doors tries against its network: each attack from five places, beside a control that goes through without the boundary."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.host.container import Container
from sandbox.host.vm import Vm
from sandbox.spec import Doors, Network
from tests.sandbox.doorkeeper import DIAL, Doorkeeper
from tests.sandbox.rig import Rig, descendants, sockets_of

PLACES = Doors(listen=(("198.18.0.5", 443), ("198.18.0.5", 8443), ("0.0.0.0", 5432)), routes=("198.18.0.0/15", "10.1.2.0/24"))
ELSEWHERE = Doors(routes=PLACES.routes)  # the same addresses, and no listener but the resolver's: the control of what a door is in the way of

# Runs `attempt` where code may find itself, and tells what each met.
_PLACES = """
import importlib, subprocess, sys, threading, time
def threaded():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(attempt()))
    thread.start(); thread.join()
    return seen[0]
def forked():
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.write(write, attempt().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        told = file.read()
    os.wait()
    return told
def imported():
    name = f'attack{time.monotonic_ns()}'
    with open(f'/tmp/{name}.py', 'w') as file:
        file.write(SOURCE + 'TOLD = attempt()')
    if '/tmp' not in sys.path:
        sys.path.insert(0, '/tmp')
    importlib.invalidate_caches()
    return importlib.import_module(name).TOLD
def apart():
    return subprocess.run([sys.executable, '-c', SOURCE + 'print(attempt())'], capture_output=True, text=True).stdout.strip()
result = {'here': attempt(), 'import': imported(), 'thread': threaded(), 'subprocess': apart(), 'fork': forked()}
"""


def attempt(lines: str) -> str:
    """Return the source of `attempt()`, which does this and tells "done", or the error's name."""
    body = textwrap.indent(textwrap.dedent(lines).strip(), "    ")
    return (
        f"import errno, fcntl, os, socket, struct\ndef act():\n{body}\ndef attempt():\n    try:\n        act()\n        return 'done'\n"
        "    except OSError as error:\n        return errno.errorcode.get(error.errno, repr(error))\n"
    )


def from_everywhere(rig: Rig, box: Container, lines: str) -> set[str]:
    """Do something in each of the five places; return what they met."""
    source = attempt(lines)
    told = rig.ask(box, f"SOURCE = {source!r}\n{source}{_PLACES}")
    assert len(told) == 5
    return set(told.values())


def once(rig: Rig, box: Container, lines: str) -> Any:
    """Do the same from one place inside: a control."""
    return rig.ask(box, attempt(lines) + "result = attempt()")


def outside(lines: str) -> str:
    """Do the same in a plain process of the host, as who runs the tests."""
    code = attempt(lines) + "print(attempt())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def connect(address: str, port: int) -> str:
    """Return the lines that connect somewhere."""
    return f"socket.create_connection(({address!r}, {port}), 20).close()"


def datagram(address: str, port: int) -> str:
    """Return the lines that send a datagram from a socket that is connected to nobody: only an error at once would tell."""
    return f"with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b'x', ({address!r}, {port}))"


@pytest.fixture(scope="module")
def held(either: Rig) -> Iterator[tuple[Container, Doorkeeper]]:
    """A container of a VM with doors that the module's tests share, and who holds them."""
    vm = either.vm(network=Network.DOORS, doors=PLACES)
    with Doorkeeper(vm.doors, {"api.example.com": "198.18.0.5"}) as keeper:
        yield vm.first, keeper


@pytest.fixture
def bare(either: Rig) -> Iterator[Container]:
    """A container of a VM with the same addresses and no listener there."""
    vm = either.vm(network=Network.DOORS, doors=ELSEWHERE)
    with Doorkeeper(vm.doors):
        yield vm.first
        either.run(vm.destroy())


# ---- going out


@pytest.mark.parametrize(
    ("lines", "met"),
    [
        (connect("198.18.0.5", 444), "ECONNREFUSED"),
        (connect("198.18.0.6", 443), "ECONNREFUSED"),
        (connect("192.0.2.1", 443), "ENETUNREACH"),
        (connect("169.254.169.254", 80), "ENETUNREACH"),
        (connect("10.1.3.1", 5432), "ENETUNREACH"),
        (connect("255.255.255.255", 443), "ENETUNREACH"),
        (connect("224.0.0.1", 443), "ENETUNREACH"),
        (datagram("198.18.0.5", 443), "ENETUNREACH"),
        (datagram("10.1.2.3", 53), "ENETUNREACH"),
        (datagram("192.0.2.1", 53), "ENETUNREACH"),
        (datagram("224.0.0.251", 5353), "ENETUNREACH"),
    ],
)
def test_what_is_not_listed_is_not_reached(either: Rig, held: tuple[Container, Doorkeeper], lines: str, met: str) -> None:
    """Neither another port or address, nor the metadata service, nor a datagram anywhere; a door and the resolver are reached from there."""
    assert from_everywhere(either, held[0], lines) == {met}
    assert once(either, held[0], connect("198.18.0.5", 443)) == "done"
    assert once(either, held[0], datagram("127.0.0.53", 53)) == "done"


def test_listing_makes_the_difference(either: Rig) -> None:
    """The addresses that were unreachable are reached in a VM whose doors list them: nothing else was in the way."""
    doors = Doors(listen=(("192.0.2.1", 443), ("169.254.169.254", 80)), routes=("192.0.2.1/32", "169.254.169.254/32"))
    vm = either.vm(network=Network.DOORS, doors=doors)
    with Doorkeeper(vm.doors):
        for address, port in doors.listen:
            assert once(either, vm.first, connect(address, port)) == "done"


def test_the_hosts_loopback_is_another(either: Rig, held: tuple[Container, Doorkeeper]) -> None:
    """A service of the host on loopback, or on every address, is not there; a VM with the host's network reaches it."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((address, 0)) as server:
            lines = connect("127.0.0.1", server.getsockname()[1])
            assert outside(lines) == "done"
            assert once(either, either.vm(network=Network.HOST).first, lines) == "done"
            assert from_everywhere(either, held[0], lines) == {"ECONNREFUSED"}


def test_abstract_sockets_of_the_host_are_not_reached(either: Rig, held: tuple[Container, Doorkeeper]) -> None:
    """Abstract names belong to the network namespace, which is the VM's own: nobody has that name there."""
    name = "\0pyfaas-doors-" + either.instance
    lines = f"socket.socket(socket.AF_UNIX).connect({name!r})"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen(20)
        assert outside(lines) == "done"
        assert from_everywhere(either, held[0], lines) <= {"ECONNREFUSED", "EPERM"}
    own = f"s = socket.socket(socket.AF_UNIX); s.bind({name!r} + str(os.getpid()) + str(id(s))); s.listen(); socket.socket(socket.AF_UNIX).connect(s.getsockname())"
    assert from_everywhere(either, held[0], own) == {"done"}


# ---- other sockets, other options


@pytest.mark.parametrize(
    ("lines", "met", "needs_root"),
    [
        ("socket.socket(socket.AF_INET6)", "EAFNOSUPPORT", False),
        ("socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)", "EAFNOSUPPORT", False),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", errno.errorcode[errno.EOPNOTSUPP], False),
        ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)", "EAFNOSUPPORT", True),
        ("socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)", "ENOSYS", True),
        ("socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)", "ENOSYS", True),
        ("socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')", "ENOSYS", True),
        ("socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)", "ENOSYS", True),
        ("socket.socket().setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT", "ENOSYS", True),
        ("socket.socket().setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND", "ENOSYS", False),
        ("fcntl.ioctl(socket.socket(), 0x8913, struct.pack('16s16x', b'lo'))  # SIOCGIFFLAGS", "ENOSYS", False),
        ("fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x49))  # SIOCSIFFLAGS", "ENOSYS", True),
    ],
)
def test_the_network_is_not_touched(either: Rig, held: tuple[Container, Doorkeeper], lines: str, met: str, needs_root: bool) -> None:
    """No socket that sees or makes packets, asks or changes routes and interfaces, or binds past the rules; on the host each works."""
    assert from_everywhere(either, held[0], lines) == {met}
    if os.getuid() == 0 or not needs_root:
        assert outside(lines) == "done"


# ---- a door's place


def bind(address: str, port: int, option: int = 0, kind: str = "STREAM") -> str:
    """Return the lines that listen somewhere, with an option of SOL_SOCKET set first."""
    first = f"    s.setsockopt(socket.SOL_SOCKET, {option}, 1)\n" if option else ""
    last = "    s.listen()\n" if kind == "STREAM" else ""
    return f"with socket.socket(socket.AF_INET, socket.SOCK_{kind}) as s:\n{first}    s.bind(({address!r}, {port}))\n{last}"


@pytest.mark.parametrize("option", [0, socket.SO_REUSEADDR, socket.SO_REUSEPORT], ids=["plain", "reuseaddr", "reuseport"])
@pytest.mark.parametrize(
    ("address", "port"),
    [("198.18.0.5", 8443), ("0.0.0.0", 8443), ("0.0.0.0", 5432), ("198.18.0.7", 5432), ("10.1.2.3", 5432), ("127.0.0.1", 5432)],
)
def test_nobody_takes_a_doors_place(
    either: Rig, held: tuple[Container, Doorkeeper], bare: Container, address: str, port: int, option: int
) -> None:
    """Not at its address, nor at every address, nor at one of those of a door that is every address; where no door is, one may listen."""
    assert from_everywhere(either, held[0], bind(address, port, option)) == {"EADDRINUSE"}
    assert once(either, bare, bind(address, port, option)) == "done"


@pytest.mark.parametrize("option", [0, socket.SO_REUSEADDR, socket.SO_REUSEPORT], ids=["plain", "reuseaddr", "reuseport"])
def test_nobody_takes_the_resolvers_place(either: Rig, held: tuple[Container, Doorkeeper], option: int) -> None:
    """Ports below 1024 are nobody's inside, a door's or not; those above are, for datagrams too."""
    for kind in ("DGRAM", "STREAM"):
        for address, port in (("127.0.0.53", 53), ("0.0.0.0", 53), ("198.18.0.5", 443), ("0.0.0.0", 443), ("127.0.0.1", 80)):
            assert from_everywhere(either, held[0], bind(address, port, option, kind)) == {"EACCES"}
        assert once(either, held[0], bind("127.0.0.1", 8444, option, kind)) == "done"


def test_what_listens_beside_a_door_gets_nothing_of_it(either: Rig, held: tuple[Container, Doorkeeper]) -> None:
    """Code that listens at another address of the same port and range leaves the door to its holder."""
    source = (
        DIAL + "mine = socket.socket(); mine.setsockopt(1, 15, 1); mine.bind(('198.18.0.6', 8443)); mine.listen()\n"
        "result = dial('198.18.0.5', 8443)\nmine.close()"
    )
    assert either.ask(held[0], source) == "door 198.18.0.5:8443"


# ---- other VMs


def test_two_vms_with_the_same_addresses_do_not_meet(either: Rig, held: tuple[Container, Doorkeeper]) -> None:
    """Each reaches its own doors and its own servers only, whatever the other one listens to."""
    vm = either.vm(network=Network.DOORS, doors=PLACES)
    with Doorkeeper(vm.doors, {"api.example.com": "198.18.0.5"}, word="other") as other:
        for box, word in ((held[0], "door"), (vm.first, "other")):
            assert either.ask(box, DIAL + "result = dial('api.example.com', 8443)") == f"{word} 198.18.0.5:8443"
        assert other.asked
        serve = "import socket\nserver = socket.create_server(({!r}, 9090)); result = True"
        for address in ("127.0.0.1", "198.18.0.9", "10.1.2.9"):
            lines = connect(address, 9090)
            assert either.ask(vm.first, serve.format(address)) is True
            assert once(either, vm.first, lines) == "done"
            assert from_everywhere(either, held[0], lines) == {"ECONNREFUSED"}
            either.ask(vm.first, "server.close()")


def test_a_plain_vm_has_no_such_socket(either: Rig, held: tuple[Container, Doorkeeper]) -> None:
    """What a VM with doors may, a VM without network may not: no socket of that family."""
    assert from_everywhere(either, either.blank(), "socket.socket().close()") == {"EAFNOSUPPORT"}
    assert from_everywhere(either, held[0], "socket.socket().close()") == {"done"}


# ---- what is held, what is seen


def processes_of(rig: Rig, vm: Vm) -> list[int]:
    """Return the processes of a VM as the host sees them: its network is theirs alone."""
    assert rig.process is not None
    space = os.readlink(f"/proc/{vm.first.pid}/ns/net")
    return [pid for pid in descendants(rig.process.pid) if os.readlink(f"/proc/{pid}/ns/net") == space]


def test_nobody_inside_holds_a_door(either: Rig) -> None:
    """Neither the VM's first process, nor any container, nor what it starts, nor the launcher has one; who asked for the VM has each once."""
    if os.getuid() != 0:
        pytest.skip("needs root, to look into another user's processes")
    vm = either.vm(network=Network.DOORS, doors=PLACES)
    with Doorkeeper(vm.doors) as keeper:
        doors = {os.readlink(f"/proc/self/fd/{one.fileno()}") for one in keeper.sockets}
        assert len(doors) == len(PLACES.listen) + 2
        either.run(vm.fork())
        either.ask(vm.first, "import subprocess; child = subprocess.Popen(['sleep', '60']); result = True")
        assert either.process is not None
        inside = processes_of(either, vm)
        assert len(inside) == 4  # the first process, two containers, and what one of them started
        for pid in (*inside, *descendants(either.process.pid)):
            assert not sockets_of(pid) & doors
        assert doors <= sockets_of(os.getpid())
        seen = "import os\nresult = [os.readlink('/proc/self/fd/' + name) for name in os.listdir('/proc/self/fd') if os.path.islink('/proc/self/fd/' + name)]"
        assert not set(either.ask(vm.first, seen)) & doors
        either.ask(vm.first, "child.kill(); child.wait()")


def test_no_socket_is_smuggled_to_the_host(either: Rig, bare: Container) -> None:
    """Descriptors that code sends along on its channel are not taken by the host, and the channel goes on."""
    told: list[bytes] = []
    bare.on_packet = told.append
    before = sockets_of(os.getpid())
    either.tell(
        bare,
        "import array, socket\nserver = socket.create_server(('127.0.0.1', 0))\nfor _ in range(5):\n"
        "    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [server.fileno()] * 20))\n"
        "    channel.sendmsg([b'x'], [rights])\nresult = 'sent'",
    )
    either.wait_until(lambda: bool(told) and told[-1] != b"x", lambda: told)
    assert told[:-1] == [b"x"] * 5
    assert json.loads(told[-1][1:]) == {"got": "sent"}
    assert sockets_of(os.getpid()) == before


def test_what_proc_tells_is_the_vms_own(either: Rig, held: tuple[Container, Doorkeeper]) -> None:
    """Of sockets, routes and interfaces /proc shows the VM's own; the host's listeners and names are in the host's."""
    name = "@pyfaas-seen-" + either.instance
    look = "result = {name: open('/proc/self/net/' + name).read() for name in ('tcp', 'udp', 'unix', 'dev', 'route', 'arp', 'fib_trie')}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
        named.bind("\0" + name[1:])
        port = f":{server.getsockname()[1]:04X} "
        told = either.ask(held[0], look)
        ours = {name: Path(f"/proc/self/net/{name}").read_text() for name in told}
        assert port in ours["tcp"]
        assert name in ours["unix"]
        assert port not in told["tcp"]
        assert name not in told["unix"]
    assert [line.split(":")[0].strip() for line in told["dev"].splitlines()[2:]] == ["lo"]
    listening = [words[1] for words in map(str.split, told["tcp"].splitlines()) if words[3] == "0A"]
    assert len(listening) == len(PLACES.listen) + 1, listening
    for empty in ("route", "arp"):
        assert len(told[empty].splitlines()) <= 1
