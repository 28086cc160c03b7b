"""The aiohttp application: the table of routes, who asks, and errors as problems."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from pyfaas.config import Config
from pyfaas.decisions.access import require
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import asked, problems
from pyfaas.web.event import check_length
from pyfaas.web.openapi import DOCUMENT, packed
from pyfaas.web.operations import OPERATIONS
from pyfaas.web.routes import ROUTES, Route
from pyfaas.web.upload import FURTHER_BYTES

log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(service: Service, *further: Any) -> web.Application:
    """Return the application; `further` middlewares come outermost."""
    config = service.config
    app = web.Application(middlewares=[*further, _as_problems], client_max_size=config.bundle_packed + (1 << 20))
    app.on_response_prepare.append(_sign)
    app[DOCUMENT] = packed([route for route in ROUTES if (route.method, route.path) in OPERATIONS])
    for route in ROUTES:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, route.path, _bound(service, route), expect_handler=_expected(config, route))
    return app


def _bound(service: Service, route: Route) -> _Handler:
    described = OPERATIONS.get((route.method, route.path))
    known = described.query if described is not None and not route.is_url else None

    async def handle(request: web.Request) -> web.StreamResponse:
        caller = _caller(service, request, is_needed=route.scope is not None)
        if route.scope is not None and caller is not None:
            require(caller, route.scope)
        if not route.is_url:
            asked.check_path(request)
        if known is not None:
            asked.check_query(request, known)
        answer = await route.handler(service, request, caller)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    return handle


def _expected(config: Config, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Return what answers `Expect: 100-continue`: go on, unless the body is too large for this route."""
    key = route.limit
    most = getattr(config, key) + (FURTHER_BYTES if key == "bundle_packed" else 0) if key is not None else 0

    async def answer(request: web.Request) -> web.StreamResponse | None:
        try:
            if key is not None:
                check_length(request, most, key)
        except PyfaasError as error:
            return problems.response(error)
        if request.headers.get("Expect", "").lower() != "100-continue":
            return problems.response(PyfaasError(Code.INVALID_HEADER, "Expect: only 100-continue is known"))
        if request.transport is not None and request.version >= (1, 1):
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    return answer


def _caller(service: Service, request: web.Request, *, is_needed: bool) -> Caller | None:
    header = request.headers.get("Authorization", "")
    if not is_needed and not header.startswith("Bearer pf_"):
        return None
    return service.authenticate(header.encode("utf-8", "surrogateescape"))


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    """Say what answered, and let no browser guess what it was."""
    response.headers["Server"] = "pyfaas"
    response.headers["X-Content-Type-Options"] = "nosniff"


@web.middleware
async def _as_problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turn whatever was raised into a problem document."""
    try:
        return await handler(request)
    except PyfaasError as error:
        return problems.response(error)
    except web.HTTPException as error:
        return _of_http(request, error)
    except (HttpProcessingError, web.RequestPayloadError) as error:
        message = f"the body cannot be read: {str(error).partition(chr(10))[0][:200]}"
        return problems.response(PyfaasError(Code.INVALID_REQUEST, message))
    except ConnectionResetError:
        raise
    except Exception:  # the top of every request: a defect of ours is told as such, once, with its traceback in the log
        log.exception("request_failed", extra={"where": f"{request.method} {request.path}"})
        return problems.response(problems.internal())


def _of_http(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """Turn what aiohttp raised into a problem document."""
    if isinstance(error, web.HTTPNotFound):
        is_url = request.path.startswith("/f/")
        hint = "a function's URL is /f/ACCOUNT/NAME/, with the last slash" if is_url else "GET / tells where things are"
        return problems.response(PyfaasError(Code.NOT_FOUND, f"there is nothing at {request.path[:200]}", hint=hint))
    if isinstance(error, web.HTTPMethodNotAllowed):
        possible = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not possible here; {possible} are"
        response = problems.response(PyfaasError(Code.METHOD_NOT_ALLOWED, message))
        response.headers["Allow"] = possible
        return response
    return problems.response(PyfaasError(Code.INVALID_REQUEST, error.reason))
