"""Calls that share one call of a handler that takes batches: requests in, one item for each of them out."""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from servekit.errors import InvalidInputError
from servekit.interfaces import RequestAdapter, Response
from servekit.replica import invocations
from servekit.replica.flow import Flow
from servekit.replica.open_call import OpenCall

if TYPE_CHECKING:
    from servekit.replica.batch_runner import Group

_PLAIN = frozenset({str, bytes, dict, list, int, float, bool, type(None)})


class Batch:
    """The requests as the adapter decodes them, and then what the handler made of them.

    Its calls hold one slot together, until the last of them is over.
    """

    def __init__(
        self, adapter: RequestAdapter, group: Group, calls: list[OpenCall], context: contextvars.Context
    ) -> None:
        self.group = group
        self.calls = calls
        self.entry = calls[0].entry
        self.context = context
        """In which the handler is called, and its items are turned into answers."""
        self.started = 0.0
        self.left = len(calls)
        """Those that are not over."""
        self.task: asyncio.Task[None] | None = None
        """In which the handler runs, where it is an ``async def``."""
        self.asked: list[OpenCall] = []
        """Those that the handler is called with: whose requests could be decoded."""
        self.error: BaseException | None = None
        """Why there are no items."""
        self._adapter = adapter
        self._decoded: list[Any] = []
        self._refused: dict[OpenCall, BaseException] = {}
        self._results: Any = ()
        for call in calls:
            call.batch, call.group, call.interrupt = self, None, self._check_wanted
            try:
                self._decoded.append(adapter.decode(call.request))
                self.asked.append(call)
            except BaseException as error:
                self._refused[call] = error

    def begin(self, now: float) -> None:
        """Its turn has come; those for whom nobody waits by now, it leaves out."""
        self.start(now)
        for call in self.asked:
            if now >= call.expires and not call.stopped:
                call.stopped = "its deadline has passed"
        gone = {call for call in self.asked if call.stopped}
        if gone:
            self._refused.update((call, CancelledError()) for call in gone)
            self._decoded = [made for call, made in zip(self.asked, self._decoded, strict=True) if call not in gone]
            self.asked = [call for call in self.asked if call not in gone]

    def start(self, now: float) -> None:
        """From now on its time counts."""
        self.started = now
        for call in self.calls:
            call.started = now

    def calling(self) -> Flow[None]:
        """Call the handler. Raises what it raises, and `InvalidInputError` if it did not return one item for each."""
        with self._adapter.batch_context():
            self._results = yield self._called
        self._check()

    @property
    def is_plain(self) -> bool:
        """With the items the handler is done: none is an iterator, whose pieces would be more work for its slot."""
        return self.error is not None or all(
            type(item) in _PLAIN or type(item).__module__ == "numpy" for item in self._results
        )

    def items(self) -> Iterator[tuple[OpenCall, Any]]:
        """Each call of the batch, with what answers it: an exception, maybe."""
        yield from self._refused.items()
        yield from zip(self.asked, self._results, strict=True)

    def response(self, call: OpenCall, item: Any) -> Response:
        """What the adapter makes of an item, as if the handler had returned it, or raised it, for this call alone."""
        if call.request.chain is not None:
            return invocations.failure_of(item) if isinstance(item, BaseException) else invocations.response_of(item)
        return self._adapter.call(lambda _: _returned(item), call.request)

    def _check_wanted(self) -> None:
        """Cancel the handler once nobody waits for any of its answers."""
        if self.task is not None and all(call.stopped for call in self.calls):
            self.task.cancel()

    def _called(self) -> Any:
        handler: Any = self.entry.blocking
        arguments = [call.arguments for call in self.asked if call.arguments is not None]
        if not arguments:  # They came by HTTP.
            return handler(self._decoded)
        args, kwargs = arguments[0]
        columns = ([given[at] for given, _ in arguments] for at in range(len(args)))
        named = {name: [given[name] for _, given in arguments] for name in kwargs}
        return handler(self._decoded, *columns, **named)

    def _check(self) -> None:
        results: Any = self._results
        size = len(self.asked)
        if isinstance(results, (str, bytes, bytearray, Mapping)) or not hasattr(results, "__getitem__"):
            raise InvalidInputError(
                f"a handler that accepts batches returns a list with one item for each of its {size} requests; "
                f"this one returned {type(results).__qualname__}"
            )
        self._results = list(results)  # Whatever that raises is the handler's failure, too.
        if len(self._results) != size:
            raise InvalidInputError(
                f"a handler that accepts batches returns one item for each request: this one was asked for {size} and "
                f"returned {len(self._results)}"
            )


def _returned(item: Any) -> Any:
    if isinstance(item, BaseException):
        raise item
    return item
