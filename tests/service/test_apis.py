"""APIs from their owner's and their subscribers' side: published, seen, subscribed, called, ended. The store is the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator

from pyfaas.adapters.sqlite.apis import SqliteApis
from pyfaas.adapters.sqlite.schema import open_database
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import Account, AccountId, Function, FunctionId, Scope, Settings
from pyfaas.service.registry import Registry
from pyfaas.service.shares import Lent, Shares
from pyfaas.sharing import ApiState, AuditKind
from tests.service.subscribing import EAST, INPUT, NAMES, NORTH, SOUTH, Bench, definition


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Give a bench with two functions of north's and one of south's."""
    database = open_database(str(tmp_path / "pyfaas.db"))
    store = SqliteStore(database)
    for account, name in NAMES.items():
        await store.add_account(Account(id=account, name=name, created=0.0), None)
    made = Bench(SqliteApis(database), Registry(await store.load()))
    made.function(NORTH, "summarise", versions=2)
    made.function(NORTH, "list")
    made.function(SOUTH, "own")
    yield made
    await database.close()


def refusal(error: pytest.ExceptionInfo[PyfaasError]) -> tuple[Code, str]:
    """Return what an error says."""
    return error.value.code, error.value.message


# ---- publishing


async def test_a_version_never_changes(bench: Bench) -> None:
    """The same content again is 200, other content a conflict, another version is new; a new start knows them all."""
    assert (await bench.publish())[0] == 201
    assert (await bench.publish())[0] == 200
    assert (await bench.publish(title=""))[0] == 200  # said otherwise, it is the same
    with pytest.raises(PyfaasError) as refused:
        await bench.publish(title="Texts")
    assert refused.value.code is Code.CONFLICT
    assert (await bench.publish("2", title="Texts"))[0] == 201
    apis, versions, _ = await bench.store.load()
    assert [(a.owner, a.name) for a in apis] == [(NORTH, "text")]
    assert [(v.version, v.title) for v in versions] == [("1", ""), ("2", "Texts")]
    assert bench.shares.api_versions[apis[0].id] == {v.version: v for v in versions}


async def test_what_is_kept_names_ids(bench: Bench) -> None:
    """A function that was removed and made again is another one: the same definition is other content."""
    await bench.publish()
    [api] = bench.shares.apis.values()
    assert bench.shares.api_versions[api.id]["1"].operations[1].function == f"{NORTH}-list"
    bench.registry.drop_function(bench.registry.entry(NORTH, "list"))
    bench.registry.put_function(Function(id=FunctionId("another"), account=NORTH, name="list", settings=Settings(), created=0.0))
    with pytest.raises(PyfaasError) as refused:
        await bench.publish()
    assert refused.value.code is Code.CONFLICT


def _with(**more: Any) -> dict[str, Any]:
    return {"operations": [{"name": "a", "path": "/a", "function": "summarise", **more}]}


BAD: list[tuple[dict[str, Any], Code, str]] = [
    (_with(function="own"), Code.NOT_FOUND, "no function 'own'"),  # south's
    (_with(function="nothing"), Code.NOT_FOUND, "no function 'nothing'"),
    (_with(function="summarise:9"), Code.NOT_FOUND, "no version 'summarise:9'"),
    (_with(function="summarise:live"), Code.NOT_FOUND, "no release alias 'summarise:live'"),
    (_with(function=f"summarise:sha256-{'f' * 64}"), Code.NOT_FOUND, "no version"),
    (_with(input={"type": "strin"}), Code.INVALID_REQUEST, "operations[0].input is no JSON Schema"),
    (_with(input={"pattern": "(?=a)"}), Code.INVALID_REQUEST, "operations[0].input is no JSON Schema"),
    (_with(input={"pattern": "^(a{1,999}){1,999}$"}), Code.INVALID_REQUEST, "operations[0].input is no JSON Schema"),
    (_with(input={"$ref": "file:///etc/passwd"}), Code.INVALID_REQUEST, "leads out of the schema"),
    (_with(output={"$ref": "http://127.0.0.1:1/x"}), Code.INVALID_REQUEST, "operations[0].output is no JSON Schema"),
    ({"access": "listed", "accounts": ["nobody"]}, Code.NOT_FOUND, "no account 'nobody'"),
    ({"network": ["no host"]}, Code.INVALID_REQUEST, "network"),
    ({"rate": 0}, Code.INVALID_REQUEST, "rate"),
    ({"payer": "nobody"}, Code.INVALID_REQUEST, "payer"),
    ({"name": "other"}, Code.INVALID_REQUEST, "'other'"),
    ({"lock": {"a": 1}}, Code.UNKNOWN_KEY, "'lock'"),
]


@pytest.mark.parametrize(("change", "code", "says"), BAD)
async def test_a_bad_definition_is_refused_as_a_whole(bench: Bench, change: dict[str, Any], code: Code, says: str) -> None:
    """Nothing of it is kept, and what is another account's is told as what does not exist."""
    with pytest.raises(PyfaasError) as refused:
        await bench.publish(**change)
    assert refused.value.code is code
    assert says in refused.value.message
    assert await bench.store.load() == ([], [], [])
    assert not bench.shares.apis


async def test_what_an_api_names_is_not_removed(bench: Bench) -> None:
    """A function, and a version that is named by its number, are needed until the API's version is retired."""
    await bench.publish()
    summarise, listing = bench.registry.entry(NORTH, "summarise").function.id, bench.registry.entry(NORTH, "list").function.id
    assert [bench.apis.named_by(summarise, n) for n in (None, 1, 2)] == [["text/1"], ["text/1"], []]
    assert [bench.apis.named_by(listing, n) for n in (None, 1)] == [["text/1"], []]
    with pytest.raises(PyfaasError) as refused:
        bench.apis.refuse_named(summarise, "version 1", 1)
    assert refused.value.code is Code.CONFLICT
    await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.RETIRED)
    bench.apis.refuse_named(summarise, "the function")
    assert bench.apis.named_by(summarise) == []


async def test_a_retired_version_stays_retired(bench: Bench) -> None:
    """Deprecation can be told again; what was retired cannot come back, nor be published anew."""
    await bench.publish()
    owner = bench.who(NORTH)
    assert (await bench.apis.set_state(owner, "text", "1", ApiState.DEPRECATED, 2e9))["sunset"] == 2e9
    assert (await bench.apis.set_state(owner, "text", "1", ApiState.RETIRED))["state"] == "retired"
    with pytest.raises(PyfaasError) as refused:
        await bench.apis.set_state(owner, "text", "1", ApiState.DEPRECATED)
    assert refused.value.code is Code.CONFLICT
    assert (await bench.publish())[1]["state"] == "retired"
    for name, version in (("text", "9"), ("other", "1")):
        with pytest.raises(PyfaasError) as refused:
            await bench.apis.set_state(owner, name, version, ApiState.RETIRED)
        assert refused.value.code is Code.NOT_FOUND


# ---- who sees what


@pytest.mark.parametrize(
    ("policy", "listed", "described", "subscribed"),
    [
        ({}, True, True, "active"),
        ({"directory": False}, False, True, "active"),
        ({"access": "approval"}, True, True, "pending"),
        ({"access": "approval", "directory": False}, False, True, "pending"),
        ({"access": "listed", "accounts": ["south"]}, True, True, "active"),
        ({"access": "listed", "accounts": ["south"], "directory": False}, True, True, "active"),
        ({"access": "listed", "accounts": ["east"]}, True, True, Code.NOT_ALLOWED),
        ({"access": "listed", "accounts": ["east"], "directory": False}, False, False, Code.NOT_FOUND),
    ],
)
async def test_the_policy_says_who_sees_and_who_subscribes(bench: Bench, policy: dict[str, Any], listed: bool, described: bool, subscribed: Any) -> None:
    """The directory, the description, the document and the subscription follow from access, accounts and directory."""
    await bench.publish(**policy)
    south = bench.who(SOUTH)
    assert [api["api"] for api in bench.apis.directory(south)] == (["text"] if listed else [])
    assert [api["api"] for api in bench.apis.directory(bench.who(NORTH))] == ["text"]
    for look in (
        lambda: bench.apis.describe(south, "north", "text"),
        lambda: bench.apis.describe(south, NORTH, "text"),
        lambda: bench.apis.document(south, "north", "text", "1", "http://x"),
    ):
        if described:
            assert "summarise" in json.dumps(look())
        else:
            with pytest.raises(PyfaasError) as refused:
                look()
            assert refused.value.code is Code.NOT_FOUND
    if isinstance(subscribed, Code):
        with pytest.raises(PyfaasError) as refused:
            await bench.subscribe()
        assert refused.value.code is subscribed
    else:
        status, shown = await bench.subscribe()
        assert (status, shown["state"]) == (201, subscribed)


async def test_what_is_hidden_is_told_as_what_is_not_there(bench: Bench) -> None:
    """Every question about a hidden API has the words of one about nothing, but for the name that was asked for."""
    await bench.publish(access="listed", accounts=["east"], directory=False)
    south = bench.who(SOUTH)

    async def asked(owner: str, api: str) -> list[tuple[Code, str, str]]:
        words = []
        for ask in (
            lambda: bench.apis.describe(south, owner, api),
            lambda: bench.apis.document(south, owner, api, "1", ""),
            lambda: bench.operations.prepare(south, (owner, api, "1"), "POST", "summaries/7", query=[], body=b"", is_json=True),
        ):
            with pytest.raises(PyfaasError) as refused:
                ask()
            words.append((refused.value.code, refused.value.message, refused.value.hint))
        with pytest.raises(PyfaasError) as refused:
            await bench.subscriptions.put(south, "mine", {"api": f"{owner}/{api}"})
        return [*words, (refused.value.code, refused.value.message, refused.value.hint)]

    hidden = await asked("north", "text")
    assert {code for code, _, _ in hidden} == {Code.NOT_FOUND}
    for owner, api in (("north", "nope"), ("nobody", "text")):
        assert [(c, m.replace(f"{owner}/{api}", "north/text"), h) for c, m, h in await asked(owner, api)] == hidden
    assert bench.audit.counted == []


async def test_a_description_tells_nothing_of_what_is_behind(bench: Bench) -> None:
    """Functions, qualifiers, terms, listed accounts and other subscribers are shown to the owner alone."""
    canary = "canary-2f7a"
    bench.function(NORTH, canary)
    operations = [{"name": "a", "path": "/a", "function": canary}]
    await bench.publish(operations=operations, access="listed", accounts=["south", "east"], secrets=[f"k_{canary}"], rate=7)
    await bench.subscribe(EAST, "theirs")
    for shown in (
        bench.apis.directory(bench.who(SOUTH)),
        bench.apis.describe(bench.who(SOUTH), "north", "text"),
        bench.apis.document(bench.who(SOUTH), "north", "text", "1", "http://x"),
        (await bench.subscribe())[1],
    ):
        assert canary not in json.dumps(shown)
        assert "east" not in json.dumps(shown)
    own = bench.apis.describe(bench.who(NORTH), None, "text")["versions"][0]
    assert (own["operations"][0]["function"], own["accounts"], own["terms"]["rate"]) == (canary, ["south", "east"], 7)


# ---- subscribing


async def test_a_subscription_gives_its_url_and_its_operations(bench: Bench) -> None:
    """The answer says where and what to call; the same again replaces parameters, and secrets only when there are any."""
    await bench.publish()
    status, shown = await bench.subscribe(params={"a": 1}, secrets={"key": "hush"})
    assert status == 201
    assert shown["url"] == "/v1/apis/north/text/1"
    assert [(o["name"], o["method"], o["path"]) for o in shown["operations"]] == [("summarise", "POST", "/summaries/{id}"), ("list", "GET", "/summaries")]
    assert (shown["params"], shown["secrets"]) == ({"a": 1}, ["key"])
    status, shown = await bench.subscribe(params={"b": 2})
    assert (status, shown["params"], shown["secrets"]) == (200, {"b": 2}, ["key"])
    status, shown = await bench.subscribe(secrets={})
    assert (status, shown["params"], shown["secrets"]) == (200, {}, [])
    assert [s["name"] for s in bench.subscriptions.listed(bench.who(SOUTH))] == ["mine"]
    assert len((await bench.store.load())[2]) == 1


async def test_names_and_apis_are_taken_once(bench: Bench) -> None:
    """Another name for the same API, and a name that something of the account has, are conflicts."""
    await bench.publish()
    await bench.publish(api="other")
    await bench.subscribe()
    for name, api in (("again", "north/text"), ("mine", "north/other"), ("own", "north/other")):
        with pytest.raises(PyfaasError) as refused:
            await bench.subscriptions.put(bench.who(SOUTH), name, {"api": api})
        assert refused.value.code is Code.CONFLICT


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"api": "text"}, Code.INVALID_REQUEST),
        ({"api": "north/text:1"}, Code.INVALID_REQUEST),
        ({"api": "north/text", "param": {}}, Code.UNKNOWN_KEY),
        ({"api": "north/text", "params": []}, Code.INVALID_REQUEST),
        ({"api": "north/text", "params": {"a": "x" * 20_000}}, Code.PAYLOAD_TOO_LARGE),
        ({"api": "north/text", "secrets": {"k": 5}}, Code.INVALID_REQUEST),
        ({"api": "north/text", "secrets": {"k": "x" * 101}}, Code.PAYLOAD_TOO_LARGE),
        ({"api": "north/text", "network": ["b.example:443"]}, Code.INVALID_REQUEST),
        ({"api": "north/text", "memory": "1G"}, Code.UNKNOWN_KEY),
    ],
)
async def test_a_bad_order_is_refused(bench: Bench, given: dict[str, Any], code: Code) -> None:
    """Nothing of it is kept."""
    await bench.publish(network=["a.example:443"])
    with pytest.raises(PyfaasError) as refused:
        await bench.subscriptions.put(bench.who(SOUTH), "mine", given)
    assert refused.value.code is code
    assert (bench.secrets.kept, (await bench.store.load())[2]) == ({}, [])


async def test_an_owner_approves_refuses_and_ends(bench: Bench) -> None:
    """What was asked for becomes active or refused; who was refused may ask again; an end reaches the hook before the answer."""
    await bench.publish(access="approval")
    north = bench.who(NORTH)
    await bench.subscribe(secrets={"k": "v"})
    await bench.subscribe(EAST, "theirs")
    assert [(i["account"], i["state"]) for i in bench.subscriptions.approvals(north, "text")] == [("east", "pending"), ("south", "pending")]
    assert (await bench.subscriptions.decide(north, "text", "east", is_approved=False))["state"] == "refused"
    assert (await bench.subscriptions.decide(north, "text", "south", is_approved=True))["state"] == "active"
    assert (await bench.subscriptions.decide(north, "text", SOUTH, is_approved=True))["state"] == "active"
    with pytest.raises(PyfaasError) as refused:
        await bench.subscriptions.decide(north, "text", "south", is_approved=False)
    assert refused.value.code is Code.CONFLICT
    assert (await bench.subscribe(EAST, "theirs"))[1]["state"] == "pending"
    bench.ended.clear()
    await bench.subscriptions.revoke(north, "text", "south", stop=False)
    assert bench.ended == [(SOUTH, "mine", False)]
    assert bench.secrets.kept == {}
    for account in ("south", "north", "nobody"):
        with pytest.raises(PyfaasError) as refused:
            await bench.subscriptions.revoke(north, "text", account, stop=True)
        assert refusal(refused) == (Code.NOT_FOUND, f"no subscription of {account!r}")
    assert [kind for kind, _, _ in bench.audit.told(SOUTH)] == [AuditKind.SUBSCRIBED, AuditKind.APPROVED, AuditKind.REVOKED]
    assert ("revoked", SOUTH, "text") in bench.audit.told(NORTH)
    assert all("mine" not in name for _, _, name in bench.audit.told(NORTH))


async def test_a_removed_api_ends_what_was_subscribed(bench: Bench) -> None:
    """Its subscriptions end, and one of the same name that is made again revives none of them."""
    await bench.publish()
    await bench.subscribe()
    await bench.apis.remove(bench.who(NORTH), "text", stop=True)
    assert bench.ended == [(SOUTH, "mine", True)]
    assert bench.subscriptions.listed(bench.who(SOUTH)) == []
    await bench.publish()
    with pytest.raises(PyfaasError) as refused:
        bench.call("summaries", "GET")
    assert refused.value.code is Code.NOT_ALLOWED
    assert bench.subscriptions.approvals(bench.who(NORTH), "text") == []


async def test_a_removed_account_takes_its_apis_and_subscriptions_along(bench: Bench) -> None:
    """An owner's end ends its APIs, a subscriber's its subscriptions."""
    await bench.publish()
    await bench.subscribe()
    await bench.subscribe(EAST, "theirs")
    await bench.apis.account_removed(SOUTH)
    assert bench.ended == [(SOUTH, "mine", True)]
    await bench.apis.account_removed(NORTH)
    assert bench.ended[1:] == [(EAST, "theirs", True)]
    assert (bench.shares.apis, bench.shares.subscription_names) == ({}, {})
    apis, _, subscriptions = await bench.store.load()
    assert (apis, {s.state.value for s in subscriptions}) == ([], {"ended"})


@pytest.mark.parametrize("scope", [Scope.READ, Scope.INVOKE])
async def test_what_changes_something_needs_the_scope(bench: Bench, scope: Scope) -> None:
    """A token without deploy changes nothing."""
    await bench.publish()
    await bench.subscribe()
    weak, owner = bench.who(SOUTH, scope), bench.who(NORTH, scope)
    for change in (
        bench.apis.publish(owner, "text", definition("2")),
        bench.apis.set_state(owner, "text", "1", ApiState.RETIRED),
        bench.apis.remove(owner, "text"),
        bench.subscriptions.put(weak, "mine", {"api": "north/text"}),
        bench.subscriptions.remove(weak, "mine"),
        bench.subscriptions.decide(owner, "text", "south", is_approved=True),
        bench.subscriptions.revoke(owner, "text", "south", stop=True),
    ):
        with pytest.raises(PyfaasError) as refused:
            await change
        assert refused.value.code is Code.NOT_ALLOWED
    assert bench.call("summaries", "GET").name == "mine/list"


async def test_what_ended_does_not_pile_up(bench: Bench) -> None:
    """Of an account's subscriptions of one API the last that ended is remembered, and nothing of what it stored."""
    await bench.publish()
    for _ in range(5):
        await bench.subscribe(params={"a": "canary"})
        await bench.subscriptions.remove(bench.who(SOUTH), "mine")
    assert len(bench.shares.subscriptions) == 1
    assert "canary" not in str((await bench.store.load())[2])
    again = Shares(Lent(apis=list(bench.shares.apis.values()), subscriptions=(await bench.store.load())[2]))
    assert again.subscriptions == bench.shares.subscriptions


async def test_an_account_without_network_lets_nothing_reach_it(bench: Bench) -> None:
    """Neither an owner nor a subscriber that may not use the network names destinations."""
    wanted = ["a.example:443"]
    await bench.publish(network=wanted)
    for account, ask in ((SOUTH, lambda: bench.subscribe(network=wanted)), (NORTH, lambda: bench.publish("2", network=wanted))):
        bench.registry.put_account(Account(id=account, name=NAMES[account], network=False, created=0.0))
        with pytest.raises(PyfaasError) as refused:
            await ask()
        assert refused.value.code is Code.NOT_ALLOWED
    assert (await bench.publish("2"))[0] == (await bench.subscribe())[0] == 201


# ---- calling


async def test_a_call_becomes_what_is_run(bench: Bench) -> None:
    """Path, query and body join; the name is the subscriber's, the version the path's."""
    await bench.publish()
    await bench.subscribe()
    made = bench.call("summaries/7", body={"text": "a b"}, query=[("tags", "x"), ("tags", "y")])
    assert (made.name, made.version, made.is_bytes, made.headers) == ("mine/summarise", "1", False, {})
    assert json.loads(made.body) == {"id": 7, "text": "a b", "tags": ["x", "y"]}
    assert bench.call("summaries", "GET").body == b""
    raw = bench.operations.prepare(bench.who(SOUTH), ("north", "text", "1"), "GET", "summaries", query=[], body=b"raw", is_json=False)
    assert (raw.body, raw.is_bytes) == (b"raw", True)


@pytest.mark.parametrize(
    ("path", "body", "query", "pointer", "rule"),
    [
        ("summaries/x", {"text": "a"}, [], "/id", "type"),
        ("summaries/0", {"text": "a"}, [], "/id", "minimum"),
        ("summaries/7", {}, [], "", "required"),
        ("summaries/7", {"text": 5}, [], "/text", "type"),
        ("summaries/7", {"text": "A"}, [], "/text", "pattern"),
        ("summaries/7", {"text": "a", "more": 1}, [], "", "additionalProperties"),
        ("summaries/7", {"text": "a", "id": 8}, [], "/id", "path"),
        ("summaries/7", {"text": "a"}, [("nope", "1")], "", "additionalProperties"),
        ("summaries/7", {"text": "a"}, [("text", "a"), ("text", "b")], "/text", "type"),
        ("summaries/7", [1], [], "", "type"),
        ("summaries/7", {"text": "a", "tags": ["a", 5]}, [], "/tags/1", "type"),
    ],
)
async def test_what_does_not_fit_is_refused_before_it_runs(bench: Bench, path: str, body: Any, query: list[tuple[str, str]], pointer: str, rule: str) -> None:
    """The refusal tells the place and the rule, not the value; both sides' trails count it."""
    await bench.publish()
    await bench.subscribe()
    with pytest.raises(PyfaasError) as refused:
        bench.call(path, body=body, query=query)
    assert (refused.value.code, dict(refused.value.evidence)) == (Code.INVALID_EVENT, {"pointer": pointer, "rule": rule})
    assert "function" not in refused.value.message + refused.value.hint
    assert bench.audit.counted == [(SOUTH, NORTH, "north/text", "invalid_event"), (NORTH, SOUTH, "text", "invalid_event")]


@pytest.mark.parametrize(
    "body", [b"{", b"NaN", b'{"text": Infinity}', b'{"text": 1e999}', b'{"text": "\\ud800"}', b'{"tags": ' + b"[" * 5000 + b"]" * 5000 + b"}", b"\xff", b"[" * 100_000]
)
async def test_a_body_that_is_no_json_is_refused(bench: Bench, body: bytes) -> None:
    """What no JSON reader takes is the caller's mistake, by path and by name."""
    await bench.publish()
    await bench.subscribe()
    with pytest.raises(PyfaasError) as refused:
        bench.operations.prepare(bench.who(SOUTH), ("north", "text", "1"), "POST", "summaries/7", query=[], body=body, is_json=True)
    assert refused.value.code is Code.INVALID_EVENT
    with pytest.raises(PyfaasError) as refused:
        bench.operations.checked(bench.who(SOUTH), "mine/summarise", body)
    assert refused.value.code is Code.INVALID_EVENT


async def test_too_much_to_check_is_refused(bench: Bench) -> None:
    """A body over a megabyte, and one that a pattern would look at for long, are too large; text without a pattern is not."""
    operations = [
        {"name": "plain", "path": "/plain", "function": "list", "input": {"properties": {"text": {"type": "string"}, "id": {"pattern": "^a"}}}},
        {"name": "hard", "path": "/hard", "function": "list", "input": {"properties": {"text": {"pattern": "a[ab]{50}b"}}}},
    ]
    await bench.publish(operations=operations)
    await bench.subscribe()
    for path, size in (("plain", 1_100_000), ("hard", 500_000)):
        with pytest.raises(PyfaasError) as refused:
            bench.call(path, body={"text": "a" * size})
        assert refused.value.code is Code.PAYLOAD_TOO_LARGE
    assert bench.call("plain", body={"text": "a" * 900_000}).name == "mine/plain"


async def test_the_order_of_refusals(bench: Bench) -> None:
    """Only a subscriber hears what became of a version, which operations and which methods there are."""
    await bench.publish(access="approval")
    await bench.publish("2", access="approval")

    def refused(account: AccountId, path: str, method: str = "POST", version: str = "1") -> Code:
        with pytest.raises(PyfaasError) as error:
            bench.call(path, method, account=account, version=version)
        return error.value.code

    asked = [("summaries/7", "POST", "1"), ("nothing", "POST", "1"), ("summaries", "DELETE", "1")]
    assert [refused(SOUTH, *each) for each in asked] == [Code.NOT_ALLOWED] * 3
    await bench.subscribe()
    assert [refused(SOUTH, *each) for each in asked] == [Code.NOT_ALLOWED] * 3
    await bench.subscriptions.decide(bench.who(NORTH), "text", "south", is_approved=True)
    assert [refused(SOUTH, *each) for each in asked[1:]] == [Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED]
    assert refused(SOUTH, "openapi.json") is Code.NOT_FOUND
    assert refused(SOUTH, "summaries", "GET", "9") is Code.NOT_FOUND
    await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.RETIRED)
    assert [refused(SOUTH, *each) for each in asked] == [Code.GONE] * 3
    assert [refused(EAST, *each) for each in asked] == [Code.NOT_ALLOWED] * 3
    await bench.subscriptions.revoke(bench.who(NORTH), "text", "south", stop=True)
    assert refused(SOUTH, "summaries", "GET", "2") is Code.GONE


async def test_a_deprecated_version_answers_with_a_warning(bench: Bench) -> None:
    """Deprecation and Sunset are headers of every answer of it."""
    await bench.publish()
    await bench.subscribe()
    await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.DEPRECATED)
    assert bench.call("summaries", "GET").headers == {"Deprecation": "true"}
    await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.DEPRECATED, 2_000_000_000)
    assert bench.call("summaries", "GET").headers == {"Deprecation": "true", "Sunset": "Wed, 18 May 2033 03:33:20 GMT"}
    await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.DEPRECATED, 253_402_300_799)
    assert bench.call("summaries", "GET").headers["Sunset"] == "Fri, 31 Dec 9999 23:59:59 GMT"
    with pytest.raises(PyfaasError) as refused:
        await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.DEPRECATED, 253_402_300_800)
    assert refused.value.code is Code.INVALID_REQUEST


async def test_a_call_by_name_is_checked_by_the_newest_version(bench: Bench) -> None:
    """SUBSCRIPTION/OPERATION has the input of the newest version that has it and is not retired."""
    await bench.publish()
    await bench.publish("2", operations=[{"name": "summarise", "path": "/s", "function": "summarise", "input": {"required": ["new"]}}])
    await bench.subscribe()
    south, old = bench.who(SOUTH), b'{"id": 1, "text": "a"}'
    made = bench.operations.checked(south, "mine/summarise", b'{"new": 1}')
    assert (made.body, made.version) == (b'{"new": 1}', "2")
    with pytest.raises(PyfaasError):
        bench.operations.checked(south, "mine/summarise", old)
    assert bench.operations.event_of(south, "mine/summarise", "1", old) == old  # what was checked by a version stays with it
    await bench.apis.set_state(bench.who(NORTH), "text", "2", ApiState.RETIRED)
    assert bench.operations.checked(south, "mine/summarise", old).version == bench.operations.version_of(south, "mine/summarise") == "1"
    for name in ("mine/nothing", "nothing/nothing", "own"):  # whoever runs it says that it is not there
        made = bench.operations.checked(south, name, b"{")
        assert (made.body, made.version, bench.operations.version_of(south, name)) == (b"{", None, None)


# ---- documents


async def test_the_document_is_valid_and_whole(bench: Bench) -> None:
    """Every operation is described with its parameters and its body, and references lead somewhere."""
    recursive = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "label": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": {"type": "string"}}}
    operations = [
        *definition()["operations"],
        {"name": "find", "method": "GET", "path": "/find/{kind}", "function": "list", "description": "Find texts", "input": {
            "type": "object", "properties": {"kind": {"enum": ["a"]}, "limit": {"type": "integer"}, "filter": {"type": "object"}}, "required": ["limit"]}},
        {"name": "tree", "method": "PUT", "path": "/tree", "function": "list", "output": recursive},
    ]
    await bench.publish(operations=operations, title="Texts", description="What one does with texts")
    made = bench.apis.document(bench.who(SOUTH), "north", "text", "1", "http://host/v1/apis/north/text/1")
    assert [str(error) for error in OpenAPIV31SpecValidator(made).iter_errors()] == []
    assert made["servers"] == [{"url": "http://host/v1/apis/north/text/1"}]
    assert (made["info"]["title"], made["security"]) == ("Texts", [{"bearer": []}])
    summarise = made["paths"]["/summaries/{id}"]["post"]
    assert summarise["operationId"] == "summarise"
    assert [(p["name"], p["in"], p["schema"]["type"]) for p in summarise["parameters"]] == [("id", "path", "integer")]
    body = summarise["requestBody"]["content"]["application/json"]["schema"]
    assert (sorted(body["properties"]), body["required"]) == (["tags", "text"], ["text"])
    assert made["components"]["schemas"][body["properties"]["tags"]["$ref"].rpartition("/")[2]] == INPUT["$defs"]["tags"]
    find = made["paths"]["/find/{kind}"]["get"]
    assert [(p["name"], p["in"], p["required"]) for p in find["parameters"]] == [("kind", "path", True), ("limit", "query", True)]
    assert "requestBody" not in find
    tree = made["paths"]["/tree"]["put"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert tree["properties"]["children"]["items"]["$ref"] == "#/components/schemas/tree_output"
    assert "deprecated" not in summarise
    await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.DEPRECATED)
    assert bench.apis.document(bench.who(SOUTH), "north", "text", "1", "")["paths"]["/summaries/{id}"]["post"]["deprecated"] is True
    await bench.apis.set_state(bench.who(NORTH), "text", "1", ApiState.RETIRED)
    with pytest.raises(PyfaasError) as refused:
        bench.apis.document(bench.who(SOUTH), "north", "text", "1", "")
    assert refused.value.code is Code.GONE


async def test_words_that_are_names_stay_names(bench: Bench) -> None:
    """A member that is called as a word of JSON Schema is, and what is data is not read as a schema."""
    tag = {"$ref": "#/$defs/tag"}
    schema = {
        "type": "object",
        "properties": {"default": tag, "enum": tag, "$ref": tag, "deep": {"$ref": "#/$defs/table/properties/x"}, "same": {"const": {"$ref": "#/nowhere"}}},
        "$defs": {"tag": {"type": "string"}, "table": {"properties": {"x": {"type": "integer"}}}},
    }
    await bench.publish(operations=[{"name": "a", "path": "/a", "function": "list", "input": schema}])
    made = bench.apis.document(bench.who(SOUTH), "north", "text", "1", "")
    assert [str(error) for error in OpenAPIV31SpecValidator(made).iter_errors()] == []
    members = made["paths"]["/a"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {members[name]["$ref"] for name in ("default", "enum", "$ref")} == {"#/components/schemas/a_input_tag"}
    assert members["deep"]["$ref"] == "#/components/schemas/a_input/$defs/table/properties/x"
    assert members["same"] == {"const": {"$ref": "#/nowhere"}}
    assert made["components"]["schemas"]["a_input"]["$defs"]["table"]["properties"]["x"] == {"type": "integer"}


async def test_of_two_at_once_one_publishes(bench: Bench) -> None:
    """Two publications of one version with different content at the same time: one is kept, the other is a conflict."""
    ended = await asyncio.gather(bench.publish(title="one"), bench.publish(title="two"), return_exceptions=True)
    [status] = [each[0] for each in ended if isinstance(each, tuple)]
    [refused] = [each for each in ended if isinstance(each, PyfaasError)]
    assert (status, refused.code) == (201, Code.CONFLICT)
    assert len((await bench.store.load())[1]) == 1
