"""What an owner lends and what a caller binds to it: read once from JSON, and held against each other.

Two tables say which keys there are and how each is read. What a borrower is told never has a value that the owner locked.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyfaas.errors import Code, PyfaasError
from pyfaas.manifest import MAX_TIMEOUT_MS, MIN_MEMORY, SECOND_MS
from pyfaas.names import check_name, parse_duration, parse_size, split_target
from pyfaas.network import canonical, missing
from pyfaas.sharing import Payer, Placing, Terms

MAX_BYTES = 16 << 10  # of terms, or of an alias's parameters, as JSON
MAX_DEPTH = 32
MAX_KEY = 128  # characters of a parameter's name
_MAX_VERSION = 10**9
_INTEGER = 1 << 63
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a caller asks for with an account alias. `secrets` None leaves those that are kept as they are."""

    owner: str  # a name or an id
    name: str
    qualifier: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] | None = None
    memory_bytes: int | None = None
    timeout_ms: int | None = None
    network: tuple[str, ...] = ()
    placement: Placing = Placing.PAIR


def parse_terms(given: Mapping[str, Any]) -> Terms:
    """Read terms of lending; null is as good as nothing.

    Raises unknown_key; payload_too_large over 16 KiB; invalid_request naming the key, never a parameter's value.
    """
    check_keys(given, _TERMS)
    terms = Terms(**{key: _TERMS[key](value, key) for key, value in given.items() if value is not None})
    if locked := sorted(terms.lock.keys() & {*terms.require, *terms.allow}):
        hint = "a locked parameter is the owner's alone"
        raise _wrong(f"the parameter {locked[0]!r} cannot be locked and be given by the caller as well", hint, key="lock")
    check_size(given, "terms")
    return terms


def parse_order(given: Mapping[str, Any]) -> Order:
    """Read what an account alias is to be; null is as good as nothing.

    Raises unknown_key, invalid_name, payload_too_large, or invalid_request naming the key, never a value of a parameter or secret.
    """
    check_keys(given, {"target", *_ORDER})
    owner, slash, target = str(_text(given.get("target"), "target")).partition("/")
    if not slash:
        raise _wrong("target: expected OWNER/NAME or OWNER/NAME:VERSION", "your own functions have your account's name before the slash")
    name, qualifier = split_target(target)
    read = {_FIELDS.get(key, key): reader(given[key], key) for key, reader in _ORDER.items() if given.get(key) is not None}
    check_size(given.get("params") or {}, "params")
    return Order(owner=check_name(owner, "account"), name=name, qualifier=qualifier, **read)


def check_keys(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise unknown_key, with what may have been meant, for a key that is not among the known."""
    names = sorted(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key)[:64], names, 1)
            hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(names)
            raise PyfaasError(Code.UNKNOWN_KEY, f"unknown key {str(key)[:64]!r}", hint=hint)


def check_size(value: Any, key: str) -> None:
    """Raise payload_too_large for JSON that is longer than is kept."""
    size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MAX_BYTES:
        evidence = {"limit": key, "value": MAX_BYTES, "observed": size, "unit": "bytes"}
        raise PyfaasError(Code.PAYLOAD_TOO_LARGE, f"{key}: {size} bytes are more than the {MAX_BYTES} that are kept", evidence=evidence)


def declared(terms: Terms) -> frozenset[str]:
    """Return the parameters that terms name; with none of them any is taken."""
    return frozenset({*terms.lock, *terms.require, *terms.allow})


def check_params(params: Mapping[str, Any], terms: Terms, beneath: Iterable[Terms] = ()) -> None:
    """Raise invalid_request for stored parameters that a grant, or one further down (`beneath`), does not take; no value is told."""
    for each in (terms, *beneath):
        for key, value in params.items():
            if key in each.lock and not is_same(value, each.lock[key]):
                raise _wrong(f"the parameter {key!r} is set by the owner", "leave it out", key="params")
    names = declared(terms)
    if names and (further := sorted(params.keys() - names)):
        hint = "it takes " + ", ".join(sorted(names - terms.lock.keys())) if names - terms.lock.keys() else "it takes none"
        raise _wrong(f"the grant knows no parameter {further[0]!r}", hint, key="params")


def check_version(pinned: str | None, wanted: str | None) -> None:
    """Raise invalid_request for a qualifier that is not the one that a grant, or an alias further down, is for."""
    if pinned is not None and wanted not in (None, pinned):
        raise _wrong(f"only {pinned!r} of it is lent, not {wanted!r}", f"leave {wanted!r} out, or write {pinned!r}", key="target")


def check_network(wanted: Iterable[str], lent: Iterable[str]) -> None:
    """Raise invalid_request naming the first destination that is not lent; both lists are canonical."""
    allowed = tuple(lent)
    if further := missing(allowed, wanted):
        hint = "lent are " + ", ".join(allowed) if allowed else "no destination is lent"
        raise _wrong(f"network: {further[0]} is not lent", hint, key="network", entry=further[0])


def check_placement(wanted: Placing, lent: Placing) -> None:
    """Raise invalid_request for a placement that only one side asked for."""
    if wanted not in (Placing.PAIR, lent):
        raise _wrong(f"placement: {wanted.value} is not what the owner asked for", f"both sides must say it; it is {lent.value} there", key="placement")


def check_bound(key: str, wanted: int | None, bound: int, unit: str) -> None:
    """Raise invalid_request for a limit above that of what is lent."""
    if wanted is not None and wanted > bound:
        evidence = {"key": key, "max": bound, "value": wanted, "unit": unit}
        raise PyfaasError(Code.INVALID_REQUEST, f"{key}: {wanted} {unit} are more than the {bound} {unit} of what is lent", evidence=evidence)


def check_relent(terms: Terms, beneath: Iterable[Terms]) -> None:
    """Raise invalid_request for terms of an alias that promise what its own grants (`beneath`) do not give."""
    for each in beneath:
        for key in ("logs", "reuse"):
            if getattr(terms, key) and not getattr(each, key):
                raise _wrong(f"{key} cannot be lent on: the owner does not allow it", f"leave {key} out", key=key)
    if terms.payer is Payer.OWNER:
        raise _wrong("payer: of something that is lent on the outermost caller pays", "leave payer out", key="payer")


def given_terms(terms: Terms) -> dict[str, Any]:
    """Show terms to their owner, with the keys by which they are given."""
    return {
        "version": terms.version,
        "lock": dict(terms.lock),
        **_told(terms),
        "secrets": list(terms.secrets),
    }


def received_terms(terms: Terms) -> dict[str, Any]:
    """Show terms to a borrower: which parameters are locked, not to what, and nothing of the owner's secrets."""
    return {"version": terms.version, **_told(terms)}


def _told(terms: Terms) -> dict[str, Any]:
    names = ("max_concurrency", "rate", "per_day", "relend", "logs", "reuse")
    lists = {"locked": sorted(terms.lock), "require": list(terms.require), "allow": list(terms.allow), "network": list(terms.network)}
    return {**lists, **{key: getattr(terms, key) for key in names}, "placement": terms.placement.value, "payer": terms.payer.value}


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are the same: 1 is 1.0, and neither is true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)


# ---- readers: each takes a value and its key, and returns what is kept


def _wrong(message: str, hint: str = "", **evidence: Any) -> PyfaasError:
    return PyfaasError(Code.INVALID_REQUEST, message, hint=hint, evidence=evidence)


def _expected(key: str, expected: str) -> PyfaasError:
    return _wrong(f"{key}: expected {expected}", key=key)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or "\0" in value or not _is_unicode(value):
        raise _expected(key, "text")
    return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _flag(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise _expected(key, "true or false")
    return value


def _whole(high: int) -> Callable[[Any, str], int]:
    def read(value: Any, key: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # in JSON 3.0 is a whole number too
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
            raise _expected(key, f"a whole number from 1 to {high}")
        return value

    return read


def _rate(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise _expected(key, "a number of runs in a second, above 0")
    return float(value)


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _expected(key, "a list of text")
    return list(value)


def _names(value: Any, key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_name(_text(each, key), key) for each in _list(value, key)))


def _name(text: str, key: str) -> str:
    if not 0 < len(text) <= MAX_KEY or not _is_unicode(text):
        raise _expected(key, f"names of 1 to {MAX_KEY} characters")
    return text


def _params(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _expected(key, "an object, parameters by name")
    for name, each in value.items():
        _name(name, key)
        check_json(each, f"{key}.{name}")
    return dict(value)


def check_json(value: Any, key: str, depth: int = MAX_DEPTH) -> None:
    """Raise invalid_request naming `key` for what every JSON reader would not read alike, or is nested too deeply."""
    if depth == 0:
        raise _wrong(f"{key}: nested more than {MAX_DEPTH} deep", key=key)
    if isinstance(value, str) and not _is_unicode(value):
        raise _wrong(f"{key}: half a surrogate pair", key=key)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(f"{key}: a number that JSON has not", key=key)
    if isinstance(value, int) and not -_INTEGER <= value < _INTEGER:
        raise _wrong(f"{key}: a whole number of more than 64 bits", "send it as text", key=key)
    if isinstance(value, Mapping):
        for name, each in value.items():
            check_json(name, key, depth)
            check_json(each, key, depth - 1)
    elif isinstance(value, list):
        for each in value:
            check_json(each, key, depth - 1)


def _network(value: Any, key: str) -> tuple[str, ...]:
    return canonical([_text(each, f"{key}[{n}]") for n, each in enumerate(_list(value, key))], key)


def _secret_keys(value: Any, key: str) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(_text(each, key) for each in _list(value, key)))
    if not all(_SECRET.fullmatch(each) for each in keys):
        raise _expected(key, "names of secrets: letters, digits, '_', '.' and '-'")
    return keys


def _secrets(value: Any, key: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value.values()):
        raise _expected(key, "an object, text by name")
    for name, each in value.items():
        if not _SECRET.fullmatch(name):
            raise _expected(key, "names of letters, digits, '_', '.' and '-'")
        _text(each, f"{key}.{name}")
    return dict(value)


def _placing(value: Any, key: str) -> Placing:
    if value not in tuple(Placing):
        raise _expected(key, "pair, owner or caller")
    return Placing(value)


def _payer(value: Any, key: str) -> Payer:
    if value not in tuple(Payer):
        raise _expected(key, "caller or owner")
    return Payer(value)


def _memory(value: Any, key: str) -> int:
    size = parse_size(_quantity(value, key), key)
    if size < MIN_MEMORY:
        raise _expected(key, f"at least {MIN_MEMORY >> 20}M")
    return size


def _timeout(value: Any, key: str) -> int:
    milliseconds = parse_duration(_quantity(value, key), key)
    if not SECOND_MS <= milliseconds <= MAX_TIMEOUT_MS:
        raise _expected(key, f"{SECOND_MS // 1000}s to {MAX_TIMEOUT_MS // 1000}s")
    return milliseconds


def _quantity(value: Any, key: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or len(str(value)) > 32:  # noqa: PLR2004 - bounds what is read
        raise _expected(key, "a quantity with its unit, such as 256M or 30s")
    return str(value)


_Reader = Callable[[Any, str], Any]
_FIELDS = {"memory": "memory_bytes", "timeout": "timeout_ms"}
_TERMS: dict[str, _Reader] = {
    "version": _whole(_MAX_VERSION),
    "lock": _params,
    "require": _names,
    "allow": _names,
    "max_concurrency": _whole(10_000),
    "rate": _rate,
    "per_day": _whole(10**9),
    "relend": _flag,
    "network": _network,
    "secrets": _secret_keys,
    "logs": _flag,
    "reuse": _flag,
    "placement": _placing,
    "payer": _payer,
}
_ORDER: dict[str, _Reader] = {
    "params": _params,
    "secrets": _secrets,
    "memory": _memory,
    "timeout": _timeout,
    "network": _network,
    "placement": _placing,
}
