"""Calls that go out on one link, at the end that makes them: an ingress worker's to a replica, a handle's to an ingress
worker.

The owner knows the meaning of the answers. Both kinds of owners have in common: the number of each call, which calls
are pending, cancelling, and what becomes of pending calls when the other end leaves or is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, Protocol, TypeVar

from servekit.wire.companion import is_silence, keep_companion
from servekit.wire.data_frames import Answer, Bye, Call, Cancel, Chunk, Credit, End, Invoke, Load, Refusal
from servekit.wire.data_links import DataLinks
from servekit.wire.link import Link
from servekit.wire.network import keep_dialled
from servekit.wire.streams import Incoming, Outgoing


class OutgoingCall(Protocol):
    """The part of a call that its owner keeps for `OutgoingCalls`."""

    number: int
    upload: Outgoing | None
    """Sends the rest of the call's body, behind its first part."""
    download: Incoming | None
    """The answer's body, once it has begun in pieces."""


C = TypeVar("C", bound=OutgoingCall)
C_contra = TypeVar("C_contra", contravariant=True)


class CallsOwner(Protocol[C_contra]):
    """The owner is told what becomes of its calls. Called on the link's event loop; no method may raise or block."""

    def link_opened(self) -> None:
        """Calls may be sent."""

    def link_writable(self) -> None:
        """There is room again on a link that was full."""

    def answered(self, call: C_contra, answer: Answer) -> None:
        """A call is over: all of the answer is here."""

    def begun(self, call: C_contra, answer: Answer) -> None:
        """An answer has begun. Its body, from the first part on, is to be taken from ``call.download``."""

    def ended(self, call: C_contra, end: End) -> None:
        """A call is over: the body of the answer has ended, which ``call.download`` is to be told."""

    def refused(self, call: C_contra, reason: str) -> None:
        """A call was not begun. See `Refusal`."""

    def answers_done(self) -> None:
        """The owner has been told of all frames of one read of the link."""

    def load_told(self, queue_length: int) -> None:
        """See `Load`."""

    def peer_leaves(self) -> None:
        """The other end asks for no more calls."""

    def lost(self, calls: Sequence[tuple[C_contra, bool]]) -> None:
        """The link is gone, and with it these calls, each with whether it may have been begun."""


def _now(call: Callable[[], None]) -> None:
    call()


class OutgoingCalls(Generic[C]):
    """The calls to one peer, whose links follow each other. It is the `LinkOwner`."""

    __slots__ = ("_owner", "_post", "link", "made", "peer_silent", "pending")

    def __init__(self, owner: CallsOwner[C], post: Callable[[Callable[[], None]], None] = _now) -> None:
        """``post`` has a call made on the link's loop, where downloads are read in other threads."""
        self._owner = owner
        self._post = post
        self.made = 0
        """How many calls there have been. The last has this number."""
        self.link: Link | None = None
        """None while there is no open one."""
        self.peer_silent = False
        """The last link was lost for want of any sign from the peer's machine: that says nothing of the calls."""
        self.pending: dict[int, C] = {}

    def begin(self, call: C, frame: Call | Invoke) -> None:
        """Send a call's first frame, and give the call and the frame their number. Only while there is a link."""
        assert self.link is not None
        self.made = frame.id = call.number = number = self.made + 1
        self.pending[number] = call
        self.link.send(frame)

    def upload(self, call: C) -> Outgoing:
        """The sender of the rest of the body, for a call whose first frame was sent."""
        assert self.link is not None
        call.upload = upload = Outgoing(self.link, call.number)
        return upload

    def cancel(self, call: C) -> None:
        """Nobody waits for this call. The call stays pending: the peer says when it is over."""
        if self.link is not None:
            self.link.send(Cancel(call.number))
            self.link.flush()  # Whoever learns next that the call was given up is to find the cancel on its way.

    def forget(self, call: C) -> None:
        """As `cancel`, for an owner to whom it does not matter when the call is over."""
        if self.pending.get(call.number) is call:
            self._remove(call)
            self.cancel(call)

    def forget_all(self) -> dict[int, C]:
        """Forget the pending calls, of which nothing more is sent; returns them by their numbers."""
        pending, self.pending = self.pending, {}
        for call in pending.values():
            if call.upload is not None:
                call.upload.stop()
        return pending

    def leave(self) -> None:
        """No call will follow those that were sent."""
        if self.link is not None:
            self.link.send(Bye())

    async def keep_linked(
        self,
        links: DataLinks,
        addresses: Callable[[], Sequence[str]],
        *,
        wanted: Callable[[], bool],
        tried: Callable[[OSError | None], None],
        companion: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Dial, and dial again when the link is lost. See `keep_dialled`.

        ``companion``: where the peer takes companions, if it is on another machine: see `keep_companion`.
        """
        watching = asyncio.ensure_future(keep_companion(links, companion, self._peer_silent))
        try:
            await keep_dialled(addresses, lambda: links.new(self, dialing=True), wanted=wanted, tried=tried)
        finally:
            watching.cancel()

    # -- LinkOwner -------------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self.link, self.peer_silent = link, False
        self._owner.link_opened()

    def frame_received(self, link: Link, frame: Any) -> None:
        kind = type(frame)
        if kind is Answer and not frame.rest and not frame.running:
            call = self.pending.pop(frame.id, None)
            if call is not None:
                self._owner.answered(call, frame)
        elif kind is Load:
            self._owner.load_told(frame.queue_length)
        elif kind is Bye:
            self._peer_leaves(link, frame)
        else:
            call = self.pending.get(frame.id)
            if call is not None:
                self._continued(link, call, frame)

    def frames_done(self, link: Link) -> None:
        self._owner.answers_done()

    def link_writable(self, link: Link) -> None:
        self._owner.link_writable()

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if self.link is link:
            self.peer_silent = self.peer_silent or is_silence(error)
            self._lost({frame.id for frame in link.unsent() if type(frame) in (Call, Invoke)})

    # -- inside ----------------------------------------------------------------------------------------------------

    def _peer_silent(self) -> None:
        if self.link is not None:
            self.peer_silent = True
            self.link.abort()

    def _continued(self, link: Link, call: C, frame: Any) -> None:
        """Frames that not every call has: an answer in pieces, a body that is not sent at once, a refusal."""
        kind = type(frame)
        if kind is Chunk:
            if call.download is not None:
                call.download.feed(frame.data)
        elif kind is Credit:
            if call.upload is not None:
                call.upload.grant(frame.size_bytes)
        elif kind is Answer:
            number, post = frame.id, self._post
            call.download = Incoming(
                lambda size: post(lambda: link.send(Credit(number, size))), frame.body, owes_first=True
            )
            self._owner.begun(call, frame)
        elif kind is End:
            del self.pending[frame.id]
            self._owner.ended(call, frame)
        elif kind is Refusal:
            self._remove(call)
            self._owner.refused(call, frame.reason)

    def _remove(self, call: C) -> None:
        """Nothing more of the call is sent."""
        del self.pending[call.number]
        if call.upload is not None:
            call.upload.stop()

    def _peer_leaves(self, link: Link, bye: Bye) -> None:
        if bye.last:
            # The frames of pending calls crossed this one on their way, and the calls will not be begun.
            link.close()
            self._lost(self.pending.keys() - set(bye.begun))
        else:
            self._owner.peer_leaves()

    def _lost(self, unbegun: Collection[int]) -> None:
        self.link = None
        self._owner.lost([(call, number not in unbegun) for number, call in self.forget_all().items()])
