"""The VMs' root directory: built once by the launcher, shared read-only by all VMs.

A tmpfs with read-only, nosuid, nodev binds of the system and of the interpreter, a made-up /etc, five devices, and
empty slots under /app where code is attached. With the host's network it also shows what the host knows of that; with
doors of its own, where names are asked for.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence

from sandbox import kernel
from sandbox.launcher.confine import BUILD_DIR, INSIDE_ID, UNCOVERED
from sandbox.spec import RESOLVER, Network

SLOTS = ("code", "environment", "bundle", "tool", "1", "2", "3", "4")
_FILE_SLOTS = ("bundle",)  # what is attached there is a file
BUILD_SLOTS = ("out",)
_DEVICES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl", "mime.types", "services", "protocols")
_ETC_TRUST = ("ca-certificates", "pki")  # beside ssl: whom programs believe, elsewhere than on Debian
_ETC_HOST = ("resolv.conf", "hosts", "nsswitch.conf", "gai.conf")
# The one who answers knows every name that it will answer by heart: one question is enough, and has time on a busy machine.
_RESOLV_CONF = f"nameserver {RESOLVER}\noptions timeout:10 attempts:1\n"
_READ_ONLY = kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV


def build_tree(root: str, network: Network, binds: Sequence[str] = ()) -> None:
    """Build the tree of a network profile at `root`, an empty directory; raises OSError."""
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID, "size=4m,nr_inodes=8192,mode=755")
    for name in ("etc", "proc", "tmp", "dev", "dev/shm", "app", BUILD_DIR[1:], "run", "var"):
        os.mkdir(f"{root}/{name}", 0o755)
    with open(root + UNCOVERED, "w") as file:
        file.write("opening this shows that Landlock is not live\n")
    for slot in SLOTS:
        if slot in _FILE_SLOTS:
            _empty_file(f"{root}/app/{slot}")
        else:
            os.mkdir(f"{root}/app/{slot}", 0o755)
    for slot in BUILD_SLOTS:
        os.mkdir(f"{root}{BUILD_DIR}/{slot}", 0o755)
    _system(root)
    _etc(root, network)
    for bind in binds:
        source, _, target = bind.partition(":")
        if os.path.exists(source) and not os.path.exists(root + (target or source)):
            _bind(root, source, target or source)
    _hide_ourselves(root)
    _devices(root)
    kernel.mount_setattr(kernel.AT_FDCWD, root, kernel.ATTR_RDONLY | kernel.ATTR_NOSUID)


def _system(root: str) -> None:
    _bind(root, "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink("/" + name):
            os.symlink(os.readlink("/" + name), f"{root}/{name}")
        elif os.path.isdir("/" + name):
            _bind(root, "/" + name)
    for prefix in {os.path.realpath(sys.base_prefix), sys.base_prefix, os.path.realpath(sys.base_exec_prefix)}:
        if not prefix.startswith("/usr/") and prefix != "/usr" and not os.path.exists(root + prefix):
            _bind(root, prefix)


def _hide_ourselves(root: str) -> None:
    """Cover our own packages where a bind shows them: code that was imported before the fork is all a container gets."""
    project = os.path.dirname(os.path.dirname(os.path.realpath(kernel.__file__)))
    for name in ("sandbox", "pyfaas"):
        if os.path.isdir(f"{root}{project}/{name}"):
            kernel.mount("tmpfs", f"{root}{project}/{name}", "tmpfs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k")


def _etc(root: str, network: Network) -> None:
    made = {
        "passwd": f"sandbox:x:{INSIDE_ID}:{INSIDE_ID}::/tmp:/bin/sh\n",
        "group": f"sandbox:x:{INSIDE_ID}:\n",
        "hostname": "pyfaas\n",
    }
    names: tuple[str, ...] = _ETC if network is Network.NONE else _ETC + _ETC_TRUST
    if network is Network.HOST:
        names += _ETC_HOST
    else:
        made["hosts"] = "127.0.0.1 localhost pyfaas\n"
        made["nsswitch.conf"] = "hosts: files dns\n"
    if network is Network.DOORS:
        made["resolv.conf"] = _RESOLV_CONF
    for name, text in made.items():
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
    for name in names:
        if os.path.exists("/etc/" + name):
            _bind(root, "/etc/" + name)


def _devices(root: str) -> None:
    for name, _minor in _DEVICES:
        target = f"{root}/dev/{name}"
        _empty_file(target)
        tree = kernel.open_tree(kernel.AT_FDCWD, "/dev/" + name)
        kernel.mount_setattr(tree, "", kernel.ATTR_NOSUID | kernel.ATTR_NOEXEC)
        kernel.move_mount(tree, target)
        os.close(tree)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"{root}/dev/{name}")


def _bind(root: str, path: str, inside: str = "") -> None:
    """Bind a host path read-only at the same place, or at another one, making what leads there."""
    source = os.path.realpath(path)
    target = root + (inside or path)
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        _empty_file(target)
    tree = kernel.open_tree(kernel.AT_FDCWD, source, recursive=True)
    try:
        kernel.mount_setattr(tree, "", _READ_ONLY, recursive=True)
        kernel.move_mount(tree, target)
    finally:
        os.close(tree)


def _empty_file(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
