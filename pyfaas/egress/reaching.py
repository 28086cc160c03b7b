"""From a destination to a connected socket: resolve, check, connect to the very address that was checked; or by the operator's proxy.

A proxy is asked only for what is public. It resolves names itself, so what is checked here is what this machine knows of a name: one
that leads to private addresses only is refused; one that does not resolve here is left to the proxy, which must not reach what
tenants may not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from pyfaas.egress.resolving import Resolver
from pyfaas.egress.rules import Destination, Refused, checked
from pyfaas.egress.settings import Proxy
from pyfaas.network import is_public

CONNECT_S = 10.0  # for all of it
_ONE_S = 3.0  # for an address, when there are others
_KNOWN_S = 1.0  # to resolve a name that a proxy will resolve again
_HEAD = 8192  # bytes of a proxy's answer


async def reach(destination: Destination, resolver: Resolver, proxy: Proxy | None) -> tuple[socket.socket, bytes]:
    """Return a connected socket and what was read from it already. Raises Refused, OSError or TimeoutError.

    Whoever waits bounds it: CONNECT_S.
    """
    asked = proxy if proxy is not None and proxy.is_for(destination.host, destination.port) else None
    try:
        async with asyncio.timeout(_KNOWN_S if asked is not None else None):
            addresses = [destination.host] if destination.is_literal else await resolver.resolve(destination.host)
    except (OSError, TimeoutError):
        if asked is None:
            raise
        addresses = []
    passed = _not_ours(checked(destination, addresses), destination)
    if asked is not None and (not addresses or is_public(passed[0])):
        return await _by(asked, destination, resolver)
    if not passed:
        raise OSError("the name has no address")
    return await _first(passed, destination.port), b""


def _not_ours(addresses: Sequence[str], destination: Destination) -> list[str]:
    """Leave out this machine's own public addresses: they lead to its own services, as loopback does."""
    if destination.is_anywhere:
        return list(addresses)
    passed = [address for address in addresses if not is_public(address) or not is_ours(address)]
    if addresses and not passed:
        raise Refused(f"{destination.text} leads to this machine itself")
    return passed


def is_ours(address: str) -> bool:
    """Tell whether an address is one of this machine's: the kernel would send to it from itself (ip(7): no packet goes)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False  # no way there at all


async def _first(addresses: Sequence[str], port: int) -> socket.socket:
    """Connect to the first address that takes it; raises the last one's OSError or TimeoutError."""
    for address in addresses[:-1]:
        try:
            async with asyncio.timeout(_ONE_S):
                return await _connect(address, port)
        except (OSError, TimeoutError):
            continue
    return await _connect(addresses[-1], port)


async def _connect(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with contextlib.ExitStack() as undone:
        undone.callback(made.close)
        await asyncio.get_running_loop().sock_connect(made, (address, port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        undone.pop_all()
    return made


async def _by(proxy: Proxy, destination: Destination, resolver: Resolver) -> tuple[socket.socket, bytes]:
    made = await _first(await resolver.resolve(proxy.host) or [proxy.host], proxy.port)
    with contextlib.ExitStack() as undone:
        undone.callback(made.close)
        read = await _tunnel(made, proxy, destination)
        undone.pop_all()
    return made, read


async def _tunnel(made: socket.socket, proxy: Proxy, destination: Destination) -> bytes:
    loop = asyncio.get_running_loop()
    secret = f"Proxy-Authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    head = f"CONNECT {destination.text} HTTP/1.1\r\nHost: {destination.text}\r\n{secret}\r\n"
    await loop.sock_sendall(made, head.encode())
    read = b""
    while b"\r\n\r\n" not in read:
        piece = await loop.sock_recv(made, _HEAD)
        read += piece
        if not piece or len(read) > _HEAD:
            raise OSError("the operator's proxy ended the connection")
    head_line, _, rest = read.partition(b"\r\n\r\n")
    status = head_line.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or not status[1].startswith(b"2"):
        raise OSError(f"the operator's proxy answered {status[1].decode('ascii', 'replace')[:3] if len(status) > 1 else 'nothing'}")
    return rest
