"""The SDK over HTTP, against a fake server that follows interface.md."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest
from fake import Fake, until

import pyfaas
from pyfaas.client.aio import AsyncClient
from pyfaas.client.sync import Client


@pytest.fixture
def deploy(client: Client, tmp_path: Path) -> object:
    """A function that deploys a file under a name."""

    def work(*names: str) -> None:
        for name in names:
            (tmp_path / f"{name}.py").write_text("def handler(event, context):\n    return event\n")
            client.deploy(tmp_path / f"{name}.py")

    return work


def test_deploy_sends_configuration_and_code(client: Client, fake: Fake, tmp_path: Path) -> None:
    """The server gets pyfaas.toml's keys as JSON, and the files."""
    (tmp_path / "pyfaas.toml").write_text('name = "sent"\nmemory = "64M"\n')
    (tmp_path / "main.py").write_text("")
    assert client.deploy(tmp_path)["state"] == "ready"
    version = fake.seen()["functions"]["sent"][-1]
    assert version["config"] == {"name": "sent", "memory": "64M"}
    assert version["files"] == ["main.py", "pyfaas.toml"]


def test_invoke_returns_what_the_function_returned(client: Client, fake: Fake, deploy: object) -> None:
    """JSON comes back as values, bytes as bytes; leaving would cancel the run."""
    deploy("echo")  # type: ignore[operator]
    assert client.invoke("echo", {"a": [1, b"\x00"]}, timeout=1.5, stale="forbid") == {"a": [1, b"\x00"]}
    headers = fake.asked("POST", "/v1/functions/echo/invoke")
    sent = {name: headers[name] for name in ("Pyfaas-On-Disconnect", "Pyfaas-Timeout", "Pyfaas-Stale")}
    assert sent == {"Pyfaas-On-Disconnect": "cancel", "Pyfaas-Timeout": "1500ms", "Pyfaas-Stale": "forbid"}
    assert client.invoke("echo", b"\x01\x02") == b"\x01\x02"
    assert client.invoke("echo") == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("boom", pyfaas.FunctionError),
        ("slow", TimeoutError),
        ("lost", pyfaas.FunctionError),
        ("badevent", pyfaas.InvalidRequest),
        ("busy", pyfaas.Throttled),
        ("full", pyfaas.ServerError),
        ("nowhere", pyfaas.NotFound),
    ],
)
def test_failures_are_filed(client: Client, deploy: object, name: str, kind: type[Exception]) -> None:
    """Each way of failing has the class that interface.md names, and all have one root."""
    if name != "nowhere":
        deploy(name)  # type: ignore[operator]
    with pytest.raises(kind) as caught:
        client.invoke(name)
    assert isinstance(caught.value, pyfaas.Error)


def test_a_function_error_tells_what_the_function_said(client: Client, deploy: object) -> None:
    """Type, message, stack and invocation travel as data."""
    deploy("boom")  # type: ignore[operator]
    with pytest.raises(pyfaas.FunctionError) as caught:
        client.invoke("boom")
    error = caught.value
    assert (error.error_type, error.message, error.outcome, error.invocation_id) == (
        "ValueError",
        "boom",
        "error",
        "inv-1",
    )
    assert str(error) == "ValueError: boom"
    assert error.stack_trace == ["main.py:3 handler"]
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), vars(copied)) == (str(error), vars(error))


def test_a_missing_scope_and_an_unknown_token_are_not_allowed(fake: Fake) -> None:
    """401 and 403 are one class; the status tells them apart."""
    for token, status in (("pf_wrong", 401), ("pf_read", 403)):
        with Client(fake.url, token) as client, pytest.raises(pyfaas.NotAllowed) as caught:
            client.create_account("x")
        assert caught.value.status == status


def test_nobody_there_is_unreachable() -> None:
    """A refused connection is a ServerError without a status."""
    with Client("http://127.0.0.1:1", "pf_good") as client, pytest.raises(pyfaas.ServerError) as caught:
        client.whoami()
    assert (caught.value.status, caught.value.code) == (0, "unreachable")


def test_streams_come_item_by_item(client: Client, deploy: object) -> None:
    """A generator's items are yielded; an error after the first byte ends them as an exception."""
    deploy("ticks", "breaks")  # type: ignore[operator]
    assert list(client.stream("ticks")) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert client.invoke("ticks") == [{"n": 0}, {"n": 1}, {"n": 2}]
    seen: list[int] = []
    with pytest.raises(pyfaas.FunctionError, match="late"):
        seen.extend(item["n"] for item in client.stream("breaks"))
    stream = client.stream("breaks")
    assert [next(stream) for _ in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_leaving_a_stream_closes_the_connection(client: Client, fake: Fake, deploy: object) -> None:
    """Whoever breaks out of the loop ends the run on the server."""
    deploy("endless")  # type: ignore[operator]
    before = fake.seen()["cancelled"]
    for item in client.stream("endless"):
        if item["n"] == 3:
            break
    assert until(lambda: fake.seen()["cancelled"] > before)


def test_cancelling_a_call_closes_the_connection(fake: Fake, deploy: object) -> None:
    """A cancelled task does not leave its request behind."""
    deploy("hangs")  # type: ignore[operator]
    before = fake.seen()

    def has_arrived() -> bool:
        new = fake.seen()["requests"][len(before["requests"]) :]
        return any(request["path"] == "/v1/functions/hangs/invoke" for request in new)

    async def work() -> None:
        async with AsyncClient(fake.url, "pf_good") as client:
            call = asyncio.create_task(client.invoke("hangs"))
            assert await asyncio.to_thread(until, has_arrived)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(until, lambda: fake.seen()["cancelled"] > before["cancelled"])

    asyncio.run(work())


def test_asynchronous_runs(client: Client, deploy: object) -> None:
    """spawn returns an id at once; get returns the result, raises what failed, and gives up when told to."""
    deploy("echo", "boom", "late", "hangs")  # type: ignore[operator]
    assert client.get(client.spawn("echo", {"a": 1})["id"]) == {"a": 1}
    with pytest.raises(pyfaas.FunctionError, match="boom"):
        client.get(client.spawn("boom")["id"])
    with pytest.raises(TimeoutError, match="deadline"):
        client.get(client.spawn("late")["id"])
    with pytest.raises(TimeoutError, match="running"):
        client.get(client.spawn("hangs")["id"], timeout=0.2)


def test_ready_is_not_enough_to_be_deployed(client: Client, tmp_path: Path) -> None:
    """A version that older containers still answer for is waited for, and the wait's end says so."""
    (tmp_path / "neverover.py").write_text("")
    published = client.deploy(tmp_path / "neverover.py", wait=False)
    with pytest.raises(TimeoutError, match="older containers still answer"):
        client.wait_version("neverover", published["version"], timeout=0.5)


def test_pages_are_joined(client: Client, deploy: object) -> None:
    """A list is whole, however small the server's pages are."""
    deploy("echo", "boom", "late")  # type: ignore[operator]
    names = [function["name"] for function in client.functions()]
    assert {"echo", "boom", "late"} <= set(names)
    assert names == sorted(set(names))
