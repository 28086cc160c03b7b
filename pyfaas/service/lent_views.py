"""The JSON shapes of what is lent: a borrower's never have what is the owner's, nor the other way round."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pyfaas.decisions.terms import given_terms, received_terms
from pyfaas.model import AccountId
from pyfaas.sharing import AccountAlias, AuditLine, Grant

Name = Callable[[AccountId], str]


def given_view(grant: Grant, name: Name, secrets: Collection[str]) -> dict[str, Any]:
    """Show a grant to its owner; `secrets` are those that there are: which of the granted ones are still to be set is told."""
    terms = given_terms(grant.terms)
    return {**_known(grant, name), **terms, "secrets_missing": [key for key in grant.terms.secrets if key not in secrets]}


def received_view(grant: Grant, name: Name) -> dict[str, Any]:
    """Show a grant to who may use it, with what to accept."""
    owner = name(grant.owner)
    return {**_known(grant, name), "target": f"{owner}/{grant.name}", **received_terms(grant.terms)}


def _known(grant: Grant, name: Name) -> dict[str, Any]:
    account = "*" if grant.caller is None else name(grant.caller)
    return {"id": grant.id, "owner": name(grant.owner), "function": grant.name, "account": account, "created": grant.created}


def alias_view(alias: AccountAlias, grant: Grant | None, name: Name, secrets: list[str]) -> dict[str, Any]:
    """Show an account alias to its holder: how it is called, what it is bound to, and which secrets it has, by name."""
    pinned = grant.terms.version if grant is not None else None
    qualifier = alias.qualifier or (str(pinned) if pinned is not None else None)
    return {
        "name": alias.name,
        "target": f"{name(alias.owner)}/{alias.target_name}" + (f":{alias.qualifier}" if alias.qualifier else ""),
        "url": f"/f/{name(alias.account)}/{alias.name}/",
        "invoke": f"/v1/functions/{alias.name}/invoke",
        "version": qualifier,
        "params": dict(alias.params),
        "secrets": secrets,
        "memory": alias.memory_bytes,
        "timeout": alias.timeout_ms,
        "network": list(alias.network),
        "placement": alias.placement.value,
        "created": alias.created,
    }


def audit_view(cursor: int, line: AuditLine, name: Name) -> dict[str, Any]:
    """Show a line of the trail; the other account by its name, by its id when it is gone."""
    other = name(line.other) if line.other is not None else None
    return {"cursor": cursor, "at": line.at, "kind": line.kind.value, "other": other, "name": line.name, "detail": dict(line.detail)}
