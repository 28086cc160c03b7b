"""Limits as they are written: sizes and times with units, and what is refused, by the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import Limits, spec

MIB = 1 << 20


@pytest.mark.parametrize(
    ("written", "size"),
    [("256M", 256 * MIB), ("0.5G", 512 * MIB), ("64 MiB", 64 * MIB), ("40mb", 40 * MIB), (40 * MIB, 40 * MIB), ("65536k", 64 * MIB)],
)
def test_sizes(written: Any, size: int) -> None:
    """A size is bytes, or a number with a unit of 1024's powers, however the unit is spelled."""
    assert Limits(memory=written).memory_bytes == size


@pytest.mark.parametrize(
    ("written", "seconds"), [("10s", 10), (2.5, 2.5), ("250ms", 0.25), ("1.5m", 90), ("1h", 3600), ("7", 7), (None, None)]
)
def test_times(written: Any, seconds: float | None) -> None:
    """A time is seconds, or a number with its unit; None is without end."""
    assert Limits(timeout=written).timeout_s == seconds


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("network", "example.org:443", "network is not available in the executor"),
        ("network", False, "network is not available in the executor"),
        ("memory", "1M", "memory: '1M' is below 32M"),
        ("memory", "lots", "memory: 'lots' is not bytes"),
        ("memory", "5 elephants", "memory: '5 elephants' has no unit"),
        ("memory", None, "memory: None is not bytes"),
        ("timeout", "10 years", "timeout: '10 years' has no unit"),
        ("timeout", 0, "timeout: 0 is not above 0"),
        ("timeout", float("inf"), "timeout: inf is not finite"),
        ("cpu", 0, "cpu: 0 is not a number of processors"),
        ("cpu", "1", "cpu: '1' is not a number of processors"),
        ("pids", 0, "pids: 0 is not a number of processes"),
        ("pids", True, "pids: True is not a number of processes"),
        ("payload", 0, "payload: 0 is not above 0"),
        ("payload", "5G", "payload: '5G' is not above 0 and below 4G"),
        ("tmp", -1, "tmp: -1 is not above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(field: str, value: Any, says: str) -> None:
    """A wrong value is refused when it is written, and the message begins with its field."""
    with pytest.raises((ValueError, TypeError)) as refused:
        Limits(**{field: value})
    assert says in str(refused.value)


def test_the_launcher_is_told_all_of_it() -> None:
    """What the launcher enforces comes from these fields; /tmp has half of the memory unless it is said otherwise."""
    told = Limits(memory="100M", cpu=0.5, pids=7).for_launcher()
    assert told == spec.Limits(memory_bytes=100 * MIB, pids=7, cpu=0.5, tmp_bytes=50 * MIB)
    assert Limits(tmp="10M").for_launcher().tmp_bytes == 10 * MIB
