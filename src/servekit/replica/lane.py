"""Where batches run whose handler is a ``def``: as many threads as the backend has slots, and what they do next.

A handler of batches mostly waits outside of Python, for a GPU or in a library's own code. Meanwhile the loop makes the
next full batch ready, and answers of the one before: a thread that ends one begins the next at once.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from servekit.replica.batch_call import BatchCall
from servekit.replica.calling import Caller
from servekit.replica.threads import Threads
from servekit.wire.mailbox import Mailbox


class LaneOwner(Protocol):
    def batch_handled(self, call: BatchCall, successor: BatchCall | None) -> None:
        """On the data loop: a handler has ended, and its slot has gone to ``successor``, which runs already."""


class Lane:
    """Its methods are called on the data loop."""

    def __init__(self, caller: Caller, owner: LaneOwner, mailbox: Mailbox, slots: int) -> None:
        self._caller = caller
        self._owner = owner
        self._mailbox = mailbox
        self._threads = Threads(slots)
        self._slots = slots
        self.ready: deque[BatchCall] = deque()
        """To be begun when the handler of one that runs has ended."""
        self._running = 0

    @property
    def takes_ready(self) -> bool:
        """All threads are at work, and for some of them nothing is ready."""
        return self._running == self._slots and len(self.ready) < self._slots

    def pop_ready(self) -> BatchCall | None:
        """What is ready, if no thread has come for it: to be given to `begin`."""
        return _pop(self.ready)

    def begin(self, call: BatchCall) -> None:
        """Run a batch; there is a free slot."""
        self._running += 1
        self._threads.submit(lambda: self._work(call))

    def close(self) -> None:
        self._threads.close()

    def _work(self, call: BatchCall) -> None:
        """In a thread."""
        successor: BatchCall | None = call
        while successor is not None:
            call = successor
            call.context.run(self._caller.call_batch, call)
            successor = _pop(self.ready) if call.is_plain else None
            self._mailbox.post(lambda call=call, successor=successor: self._handled(call, successor))  # type: ignore[misc]

    def _handled(self, call: BatchCall, successor: BatchCall | None) -> None:
        if successor is None:
            self._running -= 1
        self._owner.batch_handled(call, successor)


def _pop(ready: deque[BatchCall]) -> BatchCall | None:
    try:
        return ready.popleft()
    except IndexError:  # Another thread was faster, or nothing is there.
        return None
