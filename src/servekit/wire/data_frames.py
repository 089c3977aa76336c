"""The frames of data links: ingress to replica, and handle to ingress.

A body up to 64 KiB is in its `Call` or `Answer`. For a longer body, and one whose length is not known, that frame has
the first part. `Chunk` frames bring the rest, as `Credit` allows (see `servekit.wire.streams`), and an `End` ends the
body.
"""

from __future__ import annotations

from servekit.interfaces import Request
from servekit.wire.frames import Codec, Frame

DATA_FRAME_BYTES = 1024 * 1024
"""The longest frame: longer than the longest head of a request or an answer with the longest piece of a body."""
PIECE_BYTES = 64 * 1024
"""An answer's body is cut into pieces of this length; a request's comes as it was read, up to 256 KiB at a time."""
BODY_WINDOW_BYTES = 256 * 1024
"""The credit that a body begins with."""


class Call(Frame, tag=1):
    """Ingress to replica: run the handler. ``timeout_ms`` is the time that remains: clocks differ between machines."""

    id: int
    timeout_ms: int
    request: Request
    more: bool = False
    """``request.body`` is the first part of the body."""


class Answer(Frame, tag=2):
    """Replica to ingress. ``head`` is rendered header lines, without those that the ingress adds."""

    id: int
    status: int
    head: bytes
    body: bytes
    queue_length: int
    """How many calls the replica still holds, from every ingress worker."""
    service_us: int
    failed: bool = False
    """The handler raised, or its result could not be encoded."""
    rest: int = 0
    """How many bytes of the body follow; `UNKNOWN` when only the `End` will tell."""
    running: bool = False
    """The handler goes on, and makes the rest. Then the queue's length and the service time are in the `End`."""
    batch_size: int = 0
    """How many calls the handler was called for at a time; 0: it takes no batches."""


UNKNOWN = -1


class Cancel(Frame, tag=3):
    """Ingress to replica: nobody waits for this call any more."""

    id: int


class Refusal(Frame, tag=4):
    """Replica to ingress: this call was not begun."""

    id: int
    reason: str
    """``draining``, ``expired`` or ``cancelled``."""


class Bye(Frame, tag=5):
    """Either way, in order behind the calls. From the end that calls: no call will follow. From the end that answers:
    send no more.

    A handle may still send the calls of handlers that the ingress waits for, until the last `Bye` comes.
    """

    last: bool = False
    """From the end that answers: no frame will follow. Calls that were not answered have not been begun."""
    begun: tuple[int, ...] = ()
    """Of the last one: the calls that have been begun all the same, and will not be answered."""


class Chunk(Frame, tag=6):
    """Either way: the next piece of a call's body."""

    id: int
    data: bytes


class End(Frame, tag=7):
    """Either way: a call's body is over."""

    id: int
    complete: bool = True
    """False: the body was broken off."""
    queue_length: int = 0
    service_us: int = 0


class Credit(Frame, tag=8):
    """From the receiver of a body: ``size_bytes`` more may be sent."""

    id: int
    size_bytes: int


class Load(Frame, tag=9):
    """Replica to ingress, where several ingress workers share a slow replica: how many calls it holds from all of them.

    The number in an `Answer` is old by the time it matters: the ingress worker's own last call may be long ago.
    """

    queue_length: int


class Invoke(Frame, tag=10):
    """Handle to ingress, in the place of an HTTP request: call an endpoint's handler. `Answer` and so on come back."""

    id: int
    endpoint: str
    body: bytes
    """Pickled arguments, or the first part of them."""
    more: bool = False
    timeout_ms: int | None = None
    """None: the endpoint's own timeout."""
    limit_ms: int | None = None
    """The time that remains to the handler that calls: the call never takes longer."""
    method: str | None = None
    """The handler's method; None: ``__call__``."""
    request_id: str = ""
    chain: tuple[str, ...] = ()
    """The replicas whose handlers wait for this call, outermost first."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Of the call that it is made in: ``traceparent``, ``tracestate``, ``baggage`` and ``x-servekit-side``."""


def data_codec() -> Codec:
    return Codec(Call | Answer | Cancel | Refusal | Bye | Chunk | End | Credit | Load | Invoke)
