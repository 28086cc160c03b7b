"""Names, qualifiers, durations and sizes: one grammar each, parsed once at the boundary."""

from __future__ import annotations

import re

from pyfaas.errors import Code, PyfaasError

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ACCOUNT_ID = re.compile(r"[0-9]{12}")
CODE_ID = re.compile(r"sha256-[0-9a-f]{64}")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|s|m|h)?")
_SIZE = re.compile(r"([0-9]{1,12})\s*(K|M|G|Ki|Mi|Gi|KB|MB|GB|KiB|MiB|GiB)?")
_MILLIS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def check_name(text: str, what: str = "function") -> str:
    """Return `text` when it is a name; raises invalid_name otherwise."""
    if not NAME.fullmatch(text):
        raise PyfaasError(
            Code.INVALID_NAME,
            f"{text[:80]!r} is not a name for {'an' if what[0] in 'aeiouA' else 'a'} {what}",
            hint="1 to 64 of the letters A-Z a-z, digits, '_' and '-'",
        )
    return text


def check_account_name(text: str) -> str:
    """Return `text` when it can name an account; twelve digits would look like an id."""
    check_name(text, "account")
    if ACCOUNT_ID.fullmatch(text):
        raise PyfaasError(Code.INVALID_NAME, "an account's name must not look like an id", hint="add a letter")
    return text


def check_alias_name(text: str) -> str:
    """Return `text` when it can name a release alias: a name that is neither `latest` nor a number."""
    check_name(text, "release alias")
    if text == "latest" or text.isdigit():
        raise PyfaasError(Code.INVALID_NAME, f"{text!r} already means something else as a qualifier")
    return text


def check_qualifier(text: str) -> str:
    """Return `text` when it can follow the colon: a number, a name, `latest` or a code id."""
    if CODE_ID.fullmatch(text) or NAME.fullmatch(text):
        return text
    raise PyfaasError(Code.INVALID_NAME, f"{text[:80]!r} is not a qualifier", hint="a version, an alias, 'latest' or a code id")


def split_target(text: str) -> tuple[str, str | None]:
    """Split `NAME[:QUALIFIER]`, checking both; no qualifier is None."""
    name, colon, qualifier = text.partition(":")
    return check_name(name), check_qualifier(qualifier) if colon else None


def parse_duration(value: str | float, key: str) -> int:
    """Read a duration as milliseconds; a bare number is seconds. Raises invalid_request naming `key`."""
    match = _DURATION.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if match is None:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key}: {value!r} is not a duration", hint="write 500ms, 30s, 5m or 1h")
    return round(float(match[1]) * _MILLIS[match[2] or "s"])


def parse_size(value: str | int, key: str) -> int:
    """Read a size as bytes; a bare number is MiB, M is Mi. Raises invalid_request naming `key`."""
    match = _SIZE.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if match is None:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key}: {value!r} is not a size", hint="write 256M or 1G")
    return int(match[1]) * _BYTES[(match[2] or "M")[0]]
