"""The seccomp filter, built from `launcher/syscalls.toml` and the argument rules below.

It is built in the host process, since importing pyseccomp runs other programs and takes 30 ms, and handed to the
launcher as bytes. Only EQ and MASKED_EQ on the low 32 bits are used, and no two rules of a call overlap: older
libseccomp versions merge some others wrongly. Sources: seccomp(2), seccomp_rule_add(3).
"""

from __future__ import annotations

import errno
import functools
import platform
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox.errors import LayerMissing

_LOW = 0xFFFFFFFF
_UNIX, _INET, _INET6 = 1, 2, 10
_STREAM, _DGRAM = 1, 2
_TYPE_FLAGS = 0o2000000 | 0o4000  # SOCK_CLOEXEC, SOCK_NONBLOCK
_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_FAMILIES = 46

# call → (argument, mask, value) alternatives, each a list that must hold together
_Rule = tuple[tuple[int, int, int], ...]


def argument_rules(*, network: bool) -> Iterator[tuple[str, _Rule]]:
    """Yield (call, rule): a call is allowed when one of its rules holds."""
    yield "clone", ((0, _NEW | 0x8000 | 0x2000, 0),)  # no namespace, no CLONE_PARENT, no CLONE_PTRACE
    for family in (_UNIX, _INET, _INET6) if network else (_UNIX,):
        for kind in (_STREAM, _DGRAM):
            for protocol in (0, 6, 17):
                rule = ((0, _LOW, family), (1, _LOW & ~_TYPE_FLAGS, kind), (2, _LOW, protocol))
                yield "socket", rule
                yield "socketpair", rule
    yield from _values("ioctl", 1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451))  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIO[N]CLEX
    yield from _values("prctl", 0, (3, 15, 16, 21, 23, 39, 0x53564D41))
    yield from _values("fcntl", 1, (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032, 1033, 1034))
    yield from _values("prlimit64", 0, (0,))
    yield from _values("madvise", 2, (0, 1, 2, 3, 4, 8, 9, 10, 11, *range(14, 26)))
    for operation in (0, 1, 3, 4, 5, 9, 10):  # no priority inheritance
        yield "futex", ((1, _LOW & ~(128 | 256), operation),)
    for call, index in (("sendto", 3), ("recvfrom", 3), ("sendmsg", 2), ("recvmsg", 2)):
        yield call, ((index, 0x4000001, 0),)  # no MSG_OOB, no MSG_ZEROCOPY
    options = [(1, o) for o in (2, 4, 7, 8, 9, 13, 15, 20, 21)] + [(6, o) for o in (1, 4, 5, 6, 12, 18)] + [(41, 26)]
    if network:
        options += [(0, 11), (41, 25)]  # the C library sets RECVERR: without it every name look-up fails
    for level, option in options:
        yield "setsockopt", ((1, _LOW, level), (2, _LOW, option))


def _values(call: str, index: int, values: tuple[int, ...]) -> Iterator[tuple[str, _Rule]]:
    for value in values:
        yield call, ((index, _LOW, value),)


@functools.cache
def table() -> dict[str, Any]:
    """Read the allow-list; raises ValueError for an entry without a reason."""
    text = (Path(__file__).parent / "launcher" / "syscalls.toml").read_text()
    entries: dict[str, Any] = tomllib.loads(text)
    for group in entries.values():
        for entry in group:
            if not entry.get("why"):
                raise ValueError(f"no reason for {entry['calls']}")
    return entries


def allowed_calls(*, network: bool) -> list[str]:
    """Return the calls that are allowed whatever their arguments."""
    groups = [*table()["allow"], *(table()["allow_network"] if network else ())]
    return [call for group in groups for call in group["calls"]]


def build(*, network: bool) -> bytes:
    """Return the filter as BPF instructions; raises LayerMissing when libseccomp is not there."""
    seccomp = _library()
    arch_only = set() if platform.machine() == "x86_64" else _ONLY_X86
    made = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    made.set_attr(seccomp.Attr.CTL_NNP, 0)
    made.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    for call in allowed_calls(network=network):
        if call not in arch_only:
            made.add_rule_exactly(seccomp.ALLOW, call)
    for call, rule in argument_rules(network=network):
        args = [seccomp.Arg(index, seccomp.MASKED_EQ, mask, value) for index, mask, value in rule]
        made.add_rule_exactly(seccomp.ALLOW, call, *args)
    families = (_UNIX, _INET, _INET6) if network else (_UNIX,)
    for family in set(range(_FAMILIES)) - set(families):
        for call in ("socket", "socketpair"):
            made.add_rule_exactly(seccomp.ERRNO(errno.EAFNOSUPPORT), call, seccomp.Arg(0, seccomp.MASKED_EQ, _LOW, family))
    for group in table()["refuse"]:
        _refuse(made, seccomp.ERRNO(getattr(errno, group["errno"])), group["calls"])
    for group in table()["kill"]:
        _refuse(made, seccomp.KILL_PROCESS, group["calls"])
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


# Calls that aarch64 never had; the table names them for x86-64.
_ONLY_X86 = frozenset(
    "access arch_prctl chmod dup2 epoll_wait getdents64 getpgrp link lstat mkdir open pause pipe poll readlink rename rmdir "
    "select stat symlink time unlink utime utimes vfork".split()
) - {"getdents64"}


def _refuse(made: Any, verdict: Any, calls: list[str]) -> None:
    for call in calls:
        try:
            made.add_rule_exactly(verdict, call)
        except (OSError, ValueError, RuntimeError):  # a call that this architecture or this libseccomp does not know
            continue


def _library() -> Any:
    try:
        import pyseccomp  # type: ignore[import-untyped]  # noqa: PLC0415 - looks for the C library when it is imported
    except (ImportError, RuntimeError, OSError) as error:
        raise LayerMissing("seccomp", f"libseccomp cannot be loaded ({error})", "run: apt-get install libseccomp2") from None
    return pyseccomp
