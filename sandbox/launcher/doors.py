"""A VM's ways out to the network, made inside of it: loopback, local routes, and the sockets that listen at them.

Run by a VM's first process while it still has its rights, in the network namespace that was just made. Nothing leads out of that namespace: it
has loopback and no other interface. An address of a listed range is *local* there, so that a connection to it meets whoever listens on this
machine of one, and these listeners are made here and handed to the host, which takes what arrives and carries it on. The process keeps no
copy, and code that runs later can neither listen at the same place, as no socket here allows a second one beside it, nor change the routes.

Sources: netdevice(7), rtnetlink(7), ip(7), socket(7); linux/rtnetlink.h for the numbers.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from sandbox.spec import DNS_PORT, RESOLVER, Doors

_BACKLOG = 128  # connections that wait until the host takes them; what is above it waits in its caller's retries
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 1, 0x40
_LOOPBACK = 1  # the index of lo: the first interface of any network namespace
_NLMSG_ERROR, _RTM_NEWROUTE = 2, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL = 255, 4, 254, 2
_RTA_DST, _RTA_OIF = 1, 4


def make(doors: Doors) -> list[int]:
    """Set the network up and return the doors' descriptors, in order; raises OSError naming what failed."""
    raise_loopback()
    for route in doors.routes:
        add_local_route(route)
    made: list[socket.socket] = []
    try:
        made += [_listener(address, port) for address, port in doors.listen]
        made.append(_bound(socket.SOCK_DGRAM, RESOLVER, DNS_PORT))
        made.append(_listener(RESOLVER, DNS_PORT))
    except OSError:
        for one in made:
            one.close()
        raise
    return [one.detach() for one in made]


def raise_loopback() -> None:
    """Bring lo up, which gives it 127.0.0.1/8; raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING))
        except OSError as error:
            raise OSError(error.errno, error.strerror, "lo") from None


def add_local_route(route: str) -> None:
    """Make a range, in CIDR notation, this namespace's own: every address in it is local; raises OSError."""
    address, _, length = route.partition("/")
    header = struct.pack(
        *("=BBBBBBBBI", socket.AF_INET, int(length), 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    )
    attributes = struct.pack("=HH4sHHI", 8, _RTA_DST, socket.inet_aton(address), 8, _RTA_OIF, _LOOPBACK)
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
    length_all = 16 + len(header) + len(attributes)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asked:
        asked.send(struct.pack("=IHHII", length_all, _RTM_NEWROUTE, flags, 1, 0) + header + attributes)
        kind, code = struct.unpack_from("=4xH10xi", asked.recv(4096))
    if kind != _NLMSG_ERROR or code:  # an acknowledgement is an error of 0
        raise OSError(-code, os.strerror(-code), f"route {route}")


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """Return a socket that holds its place alone: neither SO_REUSEADDR nor SO_REUSEPORT, without which nobody binds beside it."""
    made = socket.socket(socket.AF_INET, kind)
    try:
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise OSError(error.errno, error.strerror, f"{address}:{port}") from None
    return made


def _listener(address: str, port: int) -> socket.socket:
    made = _bound(socket.SOCK_STREAM, address, port)
    made.listen(_BACKLOG)
    return made
