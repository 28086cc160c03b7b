"""The front: order, pieces, leaving, silence, slow readers, and a stop."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from pyfaas.web import event
from pyfaas.web.connection import Connection
from pyfaas.web.front import IDLE_S
from tests.web.conftest import Served, serving
from tests.web.wire import Answer, Wire, ask, call, get, other

N = b'{"n": %d}'
CHUNKED = call(b"", b"Transfer-Encoding: chunked\r\n", has_length=False)


def numbered(answer: Answer) -> int:
    """Return the number that a call gave back."""
    assert answer.status == 200, answer
    number: int = answer.json["n"]
    return number


async def until(condition: object) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.002)


async def settled(count: Callable[[], int]) -> int:
    """Wait until a count stays as it is through many turns of the loop, in each of which it could have grown."""
    async with asyncio.timeout(60):
        seen, same = count(), 0
        while same < 40:
            await asyncio.sleep(0.005)
            seen, same = count(), same + 1 if count() == seen else 0
    return seen


async def test_split_at_each_byte(front: Served) -> None:
    """A call is answered wherever its bytes are cut in two, and the connection goes on."""
    whole = call(N % 7)
    wire = await Wire.to(front.port)
    for cut in range(1, len(whole)):
        await wire.send(whole[:cut], whole[cut:])
        assert numbered(await wire.answer()) == 7
    assert len(front.service.calls) == len(whole) - 1


async def test_byte_by_byte(front: Served) -> None:
    """A call that comes one byte at a time is answered."""
    wire = await Wire.to(front.port)
    await wire.send(*(bytes([byte]) for byte in call(N % 7)))
    assert numbered(await wire.answer()) == 7


async def test_pipelined_calls_are_answered_in_order(front: Served) -> None:
    """Calls, reads and calls that aiohttp takes, sent at once, are answered in their order."""
    wire = await Wire.to(front.port)
    sent = [call(b'{"n": 1, "sleep": 0.02}'), call(N % 2), get(b"/healthz"), call(N % 3), get(b"/v1/whoami"), call(N % 4)]
    await wire.send(b"".join(sent))
    got = [await wire.answer() for _ in sent]
    assert [answer.json.get("n", "other") for answer in got] == [1, 2, "other", 3, "other", 4]


async def test_many_pipelined_calls_take_no_stack(front: Served) -> None:
    """Hundreds of calls in one piece, refused or answered before submit returns, are each answered once."""
    wire = await Wire.to(front.port)
    refused = call(b"{}", token=b"pf_wrong")
    at_once = call(b"{}", path=b"/v1/functions/at-once/invoke")
    await wire.send(refused * 300 + at_once * 300 + get(b"/healthz"))
    assert [(await wire.answer()).status for _ in range(601)] == [401] * 300 + [200] * 301


async def test_a_refusal_is_answered_once(front: Served) -> None:
    """After a refusal the next answer is the next request's."""
    wire = await Wire.to(front.port)
    await wire.send(call(b"{}", token=b"pf_wrong"))
    assert (await wire.answer()).status == 401
    await wire.send(call(N % 2))
    assert numbered(await wire.answer()) == 2


async def test_sent_while_a_call_runs(front: Served) -> None:
    """What comes while a call runs waits for its answer, whichever way each takes."""
    wire = await Wire.to(front.port)
    await wire.send(call(b'{"n": 1, "sleep": 0.03}'), get(b"/healthz"), call(N % 2, b"Pyfaas-Stale: allow\r\n"), call(N % 3))
    assert [(await wire.answer()).json.get("n") for _ in range(4)] == [1, None, 2, 3]


async def test_only_accepted_heads_are_kept(front: Served) -> None:
    """A head is kept when its call was accepted, not when it was refused, and never with a traceparent."""
    heads = front.site.shared.heads
    await ask(front.port, call(N % 1, token=b"pf_wrong"))
    await ask(front.port, call(N % 1, path=b"/v1/functions/refused-throttled/invoke"))
    await ask(front.port, call(N % 1, b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"))
    assert heads == {}
    await ask(front.port, call(N % 1))
    assert len(heads) == 1


async def test_a_kept_head_is_no_permission(front: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is revoked after its head was kept is refused."""
    wire = await Wire.to(front.port)
    await wire.send(call(N % 1))
    assert numbered(await wire.answer()) == 1
    monkeypatch.setitem(__import__("tests.web.fake_service", fromlist=["TOKENS"]).TOKENS, "pf_all", None)
    await wire.send(call(N % 1))
    assert (await wire.answer()).status == 401


async def test_traceparent_reaches_the_call(front: Served) -> None:
    """A trace's parent is handed on, the hot way and the other."""
    trace = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    await ask(front.port, call(N % 1, trace))
    await ask(front.port, call(N % 1, trace + b"Pyfaas-Stale: allow\r\n"))
    assert [running.request.traceparent for running in front.service.calls] == [trace[13:-2].decode()] * 2


@pytest.mark.parametrize("extra", [b"", b"Pyfaas-Stale: allow\r\n"], ids=["hot", "by aiohttp"])
async def test_a_client_that_leaves(front: Served, extra: bytes) -> None:
    """The call of a client that leaves is told, once, whichever way it took."""
    wire = await Wire.to(front.port)
    await wire.send(call(b'{"n": 1, "sleep": 0.2}', extra))
    await until(lambda: front.service.calls)
    wire.close()
    running = front.service.calls[0]
    await until(lambda: running.said)
    assert running.said == ["left"]
    await until(lambda: running.is_done)  # its answer goes nowhere, and nothing breaks
    assert numbered(await ask(front.port, call(N % 2))) == 2


async def test_a_client_that_closes_its_half_has_left(front: Served) -> None:
    """An end of stream means left, as aiohttp takes it."""
    wire = await Wire.to(front.port)
    await wire.send(call(b'{"n": 1, "sleep": 0.2}'))
    wire.writer.write_eof()
    await until(lambda: front.service.calls and front.service.calls[0].said)
    assert front.service.calls[0].said == ["left"]
    assert await wire.is_closed()


async def test_expect_is_answered_before_the_body(front: Served) -> None:
    """100 comes before the body is sent; a body that will be too large is refused instead."""
    wire = await Wire.to(front.port)
    whole = call(N % 5, b"Expect: 100-continue\r\n")
    await wire.send(whole[:-8])
    async with asyncio.timeout(5):
        assert (await wire.head()).status == 100
    await wire.send(whole[-8:])
    assert numbered(await wire.answer()) == 5
    wire = await Wire.to(front.port)
    await wire.send(call(b"x" * (300 << 10), b"Expect: 100-continue\r\n")[: -(300 << 10)])
    async with asyncio.timeout(5):
        assert (await wire.head()).status == 413


async def test_chunks_in_pieces(front: Served) -> None:
    """A chunked call in any pieces is answered, and so is the call behind it."""
    wire = await Wire.to(front.port)
    await wire.send(CHUNKED, b'4\r\n{"n"\r\n', b"4\r\n: 4}\r\n0\r", b"\n\r\n", call(N % 5))
    assert [numbered(await wire.answer()) for _ in range(2)] == [4, 5]


async def test_too_large_is_answered_before_the_body_has_come(front: Served) -> None:
    """413 is here while the client still sends, and what it sends is taken, so that the answer is not lost."""
    wire = await Wire.to(front.port)
    size = 8 << 20
    head = call(b"", has_length=False)[:-2] + b"Content-Length: %d\r\n\r\n" % size
    await wire.send(head, b"x" * 1000)
    answer = await wire.answer()
    assert (answer.status, answer.json["evidence"]["limit"]) == (413, "sync_payload")
    for _ in range(size >> 20):
        wire.writer.write(b"x" * (1 << 20))
        async with asyncio.timeout(5):
            await wire.writer.drain()


async def test_too_large_in_chunks(front: Served) -> None:
    """A body without a length is refused as soon as it is over the limit."""
    wire = await Wire.to(front.port)
    await wire.send(CHUNKED, *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 5)
    assert (await wire.answer()).status == 413


async def test_silence_ends_a_connection(front: Served) -> None:
    """A connection that says nothing between requests is closed; one whose call runs is not, nor one that is used."""
    silent, half, used, running = [await Wire.to(front.port) for _ in range(4)]
    for wire in (silent, used):
        await wire.send(call(N % 1))
        await wire.answer()
    await running.send(call(b'{"n": 5, "sleep": 0.3}'))
    await half.send(call(N % 1)[:40])
    for _ in range(IDLE_S - 1):
        front.site.beat()
    await used.send(call(N % 2))
    assert numbered(await used.answer()) == 2
    await half.send(b"X-A: ")  # a byte now and then buys no time
    front.site.beat()
    front.site.beat()
    assert await silent.is_closed()
    assert await half.is_closed()
    assert numbered(await running.answer()) == 5
    await used.send(call(N % 3))
    assert numbered(await used.answer()) == 3


async def test_silence_ends_what_aiohttp_has(front: Served) -> None:
    """A connection that was given to aiohttp ends in silence too, also when its next head comes drop by drop."""
    wire = await Wire.to(front.port)
    await wire.send(CHUNKED + b"8\r\n" + N % 1 + b"\r\n0\r\n\r\n")
    assert numbered(await wire.answer()) == 1
    for _ in range(IDLE_S - 1):
        front.site.beat()
    await wire.send(b"GET /hea")
    front.site.beat()
    front.site.beat()
    assert await wire.is_closed()


@pytest.mark.parametrize("extra", [b"", b"Pyfaas-Stale: allow\r\n"], ids=["hot", "by aiohttp"])
async def test_a_long_call_is_no_silence(front: Served, extra: bytes) -> None:
    """A call that took longer than silence may leaves its connection all the time that any other has."""
    wire = await Wire.to(front.port)
    await wire.send(call(b'{"n": 1, "sleep": 0.05}', extra))
    await until(lambda: front.service.calls)
    for _ in range(2 * IDLE_S):
        front.site.beat()
    assert numbered(await wire.answer()) == 1
    for _ in range(IDLE_S - 1):
        front.site.beat()
    await wire.send(call(N % 2, extra))
    assert numbered(await wire.answer()) == 2


async def test_a_slow_reader_is_held_back(front: Served) -> None:
    """A client that sends calls and reads no answers gets no further ones run; once it reads, all are answered."""
    wire = await Wire.to(front.port)
    wire.reader._limit = 1 << 12  # type: ignore[attr-defined]
    wire.writer.transport.pause_reading()
    total = 600
    for number in range(total):
        wire.writer.write(call(b'{"n": %d, "big": 60000}' % number))
    ran = await settled(lambda: len(front.service.calls))
    assert 0 < ran < total
    (connection,) = front.site.shared.connections
    assert len(connection.buffer) <= 512 << 10
    wire.writer.transport.resume_reading()
    wire.reader._limit = 1 << 24  # type: ignore[attr-defined]
    assert [numbered(await wire.answer()) for _ in range(total)] == list(range(total))


async def test_one_call_at_a_time_is_held_back_too(front: Served) -> None:
    """A client that waits between its calls but reads nothing is held back as well."""
    wire = await Wire.to(front.port)
    wire.reader._limit = 1 << 12  # type: ignore[attr-defined]
    wire.writer.transport.pause_reading()
    for number in range(100, 500):  # heads that are alike, so that all but the first are kept ones
        await wire.send(call(b'{"n": %d, "big": 60000}' % number))
    assert 0 < len(front.service.calls) < 400


async def test_a_stop_waits_for_what_runs(front: Served) -> None:
    """A stop closes idle connections at once, and the others after their answers."""
    idle, hot, slow = [await Wire.to(front.port) for _ in range(3)]
    await idle.send(get(b"/healthz"))
    await idle.answer()
    await hot.send(call(b'{"n": 1, "sleep": 0.1}'))
    await slow.send(call(b'{"n": 2, "sleep": 0.1}', b"Pyfaas-Stale: allow\r\n"))
    await until(lambda: len(front.service.calls) == 2)
    stopping = asyncio.create_task(front.site.stop(5))
    assert await idle.is_closed()
    assert [numbered(await wire.answer()) for wire in (hot, slow)] == [1, 2]
    await stopping
    assert await hot.is_closed()
    assert await slow.is_closed()
    with pytest.raises(ConnectionRefusedError):
        await Wire.to(front.port)


async def test_a_stop_waits_no_longer_than_told(front: Served) -> None:
    """What runs longer than the grace is cut off."""
    wire = await Wire.to(front.port)
    await wire.send(call(b'{"n": 1, "sleep": 60}'))
    await until(lambda: front.service.calls)
    async with asyncio.timeout(5):
        await front.site.stop(0.05)
    assert await wire.is_closed()
    assert front.service.calls[0].said == ["left"]


async def test_a_stop_lets_answers_go_out(front: Served) -> None:
    """An answer that its client is still reading when the server stops arrives whole."""
    wire = await Wire.to(front.port)
    wire.reader._limit = 1 << 12  # type: ignore[attr-defined]
    wire.writer.transport.pause_reading()
    await wire.send(call(b'{"n": 1, "big": 20000000}'))
    await until(lambda: front.service.calls and front.service.calls[0].is_done)
    stopping = asyncio.create_task(front.site.stop(5))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    wire.reader._limit = 1 << 26  # type: ignore[attr-defined]
    wire.writer.transport.resume_reading()
    assert numbered(await wire.answer()) == 1
    await stopping


async def test_an_upload_that_is_left(front: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves in the middle of its upload is no failure of ours, and nothing is done with the half."""
    wire = await Wire.to(front.port)
    await wire.send(other(b"PUT", b"/v1/functions/echo/aliases/live", b"{" + b" " * 1000)[:-500])
    (connection,) = front.site.shared.connections
    await until(lambda: connection.working)
    wire.close()
    await until(lambda: not front.site.shared.connections)
    assert numbered(await ask(front.port, call(N % 1))) == 1
    assert front.service.asked == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_body_that_stops_coming(front: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of which nothing comes for long is given up, with an answer; one that comes slowly is not."""
    monkeypatch.setattr(event, "_STALL_S", 0.2)
    whole = call(b'{"n": 123456789012}', b"Pyfaas-Stale: allow\r\n")
    slow, stalled = await Wire.to(front.port), await Wire.to(front.port)
    await stalled.send(whole[:-12])
    for end in range(len(whole) - 12, len(whole)):
        await slow.send(whole[end - 1 : end] if end > len(whole) - 12 else whole[:end])
        await asyncio.sleep(0.03)
    await slow.send(whole[-1:])
    assert numbered(await slow.answer()) == 123456789012
    answer = await stalled.answer()
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("accept", [b"*/*", b"application/json, text/plain, */*", b"application/json"])
async def test_what_usual_clients_accept_is_hot(front: Served, accept: bytes) -> None:
    """The Accepts that clients send by themselves take the hot way."""
    assert numbered(await ask(front.port, call(N % 1, b"Accept: " + accept + b"\r\n"))) == 1
    assert (len(front.site.shared.heads), front.site.shared.lent) == (1, {})


async def test_a_defect_is_told_once(front: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours is `internal` without a traceback; the log has it once, with one. The connection goes on."""
    for extra in (b"", b"Pyfaas-Stale: allow\r\n"):
        caplog.clear()
        wire = await Wire.to(front.port)
        await wire.send(call(b"{}", extra, path=b"/v1/functions/defect/invoke"))
        answer = await wire.answer()
        assert (answer.status, answer.json["code"], answer.json["fault"]) == (500, "internal", "platform")
        assert b"ZeroDivision" not in answer.body
        (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert record.getMessage() == "request_failed"
        assert record.exc_info is not None
        await wire.send(call(N % 3))
        assert numbered(await wire.answer()) == 3


@pytest.mark.parametrize("seed", range(40))
async def test_random_requests_in_random_pieces(front: Served, seed: int) -> None:
    """Whatever is sent, in whatever pieces, each answer is its own request's."""
    rng = random.Random(seed)
    sent, wanted = [], []
    for _ in range(rng.randint(2, 9)):
        number = rng.randrange(10**6)
        body = N % number
        kind = rng.randrange(7)
        if kind <= 1:
            sent.append(call(body))
        elif kind == 2:
            sent.append(call(b'{"n": %d, "sleep": 0.004}' % number))
        elif kind == 3:
            sent.append(get(b"/v1/functions/echo/aliases/live"))
        elif kind == 4:
            sent.append(call(body, b"Pyfaas-Stale: allow\r\n"))
        elif kind == 5:
            sent.append(call(body, token=b"pf_wrong"))
        else:
            hidden = call(b'{"n": 666}')
            sent.append(other(b"PUT", b"/v1/functions/echo/aliases/live", hidden))
        wanted.append({3: 200, 5: 401, 6: 400}.get(kind, number))
    if rng.random() < 0.3:
        sent.append(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(N % 9), N % 9))
        wanted.append(9)
    stream = b"".join(sent)
    cuts = sorted(rng.randrange(len(stream)) for _ in range(rng.randint(0, 8)))
    wire = await Wire.to(front.port)
    await wire.send(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b))
    got = []
    for _ in wanted:
        answer = await wire.answer()
        value = json.loads(answer.body)
        got.append(value["n"] if answer.status == 200 and "n" in value else answer.status)
    assert got == wanted
    assert all(json.loads(running.request.body)["n"] != 666 for running in front.service.calls)


async def test_too_many_connections(front: Served) -> None:
    """One connection too many is told so and closed, whatever it sends; the others go on, and its place is free again."""
    front.site.shared.most = 2
    first, second = [await Wire.to(front.port) for _ in range(2)]
    await until(lambda: front.site.shared.count() == 2)
    for sent in (b"", call(b'{"n": "' + b"x" * 200_000 + b'"}')):
        third = await Wire.to(front.port)
        await third.send(sent)
        answer = await third.answer()
        assert (answer.status, answer.json["code"], answer.json["evidence"]) == (503, "no_capacity", {"limit": "max_connections", "value": 2})
        assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "1")
        assert await third.is_closed()
    assert front.service.calls == []
    await first.send(call(N % 2))
    assert numbered(await first.answer()) == 2
    second.close()
    await until(lambda: front.site.shared.count() == 1 and front.site.shared.turned_away == 0)
    assert numbered(await ask(front.port, call(N % 3))) == 3
    assert front.site.shared.refusals == 2


ON_THE_SERVERS_LOOP = [
    test_too_many_connections,
    test_split_at_each_byte,
    test_pipelined_calls_are_answered_in_order,
    test_many_pipelined_calls_take_no_stack,
    test_a_client_that_closes_its_half_has_left,
    test_too_large_is_answered_before_the_body_has_come,
    test_silence_ends_a_connection,
    test_a_slow_reader_is_held_back,
    test_one_call_at_a_time_is_held_back_too,
    test_a_stop_waits_for_what_runs,
    test_a_stop_lets_answers_go_out,
]


@pytest.mark.parametrize("scenario", ON_THE_SERVERS_LOOP, ids=lambda test: test.__name__.removeprefix("test_"))
def test_on_uvloop(scenario: Callable[[Served], Coroutine[Any, Any, None]]) -> None:
    """The same holds on the loop that the server uses: its transports differ in what they allow, and when."""

    async def run() -> str:
        async with serving() as served:
            await scenario(served)
        return type(asyncio.get_running_loop()).__module__

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == "uvloop"


def test_a_request_that_comes_while_all_are_passed_on_is_not_lost() -> None:
    """What is accepted at the moment of an upgrade is answered, or goes to the successor unread; on the loop that the server runs."""

    async def work() -> None:
        async with serving() as front:
            taken: list[tuple[socket.socket, bytes]] = []
            front.site.pass_on(lambda passed, read: taken.append((passed, read)))
            ours, theirs = socket.socketpair()
            ours.sendall(request := call(N % 1))
            theirs.setblocking(False)  # noqa: FBT003 - the call's shape
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(front.site.shared), theirs)
            while not taken:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # for a loop that reads on
            passed, read = taken[0]
            passed.setblocking(False)  # noqa: FBT003 - as above
            ours.setblocking(False)  # noqa: FBT003 - as above
            if front.service.calls:
                assert ours.recv(1024).startswith(b"HTTP/1.1 200 OK")
            else:
                assert read + passed.recv(len(request)) == request
            for end in (passed, ours):
                end.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
