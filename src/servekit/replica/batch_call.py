"""One call of a handler that takes batches: requests in, one item for each of them out."""

from __future__ import annotations

import contextvars
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from typing import Any

from servekit.errors import InvalidInputError
from servekit.interfaces import RequestAdapter, Response
from servekit.replica import invoke
from servekit.replica.call import Batch, Job

_PLAIN = frozenset({str, bytes, dict, list, int, float, bool, type(None)})


class BatchCall:
    """The requests of a batch as the adapter decodes them, and then what the handler made of them."""

    def __init__(self, adapter: RequestAdapter, batch: Batch, context: contextvars.Context) -> None:
        self.batch = batch
        self.context = context
        """In which the handler is called, and its items are turned into answers."""
        self.asked: list[Job] = []
        """Those that the handler is called with: whose requests could be decoded."""
        self.error: BaseException | None = None
        """Why there are no items."""
        self._adapter = adapter
        self._decoded: list[Any] = []
        self._refused: dict[Job, BaseException] = {}
        self._results: Any = ()
        for job in batch.jobs:
            try:
                self._decoded.append(adapter.decode(job.request))
                self.asked.append(job)
            except BaseException as error:
                self._refused[job] = error

    def begin(self, now: float) -> None:
        """Its turn has come; those for whom nobody waits by now, it leaves out."""
        self.batch.begin(now)
        for job in self.asked:
            if now >= job.expires and not job.stopped:
                job.stopped = "its deadline has passed"
        gone = {job for job in self.asked if job.stopped}
        if gone:
            self._refused.update((job, CancelledError()) for job in gone)
            self._decoded = [made for job, made in zip(self.asked, self._decoded, strict=True) if job not in gone]
            self.asked = [job for job in self.asked if job not in gone]

    def call(self) -> None:
        """Call the handler. Raises what it raises, and `InvalidInputError` if it did not return one item for each."""
        with self._adapter.batch_context():
            self._results = self._called(self.batch.entry.blocking)
        self._check()

    async def call_async(self) -> None:
        """The same, for an ``async def``."""
        with self._adapter.batch_context():
            self._results = await self._called(self.batch.entry.handler)
        self._check()

    @property
    def is_plain(self) -> bool:
        """With the items the handler is done: none is an iterator, whose pieces would be more work for its slot."""
        return self.error is not None or all(
            type(item) in _PLAIN or type(item).__module__ == "numpy" for item in self._results
        )

    def items(self) -> Iterator[tuple[Job, Any]]:
        """Each call of the batch, with what answers it: an exception, maybe."""
        yield from self._refused.items()
        yield from zip(self.asked, self._results, strict=True)

    def response(self, job: Job, item: Any) -> Response:
        """What the adapter makes of an item, as if the handler had returned it, or raised it, for this call alone."""
        if job.request.chain is not None:
            return invoke.failure_of(item) if isinstance(item, BaseException) else invoke.response_of(item)
        return self._adapter.call(lambda _: _returned(item), job.request)

    def _called(self, handler: Any) -> Any:
        arguments = [job.arguments for job in self.asked if job.arguments is not None]
        if not arguments:  # They came by HTTP.
            return handler(self._decoded)
        args, kwargs = arguments[0]
        columns = ([given[at] for given, _ in arguments] for at in range(len(args)))
        named = {name: [given[name] for _, given in arguments] for name in kwargs}
        return handler(self._decoded, *columns, **named)

    def _check(self) -> None:
        results, size = self._results, len(self.asked)
        if isinstance(results, (str, bytes, bytearray, Mapping)) or not hasattr(results, "__getitem__"):
            raise InvalidInputError(
                f"a handler that accepts batches returns a list with one item for each of its {size} requests; "
                f"this one returned {type(results).__qualname__}"
            )
        if len(results) != size:
            raise InvalidInputError(
                f"a handler that accepts batches returns one item for each request: this one was asked for {size} and "
                f"returned {len(results)}"
            )


def _returned(item: Any) -> Any:
    if isinstance(item, BaseException):
        raise item
    return item
