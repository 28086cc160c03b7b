"""A VM's own files: in memory, for this VM only, written by who was given them and by nobody once they are kept."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SetupError
from sandbox.host.container import Container
from sandbox.host.vm import Vm
from sandbox.launcher import cgroups
from tests.sandbox.rig import PROJECT, Refused, Rig, descendants, is_alive

MIB = 1 << 20
_PAGE = 4096
_odd = itertools.count(1)
_OPEN = ("landlock", "seccomp")  # each of which would have kept a container from passing a descriptor to its sibling
_EXEC = (
    "import os; pid = os.fork()\nif pid == 0:\n    try: os.execv({0!r}, ['true'])\n    except OSError as error: os._exit(error.errno)\n"
    "result = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
)
_CONNECT = "import socket; line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); line.connect('\\0{0}')"
_LISTEN = "import socket; door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); door.bind('\\0{0}'); door.listen()"


@pytest.fixture(params=["root", "user"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Root's launcher and an ordinary user's."""
    return {} if request.param == "root" else {"user": 64123, "without": ("cgroups",)}


def odd_size() -> int:
    """Return a size that no other file system has, to know a mount by."""
    return 6 * MIB + _PAGE * ((os.getpid() % 200) * 1000 + next(_odd))


def seen_by(size: int) -> list[str]:
    """Return the processes of this machine in whose mount namespace a file system of this size is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if f"size={size // 1024}k" in path.read_text():
                found.append(path.parent.name)
        except OSError:
            continue  # it ended
    return found


def write(rig: Rig, box: Container, name: str, text: str, *, mode: int = 0o444) -> None:
    """Write a file of a staged directory."""
    source = f"import os; path = '/app/build/out/{name}'; os.makedirs(os.path.dirname(path), 0o755, exist_ok=True); open(path, 'w').write({text!r}); os.chmod(path, {mode})"
    rig.ask(box, source)


def staged(rig: Rig, vm: Vm, name: str) -> Container:
    """Stage a directory and return a container that may write it."""
    rig.run(vm.stage(name, inside=True))
    box = rig.run(vm.fork())
    rig.attach(box, ("out", "vm", name, True))
    return box


def entry(rig: Rig, vm: Vm, name: str, text: str = "value = 7\n") -> None:
    """Keep an entry with a module in its code."""
    write(rig, staged(rig, vm, "s-" + name), "code/main.py", text)
    rig.run(vm.keep("s-" + name, name))


def refusal(rig: Rig, work: Any) -> int:
    """Return the number with which the launcher refuses something."""
    with pytest.raises(SetupError) as refused:
        rig.run(work)
    return refused.value.errno


def test_an_entry_lies_in_memory_and_is_read(make_rig: Callable[..., Rig], options: dict[str, Any]) -> None:
    """The container's own mount list says tmpfs, its content is what was written, and the host's directories do not hold it."""
    rig = make_rig(**options)
    vm = rig.vm(files_bytes=8 * MIB)
    entry(rig, vm, "e", "value = 'lies-where-it-should'\n")
    box = rig.run(vm.fork())
    rig.attach(box, ("code", "vm", "e/code", False))
    assert rig.ask(box, "import sys; sys.path.insert(0, '/app/code'); import main; result = main.value") == "lies-where-it-should"
    (line,) = rig.ask(box, "result = [line for line in open('/proc/self/mountinfo') if ' /app/code ' in line]")
    left, right = line.split(" - ")
    assert left.split()[5].startswith("ro,nosuid,nodev")
    assert right.split()[0] == "tmpfs"
    assert [path for path in rig.directory.rglob("*") if path.is_file() and b"lies-where" in path.read_bytes()] == []
    assert rig.mounts() == []


def test_nobody_sees_what_was_not_attached(rig: Rig) -> None:
    """No process has it among its mounts but the container that it was attached to: not its sibling, its init, the launcher, the host."""
    size = odd_size()
    vm = rig.vm(files_bytes=size)
    entry(rig, vm, "e")
    box, sibling = rig.run(vm.fork()), rig.run(vm.fork())
    assert seen_by(size) == []
    rig.attach(box, ("code", "vm", "e/code", False))
    assert seen_by(size) == [str(box.pid)]
    assert rig.ask(sibling, "import os; result = os.listdir('/app/code')") == []


def test_vms_do_not_share_names(rig: Rig) -> None:
    """An entry of one VM is none of another's, under whatever name it is asked for; the other's own of that name is."""
    one, other = rig.vm(files_bytes=8 * MIB), rig.vm(files_bytes=8 * MIB)
    entry(rig, one, "e", "one")
    box = rig.run(other.fork())
    for name in ("e/code", "e", f"{one.id}/e/code", "../e/code", "s-e"):
        assert refusal(rig, box.attach([("code", "vm", name, False)])) == errno.ENOENT
    entry(rig, other, "e", "other")
    rig.attach(box, ("code", "vm", "e/code", False))
    assert rig.ask(box, "result = open('/app/code/main.py').read()") == "other"


@pytest.mark.parametrize("inner", ["link", "up/../../e", "../other/code", "gone"])
def test_an_attachment_stays_inside_its_entry(rig: Rig, inner: str) -> None:
    """Links and ways up are not followed, whatever the tenant's code left there; the tree itself can be attached."""
    vm = rig.vm(files_bytes=8 * MIB)
    box = staged(rig, vm, "s")
    rig.ask(box, "import os; os.chdir('/app/build/out'); os.mkdir('code'); os.mkdir('up'); os.symlink('/etc', 'link')")
    rig.run(vm.keep("s", "e"))
    user = rig.run(vm.fork())
    assert refusal(rig, user.attach([("code", "vm", f"e/{inner}", False)])) in (errno.ELOOP, errno.EXDEV, errno.ENOENT)
    rig.attach(user, ("code", "vm", "e/code", False))


def test_what_is_kept_is_not_written(make_rig: Callable[..., Rig], options: dict[str, Any]) -> None:
    """Its owner's uid does not help a later container of the VM; the same calls succeed where the directory is staged."""
    rig = make_rig(**options)
    vm = rig.vm(files_bytes=8 * MIB)
    tries = [
        "open('{0}/code/main.py', 'a').write('x')",
        "import os; os.chmod('{0}/code/main.py', 0o666)",
        "import os; os.mkdir('{0}/code/d')",
        "import os; os.rename('{0}/code/main.py', '{0}/code/other.py')",
    ]
    box = staged(rig, vm, "s")
    write(rig, box, "code/main.py", "value = 7\n", mode=0o644)
    for source in tries:
        rig.ask(box, source.format("/app/build/out"))
    rig.run(vm.keep("s", "e"))
    user = rig.run(vm.fork())
    assert refusal(rig, user.attach([("out", "vm", "e", True)])) == errno.EPERM
    rig.attach(user, ("1", "vm", "e", False))
    for source in tries:
        with pytest.raises(Refused) as refused:
            rig.ask(user, source.format("/app/1").replace("main.py', 'a'", "other.py', 'a'").replace("code/d", "code/d2"))
        assert refused.value.errno in (errno.EROFS, errno.EACCES, errno.ENOENT)
    assert rig.ask(user, "import os; result = sorted(os.listdir('/app/1/code'))") == ["d", "other.py"]


def test_staged_directories_are_only_written_kept_ones_run(rig: Rig) -> None:
    """A program in a staged directory is not executed, one in an entry is; a staged one is not attached for reading."""
    vm = rig.vm(files_bytes=8 * MIB)
    box = staged(rig, vm, "s")
    rig.ask(box, "import shutil, os; shutil.copy('/bin/true', '/app/build/out/true'); os.chmod('/app/build/out/true', 0o755)")
    assert rig.ask(box, _EXEC.format("/app/build/out/true")) == errno.EACCES
    sibling = rig.run(vm.fork())
    assert refusal(rig, sibling.attach([("1", "vm", "s", False)])) == errno.EPERM
    rig.run(vm.keep("s", "e"))
    rig.attach(sibling, ("1", "vm", "e", False))
    assert rig.ask(sibling, _EXEC.format("/app/1/true")) == 0


def test_the_size_is_a_limit(rig: Rig) -> None:
    """Writing ends with ENOSPC, in bytes and in files, and so does keeping more in all; what is forgotten makes room."""
    vm = rig.vm(files_bytes=2 * MIB)
    first, second = staged(rig, vm, "s1"), staged(rig, vm, "s2")
    with pytest.raises(Refused) as refused:
        rig.ask(first, "open('/app/build/out/f', 'wb').write(bytes(3 << 20))")
    assert refused.value.errno == errno.ENOSPC
    with pytest.raises(Refused) as refused:
        rig.ask(second, "import os\nfor n in range(5000): os.mkdir(f'/app/build/out/{n}')")
    assert refused.value.errno == errno.ENOSPC
    rig.run(vm.forget("s1"))
    rig.run(vm.forget("s2"))
    boxes = [staged(rig, vm, name) for name in ("a", "b")]
    for box in boxes:
        rig.ask(box, "open('/app/build/out/f', 'wb').write(bytes(3 << 19))")
    rig.run(vm.keep("a", "first"))
    assert refusal(rig, vm.keep("b", "second")) == errno.ENOSPC
    rig.run(vm.forget("first"))
    rig.run(vm.keep("b", "second"))
    third = staged(rig, vm, "c")
    assert rig.ask(third, "import os; room = os.statvfs('/app/build/out'); result = room.f_blocks * room.f_frsize") == 2 * MIB - (3 << 19)


def test_what_is_in_use_is_not_forgotten(rig: Rig) -> None:
    """EBUSY while a container has it attached, also one that has not ended its call; after its end it goes."""
    vm = rig.vm(files_bytes=8 * MIB)
    entry(rig, vm, "e")
    box = rig.run(vm.fork())
    rig.attach(box, ("code", "vm", "e/code", False))
    assert refusal(rig, vm.forget("e")) == errno.EBUSY
    assert rig.ask(box, "result = open('/app/code/main.py').read()") == "value = 7\n"
    box.kill()
    rig.ending(box)
    rig.run(vm.forget("e"))
    rig.run(vm.forget("e"))  # once more is no error
    assert refusal(rig, rig.run(vm.fork()).attach([("code", "vm", "e/code", False)])) == errno.ENOENT


def test_misuse_is_named(rig: Rig) -> None:
    """A VM made without files, a name that is taken, one that is not there, and one that is kept already; the first of a name stays."""
    assert refusal(rig, rig.vm().stage("s", inside=True)) == errno.EINVAL
    vm = rig.vm(files_bytes=8 * MIB)
    entry(rig, vm, "e", "first")
    assert refusal(rig, vm.stage("e", inside=True)) == errno.EEXIST
    assert refusal(rig, vm.keep("gone", "x")) == errno.ENOENT
    assert refusal(rig, vm.keep("e", "x")) == errno.EEXIST
    write(rig, staged(rig, vm, "again"), "code/main.py", "second")
    rig.run(vm.keep("again", "e"))
    box = rig.run(vm.fork())
    rig.attach(box, ("code", "vm", "e/code", False))
    assert rig.ask(box, "result = open('/app/code/main.py').read()") == "first"
    assert refusal(rig, vm.keep("again", "x")) == errno.ENOENT


def test_pages_are_the_vms(rig: Rig) -> None:
    """They are counted in the VM's group, also when the leaf of who wrote them is gone, until they are forgotten."""
    vm = rig.vm(files_bytes=32 * MIB)
    before = charged(rig, vm)
    box = staged(rig, vm, "s")
    rig.ask(box, "open('/app/build/out/f', 'wb').write(b'x' * (16 << 20))")
    rig.run(vm.keep("s", "e"))
    rig.wait_until(lambda: len(leaves(rig, vm)) == 2, lambda: leaves(rig, vm))  # init's, and the first container's
    assert charged(rig, vm) - before > 15 * MIB
    rig.run(vm.forget("e"))
    rig.wait_until(lambda: charged(rig, vm) - before < 8 * MIB, lambda: charged(rig, vm) - before)


def charged(rig: Rig, vm: Vm) -> int:
    """Return the memory of a VM's group, in bytes."""
    groups = cgroups.detect()
    path = Path(groups.v1.get("memory") or groups.v2 or "", f"pyfaas-{rig.instance}-{vm.id}")
    return int((path / ("memory.usage_in_bytes" if groups.v1 else "memory.current")).read_text())


def leaves(rig: Rig, vm: Vm) -> list[str]:
    """Return the leaves of a VM's group."""
    groups = cgroups.detect()
    path = Path(groups.v1.get("memory") or groups.v2 or "", f"pyfaas-{rig.instance}-{vm.id}")
    return [found.name for found in path.iterdir() if found.is_dir()]


def sent(rig: Rig, box: Container, sibling: Container, door: str, name: str, flags: str) -> None:
    """Have a container open a file of its staged directory and send the descriptor to a sibling, which calls it `got`."""
    rig.ask(sibling, _LISTEN.format(door))
    rig.ask(box, _CONNECT.format(door))
    rig.ask(box, f"import os; socket.send_fds(line, [b'x'], [os.open({name!r}, os.{flags})])")
    rig.ask(sibling, "peer, _ = door.accept(); got = socket.recv_fds(peer, 1, 1)[1][0]")


def test_a_descriptor_for_writing_that_was_passed_on_keeps_it_from_being_kept(make_rig: Callable[..., Rig]) -> None:
    """A sibling that got one writes with it, and maps it; nothing is kept before it has ended, since nobody would see it change."""
    rig = make_rig(without=_OPEN)
    vm = rig.vm(files_bytes=8 * MIB)
    box, sibling = staged(rig, vm, "s"), rig.run(vm.fork())
    write(rig, box, "code/main.py", "value = 7\n", mode=0o600)
    sent(rig, box, sibling, "door-w", "/app/build/out/code/main.py", "O_RDWR")
    rig.ask(sibling, "import os, mmap; os.pwrite(got, b'VALUE', 0); shared = mmap.mmap(got, 10); os.close(got); shared[8:9] = b'8'")
    assert rig.ask(box, "result = open('/app/build/out/code/main.py').read()") == "VALUE = 8\n"
    assert refusal(rig, vm.keep("s", "e")) == errno.EBUSY
    rig.ask(sibling, "shared[8:9] = b'9'")
    assert refusal(rig, rig.run(vm.fork()).attach([("code", "vm", "e/code", False)])) == errno.ENOENT
    sibling.kill()
    rig.ending(sibling)
    rig.run(vm.keep("s", "e"))
    user = rig.run(vm.fork())
    rig.attach(user, ("code", "vm", "e/code", False))
    assert rig.ask(user, "result = open('/app/code/main.py').read()") == "VALUE = 9\n"


@pytest.mark.parametrize("kind", ["root", "user"])
def test_a_descriptor_of_the_directory_that_was_passed_on_writes_nothing_more(make_rig: Callable[..., Rig], kind: str) -> None:
    """A sibling that got the directory could make files there; once it is kept the kernel refuses, though the descriptor lives."""
    rig = make_rig(**({"without": _OPEN} if kind == "root" else {"user": 64123, "without": ("cgroups", *_OPEN)}))
    vm = rig.vm(files_bytes=8 * MIB)
    box, sibling = staged(rig, vm, "s"), rig.run(vm.fork())
    write(rig, box, "code/main.py", "value = 7\n", mode=0o600)
    sent(rig, box, sibling, "door-d" + kind, "/app/build/out", "O_RDONLY")
    change = "import os; fd = os.open('code/main.py', os.O_WRONLY | os.O_APPEND, dir_fd=got); os.write(fd, b'#'); os.close(fd)"
    rig.ask(sibling, change)
    rig.run(vm.keep("s", "e"))
    assert rig.ask(sibling, "import os; result = os.listdir(got)") == ["code"]
    for source in (change, "import os; os.unlink('code/main.py', dir_fd=got)", "import os; os.mkdir('new', dir_fd=got)"):
        with pytest.raises(Refused) as refused:
            rig.ask(sibling, source)
        assert refused.value.errno == errno.EROFS
    user = rig.run(vm.fork())
    rig.attach(user, ("code", "vm", "e/code", False))
    assert rig.ask(user, "result = open('/app/code/main.py').read()") == "value = 7\n#"


def test_processes_that_stay_behind_end_before_it_is_kept(rig: Rig) -> None:
    """A background process of who wrote it, with a shared mapping and an open file, is gone, and the entry does not change."""
    vm = rig.vm(files_bytes=8 * MIB)
    box = staged(rig, vm, "s")
    write(rig, box, "code/main.py", "value = 0\n", mode=0o600)
    source = (
        "import mmap, os, time\nfile = open('/app/build/out/code/main.py', 'r+b'); shared = mmap.mmap(file.fileno(), 10)\n"
        "if os.fork() == 0:\n    if os.fork() == 0:\n        os.setsid(); n = 0\n"
        "        while True:\n            n = (n + 1) % 10; shared[8:9] = b'%d' % n; time.sleep(0.001)\n    os._exit(0)\nos.wait()"
    )
    assert rig.process is not None
    before = set(descendants(rig.process.pid))
    rig.ask(box, source)
    behind = set(descendants(rig.process.pid)) - before
    assert behind
    rig.wait_until(lambda: rig.ask(box, "result = open('/app/build/out/code/main.py').read()") != "value = 0\n")  # it does write
    rig.run(vm.keep("s", "e"))
    assert rig.ending(box).signal == 9
    user = rig.run(vm.fork())
    rig.attach(user, ("code", "vm", "e/code", False))
    read = "result = open('/app/code/main.py').read()"
    seen = {rig.ask(user, read) for _ in range(20)}
    assert len(seen) == 1
    rig.wait_until(lambda: not set(descendants(rig.process.pid)) & behind, lambda: (behind, descendants(rig.process.pid)))


def held(rig: Rig) -> int:
    """Return how many directories the launcher has mounted, by entering the namespace that only it has a descriptor of."""
    assert rig.process is not None
    lived_in = {_named(f"/proc/{pid}/ns/mnt") for pid in descendants(rig.process.pid)}
    opened = {_named(path): path for path in Path(f"/proc/{rig.process.pid}/fd").iterdir()}
    (path,) = [path for name, path in opened.items() if name.startswith("mnt:") and name not in lived_in]
    source = (
        "import os, sys; from sandbox import kernel; proc, own = os.open('/proc', os.O_PATH), os.open(sys.argv[1], os.O_RDONLY)\n"
        "kernel.setns(own, kernel.NEWNS); print(len(open(os.open('self/mountinfo', os.O_RDONLY, dir_fd=proc)).readlines()))"
    )
    told = subprocess.run([sys.executable, "-c", source, str(path)], cwd=PROJECT, capture_output=True, text=True, check=True)
    return int(told.stdout) - 1  # its root


def _named(path: str | Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # it is gone
        return ""


def test_the_launcher_lets_go_of_what_is_over(make_rig: Callable[..., Rig]) -> None:
    """What is forgotten, and what a VM that has ended had staged and kept, is mounted nowhere any more."""
    rig = make_rig()
    vm, other = rig.vm(files_bytes=8 * MIB), rig.vm(files_bytes=8 * MIB)
    entry(rig, other, "stays")
    entry(rig, vm, "e")
    entry(rig, vm, "gone")
    staged(rig, vm, "s")
    assert held(rig) == 4
    rig.run(vm.forget("gone"))
    assert held(rig) == 3
    rig.run(vm.destroy())
    rig.wait_until(lambda: held(rig) == 1, lambda: held(rig))


@pytest.mark.parametrize("who", ["vm", "init", "launcher", "host"])
def test_all_of_it_ends_with_the_vm(make_rig: Callable[..., Rig], who: str) -> None:
    """A VM that is ended, whose init or launcher is killed, or whose host leaves, while one is staged and one kept: nothing is left."""
    rig, size = make_rig(), odd_size()
    vm = rig.vm(files_bytes=size)
    box = staged(rig, vm, "s")  # before anything is kept, so that both are of this size
    entry(rig, vm, "e")
    user = rig.run(vm.fork())
    rig.attach(user, ("code", "vm", "e/code", False))
    assert set(seen_by(size)) == {str(user.pid), str(box.pid)}
    assert rig.process is not None
    if who == "vm":
        rig.run(vm.destroy())
    elif who == "init":
        os.kill(_init_of(box.pid), 9)
    elif who == "launcher":
        rig.process.kill()
    else:
        rig.run(rig.launcher.close())
    rig.wait_until(lambda: seen_by(size) == [] and not any(map(is_alive, (user.pid, box.pid))), lambda: seen_by(size))
    assert rig.mounts() == []
    if who in ("vm", "init"):
        rig.wait_for_rest()
        with pytest.raises(SetupError):
            rig.run(vm.stage("late", inside=True))
        entry(rig, rig.vm(files_bytes=size), "e")  # its launcher goes on


def _init_of(pid: int) -> int:
    """Return the host's pid of the first process of a container's pid namespace."""
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns/pid") == namespace and "\t1\n" in (path / "status").read_text().split("NSpid:")[1].splitlines(keepends=True)[0]:
                return int(path.name)
        except OSError:
            continue  # it ended
    raise AssertionError(namespace)
