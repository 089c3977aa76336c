"""Calls that come in by many links, at the end that answers them: a replica's from ingress workers, an ingress worker's
from handles.

The owner knows how to answer a call. Both kinds of owners have in common: which calls are open, the pieces of their
bodies, callers that are gone, and how the links end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from servekit.errors import LinkError
from servekit.wire.data_frames import Bye, Cancel, Chunk, Credit, End
from servekit.wire.data_links import DataLinks
from servekit.wire.link import Link, finish_all
from servekit.wire.streams import Incoming, Outgoing


class IncomingCall(Protocol):
    """The part of a call that its owner keeps for `IncomingCalls`."""

    upload: Incoming | None
    """Takes the rest of the call's body, behind its first part."""
    download: Outgoing | None
    """The answer's body, once it has begun in pieces."""


C = TypeVar("C", bound=IncomingCall)


class CallsAnswerer(Protocol[C]):
    """The owner answers the calls. Called on the links' event loop; no method may raise or block."""

    def called(self, origin: IncomingLink[C], frame: Any) -> None:
        """A call has come. The owner puts the call into ``origin.open`` under its number, until the call is over."""

    def cancelled(self, call: C) -> None:
        """Nobody waits for an open call any more."""

    def calls_done(self) -> None:
        """The owner has been told of all frames of one read of a link."""


class IncomingLink(Generic[C]):
    """One link, and the open calls that came by that link. It is the `LinkOwner`."""

    __slots__ = ("_answerer", "_calls", "_kind", "link", "open", "quiet")

    link: Link

    def __init__(self, calls: IncomingCalls[C], answerer: CallsAnswerer[C], kind: type) -> None:
        self._calls = calls
        self._answerer = answerer
        self._kind = kind
        self.open: dict[int, C] = {}
        self.quiet = False
        """The peer has said that no call will follow."""

    # -- LinkOwner -------------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self.link = link
        self._calls.opened(self)

    def frame_received(self, link: Link, frame: Any) -> None:
        if type(frame) is self._kind:
            if not self._calls.over:  # Else the caller has yet to read the last `Bye`, and will look elsewhere.
                self._answerer.called(self, frame)
        else:
            self._continued(frame)

    def frames_done(self, link: Link) -> None:
        self._answerer.calls_done()

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        for call in list(self.open.values()):
            self._answerer.cancelled(call)
        self._calls.lost(self)

    def _continued(self, frame: Any) -> None:
        kind = type(frame)
        if kind is Bye:
            self.quiet = True
            self._calls.check()
            return
        call = self.open.get(getattr(frame, "id", -1))
        if call is None:
            return  # The call was answered meanwhile.
        if kind is Credit:
            if call.download is not None:
                call.download.grant(frame.size_bytes)
        elif kind is Cancel or (kind is End and not frame.complete):
            self._answerer.cancelled(call)
        elif (upload := call.upload) is not None:
            if kind is Chunk:
                upload.feed(frame.data)
                if upload.is_overrun:
                    self.link.fail(LinkError("its peer sends more of a body than it has credit for"))
            elif kind is End:
                upload.end()


class IncomingCalls(Generic[C]):
    """The calls of all links to one listener."""

    def __init__(self, answerer: CallsAnswerer[C], links: DataLinks, kind: type) -> None:
        """``kind``: the frame that begins a call, `Call` or `Invoke`."""
        self._answerer = answerer
        self._links = links
        self._kind = kind
        self.origins: set[IncomingLink[C]] = set()
        self.leaving = False
        """Callers are asked to go elsewhere."""
        self.over = False
        """No call is begun any more."""
        self._changed = asyncio.Event()

    def new_link(self) -> Link:
        """The protocol of a listener's next connection."""
        return self._links.new(IncomingLink(self, self._answerer, self._kind), dialing=False)

    def __iter__(self) -> Iterator[C]:
        """Every open call."""
        for origin in self.origins:
            yield from list(origin.open.values())

    @property
    def is_quiet(self) -> bool:
        """Every peer has said that no call will follow."""
        return all(origin.quiet for origin in self.origins)

    def leave(self) -> None:
        """Ask all peers, and those to come, to call elsewhere."""
        self.leaving = True
        for origin in self.origins:
            origin.link.send(Bye())

    async def wait_answered(self, timeout_s: float, *, quiet: bool = False) -> int:
        """Wait until no call is open, for ``timeout_s`` at most; returns how many calls still are.

        ``quiet``: wait as well until all peers have said that no call will follow, or are gone.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while any(origin.open for origin in self.origins) or (quiet and not self.is_quiet):
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, ends - loop.time()))
            except asyncio.TimeoutError:
                break
        return sum(len(origin.open) for origin in self.origins)

    async def finish(self) -> None:
        """Let go of the links, behind the last answers. Nobody may be able to dial any more.

        On a link that has no open call, a call that has not been answered has not been begun, which the last `Bye`
        tells the peer. The links are half-closed: a peer that still writes to a socket that is gone would lose the
        frames that it has not read.
        """
        self.over = True
        for origin in self.origins:
            if not origin.open:
                origin.link.send(Bye(last=True))
        await finish_all([origin.link for origin in self.origins])

    def break_off(self, begun: Callable[[C], bool]) -> None:
        """Say which of the open calls have been ``begun``, and that nothing follows. See `Link.send_last`."""
        self.over = True
        for origin in list(self.origins):
            numbers = tuple(number for number, call in list(origin.open.items()) if begun(call))
            origin.link.send_last(Bye(last=True, begun=numbers))

    def abort(self) -> None:
        """Cut the links that are left."""
        for origin in list(self.origins):
            origin.link.abort()

    def check(self) -> None:
        """Have `wait_answered` look again. To be called when a call is over, while ``leaving``."""
        self._changed.set()

    # -- by the links ------------------------------------------------------------------------------------------------

    def opened(self, origin: IncomingLink[C]) -> None:
        self.origins.add(origin)
        if self.over:
            origin.link.send(Bye(last=True))
            origin.link.finish()
        elif self.leaving:
            origin.link.send(Bye())

    def lost(self, origin: IncomingLink[C]) -> None:
        self.origins.discard(origin)
        self.check()
