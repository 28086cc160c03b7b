"""The shapes that go over HTTP, by name, as JSON Schema 2020-12: what the OpenAPI document calls its components.

They are written in the words of `shapes`; what is lent has a module of its own (`schemas_sharing`).
"""

from __future__ import annotations

from typing import Any

from pyfaas.errors import Code, Fault
from pyfaas.model import CanaryState, EventKind, JobState, Outcome, Scope, Shape, VersionState
from pyfaas.web.asked import MAX_TIME
from pyfaas.web.schemas_apis import APIS
from pyfaas.web.schemas_sharing import EXAMPLES, SHARING
from pyfaas.web.shapes import (
    ANY,
    CODE_ID_PATTERN,
    DURATION,
    ID,
    NAME,
    OUTCOME,
    SIZE,
    TIME,
    VERSION,
    Schema,
    array,
    maybe,
    number,
    one_of,
    ref,
    shown,
    table,
    taken,
    text,
    whole,
)
from pyfaas.web.shapes import page_of as _page

PERCENT = whole(1, 100)
POLICY: dict[str, Schema] = {
    "stale": one_of(("allow", "forbid")),
    "max_stale_time": text(),
    "max_stale_requests": whole(),
    "stale_percent": whole(0, 100),
    "min_version": VERSION,
    "max_wait": text(),
}
# Durations as text that anybody reads alike: what is shown can be sent again.
CHANGED_POLICY: dict[str, Schema] = {
    "stale": maybe(one_of(("allow", "forbid"))),
    "max_stale_time": maybe(text(pattern="^[1-9][0-9]{0,5}(ms|s)$", description="500ms, 30s, 5m or 1h")),
    "max_stale_requests": maybe(whole(0, 10**9)),
    "stale_percent": maybe(whole(0, 100)),
    "min_version": maybe(VERSION),
    "max_wait": maybe(text(pattern="^([1-9][0-9]{0,4}ms|[1-9][0-9]{0,1}s)$", description="at most 900s")),
}

_CALLS: dict[str, Schema] = {
    "Queued": shown({"id": ID, "state": one_of(JobState)}, {"replay_of": ID}),
    "Attempt": shown(
        {
            "started": TIME,
            "finished": maybe(TIME),
            "requested": maybe(VERSION),
            "executed": maybe(VERSION),
            "outcome": maybe(OUTCOME),
            "error": maybe({"type": "object"}),
        }
    ),
    "Invocation": shown(
        {
            "id": ID,
            "function": NAME,
            "version": maybe(VERSION) | {"description": "the version that ran last"},
            "state": one_of(JobState),
            "outcome": maybe(OUTCOME),
            "attempts": array(ref("Attempt")),
            "created": TIME,
            "finished": maybe(TIME),
        },
        {"replay_of": ID, "result": ANY | {"description": 'any JSON; bytes are {"$bytes": base64}'}, "error": {"type": "object"}},
    ),
    "InvocationPage": _page("Invocation"),
    "LogLine": shown(
        {
            "ts": TIME,
            "stream": one_of(("out", "err", "log", "platform", "build")),
            "line": text(),
            "invocation": maybe(ID),
            "version": maybe(VERSION),  # null of a lent run
        }
    ),
    "MapItem": {
        "description": "one item's end, named by its place in the request",
        "oneOf": [shown({"i": whole(), "ok": ANY}), shown({"i": whole(), "error": ref("Problem")})],
    },
}
_FUNCTIONS: dict[str, Schema] = {
    "Published": shown(
        {"function": NAME, "version": VERSION, "state": one_of(VersionState), "changed": {"type": "boolean"}},
        {"canary": ref("Canary") | {"description": "of the release alias that moves to it, when one was named"}},
    ),
    "AliasTarget": shown({"version": VERSION, "weights": table(PERCENT), "canary": maybe(ref("Canary"))}, POLICY),
    "Canary": shown(
        {
            "version": VERSION,
            "base": maybe(VERSION) | {"description": "what the alias named before; null: nothing"},
            "percent": PERCENT,
            "step": whole() | {"description": "the place among steps, from 0"},
            "steps": array(PERCENT),
            "weight": whole(0, 100) | {"description": "percent that goes to the version now"},
            "since": TIME | {"description": "when the step began"},
            "next_at": maybe(TIME) | {"description": "when the next one is due"},
            "runs": whole() | {"description": "runs of the version since the canary began"},
            "faults": whole() | {"description": "those among them that failed"},
            "error_budget": number() | {"description": "percent of the runs"},
            "state": one_of(CanaryState),
            "reason": text(description="what ended it, or holds it at its step"),
        }
    ),
    "Event": shown(
        {"cursor": whole(), "at": TIME, "kind": one_of(EventKind), "function": NAME, "version": VERSION},
        {
            "step": text(description="of preparing"),
            "done": maybe(number()),
            "total": maybe(number()),
            "code": text(),
            "message": text(),
            "target": text(description="where a download went"),
            "vm": text(),
            "bytes": whole(),
            "pointer": NAME,
            "weights": table(PERCENT),
            "from": VERSION,
            "reason": text(),
        },
    ),
    "EventPage": shown({"items": array(ref("Event")), "next": whole() | {"description": "the `after` of the next request"}}),
    "Function": shown(
        {
            "function": NAME,
            "name": NAME,
            "latest": maybe(VERSION),
            "aliases": table(ref("AliasTarget")),
            "handler": maybe(text()),
            "shape": maybe(one_of(Shape)),
            "state": maybe(one_of(VersionState)),
            "memory": maybe(whole() | {"description": "bytes"}),
            "timeout": maybe(whole() | {"description": "milliseconds"}),
            "requirements": array(text()),
            "concurrency": whole(1),
            "class": one_of(("low", "high")),
            "public": {"type": "boolean"},
            "created": TIME,
        },
        POLICY,
    ),
    "FunctionPage": _page("Function"),
    "Version": shown(
        {
            "function": NAME,
            "version": VERSION,
            "code_id": text(pattern=CODE_ID_PATTERN),
            "state": one_of(VersionState),
            "reason": maybe(shown({"code": text(), "message": text(), "log": text()})),
            "created": TIME,
            "bundle": text(),
            "size": whole(),
            "environment": maybe(text()),
            "handler": maybe(text()),
            "shape": maybe(one_of(Shape)),
            "containers": whole(),
            "withdrawn": {"type": "boolean"},
            "pointers": array(text()),
            "shares": table(PERCENT) | {"description": "percent of each pointer's calls that it is to have"},
            "running": array(
                shown({"vm": text(), "container": text(), "state": one_of(("loading", "idle", "busy")), "calls": whole(), "idle_ms": whole(None)})
            ),
            "code_in": shown(
                {"near_store": {"type": "boolean"}, "vms": array(shown({"vm": text(), "target": text(), "bytes": whole()}))}
            ),
        }
    ),
    "VersionPage": _page("Version"),
    "RolledBack": shown({"function": NAME, "pointer": NAME, "version": VERSION, "withdrawn": VERSION}),
    "Aliases": table(ref("AliasTarget")),
    "AliasOrder": taken(
        {
            "version": VERSION,
            "weights": maybe(table(whole(1, 99)) | {"propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"}, "maxProperties": 1}),
            **CHANGED_POLICY,
        },
        "version",
    ),
    "Rollback": taken({"pointer": maybe(text(description="`latest`, or a release alias"))}),
    "FunctionConfig": taken(
        {
            "name": NAME,
            "handler": text(pattern="^[^:]+:[^:]+$", description="module:attribute"),
            "shape": one_of(Shape),
            "memory": SIZE,
            "timeout": DURATION,
            "init_timeout": DURATION,
            "requirements": array(text()),
            "env": table(text()),
            "network": array(text()),
            "concurrency": whole(1),
            "public": {"type": "boolean"},
            "idempotent": {"type": "boolean"},
            "stale": one_of(("allow", "forbid")),
            "max_stale_time": DURATION,
            "max_stale_requests": whole(),
            "stale_percent": whole(0, 100),
            "min_version": VERSION,
            "max_wait": DURATION,
            "retries": {"type": "object"},
            "pickled": {"type": "boolean", "description": "the bundle holds function.pkl: what the SDK sends from a notebook"},
        }
    ),
}
_QUOTA: dict[str, Schema] = {
    "concurrency": {"type": "integer", "minimum": 1, "maximum": 1_000_000_000},
    "rate": {"type": "number", "minimum": 0, "maximum": 1_000_000_000},
    "per_day": {"type": "integer", "minimum": 0, "maximum": 1_000_000_000},
}
_ACCOUNTS: dict[str, Schema] = {
    "Whoami": shown({"account": NAME, "id": text(), "scopes": array(one_of(Scope)), "expires": maybe(TIME)}),
    "Account": shown(
        {"account": NAME, "id": text(pattern="^[0-9]{12}$"), "network": {"type": "boolean"}, "created": TIME, "quota": shown({}, _QUOTA)},
        {key: schema for key, schema in POLICY.items() if key != "min_version"},
    ),
    "AccountPolicy": taken(
        {
            **{key: schema for key, schema in CHANGED_POLICY.items() if key != "min_version"},
            "quota": maybe(taken({key: {**schema, "type": [schema["type"], "null"]} for key, schema in _QUOTA.items()})),
            "network": maybe({"type": "boolean"}),
        }
    ),
    "AccountPage": _page("Account"),
    "AccountOrder": taken({"name": NAME, "network": maybe({"type": "boolean"})}, "name"),
    "NewAccount": shown({"account": NAME, "id": text(), "token": text(description="shown this once")}),
    "Token": shown({"id": ID, "scopes": array(one_of(Scope)), "label": text(), "created": TIME, "expires": maybe(TIME)}),
    "TokenPage": _page("Token"),
    "TokenOrder": taken(
        {
            "scopes": maybe(array(one_of(Scope))),
            "expires": {"type": ["number", "null"], "exclusiveMinimum": 0, "exclusiveMaximum": MAX_TIME},
            "label": {"type": ["string", "null"], "maxLength": 200},
            "account": {"type": ["string", "null"], "description": "name or id of another account: for an admin"},
        }
    ),
    "NewToken": shown(
        {
            "id": ID,
            "scopes": array(one_of(Scope)),
            "label": text(),
            "created": TIME,
            "expires": maybe(TIME),
            "token": text(description="shown this once"),
        }
    ),
}
_SERVER: dict[str, Schema] = {
    "Home": shown(
        {
            "name": text(),
            "version": text(),
            "ready": {"type": "boolean"},
            "isolation": text(),
            "links": table(text()),
        }
    ),
    "Live": shown({"live": {"type": "boolean"}, "version": text()}),
    "Ready": shown(
        {
            "ready": {"type": "boolean"},
            "isolation": text(description="`full`, or `weaker:` and the layers that are missing"),
            "layers": array(shown({"name": text(), "live": {"type": "boolean"}, "detail": text()})),
        }
    ),
    "UsageRow": shown(
        {
            "kind": maybe(one_of(("call", "init", "idle", "build"))),
            "account": maybe(text(description="the id of who pays")),
            "account_name": maybe(text()),
            "caller": maybe(text()),
            "caller_name": maybe(text()),
            "owner": maybe(text(description="the id of whose code it is, or, to a caller, of who lends it")),
            "owner_name": maybe(text()),
            "function": maybe(text(description="as it is called where it lives; null for whoever knows it by an API only")),
            "removed": {"type": "boolean", "description": "what was called is gone; another may have its name by now"},
            "alias": maybe(text(description="the account alias or the subscription, to its holder only")),
            "api": maybe(text(description="OWNER/NAME")),
            "operation": maybe(text()),
            "from": TIME,
            "to": TIME,
            "day": maybe(text(format="date")),
            "calls": whole(),
            "outcomes": table(whole()),
            "wall_ms": number(),
            **{name: maybe(number()) for name in ("cpu_ms", "gib_ms")},  # null to an owner who neither pays nor called
            **{name: maybe(whole()) for name in ("peak_bytes", "bytes_in", "bytes_out", "net_in", "net_out", "connections")},
        }
    ),
    "UsagePage": _page("UsageRow"),
    "Limits": table(shown({"value": whole(), "unit": text(), "key": text(description="the option that sets it; empty when none does")})),
    "Container": shown(
        {
            "id": text(),
            "function": maybe(text()),
            "version": maybe(VERSION),
            "state": one_of(("blank", "loading", "idle", "busy")),
            "calls": whole(),
            "idle_ms": whole(None),
        }
    ),
    "Fleets": shown(
        {
            "warming": shown({"ready": whole(), "target": whole(), "hits": whole(), "misses": whole()}),
            "vms": array(shown({"id": text(), "tenant": text(), "fleet": text(), "containers": array(ref("Container"))})),
            "functions": array(shown({"function": text(), "tenant": text(), "class": text(), "running": whole()})),
        }
    ),
}
_FAILURES: dict[str, Schema] = {
    "Problem": shown(
        {
            "type": text(),
            "title": text(),
            "status": whole(400, 599),
            "detail": text(),
            "code": one_of([*Code, *(outcome for outcome in Outcome if outcome not in (Outcome.OK, Outcome.REJECTED))]),
            "fault": one_of(Fault),
            "hint": text(),
            "evidence": {"type": "object"},
        },
        {"invocationId": ID, "errorType": text(), "errorMessage": text(), "stackTrace": array(text())},
    )
    | {"description": "RFC 9457, with whose fault it is, what to do, and what was observed"},
    "FunctionFailure": shown({"errorType": text(), "invocationId": ID}, {"errorMessage": text(), "stackTrace": array(text())})
    | {"description": "what the function's code raised; of a run through an account alias or an API only that it did"},
}

_SECRETS: dict[str, Schema] = {
    "SecretOrder": taken({"value": text(description="UTF-8; at most secret_bytes")}, "value"),
    "Secret": shown({"key": text(), "updated": number()}),
    "SecretPage": _page("Secret"),
    "SecretsRotated": shown({"key": text(description="the new key's id"), "sealed": whole(0)}),
}
_RUN, _AT = "0190a000-0000-7000-8000-000000000001", 1_700_000_000.25
_EXAMPLES: dict[str, list[Any]] = {
    "Published": [{"function": "greet", "version": 2, "state": "preparing", "changed": False}],
    "AliasTarget": [{"version": 3, "weights": {"4": 10}, "stale": "allow", "max_stale_time": "10s", "canary": None}],
    "EventPage": [
        {
            "items": [{"cursor": 1700000000250, "at": _AT, "kind": "moved", "function": "greet", "version": 3, "pointer": "live", "weights": {"4": 10}}],
            "next": 1700000000250,
        }
    ],
    "Queued": [{"id": _RUN, "state": "queued"}],
    "Invocation": [
        {
            "id": _RUN,
            "function": "greet",
            "version": 2,
            "state": "succeeded",
            "outcome": "ok",
            "attempts": [{"started": _AT, "finished": _AT + 1, "requested": 2, "executed": 2, "outcome": "ok", "error": None}],
            "created": _AT,
            "finished": _AT + 1,
            "result": {"hello": "Ada"},
        }
    ],
    "LogLine": [{"ts": _AT, "stream": "out", "line": "greeting Ada", "invocation": _RUN, "version": 2}],
    "MapItem": [
        {"i": 7, "ok": {"hello": "Ada"}},
        {
            "i": 8,
            "error": {
                "type": "about:blank",
                "title": "invalid event",
                "status": 400,
                "detail": "the body is no JSON",
                "code": "invalid_event",
                "fault": "caller",
                "hint": "",
                "evidence": {},
            },
        },
    ],
    "Problem": [
        {
            "type": "about:blank",
            "title": "oom",
            "status": 502,
            "detail": "the run needed more memory than its version has",
            "code": "oom",
            "fault": "function",
            "hint": "raise memory in pyfaas.toml",
            "evidence": {"limit": "memory", "value": 268435456, "observed": 268435456, "unit": "bytes"},
            "invocationId": _RUN,
        }
    ],
    "FunctionFailure": [{"errorType": "KeyError", "errorMessage": "'name'", "stackTrace": ['  File "main.py", line 3, in handler'], "invocationId": _RUN}],
    "Limits": [{"sync_payload": {"value": 6291456, "unit": "bytes", "key": "sync_payload"}}],
    **EXAMPLES,
}
_SHAPES = {**_SECRETS, **_CALLS, **_FUNCTIONS, **_ACCOUNTS, **_SERVER, **_FAILURES, **SHARING, **APIS}
SCHEMAS: dict[str, Schema] = {name: schema | ({"examples": _EXAMPLES[name]} if name in _EXAMPLES else {}) for name, schema in _SHAPES.items()}
