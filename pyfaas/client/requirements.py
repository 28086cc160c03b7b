"""What a directory's own files say about its dependencies: the first of pylock.toml, uv.lock, requirements.txt, pyproject.toml."""

from __future__ import annotations

import importlib
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyfaas.client.errors import invalid

_HASH = re.compile(r"\s+--hash[= ]\S+")
_COMMENT = re.compile(r"(^|\s)#.*$")
_DEEPEST = 8


def found_beside(path: Path) -> list[str]:
    """Return the requirements of a directory, or of one file that lists them; raises InvalidRequest."""
    if path.is_dir():
        for name, read in _READERS.items():
            if (path / name).is_file() and (found := read(path / name)):
                return found
        return []
    if not path.is_file():
        raise invalid(f"{path}: no such file")
    return _READERS.get(path.name, _from_text)(path)


def read_text(path: Path) -> str:
    """Return a file's text; raises InvalidRequest naming one that is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(f"{path.name} is not UTF-8: {error.reason} at byte {error.start}") from None


def _from_text(path: Path, depth: int = 0) -> list[str]:
    if depth > _DEEPEST:
        raise invalid(f"{path}: files include each other deeper than {_DEEPEST}")
    lines = read_text(path).replace("\\\n", " ").splitlines()
    found: list[str] = []
    for line in lines:
        text = _HASH.sub("", _COMMENT.sub("", line)).strip()
        if text.startswith(("-r ", "--requirement ")):
            found += _from_text(path.parent / text.split(None, 1)[1].strip(), depth + 1)
        elif text.startswith("-"):
            raise invalid(f"{path.name}: {text!r} is an option", "indexes and the like are the operator's to set")
        elif text:
            found.append(text)
    return found


def _from_pylock(path: Path) -> list[str]:
    found = []
    for package in _toml(path).get("packages", []):
        if "version" not in package:
            raise invalid(f"{path.name}: {package.get('name')!r} has no version; only packages of an index are taken")
        marker = f" ; {package['marker']}" if package.get("marker") else ""
        found.append(f"{package['name']}=={package['version']}{marker}")
    return found


def _from_uv_lock(path: Path) -> list[str]:
    # Which packages of a uv.lock apply, and under which markers, is a graph walk that uv itself knows best.
    uv = importlib.import_module("uv").find_uv_bin()
    command = [uv, "export", "--frozen", "--no-hashes", "--no-emit-project", "--no-dev", "--no-header", "--quiet"]
    done = subprocess.run([*command, "--directory", path.parent], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise invalid(f"{path.name}: {(done.stderr.strip().splitlines() or ['uv export failed'])[-1]}")
    lines = [_COMMENT.sub("", line).strip() for line in done.stdout.splitlines()]
    return [line for line in lines if line]


def _from_pyproject(path: Path) -> list[str]:
    return [str(text) for text in _toml(path).get("project", {}).get("dependencies", [])]


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except ValueError as error:
        raise invalid(f"{path.name}: {error}") from None


_READERS: dict[str, Callable[[Path], list[str]]] = {
    "pylock.toml": _from_pylock,
    "uv.lock": _from_uv_lock,
    "requirements.txt": _from_text,
    "pyproject.toml": _from_pyproject,
}
