"""The seccomp filter: `launcher/syscalls.toml` made into a BPF program, and the program checked against the table.

Theory of operation. A filter is built in the host process, since importing pyseccomp runs other programs and takes
30 ms, and handed to the launcher as bytes. Only masked comparisons of the low 32 bits are used (every filtered argument
is an `int` to the kernel), and no two alternatives of a call overlap: older libseccomp versions merge some others
wrongly. What came out is then run over many calls and compared with what the table says, without libseccomp: every
number, every alternative, every compared bit flipped, every high word set. A program that differs in one verdict, or
that has an instruction which no call reached, is refused: LayerMissing.

Sources: seccomp(2), seccomp_rule_add(3).
"""

from __future__ import annotations

import errno
import functools
import itertools
import platform
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import bpf
from sandbox.errors import LayerMissing
from sandbox.spec import Network

_LOW = 0xFFFFFFFF
_HIGH = 0xA5A5A5A5 << 32
_FAMILIES = 46  # AF_MAX; a family past it is unknown, not refused
_REFUSED_FAMILY = {16: errno.EOPNOTSUPP}  # netlink: ZeroMQ aborts on any other answer when it looks for interfaces; else EAFNOSUPPORT
_FAMILY_CALLS = ("socket", "socketpair")
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h
_X32 = 0x40000000
_NUMBERS = 600  # past the last call of any kernel: 470 are in use in Linux 6.18

Rule = tuple[tuple[int, int, int], ...]  # (argument, mask, value) that must hold together


@functools.cache
def table() -> Mapping[str, Any]:
    """Read the table; raises ValueError for an entry without a reason."""
    entries: dict[str, Any] = tomllib.loads((Path(__file__).parent / "launcher" / "syscalls.toml").read_text())
    for name, group in entries.items():
        for entry in [group] if isinstance(group, dict) else group:
            if not entry.get("why", "").strip():
                raise ValueError(f"{name}: no reason for {entry['calls']}")
    return entries


def allowed_calls(network: Network) -> list[str]:
    """Return the calls that are allowed whatever their arguments."""
    return [call for group in table()["allow"] if _applies(group, network) for call in group["calls"]]


def argument_rules(network: Network) -> Iterator[tuple[str, Rule]]:
    """Yield (call, rule): a call is allowed when one of its rules holds."""
    for entry in table()["filtered"]:
        if _applies(entry, network):
            choices = [[(a["index"], a.get("mask", _LOW), v) for v in a["values"]] for a in entry["arguments"]]
            for call, rule in itertools.product(entry["calls"], itertools.product(*choices)):
                yield call, rule


def _applies(entry: Mapping[str, Any], network: Network) -> bool:
    return network in entry.get("only", tuple(Network))


def refusals() -> Iterator[tuple[str, int]]:
    """Yield (call, errno) for the calls that are refused whatever their arguments; errno 0 kills."""
    for group in table()["refuse"]:
        yield from ((call, getattr(errno, group["errno"])) for call in group["calls"])
    for group in table()["kill"]:
        yield from ((call, 0) for call in group["calls"])


@functools.cache
def build(network: Network, machine: str = "") -> bytes:
    """Return the filter of a network profile as BPF, checked; `machine` is x86_64 or aarch64, by default this one.

    Raises LayerMissing when libseccomp is not there, when this architecture is not supported, or when the program does
    not do what the table says.
    """
    policy = Policy.of(network, machine)
    program = _export(policy)
    verify(program, policy)
    return program


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table for one architecture: verdicts by call number."""

    machine: str
    plain: Mapping[int, int]  # number → verdict, whatever the arguments
    rules: Mapping[int, tuple[Rule, ...]]  # number → alternatives that allow
    families: Mapping[int, frozenset[int]]  # number → socket families that are not refused as such

    @classmethod
    def of(cls, network: Network, machine: str = "") -> Policy:
        """Read the table; raises LayerMissing for an architecture that it does not cover."""
        machine = machine or platform.machine()
        if machine not in _ARCHITECTURES:
            raise LayerMissing("seccomp", f"no filter for {machine}", "use a machine with x86_64 or aarch64")
        numbers = functools.partial(_number, machine)
        absent = set() if machine == "x86_64" else set(table()["x86_64_only"]["calls"])
        plain = {numbers(call): bpf.ALLOW for call in allowed_calls(network) if call not in absent}
        for call, code in refusals():
            if call not in absent:
                plain[numbers(call)] = bpf.ERRNO | code if code else bpf.KILL_PROCESS
        rules: dict[int, tuple[Rule, ...]] = {}
        for call, rule in ((call, rule) for call, rule in argument_rules(network) if call not in absent):
            rules[numbers(call)] = (*rules.get(numbers(call), ()), rule)
        families = {numbers(c): frozenset(v for rule in rules[numbers(c)] for i, _, v in rule if i == 0) for c in _FAMILY_CALLS}
        return cls(machine=machine, plain=plain, rules=rules, families=families)

    def verdict(self, call: list[int]) -> int:
        """Return what a filter must answer to a call, given as the words of `bpf.words`."""
        number, architecture = call[0], call[1]
        if architecture != _ARCHITECTURES[self.machine]:
            return bpf.KILL_PROCESS
        if self.machine == "x86_64" and _X32 <= number != _LOW:  # -1 is what a tracer sets to skip a call
            return bpf.KILL_PROCESS
        if number in self.plain:
            return self.plain[number]
        if any(all(call[4 + 2 * i] & mask == value for i, mask, value in rule) for rule in self.rules.get(number, ())):
            return bpf.ALLOW
        if number in self.families and call[4] < _FAMILIES and call[4] not in self.families[number]:
            return bpf.ERRNO | _REFUSED_FAMILY.get(call[4], errno.EAFNOSUPPORT)
        return bpf.ERRNO | errno.ENOSYS

    def probes(self) -> Iterator[list[int]]:
        """Yield calls that tell every verdict and every comparison apart."""
        native = _ARCHITECTURES[self.machine]
        for number in (*range(_NUMBERS), _X32, _X32 | 1, _X32 | 520, _LOW - 1, _LOW):
            yield bpf.words(native, number, (_HIGH,) * 6)
        for architecture in (0, 0x40000003, *_ARCHITECTURES.values(), native ^ 0x80000000):
            yield bpf.words(architecture, 39, ())
        for number in self.families:
            for family in range(_FAMILIES + 2):
                yield bpf.words(native, number, (_HIGH | family, 5, 0))
        for number, rules in self.rules.items():
            for rule in rules:
                yield from (bpf.words(native, number, arguments) for arguments in _around(rule))


def verify(program: bytes, policy: Policy) -> None:
    """Run a program over the policy's probes; raises LayerMissing at the first difference."""
    mend = "use libseccomp 2.5.4 or newer, and tell us which one this is"
    try:
        decoded = bpf.decode(program)
    except ValueError as error:
        raise LayerMissing("seccomp", f"the filter cannot be checked: {error}", mend) from None
    seen = bytearray(len(decoded))
    for call in policy.probes():
        found, wanted = bpf.run(decoded, call, seen), policy.verdict(call)
        if found != wanted:
            raise LayerMissing("seccomp", f"the filter answers {found:#x} instead of {wanted:#x} to call {call[0]} {call[4:]}", mend)
    if decoded[-1][3] == bpf.KILL_PROCESS:
        seen[-1] = 1  # libseccomp ends every program so, also when nothing leads there
    if not all(seen):
        raise LayerMissing("seccomp", f"the filter has instructions that no call reaches, the first at {seen.index(0)}", mend)


def _around(rule: Rule) -> Iterator[tuple[int, ...]]:
    """Yield arguments that satisfy a rule, also with what it ignores set, and those one bit of a comparison away."""
    exact = [0] * 6
    for index, _, value in rule:
        exact[index] = value
    yield tuple(exact)
    loose = [_HIGH | _LOW] * 6
    for index, mask, value in rule:
        loose[index] = _HIGH | _LOW & ~mask | value
    yield tuple(loose)
    for index, mask, _ in rule:
        for bit in range(32):
            if mask >> bit & 1:
                yield tuple(argument ^ (1 << bit if at == index else 0) for at, argument in enumerate(loose))


def _number(machine: str, call: str) -> int:
    """Return a call's number; raises ValueError for a name that this architecture does not have."""
    seccomp = _library()
    number: int = seccomp.resolve_syscall(_ARCHITECTURES[machine], call)
    if number < 0:
        raise ValueError(f"{machine} has no system call {call}")
    return number


def _export(policy: Policy) -> bytes:
    """Let libseccomp make the program."""
    seccomp = _library()
    made = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    if not made.exist_arch(_ARCHITECTURES[policy.machine]):  # a test builds for the other one
        made.add_arch(_ARCHITECTURES[policy.machine])
        made.remove_arch(seccomp.Arch.NATIVE)
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    made.set_attr(seccomp.Attr.CTL_NNP, 0)
    made.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    for number, verdict in policy.plain.items():
        made.add_rule_exactly(verdict, _native(policy, number))
    for number, rules in policy.rules.items():
        for rule in rules:
            args = [seccomp.Arg(index, seccomp.MASKED_EQ, mask, value) for index, mask, value in rule]
            made.add_rule_exactly(bpf.ALLOW, _native(policy, number), *args)
    for number, families in policy.families.items():
        for family in set(range(_FAMILIES)) - families:
            refused = seccomp.Arg(0, seccomp.MASKED_EQ, _LOW, family)
            answer = seccomp.ERRNO(_REFUSED_FAMILY.get(family, errno.EAFNOSUPPORT))
            made.add_rule_exactly(answer, _native(policy, number), refused)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _native(policy: Policy, number: int) -> int:
    """Return the number by which libseccomp knows a call on the machine that it runs on."""
    if policy.machine == platform.machine():
        return number
    seccomp = _library()
    name: bytes = seccomp.resolve_syscall(_ARCHITECTURES[policy.machine], number)
    native: int = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name.decode())
    return native


def _library() -> Any:
    try:
        import pyseccomp  # noqa: PLC0415 - looks for the C library when it is imported
    except (ImportError, RuntimeError, OSError) as error:
        raise LayerMissing("seccomp", f"libseccomp cannot be loaded ({error})", "run: apt-get install libseccomp2") from None
    return pyseccomp
