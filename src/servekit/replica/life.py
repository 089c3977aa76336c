"""A handler's life beside its calls: the handler takes over a ``user_config``, says whether it is well, and ends.

All of this runs on the data loop, in the replica's main thread, so between the calls of a handler that has one slot.
Calls that run in threads, and calls of an ``async def``, may be under way. A method of the handler's that is a ``def``
sees no running loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from servekit.config import DRAIN_TIMEOUT_S, BackendConfig, config_digest
from servekit.errors import InvalidInputError, ServekitError, UnknownPluginError
from servekit.forks import came_back, forks
from servekit.interfaces import RequestAdapter
from servekit.loopless import call_loopless
from servekit.replica.failures import FailureCollector, is_servekits
from servekit.replica.handler_calls import trace_of
from servekit.replica.target import Handlers

_log = logging.getLogger("servekit.replica")

SLICE_S = 0.05
"""The time of an async check is counted in slices of this length at most: a call that blocks the loop for longer does
not count as the check's own time."""
LATE_S = 0.5
"""Another thread takes a check for one that hangs so much later than the loop does."""


class Life:
    """The life of one handler. Made in the data loop's thread; `is_hung` and `taken` may be read in other threads."""

    def __init__(
        self,
        handlers: Handlers,
        adapter: RequestAdapter,
        config: BackendConfig,
        failures: FailureCollector | None = None,
    ) -> None:
        """``failures`` hears of what the handler raises once it is built."""
        self._failures = failures or FailureCollector()
        self._handlers = handlers
        self._adapter = adapter
        self._config = config
        self._changing = asyncio.Lock()
        self._adapter_started = False
        self._blocking_since = 0.0
        self._after_call: Callable[[], object] = lambda: None
        self.thread = threading.get_ident()
        """The number of the data loop's thread."""
        self._asked_at = 0.0
        """When the loop was asked to come by, where it has not yet; else 0.0."""
        self._lag_s = 0.0
        self._warned = not (handlers.main.on_loop or adapter.is_async)
        self.taken = b""
        """Digest of the ``user_config`` that the handler has; empty while that is not known."""

    # -- from its start to its end -----------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Prepare the handler and the adapter for the first call. Raises any error of theirs."""
        self._loop = asyncio.get_running_loop()
        forks.tell_child(self)
        if self._config.user_config is not None:
            await self._reconfigure(self._config.user_config)
        self.taken = config_digest(self._config.user_config)
        self._adapter_started = True
        await self._adapter.start(self._handlers.call)

    async def reconfigure(self, user_config: Any) -> str:
        """Hand a new ``user_config`` to the handler; returns the traceback where that fails, else an empty text."""
        async with self._changing:
            digest = config_digest(user_config)
            if digest == self.taken:
                return ""
            self.taken = b""
            try:
                await self._reconfigure(user_config)
            except (Exception, SystemExit) as error:
                trace = trace_of(error)
                self._failures.add("reconfigure", error, trace)
                return trace
            self.taken = digest
            return ""

    async def _reconfigure(self, user_config: Any) -> None:
        method = self._handlers.method("reconfigure")
        if method is not None:
            await _finish(self._call(method, user_config))
        elif user_config is not None:
            lacks = "has no method reconfigure(user_config): add one to its class"
            if not self._handlers.is_class:
                lacks = "is no class: make it a class with a method reconfigure(user_config)"
            raise InvalidInputError(f"user_config is set, but the handler {lacks}, or leave user_config out")

    async def end(self) -> None:
        """Stop the adapter, and call the handler's ``close()``, if any. To be called after the last answer."""
        if self._adapter_started:
            await _guarded("the adapter's stop()", self._adapter.stop)
        close = self._handlers.method("close")
        if close is not None:
            await _guarded("the handler's close()", lambda: self._call(close))

    def in_child(self) -> None:
        """The handler has forked, and this process is the child: it ends as soon as a method of the handler returns."""
        self._after_call = came_back
        self._loop.call_soon(came_back)

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return call_loopless(asyncio.get_running_loop(), method, *args)
        finally:
            self._after_call()

    # -- its health --------------------------------------------------------------------------------------------------

    async def watch(self, unhealthy: Callable[[str], None]) -> None:
        """Call the handler's ``check_health()`` again and again, for ever; tell ``unhealthy`` why a check failed.

        Every failed check is told of: the controller may not have been there to hear of the first.
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
            trace = trace_of(error)
            self._failures.add("check_health", error, trace)
            return f"its check_health() failed; in the replica:\n\n{trace}"
        return ""

    @property
    def is_hung(self) -> bool:
        """Whether a check blocks the loop for too long. Another thread asks, for the loop cannot say so itself."""
        since = self._blocking_since
        return since > 0 and time.perf_counter() - since > self._config.health_check_timeout_s + LATE_S

    @property
    def hung_reason(self) -> str:
        timeout_s = self._config.health_check_timeout_s
        return f"its check_health() took longer than health_check_timeout_s, which is {timeout_s:g} s"

    def silent_s(self) -> float:
        """Ask the loop to come by; returns for how long it has not since it was first asked. Called in another
        thread."""
        now, asked_at = time.perf_counter(), self._asked_at
        if asked_at:
            return now - asked_at
        self._asked_at = now
        with contextlib.suppress(RuntimeError):  # The loop has ended.
            self._loop.call_soon_threadsafe(self._come)
        return 0.0

    def _come(self) -> None:
        self._lag_s = time.perf_counter() - self._asked_at
        self._asked_at = 0.0

    @property
    def lag_s(self) -> float:
        """How long the loop took to come by when it was last asked to, or for how long it has not. May be read in
        another thread."""
        asked_at = self._asked_at
        return max(self._lag_s, time.perf_counter() - asked_at) if asked_at else self._lag_s

    def look_at_loop(self, *, warns: bool) -> None:
        """Ask the loop to come by. Called about once a second in another thread; ``warns``: calls are here, so warn,
        once, where an ``async def`` has held up the loop since the last time."""
        if not warns:
            self.silent_s()
            return
        frame = sys._current_frames().get(self.thread)
        if self.silent_s() and not self._warned and not self._blocking_since and frame is not None:
            self._warned = True
            _log.warning(
                "the handler, which is async, has held up its event loop for a second, and with it all other calls of "
                "this replica: await what takes long, give it to a thread (asyncio.to_thread), or make the handler a "
                "def. It was here:\n%s",
                "".join(traceback.format_stack(frame, limit=6)).rstrip(),
            )


def start_failure(error: BaseException) -> str:
    """Why a handler could not be built: the cause, and then where, without servekit's own part of the way."""
    if isinstance(error, UnknownPluginError) and error.__cause__ is not None:  # Of a target that is a path.
        error = error.__cause__
    trace = error.__traceback__
    while trace is not None and is_servekits(trace.tb_frame):
        trace = trace.tb_next
    if trace is None and isinstance(error, ServekitError):
        return str(error)
    trace = trace or error.__traceback__
    cause = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, ModuleNotFoundError):
        cause += (
            "\nReplicas import what is installed, and from the folders in sys.path when the backend was created: is it "
            "installed, or beside your script?"
        )
    *_, (last, _) = traceback.walk_tb(trace)
    if isinstance(error, KeyError) and last.f_globals.get("__name__") == "os":
        cause += (
            "\nReplicas have the environment variables that were there when servekit.init() was called. Set it before "
            "that, or by placement={'env': {…}}, or on Ray placement={'runtime_env': {'env_vars': {…}}}"
        )
    chained = error.__cause__ or (error.__context__ and not error.__suppress_context__)
    if chained:
        where = f"In the replica:\n\n{''.join(traceback.format_exception(type(error), error, trace))}"
    else:
        where = f"Traceback in the replica (most recent call last):\n{''.join(traceback.format_tb(trace))}"
    return f"{cause}\n\n{where.rstrip()}"


async def _finish(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


async def _in_time(result: Any, timeout_s: float) -> bool:
    """Await ``result``, if it can be awaited; False where that took longer than ``timeout_s``. Time in which another
    call blocks the loop does not count."""
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
    """Call ``function``, and log its failure: the end of the replica goes on."""
    try:
        await asyncio.wait_for(_finish(function()), DRAIN_TIMEOUT_S)
    except asyncio.TimeoutError:
        _log.error("%s took longer than %g s", what, DRAIN_TIMEOUT_S)
    except (Exception, SystemExit) as error:
        trace = trace_of(error)
        _log.error("%s failed\n%s", what, trace, extra={"traceback": trace})
