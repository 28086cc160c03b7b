"""A container's boundary: each thing that it may not do, beside a control that succeeds without the boundary."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import kernel
from sandbox.host.container import Container
from sandbox.spec import Fate, Limits, Network
from tests.sandbox.rig import PROJECT, Refused, Rig

_LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
_CALL = _LIBC + "if libc.{call} < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\nresult = 'done'"


@pytest.fixture(scope="module", params=["root", "user"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A launcher of root's and one of an ordinary user's; the latter has no cgroups here."""
    options: dict[str, Any] = {} if request.param == "root" else {"user": 64123, "without": ("cgroups",)}
    made = Rig(tmp_path_factory.mktemp("rig"), **options)
    yield made
    made.close()


@pytest.fixture(scope="module")
def box(rig: Rig) -> Container:
    """A container that the module's harmless probes share."""
    return rig.blank()


def outside(source: str) -> Any:
    """Run the same source in a plain process of the host: the control."""
    code = source + "\nimport json; print(json.dumps(result))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "source",
    [
        "result = len(open('/etc/shadow').read())",
        "result = len(open('/proc/stat').read())",
        "import os; result = os.listdir('/sys')",
        "import os; result = os.listdir('/var/lib')",
        f"import os; result = os.listdir({str(PROJECT / 'sandbox')!r})",
        f"result = open({str(PROJECT / 'sandbox' / 'kernel.py')!r}).read()[:9]",
    ],
)
def test_files_of_the_host_are_not_there(rig: Rig, box: Container, source: str) -> None:
    """Secrets, other processes, the kernel's doors and our own code cannot be opened."""
    assert outside(source)
    with pytest.raises(Refused) as refused:
        rig.ask(box, source)
    assert refused.value.error in ("FileNotFoundError", "PermissionError")


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/etc/x", "/app/x", "/app/code/x", "/app/build/out/x", "/dev/x", "/run/x"])
def test_nothing_but_scratch_can_be_written(rig: Rig, box: Container, path: str) -> None:
    """The tree is read-only; /tmp and /dev/shm are the control."""
    for scratch in ("/tmp/x", "/dev/shm/x"):  # noqa: S108
        assert rig.ask(box, f"result = open({scratch!r}, 'w').write('x')") == 1
    with pytest.raises(Refused) as refused:
        rig.ask(box, f"open({path!r}, 'w').write('x')")
    assert refused.value.error in ("OSError", "PermissionError", "FileNotFoundError")


def test_scratch_runs_no_programs(rig: Rig, box: Container) -> None:
    """A program in /tmp is not executed; the same text read by the shell is."""
    write = "import os, subprocess\nopen(path, 'w').write('#!/bin/sh\\necho ran\\n'); os.chmod(path, 0o755)\n"
    run = write + "result = subprocess.run([path], capture_output=True, text=True).stdout"
    with pytest.raises(Refused, match="PermissionError"):
        rig.ask(box, "path = '/tmp/program'\n" + run)
    assert rig.ask(box, "import subprocess; result = subprocess.run(['/bin/sh', '/tmp/program'], capture_output=True, text=True).stdout") == "ran\n"
    with tempfile.TemporaryDirectory() as directory:
        assert outside(f"path = {directory + '/program'!r}\n" + run) == "ran\n"


def test_the_network_is_empty(rig: Rig, box: Container) -> None:
    """A listener of the host is reached outside and not inside; there is no address to use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2); result = 'reached'"
        assert outside(source) == "reached"
        with pytest.raises(Refused):
            rig.ask(box, source)


def test_unix_sockets_of_the_host_are_not_reached(rig: Rig, box: Container) -> None:
    """Neither by path nor by abstract name, which no mount namespace hides."""
    name = "\0pyfaas-test-" + rig.instance
    source = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name!r}); result = 'reached'"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert outside(source) == "reached"
        with pytest.raises(Refused):
            rig.ask(box, source)


def test_processes_of_the_host_are_neither_seen_nor_signalled(rig: Rig, box: Container) -> None:
    """A process of the host that a signal reaches outside does not exist inside."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        source = f"import os; os.kill({victim.pid}, 0); result = 'reached'"
        assert outside(source) == "reached"
        with pytest.raises(Refused, match=r"ProcessLookupError|PermissionError"):
            rig.ask(box, source)
        victim.communicate(b"\n")
    assert len(rig.ask(box, "import os; result = [name for name in os.listdir('/proc') if name.isdigit()]")) <= 2


@pytest.mark.parametrize(
    "call",
    [
        "mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "umount2(b'/tmp', 2)",
        "unshare(0x10000000)",
        "unshare(0x00020000)",
        "setns(0, 0)",
        "chroot(b'/tmp')",
        "ptrace(0, 0, 0, 0)",
        "setuid(0)",
        "setgid(0)",
        "prctl(4, 1, 0, 0, 0)",
        "prctl(38, 0, 0, 0, 0)",
        "mknod(b'/tmp/device', 0o020666, 0x0101)",
        "bpf(0, 0, 0)",
        "personality(0x0040000)",
    ],
)
def test_privileges_cannot_be_used_or_regained(rig: Rig, box: Container, call: str) -> None:
    """Calls that make namespaces, mounts, devices or identities are refused, whatever they would gain."""
    if "bpf" in call:
        call = "syscall(321, 0, 0, 0)"
    with pytest.raises(Refused, match=r"OSError|PermissionError"):
        rig.ask(box, _CALL.format(call=call))
    assert rig.ask(box, _CALL.format(call="getpid()")) == "done"


def test_controls_of_the_privileges_succeed_outside() -> None:
    """A process of the host may make the namespaces and mounts that a container may not."""
    assert outside(_CALL.format(call="unshare(0x00020000)")) == "done"
    assert outside(_LIBC + "result = [libc.unshare(0x20000), libc.mount(None, b'/', None, 0x44000, None), libc.mount(b'n', b'/mnt', b'tmpfs', 0, None)]") == [0, 0, 0]


def test_the_kernel_says_so(rig: Rig, box: Container) -> None:
    """Capabilities, no_new_privs, the filter and the identity are what confinement makes, by the kernel's own word."""
    status = rig.ask(box, "result = open('/proc/self/status').read()")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"], fields["Uid"].split()[0]) == ("1", "2", "1000")
    mine = Path("/proc/self/status").read_text()
    assert "Seccomp:\t2" not in mine
    assert f"CapEff:\t{'0' * 16}" not in mine


def test_the_container_is_its_users_on_the_host(rig: Rig, box: Container) -> None:
    """A container of root's launcher has a uid of the range; that of a user's launcher has the user's."""
    uid = int(Path(f"/proc/{box.pid}/status").read_text().split("Uid:\t")[1].split()[0]) if rig.options.uid_base and not rig.options.without else None
    if uid is None:
        assert "cgroups" in rig.options.without
        assert rig.process is not None
        uids = {Path(f"/proc/{pid}/status").read_text().split("Uid:\t")[1].split()[0] for pid in _below(rig.process.pid)}
        assert uids == {"64123"}
    else:
        assert rig.options.uid_base <= uid < rig.options.uid_base + rig.options.uid_count


def _below(pid: int) -> list[int]:
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += _below(int(child))
    return found


def test_descriptors_are_a_written_list(rig: Rig) -> None:
    """Null, two log pipes, the channel and the pipes' reading ends: nothing of the launcher's."""
    told = rig.ask(rig.blank(), "import os; result = [os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in range(6)] + [len(os.listdir('/proc/self/fd'))]")
    assert told == ["/dev/null", "pipe", "pipe", "socket", "pipe", "pipe", 7]


def test_environment_and_hostname_are_made(rig: Rig, box: Container) -> None:
    """Nothing of the host's environment, and a name that tells nothing, from the kernel and from what Python keeps of it."""
    assert rig.ask(box, "import os, socket; result = [dict(os.environ), socket.gethostname()]") == [{}, "pyfaas"]
    assert rig.ask(box, "import platform; result = platform.node()") == "pyfaas"
    assert outside("import os, socket; result = [len(os.environ) > 0, socket.gethostname() != 'pyfaas']") == [True, True]


def test_the_hosts_environment_is_not_even_in_memory(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """The initial stack, which every fork copies, holds no variable of the process that started the launcher."""
    source = (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
        "at = ctypes.c_void_p.in_dll(libc, 'program_invocation_name').value  # argv, with the environment after it\n"
        "dump = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC)\n"
        "for n in range(0, 1 << 16, 8):\n    if libc.write(dump, ctypes.c_void_p(at + n), 8) != 8: break  # EFAULT, not a crash\n"
        "text = open(path, 'rb').read()\n"
        "result = [name for name in ('PATH=', 'PYFAAS_TEST_' + 'SECRET=') if name.encode() in text]"
    )
    monkeypatch.setenv("PYFAAS_TEST_SECRET", "x")
    with tempfile.TemporaryDirectory() as directory:
        assert outside(f"path = {directory + '/dump'!r}\n" + source) == ["PATH=", "PYFAAS_TEST_SECRET="]
    rig = make_rig()
    assert rig.ask(rig.blank(), "path = '/tmp/dump'\n" + source) == ["PATH="]


def test_siblings_share_nothing(rig: Rig) -> None:
    """Two containers of one VM see neither each other's files nor can one end the other."""
    vm = rig.vm()
    first, second = vm.first, rig.run(vm.fork())
    assert rig.ask(first, "import os; open('/tmp/mine', 'w').write('x'); open('/dev/shm/mine', 'w').write('x'); result = os.listdir('/tmp')") == ["mine"]
    assert rig.ask(second, "import os; result = os.listdir('/tmp') + os.listdir('/dev/shm')") == []
    pid = rig.ask(first, "import os; result = os.getpid()")
    assert rig.ask(first, f"import os; result = os.kill({pid}, 0)") is None
    with pytest.raises(Refused, match="PermissionError"):
        rig.ask(second, f"import os; os.kill({pid}, 9)")
    with pytest.raises(Refused):
        rig.ask(second, f"open('/proc/{pid}/mem', 'rb').read(1)")
    assert rig.ask(first, "result = 'alive'") == "alive"


def test_random_state_differs(rig: Rig) -> None:
    """Containers forked from one launcher draw different numbers."""
    vm = rig.vm()
    boxes = [vm.first, rig.run(vm.fork()), rig.blank()]
    drawn = [rig.ask(box, "import random, uuid, tempfile; result = [random.random(), str(uuid.uuid4())]") for box in boxes]
    assert len({number for number, _ in drawn}) == len({text for _, text in drawn}) == 3


def test_scratch_is_bounded_and_resized(rig: Rig) -> None:
    """/tmp takes what its limit says, and more once the limit was raised and code attached."""
    box = rig.vm(limits=Limits(tmp_bytes=2 << 20)).first
    fill = "import os\nwith open('/tmp/x', 'wb') as f: f.write(bytes({size}))\nresult = os.unlink('/tmp/x')"
    rig.ask(box, fill.format(size=1 << 20))
    with pytest.raises(Refused) as refused:
        rig.ask(box, fill.format(size=3 << 20))
    assert refused.value.errno == 28
    rig.ask(box, "import os; os.unlink('/tmp/x')")
    box.limits = Limits(tmp_bytes=8 << 20)
    rig.attach(box)
    rig.ask(box, fill.format(size=3 << 20))


@pytest.mark.parametrize(
    "source",
    [
        "import threading; t = threading.Thread(target=lambda: seen.append(1)); seen = []; t.start(); t.join(); result = seen",
        "import subprocess; result = subprocess.run(['/bin/echo', '1'], capture_output=True, text=True).stdout.split()",
        "import asyncio\nasync def one(): return 1\nresult = [asyncio.run(one())]",
        "import multiprocessing.pool\nwith multiprocessing.get_context('fork').Pool(2) as pool: result = pool.map(abs, [-1])",
        "import sqlite3; c = sqlite3.connect('/tmp/x.db'); result = list(c.execute('select 1').fetchone())",
        "import ssl, zoneinfo, decimal, hashlib, tempfile; tempfile.TemporaryFile().write(b'x'); ssl.create_default_context(); result = [1]",
        "import multiprocessing as m; s = m.Semaphore(1); s.acquire(); s.release(); result = [1]",
        "from multiprocessing.shared_memory import SharedMemory\ns = SharedMemory(create=True, size=10); s.buf[0] = 1; result = [s.buf[0]]; s.close(); s.unlink()",
        "import ctypes, getpass, platform, locale; result = [len(platform.platform()) > 0 and 1]",
        "import shutil; open('/tmp/a', 'w').write('x'); shutil.copy2('/tmp/a', '/tmp/b'); result = [1]",
    ],
    ids=["thread", "subprocess", "asyncio", "pool", "sqlite", "library", "semaphore", "shared_memory", "ctypes", "copy2"],
)
def test_what_python_code_needs_works(rig: Rig, source: str) -> None:
    """Threads, programs, semaphores, databases and the standard library do their work inside."""
    assert int(rig.ask(rig.blank(), source)[-1]) == 1


@pytest.mark.parametrize(("source", "fate"), [("os._exit(3)", Fate.EXITED), ("os.kill(os.getpid(), 11)", Fate.SIGNALLED)])
def test_an_end_is_told_with_its_evidence(rig: Rig, source: str, fate: Fate) -> None:
    """How a container ended is the kernel's word: its status or its signal, and its last output is still there."""
    box = rig.blank()
    seen: list[bytes] = []

    def look(source: str) -> Callable[[object], None]:
        return lambda _ending: seen.append(os.read(box.out_fd, 100))

    box.on_packet = lambda _packet: None
    rig.tell(box, "import os; print('last words', flush=True); " + source)

    async def end() -> None:

        done = asyncio.get_running_loop().create_future()

        def ended(ending: object) -> None:
            look(source)(ending)
            done.set_result(None)

        box.on_end = ended
        await done

    rig.run(end())
    assert box.ending is not None
    assert box.ending.fate == fate
    assert (box.ending.status, box.ending.signal) == ((3, 0) if fate == Fate.EXITED else (0, 11))
    assert seen == [b"last words\n"]


def test_a_forbidden_call_is_told_as_such(rig: Rig) -> None:
    """A call without an innocent use ends the container, and its end says why."""
    box = rig.blank()
    rig.tell(box, _LIBC + "libc.syscall(175, 0, 0, b'')")  # init_module
    assert rig.ending(box).fate == Fate.FORBIDDEN_SYSCALL


@pytest.mark.parametrize("rig", ["root"], indirect=True)  # without cgroups memory is not limited, which doctor says
def test_memory_ends_at_its_limit(rig: Rig) -> None:
    """Taking more than the leaf's memory ends the container, and the counter says so; less is fine."""
    box = rig.vm(limits=Limits(memory_bytes=96 << 20)).first
    assert rig.ask(box, "result = len(bytearray(20 << 20))") == 20 << 20
    rig.tell(box, "x = bytearray(200 << 20)")
    ending = rig.ending(box)
    assert ending.fate == Fate.OOM
    assert ending.evidence["oom_kills"] == 1


@pytest.mark.parametrize("rig", ["root"], indirect=True)  # without cgroups processes are not limited, which doctor says
def test_processes_end_at_their_limit(rig: Rig) -> None:
    """A fork bomb gets EAGAIN; its host goes on."""
    box = rig.vm(limits=Limits(pids=8)).first
    source = "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(60); os._exit(0)\n        n += 1\nexcept BlockingIOError: result = n"
    assert rig.ask(box, source) == 7
    assert box.usage().pids_refused >= 1


def test_a_vm_for_builds_sees_the_hosts_network_and_no_more(rig: Rig) -> None:
    """With the host's network a listener is reached; files, processes and privileges are as in every other VM."""
    box = rig.vm(network=Network.HOST).first
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2); result = 'reached'"
        assert rig.ask(box, source) == "reached"
    assert rig.ask(box, "result = len(open('/etc/resolv.conf').read()) > 0") is True
    with pytest.raises(Refused):
        rig.ask(box, "open('/etc/shadow').read()")
    with pytest.raises(Refused):
        rig.ask(box, _CALL.format(call="unshare(0x00020000)"))


def test_a_vm_for_builds_reaches_no_local_service_by_name(rig: Rig) -> None:
    """Abstract sockets belong to the network namespace, which builds share with the host: Landlock's scope refuses them."""
    if kernel.landlock_abi() < 6:
        pytest.skip("Landlock scopes need Linux 6.12")
    box = rig.vm(network=Network.HOST).first
    name = "\0pyfaas-build-" + rig.instance
    source = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name!r}); result = 'reached'"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert outside(source) == "reached"
        with pytest.raises(Refused, match="PermissionError"):
            rig.ask(box, source)


_SERVE = (
    "import os, socket\nserver = socket.socket(socket.AF_UNIX)\nserver.bind({name!r})\nserver.listen()\n"
    "if os.fork() == 0:\n    peer = server.accept()[0]\n    peer.send(peer.recv(10).upper())\n    os._exit(0)\n"
)
_CONNECT = "import socket\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(20)\ns.connect({name!r})\ns.send(b'hi')\nresult = s.recv(10).decode()"


@pytest.mark.parametrize("name", ["/tmp/own.sock", "\0pyfaas-own"], ids=["path", "abstract"])
def test_unix_sockets_of_its_own_work(rig: Rig, name: str) -> None:
    """Processes of one container talk over a named socket, as multiprocessing's managers do."""
    assert rig.ask(rig.blank(), _SERVE.format(name=name) + _CONNECT.format(name=name)) == "HI"


@pytest.mark.parametrize("name", ["/tmp/met.sock", "\0pyfaas-met"], ids=["path", "abstract"])
def test_unix_sockets_lead_to_no_other_vm(rig: Rig, name: str) -> None:
    """The same name is free in another VM, and nobody listens there: names of accounts do not meet, whatever Landlock knows."""
    rig.ask(rig.blank(), _SERVE.format(name=name) + "result = True")
    other = rig.blank()
    with pytest.raises(Refused) as met:
        rig.ask(other, _CONNECT.format(name=name))
    assert met.value.error in {"FileNotFoundError", "ConnectionRefusedError"}
    assert rig.ask(other, _SERVE.format(name=name) + _CONNECT.format(name=name)) == "HI"


def test_every_plain_vm_has_its_own_network(rig: Rig) -> None:
    """Two VMs have two network namespaces, neither of them the host's; containers of one VM share it."""
    first, second = rig.vm(), rig.vm()
    sibling = rig.run(first.fork())
    boxes = (first.first, sibling, second.first)
    spaces = [os.readlink(f"/proc/{box.pid}/ns/net") for box in boxes]
    assert spaces[0] == spaces[1]
    assert len({*spaces, os.readlink("/proc/self/ns/net")}) == 3
