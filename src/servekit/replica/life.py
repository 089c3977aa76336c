"""A handler's life beside its calls: it takes over a ``user_config``, says whether it is well, and ends.

All of it is on the data loop, in the replica's main thread, so between the calls of a handler that has one slot. Calls
that run in threads, and those of an ``async def``, may be under way. What of it is a ``def`` sees no running loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from servekit.config import DRAIN_TIMEOUT_S, BackendConfig, config_digest
from servekit.errors import InvalidInputError
from servekit.forks import came_back, forks
from servekit.interfaces import RequestAdapter
from servekit.loopless import call_loopless
from servekit.replica.target import Handlers

_log = logging.getLogger("servekit.replica")

SLICE_S = 0.05
"""An async check's own time is counted in such slices at most: what blocks the loop for longer is no part of it."""
LATE_S = 0.5
"""How much later than the loop, which also sees it, another thread takes a check for one that hangs."""


class Life:
    """One handler's. Made in the thread that the data loop runs in; `is_hung` and `taken` may be read in others."""

    def __init__(self, handlers: Handlers, adapter: RequestAdapter, config: BackendConfig) -> None:
        self._handlers = handlers
        self._adapter = adapter
        self._config = config
        self._changing = asyncio.Lock()
        self._adapter_started = False
        self._blocking_since = 0.0
        self._after_call: Callable[[], object] = lambda: None
        self.taken = b""
        """Digest of the ``user_config`` that the handler has; empty while it is not known."""

    # -- from its start to its end -----------------------------------------------------------------------------------

    async def begin(self) -> None:
        """What comes between ``__init__`` and the first call. Raises what the handler or the adapter raises."""
        self._loop = asyncio.get_running_loop()
        forks.tell_child(self)
        if self._config.user_config is not None:
            await self._reconfigure(self._config.user_config)
        self.taken = config_digest(self._config.user_config)
        self._adapter_started = True
        await self._adapter.start(self._handlers.call)

    async def reconfigure(self, user_config: Any) -> str:
        """Hand over a new ``user_config``; returns the traceback where the handler raises, else an empty text."""
        async with self._changing:
            digest = config_digest(user_config)
            if digest == self.taken:
                return ""
            self.taken = b""
            try:
                await self._reconfigure(user_config)
            except (Exception, SystemExit) as error:
                return trace_of(error)
            self.taken = digest
            return ""

    async def _reconfigure(self, user_config: Any) -> None:
        method = self._handlers.method("reconfigure")
        if method is not None:
            await _finish(self._call(method, user_config))
        elif user_config is not None:
            raise InvalidInputError(
                "user_config is set, but the handler has no method reconfigure(user_config): add one to its class, or "
                "leave user_config out"
            )

    async def end(self) -> None:
        """After the last answer: the adapter stops, and the handler's ``close()`` is called, where it has one."""
        if self._adapter_started:
            await _guarded("the adapter's stop()", self._adapter.stop)
        close = self._handlers.method("close")
        if close is not None:
            await _guarded("the handler's close()", lambda: self._call(close))

    def in_child(self) -> None:
        """The handler has forked, and this is the child: should it come back from any of its methods, it ends there."""
        self._after_call = came_back
        self._loop.call_soon(came_back)

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return call_loopless(asyncio.get_running_loop(), method, *args)
        finally:
            self._after_call()

    # -- its health --------------------------------------------------------------------------------------------------

    async def watch(self, unhealthy: Callable[[str], None]) -> None:
        """Call the handler's ``check_health()`` again and again, for ever; tell ``unhealthy`` why one failed.

        Of each that failed: the controller may not have been there to hear of the first.
        """
        check = self._handlers.method("check_health")
        while check is not None:
            await asyncio.sleep(self._config.health_check_period_s)
            if reason := await self._check(check):
                unhealthy(reason)

    async def _check(self, check: Callable[[], Any]) -> str:
        """Why the check failed, or an empty text."""
        timeout_s = self._config.health_check_timeout_s
        try:
            self._blocking_since = began = time.perf_counter()
            try:
                result = self._call(check)
            finally:
                self._blocking_since = 0.0
            if time.perf_counter() - began > timeout_s or not await _in_time(result, timeout_s):
                return self.hung_reason
        except (Exception, SystemExit) as error:
            return f"its check_health() failed; in the replica:\n\n{trace_of(error)}"
        return ""

    @property
    def is_hung(self) -> bool:
        """Whether a check blocks the loop for too long. For another thread, for the loop cannot say so."""
        since = self._blocking_since
        return since > 0 and time.perf_counter() - since > self._config.health_check_timeout_s + LATE_S

    @property
    def hung_reason(self) -> str:
        timeout_s = self._config.health_check_timeout_s
        return f"its check_health() took longer than health_check_timeout_s, which is {timeout_s:g} s"


def trace_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


async def _finish(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


async def _in_time(result: Any, timeout_s: float) -> bool:
    """Await what is to be awaited; False where it took longer. Time in which a call blocks the loop does not count."""
    if not inspect.isawaitable(result):
        return True
    task = asyncio.ensure_future(result)
    left_s = timeout_s
    try:
        while not task.done() and left_s > 0:
            slice_s = min(left_s, SLICE_S)
            await asyncio.wait([task], timeout=slice_s)
            left_s -= slice_s
        if task.done():
            task.result()
        return task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=SLICE_S)


async def _guarded(what: str, function: Callable[[], Awaitable[Any] | Any]) -> None:
    """Call it, and log where it fails: the end goes on."""
    try:
        await asyncio.wait_for(_finish(function()), DRAIN_TIMEOUT_S)
    except asyncio.TimeoutError:
        _log.error("%s took longer than %g s", what, DRAIN_TIMEOUT_S)
    except (Exception, SystemExit) as error:
        _log.error("%s failed\n%s", what, trace_of(error))
