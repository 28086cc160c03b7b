"""What a request asks for, read once: numbers, times and names from its path and query, an object from its body."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from aiohttp import web

from pyfaas.errors import Code, PyfaasError, not_found
from pyfaas.model import Caller
from pyfaas.names import check_name
from pyfaas.web import event

_SMALL = 64 * 1024
MAX_VERSION, MAX_TIME, MAX_CURSOR = 10**9, 10**12, 10**15 - 1
BUDGET_FORM = "[0-9]{1,3}(\\.[0-9]{1,6})?"  # a percent, with its fraction
ID_FORM, NAME_FORM = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[A-Za-z0-9_-]{1,64}"
TOKEN_FORM = "[0-9]{11}\\.[0-9]{6}-" + ID_FORM  # a token's place in its list
API_FORM = NAME_FORM + "/" + NAME_FORM  # an API's place in the directory
USAGE_FORM = "[0-9-]{1,10}( [A-Za-z0-9_/.-]{1,160}){8} [0-9]{6}"  # a row's place among usage
_ID = re.compile(ID_FORM)
_TIME = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
_FLAGS = {"": True, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def known(caller: Caller | None) -> Caller:
    """Return the caller; raises unauthenticated when there is none."""
    if caller is None:
        raise PyfaasError(Code.UNAUTHENTICATED, "a token is needed", hint="send Authorization: Bearer pf_…")
    return caller


def name(request: web.Request, what: str = "function") -> str:
    """Return the name in the path; raises invalid_name."""
    return check_name(request.match_info["name"], what)


def check_path(request: web.Request) -> None:
    """Raise invalid_name when the path is not in its one canonical form: no name of ours needs a percent sign."""
    if "%" in request.rel_url.raw_path:
        raise PyfaasError(Code.INVALID_NAME, "a path is written without percent signs", hint="names have letters, digits, '_' and '-'")


def number(text: str, key: str, low: int, high: int) -> int:
    """Read a whole number; raises invalid_request outside its range."""
    if not (text.isascii() and text.isdigit()) or len(text) > 15 or not low <= int(text) <= high:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be a number from {low} to {high}")
    return int(text)


def version(request: web.Request) -> int:
    """Return the version in the path."""
    return number(request.match_info["number"], "version", 1, MAX_VERSION)


def query_number(request: web.Request, key: str, default: int, low: int, high: int) -> int:
    """Return a number of the query."""
    return number(request.query.get(key, str(default)), key, low, high)


def query_time(request: web.Request, key: str, default: float) -> float:
    """Return a time of the query, in seconds since the epoch."""
    text = request.query.get(key)
    if text is None:
        return default
    if not _TIME.fullmatch(text) or float(text) >= MAX_TIME:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be seconds since the epoch")
    return float(text)


def query_cursor(request: web.Request, form: str) -> str | None:
    """Return where a page begins; raises invalid_request for what is no `next` of this list."""
    after = request.query.get("after")
    if after is not None and not re.fullmatch(form, after):
        raise PyfaasError(Code.INVALID_REQUEST, "after must be the `next` of a page of this list")
    return after


def query_flag(request: web.Request, key: str) -> bool:
    """Tell whether a flag of the query is set: its name alone does it; raises invalid_request for what is no flag."""
    text = request.query.get(key, "0").lower()
    if text not in _FLAGS:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be true or false")
    return _FLAGS[text]


def is_stopping(request: web.Request) -> bool:
    """Tell whether running runs are to stop, which is so unless they may finish; raises invalid_request."""
    running = request.query.get("running", "stop")
    if running not in ("stop", "finish"):
        raise PyfaasError(Code.INVALID_REQUEST, "running must be stop or finish", hint="stop ends what runs; finish lets it end by itself")
    return running == "stop"


def time(value: Any, key: str) -> float | None:
    """Return a time of a body, None for none; raises invalid_request."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_TIME:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be seconds since the epoch")
    return float(value)


def check_query(request: web.Request, known: Collection[str]) -> None:
    """Raise unknown_key for a parameter that the route has not, invalid_request for one that is there twice."""
    for key in request.query:
        if key not in known:
            hint = "known are " + ", ".join(known) if known else "this request has none"
            raise PyfaasError(Code.UNKNOWN_KEY, f"unknown query parameter {key[:64]!r}", hint=hint)
        if len(request.query.getall(key)) > 1:
            raise PyfaasError(Code.INVALID_REQUEST, f"{key} is there twice")


async def document(request: web.Request, most: int = _SMALL) -> dict[str, Any]:
    """Read a JSON object of at most so many bytes, whatever its keys; raises invalid_request or payload_too_large."""
    read = await event.read_body(request, most, "request body")
    try:
        value = json.loads(read or b"{}")
    except (ValueError, RecursionError):
        raise PyfaasError(Code.INVALID_REQUEST, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise PyfaasError(Code.INVALID_REQUEST, "the body must be a JSON object")
    return value


async def body(request: web.Request, *keys: str) -> dict[str, Any]:
    """Read a small JSON object; raises invalid_request, or unknown_key for a key that is not among `keys`."""
    value = await document(request)
    for key in value:
        if key not in keys:
            raise PyfaasError(Code.UNKNOWN_KEY, f"unknown key {key!r}", hint="known are " + ", ".join(keys))
    return value


def policy(body: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return what a body says of staleness: in JSON 3.0 is a whole number too."""
    found = {key: body[key] for key in keys if key in body}
    return {key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in found.items()}


def typed(kind: type, value: Any, key: str) -> Any:
    """Return a value of the expected type, or None; raises invalid_request. In JSON 3.0 is a whole number too."""
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} must be a {kind.__name__}")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} has half a surrogate pair")  # JSON can write it, and no file keeps it
    return value


def needed(kind: type, value: Any, key: str) -> Any:
    """Return a value that has to be there; raises invalid_request."""
    if value is None:
        raise PyfaasError(Code.INVALID_REQUEST, f"{key} is missing")
    return typed(kind, value, key)


def identifier(request: web.Request, what: str) -> str:
    """Return the id in the path; raises not_found for what is no id in its one form, as for one that is not there."""
    return check_id(request.match_info["id"], what)


def check_id(text: str, what: str) -> str:
    """Return an id; raises not_found for what is none."""
    if not _ID.fullmatch(text):
        raise not_found(what, text[:64])
    return text


def page(request: web.Request, form: str, *, default: int = 100, most: int = 1000) -> tuple[int, str | None]:
    """Return how many items a page has and where it begins; `form` is the pattern of the list's cursors."""
    return query_number(request, "limit", default, 1, most), query_cursor(request, form)


def paged(wanted: tuple[int, str | None], items: Iterable[dict[str, Any]], cursor: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Return one page of a list, in the order of the texts that `cursor` gives the items, each its own."""
    limit, after = wanted
    rest = sorted((item for item in items if after is None or cursor(item) > after), key=cursor)
    shown = rest[:limit]
    return {"items": shown, "next": cursor(shown[-1]) if len(rest) > limit else None}
