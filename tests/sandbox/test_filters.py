"""The seccomp filter: what libseccomp made does what the table says, in a simulation and in the kernel."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import platform
import signal
import struct
from collections.abc import Callable

import pytest

from sandbox import bpf, filters, kernel
from sandbox.errors import LayerMissing
from sandbox.spec import Network

MACHINE = platform.machine()
MACHINES = ("x86_64", "aarch64")
EACH = pytest.mark.parametrize("network", Network)
_libc = ctypes.CDLL(None, use_errno=True)


def raw(number: int, *arguments: int) -> int:
    """Make a system call by number; returns 0 or the errno."""
    ctypes.set_errno(0)
    done = _libc.syscall(ctypes.c_long(number), *[ctypes.c_long(argument) for argument in arguments])
    return ctypes.get_errno() if done < 0 else 0


def number(call: str) -> int:
    """Return a call's number on this machine."""
    return filters._number(MACHINE, call)  # noqa: SLF001


def filtered(work: Callable[[], object], program: bytes | None) -> tuple[int, str]:
    """Run `work` in a child under a filter; returns (signal, what it returned as text)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if program is not None:
                kernel.set_no_new_privs()
                kernel.load_filter(program)
            os.write(write, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    return os.WTERMSIG(os.waitpid(pid, 0)[1]), text


@EACH
@pytest.mark.parametrize("machine", MACHINES)
def test_build_passes_its_own_check(machine: str, network: Network) -> None:
    """The program for either architecture agrees with the table on every probe, and every instruction is reached."""
    program = filters.build(network, machine)
    policy = filters.Policy.of(network, machine)
    filters.verify(program, policy)
    assert len(program) // 8 < 4096  # BPF_MAXINSNS


def test_another_architecture_is_refused() -> None:
    """A machine that the table does not cover gets no filter at all."""
    with pytest.raises(LayerMissing, match="riscv64"):
        filters.build(Network.NONE, machine="riscv64")


@pytest.mark.parametrize("machine", MACHINES)
def test_table_names_what_aarch64_lacks(machine: str) -> None:
    """Each call of the table has a number on x86-64, and on aarch64 exactly those that are not said to be missing."""
    calls = {*filters.allowed_calls(Network.HOST), *(c for c, _ in filters.argument_rules(Network.HOST)), *(c for c, _ in filters.refusals())}
    absent = set()
    for call in calls:
        try:
            filters._number(machine, call)  # noqa: SLF001
        except ValueError:
            absent.add(call)
    assert absent == (set() if machine == "x86_64" else set(filters.table()["x86_64_only"]["calls"]))


def test_table_gives_reasons_and_no_call_two_verdicts() -> None:
    """Each group has a reason, and no call is in two places with different verdicts."""
    allowed, refused = filters.allowed_calls(Network.HOST), [call for call, _ in filters.refusals()]
    ruled = {call for call, _ in filters.argument_rules(Network.HOST)}
    assert len(set(allowed)) == len(allowed)
    assert len(set(refused)) == len(refused)
    assert not set(allowed) & set(refused)
    assert not ruled & {*allowed, *refused}
    assert all(len(entry["why"]) > 5 for group in ("allow", "filtered", "refuse", "kill") for entry in filters.table()[group])


def test_alternatives_do_not_overlap() -> None:
    """No arguments satisfy two alternatives of one call: older libseccomp versions merge such rules wrongly."""
    rules = list(filters.argument_rules(Network.HOST))
    for at, (call, rule) in enumerate(rules):
        for other_call, other in rules[at + 1 :]:
            if call == other_call:
                mine, theirs = ({i: (m, v) for i, m, v in r} for r in (rule, other))
                assert any(mine[i][1] & theirs[i][0] != theirs[i][1] & mine[i][0] for i in mine), (call, rule, other)


@EACH
def test_a_missing_or_added_rule_is_noticed(network: Network) -> None:
    """A program made from a table that differs in one call, or in one alternative, is refused."""
    policy = filters.Policy.of(network)
    others = [dataclasses.replace(policy, plain={k: v for k, v in policy.plain.items() if k != gone}) for gone in policy.plain]
    others += [
        dataclasses.replace(policy, rules={**policy.rules, number: rules[1:]}) for number, rules in policy.rules.items() if len(rules) > 1
    ]
    others.append(dataclasses.replace(policy, plain={**policy.plain, number("process_vm_readv"): bpf.ALLOW}))
    for other in others:
        with pytest.raises(LayerMissing):
            filters.verify(filters._export(other), policy)  # noqa: SLF001


def test_a_changed_instruction_is_noticed() -> None:
    """A program in which one verdict or one equality differs in one bit is refused, wherever it is."""
    program, policy = filters.build(Network.NONE), filters.Policy.of(Network.NONE)
    seen_kinds = set()
    for at, (code, if_true, if_false, constant) in enumerate(bpf.decode(program)[:-1]):
        if code not in (0x06, 0x15):
            continue
        seen_kinds.add(code)
        changed = bytearray(program)
        struct.pack_into("=HBBI", changed, 8 * at, code, if_true, if_false, constant ^ 1)
        with pytest.raises(LayerMissing):
            filters.verify(bytes(changed), policy)
    assert seen_kinds == {0x06, 0x15}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"", "whole number"),
        (b"\0" * 7, "whole number"),
        (struct.pack("=HBBI", 0x16, 0, 0, 0), "unknown code"),  # RET A
        (struct.pack("=HBBI", 0x20, 0, 0, 64) + struct.pack("=HBBI", 0x06, 0, 0, 0), "no word"),
        (struct.pack("=HBBI", 0x15, 0, 9, 0) + struct.pack("=HBBI", 0x06, 0, 0, 0), "leads out"),
        (struct.pack("=HBBI", 0x20, 0, 0, 0), "leads out"),
    ],
)
def test_what_is_not_understood_is_refused(program: bytes, reason: str) -> None:
    """A program with an unknown instruction, a load beside the call, or a way out of itself is not checked but refused."""
    with pytest.raises(ValueError, match=reason):
        bpf.decode(program)
    with pytest.raises(LayerMissing):
        filters.verify(program, filters.Policy.of(Network.NONE))


# uretprobe and uprobe of x86-64: Linux 6.14 and later let no filter see them, since the kernel's own trampolines make
# them; from anywhere else they end in SIGILL or ENXIO.
NEVER_FILTERED = {335, 336} if MACHINE == "x86_64" else set()


@EACH
def test_kernel_answers_as_the_table(network: Network) -> None:
    """In the kernel, every number that is not allowed and does not kill answers with exactly the table's errno."""
    policy = filters.Policy.of(network)
    native = filters._ARCHITECTURES[policy.machine]  # noqa: SLF001
    wanted: dict[int, int] = {}
    for at in set(range(520)) - NEVER_FILTERED:
        verdict = policy.verdict(bpf.words(native, at, (-1,) * 6))
        if verdict & 0x7FFF0000 == bpf.ERRNO:
            wanted[at] = verdict & 0xFFFF
    _, told = filtered(lambda: {at: raw(at, *(-1,) * 6) for at in wanted}, filters.build(network))
    assert told == repr(wanted)
    assert len(wanted) > 250


@pytest.mark.parametrize("call", [call for call, code in filters.refusals() if code == 0])
def test_calls_without_innocent_use_kill(call: str) -> None:
    """A call that no function has an innocent use for ends the process by SIGSYS; without the filter it is an error."""
    at = number(call)
    assert filtered(lambda: raw(at, -1, -1, -1, -1, -1), filters.build(Network.NONE)) == (signal.SIGSYS, "")
    assert filtered(lambda: raw(at, -1, -1, -1, -1, -1), None)[0] == 0


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 is an ABI of x86-64")
def test_foreign_abi_kills() -> None:
    """A call by an x32 number ends the process; without the filter it is an error or, where the kernel has x32, works."""
    assert filtered(lambda: raw(0x40000000 | 39), filters.build(Network.NONE)) == (signal.SIGSYS, "")
    assert filtered(lambda: raw(0x40000000 | 39), None)[0] == 0


HIGH = 0x5A5A5A5A << 32
CASES = {  # what is asked → (call, arguments, refused with)
    "a new user namespace by clone": ("clone", (0x10000000 | 17, 0, 0, 0, 0), errno.ENOSYS),
    "clone3": ("clone3", (0, 0), errno.ENOSYS),
    "a netlink socket": ("socket", (16, 3, 0), errno.EOPNOTSUPP),
    "a raw internet socket": ("socket", (2, 3, 1), errno.EAFNOSUPPORT),
    "a packet socket with a high word": ("socket", (HIGH | 17, 3, 0), errno.EAFNOSUPPORT),
    "terminal input": ("ioctl", (0, 0x5412, 0), errno.ENOSYS),
    "terminal input with a high word": ("ioctl", (0, HIGH | 0x5412, 0), errno.ENOSYS),
    "another process's limits": ("prlimit64", (1, 7, 0, 0), errno.ENOSYS),
    "a parent death signal": ("prctl", (1, 0, 0, 0, 0), errno.ENOSYS),
    "a real-time policy": ("sched_setscheduler", (0, 1, 0), errno.ENOSYS),
    "a policy of leftovers": ("sched_setscheduler", (0, HIGH | 5, 0), errno.ENOSYS),
    "another process's priority": ("setpriority", (0, 1, 19), errno.ENOSYS),
    "a group's priority": ("setpriority", (1, 0, -1), errno.ENOSYS),
    "a device": ("mknodat", (-1, 0, 0o020666, 0x103), errno.ENOSYS),
    "mergeable memory": ("madvise", (0, 4096, 12), errno.ENOSYS),
    "a priority inheriting lock": ("futex", (0, 6, 0, 0, 0, 0), errno.ENOSYS),
    "out-of-band bytes": ("sendto", (-1, 0, 0, 1, 0, 0), errno.ENOSYS),
    "a directory notification": ("fcntl", (0, 1026, 0), errno.ENOSYS),
    "a packet filter on a socket": ("setsockopt", (0, 1, 26, 0, 0), errno.ENOSYS),
    "pages of the kernel instead of bytes": ("getsockopt", (-1, 6, 35, 0, 0), errno.ENOSYS),
    "an option of another protocol": ("getsockopt", (-1, HIGH | 132, 0, 0, 0), errno.ENOSYS),
    "an extended attribute": ("getxattr", (0, 0, 0, 0), errno.EOPNOTSUPP),
    "io_uring": ("io_uring_setup", (8, 0), errno.ENOSYS),
    "a mount": ("mount", (0, 0, 0, 0, 0), errno.EPERM),
    "ptrace": ("ptrace", (0, 0, 0, 0), errno.EPERM),
    "its own rules": ("landlock_create_ruleset", (0, 0, 1), errno.ENOSYS),
}


@pytest.mark.parametrize("what", CASES)
def test_refused_in_the_kernel(what: str) -> None:
    """Each class of refused call gets its errno under the filter, and without it goes another way."""
    call, arguments, refused = CASES[what]
    at = number(call)
    if call == "clone":  # the control would fork inside the C library's back
        assert filtered(lambda: raw(at, *arguments), filters.build(Network.NONE)) == (0, str(refused))
        return
    assert filtered(lambda: raw(at, *arguments), filters.build(Network.NONE)) == (0, str(refused))
    assert filtered(lambda: raw(at, *arguments), None) != (0, str(refused))


HARMLESS = {  # the twins: the same calls, used as a function uses them
    "threads": "import threading; t = threading.Thread(target=lambda: None); t.start(); t.join()",
    "a Unix socket pair": "import socket; a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'",
    "a terminal question": "import os; os.isatty(0)",
    "own limits": "import resource; resource.getrlimit(resource.RLIMIT_NOFILE)",
    "the scheduling that it has": "import os; os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))",
    "being nicer": "import os; before = os.nice(0); assert os.nice(1) == min(before + 1, 19)",
    "keeping an owner": "import os, tempfile; f = tempfile.NamedTemporaryFile(); os.chown(f.name, os.getuid(), -1); os.lchown(f.name, -1, -1)",
    "an alarm": "import signal; signal.alarm(60); assert signal.alarm(0) == 60",
    "a pipe with a name": "import os, tempfile; d = tempfile.TemporaryDirectory(); os.mkfifo(d.name + '/p'); d.cleanup()",
    "a file made by creat": "import ctypes, tempfile; f = tempfile.NamedTemporaryFile(); assert ctypes.CDLL(None).creat(f.name.encode(), 0o600) > 0",
    "a thread's name": "import ctypes; ctypes.CDLL(None).prctl(15, b'x', 0, 0, 0)",
    "locks across processes": "import multiprocessing as m; c = m.get_context('fork'); l = c.Lock(); l.acquire(); l.release()",
    "copying with attributes": "import os, shutil, tempfile as t; d = t.TemporaryDirectory(); open(d.name + '/a', 'w').close(); "
    "shutil.copy2(d.name + '/a', d.name + '/b'); d.cleanup()",
    "a subprocess": "import subprocess; assert subprocess.run(['true']).returncode == 0",
    "an event loop": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "a database": "import sqlite3; sqlite3.connect(':memory:').execute('create table t(a)')",
    "a file lock": "import fcntl, tempfile; f = tempfile.TemporaryFile(); fcntl.flock(f, fcntl.LOCK_EX)",
}


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_use_works(what: str) -> None:
    """What functions do every day goes on under the filter."""

    def work() -> str:
        exec(HARMLESS[what], {})  # noqa: S102 - our own text
        return "done"

    assert filtered(work, filters.build(Network.NONE)) == (0, "'done'")


def test_filters_of_a_network_allow_what_a_server_needs() -> None:
    """Listening on and connecting to an address works under the filters for a network, and not under the plain one."""

    def work() -> str:
        import socket  # noqa: PLC0415 - in the child

        try:
            listening = socket.create_server(("127.0.0.1", 0))
            with socket.create_connection(listening.getsockname()):
                return "connected"
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    for network in (Network.HOST, Network.DOORS):
        assert filtered(work, filters.build(network)) == (0, "'connected'")
    assert filtered(work, filters.build(Network.NONE)) == (0, "'EAFNOSUPPORT'")


WIDER = {  # by profile: what it allows beyond a plain VM's filter
    Network.DOORS: ({"sendmmsg", "recvmmsg"}, {("socket", 2), ("socketpair", 2), ("setsockopt", 0)}),
    Network.HOST: (
        {"sendmmsg", "recvmmsg"},
        {("socket", 2), ("socketpair", 2), ("socket", 10), ("socketpair", 10), ("setsockopt", 0), ("setsockopt", 41)},
    ),
}


@pytest.mark.parametrize("network", WIDER)
def test_a_network_adds_no_more_than_it_needs(network: Network) -> None:
    """Beside what a plain VM may there are two calls, sockets of one more family (the host's network: two), and an option of each."""
    calls, rules = WIDER[network]
    assert set(filters.allowed_calls(network)) - set(filters.allowed_calls(Network.NONE)) == calls
    more = set(filters.argument_rules(network)) - set(filters.argument_rules(Network.NONE))
    assert {(call, rule[0][2]) for call, rule in more} == rules
    assert {rule for call, rule in more if call == "setsockopt"} <= {((1, 0xFFFFFFFF, 0), (2, 0xFFFFFFFF, 11)), ((1, 0xFFFFFFFF, 41), (2, 0xFFFFFFFF, 25))}
