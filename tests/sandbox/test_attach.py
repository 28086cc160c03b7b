"""Code and results pass through stores: attached read-only by name, staged for writing, committed once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from tests.sandbox.rig import PROJECT, Refused, Rig


def entry(rig: Rig, name: str, store: str = "code") -> Path:
    """Make an entry of a store with a module in it."""
    path = rig.directory / store / name
    path.mkdir()
    path.chmod(0o755)
    (path / "main.py").write_text("value = 7\n")
    return path


def test_attached_code_is_imported(rig: Rig) -> None:
    """What is attached to a slot is there at once, in that container and not in its sibling."""
    entry(rig, "imported")
    vm = rig.vm()
    sibling = rig.run(vm.fork())
    rig.attach(vm.first, ("code", "code", "imported", False))
    assert rig.ask(vm.first, "import sys; sys.path.insert(0, '/app/code'); import main; result = main.value") == 7
    assert rig.ask(sibling, "import os; result = os.listdir('/app/code')") == []


def test_an_order_may_come_before_the_code(make_rig: Callable[..., Rig]) -> None:
    """A container that has its order waits until its code is attached, also over an attempt that failed, and then holds nothing more."""
    rig = make_rig(entry="tests.sandbox.probe:serve_when_attached", awaits_code=True)
    entry(rig, "late")
    box = rig.blank()
    told: list[bytes] = []
    box.on_packet = told.append
    rig.tell(box, "import os, sys; sys.path.insert(0, '/app/code'); import main; result = [main.value, sorted(map(int, os.listdir('/proc/self/fd')))]")
    rig.wait_until(lambda: bool(told))
    with pytest.raises(SetupError):
        rig.attach(box, ("code", "code", "not-there", False))
    assert [packet[:1] for packet in told] == [b"H"]
    rig.attach(box, ("code", "code", "late", False))
    rig.wait_until(lambda: len(told) == 2)
    assert told[1][:1] == b"R"
    value, descriptors = json.loads(told[1][1:])["got"]
    assert value == 7
    assert descriptors[:6] == [0, 1, 2, 3, 4, 5]
    assert len(descriptors) == 7  # and the one that lists them
    assert rig.ask(box, "result = 8") == 8


def test_attached_code_cannot_be_changed(rig: Rig) -> None:
    """Neither written, removed nor given another mode; the host, whose file it is, can do all that."""
    path = entry(rig, "fixed")
    os.chmod(path, 0o777)  # noqa: S103 - so that only the mount refuses
    os.chmod(path / "main.py", 0o666)  # noqa: S103
    box = rig.blank()
    rig.attach(box, ("code", "code", "fixed", False))
    for source in ("open('/app/code/main.py', 'a')", "open('/app/code/new', 'w')", "import os; os.unlink('/app/code/main.py')"):
        with pytest.raises(Refused, match=r"OSError|PermissionError"):
            rig.ask(box, source)
    (path / "new").write_text("x")
    assert rig.ask(box, "import os; result = sorted(os.listdir('/app/code'))") == ["main.py", "new"]


@pytest.mark.parametrize("target", ["/etc", "../kept", "real"])
def test_links_are_not_followed(rig: Rig, target: str) -> None:
    """An entry that is a link is refused wherever it leads; what it leads to can be attached by its own name."""
    name = "link-" + target.strip("/.").replace("/", "-")
    (rig.directory / "code" / name).symlink_to(target)
    (rig.directory / "code" / "real").mkdir(exist_ok=True)
    box = rig.blank()
    with pytest.raises(SetupError) as refused:
        rig.attach(box, ("code", "code", name, False))
    assert refused.value.errno in (40, 18)  # ELOOP, EXDEV
    rig.attach(box, ("code", "code", "real", False))


@pytest.mark.parametrize("mount", [("code", "code", "gone", False), ("etc", "code", "there", False), ("code", "code", "there", True), ("out", "staging", "x", False)])
def test_what_is_not_offered_is_not_attached(rig: Rig, mount: tuple[str, str, str, bool]) -> None:
    """An entry that is missing, a slot that does not exist, and writing to a store that is not the staging one are refused."""
    (rig.directory / "code" / "there").mkdir(exist_ok=True)
    box = rig.blank()
    with pytest.raises(SetupError):
        rig.attach(box, mount)
    rig.attach(box, ("code", "code", "there", False))


def test_set_uid_and_devices_do_nothing_in_attached_code(rig: Rig) -> None:
    """Mounts are nosuid and nodev, by the kernel's own list."""
    entry(rig, "flags")
    box = rig.blank()
    rig.attach(box, ("code", "code", "flags", False))
    flags = rig.ask(box, "import os; result = os.statvfs('/app/code').f_flag")
    assert flags & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV) == os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
    assert not os.statvfs(rig.directory).f_flag & os.ST_RDONLY


def test_a_staged_directory_is_written_committed_and_attached(rig: Rig) -> None:
    """What a container wrote to a staging directory becomes an entry that others attach."""
    vm = rig.vm()
    rig.run(vm.stage("work"))
    rig.attach(vm.first, ("out", "staging", "work", True))
    rig.ask(vm.first, "import os; open('/app/build/out/made', 'w').write('x'); os.chmod('/app/build/out/made', 0o644)")
    rig.run(rig.launcher.commit("work", "kept", "final"))
    assert (rig.directory / "kept" / "final" / "made").read_text() == "x"
    assert not (rig.directory / "staging" / "work").exists()
    other = rig.blank()
    rig.attach(other, ("environment", "kept", "final", False))
    assert rig.ask(other, "result = open('/app/environment/made').read()") == "x"


def test_who_wrote_a_staged_directory_is_gone_when_it_is_committed(rig: Rig) -> None:
    """No container can still change what others rely on; its sibling, which could not write, goes on."""
    vm = rig.vm()
    sibling = rig.run(vm.fork())
    rig.run(vm.stage("tampered"))
    rig.attach(vm.first, ("out", "staging", "tampered", True))
    rig.ask(vm.first, "kept = open('/app/build/out/made', 'w'); import os\nif os.fork() == 0:\n    import time; time.sleep(60)")
    rig.run(rig.launcher.commit("tampered", "kept", "relied-on"))
    assert rig.ending(vm.first).signal == 9
    assert rig.ask(sibling, "import os; result = len([p for p in os.listdir('/proc') if p.isdigit()])") == 1


def test_the_first_commit_of_a_name_stays(rig: Rig) -> None:
    """Committing under a name that exists is no error, keeps what is there, and removes what was staged."""
    vm = rig.vm()
    for content in ("first", "second"):
        rig.run(vm.stage(content))
        (rig.directory / "staging" / content / "which").write_text(content)
        rig.run(rig.launcher.commit(content, "kept", "same"))
    assert (rig.directory / "kept" / "same" / "which").read_text() == "first"
    assert not (rig.directory / "staging" / "second").exists()


def test_discarding_removes_links_and_not_what_they_lead_to(rig: Rig) -> None:
    """A directory full of links, loops and depth is removed; what it pointed to stays."""
    kept = entry(rig, "pointed-to")
    path = entry(rig, "rubbish")
    (path / "link").symlink_to(kept)
    (path / "loop").symlink_to(path)
    deep = os.open(path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    rig.run(rig.launcher.discard("code", "rubbish"))
    assert not path.exists()
    assert (kept / "main.py").exists()
    rig.run(rig.launcher.discard("code", "rubbish"))  # once more is no error


def test_our_own_code_is_covered_where_a_bind_shows_it(tmp_path: Path) -> None:
    """Where the project lies below a bound directory, as one that is installed does, its packages are empty inside."""
    source = (
        "import json, os, sys; from sandbox import kernel; from sandbox.launcher import tree; root, project = sys.argv[1:]\n"
        "kernel.unshare(kernel.NEWNS); kernel.mount(None, '/', None, kernel.MS_REC | kernel.MS_PRIVATE)\n"
        "tree.build_tree(root, network=True, binds=(project,))\n"
        "print(json.dumps([os.listdir(root + project + '/' + name) for name in ('tests', 'sandbox', 'pyfaas')]))"
    )
    command = [sys.executable, "-c", source, str(tmp_path), str(PROJECT)]
    shown, *covered = json.loads(subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout)
    assert "sandbox" in shown
    assert covered == [[], []]


def test_attaching_leaves_no_mount_on_the_host(rig: Rig) -> None:
    """What is mounted for containers is seen nowhere in the host's own namespace."""
    entry(rig, "unseen")
    box = rig.blank()
    rig.attach(box, ("code", "code", "unseen", False))
    assert rig.ask(box, "import os; result = os.listdir('/app/code')") == ["main.py"]
    assert rig.mounts() == []
