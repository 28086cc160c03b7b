"""Who knocks where no door is: a socket from which the host hears of connections that a VM's kernel refuses by itself.

A connection to a local address without a listener is refused at once, and nobody would hear of it; whoever wrote the code wants to know which
destination is missing in the list. So there is a packet socket on the VM's lo, made and handed out as the doors are. Its filter, which is attached before
the socket is bound and then locked, lets the first packet of such a connection through and nothing else, and of that its headers' length.

Sources: packet(7), socket(7); linux/filter.h for the program, RFC 791 and RFC 9293 for what is where in a packet.
"""

from __future__ import annotations

import socket
import struct

from sandbox import kernel
from sandbox.spec import Doors

_ETH_P_IP = 0x0800
_WAITING_BYTES = 1 << 16  # some hundred packets; of those who knock faster than they are read some are not heard
_HEADERS = 120  # those of IPv4 and TCP, at their longest

# Instructions: load from a place in the packet, or (X) from where TCP begins; compare, and go on or skip; keep and recall a word.
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD, _LOAD_BYTE_X, _LOAD_HALF_X, _FIND_TCP = 0x30, 0x28, 0x20, 0x50, 0x48, 0xB1
_AND, _IF_EQUAL, _IF_ANY, _KEEP, _RECALL, _RETURN = 0x54, 0x15, 0x45, 0x02, 0x60, 0x06
_PROTOCOL, _FRAGMENT, _DESTINATION = 9, 6, 16
_TCP_PORT, _TCP_FLAGS, _SYN, _SYN_ACK = 2, 13, 2, 18

Step = tuple[int, int, int, int]  # code, how many to skip when it holds, when it does not, constant


def watch(doors: Doors) -> socket.socket:
    """Return the socket; raises OSError."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WAITING_BYTES)
        kernel.attach_filter(made.fileno(), program(doors))
        made.bind(("lo", _ETH_P_IP))
    except OSError as error:
        made.close()
        raise OSError(error.errno, error.strerror, "knocks") from None
    return made


def program(doors: Doors) -> bytes:
    """Return the filter: TCP, not a later fragment, not within loopback's own range, SYN without ACK, and no door there."""
    steps = [
        *((_LOAD_BYTE, 0, 0, _PROTOCOL), *_only(_IF_EQUAL, socket.IPPROTO_TCP)),
        *((_LOAD_HALF, 0, 0, _FRAGMENT), *_never(_IF_ANY, 0x1FFF)),
        *((_LOAD_BYTE, 0, 0, _DESTINATION), *_never(_IF_EQUAL, 127)),
        *((_FIND_TCP, 0, 0, 0), (_LOAD_BYTE_X, 0, 0, _TCP_FLAGS), (_AND, 0, 0, _SYN_ACK), *_only(_IF_EQUAL, _SYN)),
        *((_LOAD_HALF_X, 0, 0, _TCP_PORT), (_KEEP, 0, 0, 0)),
    ]
    for address, port in doors.listen:
        number = int.from_bytes(socket.inet_aton(address), "big")
        place = [(_LOAD_WORD, 0, 0, _DESTINATION), *_never(_IF_EQUAL, number)] if number else [_DROP]
        steps += [(_RECALL, 0, 0, 0), (_IF_EQUAL, 0, len(place), port), *place]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (_RETURN, 0, 0, _HEADERS)])


_DROP: Step = (_RETURN, 0, 0, 0)


def _only(test: int, value: int) -> tuple[Step, Step]:
    return (test, 1, 0, value), _DROP


def _never(test: int, value: int) -> tuple[Step, Step]:
    return (test, 0, 1, value), _DROP
