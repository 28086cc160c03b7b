"""A VM with doors: what its host gets, and what its code reaches through them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox.errors import SetupError
from sandbox.host.vm import Vm
from sandbox.spec import MAX_LISTENERS, MAX_ROUTES, RESOLVER, Doors, Network, VmSpec
from tests.sandbox.doorkeeper import DIAL, Doorkeeper
from tests.sandbox.rig import Refused, Rig

SYNTHETIC = "198.18.0.0/15"
PLACES = Doors(
    listen=(("198.18.0.5", 443), ("198.18.0.5", 8443), ("0.0.0.0", 5432)), routes=(SYNTHETIC, "10.1.2.0/24", "127.0.0.1/32")
)
NAMES = {"api.example.com": "198.18.0.5", "db.example.com": "198.18.0.9"}


def with_doors(rig: Rig, doors: Doors = PLACES) -> Vm:
    """Make a VM with doors."""
    return rig.vm(network=Network.DOORS, doors=doors)


@pytest.fixture(scope="module")
def kept(either: Rig) -> Iterator[tuple[Vm, Doorkeeper]]:
    """A VM that the module's tests share, and who holds its doors."""
    vm = with_doors(either)
    with Doorkeeper(vm.doors, NAMES) as keeper:
        yield vm, keeper


# ---- the value


@pytest.mark.parametrize(
    "wrong",
    [
        {"listen": (("198.18.0.5", 0),)},
        {"listen": (("198.18.0.5", 65536),)},
        {"listen": (("198.18.0.05", 443),)},
        {"listen": (("198.18.0.256", 443),)},
        {"listen": (("198.18.5", 443),)},
        {"listen": (("::1", 443),)},
        {"listen": (("api.example.com", 443),)},
        {"listen": (("0.0.0.0", 53),)},
        {"listen": ((RESOLVER, 53),)},
        {"listen": (("198.18.0.5", 443), ("198.18.0.5", 443))},
        {"listen": (("198.18.0.5", 443), ("0.0.0.0", 443))},
        {"listen": tuple(("198.18.0.5", 1000 + port) for port in range(MAX_LISTENERS + 1))},
        {"routes": ("198.18.0.1/15",)},
        {"routes": ("198.18.0.0/33",)},
        {"routes": ("198.18.0.0",)},
        {"routes": ("198.18.0.0/",)},
        {"routes": ("198.18.0.0/-1",)},
        {"routes": ("2001:db8::/32",)},
        {"routes": (SYNTHETIC, SYNTHETIC)},
        {"routes": tuple(f"10.0.{at}.0/24" for at in range(MAX_ROUTES + 1))},
    ],
)
def test_what_the_kernel_could_not_make_is_refused(wrong: dict[str, Any]) -> None:
    """An address, port or range that is none, one twice, too many, and the resolver's place are ValueErrors before anything is asked."""
    with pytest.raises(ValueError, match=r"is no |at most|is there twice|resolver's|at every address|network"):
        Doors(**wrong)


def test_a_value_is_the_same_after_the_wire() -> None:
    """What the launcher reads of a command's words is what was meant; words of another kind are refused."""
    assert Doors.of_words(PLACES.words()) == PLACES
    assert Doors.of_words(replace(PLACES, is_watched=True).words()) == replace(PLACES, is_watched=True)
    assert Doors.of_words([]) == Doors()
    for wrong in ("198.18.0.5", "198.18.0.5:", "198.18.0.5:x", "198.18.0.5:1:2", "x/8"):
        with pytest.raises(ValueError, match=r"is no |at most|is there twice|resolver's|at every address|network"):
            Doors.of_words([wrong])


def test_half_a_way_out_is_refused() -> None:
    """Doors need their profile and the profile its doors; a VM for builds has some network."""
    for wrong in ({"doors": PLACES}, {"network": Network.HOST, "doors": PLACES}, {"network": Network.DOORS}, {"is_build": True}):
        with pytest.raises(ValueError, match=r"is no |at most|is there twice|resolver's|at every address|network"):
            VmSpec(**wrong)  # type: ignore[arg-type]
    assert VmSpec(network=Network.DOORS, doors=PLACES, is_build=True).kind == (Network.DOORS, True)


# ---- what comes out


def test_the_sockets_come_out_in_order(either: Rig) -> None:
    """The host gets each listener at its place, then the resolver's UDP and TCP, and they belong to the VM's own network."""
    vm = with_doors(either)
    found = [socket.socket(fileno=door) for door in vm.doors]
    try:
        assert [one.getsockname() for one in found] == [*PLACES.listen, (RESOLVER, 53), (RESOLVER, 53)]
        streams = [socket.SOCK_STREAM] * len(PLACES.listen)
        assert [one.type for one in found] == [*streams, socket.SOCK_DGRAM, socket.SOCK_STREAM]
        assert [one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in found] == [*(1 for _ in streams), 0, 1]
        assert not any(os.get_inheritable(one.fileno()) for one in found)
    finally:
        for one in found:
            one.close()


def test_other_vms_have_none(either: Rig) -> None:
    """A plain VM and one with the host's network hand out nothing, nor does a later container of a VM with doors."""
    assert either.vm().doors == []
    assert either.vm(network=Network.HOST).doors == []
    vm = with_doors(either)
    for door in vm.doors:
        os.close(door)
    before = len(os.listdir("/proc/self/fd"))
    box = either.run(vm.fork())
    assert either.ask(box, "result = 'alive'") == "alive"
    assert len(os.listdir("/proc/self/fd")) - before <= 3 + 16  # its own ends and its leaf's files


def test_as_many_as_there_may_be(either: Rig) -> None:
    """The most listeners and routes fit one command and one answer, and the last of them works."""
    listen = tuple((f"198.19.255.{at}", 60000 + at) for at in range(MAX_LISTENERS))
    routes = (SYNTHETIC, *(f"172.16.{at}.128/25" for at in range(MAX_ROUTES - 1)))
    vm = with_doors(either, Doors(listen=listen, routes=routes))
    with Doorkeeper(vm.doors) as keeper:
        assert len(keeper.sockets) == MAX_LISTENERS + 2
        address, port = listen[-1]
        assert either.ask(vm.first, DIAL + f"result = dial({address!r}, {port})") == f"door {address}:{port}"


def test_an_address_without_a_route_is_named(either: Rig) -> None:
    """A listener at an address that is nowhere fails in its step, and says which."""
    with pytest.raises(SetupError, match=r"192\.0\.2\.1:443") as caught:
        with_doors(either, Doors(listen=(("192.0.2.1", 443),), routes=(SYNTHETIC,)))
    assert caught.value.step == "doors"


# ---- what is told


def knocks(watched: socket.socket) -> list[tuple[str, int]]:
    """Return the destinations that are told of and not yet read."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = watched.recv(4096, socket.MSG_DONTWAIT)
            tcp = (packet[0] & 15) * 4
            assert len(packet) <= 120
            found.append((socket.inet_ntoa(packet[16:20]), int.from_bytes(packet[tcp + 2 : tcp + 4], "big")))
    return found


_TRY = """
import contextlib, socket
for kind, address, port in {!r}:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as s:
        s.settimeout(20)
        s.connect((address, port))
        s.send(b'words that nobody hears')
result = True
"""


@pytest.mark.parametrize("listen", [PLACES.listen, tuple((f"198.18.1.{at}", 443) for at in range(MAX_LISTENERS))], ids=["few", "most"])
def test_who_knocks_where_no_door_is_is_told(either: Rig, listen: tuple[tuple[str, int], ...]) -> None:
    """Of each connection that the kernel refuses the host hears where to; of doors, datagrams, own servers and contents nothing."""
    vm = with_doors(either, Doors(listen=listen, routes=(SYNTHETIC, "0.0.0.0/0"), is_watched=True))
    tcp, udp = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
    refused = [("198.18.0.5", 80), ("198.18.0.6", 8443), ("198.18.1.5", 444), ("8.8.8.8", 443), ("10.9.8.7", 22), ("198.18.0.5", 80)]
    quiet = [(tcp, "127.0.0.1", 81), (tcp, RESOLVER, 53), (udp, "198.18.0.5", 80), (udp, "127.0.0.1", 81), *((tcp, *door) for door in listen)]
    with socket.socket(fileno=vm.doors.pop()) as watched, Doorkeeper(vm.doors):
        either.ask(vm.first, "server = __import__('socket').create_server(('127.0.0.1', 8081)); result = True")
        either.ask(vm.first, _TRY.format([(tcp, "127.0.0.1", 8081), *quiet]))
        assert knocks(watched) == []
        either.ask(vm.first, _TRY.format([(tcp, *there) for there in refused]))
        assert knocks(watched) == refused
        with pytest.raises(PermissionError):
            watched.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER


def test_more_knocks_than_are_read_hold_nothing_up(either: Rig) -> None:
    """What nobody reads is dropped beyond some hundred; connections go on, and later knocks are heard again."""
    vm = with_doors(either, Doors(listen=(("198.18.0.5", 8443),), routes=(SYNTHETIC,), is_watched=True))
    with socket.socket(fileno=vm.doors.pop()) as watched, Doorkeeper(vm.doors):
        either.ask(vm.first, _TRY.format([(1, "198.18.0.5", 80)] * 1000))
        assert either.ask(vm.first, DIAL + "result = dial('198.18.0.5', 8443)") == "door 198.18.0.5:8443"
        assert 10 < len(knocks(watched)) < 1000
        either.ask(vm.first, _TRY.format([(1, "198.18.0.9", 81)]))
        assert knocks(watched) == [("198.18.0.9", 81)]


# ---- what is reached


@pytest.mark.parametrize(
    ("dialled", "port", "met"),
    [
        ("198.18.0.5", 443, "198.18.0.5:443"),
        ("198.18.0.5", 8443, "198.18.0.5:8443"),
        ("10.1.2.200", 5432, "10.1.2.200:5432"),
        ("198.19.1.1", 5432, "198.19.1.1:5432"),
        ("127.0.0.1", 5432, "127.0.0.1:5432"),
        ("api.example.com", 443, "198.18.0.5:443"),
        ("db.example.com", 5432, "198.18.0.9:5432"),
    ],
)
def test_what_is_dialled_is_told(either: Rig, kept: tuple[Vm, Doorkeeper], dialled: str, port: int, met: str) -> None:
    """By address or by name, the holder of a door sees which address was meant."""
    assert either.ask(kept[0].first, DIAL + f"result = dial({dialled!r}, {port})") == f"door {met}"


@pytest.mark.parametrize(
    ("dialled", "port", "error"),
    [
        ("198.18.0.5", 80, "ConnectionRefusedError"),
        ("198.18.0.6", 443, "ConnectionRefusedError"),
        ("127.0.0.1", 443, "ConnectionRefusedError"),
        ("10.1.3.1", 5432, "OSError 101"),  # ENETUNREACH
        ("192.0.2.1", 443, "OSError 101"),
        ("other.example.com", 443, "gaierror"),
    ],
)
def test_what_has_no_door_fails_at_once(either: Rig, kept: tuple[Vm, Doorkeeper], dialled: str, port: int, error: str) -> None:
    """Another port, address, or name is refused by the kernel or the resolver; no client waits for its timeout."""
    with pytest.raises(Refused, match=error):
        either.ask(kept[0].first, DIAL + f"result = dial({dialled!r}, {port})")


def test_names_are_looked_up_by_tcp_too(either: Rig, kept: tuple[Vm, Doorkeeper]) -> None:
    """A client that asks over TCP, as after a truncated answer, meets the same resolver."""
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0\3api\7example\3com\0\0\1\0\1"
    source = (
        f"import socket, struct\nwith socket.create_connection(({RESOLVER!r}, 53), 20) as talk:\n"
        f"    talk.sendall(struct.pack('!H', {len(question)}) + {question!r})\n    result = list(talk.recv(4096)[-4:])"
    )
    assert bytes(either.ask(kept[0].first, source)) == socket.inet_aton("198.18.0.5")


def test_programs_of_the_system_reach_it(either: Rig, kept: tuple[Vm, Doorkeeper]) -> None:
    """A subprocess looks names up and connects as the code does: curl where there is one, getent, the interpreter."""
    url = "http://api.example.com:8443/"
    python = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=20).read().decode())"
    run = "import subprocess, sys\ndone = subprocess.run({}, capture_output=True, text=True)\nresult = done.stdout + done.stderr"
    if shutil.which("curl"):
        assert either.ask(kept[0].first, run.format(["curl", "-sS", "-m", "20", url])) == "door 198.18.0.5:8443"
    assert "198.18.0.5" in either.ask(kept[0].first, run.format(["getent", "hosts", "api.example.com"]))
    assert either.ask(kept[0].first, run.format(f"[sys.executable, '-c', {python!r}]")) == "door 198.18.0.5:8443\n"


def test_own_names_need_nobody(either: Rig, kept: tuple[Vm, Doorkeeper]) -> None:
    """The VM's own name and localhost are known inside: the resolver is not asked for them."""
    vm, keeper = kept
    before = len(keeper.asked)
    found = either.ask(vm.first, "import socket; result = [socket.gethostbyname(n) for n in (socket.gethostname(), 'localhost')]")
    assert found == ["127.0.0.1", "127.0.0.1"]
    assert keeper.asked[before:] == []


_SERVERS = {
    "a listener of its own": (
        "import socket, threading\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "threading.Thread(target=lambda: server.accept()[0].send(b'mine')).start()\n"
        "result = socket.create_connection(server.getsockname(), 20).recv(10).decode()"
    ),
    "a datagram of its own": (
        "import socket\na, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))\n"
        "a.bind(('127.0.0.1', 0))\na.settimeout(20)\nb.sendto(b'mine', a.getsockname())\nresult = a.recv(10).decode()"
    ),
    "an HTTP server": (
        "import http.server, threading, urllib.request\n"
        "class Mine(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.wfile.write(b'HTTP/1.0 200 OK\\r\\n\\r\\nmine')\n"
        "    def log_message(self, *told): pass\n"
        "server = http.server.HTTPServer(('localhost', 0), Mine)\nthreading.Thread(target=server.handle_request).start()\n"
        "result = urllib.request.urlopen('http://localhost:%d/' % server.server_port, timeout=20).read().decode()"
    ),
    "asyncio on every address": (
        "import asyncio\nasync def main():\n    async def serve(reader, writer):\n        writer.write(b'mine'); writer.close()\n"
        "    server = await asyncio.start_server(serve, None, 0)\n    reader, writer = await asyncio.open_connection('127.0.0.1',"
        " server.sockets[0].getsockname()[1])\n    told = await reader.read()\n    writer.close(); server.close()\n    return told.decode()\n"
        "result = asyncio.run(main())"
    ),
    "a Unix socket": (
        "import socket, threading\nserver = socket.socket(socket.AF_UNIX); server.bind('/tmp/mine'); server.listen()\n"
        "threading.Thread(target=lambda: server.accept()[0].send(b'mine')).start()\n"
        "s = socket.socket(socket.AF_UNIX); s.connect('/tmp/mine'); result = s.recv(10).decode()"
    ),
    "what a connection tells": (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\ns = socket.create_connection(server.getsockname(), 20)\n"
        "assert len(s.getsockopt(6, socket.TCP_INFO, 256)) > 100\nassert s.getsockopt(6, 2) > 500\nassert s.getsockopt(1, socket.SO_ERROR) == 0\n"
        "assert s.getsockopt(0, socket.IP_TTL) > 0\nresult = 'mine'"
    ),
    "options of long connections": (
        "import socket\ns = socket.socket()\nfor level, name, value in ((1, 9, 1), (6, 1, 1), (6, 4, 5), (6, 5, 5), (6, 6, 3), (6, 18, 3000), (0, 11, 1)):\n"
        "    s.setsockopt(level, name, value)\nresult = 'mine'"
    ),
}


@pytest.mark.parametrize("what", _SERVERS)
def test_its_own_servers_work(either: Rig, kept: tuple[Vm, Doorkeeper], what: str) -> None:
    """What needs no way out goes on: sockets of its own on loopback, Unix sockets, the options that clients set."""
    assert either.ask(kept[0].first, _SERVERS[what]) == "mine"


def test_files_are_those_of_any_vm(either: Rig, kept: tuple[Vm, Doorkeeper]) -> None:
    """Beside the resolver's address such a VM sees no more of the host than a plain one: neither its names nor its binds."""
    look = "import os\nresult = {name: open('/etc/' + name).read() for name in ('resolv.conf', 'hosts', 'nsswitch.conf') if os.path.exists('/etc/' + name)}"
    told, plain = either.ask(kept[0].first, look), either.ask(either.blank(), look)
    assert told.pop("resolv.conf").splitlines()[0] == f"nameserver {RESOLVER}"
    assert told == plain
    assert set(plain) == {"hosts", "nsswitch.conf"}
