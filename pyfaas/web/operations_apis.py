"""What the routes of APIs and subscriptions take and answer."""

from __future__ import annotations

from pyfaas.web.asked import API_FORM, NAME_FORM
from pyfaas.web.described import DONE, JSON, TIMEOUT_PATTERN, Answer, Operation, json_answer, page_query
from pyfaas.web.shapes import ANY, Schema, one_of, ref, text, whole

BYTES, NDJSON = "application/octet-stream", "application/x-ndjson"

_RUNNING: dict[str, Schema] = {"running": one_of(("stop", "finish")) | {"default": "stop", "description": "what becomes of runs that run"}}
_DEFINITION = {
    "version": "1",
    "title": "Texts",
    "operations": [
        {
            "name": "summarise",
            "method": "POST",
            "path": "/summaries/{id}",
            "function": "summarise:3",
            "input": {"type": "object", "properties": {"id": {"type": "integer"}, "text": {"type": "string"}}, "required": ["text"]},
        }
    ],
}
_CALL_HEADERS: dict[str, Schema] = {
    "Pyfaas-Timeout": text(pattern=TIMEOUT_PATTERN, description="covers everything, waiting included; it only shortens"),
    "Prefer": text(description="`respond-async`: keep the call, and answer 202 once it is durable"),
    "Pyfaas-On-Disconnect": one_of(("finish", "cancel")),
    "traceparent": text(description="W3C Trace Context"),
}
_RUN = {
    200: Answer(says="as /v1/functions/{name}/invoke answers", content={"*/*": ANY}, headers=("Pyfaas-Invocation-Id",)),
    202: json_answer("kept: durable, and runs when its turn comes", ref("Queued"), "Location", "Preference-Applied"),
}
_RUN_ERRORS = (404, 409, 410, 413, 429, 502, 503, 504, 507)

APIS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/functions/{name}/{operation}/invoke"): Operation(
        tag="apis",
        says="Call an operation by its name, through a subscription",
        more="Of the newest API version that has it and is not retired. The body is the event, as for /v1/functions/{name}/invoke.",
        headers={**_CALL_HEADERS, "Pyfaas-Stale": one_of(("allow", "forbid"))},
        body={JSON: ANY, BYTES: text(format="binary")},
        answers=_RUN,
        errors=_RUN_ERRORS,
        fails=True,
    ),
    ("POST", "/v1/functions/{name}/{operation}/map"): Operation(
        tag="apis",
        says="Call an operation once for each line",
        more="As /v1/functions/{name}/map does with a function.",
        query={"concurrency": whole(1, 1000) | {"default": 20, "description": "items at once"}},
        headers={"Pyfaas-Timeout": _CALL_HEADERS["Pyfaas-Timeout"]},
        body={NDJSON: ANY},
        answers={200: Answer(says="a line for each item", content={NDJSON: ref("MapItem")})},
        errors=(404, 410, 503),
    ),
    ("GET", "/v1/apis"): Operation(
        tag="apis",
        says="List the directory: public APIs, one's own, and those that one is listed for or subscribed to",
        query=page_query(API_FORM),
        answers={200: json_answer("a page, by owner and name", ref("ApiPage"))},
    ),
    ("GET", "/v1/apis/{api}"): Operation(
        tag="apis", says="Show an API of one's own", answers={200: json_answer("the API", ref("Api"))}, errors=(404,)
    ),
    ("PUT", "/v1/apis/{api}"): Operation(
        tag="apis",
        says="Publish a version of an API",
        more="The keys are api.toml's, with `input` and `output` as JSON Schemas. Only own functions can be named, else all of it is refused. "
        "A published version never changes: the same again is fine, other content under its name a conflict.",
        body={JSON: ref("ApiDefinition")},
        is_body_needed=True,
        example=_DEFINITION,
        answers={200: json_answer("it was there", ref("ApiVersion")), 201: json_answer("it is new", ref("ApiVersion"))},
        errors=(404, 409, 410, 413, 507),
    ),
    ("DELETE", "/v1/apis/{api}"): Operation(
        tag="apis", says="Remove an API: its subscriptions end", query=_RUNNING, answers={204: DONE}, errors=(404, 507)
    ),
    ("POST", "/v1/apis/{api}/versions/{version}/deprecate"): Operation(
        tag="apis",
        says="Say that a version should not be used any more",
        more="It goes on answering, with the header `Deprecation: true`, and `Sunset` (RFC 8594) when that is told.",
        body={JSON: ref("SunsetOrder")},
        answers={200: json_answer("the version", ref("ApiVersion"))},
        errors=(404, 409, 413, 507),
    ),
    ("POST", "/v1/apis/{api}/versions/{version}/retire"): Operation(
        tag="apis",
        says="End a version for good: from now on it is gone",
        answers={200: json_answer("the version", ref("ApiVersion"))},
        errors=(404, 413, 507),
    ),
    ("GET", "/v1/apis/{api}/approvals"): Operation(
        tag="apis",
        says="List who asked for an API of one's own, and what became of it",
        query=page_query(NAME_FORM),
        answers={200: json_answer("a page, by account", ref("ApprovalPage"))},
        errors=(404,),
    ),
    ("POST", "/v1/apis/{api}/approvals/{account}"): Operation(
        tag="apis",
        says="Approve or refuse what an account asked for",
        body={JSON: ref("ApprovalOrder")},
        is_body_needed=True,
        example={"approve": True},
        answers={200: json_answer("as it is now", ref("Approval"))},
        errors=(404, 409, 413, 507),
    ),
    ("DELETE", "/v1/apis/{api}/approvals/{account}"): Operation(
        tag="apis", says="End an account's subscription: no later run succeeds", query=_RUNNING, answers={204: DONE}, errors=(404, 507)
    ),
    ("GET", "/v1/subscriptions"): Operation(
        tag="apis", says="List the account's subscriptions by name", query=page_query(NAME_FORM), answers={200: json_answer("a page", ref("SubscriptionPage"))}
    ),
    ("GET", "/v1/subscriptions/{name}"): Operation(
        tag="apis", says="Show a subscription", answers={200: json_answer("the subscription", ref("Subscription"))}, errors=(404,)
    ),
    ("PUT", "/v1/subscriptions/{name}"): Operation(
        tag="apis",
        says="Subscribe to an API under a name of one's own",
        more="One living subscription of an API, good for all its versions. The same API again replaces what is stored with it. Operations are called "
        "at `url`, or by name: POST /v1/functions/{name}/{operation}/invoke.",
        body={JSON: ref("SubscriptionOrder")},
        is_body_needed=True,
        example={"api": "ada/text", "params": {"language": "en"}},
        answers={200: json_answer("it was there", ref("Subscription")), 201: json_answer("it is new: active, or pending", ref("Subscription"))},
        errors=(404, 409, 410, 413, 507),
    ),
    ("DELETE", "/v1/subscriptions/{name}"): Operation(
        tag="apis", says="End a subscription of one's own, with its secrets", query=_RUNNING, answers={204: DONE}, errors=(404, 507)
    ),
    ("GET", "/v1/apis/{owner}/{api}"): Operation(
        tag="apis", says="Show an API", answers={200: json_answer("the API", ref("Api"))}, errors=(404,)
    ),
    ("GET", "/v1/apis/{owner}/{api}/{version}/openapi.json"): Operation(
        tag="apis",
        says="The OpenAPI 3.1 document of an API's version",
        more="It needs no subscription.",
        answers={200: json_answer("the document", {"type": "object"})},
        errors=(404, 410),
    ),
    ("*", "/v1/apis/{owner}/{api}/{version}/{path:.*}"): Operation(
        tag="apis",
        says="Call an operation of an API that one is subscribed to",
        more="The event is the body with the parameters of path and query beside its members; the path wins over the query, the query over the body. "
        "What does not fit the operation's input is refused and charged to nobody.",
        headers=_CALL_HEADERS,
        body={"*/*": ANY},
        answers=_RUN,
        errors=(*_RUN_ERRORS, 405),
        fails=True,
    ),
}
