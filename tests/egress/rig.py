"""An egress over sockets of this machine's own network: addresses of 127.0.0.0/8 stand for what a VM's namespace would have."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pyfaas.children import Child
from pyfaas.config import Config
from pyfaas.handover import Handover
from pyfaas.network import Door, NetworkPlan
from pyfaas.starting import _needed, start_egress

INSIDE = "127.0.1.1"  # where the doors of the first name are
LINGER = struct.pack("ii", 1, 0)


def doors(*names: tuple[str, int], at: str = INSIDE, private: str = "@127.0.0.0/8") -> tuple[NetworkPlan, list[socket.socket]]:
    """Return a plan for names and ports outside, and its sockets: each name's listeners have an address of their own here.

    The plan's entries say the port that the server outside listens on, on another address; 0 is a free one, for what reaches nobody.
    """
    listeners, made, stand = [], [], []
    for number, (name, port) in enumerate(names):
        address = at[: at.rindex(".") + 1] + str(int(at.rpartition(".")[2]) + number)
        listener = socket.create_server((address, port), backlog=128)
        listeners.append(listener)
        made.append(Door(address=address, port=listener.getsockname()[1]))
        stand.append((name, address))
    udp, tcp = resolver_sockets(at)
    entries = tuple(f"{name}:{door.port}{private}" for (name, _), door in zip(names, made, strict=True))
    knocks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # stands for the packet socket: who sends to it knocks
    knocks.bind((at, 0))
    return NetworkPlan(entries=entries, doors=tuple(made), names=tuple(stand)), [*listeners, udp, tcp, knocks]


def resolver_sockets(at: str) -> tuple[socket.socket, socket.socket]:
    """Return a datagram socket and a listener on one free port, as the resolver's would be on port 53."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((at, 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:
            udp.close()


class Outside(socketserver.ThreadingTCPServer):
    """A server outside, on loopback; `serve` gets each connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        """Listen on a free port, and serve in threads."""

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    serve(self.request)

        super().__init__(("127.0.0.1", 0), Handler)
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def server_close(self) -> None:
        """Stop serving too."""
        self.shutdown()
        self._thread.join()
        super().server_close()


def echo(connection: socket.socket) -> None:
    """Send back what comes, until its end."""
    while piece := connection.recv(65536):
        connection.sendall(piece)


def read_all(connection: socket.socket) -> bytes:
    """Read a connection to its end."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@contextlib.contextmanager
def process(data: Path, hosts: Sequence[str] = (), **options: object) -> Iterator[tuple[socket.socket, Child, Callable[[], tuple[socket.socket, Child]]]]:
    """Run a real egress, as a keeper does: its control socket, its process, and what starts another."""
    (data / "hosts").write_text("".join(f"{line}\n" for line in hosts))
    config = dataclasses.replace(Config(data_dir=str(data), egress_private="127.0.0.0/8", egress_hosts=str(data / "hosts")), **options)  # type: ignore[arg-type]
    given = Handover(config=config, uid=config.uid_base if os.getuid() == 0 else 0, needed=_needed(), layers=(), weaker=(), tool={})
    started: list[tuple[socket.socket, Child]] = []

    def start() -> tuple[socket.socket, Child]:
        started.append(start_egress(given))
        return started[-1]

    try:
        control, child = start()
        yield control, child, start
    finally:
        for control, child in started:
            control.close()
            child.end(20.0)
