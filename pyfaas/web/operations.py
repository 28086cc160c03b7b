"""What each route takes and answers, by its row in the table of routes: the words of the OpenAPI document.

The names of the query parameters are also what a request is checked by. A route without its description here fails
tests/e2e/test_openapi.py.
"""

from __future__ import annotations

from pyfaas.contract import STATUS
from pyfaas.errors import Code
from pyfaas.model import JobState, Scope
from pyfaas.web.asked import BUDGET_FORM, ID_FORM, MAX_CURSOR, MAX_TIME, MAX_VERSION, NAME_FORM, TOKEN_FORM, USAGE_FORM
from pyfaas.web.described import DONE as _GONE
from pyfaas.web.described import JSON, TIMEOUT_PATTERN, Answer, Operation
from pyfaas.web.described import json_answer as _json
from pyfaas.web.described import page_query as _page
from pyfaas.web.operations_apis import APIS
from pyfaas.web.operations_sharing import SHARING
from pyfaas.web.routes_secrets import KEY_FORM
from pyfaas.web.schemas_apis import API_NAME, API_VERSION
from pyfaas.web.shapes import ANY, CODE_ID_PATTERN, ID, NAME, NAME_PATTERN, VERSION, Schema, one_of, ref, text, whole

NDJSON, BYTES, PROBLEM = "application/x-ndjson", "application/octet-stream", "application/problem+json"


CALL_HEADERS = ("Pyfaas-Invocation-Id", "Pyfaas-Requested-Version", "Pyfaas-Executed-Version", "Pyfaas-Outcome", "Server-Timing")
_TIMES = {"from": "from this time on", "to": "until this time"}
_TIME: Schema = {"type": "number", "minimum": 0, "exclusiveMaximum": MAX_TIME}
_FLAG: Schema = {"type": "boolean"}



_QUALIFIER = text(pattern=f"{NAME_PATTERN}|{CODE_ID_PATTERN}", description="a version, `latest`, a release alias, or a code id")
_LOG = {
    "since": _TIME | {"description": "lines from this time on, seconds since the epoch"},
    "build": _FLAG | {"description": "the log of the preparation instead"},
    "after": whole(0, 10**12) | {"description": "lines after this cursor"},
    "limit": whole(1, 10_000) | {"default": 1000, "description": "lines of one answer, or of one look when following"},
    "follow": _FLAG | {"description": "go on with what is still to come"},
}
_WAIT = {"wait": whole(0, 3600) | {"description": "seconds to wait for the end; at most 60 in one request"}}
PROMOTE_PATTERN = "^([1-9][0-9]{3,7}ms|[1-9][0-9]{0,5}s|[1-9][0-9]{0,3}m|[1-9][0-9]?h)$"
_TIMEOUT: Schema = text(pattern=TIMEOUT_PATTERN, description="covers everything, waiting included; it only shortens")
_CALL_HEADERS: dict[str, Schema] = {
    "Pyfaas-Timeout": _TIMEOUT,
    "Pyfaas-Stale": one_of(("allow", "forbid")) | {"description": "whether an older version may answer"},
    "traceparent": text(description="W3C Trace Context"),
}
_EVENT: dict[str, Schema] = {JSON: ANY, BYTES: text(format="binary")}
_LINES = Answer(says="lines of JSON", content={NDJSON: ref("LogLine")})
_RUNS = (404, 409, 410, 413, 429, 502, 503, 504)
_WRITES = (404, 409, 410, 507)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/"): Operation(
        tag="server",
        says="What this is and where things are",
        answers={200: Answer(says="a page for a browser, JSON for anybody else", content={JSON: ref("Home"), "text/html": text()})},
    ),
    ("GET", "/openapi.json"): Operation(
        tag="server",
        says="This document",
        headers={"If-None-Match": text()},
        answers={200: Answer(says="the document", content={JSON: {"type": "object"}}, headers=("ETag",)), 304: Answer(says="as you know it")},
    ),
    ("GET", "/healthz"): Operation(tag="server", says="Whether the server lives", answers={200: _json("it does", ref("Live"))}),
    ("GET", "/readyz"): Operation(
        tag="server",
        says="Whether calls are taken, and which layers of isolation are live",
        answers={200: _json("calls are taken", ref("Ready")), 503: _json("the server is stopping", ref("Ready"), "Retry-After")},
    ),
    ("GET", "/metrics"): Operation(
        tag="server",
        says="Figures for Prometheus",
        more="Anybody sees sums; an admin's token also sees them by account and function.",
        answers={200: Answer(says="in Prometheus' text format, or as OpenMetrics when asked for", content={"text/plain": text(), "application/openmetrics-text": text()})},
        is_token_optional=True,
    ),
    ("GET", "/v1/whoami"): Operation(tag="accounts", says="Who a token speaks for", answers={200: _json("the account and the scopes", ref("Whoami"))}),
    ("GET", "/v1/functions"): Operation(
        tag="functions", says="List functions by name", query=_page(NAME_FORM), answers={200: _json("a page", ref("FunctionPage"))}
    ),
    ("PUT", "/v1/functions/{name}"): Operation(
        tag="functions",
        says="Publish a version",
        more="Two parts: `config`, JSON with the keys of pyfaas.toml, and `code`, a zip. The version is prepared beside the one that serves.",
        query={
            "alias": NAME | {"description": "the release alias that moves to the version once it is ready"},
            "canary": whole(1, 100) | {"description": "percent that it sends there first; doubled until it is all. Needs alias"},
            "promote_after": text(pattern=PROMOTE_PATTERN, description="the time from the first percent to all: 5m. Needs canary"),
            "error_budget": text(pattern=f"^{BUDGET_FORM}$", description="percent of its runs that may fail, from 50 runs on. Needs canary"),
        },
        body={
            "multipart/form-data": {
                "type": "object",
                "properties": {"config": ref("FunctionConfig"), "code": text(format="binary")},
                "required": ["code"],
                "additionalProperties": False,
            }
        },
        is_body_needed=True,
        answers={
            201: _json("a new version", ref("Published")),
            200: _json("the same code: its number, and whether settings changed", ref("Published")),
        },
        errors=(409, 413, 507),
    ),
    ("GET", "/v1/functions/{name}"): Operation(
        tag="functions", says="Show a function", answers={200: _json("the function", ref("Function"))}, errors=(404,)
    ),
    ("DELETE", "/v1/functions/{name}"): Operation(
        tag="functions",
        says="Remove a function",
        more="Queued runs are cancelled, running ones finish, later calls are 404.",
        answers={204: _GONE},
        errors=(404, 507),
    ),
    ("POST", "/v1/functions/{name}/invoke"): Operation(
        tag="calls",
        says="Run a function",
        more="The body is the event: JSON, or bytes of any other type; empty is {}. A generator's items come as a stream.",
        query={"qualifier": _QUALIFIER},
        headers={
            **_CALL_HEADERS,
            "Prefer": text(description="`respond-async`: keep the call, and answer 202 once it is durable"),
            "Pyfaas-Sticky-Key": text(minLength=1, maxLength=256, description="draws among weighted versions"),
            "Pyfaas-On-Disconnect": one_of(("finish", "cancel")),
        },
        body=_EVENT,
        example={"name": "Ada"},
        answers={
            200: Answer(
                says="the result; or a stream of NDJSON, server-sent events or bytes, which ends with the generator",
                content={JSON: ANY, BYTES: ANY, NDJSON: ANY, "text/event-stream": ANY, "text/plain": ANY},
                headers=CALL_HEADERS,
            ),
            202: _json("kept: durable, and runs when its turn comes", ref("Queued"), "Location", "Preference-Applied"),
        },
        errors=(*_RUNS, 507),
        fails=True,
    ),
    ("POST", "/v1/functions/{name}/map"): Operation(
        tag="calls",
        says="Run a function once for each line",
        more="Lines of JSON in, lines of JSON out, both as they come; an answer's `i` is its line's place, from 0. Empty lines do not count. "
        "Results come in the order in which they are ready. All items run the version that the qualifier names at the start. "
        "Read while you send: a client that does not read is not read from. One that leaves cancels what runs.",
        query={
            "qualifier": _QUALIFIER,
            "concurrency": whole(1, 1000) | {"default": 20, "description": "items at once, and no more than an account may have running"},
        },
        headers=_CALL_HEADERS,
        body={NDJSON: ANY},
        answers={
            200: Answer(
                says='a line for each item; a last line {"$error": problem} when the request itself broke off',
                content={NDJSON: ref("MapItem")},
                headers=("Pyfaas-Requested-Version",),
            )
        },
        errors=(404, 410, 503),
    ),
    ("POST", "/v1/functions/{name}/rollback"): Operation(
        tag="functions",
        says="Move a pointer back, and withdraw the version that it left",
        more="One with two versions, or with a canary, goes back to its main version alone; any other to the last ready version before.",
        body={JSON: ref("Rollback")},
        answers={200: _json("where the pointer is now", ref("RolledBack"))},
        errors=(*_WRITES, 413),
    ),
    ("GET", "/v1/functions/{name}/logs"): Operation(
        tag="functions",
        says="Read a function's log",
        query={"version": VERSION, "id": ID | {"description": "of one invocation"}, **_LOG},
        answers={200: _LINES},
        errors=(404,),
    ),
    ("GET", "/v1/functions/{name}/events"): Operation(
        tag="functions",
        says="Follow what happens to a function's versions",
        more="Answers with what happened after a cursor, or waits for it; ask again with `next`. With `Accept: text/event-stream` it is a stream: "
        "`id` is the cursor, `event` the kind, and `data` what an item is; with Last-Event-ID it goes on without a gap. Kept as long as logs.",
        query={
            "after": whole(0, MAX_CURSOR) | {"description": "events after this cursor"},
            "wait": whole(0, 3600) | {"description": "seconds to wait for the first one; at most 60 in one request"},
            "version": VERSION | {"description": "events that are about this version, or give it a weight"},
            "limit": whole(1, 1000) | {"default": 100, "description": "events of one answer"},
        },
        headers={"Last-Event-ID": text(pattern="^[0-9]{1,15}$", description="goes on after this cursor, instead of `after`")},
        answers={200: Answer(says="what happened", content={JSON: ref("EventPage"), "text/event-stream": ANY})},
        errors=(404, 503),
    ),
    ("GET", "/v1/functions/{name}/versions"): Operation(
        tag="functions",
        says="List a function's versions, newest first",
        query={**_page(NAME_FORM), "after": whole(1, MAX_VERSION + 1) | {"description": "versions before this one"}},
        answers={200: _json("a page", ref("VersionPage"))},
        errors=(404,),
    ),
    ("GET", "/v1/functions/{name}/versions/{number}"): Operation(
        tag="functions",
        says="Show a version",
        query={"wait": _WAIT["wait"] | {"description": "seconds to wait until it failed, or is ready and cut over; at most 60 in one request"}},
        answers={200: _json("the version", ref("Version"))},
        errors=(404, 410),
    ),
    ("DELETE", "/v1/functions/{name}/versions/{number}"): Operation(
        tag="functions", says="Remove a version that no pointer names", answers={204: _GONE}, errors=_WRITES
    ),
    ("GET", "/v1/functions/{name}/aliases"): Operation(
        tag="functions", says="Show a function's release aliases by name", answers={200: _json("the aliases", ref("Aliases"))}, errors=(404,)
    ),
    ("GET", "/v1/functions/{name}/aliases/{alias}"): Operation(
        tag="functions", says="Show a release alias", answers={200: _json("where it points", ref("AliasTarget"))}, errors=(404,)
    ),
    ("PUT", "/v1/functions/{name}/aliases/{alias}"): Operation(
        tag="functions",
        says="Point a release alias at a version, or at two, and say what it allows",
        more="Keys of the staleness policy that are absent stay as they were, null removes them. It ends the alias's canary.",
        body={JSON: ref("AliasOrder")},
        is_body_needed=True,
        example={"version": 3, "weights": {"4": 10}},
        answers={200: _json("where it points now", ref("AliasTarget"))},
        errors=(*_WRITES, 413),
    ),
    ("DELETE", "/v1/functions/{name}/aliases/{alias}"): Operation(
        tag="functions", says="Remove a release alias", answers={204: _GONE}, errors=(404, 507)
    ),
    ("GET", "/v1/functions/{name}/secrets"): Operation(
        tag="functions",
        says="List the names of a function's secrets",
        more="Values are never shown.",
        query=_page(KEY_FORM),
        answers={200: _json("a page", ref("SecretPage"))},
        errors=(404,),
    ),
    ("PUT", "/v1/functions/{name}/secrets/{key}"): Operation(
        tag="functions",
        says="Keep a secret for a function",
        more="Its code finds it in `context.secrets`, from the next attempt on, whichever version runs. It is encrypted at rest, and no part of a version.",
        body={JSON: ref("SecretOrder"), "text/plain": text()},
        is_body_needed=True,
        example={"value": "the value"},
        answers={200: _json("kept", ref("Secret"))},
        errors=(404, 413, 503, 507),
    ),
    ("DELETE", "/v1/functions/{name}/secrets/{key}"): Operation(
        tag="functions", says="Remove a function's secret", answers={204: _GONE}, errors=(404, 503, 507)
    ),
    ("POST", "/v1/secrets/rotate"): Operation(
        tag="server",
        says="Make a new key for secrets, and seal all of them anew with it",
        more="The old key is removed when nothing is sealed with it. Where the keys come from a systemd credential this is a conflict.",
        answers={200: _json("all are sealed anew", ref("SecretsRotated"))},
        errors=(409, 503, 507),
    ),
    ("GET", "/v1/invocations"): Operation(
        tag="invocations",
        says="List asynchronous invocations by id",
        query={"state": one_of(JobState), **_page(ID_FORM)},
        answers={200: _json("a page", ref("InvocationPage"))},
    ),
    ("GET", "/v1/invocations/{id}"): Operation(
        tag="invocations",
        says="Show an asynchronous invocation",
        query=_WAIT,
        answers={200: _json("the invocation", ref("Invocation"))},
        errors=(404,),
    ),
    ("DELETE", "/v1/invocations/{id}"): Operation(
        tag="invocations",
        says="Cancel an asynchronous invocation",
        more="On one that has ended this changes nothing.",
        answers={200: _json("as it is now", ref("Invocation"))},
        errors=(404, 507),
    ),
    ("GET", "/v1/invocations/{id}/logs"): Operation(
        tag="invocations", says="Read an invocation's log", query=_LOG, answers={200: _LINES}, errors=(404,)
    ),
    ("POST", "/v1/invocations/{id}/replay"): Operation(
        tag="invocations",
        says="Run an invocation again, with its event or the body's",
        body={JSON: ANY},
        answers={202: _json("kept", ref("Queued"), "Location")},
        errors=(404, 413, 507),
    ),
    ("GET", "/v1/accounts"): Operation(
        tag="accounts",
        says="List accounts: an admin sees all, anybody else the own one",
        query=_page(NAME_FORM),
        answers={200: _json("a page", ref("AccountPage"))},
    ),
    ("POST", "/v1/accounts"): Operation(
        tag="accounts",
        says="Create an account with its first token",
        body={JSON: ref("AccountOrder")},
        is_body_needed=True,
        example={"name": "ada"},
        answers={201: _json("the account and its token, shown this once", ref("NewAccount"))},
        errors=(409, 413, 507),
    ),
    ("PUT", "/v1/accounts/{account}"): Operation(
        tag="accounts",
        says="Say what an account allows of staleness, wherever nothing narrower says otherwise",
        more="The own account, or, for an admin, any. Keys that are absent stay as they were, null removes them.",
        body={JSON: ref("AccountPolicy")},
        is_body_needed=True,
        example={"stale": "allow", "max_stale_time": "10s"},
        answers={200: _json("the account", ref("Account"))},
        errors=(404, 413, 507),
    ),
    ("DELETE", "/v1/accounts/{account}"): Operation(
        tag="accounts", says="Remove an account: its tokens die, its runs stop", answers={204: _GONE}, errors=(404, 409, 507)
    ),
    ("GET", "/v1/tokens"): Operation(
        tag="accounts", says="List the account's tokens", query=_page(TOKEN_FORM), answers={200: _json("a page", ref("TokenPage"))}
    ),
    ("POST", "/v1/tokens"): Operation(
        tag="accounts",
        says="Create a token with no more scopes than one's own",
        body={JSON: ref("TokenOrder")},
        example={"scopes": [Scope.INVOKE.value], "label": "my phone"},
        answers={201: _json("the token, shown this once", ref("NewToken"))},
        errors=(404, 413, 507),
    ),
    ("POST", "/v1/tokens/rotate-admin"): Operation(
        tag="accounts", says="Replace the admin's token", answers={200: _json("the new one", ref("NewToken"))}, errors=(507,)
    ),
    ("DELETE", "/v1/tokens/{id}"): Operation(tag="accounts", says="Revoke a token at once", answers={204: _GONE}, errors=(404, 507)),
    ("GET", "/v1/usage"): Operation(
        tag="server",
        says="Sum what was used: what one pays for, what one called, and what others ran of one's own",
        query={key: _TIME | {"description": f"{says}, seconds since the epoch"} for key, says in _TIMES.items()}
        | {"by": one_of(("function", "alias", "api", "caller")) | {"description": "all days together, one row for each"}}
        | {**_page(USAGE_FORM), "limit": whole(1, 10_000) | {"default": 1000, "description": "rows of one page"}},
        answers={200: _json("a page", ref("UsagePage"))},
    ),
    ("GET", "/v1/limits"): Operation(tag="server", says="Show every limit", answers={200: _json("by name", ref("Limits"))}),
    ("GET", "/v1/fleets"): Operation(tag="server", says="Show VMs and containers, and why a function is where it is", answers={200: _json("now", ref("Fleets"))}),
    ("GET", "/v1/backup"): Operation(
        tag="server",
        says="Take a backup of the running server",
        answers={200: Answer(says="an archive", content={"application/x-tar": ANY})},
        errors=(409, 507),
    ),
    ("*", "/f/{account}/{target}/{rest:.*}"): Operation(
        tag="calls",
        says="A function's own URL: it gets the request as it came, and answers as it likes",
        headers={"Pyfaas-Timeout": _TIMEOUT},
        body={"*/*": ANY},
        answers={200: Answer(says="what the function answers, whatever its status", content={"*/*": ANY}, headers=("Pyfaas-Invocation-Id",))},
        errors=(*_RUNS,),
        fails=True,
        is_token_optional=True,
    ),
    **SHARING,
    **APIS,
}
SAYS: dict[int, str] = {status: code.value for code, status in reversed(STATUS.items())} | {
    500: "the function's code raised, or `internal`",
    502: "init_error, oom, limit, forbidden_syscall or crashed",
    503: "lost, no_capacity or not_ready",
    504: "timeout",
}
PATH_PARAMETERS: dict[str, Schema] = {
    "name": text(pattern=NAME_PATTERN, examples=["greet"]),
    "number": VERSION,
    "alias": text(pattern=NAME_PATTERN, examples=["live"]),
    "key": text(pattern=f"^{KEY_FORM}$", examples=["API_KEY"]),
    "id": ID,
    "account": text(pattern=NAME_PATTERN, description="an account's name or id", examples=["default"]),
    "grantee": text(pattern=NAME_PATTERN, description="an account's name or id; `public`, or `*`: everybody", examples=["ada"]),
    "api": API_NAME,
    "owner": text(pattern=NAME_PATTERN, description="an account's name or id", examples=["default"]),
    "version": API_VERSION,
    "operation": text(pattern=NAME_PATTERN, description="of the API that is subscribed to", examples=["summarise"]),
    "path": text(description="an operation's path, its parameters filled in", examples=["summaries/7"]),
    "target": text(pattern="^[A-Za-z0-9_-]{1,64}(:[A-Za-z0-9_-]{1,64})?$", description="NAME, or NAME:QUALIFIER", examples=["greet"]),
    "rest": text(description="whatever the function makes of it; may have slashes, and be empty"),
}
HEADERS: dict[str, Schema] = {
    "Pyfaas-Invocation-Id": ID,
    "Pyfaas-Requested-Version": VERSION | {"description": "what the qualifier resolved to"},
    "Pyfaas-Executed-Version": VERSION | {"description": "what ran"},
    "Pyfaas-Outcome": text(description="how the run ended; a stream has none"),
    "Server-Timing": text(description="queue, init and exec, in milliseconds"),
    "Location": text(description="where the invocation is shown"),
    "Preference-Applied": text(),
    "Retry-After": whole(1) | {"description": "seconds"},
    "WWW-Authenticate": text(),
    "ETag": text(),
}
REQUIRED_HEADERS = frozenset({"Pyfaas-Invocation-Id", "Location", "Retry-After", "WWW-Authenticate", "ETag"})
ERROR_HEADERS: dict[int, str] = {STATUS[Code.UNAUTHENTICATED]: "WWW-Authenticate", STATUS[Code.THROTTLED]: "Retry-After", STATUS[Code.NOT_READY]: "Retry-After"}
