"""Limits as a user of the executor writes them: sizes and times with their units."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sandbox import spec

_SIZES = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_WORD = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_LEAST_MEMORY = 32 << 20  # a worker that has loaded nothing yet holds a third of it
_MOST_PAYLOAD = (1 << 32) - 1  # a length in the protocol has four bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one worker of an executor may use; raises ValueError or TypeError naming the field that is wrong.

    * `memory`: bytes, or text with K, M or G (powers of 1024); /tmp counts, and there is no swap beside it.
    * `cpu`: processors; 1.0 is one whole.
    * `timeout`: seconds, or text with ms, s, m or h, that one call may take (an initializer: 30 s at least); None is without end.
    * `network`: None, the only value: a worker reaches nothing.
    * `pids`: processes and threads.
    * `payload`: the most bytes of one call's arguments, or of its result, as they travel.
    * `tmp`: the most bytes in /tmp and in /dev/shm each; by default half of the memory.
    """

    memory: int | str = "256M"
    cpu: float = 1.0
    timeout: float | str | None = 60.0
    network: None = None
    pids: int = 64
    payload: int | str = "64M"
    tmp: int | str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if self.network is not None:
            raise ValueError(f"network is not available in the executor: network={self.network!r}")
        if self.memory_bytes < _LEAST_MEMORY:
            raise ValueError(f"memory: {self.memory!r} is below {_LEAST_MEMORY >> 20}M, which a worker needs to begin")
        if not _is_number(self.cpu) or not 0 < self.cpu < math.inf:
            raise ValueError(f"cpu: {self.cpu!r} is not a number of processors above 0")
        if not isinstance(self.pids, int) or isinstance(self.pids, bool) or self.pids < 1:
            raise ValueError(f"pids: {self.pids!r} is not a number of processes above 0")
        if not 0 < self.payload_bytes <= _MOST_PAYLOAD:
            raise ValueError(f"payload: {self.payload!r} is not above 0 and below 4G")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValueError(f"timeout: {self.timeout!r} is not above 0")
        if self.tmp_bytes <= 0:
            raise ValueError(f"tmp: {self.tmp!r} is not above 0")

    @property
    def memory_bytes(self) -> int:
        """The memory, in bytes."""
        return _size("memory", self.memory)

    @property
    def payload_bytes(self) -> int:
        """The most bytes of a call or a result."""
        return _size("payload", self.payload)

    @property
    def tmp_bytes(self) -> int:
        """The size of /tmp and of /dev/shm, in bytes."""
        return self.memory_bytes // 2 if self.tmp is None else _size("tmp", self.tmp)

    @property
    def timeout_s(self) -> float | None:
        """The time of one call in seconds, or None."""
        return None if self.timeout is None else _seconds("timeout", self.timeout)

    def for_launcher(self) -> spec.Limits:
        """Return what the launcher is told."""
        return spec.Limits(memory_bytes=self.memory_bytes, pids=self.pids, cpu=float(self.cpu), tmp_bytes=self.tmp_bytes)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _size(field: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number, unit = _parted(field, value, "bytes or text such as '256M'")
    factor = _SIZES.get(unit.upper().removesuffix("IB").removesuffix("B") if unit.upper() != "B" else "B")
    if factor is None:
        raise ValueError(f"{field}: {value!r} has no unit of {', '.join(name for name in _SIZES if name)}")
    return int(number * factor)


def _seconds(field: str, value: object) -> float:
    if _is_number(value):
        seconds = float(value)  # type: ignore[arg-type]
        if not math.isfinite(seconds):
            raise ValueError(f"{field}: {value!r} is not finite; None is without end")
        return seconds
    number, unit = _parted(field, value, "seconds or text such as '10s'")
    if unit not in _TIMES:
        raise ValueError(f"{field}: {value!r} has no unit of {', '.join(name for name in _TIMES if name)}")
    return number * _TIMES[unit]


def _parted(field: str, value: object, wanted: str) -> tuple[float, str]:
    if not isinstance(value, str):
        raise TypeError(f"{field}: {value!r} is not {wanted}")
    found = _WORD.fullmatch(value)
    if found is None:
        raise ValueError(f"{field}: {value!r} is not {wanted}")
    return float(found[1]), found[2]
