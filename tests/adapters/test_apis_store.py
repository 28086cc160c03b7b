"""APIs, their versions and subscriptions in a real database: what comes back is what was kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from pyfaas.adapters.sqlite.apis import SqliteApis
from pyfaas.adapters.sqlite.connection import Database
from pyfaas.adapters.sqlite.store import SqliteStore
from pyfaas.errors import Code, PyfaasError
from pyfaas.model import FunctionId
from pyfaas.sharing import (
    Access,
    Api,
    ApiId,
    ApiState,
    ApiVersion,
    CallableId,
    Operation,
    Payer,
    Subscription,
    SubscriptionState,
    Terms,
)
from tests.adapters.samples import ALICE, BOB, account, function

API = Api(id=ApiId("api-1"), owner=ALICE, name="text", created=2.0)
OPERATION = Operation(
    name="summarise",
    method="POST",
    path="/summaries/{id}",
    function=FunctionId("f1"),
    function_name="summarise",
    qualifier="3",
    input={"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
    output={"$ref": "#"},
    timeout_ms=10_000,
    description="grüße",
)
VERSION = ApiVersion(
    api=API.id,
    version="1",
    digest="d1",
    access=Access.LISTED,
    accounts=(BOB,),
    is_public=False,
    title="Texts",
    terms=Terms(network=("a.example:443",), rate=2.5, secrets=("k",), payer=Payer.OWNER, max_concurrency=3),
    operations=(OPERATION,),
    created=3.0,
    changed=3.0,
)


def subscription(key: str = "s1", **more: Any) -> Subscription:
    """Make BOB's subscription."""
    fields: dict[str, Any] = {"account": BOB, "name": "text", "api": API.id, "state": SubscriptionState.ACTIVE, "created": 4.0}
    return Subscription(id=CallableId(key), **{**fields, "params": {"a": [1, {"b": None}]}, "network": ("a.example:443",), **more})


@pytest_asyncio.fixture
async def apis(database: Database, store: SqliteStore) -> SqliteApis:
    """Give the store of APIs, two accounts being known."""
    await store.add_account(account(), None)
    await store.add_account(account(BOB, "bob"), None)
    return SqliteApis(database)


async def test_what_is_kept_comes_back(apis: SqliteApis) -> None:
    """An API, its version with every field, and a subscription are loaded as they were."""
    await apis.publish(API, VERSION)
    await apis.publish(API, second := replace(VERSION, version="2", digest="d2", created=5.0))
    await apis.put_subscription(subscription())
    assert await apis.load() == ([API], [VERSION, second], [subscription()])


async def test_a_state_is_kept(apis: SqliteApis) -> None:
    """A version's state, its sunset and when it changed are replaced, what it defines stays."""
    await apis.publish(API, VERSION)
    await apis.set_version(changed := replace(VERSION, state=ApiState.DEPRECATED, sunset=99.0, changed=7.0))
    assert (await apis.load())[1] == [changed]
    with pytest.raises(PyfaasError) as refused:
        await apis.set_version(replace(VERSION, version="9"))
    assert refused.value.code is Code.NOT_FOUND


async def test_names_and_versions_are_taken_once(apis: SqliteApis) -> None:
    """The same version, another API of the same name, and a second living subscription are conflicts, and change nothing."""
    await apis.publish(API, VERSION)
    await apis.put_subscription(subscription())
    before = await apis.load()
    other = replace(API, id=ApiId("api-2"))
    for write in (
        apis.publish(API, replace(VERSION, digest="d2")),
        apis.publish(other, replace(VERSION, api=other.id)),
        apis.put_subscription(subscription("s2", name="text2")),
    ):
        with pytest.raises(PyfaasError) as refused:
            await write
        assert refused.value.code is Code.CONFLICT
    assert await apis.load() == before


async def test_a_name_of_a_living_subscription_is_taken(apis: SqliteApis) -> None:
    """Two APIs are not subscribed under one name, until the first has ended."""
    other = replace(API, id=ApiId("api-2"), name="other")
    await apis.publish(API, VERSION)
    await apis.publish(other, replace(VERSION, api=other.id))
    await apis.put_subscription(subscription())
    with pytest.raises(PyfaasError) as refused:
        await apis.put_subscription(subscription("s2", api=other.id))
    assert refused.value.code is Code.CONFLICT
    await apis.put_subscription(subscription(state=SubscriptionState.ENDED, ended=6.0))
    await apis.put_subscription(subscription("s2", api=other.id))
    assert {s.id: s.state for s in (await apis.load())[2]} == {"s1": SubscriptionState.ENDED, "s2": SubscriptionState.ACTIVE}


async def test_a_removed_api_ends_its_subscriptions(apis: SqliteApis) -> None:
    """Removal ends what lives and forgets what was stored with it, keeps what ended before, and gives the name free for another id."""
    await apis.publish(API, VERSION)
    await apis.put_subscription(old := subscription("s0", state=SubscriptionState.REFUSED, ended=1.0))
    await apis.put_subscription(subscription())
    await apis.remove_api(API.id, 9.0)
    known, versions, subscriptions = await apis.load()
    assert (known, versions) == ([], [])
    assert {s.id: s for s in subscriptions} == {"s0": old, "s1": subscription(state=SubscriptionState.ENDED, ended=9.0, params={}, network=())}
    with pytest.raises(PyfaasError) as refused:
        await apis.remove_api(API.id, 10.0)
    assert refused.value.code is Code.NOT_FOUND
    again = replace(API, id=ApiId("api-3"))
    await apis.publish(again, replace(VERSION, api=again.id))
    assert (await apis.load())[0] == [again]


async def test_functions_and_subscriptions_share_their_names(apis: SqliteApis, store: SqliteStore) -> None:
    """A function's name is not a subscription's, nor the other way round, for as long as either lives."""
    await apis.publish(API, VERSION)
    await store.publish(replace(function("f1", "text"), account=BOB), None, None)
    with pytest.raises(PyfaasError) as refused:
        await apis.put_subscription(subscription())
    assert refused.value.code is Code.CONFLICT
    await apis.put_subscription(subscription(name="mine"))
    await apis.put_subscription(subscription(name="mine", params={}))
    with pytest.raises(PyfaasError) as refused:
        await store.publish(replace(function("f2", "mine"), account=BOB), None, None)
    assert refused.value.code is Code.CONFLICT
    await apis.remove_api(API.id, 9.0)
    await store.publish(replace(function("f2", "mine"), account=BOB), None, None)
