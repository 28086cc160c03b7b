"""From a path to what is published: a deterministic zip and the configuration found beside the code.

A directory is walked in sorted order; what `.pyfaasignore` names and what never belongs to a bundle is left out;
symbolic links are refused, because their target may lie outside. Times are fixed, so that equal content is an equal zip.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyfaas.client.errors import from_refusal, invalid
from pyfaas.client.requirements import found_beside, read_text
from pyfaas.errors import PyfaasError
from pyfaas.manifest import read_toml
from pyfaas.names import check_name

LEFT_OUT = frozenset({".git", ".venv", "venv", "__pycache__", "node_modules", ".env"})
IGNORE_FILE = ".pyfaasignore"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can name
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_SPECIAL = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What `deploy` sends: the function's name, pyfaas.toml's keys, and a zip."""

    name: str
    config: Mapping[str, Any]
    bundle: bytes


def pack(
    path: Path,
    *,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    requirements: Path | None = None,
    ignore: Sequence[str] = (),
) -> Package:
    """Read a directory, a Python file or a zip into what is published.

    `overrides` win over what the code's own configuration says; their `env` is merged into it. `ignore` are lines that stand
    before a .pyfaasignore's. Raises InvalidRequest.
    """
    if not path.exists():
        raise invalid(f"{path}: no such file or directory")
    try:
        config, bundle = _read(path, ignore)
        if requirements is not None:
            config["requirements"] = found_beside(requirements)
        given = {key: value for key, value in (overrides or {}).items() if value is not None}
        if "env" in given:
            given["env"] = _merged(config.get("env", {}), given["env"])
        config.update(given)
        chosen = check_name(str(name or config.get("name") or _derived_name(path.resolve())))
    except PyfaasError as error:
        raise from_refusal(error) from None
    except OSError as error:
        raise invalid(f"{error.filename or path}: {error.strerror}") from None
    return Package(name=chosen, config={**config, "name": chosen}, bundle=bundle)


def _merged(env: Any, more: Mapping[str, str]) -> Any:
    # What is no table is sent as it is: the server says what is wrong with it.
    return {**env, **more} if isinstance(env, Mapping) else env


def _derived_name(path: Path) -> str:
    return _NOT_IN_A_NAME.sub("-", path.stem if path.is_file() else path.name)


def pack_files(files: Mapping[str, tuple[bytes, bool]]) -> bytes:
    """Return a zip of {path: (content, executable)} that depends on nothing else."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files, key=str.encode):
            content, executable = files[path]
            info = zipfile.ZipInfo(path, _EPOCH)
            info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            info.create_system = 3  # Unix: the mode is read
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return out.getvalue()


def _read(path: Path, ignore: Sequence[str]) -> tuple[dict[str, Any], bytes]:
    if path.is_dir():
        return _read_directory(path, ignore)
    if path.suffix == ".zip":
        return _read_zip(path)
    if path.suffix != ".py":
        raise invalid(f"{path} is neither a directory, a Python file nor a zip")
    content = path.read_bytes()
    config = dict(read_toml(content.decode("utf-8", "replace"), path.name))
    # A module must be importable by its name; any other stem travels as main.py.
    module = path.name if path.stem.isidentifier() else "main.py"
    return config, pack_files({module: (content, False)})


def _read_directory(root: Path, ignore: Sequence[str]) -> tuple[dict[str, Any], bytes]:
    files = {
        str(file.relative_to(root)): (file.read_bytes(), bool(file.stat().st_mode & stat.S_IXUSR))
        for file in walk(root, ignore)
    }
    if not files:
        raise invalid(f"{root} has no files to publish")
    config = _configuration(lambda name: read_text(root / name) if (root / name).is_file() else None)
    if "requirements" not in config and (listed := found_beside(root)):
        config["requirements"] = listed
    return config, pack_files(files)


def _read_zip(path: Path) -> tuple[dict[str, Any], bytes]:
    bundle = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            names = set(archive.namelist())
            config = _configuration(lambda name: archive.read(name).decode() if name in names else None)
            if "requirements" not in config and "requirements.txt" in names:
                lines = archive.read("requirements.txt").decode().splitlines()
                config["requirements"] = [
                    line.strip() for line in lines if line.strip() and not line.strip().startswith("#")
                ]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise invalid(f"{path} is not a readable zip: {error}") from None
    return config, bundle


def _configuration(read: Callable[[str], str | None]) -> dict[str, Any]:
    for name in ("pyfaas.toml", "pyproject.toml"):
        text = read(name)
        if text is not None and (keys := dict(read_toml(text, name))):
            return keys
    return {}


def walk(root: Path, ignore: Sequence[str] = ()) -> Iterator[Path]:
    """Yield the files that belong to a bundle, in order; raises InvalidRequest at a symbolic link or a special file."""
    yield from _walk(root, "", rules_of(root, ignore))


def rules_of(root: Path, ignore: Sequence[str] = ()) -> list[Rule]:
    """Return what `ignore` and a directory's .pyfaasignore say; raises InvalidRequest for a line that is no pattern."""
    file = root / IGNORE_FILE
    return read_rules("\n".join(ignore)) + (read_rules(read_text(file)) if file.is_file() else [])


def directories(root: Path, rules: list[Rule]) -> Iterator[Path]:
    """Yield a directory and those beneath it whose files may belong to a bundle; nothing is entered that does not."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        yield root / prefix
        with contextlib.suppress(FileNotFoundError), os.scandir(root / prefix) as entries:  # removed meanwhile
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            waiting += [f"{prefix}{name}/" for name in found if not is_left_out(f"{prefix}{name}", rules, is_directory=True)]


def belongs(path: str, rules: list[Rule]) -> bool:
    """Tell whether a file, by its path from the root, belongs to a bundle: neither it nor what it lies in is left out."""
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts) - 1)]
    return not (any(is_left_out(each, rules, is_directory=True) for each in above) or is_left_out(path, rules, is_directory=False))


def is_left_out(path: str, rules: list[Rule], *, is_directory: bool) -> bool:
    """Tell whether a path from the root is left out by itself, whatever it lies in."""
    return path.rpartition("/")[2] in LEFT_OUT or path == IGNORE_FILE or is_ignored(path, is_directory, rules)


def _walk(root: Path, prefix: str, rules: list[Rule]) -> Iterator[Path]:
    for entry in sorted(os.scandir(root / prefix), key=lambda each: each.name):
        path = prefix + entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_left_out(path, rules, is_directory=is_directory):
            continue
        if not _is_unicode(entry.name):
            raise invalid(f"{path!r} has a name that is not UTF-8", "rename it, or name what holds it in .pyfaasignore")
        if entry.is_symlink():
            raise invalid(f"{path} is a symbolic link", "replace it by what it points to, or name it in .pyfaasignore")
        if is_directory:
            yield from _walk(root, path + "/", rules)
        elif entry.is_file(follow_symlinks=False):
            yield root / path
        else:
            raise invalid(f"{path} is neither a file nor a directory", "name it in .pyfaasignore")


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of .pyfaasignore, which reads like .gitignore."""

    pattern: re.Pattern[str]
    only_directories: bool
    keeps: bool


def read_rules(text: str) -> list[Rule]:
    """Read the lines of a .pyfaasignore."""
    return [_rule(line.strip()) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def is_ignored(path: str, is_directory: bool, rules: list[Rule]) -> bool:  # noqa: FBT001 - a fact about the path
    """Tell whether the last rule that matches says so."""
    answer = False
    for rule in rules:
        if rule.pattern.fullmatch(path) and (is_directory or not rule.only_directories):
            answer = not rule.keeps
    return answer


def _rule(line: str) -> Rule:
    keeps = line.startswith("!")
    text = line[1:] if keeps else line
    only_directories = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", text.lstrip("/"))
    body = "".join(_SPECIAL.get(part) or _one_of(part) or re.escape(part) for part in parts)
    try:
        pattern = re.compile(body if anchored else "(?:.*/)?" + body)
    except re.error as error:
        raise invalid(f"{IGNORE_FILE}: {line!r} is not a pattern: {error}") from None
    return Rule(pattern=pattern, only_directories=only_directories, keeps=keeps)


def _one_of(part: str) -> str:
    """Return the expression for a set of characters such as `[a-z]` or `[!0-9]`; nothing for what is none."""
    if not (part.startswith("[") and part.endswith("]")):
        return ""
    inner = part[1:-1].replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^")
    return f"[^/{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
