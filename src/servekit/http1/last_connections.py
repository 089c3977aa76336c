"""The end of a listening socket, without a reset for a client that has connected."""

from __future__ import annotations

import ctypes
import socket
import struct

SETTLE_S = 0.2
"""The time that a client whose connection is being made has to make it: a round trip."""
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_DROP_SYN = (
    (0x30, 0, 0, 13),  # the byte of the flags, counted from the TCP header
    (0x54, 0, 0, 0x12),  # of which SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else take it
)
"""Instructions of classic BPF: code, jump if true, jump if false, operand."""


def refuse_new(listening: socket.socket) -> bool:
    """Have the kernel ignore who begins to connect to a listening TCP socket, for good; whether it does.

    To close such a socket resets the connections that the kernel has accepted and the process has not, and some come
    between the last ``accept`` and the ``close``. With the packets dropped that begin a connection (SYN), none comes
    after `SETTLE_S`. A client whose first packet is dropped sends another after a second, and is refused then. The
    filter is the socket's, for all processes that have it: https://docs.kernel.org/networking/filter.html
    """
    if listening.family == socket.AF_UNIX:
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    told = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
    except OSError:  # A kernel without filters, or a policy: some connections may be reset then.
        return False
    return True
