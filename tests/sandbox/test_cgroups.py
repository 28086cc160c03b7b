"""Control groups: found in every arrangement, and in force where they are real."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from sandbox.launcher import cgroups
from sandbox.launcher.cgroups import Hierarchies, Leaf, detect
from sandbox.spec import Limits
from tests.sandbox.groups import AMPLE, MIB, burn_ms, fill, made, own_prefix, run, sleep_for_ever, spawn, wait

V1 = ("memory", "pids", "cpu", "cpuacct")


def told(tmp_path: Path, mounts: str, own: str, base: str = "") -> Hierarchies:
    """Detect from texts in which @ stands for the temporary directory."""
    here = str(tmp_path).replace(" ", "\\040")
    (tmp_path / "mountinfo").write_text(mounts.replace("@", here))
    (tmp_path / "own").write_text(own)
    return detect(str(tmp_path / "mountinfo"), str(tmp_path / "own"), base)


def v2_mount(root: str = "/", point: str = "@") -> str:
    """Return the mountinfo line of a v2 mount."""
    return f"41 31 0:38 {root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def v2_group(path: Path, *, controllers: str = "cpuset cpu io memory pids", procs: str = "") -> Path:
    """Make a directory that looks like a v2 group."""
    path.mkdir(parents=True, exist_ok=True)
    files = {"cgroup.controllers": controllers, "cgroup.subtree_control": "", "cgroup.procs": procs, "cgroup.kill": ""}
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "memory.peak"):
        files[name] = "0\n"
    files["memory.events"] = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 1\n"
    files["pids.events"] = "max 7\n"
    files["cpu.stat"] = "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n"
    for name, text in files.items():
        (path / name).write_text(text)
    return path


# ---- finding


def test_v2_alone(tmp_path: Path) -> None:
    """With v2 alone the base is the own group there, and it is usable when the three controllers are delegated."""
    v2_group(tmp_path / "user.slice" / "run.scope")
    found = told(tmp_path, v2_mount(), "0::/user.slice/run.scope\n")
    assert (found.kind, found.bases(), found.usable) == ("v2", [str(tmp_path / "user.slice" / "run.scope")], True)


def test_v2_without_delegation(tmp_path: Path) -> None:
    """A group to which a controller is not delegated is not usable, and the controller is named."""
    v2_group(tmp_path, controllers="cpu pids")
    found = told(tmp_path, v2_mount(), "0::/\n")
    assert not found.usable
    assert "memory" in found.reason
    assert "pids" not in found.reason


def test_v2_base_that_is_not_writable(tmp_path: Path) -> None:
    """A group that this user may not write to, here one that is not there, is not usable and is named."""
    (tmp_path / "other").mkdir()
    found = Hierarchies({name: str(tmp_path / "closed") for name in V1}, None, frozenset())
    assert cgroups._why_not(found.v1, None, frozenset()).startswith(f"{tmp_path / 'closed'} is not writable")
    assert cgroups._why_not({name: str(tmp_path / "other") for name in V1}, None, frozenset()) == ""


def test_launcher_that_starts_again_finds_the_same_base(tmp_path: Path) -> None:
    """A process that was moved aside takes the parent as its base, as the first launcher did."""
    v2_group(tmp_path / "a.scope" / "pyfaas-host")
    v2_group(tmp_path / "a.scope")
    assert told(tmp_path, v2_mount(), "0::/a.scope/pyfaas-host\n").bases() == [str(tmp_path / "a.scope")]


def test_v1_with_joint_controllers(tmp_path: Path) -> None:
    """Controllers that share a mount share a directory, which is listed once."""
    mounts = "".join(
        f"3{at} 31 0:3{at} / @/{name} rw,relatime - cgroup cgroup rw,{name}\n" for at, name in enumerate(("cpu,cpuacct", "memory", "pids"))
    )
    for name in ("cpu,cpuacct", "memory", "pids"):
        (tmp_path / name / "box").mkdir(parents=True)
    found = told(tmp_path, mounts, "4:cpu,cpuacct:/box\n3:memory:/box\n2:pids:/box\n1:name=systemd:/\n")
    assert found.kind == "v1"
    assert found.v1["cpu"] == found.v1["cpuacct"] == str(tmp_path / "cpu,cpuacct" / "box")
    assert len(found.bases()) == 3
    assert found.usable


def test_v1_without_a_controller(tmp_path: Path) -> None:
    """A controller of v1 that is not mounted is named."""
    found = told(tmp_path, "31 30 0:1 / @ rw - cgroup cgroup rw,memory\n", "3:memory:/\n")
    assert found.reason == "the cgroup controllers pids, cpu, cpuacct are not mounted"


def test_hybrid_has_a_twin_in_v2(tmp_path: Path) -> None:
    """A v2 mount without controllers beside v1 is a base too: it has the atomic kill."""
    mounts = "".join(f"3{at} 31 0:3{at} / @/{name} rw - cgroup cgroup rw,{name}\n" for at, name in enumerate(V1))
    own = "".join(f"{at + 2}:{name}:/\n" for at, name in enumerate(V1)) + "0::/\n"
    for name in (*V1, "unified"):
        (tmp_path / name).mkdir()
    found = told(tmp_path, mounts + v2_mount(point="@/unified"), own)
    assert (found.kind, found.usable, len(found.bases())) == ("hybrid", True, 5)


def test_mount_of_a_part_of_the_hierarchy(tmp_path: Path) -> None:
    """In a container runtime's mount, which shows only the own part, the part's root is taken off the path."""
    v2_group(tmp_path)
    assert told(tmp_path, v2_mount(root="/docker/abc"), "0::/docker/abc\n").v2 == str(tmp_path)
    assert told(tmp_path, v2_mount(root="/docker/abc"), "0::/docker/abc/in\n").v2 == str(tmp_path / "in")
    assert told(tmp_path, v2_mount(root="/docker/a"), "0::/docker/abc\n").v2 == str(tmp_path / "docker" / "abc")


def test_mount_point_with_a_space(tmp_path: Path) -> None:
    """The escapes of mountinfo are undone."""
    place = tmp_path / "a b"
    v2_group(place)
    assert told(place, v2_mount(), "0::/\n").bases() == [str(place)]


def test_base_can_be_chosen(tmp_path: Path) -> None:
    """A base that was asked for is used in place of the own group."""
    v2_group(tmp_path / "fleet.slice")
    assert told(tmp_path, v2_mount(), "0::/somewhere\n", base="/fleet.slice").bases() == [str(tmp_path / "fleet.slice")]


def test_nothing_mounted(tmp_path: Path) -> None:
    """A machine without any hierarchy says so."""
    assert told(tmp_path, "1 0 0:1 / / rw - ext4 /dev/vda rw\n", "0::/\n").reason == "no cgroup hierarchy is mounted"


# ---- v2 as files


def test_v2_limits_and_counters(tmp_path: Path) -> None:
    """On v2 the limits go to their files, swap is 0, the group dies as one, and the counters are read back."""
    v2_group(tmp_path / "vm" / "1")
    (tmp_path / "vm" / "cgroup.subtree_control").write_text("")
    groups = Hierarchies({}, str(tmp_path), frozenset())
    groups.create("vm")
    leaf = groups.create("vm/1", Limits(memory_bytes=64 * MIB, pids=9, cpu=0.5))
    written = {name: (tmp_path / "vm" / "1" / name).read_text() for name in cgroups.LIMIT_FILES[False]}
    assert written["memory.max"] == str(64 * MIB)
    assert (written["memory.swap.max"][:1], written["memory.oom.group"][:1]) == ("0", "1")
    assert (written["pids.max"][:1], written["cpu.max"]) == ("9", "50000 100000")
    assert (tmp_path / "vm" / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    usage = leaf.usage()
    assert (usage.cpu_us, usage.oom_kills, usage.pids_refused) == (1234, 1, 7)
    assert leaf.kill() is True
    assert (tmp_path / "vm" / "1" / "cgroup.kill").read_text() == "1"


def test_v2_moves_processes_aside_only_when_they_are_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controllers are handed down at once where the kernel lets us, and after moving the processes aside where not."""
    v2_group(tmp_path, procs="11\n12\n")
    groups = Hierarchies({}, str(tmp_path), frozenset())
    groups.prepare()
    assert not (tmp_path / "pyfaas-host").exists()
    moved: list[str] = []

    def write(path: str, text: str) -> None:  # the kernel's rule, which a plain directory does not have
        if path.endswith("pyfaas-host/cgroup.procs"):
            moved.append(text)
        elif path.endswith("cgroup.subtree_control") and moved != ["11", "12"]:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(cgroups, "_write", write)
    groups.prepare()
    assert moved == ["11", "12"]


# ---- real ones


def test_this_machine_is_usable() -> None:
    """The machine that runs these tests has groups to make, each base exists."""
    found = detect()
    assert found.usable, found.reason
    assert all(os.path.isdir(base) for base in found.bases())


def test_child_sits_in_the_leaf_of_every_hierarchy() -> None:
    """A child that entered is listed in each of the leaf's directories, and is gone from them after it ended."""
    with made("enter") as (_, leaf):
        pid = spawn(sleep_for_ever, leaf)
        listed = [Path(directory, "cgroup.procs").read_text().split() for directory in leaf.directories()]
        assert listed == [[str(pid)]] * len(leaf.directories())
        leaf.kill()
        assert wait(pid) == -signal.SIGKILL
        assert all(not Path(directory, "cgroup.procs").read_text() for directory in leaf.directories())


def test_kill_takes_children_that_ignore_everything_else() -> None:
    """Killing a leaf ends all processes in it, also those that left their session and ignore signals."""
    read, write = os.pipe()

    def breed() -> None:
        for _ in range(5):
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.write(write, b"x")
                sleep_for_ever()
        sleep_for_ever()

    with made("kill") as (_, leaf):
        pid = spawn(breed, leaf)
        os.close(write)
        for _ in range(5):
            assert os.read(read, 1) == b"x"
        leaf.kill()
        assert wait(pid) == -signal.SIGKILL
        assert os.read(read, 1) == b""  # the last holder of the pipe is gone
    os.close(read)


def test_group_with_a_process_is_not_removed() -> None:
    """Removing answers False while a process lives there, and True when it is gone, also the second time."""
    with made("busy") as (_, leaf):
        pid = spawn(sleep_for_ever, leaf)
        assert leaf.remove() is False
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        assert any(leaf.remove() for _ in range(200))
        assert leaf.remove() is True


def test_memory_limit_kills_and_is_counted() -> None:
    """Memory past the limit ends the process and is counted; the same below the limit is not."""
    with made("memory", Limits(memory_bytes=48 * MIB)) as (_, leaf):
        assert run(lambda: fill(96 * MIB), leaf) == -signal.SIGKILL
        assert leaf.usage().oom_kills >= 1
    with made("memory2", AMPLE) as (_, leaf):
        assert run(lambda: fill(96 * MIB), leaf) == 0
        assert leaf.usage().oom_kills == 0
        assert leaf.usage().memory_peak_bytes >= 96 * MIB


def breed_ten() -> None:
    """Have ten children at a time; ends with status 1 when one could not be made."""
    pids = []
    try:
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                sleep_for_ever()
            pids.append(pid)
    except BlockingIOError:
        os._exit(17)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def test_pids_limit_refuses_and_is_counted() -> None:
    """A process past the limit cannot be made and is counted; with room it can."""
    with made("pids", Limits(pids=5)) as (_, leaf):
        assert run(breed_ten, leaf) == 17
        assert leaf.usage().pids_refused >= 1
    with made("pids2", AMPLE) as (_, leaf):
        assert run(breed_ten, leaf) == 0
        assert leaf.usage().pids_refused == 0


@pytest.mark.parametrize(("cpu", "is_throttled"), [(0.1, True), (4.0, False)])
def test_cpu_limit_throttles(cpu: float, is_throttled: bool) -> None:
    """A tenth of a processor makes 60 ms of work wait; more than there are processors does not. Both are counted."""
    with made("cpu", Limits(cpu=cpu)) as (_, leaf):
        assert run(lambda: burn_ms(60), leaf) == 0
        stat = Path(leaf._file("cpu.stat") or "").read_text()
        throttled = int(next(line.split()[1] for line in stat.splitlines() if line.startswith("nr_throttled")))
        assert (throttled > 0) is is_throttled
        assert leaf.usage().cpu_us >= 55_000


def test_sweep_takes_only_the_own_prefix() -> None:
    """What an earlier run left is killed and removed with all that is below it; other groups stay."""
    with made("keep") as (groups, kept):
        leaf = groups.create(own_prefix("gone"))
        inner = groups.create(own_prefix("gone") + "/1", AMPLE)
        pid = spawn(sleep_for_ever, inner)
        assert groups.sweep(own_prefix("gone")) == [own_prefix("gone")]
        assert wait(pid) == -signal.SIGKILL
        for _ in range(100):  # a killed process leaves its group when it is reaped
            groups.sweep(own_prefix("gone"))
        assert not any(os.path.exists(directory) for directory in leaf.directories())
        assert all(os.path.isdir(directory) for directory in kept.directories())


def test_leaf_of_a_v2_mount_alone_kills_at_once() -> None:
    """Where v2 is mounted, with controllers or without, a leaf there has the atomic kill."""
    found = detect()
    if found.v2 is None:
        pytest.skip("no v2 mount on this machine")
    path = os.path.join(found.v2, own_prefix("twin"))
    os.mkdir(path)
    leaf = Leaf({}, path, is_v1=False)
    pid = spawn(sleep_for_ever, leaf)
    assert leaf.kill() is True
    assert wait(pid) == -signal.SIGKILL
    assert any(leaf.remove() for _ in range(200))


def test_killing_one_by_one() -> None:
    """Where there is no atomic kill, every process of the group is killed all the same."""
    with made("one") as (_, leaf):
        pids = [spawn(sleep_for_ever, leaf) for _ in range(3)]
        cgroups.kill_one_by_one(leaf.directories()[0])
        assert [wait(pid) for pid in pids] == [-signal.SIGKILL] * 3
