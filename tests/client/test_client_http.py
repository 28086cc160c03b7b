"""What can go wrong on the wire, made by a server of bare sockets: what is asked again, what is not, and what is said."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

import pytest
from fake import Fake

import pyfaas
from pyfaas.client.aio import AsyncClient
from pyfaas.client.http import USER_AGENT, proxy_for
from pyfaas.client.sync import Client

WHO = b'{"account": "default"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(WHO), WHO)
CUT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"


class Bare:
    """A server that gives each request the next of its answers; None closes the connection instead."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with connection, contextlib.suppress(OSError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        while self.answers:
            asked = b""
            while b"\r\n\r\n" not in asked:
                piece = connection.recv(65536)
                if not piece:
                    return
                asked += piece
            self.requests.append(asked.decode("latin-1").partition(" HTTP/")[0])
            answer = self.answers.pop(0)
            if answer is None:
                return
            connection.sendall(answer)
            if answer is CUT:
                return


@pytest.fixture
def bare() -> Iterator[Callable[..., tuple[Bare, Client]]]:
    """A maker of such servers, each with a client."""
    with contextlib.ExitStack() as stack:

        def make(*answers: bytes | None) -> tuple[Bare, Client]:
            server = stack.enter_context(Bare(*answers))
            return server, stack.enter_context(Client(server.url, "pf_good"))

        yield make


Make = Callable[..., tuple[Bare, Client]]


def test_a_connection_is_kept(bare: Make) -> None:
    """Calls one after the other share a connection."""
    server, client = bare(OK, OK, OK)
    assert [client.whoami()["account"] for _ in range(3)] == ["default"] * 3
    assert (server.connections, len(server.requests)) == (1, 3)


def test_what_is_read_is_asked_for_again_once(bare: Make) -> None:
    """A connection that was closed under a GET is no failure; one that is closed again is."""
    server, client = bare(None, OK)
    assert client.whoami() == {"account": "default"}
    assert server.requests == ["GET /v1/whoami", "GET /v1/whoami"]
    server, client = bare(None, None, OK)
    with pytest.raises(pyfaas.ServerError, match="before the answer came"):
        client.whoami()


def test_what_may_have_run_is_not_sent_twice(bare: Make) -> None:
    """A connection that broke under an invoke is told as one: it may have been done."""
    server, client = bare(None, OK)
    with pytest.raises(pyfaas.ServerError, match="may have been done") as caught:
        client.invoke("f")
    assert caught.value.code == "unreachable"
    assert server.requests == ["POST /v1/functions/f/invoke"]


def test_an_answer_that_breaks_off_is_no_result(bare: Make) -> None:
    """Half a result is a ServerError, not half a value."""
    _, client = bare(CUT)
    with pytest.raises(pyfaas.ServerError, match="broke off"):
        client.invoke("f")


def test_what_is_no_http_is_said_so(bare: Make) -> None:
    """Another program's port is a ServerError that names the server."""
    server, client = bare(b"SSH-2.0-OpenSSH\r\n", b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(pyfaas.ServerError, match=server.url):
        client.whoami()


async def test_waiting_outlasts_a_server_that_is_replaced(bare: Make) -> None:
    """A wait that lost its server asks again; where nobody was to begin with, it says so at once."""
    done = b'{"id": "i", "state": "succeeded", "result": 5}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(done), done)
    busy = b'HTTP/1.1 503 Busy\r\nContent-Type: application/problem+json\r\nContent-Length: 21\r\n\r\n{"code": "not_ready"}'
    server, _ = bare(None, None, busy, answer)
    async with AsyncClient(server.url, "pf_good") as client:
        assert await client.get("i", timeout=30) == 5
    async with AsyncClient("http://127.0.0.1:1", "pf_good") as client:
        with pytest.raises(pyfaas.ServerError, match="cannot reach"):
            await client.get("i", timeout=30)


def test_the_server_learns_who_asks(client: Client, fake: Fake) -> None:
    """Requests name the SDK and its version."""
    client.whoami()
    assert fake.asked("GET", "/v1/whoami")["User-Agent"] == USER_AGENT
    assert USER_AGENT.startswith(f"pyfaas/{pyfaas.__version__} Python/3.")


def test_a_proxy_is_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is taken for other machines, unless no_proxy names them, and never for this one."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("http://example.com") is None
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example.com")
    assert proxy_for("http://example.com:8787") == "http://proxy:3128"
    own = ("http://127.0.0.1:1", "http://localhost", "http://[::1]:1", "http://127.9.9.9", "http://a.localhost:1")
    assert {proxy_for(url) for url in (*own, "http://inside.example.com", "https://example.com")} == {None}


def test_a_call_to_this_machine_passes_by_the_proxy(bare: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy in the environment that nobody answers at, a local server is still reached."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    _, client = bare(OK)
    assert client.whoami() == {"account": "default"}
