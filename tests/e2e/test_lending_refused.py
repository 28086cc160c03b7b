"""Orders that cannot be: each is a clear refusal that tells what is wrong with it, and nothing of what is somebody else's."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.house import House, started
from tests.e2e.lending import JSON, accept, accounts, grant
from tests.e2e.test_bad_input import is_quoted

HIDDEN = "h" + secrets.token_hex(8)  # a function of the owner's that is lent to nobody
API: dict[str, Any] = {"version": "1", "operations": [{"name": "run", "method": "POST", "path": "/run", "function": "lent"}]}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with an owner and a caller, a function that is lent and one that is not."""
    with started(tmp_path_factory.mktemp("refused") / "data") as made:
        accounts(made, "owner", "caller")
        for name in ("lent", HIDDEN):
            made.deploy(name, "def handler(event: dict, context):\n    return event\n", token="owner", memory="128M", timeout="5s")
        made.deploy("typed", "def typed(width: int) -> int:\n    return width\n", token="owner", handler="main:typed")
        grant(made, "lent", "caller", require=["size"], lock={"tone": "plain"}, allow=["free"])
        grant(made, "typed", "caller")
        accept(made, "typed_alias", "owner/typed")
        yield made


def _operation(**fields: Any) -> dict[str, Any]:
    return {**API, "operations": [{**API["operations"][0], **fields}]}


CASES = (
    # who asks, what, the body, and how it is refused
    ("caller", "PUT /v1/aliases/x", {"target": "nobody/lent"}, 404, "not_found"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/absent"}, 404, "not_found"),
    ("caller", "PUT /v1/aliases/x", {"target": f"owner/{HIDDEN}"}, 404, "not_found"),
    ("caller", "PUT /v1/aliases/x", {"target": "lent"}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent:99"}, 404, "not_found"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "params": {"unknown": 1}}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "params": {"tone": "other"}}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "params": ["size"]}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "secrets": {"K": "s" * 20_000}}, 413, "payload_too_large"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "secrets": {"no key": "s"}}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "memory": "1G"}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "timeout": "1h"}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "network": ["api.example.com:443"]}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "network": ["https://example.com"]}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "placement": "owner"}, 400, "invalid_request"),
    ("caller", "PUT /v1/aliases/x", {"target": "owner/lent", "wish": 1}, 400, "unknown_key"),
    ("caller", "PUT /v1/aliases/a b", {"target": "owner/lent"}, 400, "invalid_name"),
    ("owner", "PUT /v1/functions/lent/grants/nobody", {}, 404, "not_found"),
    ("owner", "PUT /v1/functions/absent/grants/caller", {}, 404, "not_found"),
    ("owner", "PUT /v1/functions/lent/grants/owner", {}, 400, "invalid_request"),
    ("owner", "PUT /v1/functions/lent/grants/caller", {"version": 9}, 404, "not_found"),
    ("owner", "PUT /v1/functions/lent/grants/caller", {"rate": -1}, 400, "invalid_request"),
    ("owner", "PUT /v1/functions/lent/grants/caller", {"lock": {"a": 1}, "require": ["a"]}, 400, "invalid_request"),
    ("owner", "PUT /v1/functions/lent/grants/caller", {"lock": {"a": "x" * 20_000}}, 413, "payload_too_large"),
    ("owner", "PUT /v1/functions/lent/grants/caller", {"network": ["no host"]}, 400, "invalid_request"),
    ("owner", "PUT /v1/functions/lent/grants/caller", {"relent": True}, 400, "unknown_key"),
    ("owner", "DELETE /v1/functions/lent/grants/absent", None, 404, "not_found"),
    ("caller", "PUT /v1/apis/mine", API, 404, "not_found"),
    ("caller", "PUT /v1/apis/mine", _operation(function=HIDDEN), 404, "not_found"),
    ("owner", "PUT /v1/apis/mine", {**API, "operations": [API["operations"][0]] * 2}, 400, "invalid_request"),
    ("owner", "PUT /v1/apis/mine", _operation(path="run"), 400, "invalid_request"),
    ("owner", "PUT /v1/apis/mine", _operation(path="/openapi.json"), 400, "invalid_request"),
    ("owner", "PUT /v1/apis/mine", _operation(input={"$ref": "http://example.com/schema"}), 400, "invalid_request"),
    ("owner", "PUT /v1/apis/mine", {**API, "access": "everybody"}, 400, "invalid_request"),
    ("owner", "PUT /v1/apis/mine", {**API, "wish": 1}, 400, "unknown_key"),
    ("caller", "PUT /v1/subscriptions/x", {"api": "owner/absent"}, 404, "not_found"),
    ("caller", "PUT /v1/subscriptions/x", {"api": "nobody/absent"}, 404, "not_found"),
    ("owner", "PUT /v1/functions/lent/secrets/K", {"value": "s" * 20_000}, 413, "payload_too_large"),
    ("caller", "POST /v1/functions/typed_alias/invoke", {"width": "wide"}, 400, "invalid_event"),
    ("caller", "POST /v1/functions/absent/run/invoke", {}, 404, "not_found"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]} {json.dumps(case[2])[:60]}")
def test_it_is_refused(house: House, case: tuple[str, str, Any, int, str]) -> None:
    """Status and code are the table's, there is a sentence, and neither the owner's hidden function nor its code is told of."""
    token, request, body, status, code = case
    method, path = request.split(" ", 1)
    text = None if body is None else json.dumps(body)
    answer = house.call(method, path.replace(" ", "%20"), text, token=token, content_type=JSON)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    detail = answer.json["detail"]
    assert detail
    assert HIDDEN not in detail or HIDDEN in str(body)
    assert "s" * 100 not in detail
    assert "main.py" not in answer.body.decode()


def test_what_does_not_exist_and_what_is_not_lent_are_told_alike(house: House) -> None:
    """The words for a private function of somebody's are those for one that nobody has, but for its name."""
    told = [accept(house, "x", f"owner/{name}", status=404).json["detail"].replace(name, "NAME") for name in (HIDDEN, "absent")]
    assert told[0] == told[1]


@pytest.mark.parametrize("words", ["this is not lent any more", "nothing needs to be lent to oneself"])
def test_the_usual_refusals_are_in_the_book(words: str) -> None:
    """ERRORS.md quotes what those who lend and borrow meet most."""
    assert is_quoted(words)
