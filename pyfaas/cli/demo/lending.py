"""Steps that lend: north's text service makes south's documents short, fetched with south's own key, and neither sees the other's side.

South's documents are in a store elsewhere, a small HTTP service of the demo's own, which north's function may reach because both accounts
said so. Where VMs cannot have a network (the layer `doors` is missing), the texts travel with the calls instead.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import urlsplit

from pyfaas.apifile import load
from pyfaas.cli.demo.stage import Stage, StepFailed, check
from pyfaas.cli.demo.store import DOCUMENTS, HOST
from pyfaas.client.errors import FunctionError, Gone, NotFound
from pyfaas.client.http import HttpTransport, json_call

_LENT, _ALIAS, _SUBSCRIPTION = "summaries", "short", "texts"
_DOCUMENT = "penguins"


def _event(stage: Stage, document: str = _DOCUMENT) -> dict[str, Any]:
    return {"document": document} if stage.network else {"text": DOCUMENTS.get(document)}


def _fetched(stage: Stage) -> str:
    return ", fetched with south's own key" if stage.network else ""


async def lend(stage: Stage) -> str:
    """Let south call north's text service, one sentence at a time."""
    version = await stage.north.deploy(stage.examples / "text", name=_LENT, network=list(stage.network))
    check(version["state"] == "ready", version.get("reason"))
    terms = await stage.north.grant(_LENT, "south", lock={"sentences": 1}, require=["store"], network=stage.network)
    reach = f", which may reach {HOST}" if stage.network else ""
    return f"north lends {_LENT}{reach}; {', '.join(terms['lock'])} is fixed, {', '.join(terms['require'])} is south's to give"


async def accept(stage: Stage) -> str:
    """Give it a name in south, with south's store and key in it; call it. What only north allows it does not reach."""
    store, lent = stage.store, f"north/{_LENT}"
    own: dict[str, Any] = {"params": {"store": store.url}, "secrets": {"store_key": store.key}}
    if stage.network:
        await stage.south.accept(lent, _ALIAS, **own)
        await _failure(stage, _DOCUMENT)
        check(not store.served and not store.refused, "the store was reached although south did not allow it")
    made = await stage.south.accept(lent, _ALIAS, **own, network=stage.network)
    check(made["secrets"] == ["store_key"] and store.key not in json.dumps(made), "the key was shown")
    answer = await stage.south.invoke(_ALIAS, _event(stage))
    check(answer["about"][0] == _DOCUMENT and answer["summary"] in DOCUMENTS[_DOCUMENT], answer)
    check((store.served > 0, store.refused) == (bool(stage.network), 0), f"the store served {store.served} and refused {store.refused}")
    return f"{_ALIAS} says {answer['summary']!r}{_fetched(stage)}" + (", once both allow it" if stage.network else "")


async def see_nothing(stage: Stage) -> str:
    """Look for the other's side, from both sides."""
    for look in (stage.south.function, stage.south.versions):
        with contextlib.suppress(NotFound):
            await look(_LENT)
            raise StepFailed("south could look at north's function")
    failed = await _failure(stage, "nothing")
    check(failed.error_type == "FunctionError" and "main.py" not in json.dumps(failed.problem), failed.problem)
    north = stage.north
    seen = [await north.grants(), await north.audit(), await north.usage(), await north.secrets(_LENT)]
    told = json.dumps([*seen, [line async for line in north.logs(_LENT)]])
    hidden = (stage.store.key, stage.store.url, f'"{_ALIAS}"', "Adelie")
    check(not any(each in told for each in hidden), "north could see what is south's")
    return "north: no key, parameter, text or name of south's; south: no code, traceback or log of north's"


async def _failure(stage: Stage, document: str) -> FunctionError:
    """Call it with a document that it cannot have; returns what south hears of it."""
    try:
        await stage.south.invoke(_ALIAS, _event(stage, document))
    except FunctionError as error:
        return error
    raise StepFailed(f"it made {document!r} short")


async def take_back(stage: Stage) -> str:
    """Take the function back: what south calls it is gone."""
    await stage.north.revoke(_LENT, "south")
    try:
        await stage.south.invoke(_ALIAS, _event(stage))
    except Gone as error:
        return f"{error.status} for south at once: {error.message}"
    raise StepFailed("south could still call it")


async def subscribe(stage: Stage) -> str:
    """Publish the same function as an API; subscribe, and call an operation by its name and by its path."""
    definition = load(stage.examples / "text" / "api.toml")
    for operation in definition["operations"]:
        operation["function"] = _LENT
    await stage.north.publish_api({**definition, "network": list(stage.network)})
    made = await stage.south.subscribe(
        f"north/{definition['name']}",
        _SUBSCRIPTION,
        params={"store": stage.store.url},
        secrets={"store_key": stage.store.key},
        network=stage.network,
    )
    by_name = await stage.south.invoke(f"{_SUBSCRIPTION}/summarise", {"text": DOCUMENTS[_DOCUMENT]})
    path = f"summaries/{_DOCUMENT}" if stage.network else "summaries"
    by_path = await _request(stage, made["url"], path, None if stage.network else _event(stage))
    check(by_name["about"] == by_path["about"] and by_path["about"][0] == _DOCUMENT, (by_name, by_path))
    names = ", ".join(operation["name"] for operation in made["operations"])
    return f"north/{definition['name']} has {names}; about {', '.join(by_path['about'])}{_fetched(stage)}"


async def _request(stage: Stage, base: str, path: str, event: dict[str, Any] | None) -> dict[str, Any]:
    """Call an operation of an API as any HTTP client does."""
    transport = HttpTransport(stage.url, stage.tokens["south"])
    call = json_call("GET" if event is None else "POST", f"{urlsplit(base).path}/{path}", event)
    try:
        async with transport.exchange(call) as reply:
            answer: dict[str, Any] = json.loads(await reply.read())
            return answer
    finally:
        await transport.close()


async def show_usage(stage: Stage) -> str:
    """Show what each side sees of these runs: south pays and sees its own names, north sees who called."""
    paid = {row["alias"]: row["calls"] for row in await stage.south.usage(by="alias") if row.get("alias")}
    asked = {row["api"]: row["calls"] for row in await stage.south.usage(by="api") if row.get("api")}
    south = (await stage.south.whoami())["id"]
    lent = sum(row["calls"] for row in await stage.north.usage(by="caller") if row.get("caller") == south)
    called = 3 if stage.network else 2
    check((paid.get(_ALIAS), sum(asked.values()), lent) == (called, 2, called + 2), (paid, asked, lent))
    return f"south pays for {paid[_ALIAS]} runs of {_ALIAS} and {sum(asked.values())} of the API; north sees {lent} by south"
