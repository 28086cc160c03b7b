"""The shapes of what is lent: grants, account aliases, and the audit trail."""

from __future__ import annotations

from pyfaas.sharing import AuditKind, Payer, Placing
from pyfaas.web.shapes import (
    ANY,
    DESTINATION,
    ID,
    NAME,
    TIME,
    VERSION,
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
_PARAMETER = text(minLength=1, maxLength=128)
_PARAMETERS = table(ANY) | {"propertyNames": {"minLength": 1, "maxLength": 128}}
_SECRET = text(pattern="^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")
_ACCOUNT = text(description="an account's name; `*`: everybody")
_CAPS: dict[str, Schema] = {
    "max_concurrency": maybe(whole(1, 10_000)) | {"description": "runs of one account at once"},
    "rate": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1_000_000, "description": "runs of one account that begin in a second"},
    "per_day": maybe(whole(1, 10**9)) | {"description": "runs of one account in a day, UTC"},
}
_FLAGS: dict[str, Schema] = {
    "relend": _FLAG | {"description": "the account may lend its alias on"},
    "logs": _FLAG | {"description": "the account sees what its runs print"},
    "reuse": _FLAG | {"description": "a container may answer the same alias again"},
}
_SIDES: dict[str, Schema] = {
    "placement": one_of(Placing) | {"description": "whose VMs it runs in; the last two only where both sides say so"},
    "payer": one_of(Payer),
}
_KNOWN: dict[str, Schema] = {
    "id": ID,
    "owner": text(),
    "function": NAME | {"description": "what is lent, as its owner calls it"},
    "account": _ACCOUNT,
    "created": TIME,
    "version": maybe(VERSION) | {"description": "the only one that is lent; null: any"},
    "locked": array(text()) | {"description": "parameters that the owner set"},
    "require": array(text()) | {"description": "parameters that have to be given"},
    "allow": array(text()) | {"description": "parameters that a call may give itself, although the alias stored them"},
    **{key: _CAPS[key] for key in ("max_concurrency", "rate", "per_day")},
    **_FLAGS,
    "network": array(text()) | {"description": "destinations that a lent run may reach, at most"},
    **_SIDES,
}
SHARING: dict[str, Schema] = {
    "Terms": taken(
        {
            "version": maybe(VERSION),
            "lock": {**_PARAMETERS, "type": ["object", "null"], "description": "parameters that the owner sets"},
            "require": maybe(array(_PARAMETER)),
            "allow": maybe(array(_PARAMETER)),
            **_CAPS,
            **{key: maybe(schema) for key, schema in _FLAGS.items()},
            "network": maybe(array(DESTINATION)),
            "secrets": maybe(array(_SECRET)) | {"description": "keys of the function's own secrets that travel along"},
            **{key: maybe(schema) for key, schema in _SIDES.items()},
        }
    ),
    "Grant": shown(
        {
            **_KNOWN,
            "lock": table(ANY),
            "secrets": array(text()),
            "secrets_missing": array(text()) | {"description": "those among them that the function does not have yet"},
        }
    ),
    "ReceivedGrant": shown({**_KNOWN, "target": text(description="what to accept")}),
    "Grants": shown({"given": array(ref("Grant")), "received": array(ref("ReceivedGrant"))}),
    "AccountAliasOrder": taken(
        {
            "target": text(
                pattern="^[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}(:([A-Za-z0-9_-]{1,64}|sha256-[0-9a-f]{64}))?$",
                description="OWNER/NAME or OWNER/NAME:QUALIFIER",
            ),
            "params": {**_PARAMETERS, "type": ["object", "null"]},
            "secrets": maybe(table(text(maxLength=16_384)) | {"propertyNames": {"pattern": _SECRET["pattern"]}})
            | {"description": "in place of all that it has; absent: as they are"},
            "memory": {"type": ["string", "integer", "null"], "description": "at most the version's"},
            "timeout": {"type": ["string", "number", "null"], "description": "at most the version's"},
            "network": maybe(array(DESTINATION)) | {"description": "destinations it may reach, among those that are lent"},
            "placement": maybe(one_of(Placing)),
        },
        "target",
    ),
    "AccountAlias": shown(
        {
            "name": NAME,
            "target": text(),
            "url": text(description="its own URL"),
            "invoke": text(description="where it is run with a POST"),
            "version": maybe(text()) | {"description": "what it is bound to: a version or a release alias; null: the newest"},
            "params": table(ANY),
            "secrets": array(text()) | {"description": "their keys"},
            "memory": maybe(whole()) | {"description": "bytes; null: the version's"},
            "timeout": maybe(whole()) | {"description": "milliseconds; null: the version's"},
            "network": array(text()),
            "placement": one_of(Placing),
            "created": TIME,
            "state": one_of(("active", "gone")) | {"description": "gone: its grant ended; accept again once there is another"},
        }
    ),
    "AccountAliasPage": page_of("AccountAlias"),
    "AuditLine": shown(
        {
            "cursor": whole(),
            "at": TIME,
            "kind": one_of(AuditKind),
            "other": maybe(text()) | {"description": "the other side: an account's name, its id when it is gone"},
            "name": text(description="what it was about, as this account calls it"),
            "detail": {"type": "object", "additionalProperties": True},
        }
    ),
    "AuditPage": page_of("AuditLine"),
}
_AT = 1_700_000_000.25
_GRANT = {
    "id": "0190a000-0000-4000-8000-000000000002",
    "owner": "ada",
    "function": "greet",
    "account": "grace",
    "created": _AT,
    "version": 3,
    "locked": ["style"],
    "require": ["name"],
    "allow": [],
    "max_concurrency": None,
    "rate": 10.0,
    "per_day": None,
    "relend": False,
    "logs": False,
    "reuse": False,
    "network": ["api.example.com:443"],
    "placement": "pair",
    "payer": "caller",
}
EXAMPLES: dict[str, list[object]] = {
    "Terms": [{"version": 3, "lock": {"style": "formal"}, "require": ["name"], "rate": 10, "network": ["api.example.com:443"]}],
    "Grant": [{**_GRANT, "lock": {"style": "formal"}, "secrets": [], "secrets_missing": []}],
    "ReceivedGrant": [{**_GRANT, "target": "ada/greet"}],
    "AccountAlias": [
        {
            "name": "hello",
            "target": "ada/greet",
            "url": "http://127.0.0.1:8787/f/grace/hello/",
            "invoke": "http://127.0.0.1:8787/v1/functions/hello/invoke",
            "version": "3",
            "params": {"name": "Grace"},
            "secrets": ["TOKEN"],
            "memory": None,
            "timeout": 5000,
            "network": ["api.example.com:443"],
            "placement": "pair",
            "created": _AT,
            "state": "active",
        }
    ],
    "AuditLine": [{"cursor": 7, "at": _AT, "kind": "called", "other": "ada", "name": "greet", "detail": {"count": 2, "outcomes": {"ok": 2}}}],
}
