"""A caller's link to one ingress worker: dialled, and dialled again."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from servekit.errors import LinkError
from servekit.handles.call import Call
from servekit.wire.data_frames import DATA_FRAME_BYTES, Answer, Bye, Cancel, Chunk, Credit, End, Invoke, Refusal
from servekit.wire.frames import Codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.network import Network, keep_dialled

_log = logging.getLogger("servekit.handles")


class Redispatch(Protocol):
    """Who finds another way for calls that were not begun."""

    def links_changed(self) -> None:
        """A link has opened, or has room again."""

    def again(self, calls: list[Call]) -> None: ...


class IngressLink:
    """One ingress worker, as a caller sees it; and the calls that it has. It is the `LinkOwner`."""

    def __init__(
        self, owner: Redispatch, network: Network, token: bytes, hello: bytes, codec: Codec, addresses: list[str]
    ) -> None:
        self.addresses = addresses
        self.calls: dict[int, Call] = {}
        self._owner = owner
        self._network = network
        self._token = token
        self._hello = hello
        self._codec = codec
        self._link: Link | None = None
        self._next_number = 0
        self._leaving = False
        self._retired = False
        self._task = asyncio.ensure_future(self._keep())

    @property
    def is_open(self) -> bool:
        return self._link is not None and self._link.writable

    @property
    def load(self) -> tuple[int, int]:
        """Calls that it has; and where others have as many, what it has had."""
        return len(self.calls), self._next_number

    @property
    def takes_new(self) -> bool:
        """False: the ingress worker is to end, and takes only what handlers call that it waits for."""
        return not self._leaving and not self._retired

    def send(self, call: Call) -> None:
        """Only while it is open."""
        assert self._link is not None
        self._next_number = number = self._next_number + 1
        self.calls[number] = call
        call.drop = self._drop
        call.start(self._link, number)

    def _drop(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        if self.calls.get(call.number) is call:
            del self.calls[call.number]
            if self._link is not None:
                self._link.send(Cancel(call.number))

    def retire(self) -> None:
        """The ingress worker is no longer among those there are: what it has, it may answer."""
        self._retired = True
        if not self.calls:
            self._task.cancel()
            if self._link is not None:
                self._link.close()

    async def close(self, error: Exception) -> None:
        """Let go of the link; its calls fail with ``error``."""
        self._retired = True
        self._task.cancel()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.fail(error)
        if self._link is not None:
            self._link.close()
        await asyncio.gather(self._task, return_exceptions=True)

    # -- LinkOwner --------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        if self._retired:
            link.close()
            return
        self._link = link
        self._leaving = False
        self._owner.links_changed()

    def frame_received(self, link: Link, frame: Any) -> None:
        kind = type(frame)
        if kind is Bye:
            self._leaving = True
            if frame.last:
                self._left(link)
            return
        call = self.calls.get(frame.id)
        if call is None:
            return
        if kind is Answer:
            if call.answered(frame):
                del self.calls[frame.id]
        elif kind is Chunk:
            call.continued(frame.data)
        elif kind is Credit:
            call.grant(frame.size_bytes)
        elif kind is End:
            del self.calls[frame.id]
            call.ended(complete=frame.complete)
        elif kind is Refusal:
            del self.calls[frame.id]
            self._leaving = True
            self._owner.again([call])

    def _left(self, link: Link) -> None:
        """The ingress worker has begun none of the calls that are here, nor will it."""
        self._link = None
        link.close()
        calls, self.calls = self.calls, {}
        self._owner.again(list(calls.values()))

    def frames_done(self, link: Link) -> None:
        if self._retired and not self.calls:
            link.close()

    def link_writable(self, link: Link) -> None:
        self._owner.links_changed()

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self._link = None
        calls, self.calls = self.calls, {}
        unsent = {frame.id for frame in link.unsent() if type(frame) is Invoke}
        for number, call in calls.items():
            if number not in unsent:
                call.fail(
                    LinkError(
                        f"the ingress worker that had this call of endpoint {call.endpoint!r} is gone; "
                        "whether the handler was called is not known"
                    )
                )
        self._owner.again([call for number, call in calls.items() if number in unsent])

    # -- inside -----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        def note(error: OSError | None) -> None:
            if error is not None:
                _log.info("the ingress worker at %s cannot be reached: %s", ", ".join(self.addresses), error)

        await keep_dialled(
            self._network,
            lambda: self.addresses,
            self._new_link,
            wanted=lambda: not self._retired,
            tried=note,
        )

    def _new_link(self) -> Link:
        handshake = Handshake(self._token, self._hello, dialing=True)
        return Link(self, self._codec, handshake, max_frame_bytes=DATA_FRAME_BYTES)


def key_of(addresses: list[str]) -> str:
    """What tells one ingress worker from another: its own socket, or where there is none its port."""
    return addresses[0]
