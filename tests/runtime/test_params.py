"""Parameters, secrets and who called, as a container gives them to code: merged once, told to every shape, kept by nobody."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfaas.runtime.context import Assignment, Context
from pyfaas.runtime.params import InvalidParameter, merge, same
from sandbox.wire import Flag, Status

from .conftest import Guest

SHOW = """
def handler(event, context):
    return {"event": event, "params": context.params, "secrets": context.secrets, "caller": context.caller, "alias": context.alias}
"""
ASGI = """
import json

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(scope["pyfaas"]).encode()})
"""
HTTP = {"method": "POST", "path": "/", "headers": [["content-type", "application/json"]]}
_keys = st.sampled_from("abcd")
_values = st.one_of(st.integers(0, 2), st.booleans(), st.sampled_from(["x", 1.0, None, [1], [True], {"k": 1}, {"k": True}]))
_objects = st.dictionaries(_keys, _values, max_size=4)
_layers = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "lock": _objects,
            "stored": _objects,
            "require": st.lists(_keys, unique=True, max_size=3),
            "allow": st.lists(_keys, unique=True, max_size=3),
            "declares": st.booleans(),
        },
    ),
    max_size=4,
)


def oracle(layers: list[dict[str, Any]], event: Any) -> Any:
    """Say for each key by itself what the ranks give: the value's or the refusal's place, asked from the innermost layer outwards."""
    missing, refused = object(), []

    def called_with(key: str, depth: int) -> Any:
        if depth < 0:
            return event[key] if isinstance(event, dict) and key in event else missing
        layer, call = layers[depth], called_with(key, depth - 1)
        lock, stored = layer.get("lock", {}), layer.get("stored", {})
        is_stored = key in stored and not (layer.get("declares") and key not in [*layer.get("require", ()), *layer.get("allow", ())])
        if key in lock:
            if call is not missing and json.dumps(call, sort_keys=True) != json.dumps(lock[key], sort_keys=True) and not _numbers_equal(call, lock[key]):
                refused.append((depth, 0, key))
            value = lock[key]
        elif call is not missing and key in layer.get("allow", ()):
            value = call
        else:
            value = stored[key] if is_stored else call
        if value is missing and key in layer.get("require", ()):
            refused.append((depth, 1, key))
        return value

    declared = {key for layer in layers for part in ("lock", "require", "allow", "stored") for key in layer.get(part, ())}
    params = {key: value for key in declared if (value := called_with(key, len(layers) - 1)) is not missing}
    if refused:
        return min(refused)[:2]
    return ({**event, **params} if isinstance(event, dict) else event), params


def _numbers_equal(one: Any, other: Any) -> bool:
    kinds = {type(one), type(other)}
    return kinds == {int, float} and one == other


@given(layers=_layers, event=st.one_of(_objects, st.dictionaries(st.sampled_from("abxy"), _values), st.sampled_from([None, [1], "text", 7, b"bytes"])))
def test_the_ranks_decide(layers: list[dict[str, Any]], event: Any) -> None:
    """For any layers and any event, each key has the value of its highest rank, or the first contradiction refuses the call."""
    wanted = oracle(layers, event)
    before = json.dumps([layers, event if not isinstance(event, bytes) else None])
    try:
        came: Any = merge(layers, event)
    except InvalidParameter as error:
        reason = 0 if "set by the owner" in str(error) else 1
        assert (wanted[0] if isinstance(wanted[0], int) else None, wanted[1]) == (wanted[0], reason)
    else:
        assert json.dumps(came, sort_keys=True, default=repr) == json.dumps(wanted, sort_keys=True, default=repr)
    assert json.dumps([layers, event if not isinstance(event, bytes) else None]) == before  # nothing was changed in place


@pytest.mark.parametrize(
    ("layer", "event", "merged"),
    [
        ({"lock": {"k": 1}}, {"x": 5}, ({"x": 5, "k": 1}, {"k": 1})),
        ({"lock": {"k": 1}}, {"k": 1.0}, ({"k": 1}, {"k": 1})),
        ({"stored": {"k": 1}}, {"k": 2}, ({"k": 1}, {"k": 1})),
        ({"stored": {"k": 1}, "allow": ["k"]}, {"k": 2}, ({"k": 2}, {"k": 2})),
        ({"stored": {"k": 1}, "allow": ["k"]}, {}, ({"k": 1}, {"k": 1})),
        ({"require": ["k"]}, {"k": None}, ({"k": None}, {"k": None})),
        ({"stored": {"k": 1}, "allow": ["a"], "declares": True}, {"z": 1}, ({"z": 1}, {})),
        ({}, {"z": 1}, ({"z": 1}, {})),
        ({"stored": {"k": 1}}, [1], ([1], {"k": 1})),
    ],
)
def test_one_layer(layer: dict[str, Any], event: Any, merged: Any) -> None:
    """The order is: locked, the call's where it may override, stored, the call's; other keys are nobody's parameters."""
    assert merge([layer], event) == merged


@pytest.mark.parametrize(
    ("layers", "event", "told"),
    [
        ([{"lock": {"k": "canary-1"}}], {"k": "canary-2"}, "the parameter 'k' is set by the owner"),
        ([{"lock": {"k": True}}], {"k": 1}, "the parameter 'k' is set by the owner"),
        ([{"stored": {"k": "canary-1"}}, {"lock": {"k": "canary-2"}}], {}, "the parameter 'k' is set by the owner"),
        ([{"require": ["k"]}], {}, "the parameter 'k' is missing"),
        ([{"require": ["k"]}], [{"k": 1}], "the parameter 'k' is missing"),
    ],
)
def test_a_contradiction_names_the_key_only(layers: list[dict[str, Any]], event: Any, told: str) -> None:
    """A refusal is one sentence with the key, whoever set the value, and holds no value."""
    with pytest.raises(InvalidParameter) as refused:
        merge(layers, event)
    assert str(refused.value) == told


def test_layers_merge_from_the_caller_inwards() -> None:
    """What an outer layer comes to is what the inner one is called with: it may override there where the inner one allows it."""
    inner, outer = {"stored": {"k": "inner", "m": "inner"}, "allow": ["k"]}, {"stored": {"k": "outer", "m": "outer"}}
    assert merge([outer, inner], {"k": "call"})[1] == {"k": "outer", "m": "inner"}


def test_the_same_json() -> None:
    """Values are compared as JSON: truth is no number, an object's order is nothing, depth counts."""
    assert same({"a": [1, {"b": None}], "c": 2}, {"c": 2.0, "a": [1, {"b": None}]})
    assert not same({"a": [True]}, {"a": [1]})
    assert not same([1], [1, 1])
    assert not same({"a": 1}, {"b": 1})


META = {
    "params": [{"lock": {"model": "small"}, "allow": ["size"], "stored": {"size": 1}}],
    "secrets": {"KEY": "s3cret"},
    "caller": "000000000002",
    "alias": "theirs",
}


def test_an_event_handler_gets_them(guest: Guest) -> None:
    """Parameters are in the event and in the context; secrets, caller and alias are in the context."""
    guest.load(SHOW)
    shown = guest.call({"text": "a", "size": 3}, flags=Flag.PARAMS, meta=META).json
    assert shown["event"] == {"text": "a", "size": 3, "model": "small"}
    assert shown["params"] == {"size": 3, "model": "small"}
    assert (shown["secrets"], shown["caller"], shown["alias"]) == ({"KEY": "s3cret"}, "000000000002", "theirs")


def test_without_any_a_context_is_empty(guest: Guest) -> None:
    """A plain call has no parameters and no secrets, its caller is the owner; so has the one after a lent call."""
    guest.load(SHOW)
    plain = {"event": {"a": 1}, "params": {}, "secrets": {}, "caller": "acct", "alias": None}
    assert guest.call({"a": 1}).json == plain
    assert guest.call({"a": 1}, flags=Flag.PARAMS, meta=META).json["secrets"] == {"KEY": "s3cret"}
    assert guest.call({"a": 1}).json == plain


def test_own_secrets_need_no_flag(guest: Guest) -> None:
    """A function's own secrets come with a call that has no parameters."""
    guest.load(SHOW)
    assert guest.call({"a": 1}, meta={"secrets": {"K": "v\u00e9\n"}}).json["secrets"] == {"K": "v\u00e9\n"}


def test_an_event_that_is_no_object_stays(guest: Guest) -> None:
    """Bytes and arrays arrive as they are; what is stored and locked is in the context."""
    guest.load("def handler(event, context):\n    return [repr(event), context.params]\n")
    assert guest.call(body=b"\x00raw", flags=Flag.PARAMS | Flag.BYTES, meta=META).json == ["b'\\x00raw'", {"size": 1, "model": "small"}]
    assert guest.call([1], flags=Flag.PARAMS, meta=META).json == ["[1]", {"size": 1, "model": "small"}]


def test_a_refusal_is_the_callers(guest: Guest) -> None:
    """A contradiction is an invalid event with a type of its own, and the handler does not run."""
    guest.load("def handler(event, context):\n    print('ran')\n")
    answered = guest.call({"model": "canary"}, flags=Flag.PARAMS, meta=META)
    assert (answered.status, answered.out) == (Status.INVALID_EVENT, "")
    assert answered.json == {"errorType": "InvalidParameter", "errorMessage": "the parameter 'model' is set by the owner"}


def test_a_typed_function_gets_them(guest: Guest) -> None:
    """Parameters become arguments, in calls by name and in the SDK's; secrets are in a context that is asked for by its type."""
    guest.load(
        """
        from pyfaas import Context

        def handler(text: str, model: str, size: int, context: Context) -> list:
            return [text, model, size, context.params, context.secrets]
        """
    )
    wanted = ["a", "small", 1, {"model": "small", "size": 1}, {"KEY": "s3cret"}]
    assert guest.call({"text": "a"}, flags=Flag.PARAMS, meta=META).json == wanted
    assert guest.call({"$args": ["a"], "$kwargs": {}}, flags=Flag.PARAMS, meta=META).json == wanted
    assert guest.call({"$args": ["a"]}, flags=Flag.PARAMS, meta=META).json == wanted
    refused = guest.call({"$kwargs": {"text": "a", "model": "large"}}, flags=Flag.PARAMS, meta=META)
    assert (refused.status, refused.json["errorType"]) == (Status.INVALID_EVENT, "InvalidParameter")


def test_a_value_that_does_not_fit_is_not_told(guest: Guest) -> None:
    """A stored parameter of the wrong type is refused by its key, without its value."""
    guest.load("def handler(size: int) -> int:\n    return size\n")
    answered = guest.call({}, flags=Flag.PARAMS, meta={"params": [{"stored": {"size": "canary"}}]})
    assert answered.status == Status.INVALID_EVENT
    assert "size" in answered.json["errorMessage"]
    assert b"canary" not in answered.result


def test_a_model_does_not_repeat_a_value(guest: Guest) -> None:
    """What pydantic refuses is told by place and rule: its own text has the value, which may be a parameter of somebody else's."""
    pytest.importorskip("pydantic")
    paths = [str(guest.code), *(path for path in sys.path if path.endswith("site-packages"))]
    source = """
        from pydantic import BaseModel

        class Order(BaseModel):
            size: int

        def handler(order: Order) -> int:
            return order.size
        """
    assert guest.load(source, paths=paths)[0] == "R"
    answered = guest.call({}, flags=Flag.PARAMS, meta={"params": [{"stored": {"order": {"size": "canary"}}}]})
    assert answered.status == Status.INVALID_EVENT
    assert "'order': size: Input should be a valid integer" in answered.json["errorMessage"]
    assert b"canary" not in answered.result
    assert guest.call({"order": {"size": 3}}).json == 3


def test_a_url_event_is_left_alone(guest: Guest) -> None:
    """An event in Lambda's form for URLs stays what the request was: parameters are in the context only."""
    guest.load("def handler(event, context):\n    return [sorted(event), event['body'], context.params, context.secrets]\n")
    answered = guest.call(body=b'{"model": "large"}', flags=Flag.PARAMS | Flag.HTTP, meta={**META, "http": HTTP})
    names, body, params, secrets = json.loads(answered.http[2])
    assert "model" not in names
    assert (body, params, secrets) == ('{"model": "large"}', {"model": "small", "size": 1}, {"KEY": "s3cret"})


def test_an_asgi_app_finds_them_in_its_scope(guest: Guest) -> None:
    """An ASGI app has parameters, secrets, caller and alias under `pyfaas`; without any they are empty."""
    guest.load(ASGI, handler="main:app")
    lent = guest.call(flags=Flag.PARAMS | Flag.HTTP, meta={**META, "http": HTTP})
    wanted = {"params": {"model": "small", "size": 1}, "secrets": {"KEY": "s3cret"}, "caller": "000000000002", "alias": "theirs"}
    assert json.loads(lent.http[2]) == wanted
    plain = guest.call(flags=Flag.HTTP, meta={"http": HTTP})
    assert json.loads(plain.http[2]) == {"params": {}, "secrets": {}, "caller": "acct", "alias": None}


def test_they_may_be_larger_than_a_packet(guest: Guest) -> None:
    """Secrets of a chain arrive whole, beside an event in parts, with and without parameters."""
    guest.load("def handler(event, context):\n    return [len(event['text']), {k: len(v) for k, v in context.secrets.items()}, context.params]\n")
    secrets = {f"K{n}": "\u0001" * 16384 for n in range(4)}
    meta = {"secrets": secrets, "params": [{"stored": {"p": 1}}]}
    sizes = dict.fromkeys(secrets, 16384)
    assert guest.call({"text": "t" * 100_000}, flags=Flag.PARAMS, meta=meta).json == [100_000, sizes, {"p": 1}]
    assert guest.call({"text": "t"}, meta={"secrets": secrets}).json == [1, sizes, {}]


def test_a_stream_has_them_until_its_end(guest: Guest) -> None:
    """A generator reads its secrets while it runs."""
    guest.load("def handler(event, context):\n    yield context.params['model']\n    yield context.secrets['KEY']\n")
    answered = guest.call({}, flags=Flag.PARAMS | Flag.STREAM, meta=META)
    assert answered.items == [b'"small"', b'"s3cret"']


def test_a_context_shows_no_secret() -> None:
    """Neither repr nor str nor vars of a context has a value of a parameter or a secret."""
    context = Context(b"0" * 36, 0.0, Assignment(function="f", version="1", account="a", memory_mib=1), json.dumps(META).encode())
    assert context.secrets == {"KEY": "s3cret"}
    assert "s3cret" not in f"{context!r} {context} {vars(context)}"


def test_nothing_of_a_call_is_kept(guest: Guest) -> None:
    """After a call no object that our code made holds its secrets: the next call of the same container looks for them."""
    guest.load(
        """
        import gc
        import sys

        kept = []

        def handler(event, context):
            if event.get("keep"):
                kept.append(context.secrets)
            if event["look"]:
                gc.collect()
                wanted, seen, ahead, found = "-".join(("canary", "in", "memory")), set(), gc.get_objects(), 0
                frame = sys._getframe(1)
                while frame is not None:  # what runs is not listed either
                    ahead.append(frame.f_locals)
                    frame = frame.f_back
                while ahead:  # the collector does not list objects that hold plain text only: they are somebody's referents
                    met = ahead.pop()
                    if id(met) not in seen:
                        seen.add(id(met))
                        ahead += gc.get_referents(met)
                        found += wanted in met if type(met) is str else wanted.encode() in met if type(met) is bytes else 0
                return found
            return len(context.secrets["K"])
        """
    )
    meta = {**META, "secrets": {"K": "canary-in-memory"}}
    assert guest.call({"look": False}, flags=Flag.PARAMS, meta=meta).json == 16
    assert guest.call({"look": True}).json == 0
    assert guest.call({"look": False}, meta={"secrets": {"K": "canary-in-memory"}}).json == 16
    assert guest.call({"look": True}).json == 0
    assert guest.call({"look": False, "keep": True}, meta={"secrets": {"K": "canary-in-memory"}}).json == 16
    assert guest.call({"look": True}).json == 1  # what the code itself keeps is seen by the same look
