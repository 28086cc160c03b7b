"""What functions with network reach in tests: servers on loopback that speak what real clients speak, with certificates of an own authority.

They stand outside of every VM, on 127.0.0.1; names lead to them by the operator's hosts file and by `Names`, a name server whose answers
can be changed. Nothing here knows that pyfaas is in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import ipaddress
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)
_TLS_ASKED = 80877103  # SSLRequest of PostgreSQL's protocol


def authority(directory: Path, *names: str) -> tuple[str, ssl.SSLContext]:
    """Return the certificate of an authority of our own, as PEM, and the context of a server that it vouches for."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    usage = x509.KeyUsage(*(name in ("sign", "certs", "crl") for name in ("sign", "content", "key", "data", "agree", "certs", "crl", "en", "de")))
    made = ca.add_extension(usage, critical=True).sign(ca_key, hashes.SHA256())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives = x509.SubjectAlternativeName([*map(x509.DNSName, names), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = _certificate(subject, ca_name, key.public_key()).add_extension(alternatives, critical=False)
    leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    pem = leaf.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "server.pem").write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return made.public_bytes(serialization.Encoding.PEM).decode(), context


def _certificate(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - _DAY).not_valid_after(now + _DAY)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


@contextlib.contextmanager
def tcp(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread; yields the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError, ssl.SSLError, struct.error):
                serve(self.request)

    with _Tcp(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def web_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve HTTP, or HTTPS with a context: `/hello`, `/echo`, `/away?to=URL` and the WebSocket `/talk`; yields the port."""
    started: list[int] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        app = web.Application(client_max_size=64 << 20)
        app.add_routes([web.get("/hello", _hello), web.post("/echo", _echo), web.get("/away", _away), web.get("/talk", _talk)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        started.append(runner.addresses[0][1])
        ready.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    ready.wait(30)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


async def _hello(request: web.Request) -> web.Response:
    return web.json_response({"hello": request.headers.get("X-Name", "nobody"), "host": request.host})


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _away(request: web.Request) -> web.Response:
    raise web.HTTPFound(request.query["to"])


async def _talk(request: web.Request) -> web.WebSocketResponse:
    talk = web.WebSocketResponse()
    await talk.prepare(request)
    async for message in talk:
        await talk.send_str(f"heard {message.data}")
    return talk


def redis(connection: socket.socket) -> None:
    """Speak RESP as far as SET, GET and what a client says first."""
    kept: dict[bytes, bytes] = {}
    with connection.makefile("rwb") as file:
        while line := file.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int(file.readline()[1:])
                words.append(file.read(size + 2)[:-2])
            verb = words[0].upper()
            if verb == b"SET":
                kept[words[1]] = words[2]
                file.write(b"+OK\r\n")
            elif verb == b"GET":
                value = kept.get(words[1])
                file.write(b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value))
            elif verb == b"HELLO":
                file.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            else:
                file.write(b"+PONG\r\n" if verb == b"PING" else b"+OK\r\n")
            file.flush()


def postgres(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    """Return what speaks PostgreSQL's protocol 3.0 over TLS, as far as simple queries, each of which has one row of one text."""

    def serve(connection: socket.socket) -> None:
        while True:
            length, kind = struct.unpack("!II", _exactly(connection, 8))
            rest = _exactly(connection, length - 8)
            if kind == _TLS_ASKED:
                connection.sendall(b"S")
                connection = context.wrap_socket(connection, server_side=True)
            elif kind == 196608:
                break
            else:
                connection.sendall(b"N")  # no GSSAPI
        with connection:
            talk(connection, rest.split(b"\0")[1])

    def talk(connection: socket.socket, user: bytes) -> None:
        status = {b"server_version": b"16.0", b"client_encoding": b"UTF8", b"standard_conforming_strings": b"on", b"integer_datetimes": b"on"}
        connection.sendall(_message(b"R", struct.pack("!I", 0)))
        for name, value in status.items():
            connection.sendall(_message(b"S", name + b"\0" + value + b"\0"))
        connection.sendall(_message(b"Z", b"I"))
        while (kind_of := _exactly(connection, 1)) != b"X":
            text = _exactly(connection, struct.unpack("!I", _exactly(connection, 4))[0] - 4)
            if kind_of == b"Q":
                answer = b"%s asked %s" % (user, text.rstrip(b"\0"))
                column = b"answer\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)
                connection.sendall(_message(b"T", struct.pack("!h", 1) + column))
                connection.sendall(_message(b"D", struct.pack("!hI", 1, len(answer)) + answer))
                connection.sendall(_message(b"C", b"SELECT 1\0") + _message(b"Z", b"I"))

    return serve


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _exactly(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        piece = connection.recv(size - len(read))
        if not piece:
            raise ConnectionError
        read += piece
    return read


@functools.cache
def _known(name: str) -> list[str]:
    """Return the addresses that a name has for this machine: package indexes are found as they are without a name server of ours."""
    try:
        return [] if name.endswith(".test") else [str(row[4][0]) for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except socket.gaierror:
        return []


class Names:
    """A name server; `table` says which addresses a name has, before all others, and may be changed."""

    def __init__(self) -> None:
        """Answer on a free port until `close`."""
        self.table: dict[str, list[str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            packet, asker = self._socket.recvfrom(4096)
            if not packet:
                return
            asked = dns.message.from_wire(packet)
            question = asked.question[0]
            answered = dns.message.make_response(asked)
            name = question.name.to_text(omit_final_dot=True)
            addresses = self.table.get(name) or _known(name)
            if not addresses:
                answered.set_rcode(dns.rcode.NXDOMAIN)
            for address in addresses:
                if (":" in address) == (question.rdtype == 28):
                    answered.answer.append(dns.rrset.from_text(question.name, 0, 1, question.rdtype, address))
            self._socket.sendto(answered.to_wire(), asker)
