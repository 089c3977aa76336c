"""One call in a replica, from its frame to the last byte of its answer."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from servekit.interfaces import Request
from servekit.replica.arriving_body import GatheredBody
from servekit.replica.target import Entry
from servekit.wire.incoming_calls import IncomingLink
from servekit.wire.streams import Incoming, Outgoing

if TYPE_CHECKING:
    from servekit.replica.batch import Batch
    from servekit.replica.batch_runner import Group
    from servekit.replica.executor import LongBody
    from servekit.replica.runners import Runner


class CallState(enum.Enum):
    """How far a call is. `Executor` alone moves one on."""

    ARRIVING = enum.auto()
    """Its body is on its way, and is needed whole, or has not filled its window yet."""
    WAITING = enum.auto()
    """It waits for a slot, or for others to share a batch with."""
    RUNNING = enum.auto()
    """Its handler has been called."""
    ANSWERING = enum.auto()
    """Its answer has begun, and pieces of that are still going out; the handler may be making them."""
    OVER = enum.auto()
    """Nothing more of it comes or goes."""


class OpenCall(msgspec.Struct, eq=False):
    """A call that an `IncomingLink` has open. `msgspec` makes them at a third of the time of an `__init__`."""

    origin: IncomingLink[OpenCall]
    number: int
    request: Request
    entry: Entry
    runner: Runner[OpenCall]
    expires: float
    """By ``time.perf_counter``."""
    state: CallState = CallState.WAITING
    upload: Incoming | None = None
    download: Outgoing | None = None
    started: float = 0.0
    """When its handler was called."""
    stopped: str = ""
    """Why it is to end early."""
    interrupt: Callable[[], object] | None = None
    """Called once, on the data loop, when it is to end early: wakes or cancels what runs it."""
    gathered: GatheredBody | None = None
    """What has come of it, where it is needed whole."""
    unsent: LongBody | None = None
    """What has not been sent of a long answer that is here whole."""
    group: Group | None = None
    """Where it waits for others to share a batch with."""
    batch: Batch | None = None
    arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """Of a call by a handle that shares a batch."""
