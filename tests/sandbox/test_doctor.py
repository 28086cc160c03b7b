"""The doctor: tells what is live by trying it, and what is missing by name, with what mends it."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from sandbox import doctor, filters, kernel
from sandbox.errors import LayerMissing
from sandbox.launcher import doors
from sandbox.spec import Layer, Network


def in_child(work: Callable[[], dict[str, tuple[bool, str, str]]], prepare: Callable[[int], None] = lambda _: None) -> dict[str, tuple[bool, str, str]]:
    """Look from a child that was changed first; `prepare` is called here with its pid once it has a user namespace."""
    read, write = os.pipe()
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.NEWUSER)
            os.write(ready_write, b"x")
            os.read(go_read, 1)
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.read(ready_read, 1)
    for name in ("uid_map", "gid_map"):  # all ids: root there may become anybody, as on a machine of its own
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write("0 0 4000000")
    prepare(pid)
    os.write(go_write, b"x")
    for descriptor in (write, ready_read, ready_write, go_read, go_write):
        os.close(descriptor)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    told: dict[str, tuple[bool, str, str]] = {name: tuple(value) for name, value in json.loads(text).items()}
    return told


def look(**options: bool) -> dict[str, tuple[bool, str, str]]:
    """Return the layers by name."""
    return {layer.name: (layer.live, layer.detail, layer.mend) for layer in doctor.layers(**options)}


def test_everything_is_live_here() -> None:
    """On the machine that runs these tests every layer is live, in the documented order, with a word about each."""
    found = doctor.layers()
    assert [layer.name for layer in found] == list(doctor.LAYERS)
    assert [layer for layer in found if not layer.live or not layer.detail or not layer.mend] == []


def test_doctor_changes_nothing_here() -> None:
    """Looking leaves this process as it was: namespaces, identity, privileges, children, groups."""

    def state() -> object:
        with open("/proc/self/status") as file:
            told = [line for line in file if line.startswith(("Uid", "Cap", "NoNewPrivs", "Seccomp", "Groups"))]
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            told += file.readlines()
        return told, {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}, sorted(os.listdir("/proc/self/fd"))

    before = state()
    doctor.layers()
    assert state() == before


def test_as_an_ordinary_user() -> None:
    """Root can ask what an ordinary user would find: user namespaces, but no groups of its own."""
    found = look(rootless=True)
    assert found["user_namespace"][0]
    assert "share one uid" in found["user_namespace"][1]
    assert not found["cgroups"][0]
    assert "not writable" in found["cgroups"][1]
    assert "Delegate=yes" in found["cgroups"][2]
    assert [name for name, (live, _, _) in found.items() if not live] == ["cgroups"]
    assert look(rootless=False)["cgroups"][0]


KINDS = {
    "user": "user_namespace",
    "pid": "pid_namespace",
    "mnt": "mount_namespace",
    "net": "network_namespace",
    "ipc": "ipc_namespace",
    "uts": "uts_namespace",
    "cgroup": "cgroup_namespace",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_namespace_that_is_switched_off(kind: str) -> None:
    """A kind of which the kernel allows none is missing with the kernel's answer, and the others stay live."""

    def work() -> dict[str, tuple[bool, str, str]]:
        with open(f"/proc/sys/user/max_{kind}_namespaces", "w") as file:  # counts for this user namespace only
            file.write("0")
        return look(rootless=False)

    found = in_child(work)
    missing = {name for name in KINDS.values() if not found[name][0]}
    assert missing == {KINDS[kind]}
    assert found[KINDS[kind]][1].startswith("unshare: ")
    assert found[KINDS[kind]][2]


def test_ids_that_do_not_exist() -> None:
    """Where the uids of VMs are not mapped, as in some container runtimes, user namespaces are missing and say why."""
    found = in_child(lambda: {layer.name: (layer.live, layer.detail, layer.mend) for layer in doctor.layers(rootless=False, uid=5_000_000)})
    assert not found["user_namespace"][0]
    assert "uid_map" in found["user_namespace"][2]
    assert found["pid_namespace"][0]


def test_under_a_filter_everything_is_missing_by_name() -> None:
    """Inside a container's own filter nothing can be made: every layer that needs a call is missing and says what mends it."""

    def work() -> dict[str, tuple[bool, str, str]]:
        kernel.set_no_new_privs()
        kernel.load_filter(filters.build(Network.NONE))
        return look(rootless=False)

    found = in_child(work)
    live = {name for name, (is_live, _, _) in found.items() if is_live}
    assert live <= {"cgroups"}
    assert all(detail and mend for _, detail, mend in found.values())
    assert "lsm=" in found["landlock"][2]


def test_without_libseccomp() -> None:
    """Where the C library of the filter is not installed, the layer is missing and the package is named."""

    def work() -> dict[str, tuple[bool, str, str]]:
        sys.modules["pyseccomp"] = None  # type: ignore[assignment] # what an import that fails looks like
        filters.build.cache_clear()
        return look(rootless=False)

    found = in_child(work)
    assert not found["seccomp"][0]
    assert "libseccomp2" in found["seccomp"][2]
    assert found["landlock"][0]


def test_without_doors() -> None:
    """Where a network of one's own cannot be set up, doors alone are missing, with what failed and what mends it."""

    def refuse() -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), "lo")

    def work() -> dict[str, tuple[bool, str, str]]:
        doors.raise_loopback = refuse
        return look(rootless=False)

    found = in_child(work)
    assert [name for name, (live, _, _) in found.items() if not live] == ["doors"]
    assert found["doors"][1] == "lo: Operation not supported"
    assert "rtnetlink" in found["doors"][2]
    assert in_child(lambda: look(rootless=False))["doors"][0]


# ---- deciding


def those(*missing: str) -> Iterator[Layer]:
    """Return all layers, some missing."""
    for name in doctor.LAYERS:
        yield Layer(name=name, live=name not in missing, detail=f"{name} is off", mend=f"switch {name} on")


def test_nothing_missing_gives_nothing_up() -> None:
    """What is live is not given up, whatever was allowed."""
    assert doctor.require(list(those()), ["cgroups"]) == []


def test_missing_doors_stop_nothing() -> None:
    """A machine without doors is not refused, has given nothing up, and cannot be asked to: no other layer is weaker for it."""
    assert doctor.require(list(those("doors")), []) == []
    assert doctor.require(list(those("doors", "landlock")), ["landlock"]) == ["landlock"]
    with pytest.raises(ValueError, match="doors"):
        doctor.require(list(those()), ["doors"])


def test_missing_and_allowed_is_given_up() -> None:
    """Exactly what is missing is given up."""
    assert doctor.require(list(those("landlock")), ["landlock", "cgroups"]) == ["landlock"]


def test_missing_layers_are_named_together() -> None:
    """One line names every layer that is missing, so that the operator is asked once."""
    with pytest.raises(LayerMissing) as caught:
        doctor.require(list(those("landlock", "cgroups", "proc")), ["proc"])
    assert caught.value.layer == "cgroups,landlock"
    assert str(caught.value) == "cgroups,landlock: cgroups is off; landlock is off; switch cgroups on; switch landlock on"


def test_what_is_needed_comes_first() -> None:
    """A missing layer that the launcher cannot do without is told alone: giving up others would not help."""
    with pytest.raises(LayerMissing) as caught:
        doctor.require(list(those("mount_namespace", "landlock")), ["landlock"])
    assert caught.value.layer == "mount_namespace"


@pytest.mark.parametrize("name", [*doctor.NEEDED, "seccmp"])
def test_what_cannot_be_given_up_is_refused(name: str) -> None:
    """A name that is no layer, or one without which nothing runs, is an error even when nothing is missing."""
    with pytest.raises(ValueError, match=name):
        doctor.require(list(those()), [name])
