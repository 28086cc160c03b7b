"""Lending on the bench of `fake`: grants and aliases put into memory as the use cases would, without a store."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from pyfaas.model import Account, AccountId
from pyfaas.sharing import AccountAlias, CallableId, Grant, GrantId, Terms
from tests.service.fake import A, B, Bench

C = AccountId("000000000003")
_ids = itertools.count(1)


def add_account(bench: Bench, account: AccountId, **fields: Any) -> Account:
    """Make an account known."""
    made = Account(id=account, name=f"n{account[-1]}", created=0.0, **fields)
    bench.registry.put_account(made)
    return made


def lend(bench: Bench, target: str, owner: AccountId = A, caller: AccountId | None = B, **terms: Any) -> Grant:
    """Grant something to an account."""
    grant = Grant(
        id=GrantId(f"g{next(_ids)}"), owner=owner, target=CallableId(target), name="f", caller=caller, terms=Terms(**terms), created=0.0
    )
    bench.shares.put_grant(grant)
    return grant


def alias(bench: Bench, name: str, grant: Grant | None, account: AccountId = B, **fields: Any) -> AccountAlias:
    """Make an account alias by a grant, or, without one, on something of its holder's own (`owner`, `target`)."""
    by = {"owner": grant.owner, "target": grant.target} if grant is not None else {}
    made = AccountAlias(
        id=CallableId(f"a{next(_ids)}"),
        account=account,
        name=name,
        grant=grant.id if grant is not None else None,
        target_name="f",
        created=0.0,
        **{**by, **fields},
    )
    bench.shares.put_alias(made)
    return made


def take_back(bench: Bench, grant: Grant, *, is_stopping: bool = True) -> None:
    """End a grant, and what goes through it."""
    bench.shares.put_grant(replace(grant, ended=1.0))
    bench.dispatcher.revoke(bench.ways.uses_of(grant.id), is_stopping=is_stopping)
