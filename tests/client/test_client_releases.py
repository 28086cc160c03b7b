"""Releases by the SDK: what a publication means for a release alias, policies, events, going back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fake import Fake

import pyfaas
from pyfaas.client.aio import AsyncClient
from pyfaas.client.errors import Unreachable
from pyfaas.client.http import Call, HttpTransport, Reply
from pyfaas.client.packing import Package, pack_files
from pyfaas.client.releasing import duration, has_begun, percent, policy_document, release_query
from pyfaas.client.sync import Client

CODE = pack_files({"main.py": (b"def handler(event, context): ...\n", False)})


def package(name: str) -> Package:
    """Return something to publish."""
    return Package(name=name, config={"name": name}, bundle=CODE)


def query_of(fake: Fake, name: str) -> dict[str, list[str]]:
    """Return the query of the last publication under a name."""
    found = [urlsplit(r["path"]) for r in fake.seen()["requests"] if r["method"] == "PUT"]
    return parse_qs([each.query for each in found if each.path == f"/v1/functions/{name}"][-1])


@pytest.mark.parametrize(
    ("canary", "after", "budget", "sent"),
    [
        ("10%", "5m", "1%", {"canary": "10", "promote_after": "5m", "error_budget": "1"}),
        (10, 300, 0.5, {"canary": "10", "promote_after": "300s", "error_budget": "0.5"}),
        ("100 %", None, None, {"canary": "100"}),
        (None, None, None, {}),
    ],
)
def test_a_publication_says_what_becomes_of_an_alias(canary: Any, after: Any, budget: Any, sent: dict[str, str]) -> None:
    """Percents and durations may be numbers or text."""
    assert release_query(alias="live", canary=canary, promote_after=after, error_budget=budget) == {"alias": "live", **sent}


@pytest.mark.parametrize(
    "said",
    [
        {"canary": 10},
        {"alias": "live", "promote_after": "5m"},
        {"alias": "live", "error_budget": 1},
        {"alias": "latest"},
        {"alias": "a b"},
        *({"alias": "live", "canary": share} for share in ("0", 0.5, 101, "ten", True, "-1", "nan")),
        {"alias": "live", "canary": 10, "promote_after": "soon"},
        {"alias": "live", "canary": 10, "error_budget": "101%"},
    ],
)
def test_a_release_that_makes_no_sense_is_refused_here(said: dict[str, Any]) -> None:
    """What is wrong is told before anything is sent."""
    with pytest.raises(pyfaas.InvalidRequest):
        release_query(**said)


def test_policies() -> None:
    """Durations travel as text, None as null, and what is neither allow nor forbid is refused."""
    assert policy_document({"stale": None, "max_stale_time": 1.5, "max_wait": "5s", "min_version": 3}) == {
        "stale": None,
        "max_stale_time": "1.5s",
        "max_wait": "5s",
        "min_version": 3,
    }
    assert policy_document({}) == {}
    with pytest.raises(pyfaas.InvalidRequest, match="neither allow nor forbid"):
        policy_document({"stale": "maybe"})
    with pytest.raises(pyfaas.InvalidRequest, match="max_wait"):
        policy_document({"max_wait": "soon"})
    assert (percent("2.5%", "x"), duration(3, "x")) == (2.5, "3s")


@pytest.mark.parametrize(
    ("alias", "is_begun"),
    [
        ({}, False),
        ({"version": 3, "canary": {"version": 4, "state": "waiting"}}, False),
        ({"version": 3, "weights": {"4": 10}, "canary": {"version": 4, "state": "running"}}, True),
        ({"version": 4, "weights": {}, "canary": None}, True),
        ({"version": 3, "canary": {"version": 4, "state": "back"}}, True),
        ({"version": 2, "weights": {}, "canary": None}, True),
        ({"version": 3, "canary": {"version": 5, "state": "waiting"}}, True),
    ],
)
def test_an_alias_is_waited_for_until_it_did_what_it_was_told(alias: dict[str, Any], is_begun: bool) -> None:  # noqa: FBT001 - a value, not a mode
    """Also one that somebody moved elsewhere meanwhile is not waited for any more."""
    assert has_begun(alias, 4) is is_begun


def test_deploying_to_an_alias(client: Client, fake: Fake, tmp_path: Path) -> None:
    """`deploy` sends it and waits for it; an App says it of each of its functions."""
    (tmp_path / "main.py").write_text("def handler(event, context): ...\n")
    assert client.deploy(tmp_path, name="released", alias="live")["version"] == 1
    client.deploy(tmp_path, name="released", alias="live", canary="10%", promote_after="5m", error_budget=1)
    assert client.aliases("released")["live"]["weights"] == {"2": 10}
    assert query_of(fake, "released") == {"alias": ["live"], "canary": ["10"], "promote_after": ["5m"], "error_budget": ["1"]}
    with pytest.raises(pyfaas.InvalidRequest):
        client.deploy(tmp_path, name="released", canary="10%")
    app = pyfaas.App("release", client=client)
    app.function(name="one")(len)
    app.deploy(alias="live")
    assert query_of(fake, "release-one") == {"alias": ["live"]}
    assert client.aliases("release-one")["live"]["version"] == 1


def test_a_publication_of_a_typo_is_a_type_error(client: Client) -> None:
    """An option that there is not is a TypeError, as of any function."""
    with pytest.raises(TypeError, match="aliass"):
        client.publish(package("typo"), aliass="live")  # type: ignore[call-arg]


def test_an_alias_a_policy_and_a_way_back(client: Client) -> None:
    """set_alias, set_account and rollback return what the server says; a key that is left out stays, None removes it."""
    for _ in range(2):
        client.publish(package("moved"))
    assert client.set_alias("moved", "live", 1, {2: 10}, stale="allow", max_wait=2)["weights"] == {"2": 10}
    shown = client.set_alias("moved", "live", 1, max_wait=None)
    assert (shown["weights"], shown["stale"], "max_wait" in shown) == ({}, "allow", False)
    assert client.set_account("south", stale="forbid")["stale"] == "forbid"
    assert "stale" not in client.set_account("south", stale=None)
    assert client.rollback("moved", "live") == {"function": "moved", "pointer": "live", "version": 1, "withdrawn": 2}


def test_events_in_order_and_from_a_cursor(client: Client) -> None:
    """From 0 all that is kept, joined over pages; behind a cursor what came after it; of one version only."""
    for _ in range(2):
        client.publish(package("told"))
    kinds = ["stored", *["preparing"] * 5, "prepared"]
    seen = []
    for event in client.events("told", after=0):
        seen.append(event)
        if len(seen) == 14:
            break
    assert [event["kind"] for event in seen] == kinds * 2
    assert [event["cursor"] for event in seen] == sorted(event["cursor"] for event in seen)
    assert client.last_event("told") == seen[-1]["cursor"]
    assert next(iter(client.events("told", after=seen[6]["cursor"])))["version"] == 2
    assert next(iter(client.events("told", after=0, version=2)))["kind"] == "stored"
    with pytest.raises(pyfaas.NotFound):
        next(iter(client.events("nobody-has-this")))


async def test_events_from_now_on(fake: Fake) -> None:
    """Without a cursor what was before is not told, and what comes is."""
    async with AsyncClient(fake.url, "pf_good") as client:
        await client.publish(package("now"))
        events = client.events("now")
        coming = asyncio.ensure_future(anext(events))
        asked = "/v1/functions/now/events"
        while not any(asked in r["path"] and "wait=" in r["path"] for r in fake.seen()["requests"]):
            await asyncio.sleep(0.01)
        await client.publish(package("now"))
        event = await coming
        assert (event["kind"], event["version"]) == ("stored", 2)
        await events.aclose()  # type: ignore[attr-defined]


class Unsteady(HttpTransport):
    """Loses the server at each other poll for events, as when it is replaced."""

    polls = 0

    @contextlib.asynccontextmanager
    async def exchange(self, call: Call) -> AsyncIterator[Reply]:
        """Send a call, or fail."""
        if call.path.endswith("/events"):
            self.polls += 1
            if self.polls % 2 == 0:
                raise Unreachable("gone for a moment", problem={"code": "unreachable"})
        async with super().exchange(call) as reply:
            yield reply


async def test_events_go_on_behind_the_last_cursor(fake: Fake) -> None:
    """When the server was away for a moment nothing is missed and nothing told twice; at the beginning it is an error."""
    async with AsyncClient(transport=Unsteady(fake.url, "pf_good")) as client:
        await client.publish(package("unsteady"))
        seen: list[str] = []
        async with contextlib.aclosing(client.events("unsteady", after=0)) as events:  # type: ignore[type-var]
            async for event in events:
                seen.append(event["kind"])
                if len(seen) == 7:
                    break
        assert seen == ["stored", *["preparing"] * 5, "prepared"]
        with pytest.raises(pyfaas.ServerError):
            await anext(client.events("unsteady", after=0))
