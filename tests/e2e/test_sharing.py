"""What lending promises, over HTTP and the SDK: each side's own stays its own, and either can end it at once."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

import pyfaas
from tests.e2e.house import House, needs_cgroups, packed, started
from tests.e2e.lending import JSON, accept, accounts, grant, revoke

TELL = """
import time

def handler(event, context):
    return {
        "event": event, "params": context.params, "secrets": context.secrets, "caller": context.caller, "alias": context.alias,
        "at": time.time(), "version": context.function_version,
    }
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with an owner, a caller and a third account."""
    with started(tmp_path_factory.mktemp("sharing") / "data", "-s", "debug=true", "-s", "queue_limit=5000") as made:
        accounts(made, "owner", "caller", "third")
        made.deploy("tell", TELL, token="owner", concurrency=250)
        yield made


class Line:
    """One connection that is kept, for calls of one account's functions."""

    def __init__(self, house: House, token: str) -> None:
        """Connect at the first call."""
        parts = urlsplit(house.url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        self._headers = {"Authorization": "Bearer " + house.token(token), "Content-Type": JSON}

    def call(self, name: str, body: bytes = b"") -> tuple[int, bytes]:
        """Call a function; returns status and body."""
        self._connection.request("POST", f"/v1/functions/{name}/invoke", body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


# ---- 1: the caller's own credential


@pytest.mark.parametrize(("reuse", "calls"), [(True, 10_000), (False, 300)], ids=["warm", "fresh"])
def test_a_credential_reaches_its_own_alias_and_no_other(house: House, reuse: bool, calls: int) -> None:  # noqa: FBT001 - a parameter
    """Two aliases with a credential each, called with an empty body in turn by four threads: never mixed."""
    grant(house, "tell", "caller", status=None, reuse=reuse)
    canaries = {f"with{n}{reuse}": secrets.token_hex(16) for n in (1, 2)}
    for name, canary in canaries.items():
        accept(house, name, "owner/tell", secrets={"CREDENTIAL": canary}, params={"who": name})
    wrong: list[object] = []

    def work(count: int) -> None:
        line = Line(house, "caller")
        for _ in range(count // 2):
            for name, canary in canaries.items():
                status, body = line.call(name)
                told = json.loads(body)
                if status != 200 or told["secrets"] != {"CREDENTIAL": canary} or told["event"] != {"who": name} or told["params"] != {"who": name}:
                    wrong.append((name, status, told))
        line.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [calls // 4] * 4))
    assert wrong == []


def test_the_sdk_calls_an_alias_like_a_function(house: House) -> None:
    """`Client.invoke` with the alias's name gives what the owner's function returns, with the caller's parameters."""
    grant(house, "tell", "caller", status=None)
    accept(house, "sdk", "owner/tell", params={"k": [1, 2]}, secrets={"S": "s"})
    with pyfaas.Client(house.url, house.token("caller")) as client:
        told = client.invoke("sdk", {"x": 1})
    assert (told["event"], told["secrets"], told["alias"]) == ({"x": 1, "k": [1, 2]}, {"S": "s"}, "sdk")


def test_the_two_sides_names_are_told_to_the_code(house: House) -> None:
    """The code knows who calls it by which alias; the owner's own call has neither alias nor foreign caller."""
    grant(house, "tell", "caller", status=None)
    accept(house, "named", "owner/tell")
    me = house.call("GET", "/v1/whoami", token="caller").json["id"]
    told, own = house.invoke("named", {}, token="caller").json, house.invoke("tell", {}, token="owner").json
    assert (told["caller"], told["alias"]) == (me, "named")
    assert own["alias"] is None
    assert own["caller"] != me


# ---- 3: revocation under load


async def _hammer(house: House, name: str, clients: int, stop: asyncio.Event) -> list[tuple[float, int, bytes]]:
    """Call from many clients at once until told to stop; returns when each was sent, its status and its body."""
    answers: list[tuple[float, int, bytes]] = []
    headers = {"Authorization": "Bearer " + house.token("caller"), "Content-Type": JSON}

    async def client(session: aiohttp.ClientSession) -> None:
        while not stop.is_set():
            sent = time.time()
            async with session.post(f"{house.url}/v1/functions/{name}/invoke", data=b"{}", headers=headers) as answer:
                answers.append((sent, answer.status, await answer.read()))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return answers


@pytest.mark.parametrize("reuse", [True, False], ids=["warm", "fresh"])
@pytest.mark.parametrize("running", ["stop", "finish"])
async def test_no_run_begins_after_a_revocation_is_acknowledged(house: House, reuse: bool, running: str) -> None:  # noqa: FBT001 - a parameter
    """200 clients call while the owner revokes: nothing sent after the acknowledgement succeeds; nothing begun after it, unless runs may finish."""
    grant(house, "tell", "third", status=None)  # so that something else of the function goes on
    accept(house, "goes_on", "owner/tell", caller="third", status=None)
    grant(house, "tell", "caller", status=None, reuse=reuse)
    name = f"hammered_{reuse}_{running}"
    accept(house, name, "owner/tell")
    stop = asyncio.Event()
    hammering = asyncio.create_task(_hammer(house, name, 200, stop))
    await asyncio.sleep(1.0)
    answer = await asyncio.to_thread(revoke, house, "tell", "caller", running=running)
    acknowledged = time.time()
    assert answer.status == 204
    await asyncio.sleep(0.5)
    stop.set()
    answers = await hammering
    begun = [json.loads(body)["at"] for _, status, body in answers if status == 200]
    assert begun, "nothing ran before"
    if running == "stop":  # else a run that a container has, and had no processor for yet, finishes too
        assert max(begun) <= acknowledged
    assert {status for sent, status, _ in answers if sent > acknowledged} == {410}
    assert {status for _, status, _ in answers} <= {200, 410}
    assert house.invoke("goes_on", {}, token="third").status == 200


def test_queued_and_running_jobs_end_with_the_grant(house: House) -> None:
    """A running attempt and queued jobs become `cancelled` with the revocation, and are not tried again."""
    house.deploy("slow", "import time\ndef handler(event, context):\n    time.sleep(60)\n", token="owner", timeout="120s")
    grant(house, "slow", "caller", max_concurrency=1)
    accept(house, "slowly", "owner/slow")
    jobs = [house.call("POST", "/v1/functions/slowly/invoke", b"{}", token="caller", prefer="respond-async").json["id"] for _ in range(3)]
    until = time.monotonic() + 30
    while not any(house.call("GET", f"/v1/invocations/{job}", token="caller").json["state"] == "running" for job in jobs):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert revoke(house, "slow", "caller").status == 204
    for job in jobs:
        shown = house.call("GET", f"/v1/invocations/{job}?wait=10", token="caller").json
        assert (shown["state"], shown["outcome"]) == ("cancelled", "cancelled")


def test_a_stream_ends_with_the_grant(house: House) -> None:
    """A caller that reads a stream sees it break off when the owner takes the function back."""
    code = "import time\ndef handler(event, context):\n    for n in range(10_000):\n        yield n\n        time.sleep(0.05)\n"
    house.deploy("flow", code, token="owner", timeout="300s")
    grant(house, "flow", "caller")
    accept(house, "flowing", "owner/flow")
    read: list[bytes] = []
    first = threading.Event()

    def follow() -> None:
        line = Line(house, "caller")
        line._connection.request("POST", "/v1/functions/flowing/invoke", b"{}", line._headers)  # noqa: SLF001 - our own class
        answer = line._connection.getresponse()  # noqa: SLF001
        try:
            while piece := answer.readline():
                read.append(piece)
                first.set()
        except http.client.HTTPException:
            pass
        line.close()

    reader = threading.Thread(target=follow)
    reader.start()
    assert first.wait(30)
    assert revoke(house, "flow", "caller").status == 204
    reader.join(30)
    assert not reader.is_alive()
    assert b"9999" not in b"".join(read)


# ---- 4: pinned bytes


def test_a_pinned_alias_runs_its_bytes_or_is_gone(tmp_path: Path) -> None:
    """Under a thousand publications, and deletions between them, a pinned alias runs version 1's bytes; when that is deleted it says gone."""
    code = "MARK = {mark!r}\ndef handler(event, context):\n    return [MARK, context.function_version]\n"
    with started(tmp_path / "data", "-s", "preload=false") as house:  # what is named is prepared, the rest only published
        accounts(house, "owner", "caller")
        house.put("moving", packed({"main.py": code.format(mark="first")}), token="owner")
        grant(house, "moving", "caller", reuse=True)
        accept(house, "pinned", "owner/moving:1")
        accept(house, "follows", "owner/moving")
        assert house.invoke("pinned", {}, token="caller").json == ["first", "1"]
        stop, seen = threading.Event(), []

        def watch() -> None:
            line = Line(house, "caller")
            while not stop.is_set():
                seen.append(line.call("pinned"))
                time.sleep(0.005)
            line.close()

        watcher = threading.Thread(target=watch)
        watcher.start()
        for n in range(1000):
            number = house.put("moving", packed({"main.py": code.format(mark=f"m{n}")}), token="owner").json["version"]
            if n % 3 == 2:
                assert house.call("DELETE", f"/v1/functions/moving/versions/{number - 1}", token="owner").status == 204
        stop.set()
        watcher.join(30)
        assert len(seen) > 50
        assert {(status, body) for status, body in seen} == {(200, b'["first","1"]')}
        newest = house.invoke("follows", {}, token="caller", pyfaas_stale="forbid")
        assert newest.json == ["m999", "1001"]
        assert house.call("DELETE", "/v1/functions/moving/versions/1", token="owner").status == 204
        assert house.invoke("pinned", {}, token="caller").status == 410


def test_what_is_made_again_is_not_what_was_lent(house: House) -> None:
    """A function of the same name, and an account of the same name, revive no alias; a new grant needs a new accept."""
    house.deploy("again", TELL, token="owner")
    grant(house, "again", "caller")
    accept(house, "before", "owner/again")
    assert house.call("DELETE", "/v1/functions/again", token="owner").status == 204
    assert house.invoke("before", {}, token="caller").status == 410
    house.deploy("again", "def handler(event, context):\n    return 'other'\n", token="owner")
    assert house.invoke("before", {}, token="caller").status == 410
    grant(house, "again", "caller")
    assert house.invoke("before", {}, token="caller").status == 410
    accept(house, "after", "owner/again")
    assert house.invoke("after", {}, token="caller").json == "other"
    accounts(house, "passing")
    house.deploy("f", TELL, token="passing")
    grant(house, "f", "caller", owner="passing")
    accept(house, "from_passing", "passing/f")
    assert house.call("DELETE", "/v1/accounts/passing", token="admin").status == 204
    accounts(house, "passing")
    house.deploy("f", TELL, token="passing")
    assert house.invoke("from_passing", {}, token="caller").status == 410


# ---- 6: chains


def test_a_chain_runs_and_each_missing_right_ends_it(house: House) -> None:
    """C by B by A works with `relend`; parameters merge; without a grant or `relend` at any hop it is gone or refused."""
    house.deploy("base", TELL, token="owner")
    grant(house, "base", "caller", relend=True, lock={"a": 1}, require=["b"])
    accept(house, "mid", "owner/base", params={"b": 2}, secrets={"INNER": "x"})
    grant(house, "mid", "third", owner="caller")
    accept(house, "far", "caller/mid", caller="third", params={"c": 3})
    told = house.invoke("far", {}, token="third").json
    assert told["event"] == {"a": 1, "b": 2, "c": 3}
    assert told["secrets"] == {"INNER": "x"}
    assert "x" not in house.call("GET", "/v1/aliases/far", token="third").body.decode().replace('"x', "")
    assert house.invoke("far", {"a": 2}, token="third").status == 400
    grant(house, "base", "caller", status=200, lock={"a": 1}, require=["b"])  # without relend now
    assert house.invoke("far", {}, token="third").status == 410
    assert house.invoke("mid", {}, token="caller").status == 200
    grant(house, "base", "caller", status=200, relend=True)
    assert house.invoke("far", {}, token="third").status == 200
    assert revoke(house, "base", "caller").status == 204
    assert house.invoke("far", {}, token="third").status == 410
    assert house.invoke("mid", {}, token="caller").status == 410


def test_a_relent_alias_needs_leave_when_it_is_lent(house: House) -> None:
    """An alias whose grant says nothing of lending on cannot be lent on."""
    house.deploy("kept", TELL, token="owner")
    grant(house, "kept", "caller")
    accept(house, "mine", "owner/kept")
    assert grant(house, "mine", "third", owner="caller", status=None).status in (400, 403)


# ---- jobs, URLs, limits


def test_an_alias_works_asynchronously_and_by_its_url(house: House) -> None:
    """A job by an alias has its parameters and secrets, and so has the alias's own URL."""
    grant(house, "tell", "caller", status=None)
    accept(house, "later", "owner/tell", params={"p": 1}, secrets={"K": "v"})
    job = house.call("POST", "/v1/functions/later/invoke", b"{}", token="caller", prefer="respond-async").json["id"]
    shown = house.call("GET", f"/v1/invocations/{job}?wait=30", token="caller").json
    assert (shown["state"], shown["result"]["event"], shown["result"]["secrets"]) == ("succeeded", {"p": 1}, {"K": "v"})
    by_url = house.call("GET", "/f/caller/later/", token="caller")
    assert by_url.status == 200, by_url.body
    assert by_url.json["params"] == {"p": 1}
    assert house.call("GET", "/f/caller/later/", token="third").status == 404
    assert house.call("GET", "/f/caller/later/", token=None).status == 401


def test_logs_are_sealed_unless_they_are_lent(house: House) -> None:
    """What a lent run prints is kept for nobody; with `logs` for the caller, and never for the owner."""
    house.deploy("talk", "def handler(event, context):\n    print('said', event['word'])\n", token="owner")
    sealed, shown = secrets.token_hex(8), secrets.token_hex(8)
    grant(house, "talk", "caller")
    accept(house, "silent", "owner/talk")
    assert house.invoke("silent", {"word": sealed}, token="caller").status == 200
    assert house.call("GET", "/v1/functions/silent/logs", token="caller").status == 403
    grant(house, "talk", "third", logs=True)
    accept(house, "loud", "owner/talk", caller="third")
    assert house.invoke("loud", {"word": shown}, token="third").status == 200
    assert [line["line"] for line in house.logs("loud", token="third")] == [f"said {shown}"]
    owners = json.dumps(house.logs("talk", token="owner"))
    assert sealed not in owners
    assert shown not in owners


@needs_cgroups
def test_memory_and_time_are_the_aliases(house: House) -> None:
    """An alias with less memory and time than its function's version runs under those."""
    code = "import time\ndef handler(event, context):\n    return [context.memory_limit_in_mb, time.sleep(event['s'])]\n"
    house.deploy("sized", code, token="owner", memory="256M", timeout="30s")
    grant(house, "sized", "caller")
    accept(house, "small", "owner/sized", memory="128M", timeout="1s")
    assert house.invoke("small", {"s": 0}, token="caller").json[0] == 128
    assert house.invoke("small", {"s": 10}, token="caller").status == 504
    assert house.invoke("sized", {"s": 0}, token="owner").json[0] == 256


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """Grants, aliases, parameters and secrets outlive the server, and so does a revocation."""
    with started(tmp_path / "data") as house:
        accounts(house, "owner", "caller")
        house.deploy("tell", TELL, token="owner")
        house.deploy("other", TELL, token="owner")
        for name in ("tell", "other"):
            grant(house, name, "caller", lock={"l": 1}, allow=["p"])
            accept(house, f"my_{name}", f"owner/{name}", params={"p": 2}, secrets={"S": "kept"})
        assert revoke(house, "other", "caller").status == 204
        tokens = house.tokens
    with started(tmp_path / "data") as house:
        house.tokens |= {name: tokens[name] for name in ("owner", "caller")}
        told = house.invoke("my_tell", {}, token="caller").json
        assert (told["event"], told["secrets"]) == ({"l": 1, "p": 2}, {"S": "kept"})
        assert house.invoke("my_other", {}, token="caller").status == 410
