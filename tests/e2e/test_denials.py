"""Code of a tenant attempts the forbidden; each refusal has a control that succeeds without the boundary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.house import House

# Each probe returns a string: what it got, or the name of the error that refused it.
PROBES = '''
import ctypes, os, socket, subprocess, sys, threading

def tried(work):
    try: return "got " + str(work())[:5000]
    except BaseException as error: return "refused " + type(error).__name__ + " " + str(getattr(error, "errno", ""))

def read(path):
    with open(path, "rb") as file: return file.read(100)

def connect(address):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM); s.settimeout(3)
    s.connect(tuple(address)); return "connected"

def syscall(number, *args):
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, *args)
    if result < 0: raise OSError(ctypes.get_errno(), "syscall")
    return result

PROBES = {
    "read": lambda e: read(e["path"]),
    "list": lambda e: os.listdir(e["path"]),
    "stat": lambda e: os.stat(e["path"]).st_size,
    "write": lambda e: open(e["path"], "w").write("x"),
    "chmod": lambda e: os.chmod(e["path"], 0o777),
    "connect": lambda e: connect(e["address"]),
    "kill": lambda e: os.kill(e["pid"], 0),
    "kill_all": lambda e: [p for p in range(2, 40000) if p != os.getpid() and tried(lambda: os.kill(p, 0)) == "got None"],
    "environ": lambda e: sorted(os.environ),
    "uid": lambda e: os.setuid(0),
    "unshare": lambda e: syscall(272, 0x10000000),
    "mount": lambda e: syscall(165, b"none", b"/tmp", b"tmpfs", 0, None),
    "ptrace": lambda e: syscall(101, 16, e["pid"], 0, 0),
    "io_uring": lambda e: syscall(425, 8, ctypes.create_string_buffer(256)),
    "keyctl": lambda e: syscall(250, 0, -4, 1),
    "bpf": lambda e: syscall(321, 0, ctypes.create_string_buffer(128), 128),
    "exec_tmp": lambda e: exec_tmp(),
    "status": lambda e: open("/proc/self/status").read(),
}

def exec_tmp():
    with open("/tmp/x.sh", "w") as file: file.write("#!/bin/sh\\necho ran")
    os.chmod("/tmp/x.sh", 0o755)
    return subprocess.run(["/tmp/x.sh"], capture_output=True).stdout

def run(event):
    where, work = event.get("where", "call"), lambda: tried(lambda: PROBES[event["probe"]](event))
    if where == "thread":
        out = []; t = threading.Thread(target=lambda: out.append(work())); t.start(); t.join(); return out[0]
    if where == "child":
        r, w = os.pipe(); pid = os.fork()
        if pid == 0: os.write(w, work().encode()); os._exit(0)
        os.close(w); text = os.read(r, 65536).decode(); os.waitpid(pid, 0); return text
    return work()

def handler(event, context):
    if event["probe"] == "status": return PROBES["status"](event)
    return run(event)
'''


@pytest.fixture(scope="module")
def probe(house: House) -> str:
    """Return a function that tries what it is told to."""
    account = house.account("prober")
    assert house.deploy("probe", PROBES, token=account).json["state"] == "ready"
    return account


def outside(event: dict[str, object]) -> str:
    """Run the same probe in a plain process: the control."""
    code = PROBES + f"\nprint(handler({event!r}, None))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def inside(house: House, account: str, event: dict[str, object], where: str = "call") -> str:
    """Run the probe in a container."""
    answer = house.invoke("probe", {**event, "where": where}, token=account)
    assert answer.status == 200, answer.body
    text: str = answer.json
    return text


@pytest.mark.parametrize("where", ["call", "thread", "child"])
@pytest.mark.parametrize(
    "event",
    [
        {"probe": "read", "path": "/etc/shadow"},
        {"probe": "stat", "path": "/etc/shadow"},
        {"probe": "list", "path": "/sys/fs/cgroup"},
        {"probe": "list", "path": "/var/log"},
        {"probe": "read", "path": "/proc/stat"},
        {"probe": "kill", "pid": 1},
        {"probe": "unshare"},
        {"probe": "uid"},
        {"probe": "mount"},
    ],
    ids=lambda event: str(event["probe"]) + str(event.get("path", "")),
)
def test_refused_inside_and_possible_outside(house: House, probe: str, event: dict[str, object], where: str) -> None:
    """What a process of the host may do is refused in a call, in its threads and in its children."""
    if os.getuid() != 0 and event["probe"] in ("kill", "uid") + (("read",) if event.get("path") == "/etc/shadow" else ()):
        pytest.skip("the control outside the boundary is something that only root may do")
    if event["probe"] != "mount":  # the control would mount over the host's /tmp
        assert outside(event).startswith("got"), "the control must succeed without the boundary"
    if event["probe"] == "kill":  # its own init: nothing is gained, and nothing happens to it
        assert inside(house, probe, event, where) in ("got None", "refused PermissionError 1")
        return
    assert inside(house, probe, event, where).startswith("refused")


def test_server_files_are_not_there(house: House, probe: str) -> None:
    """The data directory, its tokens and its database cannot be reached, by any path."""
    for path in (house.data, house.data / "admin.token", house.data / "pyfaas.db"):
        assert outside({"probe": "stat", "path": str(path)}).startswith("got")
        assert inside(house, probe, {"probe": "stat", "path": str(path)}).startswith("refused")


def test_network_reaches_nothing(house: House, probe: str) -> None:
    """The server's own port answers outside and is unreachable inside."""
    host, port = house.url.removeprefix("http://").split(":")
    event: dict[str, object] = {"probe": "connect", "address": [host, int(port)]}
    assert outside(event) == "got connected"
    assert inside(house, probe, event).startswith("refused OSError")


def test_no_process_outside_the_vm_is_seen(house: House, probe: str) -> None:
    """Signals reach no process but those of the own VM."""
    assert inside(house, probe, {"probe": "kill_all"}) == "got []"
    assert len(outside({"probe": "kill_all"})) > len("got []")


def test_environment_is_made(house: House, probe: str) -> None:
    """Only documented variables are there: no token, no path of the server."""
    names = inside(house, probe, {"probe": "environ"})
    assert "PYFAAS_FUNCTION" in names
    assert not [word for word in ("TOKEN", "PYFAAS_DATA_DIR", "PYTEST", "SSH") if word in names]
    assert "PYTEST_CURRENT_TEST" in outside({"probe": "environ"})


def test_status_shows_no_privilege(house: House, probe: str) -> None:
    """The kernel's own word: no capability in any set, no_new_privs, a filter, no groups."""
    status = dict(line.split(":\t", 1) for line in house.invoke("probe", {"probe": "status"}, token=probe).json.splitlines() if ":\t" in line)
    assert {status[f"Cap{kind}"].strip() for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0000000000000000"}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"].strip()) == ("1", "2", "")
    mine = Path("/proc/self/status").read_text()
    assert "Seccomp:\t2" not in mine


@pytest.mark.parametrize("name", ["io_uring", "keyctl", "bpf", "ptrace"])
def test_kernel_surface_is_small(house: House, probe: str, name: str) -> None:
    """System calls with a history of holes are refused by the filter."""
    assert inside(house, probe, {"probe": name, "pid": 1}).startswith(("refused OSError", "refused PermissionError"))


def test_nothing_runs_from_tmp(house: House, probe: str) -> None:
    """A program written to /tmp cannot be executed; outside the same file can."""
    assert inside(house, probe, {"probe": "exec_tmp"}).startswith("refused PermissionError")
    assert "ran" in outside({"probe": "exec_tmp"})
    Path("/tmp/x.sh").unlink()  # noqa: S108 - the control's own file


def test_code_is_read_only(house: House, probe: str) -> None:
    """A function cannot change its own code."""
    assert inside(house, probe, {"probe": "write", "path": "/app/code/main.py"}).startswith("refused")
    assert inside(house, probe, {"probe": "write", "path": "/usr/x"}).startswith("refused")
    assert inside(house, probe, {"probe": "write", "path": "/tmp/mine"}).startswith("got")


def test_accounts_do_not_share_a_vm(house: House, name: object) -> None:
    """Two accounts' calls run in different VMs, and neither sees the other's files."""
    first, second = house.account("left"), house.account("right")
    source = "import os\ndef handler(e, c):\n    open('/tmp/' + e['mark'], 'w').write('x')\n    return sorted(os.listdir('/tmp'))"
    for account in (first, second):
        house.deploy("marks", source, token=account)
        assert house.invoke("marks", {"mark": account}, token=account).json == [account]
    vms = json.loads(house.call("GET", "/v1/fleets", token="admin").body)["vms"]  # noqa: S106
    tenants = [vm["tenant"] for vm in vms]
    assert all(tenants)
    mine = json.loads(house.call("GET", "/v1/fleets", token=first).body)["vms"]
    assert {vm["tenant"] for vm in mine} != set(tenants)


def test_other_accounts_functions_do_not_exist(house: House, probe: str) -> None:
    """Another account's function is told as what does not exist, on every route."""
    other = house.account("stranger")
    for method, path in (
        ("GET", "/v1/functions/probe"),
        ("GET", "/v1/functions/probe/versions"),
        ("GET", "/v1/functions/probe/logs"),
        ("POST", "/v1/functions/probe/invoke"),
        ("DELETE", "/v1/functions/probe"),
    ):
        assert house.call(method, path, token=other).status == 404
    assert house.call("GET", "/v1/functions/probe", token=probe).status == 200
