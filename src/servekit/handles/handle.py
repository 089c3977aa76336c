"""What people hold: an endpoint that can be called with Python objects."""

from __future__ import annotations

import math
from typing import Any

from servekit.config import DEFAULT_TIMEOUT_S
from servekit.context import current_call
from servekit.errors import DeadlineError, InvalidInputError
from servekit.handles import callers
from servekit.handles.caller import Caller
from servekit.handles.culprit import blame
from servekit.handles.future import CallFuture
from servekit.handles.payload import pack
from servekit.wire.data_frames import Invoke


class Handle:
    """Calls an endpoint: routed as its HTTP requests are, with Python objects for arguments and result.

    It can be pickled, as an argument of a backend's ``__init__`` say: it names the endpoint, and in another process of
    the instance it calls from there.
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

    def options(self, *, method_name: str | None = None, timeout_s: float | None = None) -> Handle:
        """A handle that differs in what is given.

        Args:
            method_name: the method of a class backend to be called in the place of ``__call__``.
            timeout_s: how long a call may take; default, as long as the endpoint says.

        Raises:
            InvalidInputError: the method is not a public one, or the time is none.
        """
        if method_name is not None and (not method_name.isidentifier() or method_name.startswith("_")):
            raise InvalidInputError(f"method_name is the name of a public method, not {method_name!r}")
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise InvalidInputError(f"timeout_s is above 0 and finite, not {timeout_s!r}")
        return Handle(self._endpoint, self._caller, method_name or self._method_name, timeout_s or self._timeout_s)

    def remote(self, *args: Any, **kwargs: Any) -> CallFuture:
        """Call the endpoint's handler, as ``handler(request, *args, **kwargs)``. Returns at once.

        The future's ``result(timeout)`` is what the handler returns; it can be awaited as well. Of a generator it is an
        iterator, and an async iterator. What the handler raises is raised there, with its traceback as ``__cause__``.
        Within a handler, a call has no more time than that handler has left.

        Raises:
            InvalidInputError: the arguments cannot be pickled, or are longer than 2 GiB.
            NotRunningError: no instance is running. Calls of one that ends meanwhile fail with it.
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
        blamed = (blame(f"{name} of this call", value) for name, value in named)
        what, why = next(filter(None, blamed), ("what this call was given", f"{type(error).__name__}: {error}"))
        raise InvalidInputError(f"{what} cannot be pickled, and so cannot travel to a replica: {why}") from error


def _too_late(endpoint: str) -> CallFuture:
    future = CallFuture(lambda: None)
    future.settle(
        None, DeadlineError(f"endpoint {endpoint!r} was not called: the handler that calls has no time left itself")
    )
    return future
