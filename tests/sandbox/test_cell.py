"""The cell: what a confined server can no longer do, each with a control that can, and all that it still must do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox import kernel
from sandbox.launcher import cell

PROJECT = Path(__file__).resolve().parents[2]
UID = 2_099_999
NOBODY = 65_534
SYSTEM_PYTHON = "/usr/bin/python3"

PROGRAM = """
import json, os, sys
told = json.loads(sys.argv[1])
sys.path.insert(0, told["project"])
if told["enter"]:
    from sandbox.errors import SetupError
    from sandbox.launcher.cell import Cell, enter
    try: enter(Cell(data=told["data"], uid=told["uid"], needed=tuple(told["needed"]), without=tuple(told["without"])))
    except SetupError as error: print(json.dumps({"setup": str(error)})); sys.exit(0)
def tried(work):
    try: return "got " + str(work())
    except OSError as error: return "refused " + type(error).__name__
def abstract(name):
    import socket
    with socket.socket(socket.AF_UNIX) as s: s.connect(bytes([0]) + name.encode())
def write(path):
    with open(path, "w") as file: file.write("x")
def execute(path):
    pid = os.posix_spawn(path, [path], {})
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def set_uid_program():
    import shutil
    shutil.copyfile("/bin/true", told["data"] + "/program"); os.chmod(told["data"] + "/program", 0o4755)
    return execute(told["data"] + "/program")
def read(path):
    with open(path, "rb") as file: return len(file.read(50))
out = {}
for name, code in told["probes"].items():
    out[name] = tried(lambda: eval(code))
print(json.dumps(out))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is to live, and what is around it."""

    data: str
    outside: str  # a directory that everybody may read, with a file of root's in it
    python: str
    uid: int  # what the cell changes to; 0: started by an ordinary user
    needed: tuple[str, ...]

    def run(self, probes: dict[str, str], *, enter: bool, **options: Any) -> dict[str, str]:
        """Try probes in a fresh process, in the cell or without it."""
        told = {
            "project": str(PROJECT),
            "data": self.data,
            "uid": self.uid,
            "needed": options.pop("needed", self.needed),
            "without": options.pop("without", ()),
            "probes": probes,
            "enter": enter,
        }
        user: dict[str, Any] = {} if self.uid else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        command = [self.python, "-I", "-c", PROGRAM, json.dumps(told)]
        done = subprocess.run(command, capture_output=True, text=True, env={}, check=False, **user, **options)
        assert done.returncode == 0, done.stderr
        answers: dict[str, str] = json.loads(done.stdout)
        return answers


def needed_here() -> tuple[str, ...]:
    """Return what this interpreter and the project consist of."""
    paths = {sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), str(PROJECT)}
    return tuple(sorted(paths | {path for path in sys.path if path and os.path.isdir(path)}))


@pytest.fixture
def outside() -> Iterator[str]:
    """Return a directory that everybody may read, with a file of root's in it."""
    path = tempfile.mkdtemp(prefix="pyfaas-test-")
    os.chmod(path, 0o755)
    Path(path, "file").write_text("x")
    os.chmod(f"{path}/file", 0o644)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def root_place(tmp_path: Path, outside: str) -> Place:
    """Return a place whose data directory and interpreter lie where others may not pass."""
    data = tmp_path / "data"
    data.mkdir(0o700)
    cell.give(str(data), UID)
    os.chmod(tmp_path, 0o700)
    return Place(str(data), outside, sys.executable, UID, needed_here())


@pytest.fixture
def user_place(outside: str) -> Place:
    """Return a place of an ordinary user."""
    if not os.path.exists(SYSTEM_PYTHON) or sys.version_info[:2] < (3, 11):
        pytest.skip("no interpreter of the system's that an ordinary user could start")
    os.mkdir(outside + "/data", 0o700)
    for path in (outside, outside + "/data", outside + "/file"):
        os.chown(path, NOBODY, NOBODY)
    return Place(outside + "/data", outside, SYSTEM_PYTHON, 0, ("/usr", str(PROJECT)))


def denials(place: Place) -> dict[str, str]:
    """Return what a server must not be able to do, whoever started it."""
    return {
        "write outside": f"write({place.outside!r} + '/file')",
        "create outside": f"write({place.outside!r} + '/new')",
        "change a mode": f"os.chmod({place.outside!r} + '/file', 0o600)",
        "signal its starter": f"os.kill({os.getpid()}, 0)" if place.uid else "os.kill(os.getppid(), 0)",
        "execute": "execute('/bin/true')",
        "execute a set-uid program from its data": "set_uid_program()",
    }


def all_start_with(answers: dict[str, str], word: str) -> bool:
    """Tell whether each answer begins so; prints the answers for the reader of a failure."""
    print(answers)
    return all(answer.startswith(word) for answer in answers.values())


def test_root_loses_what_is_not_needed(root_place: Place) -> None:
    """A server started by root can neither read secrets, nor change what is not its own, nor signal, nor execute."""
    probes = denials(root_place) | {
        "read the password hashes": "read('/etc/shadow')",
        "list what is beside": f"read({os.path.dirname(root_place.data)!r} + '/secret')",
        "become root again": "os.setuid(0)",
        "read a device": "os.listdir('/dev')",
        "look at the kernel": "os.listdir('/sys')",
    }
    Path(root_place.data).with_name("secret").write_text("x")
    assert all_start_with(root_place.run(probes, enter=True), "refused")
    assert all_start_with(root_place.run(probes, enter=False), "got")


def test_without_landlock_the_other_layers_hold(root_place: Place) -> None:
    """With Landlock given up by name, the mounts and the uid still refuse what changes something."""
    probes = denials(root_place) | {"read the password hashes": "read('/etc/shadow')"}
    probes.pop("execute")  # only Landlock refuses that
    assert all_start_with(root_place.run(probes, enter=True, without=("landlock",)), "refused")


def test_ordinary_user_loses_it_too(user_place: Place) -> None:
    """A server started by an ordinary user cannot write its own files outside the data directory, nor execute."""
    probes = denials(user_place)
    probes.pop("signal its starter")  # root's here
    probes["read what is not listed"] = f"read({user_place.outside!r} + '/file')"
    assert all_start_with(user_place.run(probes, enter=True), "refused")
    assert all_start_with(user_place.run(probes, enter=False), "got")


def test_ordinary_user_without_namespaces(user_place: Place) -> None:
    """Where the mount namespace was given up by name, Landlock alone refuses writing elsewhere and executing."""
    probes = {name: code for name, code in denials(user_place).items() if name.startswith(("write", "create", "execute"))}
    assert all_start_with(user_place.run(probes, enter=True, without=("mount_namespace",)), "refused")


STATUS = "[l.split(':')[1].split() for l in open('/proc/self/status') if l.startswith(({names}))]"


def test_kernel_says_so(root_place: Place) -> None:
    """The kernel's own word: the uid in all four places, no group, no capability in any set, no_new_privs, no core."""
    probes = {
        "ids": STATUS.format(names="'Uid', 'Gid', 'Groups'"),
        "caps": STATUS.format(names="'Cap'"),
        "nnp": STATUS.format(names="'NoNewPrivs'"),
        "core": "__import__('resource').getrlimit(4)",
        "umask": "os.umask(0)",
    }
    told = root_place.run(probes, enter=True)
    assert told["ids"] == f"got {[[str(UID)] * 4, [str(UID)] * 4, []]}"
    assert told["caps"] == f"got {[['0' * 16]] * 5}"
    assert (told["nnp"], told["core"], told["umask"]) == ("got [['1']]", "got (0, 0)", f"got {0o077}")
    assert root_place.run({"nnp": probes["nnp"]}, enter=False)["nnp"] == "got [['0']]"


@pytest.mark.parametrize("kind", ["root", "user"])
def test_server_can_do_its_work(kind: str, request: pytest.FixtureRequest) -> None:
    """Database with its log, temporary files, event loop, names and time zones, its own tree: all work inside."""
    place: Place = request.getfixturevalue(f"{kind}_place")
    probes = {
        "database": "(lambda c: (c.execute('pragma journal_mode=wal').fetchone(), c.execute('create table t(a)') and c.commit(), "
        "c.execute('vacuum')))(__import__('sqlite3').connect(told['data'] + '/x.db'))",
        "temporary file": "__import__('tempfile').gettempdir() == told['data'] or 1 / 0",
        "loop": "__import__('asyncio').run(__import__('asyncio').sleep(0))",
        "names": "__import__('socket').getaddrinfo('localhost', 80)",
        "time zones": "__import__('zoneinfo').available_timezones()",
        "certificates": "__import__('ssl').create_default_context()",
        "project": "__import__('sandbox.wire')",
        "renaming": "(write('a'), os.rename('a', 'b'), os.link('b', 'c'), os.mkdir('d'), os.rename('b', 'd/b'), os.unlink('c'))",
        "null": "write('/dev/null')",
        "itself": "os.listdir('/proc/self/fd')",
    }
    assert all_start_with(place.run(probes, enter=True), "got")


def test_web_server_on_an_inherited_socket(root_place: Place) -> None:
    """aiohttp under uvloop answers on a listening socket that was made before the cell was entered."""
    pytest.importorskip("uvloop")
    code = f"""
import sys; sys.path.insert(0, {str(PROJECT)!r})
from sandbox.launcher.cell import Cell, enter
enter(Cell(data={root_place.data!r}, uid={UID}, needed={root_place.needed!r}))
import asyncio, socket, uvloop
from aiohttp import web
async def main():
    app = web.Application()
    app.router.add_get("/", lambda request: answer())
    runner = web.AppRunner(app); await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=int(sys.argv[1]))).start()
    await asyncio.Event().wait()
async def answer(): return web.Response(text="hello")
uvloop.run(main())
"""
    listening = socket.create_server(("127.0.0.1", 0))
    fd = listening.fileno()
    server = subprocess.Popen([sys.executable, "-I", "-c", code, str(fd)], pass_fds=[fd], env={})
    try:
        with socket.create_connection(listening.getsockname(), timeout=30) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"hello")
    finally:
        server.kill()
        server.wait()
        listening.close()


def test_sockets_inherited_and_made_outside(root_place: Place) -> None:
    """An inherited Unix socket goes on working; a connection to an abstract one of a stranger is refused by the scopes."""
    if kernel.landlock_abi() < 6:
        pytest.skip("scopes came with Landlock ABI 6, Linux 6.12")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    name = f"pyfaas-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as stranger, ours, theirs:
        stranger.bind(b"\0" + name.encode())
        stranger.listen()
        fd = theirs.fileno()
        probes = {"abstract": f"abstract({name!r})", "inherited": f"__import__('socket').socket(fileno={fd}).send(b'x')"}
        told = root_place.run(probes, enter=True, pass_fds=[fd])
        assert told == {"abstract": "refused PermissionError", "inherited": "got 1"}
        assert ours.recv(1) == b"x"
        assert root_place.run({"abstract": probes["abstract"]}, enter=False) == {"abstract": "got None"}


def test_server_dies_with_its_starter(root_place: Place) -> None:
    """When the process that started the server is killed, the server goes too."""
    read, write = os.pipe()
    code = PROGRAM.replace("out = {}", "os.write(told['probes']['fd'], b'x'); import signal; signal.pause()")
    told = {"project": str(PROJECT), "data": root_place.data, "uid": UID, "needed": root_place.needed, "without": (), "enter": True}
    command = [sys.executable, "-I", "-c", code, json.dumps({**told, "probes": {"fd": write}})]
    starter = os.fork()
    if starter == 0:
        try:
            with subprocess.Popen(command, pass_fds=[write]):
                os.close(write)
                signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.kill(starter, signal.SIGKILL)
    os.waitpid(starter, 0)
    assert os.read(read, 1) == b""  # the server held the only writing end
    os.close(read)


def test_environment_in_the_data_directory(root_place: Place) -> None:
    """A needed tree that lies in the data directory can be read and not written there."""
    tree = Path(root_place.data, "venv")
    tree.mkdir(0o755)
    (tree / "module.py").write_text("x = 1")
    os.chown(tree, UID, UID)
    probes = {"read": f"read({str(tree)!r} + '/module.py')", "data": "write('beside')"}
    assert all_start_with(root_place.run(probes, enter=True, needed=(*root_place.needed, str(tree))), "got")
    refused = {"write": f"write({str(tree)!r} + '/new')"}
    assert all_start_with(root_place.run(refused, enter=True, needed=(*root_place.needed, str(tree))), "refused")
    assert all_start_with(root_place.run(refused, enter=True), "got")


def test_single_file_behind_a_closed_directory(root_place: Place, tmp_path: Path) -> None:
    """A needed path may be a file; what lies beside it stays hidden."""
    (tmp_path / "key.pem").write_text("x")
    (tmp_path / "key.pem").chmod(0o644)
    (tmp_path / "other.pem").write_text("x")
    needed = (*root_place.needed, str(tmp_path / "key.pem"))
    told = root_place.run({"it": f"read({needed[-1]!r})", "beside": f"read({str(tmp_path / 'other.pem')!r})"}, enter=True, needed=needed)
    assert told == {"it": "got 1", "beside": "refused FileNotFoundError"}


def test_closed_tree_is_named(root_place: Place, tmp_path: Path) -> None:
    """An interpreter whose own mode shuts others out is refused with what mends it, not by a puzzle later."""
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    told = root_place.run({}, enter=True, needed=(*root_place.needed, str(closed)))
    assert told["setup"] == f"cell.identity: {closed}: closed to the server's user; run: chmod -R o+rX {closed}"


def test_closed_parent_is_the_topmost(tmp_path: Path) -> None:
    """Of the closed directories on a way the topmost counts; the path's own mode does not."""
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    above = cell.closed_parent(str(tmp_path / "x"))  # where temporary directories are closed already
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "a" / "b").chmod(0o700)
    assert cell.closed_parent(str(inner)) == (above or str(tmp_path / "a" / "b"))
    assert cell.closed_parent("/usr/lib") == ""


def test_outermost() -> None:
    """A path below another one is left out; one that only begins with the same letters is not."""
    assert cell.outermost(["/a/b", "/a", "/ab", "/c/d", "/a"]) == ["/a", "/ab", "/c/d"]


def test_give_follows_and_changes_nothing_foreign(tmp_path: Path, outside: str) -> None:
    """Plain files of root's become the server's; links, pipes, files with a second name and other folders do not."""
    data = tmp_path / "data"
    (data / "bundles").mkdir(parents=True)
    (data / "stores").mkdir()
    for path in (data / "db", data / "bundles" / "one", data / "stores" / "two"):
        path.write_text("x")
    (data / "link").symlink_to(outside + "/file")
    (data / "broken").symlink_to("/nowhere")
    os.mkfifo(data / "pipe")
    Path(tmp_path / "precious").write_text("x")
    os.link(tmp_path / "precious", data / "second-name")
    cell.give(str(data), UID, ["bundles"])
    owned = {str(path.relative_to(data)) for path in data.rglob("*") if path.lstat().st_uid == UID}
    assert owned == {"db", "bundles", "bundles/one"}
    assert (data.stat().st_uid, os.stat(outside + "/file").st_uid, os.stat(tmp_path / "precious").st_uid) == (UID, 0, 0)


def test_give_refuses_a_directory_that_is_a_link(tmp_path: Path, outside: str) -> None:
    """A store's name that was replaced by a link is an error, and what it leads to is unchanged."""
    (tmp_path / "bundles").symlink_to(outside)
    with pytest.raises(OSError, match="bundles"):
        cell.give(str(tmp_path), UID, ["bundles"])
    assert os.stat(outside).st_uid == 0
