"""What a function's author configures: pyfaas.toml's keys, checked once and turned into a Revision and Settings.

Two tables say which keys there are, where each goes and how it is read; nothing else knows a key. A key that is not
there is an error with a suggestion, a value of another type names the key and what was expected.

The code id is the sha256 over the canonical form of {bundle, revision}: JSON with sorted keys, every field
written out, durations and sizes as numbers, so "30s" and 30 are the same revision and the order of keys does not matter.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfaas import network
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Retries, Revision, Settings, Shape, StalePolicy
from pyfaas.names import check_name, parse_duration, parse_size

try:
    from packaging.requirements import InvalidRequirement, Requirement
except ImportError:  # pip and uv bring their own copy; a server without this one checks less exactly
    Requirement = None  # type: ignore[assignment,misc]

MIB = 1 << 20
SECOND_MS, MAX_TIMEOUT_MS = 1000, 900_000
MIN_MEMORY = 64 * MIB
ENV_BYTES = 4096
POLICY_KEYS = ("stale", "max_stale_time", "max_stale_requests", "stale_percent", "min_version", "max_wait")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?:@\s*(?P<url>\S+)|\(?[<>=!~][^;@]*\)?)?\s*(?:;.*)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the server allows; None for `memory_bytes` leaves the upper end to the server (the CLI does not know it)."""

    memory_bytes: int | None = None
    env_bytes: int = ENV_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A configuration as read: what belongs to the version, what to the function, and the name when it says one."""

    revision: Revision
    settings: Settings
    name: str | None


def parse(config: Mapping[str, Any], *, bounds: Bounds = Bounds(), pickled: bool = False) -> Parsed:  # noqa: B008 - frozen
    """Read a configuration; `pickled` says that the bundle holds function.pkl.

    Raises unknown_key; invalid_name; invalid_request naming the key, what was found and what is expected.
    """
    _known(config, {"name", *_REVISION, *_SETTINGS}, "")
    name = check_name(_text(config["name"], "name", bounds)) if "name" in config else None
    revision = {
        _FIELDS.get(key, key): read(config[key], key, bounds) for key, read in _REVISION.items() if key in config
    }
    settings = {
        _FIELDS.get(key, key): read(config[key], key, bounds) for key, read in _SETTINGS.items() if key in config
    }
    return Parsed(revision=Revision(**revision, pickled=pickled), settings=Settings(**settings), name=name)


def parse_policy(given: Mapping[str, Any], old: StalePolicy, keys: Sequence[str] = POLICY_KEYS) -> StalePolicy:
    """Return a staleness policy as changed: a key that is absent stays as it was, None removes it.

    Raises unknown_key for one that is not among `keys`, invalid_request naming the key.
    """
    _known(given, set(keys), "")
    read = {key: None if value is None else _SETTINGS[key](value, key, Bounds()) for key, value in given.items()}
    return dataclasses.replace(old, **{_FIELDS.get(key, key): value for key, value in read.items()})


def policy_keys(policy: StalePolicy) -> dict[str, Any]:
    """Return what a policy says, in the form in which it is given: durations as text."""
    values = {key: getattr(policy, _FIELDS.get(key, key)) for key in POLICY_KEYS}
    return {key: _duration_text(value) if key in _FIELDS else value for key, value in values.items() if value is not None}


def _duration_text(milliseconds: int) -> str:
    return f"{milliseconds}ms" if milliseconds % SECOND_MS else f"{milliseconds // SECOND_MS}s"


def canonical(revision: Revision) -> bytes:
    """Return the one text that stands for a revision's configuration."""
    fields = dataclasses.asdict(revision)
    fields["env"] = dict(revision.env)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def code_id(bundle: str, revision: Revision) -> str:
    """Return the unique name of exactly this code with this configuration: `sha256-` and 64 hexadecimal digits."""
    text = b'{"bundle":%s,"revision":%s}' % (json.dumps(bundle).encode(), canonical(revision))
    return "sha256-" + hashlib.sha256(text).hexdigest()


def read_toml(text: str, place: str = "pyfaas.toml") -> Mapping[str, Any]:
    """Return the keys that a text configures: a pyfaas.toml, a pyproject.toml, or a Python file with a PEP 723 block.

    Of a pyproject.toml it is `[tool.pyfaas]`; of a script that too, with `dependencies` as requirements unless it has
    some itself; a Python file without a block configures nothing. Raises invalid_request naming `place`.
    """
    if place.endswith((".py", ".pyw")):
        block = _script_block(text, place)
        table = _load_toml(block, place)
        dependencies = {"requirements": table["dependencies"]} if "dependencies" in table else {}
        return dependencies | _tool_table(table, place)
    table = _load_toml(text, place)
    is_project = place.endswith("pyproject.toml") or table.keys() & {"tool", "project", "build-system"}
    return _tool_table(table, place) if is_project else table


def requires_python(text: str, place: str) -> str | None:
    """Return what a Python file's PEP 723 block, or a pyproject.toml, says about Python's version; None when nothing."""
    is_script = place.endswith((".py", ".pyw"))
    table = _load_toml(_script_block(text, place) if is_script else text, place)
    project = table if is_script else table.get("project", {})
    value = project.get("requires-python") if isinstance(project, dict) else None
    return None if value is None else _text(value, "requires-python", Bounds())


def _wrong(key: str, value: object, expected: str, hint: str = "") -> PyfaasError:
    message = f"{key}: expected {expected}, not {_shown(value)}"
    return PyfaasError(Code.INVALID_REQUEST, message, hint=hint, evidence={"key": key})


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004 - a line of a terminal


def _known(table: Mapping[str, Any], known: set[str], place: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:64], sorted(known), 1)
            hint = f"did you mean {place}{near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise PyfaasError(
                Code.UNKNOWN_KEY, f"unknown key {place + str(key)[:64]!r}", hint=hint, evidence={"key": place + key}
            )


def _text(value: Any, key: str, _: Bounds) -> str:
    if not isinstance(value, str):
        raise _wrong(key, value, "a string")
    if "\0" in value or not _is_unicode(value):
        raise _wrong(key, value, "text without NUL and lone surrogates")
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flag(value: Any, key: str, _: Bounds) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _whole(low: int, high: int) -> Callable[[Any, str, Bounds], int]:
    def read(value: Any, key: str, _: Bounds) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong(key, value, f"a whole number from {low} to {high}")
        return value

    return read


def _duration(low_ms: int, high_ms: int) -> Callable[[Any, str, Bounds], int]:
    def read(value: Any, key: str, _: Bounds) -> int:
        milliseconds = parse_duration(_quantity(value, key, "a duration such as 500ms, 30s, 5m or 1h"), key)
        if not low_ms <= milliseconds <= high_ms:
            raise _outside(key, value, f"{low_ms / 1000:g}s", f"{high_ms / 1000:g}s")
        return milliseconds

    return read


def _memory(value: Any, key: str, bounds: Bounds) -> int:
    quantity = _quantity(value, key, "a size such as 256M or 1G")
    size = parse_size(str(quantity), key)  # 1.5 has no reading as a size, and is refused there
    if size < MIN_MEMORY or (bounds.memory_bytes is not None and size > bounds.memory_bytes):
        high = "the host's memory" if bounds.memory_bytes is None else f"{bounds.memory_bytes // MIB}M"
        raise _outside(key, value, f"{MIN_MEMORY // MIB}M", high)
    return size


def _quantity(value: Any, key: str, expected: str) -> str | int | float:
    # The length bounds what int() and float() are asked to read; no sensible quantity comes near it.
    if isinstance(value, bool) or not isinstance(value, str | int | float) or len(_shown(value)) > 32:  # noqa: PLR2004
        raise _wrong(key, value, expected)
    return value


def _outside(key: str, value: object, low: str, high: str) -> PyfaasError:
    message = f"{key}: {_shown(value)} is outside {low} to {high}"
    return PyfaasError(
        Code.INVALID_REQUEST, message, hint="see pyfaas limits", evidence={"key": key, "min": low, "max": high}
    )


def _handler(value: Any, key: str, bounds: Bounds) -> str:
    text = _text(value, key, bounds)
    module, colon, attribute = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise _wrong(key, value, "module:attribute, such as main:handler", _meant(text))
    return text


def _meant(text: str) -> str:
    """Return the hint for who writes `module.attribute`, as AWS Lambda does."""
    module, dot, attribute = text.removesuffix(".py").replace("/", ".").rpartition(".")
    parts = (*module.split("."), attribute)
    return f"write {module}:{attribute}" if dot and all(part.isidentifier() for part in parts) else ""


def _one_of(*words: str) -> Callable[[Any, str, Bounds], str]:
    def read(value: Any, key: str, _: Bounds) -> str:
        if not isinstance(value, str) or value not in words:
            raise _wrong(key, value, " or ".join(words))
        return value

    return read


def _shape(value: Any, key: str, bounds: Bounds) -> Shape:
    return Shape(_one_of(*Shape)(value, key, bounds))


def _texts(value: Any, key: str, bounds: Bounds) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(key, value, "a list of strings")
    return tuple(_text(item, f"{key}[{i}]", bounds) for i, item in enumerate(value))


def _requirements(value: Any, key: str, bounds: Bounds) -> tuple[str, ...]:
    return tuple(check_requirement(text, f"{key}[{i}]") for i, text in enumerate(_texts(value, key, bounds)))


def check_requirement(text: str, key: str) -> str:
    """Return `text` when it is one PEP 508 requirement from an index or an https URL; raises invalid_request naming `key`.

    Options (-r, --index-url) are the operator's, and a path would name a file of the server's.
    """
    text = text.strip()
    expected = "a requirement such as pillow==11.*"
    if text.startswith("-"):
        raise _wrong(key, text, f"{expected}; options are the operator's to set")
    if "\n" in text or text.startswith((".", "/", "~")) or "://" in text.partition("@")[0]:
        raise _wrong(key, text, f"{expected}, not a path or a bare URL")
    url = _requirement_url(text, key, expected)
    if url is not None and not url.startswith("https://"):
        raise _wrong(key, text, f"{expected}, or name @ https://…")
    return text


def _requirement_url(text: str, key: str, expected: str) -> str | None:
    if Requirement is None:
        match = _REQUIREMENT.fullmatch(text)
        if match is None:
            raise _wrong(key, text, expected)
        return match["url"]
    try:
        return Requirement(text).url
    except InvalidRequirement as error:
        raise _wrong(key, text, f"{expected} (PEP 508)") from error


def _network(value: Any, key: str, bounds: Bounds) -> tuple[str, ...]:
    return network.canonical(_texts(value, key, bounds), key)


def _env(value: Any, key: str, bounds: Bounds) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise _wrong(key, value, "a table of strings")
    for name in value:
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name) or name.startswith("PYFAAS_"):
            raise _wrong(key, name, "names of letters, digits and '_' that do not start with a digit or with PYFAAS_")
    pairs = tuple(sorted((name, _text(text, f"{key}.{name}", bounds)) for name, text in value.items()))
    size = sum(len(f"{name}={text}".encode()) for name, text in pairs)
    if size > bounds.env_bytes:
        message = f"{key}: {size} bytes are more than the {bounds.env_bytes} that a version's environment may have"
        evidence = {"limit": "env_bytes", "value": size, "max": bounds.env_bytes, "unit": "bytes"}
        hint = "the operator raises it with env_bytes; put larger values into the bundle"
        raise PyfaasError(Code.INVALID_REQUEST, message, hint=hint, evidence=evidence)
    return pairs


def _factor(value: Any, key: str, _: Bounds) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 100:  # noqa: PLR2004
        raise _wrong(key, value, "a number from 1 to 100")
    return float(value)


def _retries(value: Any, key: str, bounds: Bounds) -> Retries:
    if not isinstance(value, Mapping):
        raise _wrong(key, value, "a table, such as { max = 2, initial = '1s', factor = 2 }")
    _known(value, set(_RETRIES), f"{key}.")
    read = {
        _FIELDS.get(name, name): reader(value[name], f"{key}.{name}", bounds)
        for name, reader in _RETRIES.items()
        if name in value
    }
    return Retries(**read)


_Reader = Callable[[Any, str, Bounds], Any]
_TIMEOUT = _duration(SECOND_MS, MAX_TIMEOUT_MS)
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
# The keys whose field has another name: the unit is in the field's, not in the key's.
_FIELDS = {
    "memory": "memory_bytes",
    "timeout": "timeout_ms",
    "init_timeout": "init_timeout_ms",
    "max_stale_time": "max_stale_time_ms",
    "max_wait": "max_wait_ms",
    "initial": "initial_ms",
    "max_delay": "max_delay_ms",
}
_REVISION: dict[str, _Reader] = {
    "handler": _handler,
    "shape": _shape,
    "memory": _memory,
    "timeout": _TIMEOUT,
    "init_timeout": _TIMEOUT,
    "requirements": _requirements,
    "env": _env,
    "network": _network,
}
_SETTINGS: dict[str, _Reader] = {
    "concurrency": _whole(1, 10_000),
    "public": _flag,
    "idempotent": _flag,
    "stale": _one_of("allow", "forbid"),
    "max_stale_time": _duration(0, 30 * _DAY_MS),
    "max_stale_requests": _whole(0, 1_000_000_000),
    "stale_percent": _whole(0, 100),
    "min_version": _whole(1, 1_000_000_000),
    "max_wait": _duration(0, MAX_TIMEOUT_MS),
    "retries": _retries,
}
_RETRIES: dict[str, _Reader] = {
    "max": _whole(0, 100),
    "initial": _duration(0, _HOUR_MS),
    "factor": _factor,
    "max_delay": _duration(0, _DAY_MS),
}


def _load_toml(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PyfaasError(Code.INVALID_REQUEST, f"{place}: {error}", hint="it must be TOML") from error


def _tool_table(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    for key in ("tool", "pyfaas"):
        table = table.get(key, {})
        if not isinstance(table, Mapping):
            raise _wrong(f"{place}: {key}", table, "a table")
    return dict(table)


def _script_block(text: str, place: str) -> str:
    """Return the TOML of a Python file's `# /// script` block (PEP 723), or nothing; two of them are an error."""
    lines = text.splitlines()
    starts = [n for n, line in enumerate(lines) if line.rstrip() == "# /// script"]
    if not starts:
        return ""
    comment = list(itertools.takewhile(lambda line: line == "#" or line.startswith("# "), lines[starts[0] + 1 :]))
    ends = [n for n, line in enumerate(comment) if line.rstrip() == "# ///"]
    if not ends:
        hint = "end it with a line '# ///'"
        raise PyfaasError(Code.INVALID_REQUEST, f"{place}: the '# /// script' block has no end", hint=hint)
    if len(starts) > 1:
        raise PyfaasError(
            Code.INVALID_REQUEST, f"{place}: more than one '# /// script' block", hint="keep one (PEP 723)"
        )
    return "\n".join(line[2:] for line in comment[: ends[-1]])
