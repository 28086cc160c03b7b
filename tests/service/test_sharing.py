"""Lending as owners and callers decide it: what is allowed, what is told to whom, and what ends with what."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Scope
from tests.service.lenders import IDS, Office, first_office, refused, texts

CANARY = "canary-91e0"
FOREIGN = "sha256-" + f"{1:064x}"  # the code id of `greet`'s first version


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """Open a new database with Ada's function."""
    opened = await first_office(tmp_path / "pyfaas.db")
    yield opened
    assert await opened.is_true()
    await opened.database.close()


# ---- grants


async def test_a_grant_is_made_once_and_changed(office: Office) -> None:
    """The first PUT makes a grant, the same again changes nothing, other terms keep its id; a restart keeps it."""
    ada = office.caller("ada")
    status, first = await office.sharing.grant(ada, "greet", "bob", {"version": 1, "lock": {"k": CANARY}, "secrets": ["API"]})
    assert (status, first["owner"], first["function"], first["account"]) == (201, "ada", "greet", "bob")
    assert (first["lock"], first["locked"], first["secrets_missing"]) == ({"k": CANARY}, ["k"], ["API"])
    assert await office.sharing.grant(ada, "greet", IDS["bob"], {"version": 1, "lock": {"k": CANARY}, "secrets": ["API"]}) == (200, first)
    status, changed = await office.sharing.grant(ada, "greet", "bob", {"rate": 3})
    assert (status, changed["id"], changed["rate"], changed["lock"]) == (200, first["id"], 3.0, {})
    assert (await office.again()).sharing.grants(ada) == office.sharing.grants(ada) == {"given": [changed], "received": []}


@pytest.mark.parametrize("everybody", ["*", "public"])
async def test_a_grant_for_everybody(office: Office, everybody: str) -> None:
    """Everybody receives what is lent to everybody, and may accept it; a grant of one's own goes before."""
    shared = await office.grant("ada", "greet", everybody, logs=True)
    assert shared["account"] == "*"
    for who in ("bob", "cyd"):
        assert [each["id"] for each in office.sharing.grants(office.caller(who))["received"]] == [shared["id"]]
    own = await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    await office.accept("cyd", "mine", "ada/greet")
    assert (office.alias("bob", "mine").grant, office.alias("cyd", "mine").grant) == (own["id"], shared["id"])
    await office.revoke("ada", "greet", everybody)
    assert (office.state("bob", "mine"), office.state("cyd", "mine")) == ("active", "gone")


@pytest.mark.parametrize(
    ("who", "name", "account", "terms", "code", "word"),
    [
        ("ada", "greet", "ada", {}, Code.INVALID_REQUEST, "oneself"),
        ("ada", "greet", IDS["ada"], {}, Code.INVALID_REQUEST, "oneself"),
        ("ada", "greet", "nobody", {}, Code.NOT_FOUND, "no account 'nobody'"),
        ("ada", "greet", "999999999999", {}, Code.NOT_FOUND, "no account '999999999999'"),
        ("ada", "other", "bob", {}, Code.NOT_FOUND, "no function 'other'"),
        ("bob", "greet", "cyd", {}, Code.NOT_FOUND, "no function 'greet'"),
        ("ada", "a b", "bob", {}, Code.INVALID_NAME, "a b"),
        ("ada", "greet", "bob", {"version": 3}, Code.NOT_FOUND, "no version '3'"),
        ("ada", "greet", "bob", {"lok": 1}, Code.UNKNOWN_KEY, "lok"),
        ("ada", "greet", "bob", {"lock": {"k": 1}, "require": ["k"]}, Code.INVALID_REQUEST, "'k'"),
    ],
)
async def test_what_cannot_be_granted(office: Office, who: str, name: str, account: str, terms: dict[str, Any], code: Code, word: str) -> None:
    """Only one's own is lent, to somebody else that there is, in versions that there are; what is another's is told as what is not there."""
    error = await refused(office.sharing.grant(office.caller(who), name, account, terms))
    assert (error.code, word in error.message) == (code, True), error.message
    assert office.sharing.grants(office.caller(who)) == {"given": [], "received": []}


async def test_a_removed_version_is_not_granted(office: Office) -> None:
    """A grant of a version that is gone is refused as such."""
    await office.remove_version("ada", "greet", 1)
    assert (await refused(office.grant("ada", "greet", "bob", version=1))).code is Code.GONE
    await office.grant("ada", "greet", "bob", version=2)


async def test_what_each_side_sees_of_a_grant(office: Office) -> None:
    """The borrower sees names of parameters and all limits, never a locked value or which secrets travel; a stranger sees nothing."""
    terms = {"lock": {"k": CANARY}, "require": ["r"], "allow": ["r"], "rate": 2, "secrets": ["SECRET_KEY"], "network": ["a.example:443"]}
    await office.grant("ada", "greet", "bob", **terms)
    (seen,) = office.sharing.grants(office.caller("bob"))["received"]
    assert (seen["target"], seen["locked"], seen["require"], seen["rate"], seen["network"]) == ("ada/greet", ["k"], ["r"], 2.0, ["a.example:443"])
    assert CANARY not in json.dumps(seen)
    assert "SECRET_KEY" not in json.dumps(seen)
    assert office.sharing.grants(office.caller("cyd")) == {"given": [], "received": []}
    (given,) = office.sharing.grants_of(office.caller("ada"), "greet")["given"]
    assert (given["lock"], given["secrets"]) == ({"k": CANARY}, ["SECRET_KEY"])
    with pytest.raises(PyfaasError, match="no function 'greet'"):
        office.sharing.grants_of(office.caller("bob"), "greet")


@pytest.mark.parametrize("is_stopping", [True, False])
async def test_a_revocation_ends_what_runs_before_it_is_answered(office: Office, is_stopping: bool) -> None:
    """The hook hears of the ended grant once it has ended on disk and in memory, and how; a second time there is nothing to end."""
    grant = await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    await office.revoke("ada", "greet", "bob", is_stopping=is_stopping)
    assert office.ended == [(grant["id"], is_stopping)]
    assert office.state("bob", "mine") == "gone"
    error = await refused(office.revoke("ada", "greet", "bob"))
    assert (error.code, error.message) == (Code.NOT_FOUND, "no grant 'greet to bob'")
    assert office.sharing.grants(office.caller("bob")) == {"given": [], "received": []}
    assert (await office.again()).state("bob", "mine") == "gone"


@pytest.mark.parametrize(
    ("who", "name", "account", "message"),
    [
        ("bob", "greet", "cyd", "no function 'greet'"),
        ("ada", "greet", "cyd", "no grant 'greet to cyd'"),
        ("ada", "greet", "nobody", "no account 'nobody'"),
        ("ada", "greet", "*", "no grant 'greet to *'"),
    ],
)
async def test_what_cannot_be_revoked(office: Office, who: str, name: str, account: str, message: str) -> None:
    """Nobody takes back what somebody else lent, or what was not lent."""
    await office.grant("ada", "greet", "bob")
    error = await refused(office.revoke(who, name, account))
    assert (error.code, error.message) == (Code.NOT_FOUND, message)
    assert office.ended == []


# ---- account aliases


async def test_an_alias_and_how_it_is_used(office: Office) -> None:
    """Accepting returns name, URL and binding; secrets are shown by name; the same target again replaces the rest under the same id."""
    await office.grant("ada", "greet", "bob", network=["*.example.com:443"], placement="owner")
    order = {"target": "ada/greet:2", "params": {"a": 1}, "secrets": {"K": CANARY}, "memory": "64M", "timeout": "2s", "network": ["a.example.com:443"]}
    status, made = await office.sharing.accept(office.caller("bob"), "mine", {**order, "placement": "owner"})
    assert status == 201
    assert {key: made[key] for key in ("name", "target", "url", "invoke", "version", "state")} == {
        "name": "mine",
        "target": "ada/greet:2",
        "url": "/f/bob/mine/",
        "invoke": "/v1/functions/mine/invoke",
        "version": "2",
        "state": "active",
    }
    assert (made["params"], made["secrets"], made["memory"], made["timeout"]) == ({"a": 1}, ["K"], 64 << 20, 2000)
    assert CANARY not in json.dumps(made)
    old = office.alias("bob", "mine")
    status, again = await office.sharing.accept(office.caller("bob"), "mine", {"target": "ada/greet"})
    assert (status, again["version"], again["params"], again["memory"], again["secrets"]) == (200, None, {}, None, ["K"])
    assert (office.alias("bob", "mine").id, office.alias("bob", "mine").created) == (old.id, old.created)
    assert (await office.accept("bob", "mine", "ada/greet", secrets={}))["secrets"] == []
    later = await office.again()
    assert later.sharing.aliases(office.caller("bob")) == office.sharing.aliases(office.caller("bob")) == [office.sharing.alias(office.caller("bob"), "mine")]


async def test_an_alias_on_ones_own(office: Office) -> None:
    """One's own functions and aliases can be aliased without a grant; there is nothing to agree on but versions and limits."""
    made = await office.accept("ada", "hello", "ada/greet:1", params={"anything": 1}, memory="128M")
    assert (made["state"], made["version"]) == ("active", "1")
    await office.accept("ada", "hallo", f"{IDS['ada']}/hello")
    assert office.alias("ada", "hallo").target == office.alias("ada", "hello").id
    for order, word in (({"network": ["a.example:443"]}, "network"), ({"placement": "owner"}, "placement"), ({"memory": "512M"}, "memory")):
        error = await refused(office.accept("ada", "more", "ada/greet:1", **order))
        assert (error.code, word in error.message) == (Code.INVALID_REQUEST, True)
    for name in ("self", "hello"):
        error = await refused(office.accept("ada", name, f"ada/{name}"))
        assert (error.code, "itself" in error.message) == (Code.INVALID_REQUEST, True)


TERMS = {"version": 2, "lock": {"k": CANARY}, "require": ["r"], "allow": ["w"], "network": ["a.example:443"], "placement": "owner"}


@pytest.mark.parametrize(
    ("order", "code", "word"),
    [
        ({"target": "ada/greet:1"}, Code.INVALID_REQUEST, "'2'"),
        ({"target": "ada/greet:latest"}, Code.INVALID_REQUEST, "'2'"),
        ({"params": {"k": "x"}}, Code.INVALID_REQUEST, "set by the owner"),
        ({"params": {"x": 1}}, Code.INVALID_REQUEST, "no parameter 'x'"),
        ({"memory": "129M"}, Code.INVALID_REQUEST, str(128 << 20)),
        ({"timeout": "11s"}, Code.INVALID_REQUEST, "10000 ms"),
        ({"network": ["b.example:443"]}, Code.INVALID_REQUEST, "b.example:443"),
        ({"network": ["169.254.169.254:80"]}, Code.INVALID_REQUEST, "169.254.169.254:80"),
        ({"network": ["what is this"]}, Code.INVALID_REQUEST, "network[0]"),
        ({"placement": "caller"}, Code.INVALID_REQUEST, "placement"),
        ({"secrets": {"K": "refused"}}, Code.PAYLOAD_TOO_LARGE, "too large"),
        ({"name": "x"}, Code.UNKNOWN_KEY, "name"),
    ],
)
async def test_what_a_binding_must_keep_to(office: Office, order: dict[str, Any], code: Code, word: str) -> None:
    """An alias outside of what is lent is refused, without the locked value; nothing is left of it, and one within is made."""
    await office.grant("ada", "greet", "bob", **TERMS)
    error = await refused(office.sharing.accept(office.caller("bob"), "mine", {"target": "ada/greet", **order}))
    assert (error.code, word in error.message) == (code, True), error.message
    assert CANARY not in texts(error)
    assert (office.sharing.aliases(office.caller("bob")), office.secrets.kept) == ([], {})
    within = {"params": {"r": 1, "w": 2}, "memory": "128M", "timeout": "10s", "network": ["a.example:443"], "placement": "owner"}
    assert (await office.accept("bob", "mine", "ada/greet:2", **within))["version"] == "2"


async def test_versions_of_a_grant_that_names_none(office: Office) -> None:
    """Any living version may be named but by its hash, which nobody is to guess at; the limits are those of the version that is named."""
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "one", "ada/greet:1", memory="256M")
    assert (await refused(office.accept("bob", "two", "ada/greet:2", memory="256M"))).code is Code.INVALID_REQUEST
    assert (await refused(office.accept("bob", "two", "ada/greet:9"))).message == "no version '9'"
    assert (await refused(office.accept("bob", "two", f"ada/greet:{FOREIGN}"))).code is Code.NOT_FOUND
    assert (await office.accept("ada", "own", f"ada/greet:{FOREIGN}"))["state"] == "active"
    await office.remove_version("ada", "greet", 1)
    assert (await refused(office.accept("bob", "three", "ada/greet:1"))).code is Code.GONE


async def test_a_name_is_one_thing(office: Office) -> None:
    """A name that a function or another alias has is a conflict, and stays what it was."""
    await office.publish("bob", "mine")
    await office.publish("ada", "second")
    for name in ("greet", "second"):
        await office.grant("ada", name, "bob")
    assert (await refused(office.accept("bob", "mine", "ada/greet"))).code is Code.CONFLICT
    await office.accept("bob", "theirs", "ada/greet")
    error = await refused(office.accept("bob", "theirs", "ada/second"))
    assert (error.code, "something else" in error.message) == (Code.CONFLICT, True)
    assert office.state("bob", "theirs") == "active"
    with pytest.raises(PyfaasError, match="is taken in this account"):
        await office.publish("bob", "theirs")


async def test_what_is_not_lent_is_not_there(office: Office) -> None:
    """An unknown account, no function, a private one and one that is lent to somebody else are one answer."""
    await office.publish("ada", "private")
    await office.grant("ada", "greet", "cyd")
    for target in ("nobody/greet", "ada/nothing", "ada/private", "ada/greet", f"{IDS['ada']}/private"):
        error = await refused(office.accept("bob", "mine", target))
        assert texts(error) == f"not_found no function '{target}'  {{}}"
    await office.accept("cyd", "mine", "ada/greet")


async def test_what_was_lent_is_gone_for_who_held_it(office: Office) -> None:
    """After the end the holder is told `gone`, whatever became of the function since; to anybody else nothing was ever there."""
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    await office.revoke("ada", "greet", "bob")
    told = [texts(await refused(office.accept("bob", name, "ada/greet"))) for name in ("mine", "other")]
    await office.remove_function("ada", "greet")
    told.append(texts(await refused(office.accept("bob", "mine", "ada/greet"))))
    await office.publish("ada", "greet")
    told.append(texts(await refused(office.accept("bob", "mine", "ada/greet"))))
    assert {text.split()[0] for text in told} == {"gone"}
    assert len(set(told)) == 1
    assert (await refused(office.accept("cyd", "mine", "ada/greet"))).code is Code.NOT_FOUND
    later = await office.again()
    assert (await refused(later.accept("bob", "mine", "ada/greet"))).code is Code.GONE
    assert office.state("bob", "mine") == later.state("bob", "mine") == "gone"


async def test_what_was_lent_to_everybody_is_gone_for_who_accepted_it(office: Office) -> None:
    """The end of a grant to everybody is told to who has an alias on it."""
    await office.grant("ada", "greet", "*")
    await office.accept("bob", "mine", "ada/greet")
    await office.revoke("ada", "greet", "public")
    assert (await refused(office.accept("bob", "mine", "ada/greet"))).code is Code.GONE
    assert (await refused(office.accept("cyd", "mine", "ada/greet"))).code is Code.NOT_FOUND


async def test_a_new_grant_needs_a_new_accept(office: Office) -> None:
    """An alias whose grant ended stays gone beside a new grant; accepted again it is another one, with none of the old one's secrets or grants."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.accept("bob", "mine", "ada/greet", secrets={"K": "v"})
    lent_on = await office.grant("bob", "mine", "cyd")
    await office.accept("cyd", "theirs", "bob/mine")
    await office.revoke("ada", "greet", "bob")
    await office.grant("ada", "greet", "bob", relend=True)
    old = office.alias("bob", "mine")
    assert office.state("bob", "mine") == "gone"
    status, again = await office.sharing.accept(office.caller("bob"), "mine", {"target": "ada/greet"})
    assert (status, again["state"], again["secrets"]) == (200, "active", [])
    assert office.alias("bob", "mine").id != old.id
    assert office.secrets.kept == {}
    assert office.shares.grants[lent_on["id"]].ended is not None
    assert office.state("cyd", "theirs") == "gone"
    assert (await office.again()).state("bob", "mine") == "active"


async def test_a_function_made_again_is_another_one(office: Office) -> None:
    """A deleted and re-created function revives neither grant nor alias; lent anew it can be accepted anew."""
    grant = await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    await office.remove_function("ada", "greet")
    assert office.ended == [(grant["id"], True)]
    await office.publish("ada", "greet")
    assert office.state("bob", "mine") == "gone"
    assert office.sharing.grants(office.caller("ada")) == {"given": [], "received": []}
    await office.grant("ada", "greet", "bob")
    assert office.state("bob", "mine") == "gone"
    assert (await office.accept("bob", "mine", "ada/greet"))["state"] == "active"


async def test_an_alias_is_removed_with_what_hangs_on_it(office: Office) -> None:
    """Its runs end, its secrets are forgotten, what was lent of it ends, its name is free; another's alias is not there."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.accept("bob", "mine", "ada/greet", secrets={"K": "v"})
    lent_on = await office.grant("bob", "mine", "cyd")
    alias = office.alias("bob", "mine")
    for who, name in (("ada", "mine"), ("bob", "other")):
        assert (await refused(office.sharing.remove_alias(office.caller(who), name))).message == f"no account alias {name!r}"
    await office.sharing.remove_alias(office.caller("bob"), "mine", is_stopping=False)
    assert office.ended == [(lent_on["id"], False), (alias.id, False)]
    assert office.secrets.kept == {}
    await office.publish("bob", "mine")
    assert (await refused(office.sharing.remove_alias(office.caller("bob"), "mine"))).code is Code.NOT_FOUND


# ---- many at once


async def test_a_hundred_of_the_same(office: Office) -> None:
    """Of a hundred equal grants and accepts at once one is made of each, and nothing is left over."""
    grants = await asyncio.gather(*(office.sharing.grant(office.caller("ada"), "greet", "bob", {"rate": 1}) for _ in range(100)))
    assert sorted(status for status, _ in grants) == [200] * 99 + [201]
    assert len({shown["id"] for _, shown in grants}) == 1
    order = {"target": "ada/greet", "secrets": {"K": "v"}}
    made = await asyncio.gather(*(office.sharing.accept(office.caller("bob"), "mine", order) for _ in range(100)))
    assert sorted(status for status, _ in made) == [200] * 99 + [201]
    assert await office.kept.load() == (list(office.shares.grants.values()), list(office.shares.aliases.values()))
    assert (len(office.shares.grants), list(office.secrets.kept)) == (1, [office.alias("bob", "mine").id])


async def _outcome(work: Any) -> str:
    try:
        await work
    except PyfaasError as error:
        return error.code.value
    return "done"


async def test_grants_accepts_and_ends_at_once(office: Office) -> None:
    """Whatever order they come in, memory is the disk, no two grants live for one, and an alias is active only by a grant that lives."""
    chance = random.Random(7)  # noqa: S311 - a walk that is the same each time
    await office.publish("ada", "second")

    def step() -> Any:
        who, other, name = chance.choice(["bob", "cyd"]), chance.choice(["bob", "cyd", "*"]), chance.choice(["greet", "second"])
        relend = chance.random() < 0.5
        return chance.choice(
            [
                lambda: office.grant("ada", name, other, relend=relend, rate=chance.randint(1, 3)),
                lambda: office.revoke("ada", name, other),
                lambda: office.accept(who, chance.choice(["x", "y"]), f"ada/{name}", secrets={"K": "v"}),
                lambda: office.grant(who, chance.choice(["x", "y"]), "dan"),
                lambda: office.accept("dan", f"{who}-x", f"{who}/x"),
                lambda: office.sharing.remove_alias(office.caller(who), chance.choice(["x", "y"])),
            ]
        )()

    seen: set[str] = set()
    for _ in range(12):
        seen.update(await asyncio.gather(*(_outcome(step()) for _ in range(20))))
        assert await office.is_true()
        living = {alias.id for alias in office.shares.aliases.values()}
        assert set(office.secrets.kept) <= living
        for who in ("bob", "cyd", "dan"):
            for shown in office.sharing.aliases(office.caller(who)):
                alias = office.alias(who, shown["name"])
                grant = office.shares.grants[alias.grant] if alias.grant is not None else None
                assert shown["state"] == "gone" or (grant is not None and grant.ended is None)
    assert {"done", "not_found", "gone", "conflict"} <= seen
    assert (await office.again()).sharing.grants(office.caller("ada")) == office.sharing.grants(office.caller("ada"))


@pytest.mark.parametrize("what", ["function", "owner", "caller"])
async def test_removing_while_it_is_lent(office: Office, what: str) -> None:
    """Grants and accepts that race with the removal of a function or an account leave nothing that lives."""
    await office.grant("ada", "greet", "cyd")
    removal = {"function": lambda: office.remove_function("ada", "greet"), "owner": lambda: office.remove_account("ada"), "caller": lambda: office.remove_account("bob")}
    works = [
        *(office.grant("ada", "greet", "bob", rate=n) for n in range(1, 9)),
        *(office.accept("bob", f"x{n}", "ada/greet") for n in range(8)),
        removal[what](),
        *(office.grant("ada", "greet", "bob", rate=n) for n in range(1, 9)),
        *(office.accept("bob", f"y{n}", "ada/greet") for n in range(8)),
    ]
    await asyncio.gather(*map(_outcome, works))
    assert await office.is_true()
    assert all(grant.caller == IDS["cyd"] for grant in office.shares.living.values())
    assert len(office.shares.living) == (1 if what == "caller" else 0)
    if what == "caller":
        assert office.shares.aliases == {}
    else:
        assert {office.state("bob", alias.name) for alias in office.shares.aliases.values()} <= {"gone"}
    assert await (await office.again()).sharing.recover() == 0


# ---- scopes, the disk


@pytest.mark.parametrize("scope", [None, Scope.INVOKE, Scope.READ, Scope.DEPLOY])
async def test_what_a_token_may(office: Office, scope: Scope | None) -> None:
    """Deciding takes the scope deploy, looking the scope read."""
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    ada, bob = (office.caller(who, frozenset({scope} if scope else ())) for who in ("ada", "bob"))
    sharing = office.sharing
    looks = [lambda: sharing.grants(ada), lambda: sharing.grants_of(ada, "greet"), lambda: sharing.aliases(bob), lambda: sharing.alias(bob, "mine")]
    for look in looks:
        if scope is Scope.READ:
            assert look()
        else:
            with pytest.raises(PyfaasError, match="this needs the scope 'read'"):
                look()
    assert await _outcome(sharing.audit(ada, 0, 10)) == ("done" if scope is Scope.READ else "not_allowed")
    deciding = [
        sharing.grant(ada, "greet", "bob", {"rate": 1}),
        sharing.accept(bob, "mine", {"target": "ada/greet"}),
        sharing.remove_alias(bob, "mine"),
        sharing.revoke(ada, "greet", "bob"),
    ]
    for work in deciding:
        assert await _outcome(work) == ("done" if scope is Scope.DEPLOY else "not_allowed")


async def test_nothing_is_true_that_could_not_be_written(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk every decision is refused, and everything is as it was, secrets included."""
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    before = (dict(office.shares.living), dict(office.shares.aliases), dict(office.secrets.kept))

    async def full(*_: Any) -> None:
        raise PyfaasError(Code.STORAGE_FULL, "full")

    with monkeypatch.context() as patched:
        for name in ("put_grant", "put_alias", "end"):
            patched.setattr(office.kept, name, full)
        works = [
            office.grant("ada", "greet", "cyd"),
            office.accept("bob", "more", "ada/greet", secrets={"K": "v"}),
            office.revoke("ada", "greet", "bob"),
            office.sharing.remove_alias(office.caller("bob"), "mine"),
        ]
        for work in works:
            assert (await refused(work)).code is Code.STORAGE_FULL
    assert (dict(office.shares.living), dict(office.shares.aliases), dict(office.secrets.kept)) == before
    assert office.ended == []


async def test_every_end_is_seen_to(office: Office) -> None:
    """When ending the runs of one right fails, those of the others are ended all the same, and the failure is told."""
    await office.grant("ada", "greet", "bob", relend=True)
    await office.accept("bob", "mine", "ada/greet")
    await office.grant("bob", "mine", "cyd")
    reached: list[str] = []

    async def failing(right: Any, _is_stopping: bool) -> None:
        reached.append(right.id)
        raise PyfaasError(Code.STORAGE_FULL, "full")

    office.sharing._revoked = failing
    assert (await refused(office.sharing.remove_alias(office.caller("bob"), "mine"))).code is Code.STORAGE_FULL
    assert len(reached) == 2


# ---- bounds


async def test_what_ended_does_not_grow_for_ever(office: Office) -> None:
    """Of grants that were made and taken back over and over the last is remembered, on the same for the same, and that one says `gone`."""
    for _ in range(20):
        await office.grant("ada", "greet", "bob", lock={"k": CANARY})
        await office.revoke("ada", "greet", "bob")
    assert len(office.shares.grants) == 1
    assert CANARY not in str(await office.kept.load())
    for each in (office, await office.again()):
        assert len(each.shares.grants) == 1
        assert (await refused(each.accept("bob", "mine", "ada/greet"))).code is Code.GONE
    await office.grant("ada", "greet", "bob")
    await office.accept("bob", "mine", "ada/greet")
    for _ in range(3):
        await office.revoke("ada", "greet", "bob")
        await office.grant("ada", "greet", "bob")
    assert office.state("bob", "mine") == "gone"


async def test_an_account_has_so_many_and_no_more(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a new grant or alias is refused, one that is there can still change, and one that went makes room."""
    monkeypatch.setattr("pyfaas.service.sharing.MAX_GRANTS", 2)
    monkeypatch.setattr("pyfaas.service.sharing.MAX_ALIASES", 2)
    for account in ("bob", "cyd"):
        await office.grant("ada", "greet", account)
    error = await refused(office.grant("ada", "greet", "dan"))
    assert (error.code, error.evidence["value"], error.evidence["observed"]) == (Code.CONFLICT, 2, 2)
    await office.grant("ada", "greet", "cyd", rate=1)
    await office.revoke("ada", "greet", "cyd")
    await office.grant("ada", "greet", "dan")
    for name in ("one", "two", "one"):
        await office.accept("bob", name, "ada/greet")
    assert (await refused(office.accept("bob", "three", "ada/greet"))).code is Code.CONFLICT
    await office.accept("dan", "one", "ada/greet")


async def test_an_account_without_network(office: Office) -> None:
    """It neither lends nor is lent a destination, and is told so; everything else it may."""
    ada, bob = (office.registry.accounts[IDS[who]] for who in ("ada", "bob"))
    await office.grant("ada", "greet", "bob", network=["a.example:443"])
    office.registry.put_account(replace(bob, network=False))
    error = await refused(office.accept("bob", "mine", "ada/greet", network=["a.example:443"]))
    assert (error.code, "network" in error.message) == (Code.NOT_ALLOWED, True)
    await office.accept("bob", "mine", "ada/greet")
    office.registry.put_account(replace(ada, network=False))
    assert (await refused(office.grant("ada", "greet", "cyd", network=["a.example:443"]))).code is Code.NOT_ALLOWED
    await office.grant("ada", "greet", "cyd")
