"""A caller's link to one ingress worker: dialled, and dialled again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from servekit.errors import LinkError
from servekit.handles.call import RemoteCall
from servekit.wire.data_frames import Answer, End
from servekit.wire.data_links import DataLinks
from servekit.wire.network import Network
from servekit.wire.outgoing_calls import OutgoingCalls

_log = logging.getLogger("servekit.handles")


class Redispatch(Protocol):
    """Who finds another way for calls that were not begun."""

    def links_changed(self) -> None:
        """A link has opened, or has room again."""

    def again(self, calls: list[RemoteCall]) -> None: ...


class IngressLink:
    """One ingress worker, as a caller sees it. It is the `CallsOwner` of what it is sent."""

    def __init__(
        self,
        owner: Redispatch,
        network: Network,
        links: DataLinks,
        addresses: list[str],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        """``post`` has a call made on the caller's loop."""
        self.addresses = addresses
        self.calls: OutgoingCalls[RemoteCall] = OutgoingCalls(self, post)
        self._owner = owner
        self._leaving = False
        self._retired = False
        self._task = asyncio.ensure_future(self._keep(network, links))

    @property
    def is_open(self) -> bool:
        return self.calls.link is not None and self.calls.link.writable

    @property
    def load(self) -> tuple[int, int]:
        """Calls that it has; and where others have as many, what it has had."""
        return len(self.calls.pending), self.calls.made

    @property
    def takes_new(self) -> bool:
        """False: the ingress worker is to end, and takes only what handlers call that it waits for."""
        return not self._leaving and not self._retired

    def retire(self) -> None:
        """The ingress worker is no longer among those there are: what it has, it may answer."""
        self._retired = True
        if not self.calls.pending:
            self._task.cancel()
            self._close()

    async def close(self, error: Exception) -> None:
        """Let go of the link; its calls fail with ``error``."""
        self._retired = True
        self._task.cancel()
        for call in self.calls.forget_all().values():
            call.fail(error)
        self._close()
        await asyncio.gather(self._task, return_exceptions=True)

    def _close(self) -> None:
        if self.calls.link is not None:
            self.calls.link.close()

    # -- CallsOwner --------------------------------------------------------------------------------------------------

    def link_opened(self) -> None:
        if self._retired:
            self._close()
            return
        self._leaving = False
        self._owner.links_changed()

    def link_writable(self) -> None:
        self._owner.links_changed()

    def answered(self, call: RemoteCall, answer: Answer) -> None:
        call.answered(answer)

    def begun(self, call: RemoteCall, answer: Answer) -> None:
        call.begun(answer)

    def ended(self, call: RemoteCall, end: End) -> None:
        call.over(complete=end.complete)

    def refused(self, call: RemoteCall, reason: str) -> None:
        self._leaving = True
        self._owner.again([call])

    def answers_done(self) -> None:
        if self._retired and not self.calls.pending:
            self._close()

    def load_told(self, queue_length: int) -> None:
        """An ingress worker tells none."""

    def peer_leaves(self) -> None:
        self._leaving = True

    def lost(self, calls: Sequence[tuple[RemoteCall, bool]]) -> None:
        for call, sent in calls:
            if sent:
                call.fail(
                    LinkError(
                        f"the ingress worker that had this call of endpoint {call.endpoint!r} is gone; "
                        "whether the handler was called is not known"
                    )
                )
        self._owner.again([call for call, sent in calls if not sent])

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _keep(self, network: Network, links: DataLinks) -> None:
        def note(error: OSError | None) -> None:
            if error is not None:
                _log.info("the ingress worker at %s cannot be reached: %s", ", ".join(self.addresses), error)

        await self.calls.keep_linked(
            network, links, lambda: self.addresses, wanted=lambda: not self._retired, tried=note
        )


def key_of(addresses: list[str]) -> str:
    """What tells one ingress worker from another: its own socket, or where there is none its port."""
    return addresses[0]
