"""Requirements: lock them, or install a lock, with uv or else pip.

Theory of operation. A requirement here is a name with versions, extras and markers, never an option, a path or
a URL: where packages come from is the operator's choice (indexes, find-links, certificates arrive in the
tool's environment), and the tool runs in a VM that reaches the indexes and public hosts on their ports. Both steps use the interpreter that will import
the packages; wheels only, unless source distributions are allowed. A tool's output is passed on to fd 1 as
it comes, and its end is kept for the failure. While a tool runs the size of its target is looked at every second.

Locking and installing are done in different containers. A lock is text that the host reads and keeps; a hostile package's
metadata may have had its way with the container that resolved it, but what is installed elsewhere from that text is checked
against the hashes in it. So an environment, which is named by its lock, holds what the lock says or is not there.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfaas.runtime import tree

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[A-Za-z0-9._,\s-]*\])?\s*[^@/\\]*")
_HASH = re.compile(r"\s--hash=[a-z0-9]+:[0-9a-f]+")
_UNREACHABLE = re.compile(
    r"(?i)error sending request|dns error|connection (refused|reset|aborted|broken|error)|newconnectionerror|timed out|"
    r"temporary failure in name|status server error|\b50[234] (server error|bad gateway|service unavailable|gateway time)"
)
_ADDRESS = re.compile(r"https?://[^\s)'\"]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_PREFIX = re.compile(r"^(error|cause|hint|note|ERROR|WARNING|╰─▶|├─▶)[:\s]\s*")
_TAIL = 8192  # bytes
_LINES = 6  # of the tail, in the message
_MESSAGE = 1000  # characters
_LOCK_BYTES = 4 << 20  # of a lock; a thousand packages have less


class InstallFailed(Exception):
    """Requirements could not be installed; `code` is as in build.py."""

    def __init__(self, code: str, message: str, log_tail: str = "") -> None:
        """Keep what FAILED tells."""
        self.code, self.message, self.log_tail = code, message, log_tail
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Which tool installs: the path of uv's program, or of pip's or its package directory; and its environment."""

    env: Mapping[str, str]
    uv: str | None = None
    pip: str | None = None
    allow_sdist: bool = False

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Tool:
        """Read the `tool` of a LOAD."""
        return cls(
            env={str(key): str(value) for key, value in (given.get("env") or {}).items()},
            uv=given.get("uv"),
            pip=given.get("pip"),
            allow_sdist=bool(given.get("allow_sdist")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What is looked at while a tool runs; `told` hears each second how many packages are there."""

    target: str
    most_bytes: int
    most_files: int
    seconds: float
    told: Callable[[int], None] = lambda _packages: None


def lock(requirements: Sequence[str], tool: Tool, seconds: float) -> str:
    """Resolve requirements to a lock: a pin a line, with the hashes of its files. Raises InstallFailed."""
    scratch = _scratch()
    watch = Watch(target=scratch, most_bytes=_LOCK_BYTES * 2, most_files=100, seconds=seconds)
    wanted, locked = os.path.join(scratch, "requirements.in"), os.path.join(scratch, "requirements.txt")
    _write(wanted, "\n".join(checked(requirements)) + "\n")
    _either(tool, _uv_lock, _pip_lock)(tool, wanted, locked, watch)
    text = _read(locked)
    if len(text) > _LOCK_BYTES:
        raise InstallFailed("requirements_failed", f"the requirements resolve to more than can be kept: {len(pins(text))} packages")
    return text


def install(lock: str, tool: Tool, watch: Watch) -> None:
    """Install a lock's text into the watched target, checking the hashes in it. Raises InstallFailed."""
    locked = os.path.join(_scratch(), "requirements.txt")
    checked(lock.splitlines())
    _write(locked, lock)
    if pins(lock):
        _either(tool, _uv_install, _pip_install)(tool, locked, watch)
    _check_size(watch)


def pins(lock: str) -> list[str]:
    """Return a lock's pins without their hashes."""
    lines = (line.strip() for line in _HASH.sub("", lock.replace("\\\n", " ")).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _either(tool: Tool, uv: Callable[..., None], pip: Callable[..., None]) -> Callable[..., None]:
    if tool.uv:
        return uv
    if tool.pip:
        return pip
    raise InstallFailed("internal", "neither uv nor pip is there to install requirements")


def checked(requirements: Sequence[str]) -> list[str]:
    """Return requirement lines without comments; raises InstallFailed for options, paths and URLs."""
    kept: list[str] = []
    text = "\n".join(requirements).replace("\\\n", " ")
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        if not _REQUIREMENT.fullmatch(_HASH.sub("", " " + line).strip()):
            message = (
                f"{line[:200]!r} is no requirement that is taken: no options, paths or URLs; indexes are the server's"
            )
            raise InstallFailed("requirements_failed", message)
        kept.append(line)
    return kept


def _uv(tool: Tool) -> list[str]:
    wheels = [] if tool.allow_sdist else ["--only-binary", ":all:"]
    cache = [] if "UV_CACHE_DIR" in tool.env else ["--no-cache"]
    return ["--python", sys.executable, *wheels, *cache]


def _uv_lock(tool: Tool, wanted: str, locked: str, watch: Watch) -> None:
    how = ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--output-file", locked]
    _run([tool.uv or "uv", "pip", "compile", *how, *_uv(tool), wanted], tool, watch)


def _uv_install(tool: Tool, locked: str, watch: Watch) -> None:
    into = ["--no-deps", "--link-mode", "copy", "--target", watch.target]
    _run([tool.uv or "uv", "pip", "install", *into, *_uv(tool), "-r", locked], tool, watch)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(watch.target, ".lock"))  # uv's own, no part of the environment


def _pip(tool: Tool) -> tuple[list[str], list[str]]:
    """Return how pip is called, and the options of every call."""
    pip = str(tool.pip)
    command = [sys.executable, pip] if os.path.isdir(pip) else [pip]  # pip's own directory is a program, too
    wheels = [] if tool.allow_sdist else ["--only-binary", ":all:"]
    return command, ["--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off", *wheels]


def _pip_lock(tool: Tool, wanted: str, locked: str, watch: Watch) -> None:
    command, options = _pip(tool)
    found = locked + ".json"
    look = ["install", "--dry-run", "--ignore-installed", "--report", found]
    _run([*command, *look, *options, "-r", wanted], tool, watch)
    _write(locked, _lock_of(json.loads(_read(found))))


def _pip_install(tool: Tool, locked: str, watch: Watch) -> None:
    command, options = _pip(tool)
    into = ["install", "--no-deps", "--upgrade", "--no-compile", "--target", watch.target]
    _run([*command, *into, *options, "-r", locked], tool, watch)


def _lock_of(found: Mapping[str, Any]) -> str:
    lines = []
    for item in found.get("install", ()):
        hashes = item.get("download_info", {}).get("archive_info", {}).get("hashes", {})
        pin = f"{item['metadata']['name']}=={item['metadata']['version']}"
        lines.append(pin + "".join(f" --hash={name}:{value}" for name, value in sorted(hashes.items())))
    return "".join(f"{line}\n" for line in sorted(lines))


def _run(command: Sequence[str], tool: Tool, watch: Watch) -> None:
    """Run a tool to its end, passing its output on; raises InstallFailed when it fails or outgrows a limit."""
    subprocess: Any = importlib.import_module("subprocess")  # late: it brings threads with it
    env = {"HOME": "/tmp", "TMPDIR": "/tmp", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **tool.env}  # noqa: S108
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, cwd="/"
        )
    except OSError as error:
        raise InstallFailed("internal", f"{command[0]} cannot be started: {error}") from None
    tail = b""
    try:
        tail = _follow(process, watch)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
    if process.returncode:
        raise failure_of(process.returncode, tail)


def _follow(process: Any, watch: Watch) -> bytes:
    tail = b""
    output = process.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLIN | select.POLLHUP)
    end, look = time.monotonic() + watch.seconds, time.monotonic() + 1.0
    while True:
        if poll.poll(1000):
            piece = os.read(output, 65536)
            if not piece:
                return tail
            os.write(1, piece)
            tail = (tail + piece)[-_TAIL:]
        now = time.monotonic()
        if now >= look:
            _check_size(watch)
            watch.told(sum(name.endswith(".dist-info") for name in os.listdir(watch.target)))
            look = time.monotonic() + 1.0
        if now >= end:
            raise InstallFailed("requirements_failed", f"installing took longer than {watch.seconds:g} s", _text(tail))


def _check_size(watch: Watch) -> None:
    size = tree.measure(watch.target)
    if size.bytes > watch.most_bytes:
        raise InstallFailed("too_large", f"the requirements take more than {_amount(watch.most_bytes)} when they are installed, the operator's environment_size")
    if size.files > watch.most_files:
        raise InstallFailed("too_large", f"the requirements have more than {watch.most_files} files when they are installed")


def _amount(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size} bytes"


def failure_of(returncode: int, tail: bytes) -> InstallFailed:
    """Say in a sentence why a tool failed: a disk, an index that is away (which may pass), or what was asked for."""
    text = _CREDENTIALS.sub("", _text(tail))
    message = _said(text) or f"the installer ended with status {returncode}"
    if "No space left" in text or "os error 28" in text:
        return InstallFailed("storage_full", "the disk is full", text)
    if _UNREACHABLE.search(text):
        where = _ADDRESS.search(text)
        return InstallFailed("index_unreachable", f"the package index cannot be reached: {where.group() if where else message}", text)
    return InstallFailed("requirements_failed", message, text)


def _said(text: str) -> str:
    """Return what a tool named as its error, without the marks before each line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = max((at for at, line in enumerate(lines) if line.lower().startswith("error:")), default=-_LINES)
    shown = " ".join(f": {_PREFIX.sub('', line)}" if line.startswith("cause:") else _PREFIX.sub("", line) for line in lines[first:][:_LINES])
    return shown.replace(" : ", ": ")[:_MESSAGE]


def _text(tail: bytes) -> str:
    return tail.decode("utf-8", "replace")


def _scratch() -> str:
    tempfile: Any = importlib.import_module("tempfile")
    made: str = tempfile.mkdtemp(prefix="requirements-")
    return made


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 -- pathlib is not imported in containers
        file.write(text)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 -- as above
        return file.read()
