"""The OpenAPI document: whole, valid, and true of what the server really answers."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from pyfaas import manifest
from pyfaas.web.openapi import document
from pyfaas.web.operations import OPERATIONS
from pyfaas.web.routes import ROUTES
from tests.e2e.house import Answer, House, multipart, packed

CODE = """
import sys

def handler(event, context):
    print("seen", event)
    do = event.get("do") if isinstance(event, dict) else None
    if do == "raise":
        raise ValueError("no")
    if do == "die":
        import os
        os._exit(3)
    if do == "bytes":
        return b"abc"
    return event
"""


@pytest.fixture(scope="module")
def served(house: House) -> dict[str, Any]:
    """Return the document as the server gives it."""
    answer = house.call("GET", "/openapi.json", token=None)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json
    return found


def test_the_document_is_valid(served: dict[str, Any]) -> None:
    """The document follows OpenAPI 3.1, its schemas and examples included."""
    assert [str(error) for error in OpenAPIV31SpecValidator(served).iter_errors()] == []


def test_every_route_is_in_it_and_nothing_else(served: dict[str, Any]) -> None:
    """Each row of the table of routes is described, and no description is of a route that is not there."""
    told = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
    rows = {(route.method, re.sub(r":[^{}]*\}", "}", route.path)) for route in ROUTES}
    open_paths = {path for method, path in rows if method == "*"}
    assert {(method, path) for method, path in told if path not in open_paths} == {row for row in rows if row[0] != "*"}
    assert open_paths == {"/f/{account}/{target}/{rest}", "/v1/apis/{owner}/{api}/{version}/{path}"}
    assert {method for method, path in told if path in open_paths} == {"GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"}
    assert served == json.loads(json.dumps(document(ROUTES)))
    assert set(OPERATIONS) == {(route.method, route.path) for route in ROUTES}


def test_every_operation_has_a_name_of_its_own(served: dict[str, Any]) -> None:
    """Generated clients name their methods by it."""
    names = [operation["operationId"] for methods in served["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def test_who_needs_a_token(served: dict[str, Any]) -> None:
    """The document asks for a token with the scope that the table of routes asks for, and for none where it asks none."""
    for route in ROUTES:
        if route.method == "*":
            continue
        security = served["paths"][route.path][route.method.lower()]["security"]
        if route.scope is None:
            assert security in ([], [{}, {"bearer": []}]), route.path
        else:
            assert security == [{"bearer": [route.scope.value]}], route.path


def test_every_shape_is_used(served: dict[str, Any]) -> None:
    """No component is left over from a route that is gone."""
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(served)))
    assert named == set(served["components"]["schemas"])


def test_every_example_is_one(served: dict[str, Any]) -> None:
    """The examples of shapes and of bodies are as their schemas say, to the last member."""
    document = _closed(served)
    schemas = document["components"]["schemas"]
    found = [(ref, example) for ref, schema in schemas.items() for example in schema.get("examples", ())]
    assert len(found) >= len(schemas) // 4
    for ref, example in found:
        _validator({"$ref": f"#/components/schemas/{ref}"}, document).validate(example)
    bodies = [
        media
        for methods in document["paths"].values()
        for operation in methods.values()
        for media in operation.get("requestBody", {}).get("content", {}).values()
        if "example" in media
    ]
    assert len(bodies) >= 4
    for media in bodies:
        _validator(media["schema"], document).validate(media["example"])


def test_the_keys_of_a_configuration_are_those_of_the_manifest(served: dict[str, Any]) -> None:
    """What `config` may have is what a function's author may configure."""
    told = set(served["components"]["schemas"]["FunctionConfig"]["properties"])
    assert told - {"pickled"} == {"name", *manifest._REVISION, *manifest._SETTINGS}


# ---- a walk: every route once as it should be, and as it should not


class Walk:
    """Requests whose answers are held against the document; `seen` are the answers that came, by operation."""

    def __init__(self, house: House, served: dict[str, Any]) -> None:
        """Take a closed copy of the document: an answer with a member that is not described is not as described."""
        self.house = house
        self.document = _closed(served)
        self.seen: set[tuple[str, str, int]] = set()

    def __call__(self, method: str, template: str, status: int, body: bytes | str | None = None, **more: Any) -> Answer:
        """Make a request by its path's template, and check what comes back; `query` and the path's values are keywords."""
        values, query = {k: more.pop(k) for k in re.findall(r"\{(\w+)\}", template)}, more.pop("query", "")
        answer = self.house.call(method, template.format(**values) + query, body, **more)
        assert answer.status == status, (method, template, answer.status, answer.body)
        self.seen.add((method, template, status))
        self.check(self.document["paths"][template][method.lower()], answer)
        return answer

    def check(self, operation: dict[str, Any], answer: Answer) -> None:
        """Hold an answer against its description: status, headers, media type, and every value of its body."""
        told = operation["responses"][str(answer.status)]
        for name in told.get("headers", {}):
            header = self.document["components"]["headers"][name]
            assert not header["required"] or name.lower() in answer.headers, name
        kind = answer.headers.get("content-type", "").partition(";")[0]
        content = told.get("content", {})
        if "*/*" in content:
            return
        assert (kind in content) if answer.body or content else not kind, (operation["operationId"], answer.status, kind)
        if kind.endswith(("/json", "+json")):
            self._values([answer.json], content[kind]["schema"])
        elif kind == "application/x-ndjson":
            self._values([json.loads(line) for line in answer.body.splitlines()], content[kind]["schema"])

    def _values(self, values: list[Any], schema: dict[str, Any]) -> None:
        validator = _validator(schema, self.document)
        for value in values:
            validator.validate(value)


def _validator(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def _closed(served: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the document in which an object has no members but those that are described."""
    document = copy.deepcopy(served)
    for schema in _objects(document["components"]["schemas"]):
        schema.setdefault("additionalProperties", False)
    return document


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("type") == "object" and "properties" in value:
            yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)


@pytest.fixture(scope="module")
def walk(house: House, served: dict[str, Any]) -> Walk:
    """Return a walk over the shared server, as an account of its own."""
    house.account("walker")
    return Walk(house, served)


ME = {"token": "walker"}
JSON = {"content_type": "application/json"}
FUNCTION, VERSION, ALIAS = "/v1/functions/{name}", "/v1/functions/{name}/versions/{number}", "/v1/functions/{name}/aliases/{alias}"
INVOKE, RUN = "/v1/functions/{name}/invoke", "/v1/invocations/{id}"


def _publish(walk: Walk, name: str, status: int, query: str = "", **config: Any) -> Any:
    body, kind = multipart({"config": json.dumps(config).encode(), "code": packed({"main.py": CODE})})
    return walk("PUT", FUNCTION, status, body, name=name, query=query, content_type=kind, **ME).json


def test_functions_and_versions(walk: Walk) -> None:
    """What is published, shown, pointed at, taken back and removed is as described."""
    walk("GET", "/v1/whoami", 200, **ME)
    number = _publish(walk, "walked", 201)["version"]
    assert number == 1
    walk("GET", VERSION, 200, name="walked", number=1, query="?wait=60", **ME)
    assert _publish(walk, "walked", 200, concurrency=5)["changed"] is True
    _publish(walk, "walked", 201, timeout="5s")
    walk("GET", VERSION, 200, name="walked", number=2, query="?wait=60", **ME)
    walk("PUT", ALIAS, 200, '{"version": 1, "weights": {"2": 10}}', name="walked", alias="live", **JSON, **ME)
    walk("PUT", ALIAS, 200, '{"version": 1, "stale": "allow", "max_stale_time": "1.5s"}', name="walked", alias="live", **JSON, **ME)
    walk("GET", ALIAS, 200, name="walked", alias="live", **ME)
    _publish(walk, "walked", 200, query="?alias=live&canary=10&promote_after=5m&error_budget=0.5", timeout="5s")
    walk("GET", ALIAS, 200, name="walked", alias="live", **ME)
    walk("GET", "/v1/functions/{name}/events", 200, name="walked", **ME)
    walk("GET", "/v1/functions/{name}/aliases", 200, name="walked", **ME)
    for path in ("/v1/functions", "/v1/functions/{name}/versions", FUNCTION):
        walk("GET", path, 200, **({"name": "walked"} if "{name}" in path else {}), **ME)
    walk("DELETE", VERSION, 409, name="walked", number=1, **ME)
    walk("DELETE", ALIAS, 204, name="walked", alias="live", **ME)
    walk("POST", "/v1/functions/{name}/rollback", 200, "{}", name="walked", **JSON, **ME)
    walk("DELETE", VERSION, 204, name="walked", number=2, **ME)
    walk("GET", VERSION, 410, name="walked", number=2, **ME)
    walk("DELETE", FUNCTION, 204, name="walked", **ME)
    walk("GET", FUNCTION, 404, name="walked", **ME)


def test_calls(walk: Walk) -> None:
    """A call that ends well, badly, or later is as described, whichever way the front takes it."""
    _publish(walk, "called", 201)
    walk("GET", VERSION, 200, name="called", number=1, query="?wait=60", **ME)
    lines = '1\n{"do": "raise"}\n{broken\n'
    walk("POST", "/v1/functions/{name}/map", 200, lines, name="called", content_type="application/x-ndjson", **ME)
    for further in ({}, {"Pyfaas_On_Disconnect": "finish"}):
        given = {"name": "called", **JSON, **ME, **further}
        walk("POST", INVOKE, 200, '{"a": 1}', **given)
        walk("POST", INVOKE, 200, '{"do": "bytes"}', **given)
        walk("POST", INVOKE, 500, '{"do": "raise"}', **given)
        walk("POST", INVOKE, 502, '{"do": "die"}', **given)
        walk("POST", INVOKE, 400, "{broken", **given)
        walk("POST", INVOKE, 404, "{}", query="?qualifier=99", **given)
    queued = walk("POST", INVOKE, 202, '{"b": 1}', name="called", Prefer="respond-async", **JSON, **ME).json
    walk("GET", RUN, 200, id=queued["id"], query="?wait=60", **ME)
    walk("GET", RUN + "/logs", 200, id=queued["id"], **ME)
    walk("DELETE", RUN, 200, id=queued["id"], **ME)
    failing = walk("POST", INVOKE, 202, '{"do": "raise"}', name="called", Prefer="respond-async", **JSON, **ME).json
    walk("DELETE", RUN, 200, id=failing["id"], **ME)
    replayed = walk("POST", RUN + "/replay", 202, "{}", id=queued["id"], **JSON, **ME).json
    walk("GET", RUN, 200, id=replayed["id"], query="?wait=60", **ME)
    walk("GET", "/v1/invocations", 200, **ME)
    walk("GET", "/v1/functions/{name}/logs", 200, name="called", **ME)
    walk("GET", "/v1/functions/{name}/logs", 200, name="called", query="?build", **ME)
    walk("GET", "/f/{account}/{target}/{rest}", 200, account="walker", target="called", rest="x", **ME)


def test_accounts_and_tokens(walk: Walk) -> None:
    """An operator's requests are as described."""
    admin = {"token": "admin"}
    walk("POST", "/v1/accounts", 201, '{"name": "passing"}', **JSON, **admin)
    walk("POST", "/v1/accounts", 409, '{"name": "passing"}', **JSON, **admin)
    walk("PUT", "/v1/accounts/{account}", 200, '{"stale": "forbid", "max_wait": "5s"}', account="passing", **JSON, **admin)
    walk("PUT", "/v1/accounts/{account}", 404, '{"stale": "forbid"}', account="passing", **JSON, **ME)
    walk("GET", "/v1/accounts", 200, **admin)
    walk("DELETE", "/v1/accounts/{account}", 204, account="passing", **admin)
    made = walk("POST", "/v1/tokens", 201, '{"scopes": ["read"], "label": "x"}', **JSON, **ME).json
    walk("GET", "/v1/tokens", 200, **ME)
    walk("DELETE", "/v1/tokens/{id}", 204, id=made["id"], **ME)
    walk("POST", "/v1/tokens", 403, '{"scopes": ["admin"]}', **JSON, **ME)
    walk.house.tokens["admin"] = walk("POST", "/v1/tokens/rotate-admin", 200, **admin).json["token"]


def test_lending(walk: Walk) -> None:
    """What is lent, taken, shown, told and taken back is as described."""
    walk.house.account("lender")
    you = {"token": "lender"}
    walk.house.deploy("lent", CODE, **you)
    grants, mine = "/v1/functions/{name}/grants/{grantee}", "/v1/aliases/{name}"
    walk("PUT", grants, 201, '{"lock": {"a": 1}, "secrets": ["K"]}', name="lent", grantee="walker", **JSON, **you)
    walk("PUT", grants, 200, '{"rate": 100}', name="lent", grantee="walker", **JSON, **you)
    walk("PUT", grants, 201, None, name="lent", grantee="*", **you)
    walk("PUT", grants, 404, "{}", name="lent", grantee="nobody", **JSON, **you)
    walk("PUT", grants, 413, json.dumps({"lock": {"a": "x" * 20_000}}), name="lent", grantee="*", **JSON, **you)
    walk("GET", "/v1/functions/{name}/grants", 200, name="lent", **you)
    walk("PUT", mine, 201, '{"target": "lender/lent", "params": {"b": 1}, "secrets": {"K": "v"}}', name="borrowed", **JSON, **ME)
    walk("PUT", mine, 200, '{"target": "lender/lent:1", "memory": "64M", "timeout": "1s"}', name="borrowed", **JSON, **ME)
    walk("PUT", mine, 404, '{"target": "lender/other"}', name="other", **JSON, **ME)
    walk("PUT", mine, 409, '{"target": "lender/lent"}', name="lent", **JSON, **you)
    for token in (ME, you):
        walk("GET", "/v1/grants", 200, **token)
    walk("GET", "/v1/aliases", 200, **ME)
    walk("GET", mine, 200, name="borrowed", **ME)
    walk("GET", mine, 404, name="borrowed", **you)
    walk("DELETE", grants, 204, name="lent", grantee="*", query="?running=finish", **you)
    walk("DELETE", grants, 204, name="lent", grantee="walker", **you)
    walk("DELETE", grants, 404, name="lent", grantee="walker", **you)
    walk("PUT", mine, 410, '{"target": "lender/lent"}', name="borrowed", **JSON, **ME)
    walk("GET", mine, 200, name="borrowed", **ME)
    walk("DELETE", mine, 204, name="borrowed", **ME)
    walk("GET", "/v1/audit", 200, query="?limit=2", **you)
    walk("GET", "/v1/audit", 200, query="?after=1", **ME)


def test_apis(walk: Walk) -> None:
    """What is published, subscribed to, approved, called and ended is as described."""
    walk.house.account("publisher")
    you = {"token": "publisher"}
    walk.house.deploy("listed", CODE, **you)
    own, asked, mine = "/v1/apis/{api}", "/v1/apis/{api}/approvals/{account}", "/v1/subscriptions/{name}"
    operation = {"name": "run", "path": "/runs/{id}", "function": "listed", "input": {"required": ["id"]}, "timeout": "5s", "description": "runs"}
    definition = {"version": "1", "access": "approval", "title": "Walked", "operations": [operation], "secrets": ["K"], "rate": 100}
    walk("PUT", own, 201, json.dumps(definition), api="walked", **JSON, **you)
    walk("PUT", own, 200, json.dumps(definition), api="walked", **JSON, **you)
    walk("PUT", own, 409, json.dumps({**definition, "title": "other"}), api="walked", **JSON, **you)
    walk("PUT", own, 404, json.dumps({**definition, "operations": [{**operation, "function": "called"}]}), api="other", **JSON, **you)
    walk("PUT", own, 413, json.dumps({**definition, "version": "x" * 300_000}), api="walked", **JSON, **you)
    order = json.dumps({"api": "publisher/walked", "params": {"a": 1}, "secrets": {"K": "v"}})
    walk("PUT", mine, 201, order, name="walking", **JSON, **ME)
    walk("PUT", mine, 200, order, name="walking", **JSON, **ME)
    walk("PUT", mine, 409, order, name="again", **JSON, **ME)
    call = {"owner": "publisher", "api": "walked", "version": "1"}
    walk("POST", "/v1/apis/{owner}/{api}/{version}/{path}", 403, "{}", path="runs/1", **call, **JSON, **ME)
    walk("GET", "/v1/apis/{api}/approvals", 200, api="walked", **you)
    walk("POST", asked, 200, '{"approve": true}', api="walked", account="walker", **JSON, **you)
    walk("POST", asked, 409, '{"approve": false}', api="walked", account="walker", **JSON, **you)
    for token in (ME, you):
        walk("GET", "/v1/apis", 200, **token)
        walk("GET", "/v1/apis/{owner}/{api}", 200, owner="publisher", api="walked", **token)
        walk("GET", "/v1/apis/{owner}/{api}/{version}/openapi.json", 200, **call, **token)
    walk("GET", own, 200, api="walked", **you)
    walk("GET", mine, 200, name="walking", **ME)
    walk("GET", "/v1/subscriptions", 200, **ME)
    for body, status in (('{"a": 1}', 200), ('{"do": "raise"}', 500), ('{"do": "die"}', 502), ("[1]", 400)):
        walk("POST", "/v1/apis/{owner}/{api}/{version}/{path}", status, body, path="runs/1", **call, **JSON, **ME)
    walk("GET", "/v1/apis/{owner}/{api}/{version}/{path}", 405, path="runs/1", **call, **ME)
    walk("POST", "/v1/apis/{owner}/{api}/{version}/{path}", 202, "{}", path="runs/1", prefer="respond-async", **call, **JSON, **ME)
    named = "/v1/functions/{name}/{operation}"
    for body, status in (('{"id": 1}', 200), ('{"id": 1, "do": "raise"}', 500), ("{}", 400)):
        walk("POST", f"{named}/invoke", status, body, name="walking", operation="run", **JSON, **ME)
    walk("POST", f"{named}/map", 200, '{"id": 1}\n{}\n', name="walking", operation="run", content_type="application/x-ndjson", **ME)
    walk("POST", "/v1/apis/{api}/versions/{version}/deprecate", 200, '{"sunset": 2000000000}', api="walked", version="1", **JSON, **you)
    walk("POST", "/v1/apis/{api}/versions/{version}/retire", 200, api="walked", version="1", **you)
    walk("POST", "/v1/apis/{api}/versions/{version}/deprecate", 409, api="walked", version="1", **you)
    walk("GET", "/v1/apis/{owner}/{api}/{version}/openapi.json", 410, **call, **ME)
    walk("GET", mine, 200, name="walking", **ME)
    walk("DELETE", asked, 204, api="walked", account="walker", query="?running=finish", **you)
    walk("DELETE", asked, 404, api="walked", account="walker", **you)
    walk("DELETE", mine, 404, name="walking", **ME)
    walk("DELETE", own, 204, api="walked", **you)
    walk("GET", own, 404, api="walked", **you)


def test_the_server(walk: Walk) -> None:
    """What the server says of itself is as described."""
    for path in ("/", "/healthz", "/readyz", "/openapi.json", "/metrics"):
        walk("GET", path, 200, token=None)
    for path in ("/v1/usage", "/v1/limits", "/v1/fleets"):
        walk("GET", path, 200, **ME)
        walk("GET", path, 200, token="admin")  # noqa: S106 - a name, not a token
        walk("GET", path, 401, token=None)


