"""The shapes of APIs: definitions, what is told of them, and subscriptions."""

from __future__ import annotations

from pyfaas.apifile import DOCUMENT, MAX_OPERATIONS, METHODS, PARAMETER_FORM, SEGMENT_FORM, VERSION_FORM
from pyfaas.sharing import Access, ApiState, Payer, SubscriptionState
from pyfaas.web.shapes import (
    ANY,
    DESTINATION,
    NAME,
    TIME,
    Schema,
    array,
    maybe,
    one_of,
    page_of,
    ref,
    shown,
    table,
    taken,
    text,
    whole,
)

_FLAG: Schema = {"type": "boolean"}
_SECRET = text(pattern="^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")
API_NAME = text(pattern=NAME["pattern"], description="not `approvals` or `versions`", examples=["text"])
API_VERSION = text(pattern=f"^(?!\\.{{1,2}}$){VERSION_FORM}$", examples=["1"])
_PATH = text(
    pattern=f"^(/({SEGMENT_FORM}|\\{{{PARAMETER_FORM}\\}})){{1,16}}$",
    description=f"each parameter a whole segment; /{DOCUMENT} is taken",
    examples=["/summaries/{id}"],
)
_SCHEMA: Schema = {
    "type": "object",
    "description": "JSON Schema 2020-12 that refers to nothing outside itself; an input's also not to itself",
    "examples": [{"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}],
}
_TERMS: dict[str, Schema] = {
    "network": array(DESTINATION) | {"description": "destinations that a run may reach, at most"},
    "logs": _FLAG | {"description": "a subscriber sees what its runs print"},
    "reuse": _FLAG | {"description": "a container may answer the same subscription again"},
    "max_concurrency": maybe(whole(1, 10_000)) | {"description": "runs of one subscription at once"},
    "rate": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1_000_000, "description": "runs of one subscription that begin in a second"},
    "per_day": maybe(whole(1, 10**9)) | {"description": "runs of one subscription in a day, UTC"},
    "secrets": array(_SECRET) | {"description": "keys of the functions' own secrets that travel along"},
    "payer": one_of(Payer),
}
_SHOWN_TERMS: dict[str, Schema] = {**_TERMS, "network": array(text()), "secrets": array(text())}
_OPERATION: dict[str, Schema] = {"name": NAME, "method": one_of(METHODS), "path": _PATH}
_STATE = one_of(SubscriptionState)
APIS: dict[str, Schema] = {
    "ApiOperationOrder": taken(
        {
            **_OPERATION,
            "function": text(pattern="^[A-Za-z0-9_-]{1,64}(:([A-Za-z0-9_-]{1,64}|sha256-[0-9a-f]{64}))?$", examples=["summarise:3"]),
            "input": _SCHEMA,
            "output": _SCHEMA,
            "timeout": text(pattern="^([1-9][0-9]{0,4}ms|[1-9][0-9]{0,1}s)$", description="500ms, 30s or 5m; at most 900s"),
            "description": text(maxLength=4096),
        },
        "name",
        "path",
        "function",
    ),
    "ApiDefinition": taken(
        {
            "name": API_NAME | {"description": "the path's, when it is there"},
            "version": API_VERSION,
            "access": one_of(Access),
            "accounts": array(NAME) | {"description": "who may subscribe, where access is `listed`"},
            "directory": _FLAG | {"default": True, "description": "whether everybody finds it in the directory"},
            "title": text(maxLength=4096),
            "description": text(maxLength=4096),
            "operations": array(ref("ApiOperationOrder")) | {"minItems": 1, "maxItems": MAX_OPERATIONS},
            **_TERMS,
        },
        "version",
        "operations",
    ),
    "ApiOperation": shown(
        _OPERATION,
        {
            "description": text(),
            "function": text(description="to its owner"),
            "timeout_ms": maybe(whole()),
        },
    ),
    "ApiVersion": shown(
        {"version": text(), "state": one_of(ApiState), "sunset": maybe(TIME), "created": TIME, "operations": array(ref("ApiOperation"))},
        {
            "access": one_of(Access) | {"description": "this and what follows to its owner"},
            "accounts": array(text()),
            "digest": text(description="of what the definition says"),
            "terms": shown(_SHOWN_TERMS),
            "owner": text(),
            "api": text(),
        },
    ),
    "Api": shown(
        {
            "owner": text(),
            "api": NAME,
            "access": maybe(one_of(Access)),
            "directory": _FLAG,
            "title": text(),
            "description": text(),
            "created": TIME,
            "subscribed": {"anyOf": [shown({"name": NAME, "state": _STATE}), {"type": "null"}]},
            "versions": array(ref("ApiVersion")) | {"description": "oldest first"},
        }
    ),
    "ApiPage": page_of("Api"),
    "Approval": shown({"account": text(), "state": _STATE, "created": TIME, "ended": maybe(TIME)}),
    "ApprovalPage": page_of("Approval"),
    "ApprovalOrder": taken({"approve": _FLAG}, "approve"),
    "SunsetOrder": taken({"sunset": maybe(TIME) | {"exclusiveMinimum": 0, "exclusiveMaximum": 253_402_300_800, "description": "when it is meant to be retired"}}),
    "Subscription": shown(
        {
            "name": NAME,
            "api": text(description="OWNER/NAME"),
            "state": _STATE,
            "version": maybe(text(description="the newest one that is not retired")),
            "url": maybe(text(description="where that version's operations are")),
            "operations": array(ref("ApiOperation")),
            "params": table(ANY),
            "secrets": array(text()) | {"description": "their names"},
            "network": array(text()),
            "created": TIME,
        }
    ),
    "SubscriptionPage": page_of("Subscription"),
    "SubscriptionOrder": taken(
        {
            "api": text(pattern="^[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}$", description="OWNER/NAME"),
            "params": {"type": ["object", "null"], "propertyNames": {"minLength": 1, "maxLength": 128}},
            "secrets": {"type": ["object", "null"], "additionalProperties": text(), "propertyNames": _SECRET, "description": "none given: those that are kept stay"},
            "network": maybe(array(DESTINATION)) | {"description": "destinations that the runs may reach, of those that the API lends"},
        },
        "api",
    ),
}
