"""The aiohttp application: the table of routes, one middleware that authenticates, and errors as problems."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from pyfaas.decisions.access import require
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Caller
from pyfaas.service.service import Service
from pyfaas.web import problems
from pyfaas.web.routes import ROUTES, Route

log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(service: Service, *further: Any) -> web.Application:
    """Return the application; `further` middlewares come outermost."""
    app = web.Application(middlewares=[*further, _as_problems], client_max_size=service.config.bundle_packed + (1 << 20))
    app.on_response_prepare.append(_sign)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _bound(service, route))
    return app


def _bound(service: Service, route: Route) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        caller = _caller(service, request, is_needed=route.scope is not None)
        if route.scope is not None and caller is not None:
            require(caller, route.scope)
        answer = await route.handler(service, request, caller)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    return handle


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
    except web.HTTPNotFound:
        return problems.response(PyfaasError(Code.NOT_FOUND, f"there is nothing at {request.path[:200]}", hint="GET / tells where things are"))
    except web.HTTPMethodNotAllowed as error:
        message = f"{request.method} is not possible here; {', '.join(sorted(error.allowed_methods))} are"
        response = problems.response(PyfaasError(Code.METHOD_NOT_ALLOWED, message))
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except web.HTTPException as error:
        return problems.response(PyfaasError(Code.INVALID_REQUEST, error.reason))
    except ConnectionResetError:
        raise
    except Exception:  # the top of every request: a defect of ours is told as such, once, with its traceback in the log
        log.exception("request_failed", extra={"where": f"{request.method} {request.path}"})
        return problems.response(problems.internal())
