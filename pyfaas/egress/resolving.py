"""Names outside: the system's resolver, or the operator's hosts file and name server.

The system's is getaddrinfo(3), in threads: it honours /etc/hosts and nsswitch.conf. With `hosts` or `resolver` the system's hosts
file is not read. What comes back are addresses as text, which whoever connects checks. Who asks for a name that is being asked for already
waits for that answer: an installer opens fifty connections at once, and name servers drop such a flood. Nothing is kept longer, so a name
that changes is seen.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from pyfaas.egress.settings import is_address, server_of

_THREADS = 32  # names that are looked for at once; a slow one costs its thread
_MOST = 16  # addresses that are tried of one name


class Resolver:
    """Resolves, as the operator said."""

    def __init__(self, hosts: str | None = None, server: str = "") -> None:
        """`hosts` is a hosts file's text, `server` ADDRESS[:PORT]; without both the system's is used. Raises ValueError."""
        self._hosts = None if hosts is None else read_hosts(hosts)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="name") if hosts is None and not server else None
        self._server = server_of(server) if server else None
        self._own: dns.asyncresolver.Resolver | None = None
        self._asked: dict[str, asyncio.Task[list[str]]] = {}

    async def resolve(self, name: str) -> list[str]:
        """Return a name's addresses, IPv4 first, none when it has none; raises OSError when it cannot be resolved."""
        if self._hosts is not None and (found := self._hosts.get(name)):
            return list(found)
        task = self._asked.get(name)
        if task is None:
            task = self._asked[name] = asyncio.get_running_loop().create_task(self._resolve(name))
            task.add_done_callback(lambda done: self._answered(name, done))
        return list(await asyncio.shield(task))  # whoever asked first may go before the others

    def _answered(self, name: str, task: asyncio.Task[list[str]]) -> None:
        self._asked.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen, though nobody may wait any more

    async def _resolve(self, name: str) -> list[str]:
        if self._pool is not None:
            rows = await asyncio.get_running_loop().run_in_executor(self._pool, _system, name)
        else:
            rows = await self._ask(name)
        return sorted(dict.fromkeys(rows), key=lambda address: ":" in address)[:_MOST]

    async def _ask(self, name: str) -> list[str]:
        """Ask the name server: the operator's, or those of /etc/resolv.conf."""
        if self._own is None:
            self._own = dns.asyncresolver.Resolver(configure=self._server is None)
            if self._server is not None:
                self._own.nameservers, self._own.port = [self._server[0]], self._server[1]
        absolute = dns.name.from_text(name)
        found = await asyncio.gather(*(self._records(absolute, kind) for kind in (dns.rdatatype.A, dns.rdatatype.AAAA)))
        return [address for addresses in found for address in addresses]

    async def _records(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[str]:
        assert self._own is not None  # noqa: S101 - `_ask` has made it
        try:
            answer = await self._own.resolve(name, kind, raise_on_no_answer=False, lifetime=5.0)
        except dns.resolver.NXDOMAIN:
            return []
        except (dns.exception.DNSException, OSError) as error:
            if kind == dns.rdatatype.AAAA:
                return []  # many name servers of small networks do not answer this one
            raise OSError(f"the name server does not answer: {type(error).__name__}") from None
        return [row.to_text() for row in answer] if answer.rrset is not None else []


def _system(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return []
        raise
    except UnicodeError:
        return []
    return [str(row[4][0]) for row in found]


def read_hosts(text: str) -> Mapping[str, tuple[str, ...]]:
    """Read a hosts file (hosts(5)): names, lower case, with their addresses. What is no address is left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1 and is_address(words[0]):
            for name in words[1:]:
                found[name.lower().removesuffix(".")].append(words[0])
    return {name: tuple(addresses) for name, addresses in found.items()}
