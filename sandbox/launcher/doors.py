"""A VM's ways out to the network, made inside of it: loopback, local routes, and the sockets that listen at them.

Run by a VM's first process while it still has its rights, in the network namespace that was just made. Nothing leads out of that namespace: it
has loopback and no other interface. An address of a listed range is *local* there, so that a connection to it meets whoever listens on this
machine of one, and these listeners are made here and handed to the host, which takes what arrives and carries it on. The process keeps no
copy, and code that runs later can neither listen at the same place, as no socket here allows a second one beside it, nor change the routes.

There is no door for UDP but the resolver's. A local route would take a datagram and lose it, and its sender would wait for an answer; so rules
before the local table let UDP go to 127.0.0.0/8 only, and everywhere else "Network is unreachable" is the answer at once.

Sources: netdevice(7), rtnetlink(7), ip(7), socket(7), ip-rule(8); linux/rtnetlink.h and linux/fib_rules.h for the numbers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from sandbox.launcher import knocks
from sandbox.spec import DNS_PORT, RESOLVER, Doors

_BACKLOG = 128  # connections that wait until the host takes them; what is above it waits in its caller's retries
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 1, 0x40
_LOOPBACK = 1  # the index of lo: the first interface of any network namespace
_NLMSG_ERROR, _RTM_NEWROUTE, _RTM_NEWRULE, _RTM_DELRULE = 2, 24, 32, 33
_NLM_F_REQUEST, _NLM_F_ACK, _CREATE = 1, 4, 0x200 | 0x400  # create, and only what is not there
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL = 255, 4, 254, 2
_RTA_DST, _RTA_OIF = 1, 4
_FR_ACT_TO_TBL, _FR_ACT_UNREACHABLE = 1, 7
_FRA_DST, _FRA_PRIORITY, _FRA_IP_PROTO = 1, 6, 22


def make(doors: Doors) -> list[int]:
    """Set the network up and return the doors' descriptors, in order; raises OSError naming what failed."""
    raise_loopback()
    for route in doors.routes:
        add_local_route(route)
    if doors.routes:
        keep_udp_inside()
    made: list[socket.socket] = []
    try:
        made += [_listener(address, port) for address, port in doors.listen]
        made.append(_bound(socket.SOCK_DGRAM, RESOLVER, DNS_PORT))
        made.append(_listener(RESOLVER, DNS_PORT))
        if doors.is_watched:
            made.append(knocks.watch(doors))
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
    """Make a range, in CIDR notation, this namespace's own: every address in it is local; raises OSError.

    One that is its own already, as loopback's is, stays so.
    """
    address, _, length = route.partition("/")
    header = struct.pack(
        *("=BBBBBBBBI", socket.AF_INET, int(length), 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    )
    attributes = struct.pack("=HH4sHHI", 8, _RTA_DST, socket.inet_aton(address), 8, _RTA_OIF, _LOOPBACK)
    try:
        _ask_kernel(_RTM_NEWROUTE, _CREATE, header + attributes, f"route {route}")
    except FileExistsError:
        pass  # the kernel made it with lo


def keep_udp_inside() -> None:
    """Let UDP go to loopback's own range only, and nowhere else; raises OSError.

    A kernel without CONFIG_IP_MULTIPLE_TABLES has no rules; there a datagram into a local range is lost, which lets nothing out either.
    """
    local, loopback, udp = _attribute(_FRA_PRIORITY, 3), struct.pack("=HH4s", 8, _FRA_DST, bytes((127, 0, 0, 0))), _attribute(_FRA_IP_PROTO, 17, "B")
    try:
        _ask_kernel(_RTM_NEWRULE, _CREATE, _rule(_FR_ACT_TO_TBL, 8, _RT_TABLE_LOCAL) + loopback + _attribute(_FRA_PRIORITY, 1) + udp, "rule")
        _ask_kernel(_RTM_NEWRULE, _CREATE, _rule(_FR_ACT_UNREACHABLE) + _attribute(_FRA_PRIORITY, 2) + udp, "rule")
        _ask_kernel(_RTM_NEWRULE, _CREATE, _rule(_FR_ACT_TO_TBL, 0, _RT_TABLE_LOCAL) + local, "rule")
        _ask_kernel(_RTM_DELRULE, 0, _rule(_FR_ACT_TO_TBL, 0, _RT_TABLE_LOCAL) + _attribute(_FRA_PRIORITY, 0), "rule")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


def _rule(action: int, length: int = 0, table: int = 0) -> bytes:
    return struct.pack("=BBBBBBBBI", socket.AF_INET, length, 0, 0, table, 0, 0, action, 0)


def _attribute(kind: int, value: int, form: str = "I") -> bytes:
    return struct.pack(f"=HH{form}", 4 + struct.calcsize(form), kind, value).ljust(8, bytes(1))


def _ask_kernel(kind: int, flags: int, body: bytes, what: str) -> None:
    """Ask rtnetlink for one thing and wait for its word; raises OSError naming `what`."""
    head = struct.pack("=IHHII", 16 + len(body), kind, flags | _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asked:
        asked.send(head + body)
        told, code = struct.unpack_from("=4xH10xi", asked.recv(4096))
    if told != _NLMSG_ERROR or code:  # an acknowledgement is an error of 0
        raise OSError(-code, os.strerror(-code), what)


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
