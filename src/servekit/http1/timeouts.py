"""How long a connection may wait for its client, and what follows when the client is late: functions without effects.

A sweep of the server asks for each connection now and then, so that no time is kept on the common path.
"""

from __future__ import annotations

import enum

from servekit.config import HttpLimits
from servekit.http1.checks import Fault
from servekit.http1.reader import Phase

LINGER_S = 1.5
"""How long a connection that was refused goes on discarding what the client sends."""
FRESH_S = 1.0
"""How long a connection that has not sent anything yet is spared when its server drains."""
PROBE_S = 1.0
"""Between two probes of a client that has half-closed, or closed: only writing tells which."""
_BETWEEN_SWEEPS_S = 1.0
"""Two sweeps that are further apart were kept from running, and so was reading."""


class Wait(enum.Enum):
    """The reason why a connection waits. One that waits for more of a request has the reader's `Phase` instead."""

    APP = "the app is to answer, or to end a WebSocket"
    HALF_CLOSED = "the app is to answer a client that sends no more"
    CLIENT_READS = "the client is to take what was written"
    CLIENT_CLOSES = "the client, which was refused, is to close"


class Overdue(enum.Enum):
    """The act of a connection that has waited for too long, and answers nothing."""

    PROBE = "write, to learn whether the client is there"
    CLOSE = "close, behind what was written"
    ABORT = "drop what was written, and close"


class ReadingTime:
    """For how long one body has been read, as sweeps see it.

    Time in which the body was not read does not count: something else was to be taken first, or the process stood.
    """

    __slots__ = ("_message", "_seen_at", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._message = -1
        self._seen_at: float | None = None

    def add(self, message: int, now: float) -> None:
        """A sweep sees that the body of this message, by its number on the connection, is being read."""
        if message != self._message:
            self._message, self.seconds = message, 0.0
        elif self._seen_at is not None:
            self.seconds += min(now - self._seen_at, _BETWEEN_SWEEPS_S)
        self._seen_at = now

    def stop(self) -> None:
        """A sweep sees that no body is being read."""
        self._seen_at = None


def too_slow(body_bytes: int, seconds: float, limits: HttpLimits) -> Fault | None:
    """The fault of a body of which so much has come while it was read for so long; None: the body is fast enough."""
    rate = limits.body_rate_bytes_s
    if seconds <= limits.body_rate_grace_s or body_bytes >= rate * seconds:
        return None
    return Fault(408, f"the body came at less than {rate} bytes a second")


def shortest_timeout_s(limits: HttpLimits) -> float:
    """The shortest of the times that a sweep is to notice."""
    times = [limits.header_timeout_s, limits.body_timeout_s, limits.idle_timeout_s, limits.write_timeout_s]
    return min([*times, limits.body_rate_grace_s] if limits.body_rate_bytes_s else times)


def overdue(wait: Wait | Phase, elapsed_s: float, limits: HttpLimits, *, draining: bool) -> Overdue | Fault | None:
    """The act that is due when a connection has waited so long without any change; None: nothing is due yet."""
    match wait:
        case Wait.CLIENT_CLOSES if elapsed_s > LINGER_S:
            return Overdue.CLOSE
        case Wait.CLIENT_READS if elapsed_s > limits.write_timeout_s:
            return Overdue.ABORT
        case Wait.HALF_CLOSED if elapsed_s > PROBE_S:
            return Overdue.PROBE
        case Phase.HEAD if elapsed_s > limits.header_timeout_s:
            return Fault(408, f"the headers took more than {limits.header_timeout_s:g} s")
        case Phase.BODY if elapsed_s > limits.body_timeout_s:
            return Fault(408, f"no more of the body came for {limits.body_timeout_s:g} s")
        case Phase.BETWEEN if elapsed_s > (FRESH_S if draining else limits.idle_timeout_s):
            return Overdue.CLOSE
    return None
