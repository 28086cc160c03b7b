"""What an API's owner writes: api.toml's keys, checked once and turned into a definition.

Two tables say which keys there are and how each is read, as in `manifest`; nothing else knows a key. The terms of lending stand
beside the operations and hold for all of them; `decisions/terms` reads those, which are a grant's. A definition names functions and
accounts as its owner calls them; whoever publishes it finds their ids.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyfaas.errors import Code, PyfaasError
from pyfaas.manifest import MAX_TIMEOUT_MS
from pyfaas.names import check_name, parse_duration, split_target
from pyfaas.sharing import Access

TERMS = ("network", "logs", "reuse", "max_concurrency", "rate", "per_day", "secrets", "payer")
MAX_OPERATIONS, MAX_BYTES = 100, 256 << 10
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
RESERVED_NAMES = ("approvals", "versions")  # what follows an API's name in a path of its owner's
DOCUMENT = "openapi.json"
SEGMENT_FORM, PARAMETER_FORM = "[A-Za-z0-9._~-]{1,64}", "[A-Za-z_][A-Za-z0-9_]{0,63}"
VERSION_FORM = "[A-Za-z0-9._-]{1,32}"
_SEGMENT = re.compile(rf"(?P<fixed>{SEGMENT_FORM})|\{{(?P<name>{PARAMETER_FORM})\}}")
_VERSION = re.compile(VERSION_FORM)
_MAX_SEGMENTS, _MAX_ACCOUNTS, _MAX_TEXT = 16, 1000, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationOrder:
    """An operation as written: `function` is a name of the owner's, `qualifier` what followed its colon."""

    name: str
    method: str
    path: str
    function: str
    qualifier: str | None = None
    input: Mapping[str, Any] | None = None
    output: Mapping[str, Any] | None = None
    timeout_ms: int | None = None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """An API version as written; `terms` are for `decisions.terms.parse_terms`."""

    name: str | None
    version: str
    access: Access = Access.OPEN
    accounts: tuple[str, ...] = ()
    is_public: bool = True
    title: str = ""
    description: str = ""
    terms: Mapping[str, Any] = field(default_factory=dict)
    operations: tuple[OperationOrder, ...] = ()


def parse(table: Mapping[str, Any]) -> Definition:
    """Read api.toml's keys, `input` and `output` being JSON Schemas.

    Raises unknown_key with a suggestion; invalid_name; invalid_request naming the key, what was found and what is expected.
    """
    _refuse_large(table)
    _known(table, (*_KEYS, *TERMS, "operations"), "")
    for key in ("version", "operations"):
        if key not in table:
            raise PyfaasError(Code.INVALID_REQUEST, f"{key} is missing", hint=_EXAMPLE, evidence={"key": key})
    given = {_FIELDS.get(key, key): read(table[key], key) for key, read in _KEYS.items() if key in table}
    terms = {key: table[key] for key in TERMS if key in table}
    made = Definition(**{"name": None, **given}, terms=terms, operations=_operations(table["operations"]))
    if made.accounts and made.access is not Access.LISTED:
        raise _wrong("accounts", list(made.accounts), "none", 'accounts are for access = "listed"')
    return made


def load(path: str | Path) -> dict[str, Any]:
    """Read an api.toml, with the files that `input` and `output` name put in: the body of a publication.

    The files are looked for beside it. Raises invalid_request naming the file, or the key, that cannot be read.
    """
    place = Path(path)
    try:
        table = tomllib.loads(_text_of(place))
    except tomllib.TOMLDecodeError as error:
        raise PyfaasError(Code.INVALID_REQUEST, f"{place}: {error}", hint="it must be TOML") from error
    operations = table.get("operations")
    for i, operation in enumerate(operations if isinstance(operations, list) else ()):
        for key in ("input", "output") if isinstance(operation, dict) else ():
            if isinstance(operation.get(key), str):
                operation[key] = _schema_of(place.parent / operation[key], f"operations[{i}].{key}")
    return table


def check_version(text: str, key: str = "version") -> str:
    """Return `text` when it can be an API's version; raises invalid_name."""
    if not _VERSION.fullmatch(text) or text in (".", ".."):
        raise PyfaasError(
            Code.INVALID_NAME, f"{key}: {text[:80]!r} is not a version of an API", hint="1 to 32 of letters, digits, '.', '_' and '-'"
        )
    return text


def check_api_name(text: str) -> str:
    """Return `text` when it can name an API; raises invalid_name."""
    check_name(text, "api")
    if text in RESERVED_NAMES:
        raise PyfaasError(Code.INVALID_NAME, f"{text!r} already means something else in an API's path", hint="choose another name")
    return text


def segments(path: str) -> tuple[str, ...]:
    """Return the segments of an operation's path, parameters in their braces."""
    return tuple(path[1:].split("/"))


def parameters(path: str) -> tuple[str, ...]:
    """Return the names of the parameters in an operation's path, in order."""
    return tuple(part[1:-1] for part in segments(path) if part.startswith("{"))


def normal(path: str) -> str:
    """Return a path with its parameters unnamed: two with the same normal form answer the same requests."""
    return "/" + "/".join("{}" if part.startswith("{") else part for part in segments(path))


# ---- reading


def _operations(value: Any) -> tuple[OperationOrder, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_OPERATIONS:
        count = len(value) if isinstance(value, list) else value
        raise _wrong("operations", count, f"1 to {MAX_OPERATIONS} tables [[operations]]")
    made = tuple(_operation(item, f"operations[{i}].") for i, item in enumerate(value))
    _unique((operation.name for operation in made), "the name")
    _unique((f"{operation.method} {normal(operation.path)}" for operation in made), "the method and path")
    return made


def _unique(words: Iterable[str], what: str) -> None:
    seen: dict[str, int] = {}
    for i, word in enumerate(words):
        if word in seen:
            message = f"operations[{i}] has {what} of operations[{seen[word]}]: {word}"
            raise PyfaasError(Code.INVALID_REQUEST, message, hint="each operation has its own", evidence={"key": f"operations[{i}]"})
        seen[word] = i


def _operation(value: Any, place: str) -> OperationOrder:
    if not isinstance(value, Mapping):
        raise _wrong(place[:-1], value, "a table")
    _known(value, tuple(_OPERATION), place)
    for key in ("name", "path", "function"):
        if key not in value:
            raise PyfaasError(Code.INVALID_REQUEST, f"{place}{key} is missing", hint=_EXAMPLE, evidence={"key": place + key})
    read = {key: reader(value[key], place + key) for key, reader in _OPERATION.items() if key in value}
    function, qualifier = read.pop("function")
    if "timeout" in read:
        read["timeout_ms"] = read.pop("timeout")
    return OperationOrder(**{"method": "POST", **read}, function=function, qualifier=qualifier)


def _path(value: Any, key: str) -> str:
    text = _text(value, key)
    parts = [_SEGMENT.fullmatch(part) for part in segments(text)] if text.startswith("/") else []
    found = [part for part in parts if part is not None]
    if not parts or len(found) < len(parts) or len(parts) > _MAX_SEGMENTS or any(part["fixed"] in (".", "..") for part in found):
        hint = f"at most {_MAX_SEGMENTS} segments of letters, digits, '.', '_', '~', '-', or one {{parameter}} each; no slash at the end"
        raise _wrong(key, value, "a path such as /summaries/{id}", hint)
    if text == f"/{DOCUMENT}":
        raise _wrong(key, value, f"another path: /{DOCUMENT} is the API's own document")
    names = parameters(text)
    if len(set(names)) < len(names):
        raise _wrong(key, value, "a path whose parameters have different names")
    return text


def _schema(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(key, value, "a JSON Schema, an object", "the CLI puts a file's content in its place")
    return dict(value)


def _function(value: Any, key: str) -> tuple[str, str | None]:
    text = _text(value, key)
    if "/" in text:
        raise _wrong(key, value, "a function of your own, NAME or NAME:QUALIFIER", "an API is made of its owner's functions")
    return split_target(text)


def _accounts(value: Any, key: str) -> tuple[str, ...]:
    names = _texts(value, key)
    if len(names) > _MAX_ACCOUNTS:
        raise _wrong(key, len(names), f"at most {_MAX_ACCOUNTS} accounts")
    return tuple(sorted({check_name(name, "account") for name in names}))


def _timeout(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or len(str(value)) > 32:
        raise _wrong(key, value, "a duration such as 500ms, 30s or 5m")
    millis = parse_duration(value, key)
    if not 1 <= millis <= MAX_TIMEOUT_MS:
        raise _wrong(key, value, f"1ms to {MAX_TIMEOUT_MS // 1000}s")
    return millis


def _one_of(*words: str) -> Callable[[Any, str], str]:
    def read(value: Any, key: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise _wrong(key, value, " or ".join(words))
        return value

    return read


def _flag(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or "\0" in value:
        raise _wrong(key, value, f"text of at most {_MAX_TEXT} characters")
    return value


def _texts(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(key, value, "a list of strings")
    return tuple(_text(text, f"{key}[{i}]") for i, text in enumerate(value))


def _refuse_large(table: Mapping[str, Any]) -> None:
    try:
        size = len(json.dumps(table, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:  # a date of TOML, a lone surrogate, a nest
        raise PyfaasError(Code.INVALID_REQUEST, "a definition is made of what JSON has: no dates, no deep nests") from error
    if size > MAX_BYTES:
        evidence = {"limit": "definition", "value": MAX_BYTES, "observed": size, "unit": "bytes"}
        message = f"the definition has {size} bytes; {MAX_BYTES} are allowed"
        raise PyfaasError(Code.PAYLOAD_TOO_LARGE, message, hint="make two APIs of it", evidence=evidence)


def _known(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:64], sorted(known), 1)
            hint = f"did you mean {place}{near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise PyfaasError(Code.UNKNOWN_KEY, f"unknown key {place + str(key)[:64]!r}", hint=hint, evidence={"key": place + str(key)[:64]})


def _wrong(key: str, value: object, expected: str, hint: str = "") -> PyfaasError:
    text = repr(value)
    shown = text if len(text) <= 80 else text[:77] + "…"
    return PyfaasError(Code.INVALID_REQUEST, f"{key}: expected {expected}, not {shown}", hint=hint, evidence={"key": key})


def _text_of(place: Path) -> str:
    try:
        return place.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PyfaasError(Code.INVALID_REQUEST, f"{place} cannot be read: {error}") from error


def _schema_of(place: Path, key: str) -> Any:
    try:
        return json.loads(_text_of(place))
    except (ValueError, RecursionError) as error:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key}: {place} is no JSON: {error}", hint="input and output name files with a JSON Schema") from error


_EXAMPLE = 'an api.toml has name, version, and tables [[operations]] with name, path and function = "NAME"'
_Reader = Callable[[Any, str], Any]
_FIELDS = {"directory": "is_public"}
_KEYS: dict[str, _Reader] = {
    "name": lambda value, key: check_api_name(_text(value, key)),
    "version": lambda value, key: check_version(_text(value, key), key),
    "access": lambda value, key: Access(_one_of(*Access)(value, key)),
    "accounts": _accounts,
    "directory": _flag,
    "title": _text,
    "description": _text,
}
_OPERATION: dict[str, _Reader] = {
    "name": lambda value, key: check_name(_text(value, key), "operation"),
    "method": _one_of(*METHODS),
    "path": _path,
    "function": _function,
    "input": _schema,
    "output": _schema,
    "timeout": _timeout,
    "description": _text,
}
