"""The future of a handle's call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

from servekit.config import misfit
from servekit.errors import ArgumentError, HandlerError
from servekit.handles.failures import unpack_failure
from servekit.handles.payload import Buffer, unpack
from servekit.wire.streams import wake_task


class Sealed:
    """A result, or a failure, as it arrived. The first who asks for the result opens it, in their thread: unpickling
    runs code of the user, which is not to hold up the loop on which links live."""

    def __init__(self, payload: Buffer, *, failed: bool) -> None:
        self._payload: Buffer | None = payload
        self._failed = failed
        self._lock = threading.Lock()
        self._value: Any = None
        self._error: Exception | None = None

    def open(self) -> tuple[Any, Exception | None]:
        """The result, or the exception that is to be raised."""
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
    """The result of `Handle.remote`: a `concurrent.futures.Future` that can be awaited, too, on any event loop."""

    def __init__(self, abandon: Callable[[], None]) -> None:
        """``abandon``: called once, in whichever thread, when the future is cancelled before it has a result."""
        super().__init__()
        self._abandon: Callable[[], None] | None = abandon

    def result(self, timeout: float | None = None) -> Any:
        """The handler's result. Raises the handler's exception; or ``TimeoutError`` after ``timeout`` seconds, which
        does not end the call. Raises `ArgumentError` where ``timeout`` is no number."""
        if timeout is not None and not hasattr(timeout, "__float__"):
            raise ArgumentError(f"result(): {misfit('timeout', timeout, float | None)}")
        try:
            found = super().result(timeout)
        except concurrent.futures.TimeoutError:
            if self.done():  # It may be the call's own error.
                raise
            raise concurrent.futures.TimeoutError(
                f"no answer within {timeout} s; the call goes on, and its future's cancel() ends it"
            ) from None
        if isinstance(found, Sealed):
            found, error = found.open()
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # The error has this frame in its traceback.
        return found

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The handler's exception; None where the handler returned."""
        error = super().exception(timeout)
        if error is None:
            found = super().result(0)
            if isinstance(found, Sealed):
                error = found.open()[1]
        return error

    def cancel(self) -> bool:
        """Give the call up, if there is no answer yet. A handler that runs already is ended where that is possible."""
        if not super().cancel():
            return False
        with self._condition:
            abandon, self._abandon = self._abandon, None
        if abandon is not None:  # This is the first time.
            self.set_running_or_notify_cancel()  # `concurrent.futures.wait` hears of it so.
            abandon()
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add_done_callback(lambda _: wake_task(waiter))
        try:
            yield from waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Python 3.14's `asyncio.wrap_future` reads a future by this method."""
        if not self.done() or self.cancelled():
            return self.done(), self.cancelled(), None, None
        error = self.exception()
        return True, False, None if error is not None else self.result(), error

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """The call is over. Called on the caller's loop; does nothing where the future was cancelled."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)
            self._abandon = None  # It leads to the call, and the call to this future.
