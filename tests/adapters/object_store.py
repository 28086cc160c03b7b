"""A real S3-speaking server (moto's) on loopback behind a proxy of ours that is slow, cuts, hangs, lies or is away when told.

In a test or a benchmark, as a context manager; server and proxy are a process of their own, which ends with the block:

    from tests.adapters.object_store import object_store

    with object_store(bytes_per_second=1 << 20) as objects:
        with started(data, *objects.flags, env=objects.env) as house:   # or: pyfaas serve {flags}
            house.deploy(...)
            assert len(objects.keys()) == 1 and objects.counts()["gets"] == 1
            objects.rate(4096); objects.cut_after(10_000); objects.away(); objects.back()

As a program, `python -m tests.adapters.object_store --bytes-per-second 1048576` prints one line of JSON,
{"endpoint": "http://127.0.0.1:PORT", "bucket": "code"}, and serves until its standard input ends or it is terminated: start
it with a pipe as stdin. Each line of JSON there, {"do": NAME, …}, does what the method of `ObjectStore` of that name does and
is answered by one line. Any access key and secret are taken; an unsigned request is refused, as S3 refuses it.

The limit holds for all connections together, for each direction apart. What is counted and harmed are downloads of `*.zip`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import http.client
import json
import logging
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUCKET = "code"
REGION = "us-east-1"
PAGE = 10  # keys that one answer lists, so that a few objects show that all pages are read
ACCOUNT = "123456789012"  # moto's only one
_REPOSITORY = Path(__file__).resolve().parents[2]
_PIECE = 1 << 14
_REQUEST = re.compile(rb"(GET|PUT|HEAD) /[^ ?]+\.zip[ ?]")
_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class ObjectStore:
    """The store as a test sees it; `endpoint` is the proxy's URL."""

    process: subprocess.Popen[str]
    endpoint: str
    bucket: str = BUCKET

    @property
    def flags(self) -> list[str]:
        """The options of `pyfaas serve` that keep bundles there."""
        return ["-s", f"bundles=s3://{self.bucket}/bundles", "-s", f"s3_endpoint={self.endpoint}", "-s", f"s3_region={REGION}"]

    def place(self, prefix: str = "bundles") -> dict[str, str]:
        """What the adapter is given, for tests without a server."""
        keys = {"access_key_id": "test-key", "secret_access_key": "test-secret"}
        return {"bucket": self.bucket, "prefix": prefix, "endpoint": self.endpoint, "region": REGION, **keys}

    @property
    def env(self) -> dict[str, str]:
        """The credentials, as environment variables."""
        return {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret"}

    def rate(self, bytes_per_second: int) -> None:
        """Be so slow from now on; 0 is as fast as it goes."""
        self._do("rate", value=bytes_per_second)

    def cut_after(self, size: int, times: int = -1) -> None:
        """Reset a download's connection once so many bytes of it have gone, so many times; -1 always, 0 never."""
        self._do("cut_after", value=size, times=times)

    def stall(self) -> None:
        """Answer nothing more, connections stay open; `back` ends it."""
        self._do("stall")

    def flip(self, times: int = 1) -> None:
        """Change one byte of each of the next so many downloads."""
        self._do("flip", times=times)

    def away(self) -> None:
        """Reset every connection and refuse new ones; `back` ends it."""
        self._do("away")

    def back(self) -> None:
        """Answer again, after `away` or `stall`."""
        self._do("back")

    def keys(self) -> list[str]:
        """Return the keys of all bundles."""
        found: list[str] = self._do("keys")
        return found

    def lose(self, key: str) -> None:
        """Forget an object."""
        self._do("lose", key=key)

    def spoil(self, key: str) -> None:
        """Change one byte of an object for good; what was kept beside it, its metadata, stays."""
        self._do("spoil", key=key)

    def swap(self, key: str, other: str) -> None:
        """Let one object be another, with what was kept beside that: a lie that agrees with itself."""
        self._do("swap", key=key, other=other)

    def reset(self) -> None:
        """Be as new: well, fast and empty."""
        self._do("reset")

    def counts(self) -> Mapping[str, int]:
        """Return how many downloads (`gets`), uploads (`puts`) and questions (`heads`) began, and the `bytes` of downloads."""
        found: Mapping[str, int] = self._do("counts")
        return found

    def _do(self, name: str, **more: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": name, **more}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def object_store(*, bytes_per_second: int = 0, certificate: Path | None = None) -> Iterator[ObjectStore]:
    """Start an empty store with the bucket `code`; it ends with the block. `certificate` (a PEM with its key) makes it https."""
    command = [sys.executable, "-m", "tests.adapters.object_store", "--bytes-per-second", str(bytes_per_second)]
    if certificate is not None:
        command += ["--certificate", str(certificate)]
    pipe = subprocess.PIPE
    env = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    with subprocess.Popen(command, cwd=_REPOSITORY, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            told = json.loads(process.stdout.readline())
            yield ObjectStore(process, told["endpoint"], told["bucket"])
        finally:
            process.terminate()
            process.wait(20)


def certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate of localhost that is its own authority; returns it, and it with its key."""
    from cryptography import x509  # noqa: PLC0415 - only what tries https needs it; moto brings it
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    begin, end = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2020, 2120))
    made = made.not_valid_before(begin).not_valid_after(end)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    (directory / "alone.pem").write_bytes(pem)
    (directory / "both.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
    return directory / "alone.pem", directory / "both.pem"


# ---- the process


@dataclass(slots=True)
class Proxy:
    """The way to the server, and what is wrong with it."""

    upstream: tuple[str, int]
    bytes_per_second: int = 0
    context: ssl.SSLContext | None = None
    cut_at: int = 0
    cuts: int = 0
    flips: int = 0
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    counts: dict[str, int] = field(default_factory=lambda: {"gets": 0, "puts": 0, "heads": 0, "bytes": 0})
    _free: dict[str, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None
    port: int = 0

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self.flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context)
            self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Refuse connections, and reset those that are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            await _Connection(self, reader, writer).run()
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def pace(self, way: str, size: int) -> None:
        """Wait until so many bytes may go."""
        await self.flows.wait()
        if self.bytes_per_second:
            now = asyncio.get_running_loop().time()
            self._free[way] = max(now, self._free[way]) + size / self.bytes_per_second
            await asyncio.sleep(self._free[way] - now)
            await self.flows.wait()

    @property
    def piece(self) -> int:
        """How much goes at once: a twentieth of a second's bytes, when there is a limit."""
        return max(256, min(_PIECE, self.bytes_per_second // 20)) if self.bytes_per_second else _PIECE


class _Connection:
    """One connection of a client, and the one behind it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._is_download = self._is_flipped = False
        self._body = -1  # bytes of the answer's body that have gone; -1 in its head
        self._head = b""

    async def run(self) -> None:
        """Pass on what comes, until either side has ended."""
        try:
            reader, writer = await asyncio.open_connection(*self._proxy.upstream)
        except OSError:
            return
        ways = [asyncio.ensure_future(self._up(writer)), asyncio.ensure_future(self._down(reader))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not ways[1].done() and ways[0].exception() is None:
                await asyncio.wait(ways[1:], timeout=60)  # a client that has said everything
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()

    async def _up(self, writer: asyncio.StreamWriter) -> None:
        while piece := await self._reader.read(self._proxy.piece):
            if found := _REQUEST.match(piece):
                self._proxy.counts[found[1].decode().lower() + "s"] += 1
                self._is_download, self._body, self._head = found[1] == b"GET", -1, b""
            await self._proxy.pace("up", len(piece))
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _down(self, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(self._proxy.piece):
            await self._proxy.pace("down", len(piece))
            if self._is_download:
                piece = self._harmed(piece)
            if piece:
                self._writer.write(piece)
                await self._writer.drain()
            if not piece:
                return
        self._writer.close()
        await self._writer.wait_closed()

    def _harmed(self, piece: bytes) -> bytes:
        """Return what is sent of a piece of a download: with a byte changed, or nothing where the connection is to be cut."""
        proxy, begin = self._proxy, 0
        if self._body < 0:
            self._head += piece
            if (end := self._head.find(_HEAD_END)) < 0:
                return piece
            begin = len(piece) - (len(self._head) - end - len(_HEAD_END))
            self._body = 0
        size = len(piece) - begin
        if proxy.cuts and self._body + size > proxy.cut_at:
            proxy.cuts -= 1
            return b""
        if size and proxy.flips and not self._is_flipped:
            proxy.flips, self._is_flipped = proxy.flips - 1, True
            piece = piece[:-1] + bytes([piece[-1] ^ 1])
        self._body += size
        proxy.counts["bytes"] += size
        return piece


async def _obey(proxy: Proxy, order: Mapping[str, Any]) -> Any:
    """Do what a line on standard input says; returns the answer."""
    from moto.s3.models import s3_backends  # noqa: PLC0415 - only the store's own process loads moto

    store = s3_backends[ACCOUNT]["aws"]
    match order["do"]:
        case "rate":
            proxy.bytes_per_second = int(order["value"])
        case "cut_after":
            proxy.cut_at, proxy.cuts = int(order["value"]), int(order["times"])
        case "stall":
            proxy.flows.clear()
        case "flip":
            proxy.flips = int(order["times"])
        case "away":
            proxy.close()
        case "back":
            await proxy.open()
        case "keys":
            return sorted(str(key) for key in store.buckets[BUCKET].keys if str(key).endswith(".zip"))
        case "lose":
            store.delete_object(BUCKET, order["key"])
        case "spoil":
            kept = store.get_object(BUCKET, order["key"])
            middle = len(kept.value) // 2
            kept.value = kept.value[:middle] + bytes([kept.value[middle] ^ 1]) + kept.value[middle + 1 :]
        case "swap":
            store.buckets[BUCKET].keys[order["key"]] = store.get_object(BUCKET, order["other"])
        case "counts":
            return proxy.counts
        case "reset":
            for key in list(store.buckets[BUCKET].keys):
                store.delete_object(BUCKET, key)
            proxy.bytes_per_second = proxy.cut_at = proxy.cuts = proxy.flips = 0
            proxy.counts = dict.fromkeys(proxy.counts, 0)
            await proxy.open()
        case unknown:
            raise ValueError(unknown)
    return None


async def _main(rate: int, certificate: str | None) -> None:
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - likewise

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    upstream = server.get_host_and_port()
    connection = http.client.HTTPConnection(*upstream, timeout=30)
    connection.request("PUT", f"/{BUCKET}")
    connection.getresponse().read()
    connection.close()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    proxy = Proxy(upstream, rate, context)
    await proxy.open()
    scheme = "http" if certificate is None else "https"
    host = "127.0.0.1" if certificate is None else "localhost"  # certificates are for names
    print(json.dumps({"endpoint": f"{scheme}://{host}:{proxy.port}", "bucket": BUCKET}), flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        print(json.dumps(await _obey(proxy, json.loads(line))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes-per-second", type=int, default=0)
    parser.add_argument("--certificate")
    given = parser.parse_args()
    asyncio.run(_main(given.bytes_per_second, given.certificate))
    os._exit(0)  # moto's thread would be waited for
