"""The future of a handle's call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

from servekit.errors import HandlerError
from servekit.handles.failures import unpack_failure
from servekit.handles.payload import Buffer, unpack


class Sealed:
    """A result, or a failure, as it arrived. It is opened by whoever asks first, in that thread: to unpickle runs code
    of the user, which is not to hold up the loop on which links live."""

    def __init__(self, payload: Buffer, *, failed: bool) -> None:
        self._payload: Buffer | None = payload
        self._failed = failed
        self._lock = threading.Lock()
        self._value: Any = None
        self._error: Exception | None = None

    def open(self) -> tuple[Any, Exception | None]:
        """The result, or what is to be raised."""
        with self._lock:
            if self._payload is not None:
                payload, self._payload = self._payload, None
                try:
                    if self._failed:
                        self._error = unpack_failure(payload)
                    else:
                        self._value = unpack(payload)
                except Exception as error:
                    self._error = HandlerError(
                        f"the handler's result cannot be unpickled here: {type(error).__name__}: {error}"
                    )
                    self._error.__cause__ = error
        return self._value, self._error


class CallFuture(concurrent.futures.Future[Any]):
    """What `Handle.remote` gives: a `concurrent.futures.Future` that can be awaited, too, on any event loop."""

    def __init__(self, abandon: Callable[[], None]) -> None:
        """``abandon``: called once, in whichever thread, when it is cancelled before it has a result."""
        super().__init__()
        self._abandon: Callable[[], None] | None = abandon

    def result(self, timeout: float | None = None) -> Any:
        """What the handler returned; what it raised is raised. Raises ``TimeoutError`` after ``timeout`` seconds, which
        does not end the call."""
        found = super().result(timeout)
        if isinstance(found, Sealed):
            found, error = found.open()
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # It has this frame in its traceback.
        return found

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the handler raised; None where it returned."""
        error = super().exception(timeout)
        if error is None:
            found = super().result(0)
            if isinstance(found, Sealed):
                error = found.open()[1]
        return error

    def cancel(self) -> bool:
        """Give the call up, if it is not answered. A handler that runs already is ended where that is possible."""
        if not super().cancel():
            return False
        with self._condition:
            abandon, self._abandon = self._abandon, None
        if abandon is not None:  # The first time.
            self.set_running_or_notify_cancel()  # For those in concurrent.futures.wait.
            abandon()
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def done(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # That loop has ended, and with it who waited.
                loop.call_soon_threadsafe(wake)

        self.add_done_callback(done)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Python 3.14's `asyncio.wrap_future` reads a future by this."""
        if not self.done() or self.cancelled():
            return self.done(), self.cancelled(), None, None
        error = self.exception()
        return True, False, None if error is not None else self.result(), error

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """On the caller's loop: the call is over. Nothing where it was cancelled."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)
            self._abandon = None  # It leads to the call, and that to this.
