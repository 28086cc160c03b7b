"""Classic BPF as seccomp runs it: decoding a program and running it over one system call, for checking our own filters.

Only the instructions that libseccomp emits for filters are known; any other one is refused, so that nothing is checked
that was not understood. Sources: seccomp(2), linux/bpf_common.h, linux/seccomp.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

KILL_PROCESS, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT = 0x15, 0x25, 0x35, 0x45
_KNOWN = frozenset({_LOAD, _AND, _RETURN, _JUMP, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT})
_DATA_WORDS = 16  # struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits
_LOW = 0xFFFFFFFF

Program = Sequence[tuple[int, int, int, int]]  # code, jump when true, jump when false, constant


def decode(bpf: bytes) -> Program:
    """Return the instructions; raises ValueError for one that is not known, or that leads out of the program."""
    if not bpf or len(bpf) % 8:
        raise ValueError("not a whole number of instructions")
    program = list(struct.iter_unpack("=HBBI", bpf))
    for at, (code, if_true, if_false, constant) in enumerate(program):
        if code not in _KNOWN:
            raise ValueError(f"instruction {at} has the unknown code {code:#x}")
        if code == _LOAD and (constant % 4 or constant >= 4 * _DATA_WORDS):
            raise ValueError(f"instruction {at} loads from {constant}, which is no word of the call")
        reach = {_RETURN: 0, _JUMP: constant + 1, _LOAD: 1, _AND: 1}.get(code, max(if_true, if_false) + 1)
        if at + reach >= len(program):
            raise ValueError(f"instruction {at} leads out of the program")
    return program


def words(architecture: int, number: int, arguments: Sequence[int]) -> list[int]:
    """Return a system call as the words that a program loads (little-endian, as x86-64 and aarch64 are)."""
    made = [number & _LOW, architecture, 0, 0]
    for argument in arguments:
        made += (argument & _LOW, argument >> 32 & _LOW)
    return made + [0] * (_DATA_WORDS - len(made))


def run(program: Program, call: Sequence[int], seen: bytearray) -> int:
    """Return the program's verdict over a call, and mark in `seen` each instruction that was run."""
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = program[at]
        seen[at] = 1
        at += 1
        if code == _JUMP_EQUAL:
            at += if_true if accumulator == constant else if_false
        elif code == _LOAD:
            accumulator = call[constant >> 2]
        elif code == _JUMP_GREATER_EQUAL:
            at += if_true if accumulator >= constant else if_false
        elif code == _JUMP_GREATER:
            at += if_true if accumulator > constant else if_false
        elif code == _AND:
            accumulator &= constant
        elif code == _RETURN:
            return constant
        elif code == _JUMP:
            at += constant
        else:
            at += if_true if accumulator & constant else if_false
