"""Lending over HTTP, as the tests of it ask for it."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.house import Answer, House

JSON = "application/json"


def grant(house: House, name: str, to: str, *, owner: str = "owner", status: int | None = 201, **terms: Any) -> Answer:
    """Lend a function of `owner`'s."""
    answer = house.call("PUT", f"/v1/functions/{name}/grants/{to}", json.dumps(terms), token=owner, content_type=JSON)
    assert status is None or answer.status == status, answer.body
    return answer


def revoke(house: House, name: str, to: str, *, owner: str = "owner", running: str = "stop") -> Answer:
    """Take a function back."""
    return house.call("DELETE", f"/v1/functions/{name}/grants/{to}?running={running}", token=owner)


def accept(house: House, alias: str, target: str, *, caller: str = "caller", status: int | None = 201, **order: Any) -> Answer:
    """Make an account alias."""
    answer = house.call("PUT", f"/v1/aliases/{alias}", json.dumps({"target": target, **order}), token=caller, content_type=JSON)
    assert status is None or answer.status == status, answer.body
    return answer


def accounts(house: House, *names: str) -> None:
    """Make accounts."""
    for name in names:
        house.account(name)
