"""Requirements: lock them, then install the lock, with uv or else pip.

Theory of operation. A requirement here is a name with versions, extras and markers, never an option, a path or
a URL: where packages come from is the operator's choice (indexes, find-links, certificates arrive in the
tool's environment), and the tool runs with the host's network. Both steps use the interpreter that will import
the packages; wheels only, unless source distributions are allowed. A tool's output is passed on to fd 1 as
it comes, and its end is kept for the failure. While a tool runs the size of its target is looked at every second.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfaas.runtime import tree

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[A-Za-z0-9._,\s-]*\])?\s*[^@/\\]*")
_HASH = re.compile(r"\s--hash=[a-z0-9]+:[0-9a-f]+")
_PASSING = re.compile(
    r"(?i)connection|timed out|dns error|error sending request|temporary failure|50[234]|failed to fetch"
)
_TAIL = 8192  # bytes
_LINES = 4  # of the tail, in the message


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


@dataclass(frozen=True, slots=True)
class Watch:
    """What is looked at while a tool runs."""

    target: str
    most_bytes: int
    most_files: int
    seconds: float


def install(requirements: Sequence[str], target: str, tool: Tool, watch: Watch) -> str:
    """Lock and install requirements into `target`; returns the lock's text. Raises InstallFailed."""
    lines = checked(requirements)
    if not lines:
        return ""
    scratch = _scratch()
    wanted, locked = os.path.join(scratch, "requirements.in"), os.path.join(scratch, "requirements.txt")
    _write(wanted, "\n".join(lines) + "\n")
    if tool.uv:
        lock = _uv(tool, wanted, locked, target, watch)
    elif tool.pip:
        lock = _pip(tool, wanted, locked, target, watch)
    else:
        raise InstallFailed("internal", "neither uv nor pip is there to install requirements")
    _check_size(watch)
    return lock


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


def without_hashes(lock: str) -> str:
    """Shorten a lock's text to its pins."""
    return "\n".join(line for line in _HASH.sub("", lock.replace("\\\n", " ")).splitlines() if line.strip())


def _uv(tool: Tool, wanted: str, locked: str, target: str, watch: Watch) -> str:
    python = ["--python", sys.executable]
    wheels = [] if tool.allow_sdist else ["--only-binary", ":all:"]
    cache = [] if "UV_CACHE_DIR" in tool.env else ["--no-cache"]
    compile_ = [
        "pip",
        "compile",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--quiet",
        "--output-file",
        locked,
    ]
    _run([tool.uv or "uv", *compile_, *python, *wheels, *cache, wanted], tool, watch)
    into = ["pip", "install", "--no-deps", "--link-mode", "copy", "--target", target]
    _run([tool.uv or "uv", *into, *python, *wheels, *cache, "-r", locked], tool, watch)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(target, ".lock"))  # uv's own, no part of the environment
    return _read(locked)


def _pip(tool: Tool, wanted: str, locked: str, target: str, watch: Watch) -> str:
    pip = str(tool.pip)
    command = [sys.executable, pip] if os.path.isdir(pip) else [pip]  # pip's own directory is a program, too
    wheels = [] if tool.allow_sdist else ["--only-binary", ":all:"]
    quiet = ["--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off"]
    found = locked + ".json"
    look = ["install", "--dry-run", "--ignore-installed", "--report", found]
    _run([*command, *look, *quiet, *wheels, "-r", wanted], tool, watch)
    _write(locked, _lock_of(json.loads(_read(found))))
    into = ["install", "--no-deps", "--upgrade", "--no-compile", "--target", target]
    _run([*command, *into, *quiet, *wheels, "-r", locked], tool, watch)
    return _read(locked)


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
        raise _failure(process.returncode, tail)


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
            look = time.monotonic() + 1.0
        if now >= end:
            raise InstallFailed("requirements_failed", f"installing took longer than {watch.seconds:g} s", _text(tail))


def _check_size(watch: Watch) -> None:
    size = tree.measure(watch.target)
    if size.bytes > watch.most_bytes or size.files > watch.most_files:
        limit = f"{watch.most_bytes} bytes in {watch.most_files} files"
        message = f"the requirements have {size.bytes} bytes in {size.files} files; at most {limit} are installed"
        raise InstallFailed("too_large", message)


def _failure(returncode: int, tail: bytes) -> InstallFailed:
    text = _text(tail)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    message = " ".join(lines[-_LINES:]) or f"the installer ended with status {returncode}"
    if "No space left" in text:
        return InstallFailed("storage_full", message, text)
    return InstallFailed("index_unreachable" if _PASSING.search(text) else "requirements_failed", message, text)


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
