"""Builds: unpack a bundle, or install requirements, inside a confined container.

Theory of operation. A build container is a container whose LOAD says `build`: it has `out` mounted
writable and, for requirements, the host's network. The bundle is checked by the same rules as at its upload, unpacked
with forced modes, and byte-compiled with unchecked-hash files, so that a later import neither compiles nor stats.
Requirements are locked first and then installed from the lock, wheels only unless allowed; nothing of the
tenant's is executed. What the tools print goes to fd 1, which the host reads while the build runs.

Failures are data: `code` says what went wrong (`invalid_bundle`, `too_large`, `requirements_failed`;
`index_unreachable` and `storage_full` are passing: the same build may succeed later).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyfaas import bundle
from pyfaas.runtime import install, report, tree
from sandbox.wire import Kind

_LOCK_ROOM = 48 * 1024  # bytes of lock text that LOADED can carry
_SHOWN = 20  # syntax errors told


class BuildFailed(Exception):
    """The build ended; `code` as in the module's docstring, `log_tail` is what the tool said last."""

    def __init__(self, code: str, message: str, log_tail: str = "") -> None:
        """Keep what FAILED tells."""
        self.code, self.message, self.log_tail = code, message, log_tail
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """Sizes a build may reach; named in the failure when it does. `bytes` sets the one that the build is about."""

    files: int = 20_000
    unpacked_bytes: int = 250 << 20
    ratio: int = 300
    environment_files: int = 200_000
    environment_bytes: int = 2 << 30
    seconds: float = 900.0

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> BuildLimits:
        """Read the limits of a LOAD; unknown keys are ignored."""
        most = given.get("bytes")
        wide = {"unpacked_bytes": most, "environment_bytes": most, **given}
        return cls(**{key: wide[key] for key in cls.__slots__ if wide.get(key) is not None})


def run(payload: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    """Do what a `build` LOAD asks; returns LOADED or FAILED with its fields, never raises."""
    try:
        return Kind.LOADED, _build(payload)
    except bundle.BundleError as error:
        return Kind.FAILED, {"code": error.code, "errorMessage": error.message, "log_tail": ""}
    except (BuildFailed, install.InstallFailed) as error:
        return Kind.FAILED, {"code": error.code, "errorMessage": error.message, "log_tail": error.log_tail}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        code = "storage_full" if full else "internal"
        return Kind.FAILED, {"code": code, "errorMessage": str(error), "log_tail": "\n".join(report.stack(error))}


def _build(payload: Mapping[str, Any]) -> dict[str, Any]:
    out = str(payload["out"])
    limits = BuildLimits.parse(payload.get("limits") or {})
    requirements = payload.get("requirements")
    lock = ""
    if payload.get("bundle") and not payload.get("environment_only"):
        _unpack(str(payload["bundle"]), out, limits)
    if requirements:
        tool = install.Tool.parse(payload.get("tool") or {})
        watch = install.Watch(out, limits.environment_bytes, limits.environment_files, limits.seconds)
        lock = install.install([str(line) for line in requirements], out, tool, watch)
    problems = tree.byte_compile(out)
    size = tree.seal(out)
    room = limits.environment_bytes if requirements else 2 * limits.unpacked_bytes  # compiled files included
    if size.bytes > room:
        raise BuildFailed("too_large", f"{size.bytes} bytes are installed; at most {room} are taken")
    told = lock if len(lock) <= _LOCK_ROOM else install.without_hashes(lock)
    return {
        "files": size.files,
        "bytes": size.bytes,
        "lock": told[:_LOCK_ROOM],
        "lock_complete": told == lock,
        "syntax_errors": problems[:_SHOWN],
    }


def _unpack(path: str, out: str, limits: BuildLimits) -> None:
    rules = bundle.Rules(files=limits.files, unpacked_bytes=limits.unpacked_bytes, ratio=limits.ratio)
    if os.path.isdir(path):  # a mounted directory that holds the one file
        path = os.path.join(path, min(os.listdir(path), default="no bundle"))
    with bundle.open_bundle(path) as archive:
        for entry in bundle.inspect(archive, rules):
            if "__pycache__" not in entry.path.split("/"):  # made anew here, by this interpreter
                tree.write(os.path.join(out, entry.path), bundle.read(archive, entry), executable=entry.executable)
