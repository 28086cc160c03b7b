"""HTTP for event handlers: the event of a Lambda function URL (payload 2.0), and the answer read back.

A dictionary with `statusCode` is the whole answer; anything else is a body with status 200, text as it
is and other values as JSON. This happens only for calls that came by the function's own URL.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from pyfaas.runtime import codec, http_answer
from pyfaas.runtime.codec import InvalidResult
from pyfaas.runtime.outcome import Ended

_TEXT_TYPES = (
    "text/",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/x-www-form-urlencoded",
)
JSON = ("content-type", "application/json")


def event(http: Mapping[str, Any], call_id: str, body: bytes) -> dict[str, Any]:
    """Build the event for a request whose head is `http`."""
    headers, cookies = _headers(http.get("headers") or ())
    path = _rest(str(http.get("raw_path") or http.get("path") or "/"), str(http.get("root_path") or ""))
    query = _query_text(http)
    text, encoded = _body(body, headers.get("content-type", ""))
    host = headers.get("host", "")
    now = time.time()
    built: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": str(http.get("account") or "anonymous"),
            "apiId": str(http.get("function") or ""),
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": str(http.get("method") or "GET"),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": _host(http.get("client")),
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": call_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": encoded,
    }
    if cookies:
        built["cookies"] = cookies
    if query:
        built["queryStringParameters"] = query_parameters(http)
    if body:
        built["body"] = text
    return built


def query_parameters(http: Mapping[str, Any]) -> dict[str, str]:
    """Return the query's parameters; repeated ones are joined by commas, as Lambda does."""
    joined: dict[str, str] = {}
    for key, value in parse_qsl(_query_text(http), keep_blank_values=True):
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined


def answer(result: Any, encode: codec.Encode, *, interpret: bool) -> Ended:
    """Turn a handler's result into an HTTP answer; raises InvalidResult when it is none."""
    if isinstance(result, bytes | bytearray | memoryview):
        return http_answer.whole(200, [("content-type", "application/octet-stream")], bytes(result))
    if interpret and isinstance(result, dict) and "statusCode" in result:
        return _interpreted(result, encode)
    if isinstance(result, str):
        return http_answer.whole(200, [JSON], result.encode("utf-8", "replace"))
    return http_answer.whole(200, [JSON], encode(result))


def _interpreted(result: dict[Any, Any], encode: codec.Encode) -> Ended:
    named = result.get("headers") or {}
    if not isinstance(named, dict):
        raise InvalidResult(f"'headers' must be an object, not {type(named).__name__!r}")
    headers = http_answer.checked_headers(named.items())
    cookies = result.get("cookies") or []
    if not isinstance(cookies, list | tuple):
        raise InvalidResult(f"'cookies' must be an array, not {type(cookies).__name__!r}")
    headers += http_answer.checked_headers([("set-cookie", cookie) for cookie in cookies])
    body = _answer_body(result.get("body"), encode, encoded=result.get("isBase64Encoded") is True)
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(JSON)
    return http_answer.whole(http_answer.checked_status(result["statusCode"]), headers, body)


def _answer_body(body: Any, encode: codec.Encode, *, encoded: bool) -> bytes:
    if body is None:
        return b""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if not isinstance(body, str):
        return encode(body)
    if not encoded:
        return body.encode("utf-8", "replace")
    try:
        return base64.b64decode(body)
    except ValueError as error:
        raise InvalidResult(f"'body' is not base64: {error}") from None


def _headers(pairs: Iterable[Any]) -> tuple[dict[str, str], list[str]]:
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in pairs:
        lower = str(name).lower()
        if lower == "cookie":
            cookies += [part.strip() for part in str(value).split(";") if part.strip()]
        else:
            headers[lower] = f"{headers[lower]},{value}" if lower in headers else str(value)
    return headers, cookies


def _body(body: bytes, content_type: str) -> tuple[str, bool]:
    kind = content_type.partition(";")[0].strip().lower()
    if not kind or kind.startswith(_TEXT_TYPES) or kind.endswith(("+json", "+xml")):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _rest(path: str, root: str) -> str:
    return (path.removeprefix(root) if root else path) or "/"


def _query_text(http: Mapping[str, Any]) -> str:
    return str(http.get("query") or "").removeprefix("?")


def _host(client: Any) -> str:
    return str(client[0] if isinstance(client, list | tuple) and client else client or "")
