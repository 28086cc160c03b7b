"""A container's cgroup leaf as the host uses it: through descriptors that the launcher opened.

A server without root can write limits, read counters and kill by these, without a hop to the launcher.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from sandbox.launcher.cgroups import limit_values, read_usage
from sandbox.spec import Limits, Usage


class Leaf:
    """Limits, counters and the kill switch of one leaf; with no descriptors everything is a no-op that says so."""

    def __init__(self, descriptors: Mapping[str, int], limits: Limits) -> None:
        """Take over descriptors by file name; `limits` are what the leaf was made with."""
        self._files = dict(descriptors)
        self._is_v1 = "memory.limit_in_bytes" in self._files
        self._now = limits

    def limit(self, limits: Limits) -> None:
        """Set new limits; what does not change is not written."""
        if limits == self._now:
            return
        old = dict(limit_values(self._now, is_v1=self._is_v1))
        pairs = [(f, v) for f, v in limit_values(limits, is_v1=self._is_v1) if old.get(f) != v and f in self._files]
        if self._is_v1 and limits.memory_bytes > self._now.memory_bytes:
            pairs.sort(key=lambda pair: pair[0] != "memory.memsw.limit_in_bytes")  # memsw is never below the limit
        for file, value in pairs:
            try:
                os.pwrite(self._files[file], value.encode(), 0)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                return  # the leaf is gone: its container's end is told anyway
        self._now = limits

    def usage(self) -> Usage:
        """Read the counters; all 0 when the leaf is gone."""
        return read_usage(self._read, is_v1=self._is_v1)

    def kill(self) -> bool:
        """Kill everything in the leaf at once; False where there is no cgroup.kill."""
        descriptor = self._files.get("cgroup.kill")
        if descriptor is None:
            return False
        try:
            os.write(descriptor, b"1")
        except OSError as error:
            if error.errno != errno.ENODEV:  # the leaf is gone, and everything in it
                raise
        return True

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _read(self, file: str) -> bytes:
        descriptor = self._files.get(file)
        try:
            return os.pread(descriptor, 4096, 0) if descriptor is not None else b""
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return b""
