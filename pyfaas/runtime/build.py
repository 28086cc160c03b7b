"""Builds: unpack a bundle, lock requirements, or install a lock, inside a confined container.

Theory of operation. A build container is a container whose LOAD says `build` and a `step`: `compile`, `lock` or `install`.
It has `out` mounted writable and, for requirements, a way out to the package indexes. The bundle is checked by the same rules as at its
upload, unpacked with forced modes, and byte-compiled with unchecked-hash files, so that a later import neither compiles nor
stats. Nothing of the tenant's is executed. What the tools print goes to fd 1, which the host reads while the build runs.

A lock may be larger than a packet: it follows LOAD, or LOADED, in PART packets, `lock_bytes` of it. How far a build is goes up
in ITEM packets before the answer, each second at most: {"step", "done", "total"}.

Failures are data: `code` says what went wrong (`invalid_bundle`, `too_large`, `requirements_failed`;
`index_unreachable` and `storage_full` are passing: the same build may succeed later).
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyfaas import bundle
from pyfaas.runtime import install, report, tree
from sandbox import wire
from sandbox.wire import Kind

_SHOWN = 20  # syntax errors told
_STEP_S = 1.0  # between two words on how far it is


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


def serve(payload: Mapping[str, Any], channel: socket.socket) -> None:
    """Do what a `build` LOAD asks, telling how far it is, and answer; raises OSError when the host is gone."""
    asked = _received(channel, int(payload.get("lock_bytes") or 0))
    kind, fields, lock = run(payload, asked, Telling(channel))
    channel.send(wire.packet(kind, json.dumps(fields).encode()))
    for part in wire.parts(lock, 0):
        channel.send(part)


def run(payload: Mapping[str, Any], lock: bytes, telling: Telling) -> tuple[Kind, dict[str, Any], bytes]:
    """Do what a `build` LOAD asks; returns LOADED or FAILED with its fields, and the lock that was made; never raises."""
    steps = {"compile": _compile, "lock": _lock, "install": _install}
    try:
        return Kind.LOADED, *steps[str(payload["step"])](payload, BuildLimits.parse(payload.get("limits") or {}), lock.decode(), telling)
    except bundle.BundleError as error:
        return Kind.FAILED, {"code": error.code, "errorMessage": error.message, "log_tail": ""}, b""
    except (BuildFailed, install.InstallFailed) as error:
        return Kind.FAILED, {"code": error.code, "errorMessage": error.message, "log_tail": error.log_tail}, b""
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        code, message = ("storage_full", "the disk is full") if full else ("internal", str(error))
        return Kind.FAILED, {"code": code, "errorMessage": message, "log_tail": "\n".join(report.stack(error))}, b""


class Telling:
    """Tells the host how far a build is, not too often."""

    def __init__(self, channel: socket.socket) -> None:
        """Tell on the container's channel."""
        self._channel, self._next = channel, 0.0

    def begin(self, step: str, total: int) -> None:
        """Tell that a step begins, with how much there is to do."""
        self._next = 0.0
        self.reach(step, 0, total)

    def reach(self, step: str, done: int, total: int) -> None:
        """Tell how much of a step is done, unless that was told just now."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _STEP_S
            self._channel.send(wire.packet(Kind.ITEM, json.dumps({"step": step, "done": done, "total": total}).encode()))


def _received(channel: socket.socket, length: int) -> bytes:
    body = b""
    while len(body) < length:
        packet = channel.recv(wire.MAX_PACKET)
        if not packet or packet[0] != Kind.PART:
            raise ConnectionError("the lock was cut off")
        body += packet[1:]
    return body


def _lock(payload: Mapping[str, Any], limits: BuildLimits, _lock: str, telling: Telling) -> tuple[dict[str, Any], bytes]:
    telling.begin("lock", 0)
    lines = [str(line) for line in payload["requirements"]]
    text = install.lock(lines, install.Tool.parse(payload.get("tool") or {}), limits.seconds).encode()
    return {"lock_bytes": len(text)}, text


def _install(payload: Mapping[str, Any], limits: BuildLimits, lock: str, telling: Telling) -> tuple[dict[str, Any], bytes]:
    total = len(install.pins(lock))
    telling.begin("install", total)
    watch = install.Watch(
        target=str(payload["out"]),
        most_bytes=limits.environment_bytes,
        most_files=limits.environment_files,
        seconds=limits.seconds,
        told=lambda packages: telling.reach("install", packages, total),
    )
    install.install(lock, install.Tool.parse(payload.get("tool") or {}), watch)
    return _finish(watch.target, limits.environment_bytes, "environment_size", telling), b""


def _compile(payload: Mapping[str, Any], limits: BuildLimits, _lock: str, telling: Telling) -> tuple[dict[str, Any], bytes]:
    out = str(payload["out"])
    try:
        _unpack(str(payload["bundle"]), out, limits, str(payload.get("digest") or ""))
    except bundle.BundleError as error:
        if not payload.get("digest"):
            raise
        message = "the code is not what was published any more; publish it again"
        raise BuildFailed("bundle_corrupt", message, error.message) from error
    return _finish(out, 2 * limits.unpacked_bytes, "bundle_unpacked", telling), b""  # compiled files included


def _finish(out: str, room: int, option: str, telling: Telling) -> dict[str, Any]:
    """Compile what lies in `out`, see that it is not too large, and put it on the disk for good."""
    telling.begin("compile", 0)
    problems = tree.byte_compile(out, lambda done, total: telling.reach("compile", done, total))
    size = tree.seal(out)
    if size.bytes > room:
        raise BuildFailed("too_large", f"{size.bytes} bytes are there after compiling; at most {room} are taken, by the operator's {option}")
    return {"files": size.files, "bytes": size.bytes, "syntax_errors": problems[:_SHOWN]}


def _unpack(path: str, out: str, limits: BuildLimits, digest: str) -> None:
    """Unpack a bundle, whose content is named by `digest` where one is given; raises BundleError."""
    rules = bundle.Rules(files=limits.files, unpacked_bytes=limits.unpacked_bytes, ratio=limits.ratio)
    if os.path.isdir(path):  # a mounted directory that holds the one file
        path = os.path.join(path, min(os.listdir(path), default="no bundle"))
    with bundle.open_bundle(path) as archive:
        entries = bundle.inspect(archive, rules)
        if digest and digest != "sha256-" + bundle.digest(archive, entries):
            raise bundle.BundleError("invalid_bundle", "its content has another digest than its name")
        for entry in entries:
            if "__pycache__" not in entry.path.split("/"):  # made anew here, by this interpreter
                tree.write(os.path.join(out, entry.path), bundle.read(archive, entry), executable=entry.executable)
