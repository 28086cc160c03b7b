"""What the verbs of lending have in common: their options, and how grants, APIs and what happened are told in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from pyfaas.cli import console, sentences
from pyfaas.client.lending import EVERYBODY

PLACEMENTS, PAYERS = ("pair", "owner", "caller"), ("caller", "owner")
Own = Annotated[str, typer.Argument(metavar="NAME", help="a function, or an account alias that was lent with --relend")]
Alias = Annotated[str, typer.Argument(metavar="NAME", help="an account alias")]
Param = Annotated[
    list[str] | None, typer.Option("--param", metavar="K=V", help="a parameter of every run; K:=JSON; repeats", show_default=False)
]
Secret = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="K=@FILE", help="a secret of every run; K=- is stdin; repeats", show_default=False),
]
Network = Annotated[
    list[str] | None, typer.Option("--network", metavar="ENTRY", help="HOST:PORT that its runs may reach; repeats", show_default=False)
]
Version = Annotated[int | None, typer.Option("--version", metavar="N", help="only this version", show_default=False)]
Lock = Annotated[
    list[str] | None, typer.Option("--lock", metavar="K=V", help="a parameter that is fixed; K:=JSON; repeats", show_default=False)
]
Require = Annotated[
    list[str] | None, typer.Option("--require", metavar="K", help="a parameter that must be given; repeats", show_default=False)
]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", metavar="K", help="a parameter that a call may give itself; repeats", show_default=False)
]
MaxConcurrency = Annotated[int | None, typer.Option("--max-concurrency", metavar="N", help="runs at once", show_default=False)]
Rate = Annotated[float | None, typer.Option("--rate", metavar="R", help="runs in a second", show_default=False)]
PerDay = Annotated[int | None, typer.Option("--per-day", metavar="N", help="runs in a day, UTC", show_default=False)]
Travelling = Annotated[
    list[str] | None, typer.Option("--secret", metavar="K", help="a secret of yours that travels along; repeats", show_default=False)
]
Placement = Annotated[
    str | None,
    typer.Option("--placement", metavar="pair|owner|caller", help="whose VMs it runs in; pair unless both sides say so", show_default=False),
]
Payer = Annotated[str | None, typer.Option("--payer", metavar="caller|owner", help="whose usage it is", show_default=False)]
Running = Annotated[str, typer.Option("--running", metavar="stop|finish", help="what becomes of runs that go on")]


def one_of(value: str | None, words: Sequence[str], option: str) -> str | None:
    """Return an option's value when it is one of some words; raises BadParameter otherwise."""
    if value is not None and value not in words:
        raise typer.BadParameter(f"{option}: {value!r} is none of {', '.join(words)}")
    return value


def said(**terms: Any) -> dict[str, Any]:
    """Return the terms that were said; the others are the server's defaults."""
    return {key: value for key, value in terms.items() if value not in (None, False, [], {})}


def whom(account: str) -> str:
    """Say who a grant is for."""
    return "everybody" if account in EVERYBODY else account


def filled(shown: Mapping[str, Any]) -> list[str]:
    """Return the keys of a document that say something."""
    return [key for key, value in shown.items() if value not in (None, False, [], {}, "")]


def grant_row(grant: Mapping[str, Any]) -> dict[str, Any]:
    """Return a grant as a line of a table, whichever side it is seen from."""
    name = str(grant.get("function"))
    return {
        "name": name,
        "target": grant.get("target") or f"{grant.get('owner')}/{name}",
        "as": grant.get("as"),
        "to": whom(str(grant.get("account"))),
        "version": grant.get("version"),
        "parameters": _parameters(grant),
        "caps": sentences.quota(grant).removeprefix("-"),
        "network": grant.get("network"),
        "may": [word for word in ("relend", "logs", "reuse") if grant.get(word)],
        "created": grant.get("created"),
    }


def _parameters(grant: Mapping[str, Any]) -> str:
    said = []
    for word, key in (("lock", "locked"), ("require", "require"), ("allow", "allow")):  # the owner has the values, too
        if keys := grant.get(key):
            said.append(f"{word} {', '.join(keys)}")
    return "; ".join(said)


def names_of(grant: Mapping[str, Any], aliases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what an account calls what was lent to it."""
    return [str(each["name"]) for each in aliases if str(each.get("target")).partition(":")[0] == grant.get("target")]


def told(detail: Mapping[str, Any]) -> str:
    """Say what a line of the audit trail counts, in a cell."""
    return ", ".join(f"{key} {console.cell(value)}" for key, value in detail.items() if value not in (None, {}, []))


def api_row(api: Mapping[str, Any]) -> dict[str, Any]:
    """Return an API of the directory as a line of a table."""
    versions = api.get("versions") or []
    last = versions[-1] if versions else {}
    operations = last.get("operations")
    return {
        "api": f"{api.get('owner')}/{api.get('api') or api.get('name')}",
        "versions": ", ".join(_version(each) for each in versions),
        "operations": len(operations) if isinstance(operations, list) else operations,
        "access": api.get("access") or last.get("access"),
        "title": api.get("title") or last.get("title"),
        "subscribed": subscribed(api.get("subscribed")),
    }


def _version(version: Mapping[str, Any]) -> str:
    state = version.get("state")
    return f"{version.get('version')}" + (f" ({state})" if state not in (None, "published") else "")


def subscribed(found: Any) -> str:
    """Say under which name an account has subscribed, as the directory tells it."""
    if isinstance(found, Mapping):
        return f"{found.get('name')} ({found.get('state')})" if found.get("state") != "active" else str(found.get("name"))
    return "yes" if found is True else str(found or "")


def operation_rows(operations: Sequence[Mapping[str, Any]], subscription: str = "") -> list[list[str]]:
    """Return operations as lines of a table: how each is called, by HTTP and from here."""
    return [
        [f"{subscription}/{each['name']}" if subscription else str(each["name"]), str(each.get("method")), str(each.get("path"))]
        for each in operations
    ]
