"""Connections go from one server to the next with all that was read of them, in order, whenever the next one takes them."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pyfaas.passing import Incoming, Outgoing

_TEXTS = (b"", b"POST /", b"x" * (64 << 10), b"y" * 300_001)


@pytest.mark.parametrize("is_early", [True, False])
def test_a_connection_keeps_what_was_read(is_early: bool) -> None:
    """Texts of any length arrive with their own socket, whether the successor serves already or not."""

    async def passed() -> list[tuple[bytes, bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        outgoing, incoming = Outgoing(ours), Incoming(theirs)
        came: asyncio.Queue[tuple[socket.socket, bytes]] = asyncio.Queue()
        if is_early:
            incoming.give(lambda connection, read: came.put_nowait((connection, read)))
        clients = []
        for n, text in enumerate(_TEXTS):
            client, connection = socket.socketpair()
            client.sendall(b"%d" % n)
            clients.append(client)
            outgoing.put(connection, text)
        if not is_early:
            await asyncio.sleep(0)
            incoming.give(lambda connection, read: came.put_nowait((connection, read)))
        found = []
        for _ in _TEXTS:
            connection, read = await asyncio.wait_for(came.get(), 60)
            with connection:
                found.append((read, connection.recv(10)))
        outgoing.close()
        await asyncio.sleep(0.01)  # the other side sees the end
        for client in clients:
            client.close()
        return found

    assert asyncio.run(passed()) == [(text, b"%d" % n) for n, text in enumerate(_TEXTS)]


def test_a_successor_that_is_gone() -> None:
    """What nobody takes is closed, so that whoever is connected sees it, and nothing is raised."""

    async def passed() -> bytes:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.close()
        outgoing = Outgoing(ours)
        client, connection = socket.socketpair()
        outgoing.put(connection, b"text")
        outgoing.close()
        with client:
            return client.recv(10)

    assert asyncio.run(passed()) == b""
