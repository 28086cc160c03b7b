"""The OpenAPI 3.1 document of an API version: what a client is generated from.

An operation's `input` becomes path parameters, query parameters where the method has no body, and the body. `$defs` of a schema become
components of the document, which is where generators look for names; any other reference goes on meaning what it meant in its schema.
Nothing of what is behind an operation is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pyfaas.apifile import parameters
from pyfaas.decisions.operations import properties, resolved
from pyfaas.sharing import ApiState, ApiVersion, Operation

JSON, PROBLEM = "application/json", "application/problem+json"
_SAYS = {
    400: "invalid_event: a parameter or the body does not fit",
    401: "unauthenticated",
    403: "not_allowed: not subscribed, or not approved yet",
    404: "not_found",
    409: "cancelled",
    410: "gone: retired, or no more allowed",
    413: "payload_too_large",
    429: "throttled",
    500: "the function failed, or internal",
    502: "the function could not run to its end",
    503: "not_ready, no_capacity or lost",
    504: "timeout",
}
_WITHOUT_BODY = ("GET", "DELETE")
_FAILED = 500
_TABLES = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")  # whose keys are names, not words
_DATA = ("const", "enum", "default", "example", "examples")
_UNNAMED = re.compile(r"[^A-Za-z0-9._-]")
_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "fault": {"type": "string"},
        "hint": {"type": "string"},
        "evidence": {"type": "object"},
    },
    "required": ["type", "title", "status", "detail", "code", "fault"],
    "description": "RFC 9457, with whose fault it is and what to do",
}
_FAILURE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Failure",
    "properties": {**_PROBLEM_SCHEMA["properties"], "errorType": {"type": "string"}, "invocationId": {"type": "string"}},
    "description": "errorType and invocationId when the function's code raised, else a problem: generators read one form for a status",
}


def document(path: str, version: ApiVersion, url: str) -> dict[str, Any]:
    """Return the document of a version of the API OWNER/NAME, which is served at `url`."""
    components = _Components()
    paths: dict[str, dict[str, Any]] = {}
    for operation in version.operations:
        shown = _operation(operation, components)
        if version.state is ApiState.DEPRECATED:
            shown["deprecated"] = True
        paths.setdefault(operation.path, {})[operation.method.lower()] = shown
    info: dict[str, Any] = {"title": version.title or path, "version": version.version}
    if version.description:
        info["description"] = version.description
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": info,
        "servers": [{"url": url}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "pf_…"}},
        },
    }


class _Components:
    """Collects the schemas of a document under names of their own."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {"Problem": _PROBLEM_SCHEMA, "Failure": _FAILURE_SCHEMA}

    def add(self, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Take in a schema with its `$defs`; returns it as it reads inside the document."""
        names = {}
        for word in ("$defs", "definitions"):
            for key in schema.get(word, {}) if isinstance(schema.get(word), Mapping) else ():
                names[f"#/{word}/{_escaped(key)}"] = self._free(f"{name}_{key}")
        root = self._free(name) if _refers(schema) else ""
        placed = _Placed(names, f"#/components/schemas/{root}")
        for reference, free in names.items():
            _, word, key = reference.split("/", 2)
            self.schemas[free] = placed.of(schema[word][_unescaped(key)])
        made: dict[str, Any] = placed.of({key: value for key, value in schema.items() if key not in ("$defs", "definitions", "$schema")})
        if root:
            self.schemas[root] = placed.of({key: value for key, value in schema.items() if key != "$schema"})
        return made

    def _free(self, wanted: str) -> str:
        name = base = _UNNAMED.sub("_", wanted)
        count = 1
        while name in self.schemas:
            count += 1
            name = f"{base}_{count}"
        self.schemas[name] = {}
        return name


class _Placed:
    """Rewrites the references of one schema to where its parts are in the document."""

    def __init__(self, names: Mapping[str, str], root: str) -> None:
        self._names, self._root = names, root

    def of(self, schema: Any) -> Any:
        """Return a schema, or a list of them, with its references rewritten; what is no schema (`const`, `default` …) is data."""
        if isinstance(schema, list):
            return [self.of(item) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        return {word: self._part(word, part) for word, part in schema.items()}

    def _part(self, word: str, part: Any) -> Any:
        if word == "$ref" and isinstance(part, str):
            return f"#/components/schemas/{self._names[part]}" if part in self._names else self._root + part[1:]
        if word in _TABLES and isinstance(part, Mapping):
            return {name: self.of(each) for name, each in part.items()}
        return part if word in _DATA else self.of(part)


def _operation(operation: Operation, components: _Components) -> dict[str, Any]:
    schema = components.add(f"{operation.name}_input", operation.input) if operation.input is not None else None
    shown: dict[str, Any] = {"operationId": operation.name, "summary": operation.description or operation.name}
    if given := list(_parameters(operation, schema)):
        shown["parameters"] = given
    if operation.method not in _WITHOUT_BODY:
        shown["requestBody"] = _body(operation, schema)
    output = components.add(f"{operation.name}_output", operation.output) if operation.output is not None else {}
    good = {"200": {"description": "what the operation returns", "content": {JSON: {"schema": output}}}}
    shown["responses"] = good | {str(status): _error(status) for status in _SAYS}
    return shown


def _parameters(operation: Operation, schema: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the path's parameters, and the query's where the method has no body."""
    declared, bound = properties(operation.input), parameters(operation.path)
    placed = schema.get("properties", {}) if schema is not None else {}
    for name in bound:
        yield {"name": name, "in": "path", "required": True, "schema": placed.get(name, {"type": "string"})}
    if operation.method not in _WITHOUT_BODY:
        return
    needed = schema.get("required", ()) if schema is not None else ()
    for name in declared:
        if name not in bound and name in placed and not _is_object(operation.input, declared[name]):
            yield {"name": name, "in": "query", "required": name in needed, "schema": placed[name]}


def _body(operation: Operation, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe the body: the event without what the path gives."""
    if schema is None:
        return {"required": False, "content": {JSON: {"schema": {}}}}
    bound = parameters(operation.path)
    shown = dict(schema)
    if bound and isinstance(shown.get("properties"), Mapping):
        shown["properties"] = {name: part for name, part in shown["properties"].items() if name not in bound}
    needed = [name for name in shown.get("required", ()) if name not in bound]
    shown.pop("required", None)
    if needed:
        shown["required"] = needed
    return {"required": bool(needed), "content": {JSON: {"schema": shown}}}


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{'Failure' if status == _FAILED else 'Problem'}"}
    kinds = (JSON, PROBLEM) if status == _FAILED else (PROBLEM,)
    return {"description": _SAYS[status], "content": {kind: {"schema": schema} for kind in kinds}}


def _is_object(root: Mapping[str, Any] | None, declared: Any) -> bool:
    found = resolved(root, declared)
    return found is not None and (found.get("type") == "object" or "properties" in found)


def _refers(schema: Any) -> bool:
    """Tell whether a schema refers to a part of itself that is not in its `$defs` alone."""
    if isinstance(schema, list):
        return any(_refers(part) for part in schema)
    if not isinstance(schema, Mapping):
        return False
    reference = schema.get("$ref")
    if isinstance(reference, str) and not re.fullmatch(r"#/(\$defs|definitions)/[^/]+", reference):
        return True
    return any(
        _refers(list(part.values()) if word in _TABLES and isinstance(part, Mapping) else part)
        for word, part in schema.items()
        if word not in _DATA
    )


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _unescaped(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")
