"""Client and AsyncClient against a real server: what they send, what they give back, and how long they last."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import os
import pickle
import signal
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyfaas
from tests.e2e.house import House, started
from tests.e2e.programs import run, write

ECHO = "def handler(event, context):\n    print('said', event)\n    return event\n"
TYPED = """
import dataclasses, datetime, decimal, enum, typing, uuid
class Colour(enum.Enum):
    RED = "red"
@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0
class Options(typing.TypedDict, total=False):
    deep: bool
def handler(n: int, name: str = "a", *, kind: typing.Literal["x", "y"] = "x", point: Point | None = None, colour: Colour = Colour.RED,
            many: list[int] = (), options: Options = {}, at: datetime.datetime | None = None, price: decimal.Decimal = decimal.Decimal(0),
            key: uuid.UUID | None = None, wait: datetime.timedelta | None = None, tags: set[str] = frozenset()):
    return [n, name, kind, repr(point), colour.name, list(many), dict(options), str(at), str(price), str(key), str(wait), sorted(tags)]
"""


@pytest.fixture
def client(house: House) -> Iterator[pyfaas.Client]:
    """A client of the shared server."""
    with pyfaas.Client(house.url, house.token("default")) as opened:
        yield opened


@pytest.fixture
def publish(client: pyfaas.Client, tmp_path: Path, name: Callable[[], str]) -> Iterator[Callable[..., str]]:
    """A publisher of source text as a function of its own name, removed after the test."""
    made: list[str] = []

    def work(source: str, **config: Any) -> str:
        made.append(name())
        (tmp_path / f"{made[-1]}.py").write_text(source)
        assert client.deploy(tmp_path / f"{made[-1]}.py", **config)["state"] == "ready"
        return made[-1]

    yield work
    for each in made:
        with contextlib.suppress(pyfaas.NotFound):
            client.remove(each)


def test_everything_that_can_be_deployed(client: pyfaas.Client, tmp_path: Path, name: Callable[[], str]) -> None:
    """A directory, a file, a zip and an App are published, listed, described, rolled back and removed."""
    named = name()
    write(tmp_path, {"code/main.py": ECHO, "code/pyfaas.toml": f'name = "{named}"\nmemory = "64M"\n', "single.py": ECHO + "# 2\n"})
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("main.py", ECHO + "# 3\n")
    versions = [
        client.deploy(tmp_path / "code"),
        client.deploy(str(tmp_path / "single.py"), name=named, handler="single:handler"),
        client.deploy(tmp_path / "code.zip", name=named, memory="64M"),
    ]
    assert [(v["version"], v["state"]) for v in versions] == [(1, "ready"), (2, "ready"), (3, "ready")]
    assert client.function(named)["latest"] == 3
    assert [v["version"] for v in client.versions(named)] == [3, 2, 1]
    assert client.rollback(named)["version"] == 2
    client.set_alias(named, "live", 1)
    assert client.invoke(named, 5, qualifier="live") == client.invoke(named, 5, qualifier=2) == 5
    assert named in [each["name"] for each in client.functions()]
    client.remove(named)
    with pytest.raises(pyfaas.NotFound):
        client.invoke(named)


def test_an_app_can_be_handed_to_a_client(client: pyfaas.Client, house: House, name: Callable[[], str]) -> None:
    """`client.deploy(app)` publishes through that client, whichever account the app would use itself."""
    app = pyfaas.App(name(), client=client)

    @app.function()
    def one() -> int:
        return 1

    house.account("elsewhere")
    with pyfaas.Client(house.url, house.token("elsewhere")) as other:
        assert other.deploy(app)["one"]["state"] == "ready"
        assert other.invoke(app.published("one")) == 1
        other.remove(app.published("one"))
    with pytest.raises(pyfaas.NotFound):
        client.function(app.published("one"))


def test_every_configuration_key_is_taken(client: pyfaas.Client, name: Callable[[], str]) -> None:
    """What a decorator says is what the server has: each key of pyfaas.toml, but for what is found by itself."""
    app = pyfaas.App(name(), client=client)
    config: dict[str, Any] = {
        "memory": "64M", "timeout": "5s", "init_timeout": 20, "requirements": [], "env": {"WORD": "a"}, "network": [],
        "concurrency": 3, "public": True, "idempotent": True, "retries": {"max": 1, "initial": "1s", "factor": 2, "max_delay": "9s"},
        "stale": "forbid", "max_stale_time": "1m", "max_stale_requests": 5, "stale_percent": 10, "min_version": 1, "max_wait": "9s",
    }  # fmt: skip

    @app.function(**config)
    def word() -> str:
        import os  # noqa: PLC0415 - the container's

        return os.environ["WORD"]

    with app.run():
        assert word.remote() == "a"
        shown = client.function(app.published("word"))
        assert (shown["memory"], shown["timeout"], shown["public"], shown["shape"]) == (64 << 20, 5000, True, "typed")
    with pytest.raises(pyfaas.InvalidRequest, match="network"):
        app.function(network=["no destination"])(word)


def test_what_users_look_at(client: pyfaas.Client, house: House, publish: Callable[..., str]) -> None:
    """Account, tokens, limits, fleet, usage and logs can be read; a token of one's own can be made and revoked."""
    named = publish(ECHO)
    assert client.invoke(named, {"a": 1}) == {"a": 1}
    assert client.whoami()["account"] == "default"
    made = client.create_token(scopes=["invoke"], label="for a test")
    with pyfaas.Client(house.url, made["token"]) as other:
        assert other.invoke(named, [1]) == [1]
        with pytest.raises(pyfaas.NotAllowed) as caught:
            other.remove(named)
        assert caught.value.status == 403
        client.revoke_token(made["id"])
        with pytest.raises(pyfaas.NotAllowed) as caught:
            other.invoke(named)
        assert caught.value.status == 401
    assert made["id"] not in [each["id"] for each in client.tokens()]
    assert client.limits()["sync_payload"]["value"] > 0
    assert {"vms", "warming"} <= client.fleet().keys()
    assert isinstance(client.usage(), list)
    assert "said {'a': 1}" in [line["line"] for line in client.logs(named)]


def test_logs_are_followed_until_they_are_left(client: pyfaas.Client, publish: Callable[..., str]) -> None:
    """`follow` yields the lines of calls that come later, and ends when the loop is left."""
    named = publish(ECHO)
    client.invoke(named, "before")
    lines = client.logs(named, follow=True)
    assert next(lines)["line"] == "said before"
    client.invoke(named, "after")
    assert next(lines)["line"] == "said after"
    lines.close()  # type: ignore[attr-defined]


VALUES = [
    *(None, True, 0, -1, 2**100, 1.5, "text \N{SNOWMAN}", "half \ud800", b"\x00\xff", [], {}, [1, [2, {"a": None}]]),
    *(datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC), datetime.date(2026, 1, 2), datetime.time(1, 2)),
    *(datetime.timedelta(days=-1, microseconds=5), decimal.Decimal("1.10"), uuid.UUID(int=5), {1, 2}, frozenset({"a"})),
    {"deep": [{"bytes": b"a", "when": [datetime.date(2026, 1, 2)]}]},
]


def test_values_go_and_come(client: pyfaas.Client, house: House, name: Callable[[], str]) -> None:
    """What JSON has and what tags carry comes back equal through a real container, nested too; numpy is needed by nobody there."""
    app = pyfaas.App(name(), client=client)

    @app.function()
    def same(value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - any value at all
        return value

    @app.function()
    def kind(value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        return type(value).__name__

    @app.function()
    def nan() -> float:
        return float("nan")

    @app.function()
    def unreadable():  # type: ignore[no-untyped-def] # noqa: ANN202
        return object()

    with app.run():
        for value, came in zip(VALUES, same.map(VALUES), strict=True):
            assert (came, type(came)) == (value, type(value))
        assert list(kind.map(VALUES)) == [type(value).__name__ for value in VALUES]
        assert same.remote((1, 2)) == [1, 2]
        assert same.spawn(VALUES[-1]).get(30) == VALUES[-1]
        for bad in (float("inf"), object(), {(1, 2): 3}):
            with pytest.raises(pyfaas.InvalidRequest):
                same.remote(bad)
        with pytest.raises(pyfaas.InvalidRequest, match="no numpy"):
            same.remote(np.arange(3))
        with pytest.raises(pyfaas.FunctionError, match="NaN"):
            nan.remote()
        with pytest.raises(pyfaas.FunctionError, match="'object'"):
            unreadable.remote()


def test_typed_functions_say_what_does_not_fit(client: pyfaas.Client, publish: Callable[..., str]) -> None:
    """Annotations are checked before the function runs; each mistake is the caller's, and named by its parameter."""
    named = publish(TYPED)
    everything = {
        "n": 1, "name": "b", "kind": "y", "point": {"x": 1, "y": 2}, "colour": "red", "many": [1, 2], "options": {"deep": True},
        "at": "2026-01-02T03:04:05", "price": "1.10", "key": str(uuid.UUID(int=1)), "wait": 1.5, "tags": ["b", "a"],
    }  # fmt: skip
    wanted = [
        *(1, "b", "y", "Point(x=1, y=2.0)", "RED", [1, 2], {"deep": True}, "2026-01-02 03:04:05", "1.10"),
        *("00000000-0000-0000-0000-000000000001", "0:00:01.500000", ["a", "b"]),
    ]
    assert client.invoke(named, everything) == wanted
    tagged = {
        **everything,
        "at": datetime.datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - as the function has it
        "price": decimal.Decimal("1.10"), "key": uuid.UUID(int=1), "wait": datetime.timedelta(seconds=1.5), "tags": {"a", "b"},
    }  # fmt: skip
    assert client.invoke(named, tagged) == wanted
    wrong: list[tuple[Any, str]] = [
        ({}, "missing 'n'"),
        ({"n": "1"}, "'n' must be an integer, not a string"),
        ({"n": 1, "kind": "z"}, "'kind' must be one of 'x', 'y'"),
        ({"n": 1, "point": {"y": 1}}, "'point' lacks 'x'"),
        ({"n": 1, "point": {"x": "1"}}, "'point.x' must be an integer"),
        ({"n": 1, "colour": "blue"}, "'colour' must be one of 'red'"),
        ({"n": 1, "many": [1, "2"]}, r"'many\[1\]' must be an integer"),
        ({"n": 1, "options": {"other": 1}}, "'options' has the unknown key 'other'"),
        ({"n": 1, "price": "cheap"}, "'price' must be a decimal number"),
        ({"n": 1, "key": 3}, "'key' must be a UUID"),
        ({"n": 1, "more": 1}, "unknown key 'more'"),
        ({"$args": [1, 2, 3], "$kwargs": {}}, "3 positional arguments where at most 2"),
        ({"$args": [1], "$kwargs": {"n": 1}}, "'n' is given twice"),
        ([1], "takes a JSON object, not an array"),
        ({"n": {"$bytes": "!"}}, "a broken \\$bytes"),
    ]
    for event, sentence in wrong:
        with pytest.raises(pyfaas.InvalidRequest, match=sentence) as caught:
            client.invoke(named, event)
        assert (caught.value.code, caught.value.status) == ("invalid_event", 400)


FAILING = """
import os, sys, time
def handler(event, context):
    if event == "raise": raise KeyError("k")
    if event == "sleep": time.sleep(60)
    if event == "exit": sys.exit(3)
    if event == "die": os._exit(1)
    if event == "memory": bytearray(1 << 30)
    if event == "large": return "x" * (7 << 20)
"""


def test_every_way_of_failing_has_its_class(client: pyfaas.Client, publish: Callable[..., str]) -> None:
    """What the function did is a FunctionError with its outcome; a timeout is the built-in TimeoutError too; all can be pickled."""
    named = publish(FAILING)
    for event, outcome, kind in (
        ("raise", "error", "KeyError"),
        ("exit", "error", "SystemExit"),
        ("die", "crashed", "crashed"),
        ("large", "limit", "limit"),
    ):
        with pytest.raises(pyfaas.FunctionError) as caught:
            client.invoke(named, event)
        assert (caught.value.outcome, caught.value.error_type) == (outcome, kind)
        assert caught.value.invocation_id
        copied = pickle.loads(pickle.dumps(caught.value))
        assert (repr(copied), vars(copied)) == (repr(caught.value), vars(caught.value))
    with pytest.raises(TimeoutError) as late:
        client.invoke(named, "sleep", timeout=0.2)
    assert isinstance(late.value, pyfaas.FunctionError)
    assert late.value.outcome == "timeout"
    call = pyfaas.FunctionCall.from_id(client.spawn(named, "sleep")["id"], client)
    with pytest.raises(TimeoutError) as waited:
        call.get(timeout=0.2)
    assert not isinstance(waited.value, pyfaas.FunctionError)
    assert call.cancel()["state"] in ("cancelled", "cancelling", "running")
    with pytest.raises(pyfaas.FunctionError) as cancelled:
        call.get(timeout=60)
    assert cancelled.value.outcome == "cancelled"
    with pytest.raises(pyfaas.NotFound):
        pyfaas.FunctionCall.from_id("01a20d76-7dd0-7695-bede-005b577f7889", client).get(timeout=5)


def test_threads_share_a_client_and_its_connections(house: House, publish: Callable[..., str]) -> None:
    """Many threads call through one client at once, over connections that are kept; nobody gets another's answer."""
    named = publish(ECHO)
    with pyfaas.Client(house.url, house.token("default")) as shared, ThreadPoolExecutor(8) as pool:
        before = set(threading.enumerate())
        assert list(pool.map(lambda n: shared.invoke(named, n), range(200))) == list(range(200))
        ours = [t for t in set(threading.enumerate()) - before if t.name == "pyfaas-client"]
        assert len(ours) <= 1
        session = shared.inner._transport._session  # type: ignore[attr-defined]
        assert 1 <= sum(len(conns) for conns in session.connector._conns.values()) <= 8


async def test_a_client_works_where_a_loop_runs(client: pyfaas.Client, publish: Callable[..., str]) -> None:
    """The blocking client may be used on a running loop, as in a notebook; from its own thread it refuses instead of hanging."""
    named = await asyncio.to_thread(publish, ECHO)
    assert client.invoke(named, 1) == 1
    assert list(client.map(named, [1, 2])) == [1, 2]

    async def inside() -> None:
        client.invoke(named, 2)

    with pytest.raises(RuntimeError, match="own thread"):
        client.portal.run(inside())


def test_one_asynchronous_client_a_loop(house: House, publish: Callable[..., str]) -> None:
    """Many AsyncClients live side by side; one that is used on a second loop is refused."""
    named = publish(ECHO)

    async def many() -> list[int]:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(pyfaas.AsyncClient(house.url, house.token("default"))) for _ in range(5)]
            return await asyncio.gather(*(each.invoke(named, n) for n, each in enumerate(clients)))

    assert asyncio.run(many()) == list(range(5))
    kept = pyfaas.AsyncClient(house.url, house.token("default"))
    async def both() -> None:
        await kept.invoke(named, 1)
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await asyncio.to_thread(asyncio.run, kept.invoke(named, 2))
        await kept.close()
        with pytest.raises(RuntimeError, match="closed"):
            await kept.invoke(named, 1)

    asyncio.run(both())


def test_a_closed_client_says_so(house: House) -> None:
    """After `close`, which may be repeated, a call raises RuntimeError; the thread is gone."""
    client = pyfaas.Client(house.url, house.token("default"))
    client.whoami()
    client.close()
    client.close()
    for use in (client.whoami, lambda: client.invoke("f"), lambda: list(client.stream("f"))):
        with pytest.raises(RuntimeError, match="the client is closed"):
            use()


def test_a_client_is_not_pickled_and_shows_no_token(client: pyfaas.Client, house: House) -> None:
    """A pickle would carry the token; repr shows the server only."""
    for each in (client, client.inner, pyfaas.FunctionCall("id", client)):
        with pytest.raises(TypeError):
            pickle.dumps(each)
        assert house.token("default") not in repr(each)
    assert house.url in repr(client)


FORKED = """
    import os, sys, threading
    import pyfaas

    client = pyfaas.Client()
    print(client.invoke(sys.argv[1], "before"), flush=True)
    pid = os.fork()
    if pid == 0:
        print(client.invoke(sys.argv[1], "child"), list(client.map(sys.argv[1], range(3))), flush=True)
        client.close()
        sys.exit(7)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), client.invoke(sys.argv[1], "parent"), list(client.map(sys.argv[1], range(3))), flush=True)
    if os.fork() == 0:
        sys.exit(0)  # without ever using it
    os.wait()
    print(client.invoke(sys.argv[1], "after"))
    """


def test_a_fork_leaves_both_with_a_client(house: House, tmp_path: Path, publish: Callable[..., str]) -> None:
    """The child's copy opens connections of its own, the parent's goes on; neither hangs when it ends."""
    named = publish(ECHO)
    write(tmp_path, {"forks.py": FORKED})
    ran = run(house, tmp_path, "-W", "ignore", "forks.py", named)
    assert (ran.errors, ran.out) == ("", ["before", "child [0, 1, 2]", "7 parent [0, 1, 2]", "after"])


def test_a_replaced_server_is_found_again(tmp_path: Path) -> None:
    """A server that died under a client is replaced: kept connections are made anew, a wait for a result goes on."""
    with started(tmp_path / "data") as house, pyfaas.Client(house.url, house.token("default")) as client:
        (tmp_path / "slow.py").write_text("import time\ndef handler(event):\n    time.sleep(event)\n    return 'slept'\n")
        client.deploy(tmp_path / "slow.py", retries={"max": 3, "initial": "100ms"})
        assert client.invoke("slow", 0) == "slept"
        call = pyfaas.FunctionCall.from_id(client.spawn("slow", 1.0)["id"], client)
        waiting = ThreadPoolExecutor(1).submit(call.get, timeout=60)
        while call._client.job(call.id)["state"] == "queued":
            time.sleep(0.02)
        os.kill(house.children()["server"], signal.SIGKILL)
        assert waiting.result(60) == "slept"
        assert client.invoke("slow", 0) == "slept"
        assert client.whoami()["account"] == "default"


def test_bodies_of_every_kind(client: pyfaas.Client, publish: Callable[..., str]) -> None:
    """Bytes are bytes on both ways, streams of bytes come as they are, and what is too large is refused by its limit."""
    named = publish("def handler(event):\n    yield event[:3]\n    yield event[3:]\n")
    assert b"".join(client.stream(named, b"abcdef")) == b"abcdef"
    assert client.invoke(named, memoryview(b"abcdef")) == b"abcdef"
    with pytest.raises(pyfaas.InvalidRequest) as caught:
        client.invoke(named, bytes(7 << 20))
    assert (caught.value.code, caught.value.status) == ("payload_too_large", 413)


def test_a_zip_that_is_none_is_refused_before_it_is_sent(client: pyfaas.Client, tmp_path: Path) -> None:
    """What cannot be read here is InvalidRequest, and names the path."""
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "text.txt").write_text("")
    for path in ("broken.zip", "text.txt", "nothing.py"):
        with pytest.raises(pyfaas.InvalidRequest, match=path):
            client.deploy(tmp_path / path)
