"""How long a connection may wait for its client, and what follows when the client is late: pure functions.

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


class Wait(enum.Enum):
    """What a connection waits for, where that is not for more of a request: then it is the reader's `Phase`."""

    APP = "the app is to answer, or to end a WebSocket"
    HALF_CLOSED = "the app is to answer a client that sends no more"
    CLIENT_READS = "the client is to take what was written"
    CLIENT_CLOSES = "the client, which was refused, is to close"


class Overdue(enum.Enum):
    """What a connection is to do that has waited for too long, and answers nothing."""

    PROBE = "write, to learn whether the client is there"
    END = "close, behind what was written"
    CLOSE = "close: the client was told why"
    ABORT = "drop what was written, and close"


def overdue(wait: Wait | Phase, elapsed_s: float, limits: HttpLimits, *, draining: bool) -> Overdue | Fault | None:
    """What follows when a connection has waited so long, and nothing has changed meanwhile; None: nothing yet."""
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
            return Overdue.END
    return None
