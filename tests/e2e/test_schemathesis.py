"""Requests made from the OpenAPI document, good ones and bad ones, against a real server; the same in each run.

`--schemathesis-examples=N` makes more of them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis import GenerationMode, checks

from pyfaas.web.openapi import document
from pyfaas.web.operations import TIMEOUT_PATTERN
from pyfaas.web.routes import ROUTES
from tests.e2e.house import House

checks.load_all_checks()
schema = schemathesis.openapi.from_dict(json.loads(json.dumps(document(ROUTES))))
schema.config.generation.update(modes=list(GenerationMode), deterministic=True)


@schemathesis.serializer("application/x-ndjson")
def _lines(_context: Any, value: Any) -> bytes:
    """Send generated JSON as lines of it."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in (value if isinstance(value, list) else [value]))


# An admin's token where only an admin may; not where it would be replaced, or all that the server keeps be sent each time.
AS_ADMIN = {("POST", "/v1/accounts"), ("DELETE", "/v1/accounts/{account}"), ("GET", "/metrics")}
# What a good request needs beyond what a schema can say: a zip, a time that is still to come, a destination, or a limit.
LEFT_OUT = {
    ("PUT", "/v1/apis/{api}"): [checks.positive_data_acceptance],  # names and paths are unique among operations
    ("PUT", "/v1/functions/{name}"): [checks.positive_data_acceptance],
    ("POST", "/v1/tokens"): [checks.positive_data_acceptance],
    ("PUT", "/v1/functions/{name}/grants/{grantee}"): [checks.positive_data_acceptance],
    ("PUT", "/v1/aliases/{name}"): [checks.positive_data_acceptance],
    # DELETE of /v1/tokens/{id} fits the path too, for a token that no server has.
    ("POST", "/v1/tokens/rotate-admin"): [checks.allow_header_conformance, checks.unsupported_method],
}


@pytest.fixture(scope="module")
def seeds(house: House) -> dict[str, Any]:
    """Return what is there to be found: an account with a function, an alias, and an invocation that ended."""
    house.account("fuzzed")
    me = {"token": "fuzzed"}
    source = "def handler(event, context):\n    print(event)\n    return event"
    house.deploy("greet", source, **me)
    house.deploy("greet", source + "\n# 2", **me)
    house.call("PUT", "/v1/functions/greet/aliases/live", '{"version": 1}', **me)
    job = house.call("POST", "/v1/functions/greet/invoke", "{}", Prefer="respond-async", **me).json["id"]
    assert house.call("GET", f"/v1/invocations/{job}?wait=60", **me).json["state"] == "succeeded"
    return {"name": "greet", "number": 1, "alias": "live", "id": job, "account": "fuzzed", "target": "greet"}


def _aimed(case: schemathesis.Case, seeds: dict[str, Any]) -> None:
    """Let a good request find something: nothing that it removes or replaces, and it does not wait for ever."""
    is_good = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    for name, value in (case.path_parameters or {}).items():
        if name in ("name", "account") and case.method in ("PUT", "DELETE") and value in seeds.values():
            case.path_parameters[name] = "nobody"
        elif is_good and case.method in ("GET", "POST"):
            case.path_parameters[name] = seeds.get(name, value)
    if "%3A" in str((case.path_parameters or {}).get("target", "")):
        case.path_parameters["target"] = case.path_parameters["target"].partition("%3A")[0]  # a colon is sent as one
    if re.fullmatch(TIMEOUT_PATTERN, str((case.headers or {}).get("Pyfaas-Timeout", ""))):
        case.headers["Pyfaas-Timeout"] = "60s"  # a millisecond is a good timeout, and 504 its good answer
    if isinstance(case.query, dict) and str(case.query.get("follow", "0")).lower() not in ("0", "false", "no"):
        case.query = {key: value for key, value in case.query.items() if key != "follow"}
    if isinstance(case.query, dict) and case.path.endswith("/events") and is_good:
        case.query = {key: value for key, value in case.query.items() if key != "wait"}  # nothing happens meanwhile


@schema.parametrize()
@settings(settings.get_profile("generated"))
def test_generated_requests(case: schemathesis.Case, house: House, seeds: dict[str, Any]) -> None:
    """No request that can be made from the document, or against it, is answered otherwise than the document says."""
    _aimed(case, seeds)
    row = (case.operation.method.upper(), case.operation.path)
    token = house.token("admin" if row in AS_ADMIN else "fuzzed")
    case.call_and_validate(base_url=house.url, headers={"Authorization": "Bearer " + token}, timeout=60, excluded_checks=LEFT_OUT.get(row, []))
