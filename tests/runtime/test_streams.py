"""Generators: streamed, collected, failing, cancelled."""

from __future__ import annotations

import json

from sandbox.wire import MAX_PACKET, Flag, Status

from .conftest import Guest

STREAM = Flag.STREAM
COUNT = "def handler(event, context):\n    for i in range(event): yield {'i': i}\n"
ASYNC_COUNT = "async def handler(event, context):\n    for i in range(event): yield {'i': i}\n"


def test_items_stream(guest: Guest) -> None:
    """Each item is one JSON document; the end is OK_STREAM."""
    _, loaded = guest.load(COUNT)
    answered = guest.call(3, flags=STREAM)
    assert loaded["generator"] is True
    assert (answered.status, answered.head) == (Status.OK_STREAM, {"kind": "json"})
    assert [json.loads(item) for item in answered.items] == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_async_items_stream(guest: Guest) -> None:
    """An asynchronous generator streams in the same way."""
    guest.load(ASYNC_COUNT)
    answered = guest.call(2, flags=STREAM)
    assert (answered.status, len(answered.items)) == (Status.OK_STREAM, 2)


def test_empty_stream(guest: Guest) -> None:
    """A generator without items still has a head and an end."""
    guest.load(COUNT)
    answered = guest.call(0, flags=STREAM)
    assert (answered.status, answered.head, answered.items) == (Status.OK_STREAM, {"kind": "json"}, [])


def test_bytes_stream_is_raw(guest: Guest) -> None:
    """A first item of bytes makes a raw stream; a large item is split."""
    guest.load("def handler(event, context):\n    yield b'a'\n    yield b'b' * 100000\n")
    answered = guest.call(flags=STREAM)
    assert answered.head == {"kind": "bytes"}
    assert b"".join(answered.items) == b"a" + b"b" * 100000


def test_collected(guest: Guest) -> None:
    """Without a stream the items become one array, asynchronous generators and returned ones too."""
    guest.load(COUNT)
    assert guest.call(2).json == [{"i": 0}, {"i": 1}]


def test_async_collected(guest: Guest) -> None:
    """An asynchronous generator is collected when nobody streams."""
    guest.load(ASYNC_COUNT)
    assert guest.call(2).json == [{"i": 0}, {"i": 1}]


def test_returned_generator_is_collected(guest: Guest) -> None:
    """A plain function that returns a generator is treated as one."""
    guest.load("def handler(event, context):\n    return (x for x in 'ab')\n")
    assert guest.call().json == ["a", "b"]


def test_collected_above_the_limit(guest: Guest) -> None:
    """An endless generator is stopped at the output limit, and closed."""
    source = """
    closed = []
    def handler(event, context):
        if event == "closed": yield from closed; return
        try:
            while True: yield "x" * 100
        finally: closed.append(1)
    """
    guest.load(source, output_bytes=1000)
    answered = guest.call("go")
    assert (answered.status, answered.json["limit"]) == (Status.LIMIT, "output")
    assert guest.call("closed").json == [1]


def test_error_before_the_first_item(guest: Guest) -> None:
    """A generator that fails at once is a plain error without a head."""
    guest.load("def handler(event, context):\n    raise ValueError('early')\n    yield\n")
    answered = guest.call(flags=STREAM)
    assert (answered.status, answered.head) == (Status.ERROR, None)
    assert answered.json["errorMessage"] == "early"


def test_error_between_items(guest: Guest) -> None:
    """A failure in the middle ends the stream with an ERROR answer."""
    guest.load("def handler(event, context):\n    yield 1\n    raise SystemExit(2)\n")
    answered = guest.call(flags=STREAM)
    assert (answered.status, answered.items) == (Status.ERROR, [b"1"])
    assert answered.json["errorType"] == "SystemExit"


def test_item_that_is_not_json(guest: Guest) -> None:
    """An item that is no JSON ends the stream with an error naming the type."""
    guest.load("def handler(event, context):\n    yield 1\n    yield {1}\n")
    answered = guest.call(flags=STREAM)
    assert answered.status is Status.ERROR
    assert "'set'" in answered.json["errorMessage"]


def test_item_above_a_packet(guest: Guest) -> None:
    """A JSON item that fits no packet is an output limit."""
    guest.load("def handler(event, context):\n    yield 'x' * event\n")
    assert guest.call(MAX_PACKET - 3, flags=STREAM).status is Status.OK_STREAM
    answered = guest.call(MAX_PACKET, flags=STREAM)
    assert (answered.status, answered.json["limit"]) == (Status.LIMIT, "output")


CANCELLED = """
seen = []
{kind} handler(event, context):
    if event == "seen":
        for each in seen: yield each
        return
    try:
        while True: yield "tick"
    except GeneratorExit:
        seen.append("exit")
        raise
"""


def _cancel_in_the_middle(guest: Guest) -> None:
    call_id = guest.send("go", flags=STREAM)
    waiting = guest.send("seen")  # a prefetched call lies before the CANCEL
    guest.cancel(call_id)
    answered = guest.receive(call_id)
    assert answered.status is Status.CANCELLED
    assert guest.receive(waiting).json == ["exit"]


def test_cancel_closes_the_generator(guest: Guest) -> None:
    """A caller that leaves raises GeneratorExit; a call that was sent meanwhile is not lost."""
    guest.load(CANCELLED.format(kind="def"))
    _cancel_in_the_middle(guest)


def test_cancel_closes_the_async_generator(guest: Guest) -> None:
    """The same holds for an asynchronous generator."""
    guest.load(CANCELLED.format(kind="async def"))
    _cancel_in_the_middle(guest)


def test_generator_that_refuses_to_close(guest: Guest) -> None:
    """A generator that yields on GeneratorExit is an error, and the loop goes on."""
    source = """
    def handler(event, context):
        while event:
            try: yield 1
            except GeneratorExit: pass
    """
    guest.load(source)
    call_id = guest.send(1, flags=STREAM)
    guest.cancel(call_id)
    assert guest.receive(call_id).status is Status.ERROR
    assert guest.call(0).json == []
