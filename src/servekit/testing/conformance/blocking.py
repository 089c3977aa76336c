"""Sees calls that block, however the code under test has imported them."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SOCKET_METHODS = frozenset(
    {"accept", "connect", "connect_ex", "recv", "recv_into", "recvfrom", "send", "sendall", "sendto"}
)
_NAMED = {
    "_socket": frozenset({"getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"}),
    "_posixsubprocess": frozenset({"fork_exec"}),
    "posix": frozenset({"open", "read", "write", "system", "wait", "waitpid"}),
    "io": frozenset({"open"}),
    "_io": frozenset({"open"}),
}


@contextlib.contextmanager
def no_blocking(report: Callable[[str], None]) -> Iterator[None]:
    """While open, this thread's calls to ``time.sleep``, sockets, ``select``, files and processes raise instead.

    ``report`` is told the name of each, whether the caller lets the exception out or not. A profile function sees calls
    of C functions whatever name they have been given, which a patched ``time.sleep`` does not. Not seen: waiting
    for a lock.
    """

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            name = _blocking_name(argument)
            if name is not None:
                report(name)
                raise BlockingCallError(name)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


class BlockingCallError(AssertionError):
    """Stands in for a call that blocks."""


def _blocking_name(function: Any) -> str | None:
    name = getattr(function, "__name__", "")
    module = getattr(function, "__module__", None) or ""
    owner = getattr(function, "__self__", None)
    if function is time.sleep:
        return "time.sleep"
    if module == "select" or type(owner).__module__ == "select":
        return f"select.{name}"
    if name in _SOCKET_METHODS and isinstance(owner, socket.SocketType):
        return f"socket.{name}"
    return name if name in _NAMED.get(module, ()) else None
