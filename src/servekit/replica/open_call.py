"""One call in a replica, from its frame to the last byte of its answer."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from servekit.interfaces import Request
from servekit.replica.arriving_body import GatheredBody
from servekit.replica.render import Rendered
from servekit.replica.target import Entry
from servekit.wire.data_frames import Answer
from servekit.wire.incoming_calls import IncomingLink
from servekit.wire.streams import Incoming, Outgoing


class CallState(enum.Enum):
    """How far a call is. `Executor` alone moves a call on."""

    ARRIVING = enum.auto()
    """The call's body is on its way, and is needed whole, or has not filled its window yet."""
    WAITING = enum.auto()
    """The call waits for a slot, or for others to share a batch with."""
    RUNNING = enum.auto()
    """The handler has been called."""
    ANSWERING = enum.auto()
    """The answer has begun, and pieces of the answer are still going out; the handler may be making them."""
    OVER = enum.auto()
    """Nothing more of the call comes or goes."""


class SharedSlot:
    """A slot that several calls hold together, until the last of them is over."""

    def __init__(self, calls: list[OpenCall]) -> None:
        self.calls = calls
        self.started = 0.0
        """When their handler was called."""
        self.task: asyncio.Task[None] | None = None
        """The task that their handler runs in, where the handler is an ``async def``."""
        self.left = len(calls)
        """How many of the calls are not over."""


class OpenCall(msgspec.Struct, eq=False):
    """A call that an `IncomingLink` has open. `msgspec` makes a call in a third of the time of an `__init__`."""

    origin: IncomingLink[OpenCall]
    number: int
    request: Request
    entry: Entry
    run: Callable[[OpenCall], None]
    """Runs the call, in the way that suits its handler. See `CallRunner`."""
    expires: float
    """By ``time.perf_counter``."""
    state: CallState = CallState.WAITING
    upload: Incoming | None = None
    download: Outgoing | None = None
    started: float = 0.0
    """When the handler was called."""
    stopped: str = ""
    """Why the call is to end early."""
    interrupt: Callable[[], object] | None = None
    """Called once, on the data loop, when the call is to end early: wakes the thread, or cancels the task, that runs
    the call."""
    gathered: GatheredBody | None = None
    """The part that has come of a body that is needed whole."""
    unsent_bytes: int = 0
    """The length of a long answer that is here whole, until all of it has left."""
    group: deque[OpenCall] | None = None
    """The calls among which this one waits, to share a batch."""
    joined: float = 0.0
    """When the call came among those."""
    slot: SharedSlot | None = None
    """The slot of the batch that this call is part of."""
    arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """A handle's arguments, of a call that shares a batch."""


class CallTransitions(Protocol):
    """Whoever runs a call reports the call's progress here: to the `Executor`, on the data loop."""

    def hold(self, holder: OpenCall | SharedSlot, ended: SharedSlot | None = None) -> None:
        """A slot is taken until the handler is over. ``ended``: the slot was that of a batch whose handler is over."""

    def answered(self, call: OpenCall, rendered: Rendered, failed: bool) -> None:
        """A handler is over, and all of the answer is here."""

    def begun(self, call: OpenCall, answer: Answer, download: Outgoing) -> None:
        """A handler has made the first piece of the answer, and makes more."""

    def ended(self, call: OpenCall, download: Outgoing, complete: bool) -> None:
        """A handler that made the answer in pieces is over."""

    def proceed(self) -> None:
        """Have another turn of the loop begin the calls that wait."""
