"""Values that the adapters' tests store."""

from __future__ import annotations

import hashlib
from typing import Any

from pyfaas.model import (
    Account,
    AccountId,
    Function,
    FunctionId,
    InvocationId,
    Job,
    JobState,
    PointerMove,
    Revision,
    Scope,
    Settings,
    Token,
    Version,
    VersionState,
)

ALICE, BOB = AccountId("000000000001"), AccountId("000000000002")
RESIZE = FunctionId("f-resize")


def account(id: AccountId = ALICE, name: str = "alice", **more: Any) -> Account:  # noqa: A002 - the field's name
    """Make an account."""
    return Account(id=id, name=name, created=1.0, **more)


def token(id: str = "t1", owner: AccountId = ALICE) -> Token:  # noqa: A002 - the field's name
    """Make a token."""
    scopes = frozenset({Scope.INVOKE, Scope.READ})
    return Token(id=id, account=owner, digest=hashlib.sha256(id.encode()).digest(), scopes=scopes, created=1.5)


def function(id: str = RESIZE, name: str = "resize", **settings: Any) -> Function:  # noqa: A002 - the field's name
    """Make a function of Alice's."""
    return Function(id=FunctionId(id), account=ALICE, name=name, settings=Settings(**settings), created=2.0)


def version(number: int = 1, content: str = "a", **more: Any) -> Version:
    """Make a stored version of `resize`."""
    defaults: dict[str, Any] = {
        "function": RESIZE,
        "number": number,
        "code_id": "sha256-" + content * 64,
        "bundle": "sha256-" + "b" * 64,
        "size_bytes": 100,
        "revision": Revision(env=(("A", "1"),), requirements=("idna",)),
        "state": VersionState.STORED,
        "created": 3.0,
    }
    return Version(**(defaults | more))


def move(seq: int = 1, number: int = 1, pointer: str = "latest", **more: Any) -> PointerMove:
    """Make a move of a pointer of `resize`."""
    return PointerMove(function=RESIZE, pointer=pointer, seq=seq, version=number, at=4.0, **more)


def job(id: str = "j1", **more: Any) -> Job:  # noqa: A002 - the field's name
    """Make a queued job that is due at 10."""
    defaults: dict[str, Any] = {
        "id": InvocationId(id),
        "account": ALICE,
        "function": RESIZE,
        "name": "resize",
        "qualifier": None,
        "event": b'{"width": 64}',
        "event_is_bytes": False,
        "state": JobState.QUEUED,
        "due": 10.0,
        "created": 10.0,
    }
    return Job(**(defaults | more))
