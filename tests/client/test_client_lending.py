"""The SDK's side of lending: what is sent, what comes back, what is refused before it is sent."""

from __future__ import annotations

from typing import Any

import pytest
from fake import Fake

import pyfaas
from pyfaas.client import errors
from pyfaas.client.aio import AsyncClient
from pyfaas.client.calls import called_path, split_called
from pyfaas.client.lending import Lending
from pyfaas.client.sync import Client


def sent(fake: Fake, path: str) -> dict[str, Any]:
    """Return the last document that was sent to a path."""
    last: dict[str, Any] = [each["document"] for each in fake.seen()["sent"] if each["path"] == path][-1]
    return last


def test_a_function_is_lent_and_taken_back(client: Client, fake: Fake) -> None:
    """What is said are the terms; `grants` shows both sides; who has nothing cannot lose it."""
    shown = client.grant("summarise", "south", lock={"tone": "plain"}, require=("text",), max_concurrency=5, relend=True)
    assert sent(fake, "/v1/functions/summarise/grants/south") == {
        "lock": {"tone": "plain"},
        "require": ["text"],
        "max_concurrency": 5,
        "relend": True,
    }
    assert shown["account"] == "south"
    assert "summarise" in [grant["function"] for grant in client.grants()["given"]]
    client.revoke("summarise", "south", running="finish")
    with pytest.raises(pyfaas.NotFound):
        client.revoke("summarise", "south")


def test_an_account_alias_is_a_name_of_ones_own(client: Client, fake: Fake) -> None:
    """Stored parameters and secrets are sent, and only the secrets' names come back."""
    made = client.accept("north/summarise", "short", params={"length": 20}, secrets={"key": "hush"}, timeout=5, memory="64M")
    assert sent(fake, "/v1/aliases/short") == {
        "target": "north/summarise",
        "params": {"length": 20},
        "secrets": {"key": "hush"},
        "timeout": "5s",
        "memory": "64M",
    }
    assert made == client.account_alias("short")
    assert (made["secrets"], "hush" in str(made)) == (["key"], False)
    assert "short" in [alias["name"] for alias in client.account_aliases()]
    client.remove_account_alias("short")
    with pytest.raises(pyfaas.NotFound):
        client.account_alias("short")


def test_what_was_taken_back_is_gone(client: Client) -> None:
    """410 is Gone, which is a NotFound; what never was is a plain NotFound."""
    with pytest.raises(pyfaas.Gone, match="taken back") as caught:
        client.accept("north/gone", "mine")
    assert (caught.value.code, caught.value.status) == ("gone", 410)
    assert isinstance(caught.value, pyfaas.NotFound)
    with pytest.raises(pyfaas.NotFound) as other:
        client.accept("north/nothing", "mine")
    assert not isinstance(other.value, pyfaas.Gone)


def test_a_run_that_was_stopped_by_a_revocation_is_a_failed_run() -> None:
    """410 with an outcome is a run that began and was cancelled, not a name that is gone."""
    error = errors.from_answer(410, {"pyfaas-outcome": "cancelled"}, b'{"code": "cancelled", "detail": "revoked"}')
    assert isinstance(error, pyfaas.FunctionError)
    assert error.outcome == "cancelled"


def test_secrets_are_kept_and_never_shown(client: Client, fake: Fake) -> None:
    """Names only; a value that is no text is refused without being told."""
    client.set_secret("charge", "key", "hush")
    assert sent(fake, "/v1/functions/charge/secrets/key") == {"value": "hush"}
    assert [each["key"] for each in client.secrets("charge")] == ["key"]
    client.remove_secret("charge", "key")
    assert client.secrets("charge") == []
    assert client.rotate_secrets()["key"] == "k2"
    with pytest.raises(pyfaas.InvalidRequest, match="the secret 'key' is no text") as caught:
        client.set_secret("charge", "key", b"hush")  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)


def test_an_api_from_its_definition_to_its_end(client: Client, fake: Fake) -> None:
    """Published, listed, shown, approved, refused, ended, deprecated, retired, removed."""
    definition = {"name": "texts", "version": "1", "operations": [{"name": "a", "method": "GET", "path": "/a", "function": "f"}]}
    assert client.publish_api(definition)["state"] == "published"
    assert sent(fake, "/v1/apis/texts") == definition
    assert {"texts", "text"} <= {api["api"] for api in client.apis()}
    assert client.api("texts")["owner"] == "default"
    assert "south" in [each["account"] for each in client.approvals("texts")]
    assert client.approve("texts", "south")["state"] == "active"
    assert client.refuse("texts", "south")["state"] == "refused"
    client.end_subscription("texts", "south")
    assert client.deprecate_api("texts", "1", sunset=9.0)["state"] == "deprecated"
    assert client.retire_api("texts", "1")["state"] == "retired"
    client.remove_api("texts")
    with pytest.raises(pyfaas.NotFound):
        client.api("texts")
    with pytest.raises(pyfaas.InvalidRequest, match="no name"):
        client.publish_api({"version": "1"})


def test_an_api_of_somebody_elses(client: Client, fake: Fake) -> None:
    """Subscribed, called by its operations, mapped and spawned too, and left."""
    made = client.subscribe("north/text", "texts", params={"tone": "plain"}, network=("a.example:443",))
    assert sent(fake, "/v1/subscriptions/texts") == {"api": "north/text", "params": {"tone": "plain"}, "network": ["a.example:443"]}
    assert made == client.subscription("texts")
    assert "texts" in [each["name"] for each in client.subscriptions()]
    assert client.invoke("texts/summarise", {"id": 1}) == {"id": 1}
    assert list(client.map("texts/summarise", [{"id": 1}, {"id": 2}])) == [{"id": 1}, {"id": 2}]
    with pytest.raises(pyfaas.FunctionError) as caught:
        client.invoke("texts/boom")
    assert (caught.value.error_type, caught.value.stack_trace, caught.value.invocation_id) == ("FunctionError", [], "inv-9")
    client.unsubscribe("texts")
    with pytest.raises(pyfaas.NotFound):
        client.invoke("texts/summarise")


def test_the_newest_version_that_is_not_retired_is_documented(client: Client) -> None:
    """Unless another one is named; an own API needs no owner."""
    assert client.api_openapi("north/text")["info"] == {"title": "text", "version": "2"}
    assert client.api_openapi("north/text", "1")["info"]["version"] == "1"
    client.publish_api({"name": "mine", "version": "7", "operations": []})
    assert client.api_openapi("mine")["info"] == {"title": "mine", "version": "7"}


def test_the_audit_trail_is_joined_and_goes_on_behind_a_cursor(client: Client) -> None:
    """All pages at once; behind a cursor what came after it."""
    assert [line["kind"] for line in client.audit()] == ["granted", "called"]
    assert [line["kind"] for line in client.audit(after=1)] == ["called"]


def test_a_quota_is_sent_as_it_is_said(client: Client) -> None:
    """What is left out stays; None is the server's own."""
    shown = client.set_account("south", quota={"concurrency": 5, "per_day": None}, network=False)
    assert (shown["quota"], shown["network"]) == ({"concurrency": 5, "per_day": None}, False)


@pytest.mark.parametrize(
    ("method", "arguments", "options", "told"),
    [
        ("accept", ("summarise", "mine"), {}, "write OWNER/NAME"),
        ("accept", ("a/b/c", "mine"), {}, "write OWNER/NAME"),
        ("accept", ("north/f", "no name"), {}, "is not a name for an account alias"),
        ("accept", ("north/f", "mine"), {"params": {"at": {1, 2}}}, "params: not all of it is JSON"),
        ("accept", ("north/f", "mine"), {"params": {"x": float("nan")}}, "params: not all of it is JSON"),
        ("accept", ("north/f", "mine"), {"timeout": "soon"}, "is not a duration"),
        ("grant", ("f", "south"), {"lock": {"when": object()}}, "terms: not all of it is JSON"),
        ("revoke", ("f", "south"), {"running": "on"}, "neither stop nor finish"),
        ("grant", ("f", ""), {}, "names nothing"),
        ("subscribe", ("text", "mine"), {}, "write OWNER/NAME"),
        ("publish_api", ({"name": "a b"},), {}, "is not a name for an API"),
        ("invoke", ("a/b/c",), {}, "is not a name for an operation"),
    ],
)
def test_what_makes_no_sense_is_not_sent(client: Client, method: str, arguments: tuple[Any, ...], options: dict[str, Any], told: str) -> None:
    """It is InvalidRequest, with what to write instead."""
    with pytest.raises(pyfaas.InvalidRequest) as caught:
        getattr(client, method)(*arguments, **options)
    assert told in f"{caught.value} {caught.value.hint}"


def test_both_clients_have_every_method() -> None:
    """What the asynchronous client lends, the plain one lends too."""
    public = [name for name in vars(Lending) if not name.startswith("_")]
    assert len(public) > 20
    assert [name for name in public if not hasattr(Client, name) or not hasattr(AsyncClient, name)] == []


def test_what_is_called_is_a_name_or_an_operation() -> None:
    """One slash at most; a qualifier belongs to a function, not to an operation."""
    assert called_path("f") == "/v1/functions/f"
    assert called_path("sub/op") == "/v1/functions/sub/op"
    assert split_called("f:live") == ("f", "live")
    assert split_called("sub/op") == ("sub/op", None)
    for wrong in ("sub/", "/op", "sub/op:1", "f:"):
        with pytest.raises(pyfaas.InvalidRequest):
            split_called(wrong)
