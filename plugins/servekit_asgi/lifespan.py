"""The lifespan of an application: its startup before the replica is ready, and its shutdown after the last answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

_log = logging.getLogger("servekit.asgi")

SHUTDOWN_TIMEOUT_S = 10.0
"""The time that the shutdown of an application may take."""
RETURN_TIMEOUT_S = 1.0
"""The time that an application may take to return after it has sent the last event of its lifespan."""


class Lifespan:
    """The call of an application with the scope ``lifespan``: one task from `start` to `stop`."""

    def __init__(self, application: Any, *, required: bool) -> None:
        """``required``: an application that does not answer on this scope is an error."""
        self._application = application
        self._required = required
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._answer = ""
        self._message = ""
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] = {}
        """The lifespan state of the application; each scope gets a copy."""

    async def start(self) -> None:
        """Send ``lifespan.startup``, and wait for the answer. Raises ``RuntimeError`` where the startup fails."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        task = self._task = asyncio.ensure_future(self._run(scope))
        error = await self._ask("startup")
        if self._answer == "startup.failed":
            await self._end(task)
            raise RuntimeError(f"the application's startup failed: {self._message or 'it gave no reason'}")
        if self._answer == "startup.complete":
            return
        self._task = None  # The application raised or returned without an answer: most likely it knows no lifespan.
        if self._required:
            raise RuntimeError(
                "the application does not answer on the scope 'lifespan', which lifespan=\"on\" requires"
            ) from error
        _log.debug("the application knows no lifespan, and is served without (%r)", error)

    async def stop(self) -> None:
        """Send ``lifespan.shutdown``, and wait for the answer up to `SHUTDOWN_TIMEOUT_S`. Failures are logged."""
        task = self._task
        if task is None:
            return
        error: BaseException | None = None
        try:
            error = await asyncio.wait_for(self._ask("shutdown"), SHUTDOWN_TIMEOUT_S)
        except asyncio.TimeoutError:
            _log.warning("the application did not shut down within %g s", SHUTDOWN_TIMEOUT_S)
        if self._answer == "shutdown.failed":
            _log.error("the application's shutdown failed: %s", self._message)
        elif error is not None:
            _log.error("the application's shutdown failed", exc_info=error)
        await self._end(task)

    @staticmethod
    async def _end(task: asyncio.Task[None]) -> None:
        """End the task, after the application has sent its last event: it need not have returned."""
        await asyncio.wait([task], timeout=RETURN_TIMEOUT_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _run(self, scope: dict[str, Any]) -> None:
        await self._application(scope, self._events.get, self._send)

    async def _ask(self, what: str) -> BaseException | None:
        """Send an event and wait for the answer. Where the application raises instead, its exception is returned."""
        assert self._task is not None
        self._answered.clear()
        self._events.put_nowait({"type": f"lifespan.{what}"})
        answered = asyncio.ensure_future(self._answered.wait())
        try:
            await asyncio.wait([answered, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
        if not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    async def _send(self, message: dict[str, Any]) -> None:
        kind = str(message["type"])
        expected = ("startup.complete", "startup.failed", "shutdown.complete", "shutdown.failed")
        answer = kind.removeprefix("lifespan.")
        if answer not in expected:
            raise RuntimeError(f"the application sent {kind!r} on the scope 'lifespan'")
        self._answer, self._message = answer, str(message.get("message", ""))
        self._answered.set()
