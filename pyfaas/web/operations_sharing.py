"""What the routes of lending take and answer."""

from __future__ import annotations

from pyfaas.web.asked import MAX_CURSOR, NAME_FORM
from pyfaas.web.described import DONE, JSON, Operation, json_answer, page_query
from pyfaas.web.shapes import Schema, one_of, ref, whole

_RUNNING: dict[str, Schema] = {"running": one_of(("stop", "finish")) | {"default": "stop", "description": "what becomes of runs that run"}}

SHARING: dict[tuple[str, str], Operation] = {
    ("GET", "/v1/grants"): Operation(
        tag="sharing", says="Show what the account lends, and what is lent to it", answers={200: json_answer("both sides", ref("Grants"))}
    ),
    ("GET", "/v1/functions/{name}/grants"): Operation(
        tag="sharing",
        says="Show what is lent of a function, or of an account alias",
        answers={200: json_answer("of an alias also the grant that it is bound to", ref("Grants"))},
        errors=(404,),
    ),
    ("PUT", "/v1/functions/{name}/grants/{grantee}"): Operation(
        tag="sharing",
        says="Lend a function to an account, or to everybody",
        more="Other terms replace those of the grant that lives. An account alias can be lent where its own grant has `relend`. "
        "A grant that names no parameter in lock, require or allow takes any.",
        body={JSON: ref("Terms")},
        example={"version": 3, "lock": {"style": "formal"}, "require": ["name"], "rate": 10},
        answers={200: json_answer("it was there", ref("Grant")), 201: json_answer("it is new", ref("Grant"))},
        errors=(404, 409, 410, 413, 507),
    ),
    ("DELETE", "/v1/functions/{name}/grants/{grantee}"): Operation(
        tag="sharing",
        says="Take a grant back: no later run succeeds",
        query=_RUNNING,
        answers={204: DONE},
        errors=(404, 507),
    ),
    ("GET", "/v1/aliases"): Operation(
        tag="sharing", says="List account aliases by name", query=page_query(NAME_FORM), answers={200: json_answer("a page", ref("AccountAliasPage"))}
    ),
    ("GET", "/v1/aliases/{name}"): Operation(
        tag="sharing", says="Show an account alias", answers={200: json_answer("the alias", ref("AccountAlias"))}, errors=(404,)
    ),
    ("PUT", "/v1/aliases/{name}"): Operation(
        tag="sharing",
        says="Make an account alias: a name of one's own for something that is lent, or is one's own",
        more="It is run as a function. The same target again replaces what the alias is bound with; another one is a conflict.",
        body={JSON: ref("AccountAliasOrder")},
        is_body_needed=True,
        example={"target": "ada/greet:3", "params": {"name": "Grace"}, "timeout": "5s"},
        answers={200: json_answer("it was there", ref("AccountAlias")), 201: json_answer("it is new", ref("AccountAlias"))},
        errors=(404, 409, 410, 413, 507),
    ),
    ("DELETE", "/v1/aliases/{name}"): Operation(
        tag="sharing",
        says="Remove an account alias with its secrets, and what was lent of it",
        query=_RUNNING,
        answers={204: DONE},
        errors=(404, 507),
    ),
    ("GET", "/v1/audit"): Operation(
        tag="sharing",
        says="Show the account's side of what was lent, taken, called and refused",
        query={
            "after": whole(0, MAX_CURSOR) | {"description": "lines after this cursor"},
            "limit": whole(1, 1000) | {"default": 100, "description": "lines of one page"},
        },
        answers={200: json_answer("a page", ref("AuditPage"))},
    ),
}
