"""The OpenAPI 3.1 document, made from the table of routes, their descriptions and the shapes; built once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web

from pyfaas import __version__
from pyfaas.model import Scope
from pyfaas.web.described import JSON, Answer, Operation
from pyfaas.web.operations import ERROR_HEADERS, HEADERS, OPERATIONS, PATH_PARAMETERS, PROBLEM, REQUIRED_HEADERS, SAYS
from pyfaas.web.schemas import SCHEMAS
from pyfaas.web.shapes import Schema, ref

DOCUMENT: web.AppKey[tuple[bytes, str]] = web.AppKey("document", tuple)  # where the application keeps it, with its entity tag
_ANY_METHOD = ("get", "put", "post", "delete", "patch", "head", "options")
_PATTERN = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_ALWAYS, _GUARDED, _FAILURES = (400, 500), (401, 403), (500, 502)
_TAGS = {
    "calls": "Run functions",
    "functions": "Functions, their versions and release aliases",
    "invocations": "Asynchronous work",
    "accounts": "Accounts and tokens",
    "sharing": "Lending across accounts",
    "apis": "APIs made of functions, and who has them",
    "server": "The server itself",
}
_INTRODUCTION = (
    "A serverless server for one Linux box. Errors are RFC 9457 problem documents with `code`, `fault`, `hint` and `evidence`. "
    "A query parameter or a key that is not listed is refused."
)


def document(routes: Iterable[Any]) -> dict[str, Any]:
    """Return the document of a table of routes; a row needs method, path, handler and scope. Raises KeyError for an undescribed one."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = OPERATIONS[route.method, route.path]
        path = _PATTERN.sub(r"{\1}", route.path)
        for method in _ANY_METHOD if route.method == "*" else (route.method.lower(),):
            name = route.handler.__name__ if route.method != "*" else f"{route.handler.__name__}_{method}"
            paths.setdefault(path, {})[method] = {"operationId": name, **_operation(operation, route.path, route.scope)}
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {"title": "pyfaas", "version": __version__, "summary": _INTRODUCTION.partition(". ")[0], "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": says} for name, says in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "headers": {name: {"schema": schema, "required": name in REQUIRED_HEADERS} for name, schema in HEADERS.items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "pf_…", "description": _scopes()}},
        },
    }


def packed(routes: Iterable[Any]) -> tuple[bytes, str]:
    """Return the document as bytes, and its entity tag."""
    made = json.dumps(document(routes), ensure_ascii=False, separators=(",", ":")).encode()
    return made, f'"{hashlib.sha256(made).hexdigest()[:32]}"'


def _scopes() -> str:
    return "A token carries scopes: " + ", ".join(scope.value for scope in Scope) + ". `admin` includes all."


def _operation(operation: Operation, path: str, scope: Scope | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"tags": [operation.tag], "summary": operation.says}
    if operation.more:
        shown["description"] = operation.more
    shown["security"] = _security(operation, scope)
    if parameters := list(_parameters(operation, path)):
        shown["parameters"] = parameters
    if operation.body:
        shown["requestBody"] = _body(operation)
    good = {str(status): _answer(answer) for status, answer in operation.answers.items()}
    bad = {str(status): _error(status, operation) for status in _errors(operation, scope) if str(status) not in good}
    shown["responses"] = good | bad
    return shown


def _security(operation: Operation, scope: Scope | None) -> list[dict[str, list[str]]]:
    if scope is not None:
        return [{"bearer": [scope.value]}]
    return [{}, {"bearer": []}] if operation.is_token_optional else []


def _parameters(operation: Operation, path: str) -> Iterator[dict[str, Any]]:
    for name in _PATTERN.findall(path):
        yield {"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]}
    for place, parameters in (("query", operation.query), ("header", operation.headers)):
        for name, schema in parameters.items():
            yield {"name": name, "in": place, "required": False, "schema": schema}


def _body(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": schema} for kind, schema in operation.body.items()}
    if operation.example is not None:
        content[JSON]["example"] = operation.example
    if "multipart/form-data" in content:
        content["multipart/form-data"]["encoding"] = {"config": {"contentType": JSON}, "code": {"contentType": "application/zip"}}
    return {"required": operation.is_body_needed, "content": content}


def _answer(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": answer.says}
    if answer.headers:
        shown["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in answer.headers}
    if answer.content:
        shown["content"] = {kind: {"schema": schema} for kind, schema in answer.content.items()}
    return shown


def _errors(operation: Operation, scope: Scope | None) -> list[int]:
    guarded = _GUARDED if scope is not None or operation.is_token_optional else ()
    return sorted({*_ALWAYS, *guarded, *operation.errors})


def _error(status: int, operation: Operation) -> dict[str, Any]:
    content: dict[str, Schema] = {PROBLEM: ref("Problem")}
    if operation.fails and status in _FAILURES:
        content[JSON] = ref("FunctionFailure")
    header = ERROR_HEADERS.get(status)
    return _answer(Answer(says=SAYS[status], content=content, headers=(header,) if header else ()))

