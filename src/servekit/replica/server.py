"""The replica's side of its data links, from the first call to the last answer."""

from __future__ import annotations

import asyncio
import logging

from servekit.replica.executor import Executor
from servekit.replica.open_call import OpenCall
from servekit.wire.data_frames import Call, Load
from servekit.wire.data_links import DataLinks
from servekit.wire.incoming_calls import IncomingCalls

_log = logging.getLogger("servekit.replica")


class DataServer:
    """Serves until the replica is drained. It lives on the data loop."""

    def __init__(self, executor: Executor, links: DataLinks) -> None:
        self.calls: IncomingCalls[OpenCall] = IncomingCalls(executor, links, Call)
        self._executor = executor
        self._timeout_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        """For what is under way, once the replica drains."""
        executor.tell_load = self._tell_load

    async def serve(self) -> None:
        """Until no ingress worker will send more and every call is answered, or the time for that is over."""
        timeout_s = await self._timeout_s
        left = await self.calls.wait_answered(timeout_s, quiet=True)
        if left or not self.calls.is_quiet:
            _log.warning("not drained within %g s; %d calls are cut off", timeout_s, left)

    def drain(self, timeout_s: float) -> None:
        """Have `serve` end: ingress workers have been told to send no more."""
        if not self._timeout_s.done():
            self.calls.leaving = True
            self._executor.all_answered = self.calls.check
            self._executor.drain()
            self._timeout_s.set_result(timeout_s)

    def leave(self, timeout_s: float) -> None:
        """Ask every ingress worker to send no more, give back what has not begun, and drain."""
        self.calls.leave()
        self._executor.give_back(self.calls)
        self.drain(timeout_s)

    def _tell_load(self, outstanding: int) -> bool:
        """Tell every ingress worker, at once: the loop may be about to stand still in a handler."""
        origins = self.calls.origins
        if len(origins) < 2:
            return False
        for origin in origins:
            origin.link.send(Load(outstanding))
            origin.link.flush()
        return True
