"""The result of a call whose handler gave a generator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from servekit.errors import LinkError
from servekit.handles.answers import RecordKind, RecordReader
from servekit.handles.failures import unpack_failure
from servekit.handles.payload import unpack
from servekit.wire.streams import Incoming


class ResultStream(Iterator[Any], AsyncIterator[Any]):
    """The result of a call whose handler gave a generator: an iterator, and an async iterator, of its items.

    `close` or `aclose` ends the generator where it is, as does the end of this object's life. There may be one reader
    at a time.
    """

    def __init__(self, body: Incoming, leave: Callable[[], None]) -> None:
        """``leave``: called once, in whichever thread, when the stream is closed before its end."""
        self._body = body
        self._records = RecordReader()
        self._leave: Callable[[], None] | None = leave

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next item. Raises the generator's exception."""
        if self._leave is None:
            raise StopIteration
        try:
            while (record := self._records.next()) is None:
                self._feed(self._body.wait())
        except Exception:
            self._leave = None
            raise
        return self._item(*record, StopIteration)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._leave is None:
            raise StopAsyncIteration
        try:
            while (record := self._records.next()) is None:
                self._feed(await self._body.arrive())
        except Exception:
            self._leave = None
            raise
        return self._item(*record, StopAsyncIteration)

    def close(self) -> None:
        """Read no more: the generator's ``finally`` runs. Does nothing after the end, or after another `close`."""
        leave, self._leave = self._leave, None
        if leave is not None:
            self._body.discard(LinkError("this stream was closed"))
            leave()

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def __del__(self) -> None:
        self.close()

    def _feed(self, piece: bytes | None) -> None:
        assert piece is not None, "the body of a stream ends with what broke it off"
        self._records.feed(piece)

    def _item(self, kind: RecordKind, payload: bytearray, over: type[Exception]) -> Any:
        """The item in a record; raises the generator's exception, or ``over`` at the generator's end."""
        if kind is RecordKind.ITEM:
            return unpack(payload)
        self._leave = None
        raise unpack_failure(payload) if kind is RecordKind.FAILURE else over
