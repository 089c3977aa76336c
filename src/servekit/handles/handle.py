"""A handle: an endpoint that can be called with Python objects."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from servekit.arguments import checked
from servekit.config import DEFAULT_TIMEOUT_S
from servekit.context import current_call
from servekit.errors import ArgumentError, DeadlineError, InvalidInputError
from servekit.handles import callers
from servekit.handles.caller import Caller
from servekit.handles.culprit import blame
from servekit.handles.future import CallFuture
from servekit.handles.payload import pack
from servekit.traces import passed_on
from servekit.wire.data_frames import Invoke


class Handle:
    """Calls an endpoint with Python objects. The calls are routed as the endpoint's HTTP requests are.

    A handle can be pickled, as an argument of a backend's ``__init__`` say. In another process of the instance it calls
    the same endpoint from there.
    """

    def __init__(
        self, endpoint: str, caller: Caller | None, method_name: str | None = None, timeout_s: float | None = None
    ) -> None:
        self._endpoint = endpoint
        self._caller = caller
        self._method_name = method_name
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        method = "" if self._method_name is None else f", method {self._method_name!r}"
        return f"<servekit handle of endpoint {self._endpoint!r}{method}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Handle, (self._endpoint, None, self._method_name, self._timeout_s)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `ArgumentError`: a call takes time, and `remote` is what says so."""
        raise ArgumentError(f"{self!r} is called by handle.remote(…), whose .result() is what the handler returns")

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{self!r} has no attribute {name!r}; a method of the handler is called by "
            f"handle.options({name!r}).remote(…)"
        )

    @checked
    def options(self, method_name: str | None = None, *, timeout_s: float | None = None) -> Handle:
        """A handle of the same endpoint, with other options.

        Args:
            method_name: the method of a class backend to be called in the place of ``__call__``.
            timeout_s: how many seconds a call may take. Default: the endpoint's own timeout.

        Raises:
            InvalidInputError: the method is not a public one, or the timeout is not above 0 and finite.
        """
        if method_name is not None and (not method_name.isidentifier() or method_name.startswith("_")):
            raise InvalidInputError(f"method_name must be the name of a public method, not {method_name!r}")
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise InvalidInputError(f"timeout_s must be above 0 and finite, not {timeout_s!r}")
        return Handle(self._endpoint, self._caller, method_name or self._method_name, timeout_s or self._timeout_s)

    def remote(self, *args: Any, **kwargs: Any) -> CallFuture:
        """Call the endpoint's handler, as ``handler(request, *args, **kwargs)``. Returns at once.

        The future's ``result(timeout)`` is the handler's result; the future can be awaited as well. The result of a
        generator is an iterator, and an async iterator. An exception of the handler is raised by ``result``, with the
        handler's traceback as ``__cause__``. Within a handler, a call has no more time than that handler has left.

        Raises:
            InvalidInputError: the arguments cannot be pickled, or are longer than 2 GiB.
            NotRunningError: no instance is running. A call fails with this error where its instance ends meanwhile.
        """
        caller = self._caller
        if caller is None:
            caller = self._caller = callers.find(self._endpoint)
        timeout_s = self._timeout_s
        invoke = Invoke(0, self._endpoint, b"", method=self._method_name)
        wait_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        if timeout_s is not None:
            invoke.timeout_ms = math.ceil(timeout_s * 1000)
        context = current_call.get(None)
        if context is not None:
            left_s = context.remaining_s
            if left_s <= 0:
                return _too_late(self._endpoint)
            invoke.chain, invoke.request_id = context.chain, context.request_id
            invoke.headers = passed_on(context.headers)
            invoke.limit_ms = math.ceil(left_s * 1000)
            wait_s = min(wait_s, left_s)
        return caller.call(invoke, _packed(args, kwargs), wait_s)


def _packed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        return pack((args, kwargs))
    except InvalidInputError:
        raise
    except Exception as error:
        named = [(f"argument {n}", value) for n, value in enumerate(args, 1)]
        named += [(repr(name), value) for name, value in kwargs.items()]
        future = next((name for name, value in named if isinstance(value, CallFuture)), None)
        if future is not None:
            raise InvalidInputError(
                f"{future} of this call is the future of another call: await it, or give its .result()"
            ) from error
        blamed = (blame(f"{name} of this call", value) for name, value in named)
        what, why = next(filter(None, blamed), ("what this call was given", f"{type(error).__name__}: {error}"))
        raise InvalidInputError(f"{what} cannot be pickled, and so cannot travel to a replica: {why}") from error


def _too_late(endpoint: str) -> CallFuture:
    future = CallFuture(lambda: None)
    future.settle(
        None, DeadlineError(f"endpoint {endpoint!r} was not called: the handler that calls has no time left itself")
    )
    return future
