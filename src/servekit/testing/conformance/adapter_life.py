"""The life of an adapter beside its calls, on an event loop as a replica has one."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any, NoReturn

from servekit.interfaces import Handler, RequestAdapter
from servekit.testing.conformance import exchanges
from servekit.testing.conformance.exchanges import named
from servekit.wire.loop_thread import LoopThread

_WHEN = {"start": "before the replica is ready", "drain": "as it begins to leave", "stop": "after its last answer"}


class Life:
    """From the start to the end of one adapter. Its loop runs in a thread: what blocks it is seen from outside."""

    def __init__(self, adapter: RequestAdapter, fail: Callable[..., NoReturn]) -> None:
        self._adapter = adapter
        self._fail = fail
        self._thread = LoopThread("replica")
        self._started = self._drained = self._ended = False
        self.loop = self._thread.loop
        self._hangs = False

    def start(self, handler: Handler) -> None:
        if not self._started:
            self._started = True
            self._step("start", handler)

    def drain(self) -> None:
        if not self._drained:
            self._drained = True
            self._step("drain")

    def _step(self, name: str, *arguments: Any) -> None:
        """Call one of the methods that are called on the loop."""
        __tracebackhide__ = True

        async def call() -> None:
            result = getattr(self._adapter, name)(*arguments)
            if inspect.isawaitable(result):
                await result

        contract = f"it is called once, on the event loop, {_WHEN[name]}, and where nothing is wrong it returns"
        future = asyncio.run_coroutine_threadsafe(call(), self.loop)
        if not wait([future], self.limit_s).done:
            self.hang(f"{name}() had not returned")
        error = future.exception()
        if isinstance(error, Exception):
            self._fail(f"{name}() raised {named(error)}", contract, error)

    @property
    def limit_s(self) -> float:
        """How long anything on the loop may take: what it waits for may itself take all of the kit's patience."""
        return 2 * exchanges.PATIENCE_S

    def hang(self, what: str) -> NoReturn:
        """Fail: this has not ended in time. The loop may be blocked, and is left behind."""
        __tracebackhide__ = True
        self._hangs = True
        self._fail(
            f"{what} after {self.limit_s:g} s", "nothing blocks the event loop, and what was begun comes to an end"
        )

    def end(self) -> None:
        """The replica leaves, its loop ends, and at the very last the adapter is closed."""
        __tracebackhide__ = True
        self._ended = True
        try:
            if self._started and not self._hangs:
                self.drain()
                self._step("stop")
        finally:
            if not self._hangs:
                self._thread.close()
        try:
            self._adapter.close()
        except Exception as error:
            contract = "it is called once, as the replica ends, and does not raise"
            self._fail(f"close() raised {named(error)}", contract, error)

    def close(self) -> None:
        """However a case has gone; that an adapter can end is a case of its own."""
        if not self._ended:
            with contextlib.suppress(AssertionError):
                self.end()
