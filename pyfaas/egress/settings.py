"""What the operator says of the way out, read: the name server's place, and the proxy with whom it is not asked for.

No I/O, and nothing but the standard library: the keeper reads them too, so that a mistake is told before anything is started.
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_DNS_PORT = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy that takes CONNECT (RFC 9110, 9.3.6), and for whom it is not asked."""

    host: str
    port: int
    authorization: str = ""
    without: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str, no_proxy: str = "") -> Proxy | None:
        """Read HTTPS_PROXY and NO_PROXY; None without one. Raises ValueError for what is no http:// URL."""
        if not url:
            return None
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("HTTPS_PROXY, or ALL_PROXY: the way out takes proxies of http:// only")
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        return cls(
            host=parts.hostname,
            port=parts.port or 80,
            authorization="Basic " + base64.b64encode(user.encode()).decode() if user else "",
            without=tuple(word.strip().lower() for word in no_proxy.split(",") if word.strip()),
        )

    def is_for(self, host: str, port: int) -> bool:
        """Tell whether it is asked for a host: NO_PROXY lists domains, addresses, ranges, `*`, each perhaps with a port."""
        if (host, port) == (self.host, self.port):
            return False
        return not any(_fits(word, host, port) for word in self.without)


def _fits(word: str, host: str, port: int) -> bool:
    if word == "*":
        return True
    name, colon, only = word.rpartition(":")
    if colon and only.isdecimal() and ":" not in name:
        if int(only) != port:
            return False
        word = name
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(word, strict=False)
    except ValueError:
        domain = word.removeprefix("*").removeprefix(".")
        return host == domain or host.endswith("." + domain)


def is_address(text: str) -> bool:
    """Tell whether a text is an address, IPv4 or IPv6."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def server_of(text: str) -> tuple[str, int]:
    """Read ADDRESS[:PORT], an IPv6 address with a port in brackets; raises ValueError."""
    if is_address(text):
        return text, _DNS_PORT
    address, _, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not is_address(address) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"egress_resolver: expected ADDRESS[:PORT], not {text!r}")
    return address, int(port)
