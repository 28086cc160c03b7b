"""One request, one answer: the only place of the SDK that knows aiohttp.

Everything that aiohttp raises is translated here. An answer of 400 or above becomes the exception that `errors` builds
from it. `exchange` keeps the body open, so that streams are read as they come. Connections are kept and used again.

A call is not sent twice, because it may have run. When a connection broke before an answer, which is what a replaced
server leaves behind, aiohttp asks again once for what is idempotent (RFC 9110, 9.2.2): to read, to publish, to remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL  # what aiohttp takes; `encoded` keeps %2F as it is

from pyfaas import __version__
from pyfaas.client.errors import ServerError, Unreachable, from_answer

USER_AGENT = f"pyfaas/{__version__} Python/{sys.version_info[0]}.{sys.version_info[1]}"
_CONNECT_S = 10.0
_FAILED = 400
_LARGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request before it is sent; `form` is a multipart body by part name."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    form: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Return path and query as they go into the request line."""
        return self.path + ("?" + urlencode(self.query, quote_via=quote) if self.query else "")


class Reply:
    """An answer whose status is below 400; header names are lower-case."""

    def __init__(self, status: int, headers: Mapping[str, str], response: aiohttp.ClientResponse | None = None) -> None:
        """Wrap an answer whose body may still be on its way."""
        self.status, self.headers, self._response = status, headers, response

    @property
    def kind(self) -> str:
        """Return the media type, without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """Return the whole body; raises ServerError when it breaks off."""
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises ServerError when it breaks off."""
        if self._response is None:
            return
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            message = "the answer broke off"
            raise ServerError(
                message, status=self.status, problem={"code": "internal", "fault": "platform", "detail": message}
            ) from error

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the body's lines as they come, without their ends and without empty ones."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
        if rest.strip():
            yield rest


class Transport(Protocol):
    """What sends calls; the CLI's `--curl` has another one that prints them."""

    def exchange(self, call: Call) -> contextlib.AbstractAsyncContextManager[Reply]:
        """Send a call and enter its answer; raises what the answer says when it failed."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class HttpTransport:
    """Sends calls to one server with one token, on the event loop that first used it."""

    def __init__(self, url: str, token: str) -> None:
        """Keep both; nothing is opened before the first call."""
        self._url, self._token = url, token
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @contextlib.asynccontextmanager
    async def exchange(self, call: Call) -> AsyncIterator[Reply]:
        """Send a call and enter its answer; raises Unreachable, or what the answer says when it failed."""
        response = await self._answered(call)
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            reply = Reply(response.status, headers, response)
            if response.status >= _FAILED:
                raise from_answer(response.status, headers, await reply.read())
            yield reply
        finally:
            # Not `release`: a body that was left unread must end the connection, which is how the server learns it.
            if not response.content.is_eof():
                response.close()
            response.release()

    async def _answered(self, call: Call) -> aiohttp.ClientResponse:
        session = self._opened()
        try:
            return await self._send(session, call)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise self._unreachable(error) from error
            raise  # the caller's own
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise self._unreachable(error) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._broken(error) from error

    def _opened(self) -> aiohttp.ClientSession:
        """Return the session; raises RuntimeError after `close`, and on another loop than the one that uses it."""
        if self._is_closed:
            raise RuntimeError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is not loop:
            raise RuntimeError("an AsyncClient belongs to the event loop that first used it: make another for this one")
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
            connector = aiohttp.TCPConnector(limit=0)
            self._session, self._loop = aiohttp.ClientSession(timeout=timeout, connector=connector), loop
        return self._session

    async def _send(self, session: aiohttp.ClientSession, call: Call) -> aiohttp.ClientResponse:
        headers = {"User-Agent": USER_AGENT, **call.headers}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data: Any = call.body
        if call.body is not None and len(call.body) > _LARGE_BYTES:
            data = io.BytesIO(call.body)  # written in pieces: the loop goes on
        if call.form:
            data = aiohttp.FormData()
            for name, (kind, content) in call.form.items():
                data.add_field(name, io.BytesIO(content), content_type=kind, filename=name)
        url = URL(self._url + call.target, encoded=True)
        return await session.request(
            call.method, url, headers=headers, data=data, allow_redirects=False, proxy=proxy_for(self._url)
        )

    def _broken(self, error: Exception) -> ServerError:
        message = f"the connection to {self._url} ended before the answer came: {str(error) or type(error).__name__}"
        hint = "what was asked for may have been done"
        return ServerError(message, problem={"code": "unreachable", "fault": "platform", "detail": message, "hint": hint})

    def _unreachable(self, error: Exception) -> Unreachable:
        number = getattr(error, "errno", None)
        known = os.strerror(number) if isinstance(number, int) and number > 0 else None  # below: the resolver's own
        reason = known or getattr(error, "strerror", None) or str(error) or type(error).__name__
        message = f"cannot reach {self._url}: {reason}"
        hint = "is the server running? pyfaas serve starts one"
        return Unreachable(
            message, problem={"code": "unreachable", "fault": "platform", "detail": message, "hint": hint}
        )

    async def close(self) -> None:
        """Close the connections, for good."""
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for a server, by the rules of urllib; none for this very machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host.endswith(".localhost") or host == "::1" or host.startswith("127."):
        return None
    proxy = getproxies().get(parts.scheme)
    return proxy if proxy and not proxy_bypass(host) else None


def json_call(
    method: str, path: str, document: Any = None, *, query: Mapping[str, Any] | None = None, **headers: str
) -> Call:
    """Return a call with a JSON body, or without one; a query value of None is left out."""
    kept = {key: str(value) for key, value in (query or {}).items() if value is not None}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if document is None:
        return Call(method=method, path=path, query=kept, headers=sent)
    sent["Content-Type"] = "application/json"
    return Call(method=method, path=path, query=kept, headers=sent, body=json.dumps(document).encode())
