"""What an author says of an adapter, for the kit to put to the test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from servekit.interfaces import Handler, RequestAdapter, Response
from servekit.testing.conformance.exchanges import Answer, Seen


class AdapterClaims:
    """What the adapter claims, and what its handlers look like."""

    content_type: str = "application/octet-stream"
    """Of the kit's requests."""
    sets_status: bool = True
    """A result can carry a status."""
    sets_headers: bool = True
    """A result can carry headers."""
    streams: bool = True
    """A result can carry an iterable of bytes, which goes out piece by piece."""
    only_call: bool = False
    """``call`` is overridden, and ``decode`` and ``encode`` do nothing without it."""
    unanswerable: Sequence[Any] = (object(),)
    """Results that the adapter has no answer for."""
    max_examples: int = 25
    """How many bodies and headers hypothesis tries."""

    def make_adapter(self) -> RequestAdapter:
        """A new adapter, as the core makes one for each replica."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_adapter that returns a new adapter")

    def body_of(self, argument: Any) -> bytes:
        """The data that the request's body brought, as the handler finds it in its argument."""
        raise NotImplementedError(f"{type(self).__name__} needs a method body_of: the bytes that a handler received")

    def headers_of(self, argument: Any) -> Iterable[tuple[str, str]] | None:
        """The request's headers, likewise; names in any case, repeated ones in a row or joined by commas."""
        return None

    def path_of(self, argument: Any) -> str | None:
        """The request's path, percent-decoded."""
        return None

    def query_of(self, argument: Any) -> bytes | str | None:
        """The query string, as it was sent."""
        return None

    def result(self, answer: Response) -> Any:
        """What a handler returns to answer so. ``answer.body`` is bytes; where ``streams``, also an iterator of bytes
        with a ``close``, or an async one with an ``aclose`` where the adapter ``is_async``. Where ``sets_status`` or
        ``sets_headers`` is False, the rest does not matter.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method result: what a handler returns")

    def request_body(self, data: bytes) -> bytes:
        """The body that brings ``data`` to a handler, where not any bytes will do: JSON that has it in a field, say."""
        return data

    def answered_data(self, body: bytes) -> bytes:
        """The data in the body of an answer, likewise."""
        return body

    def handler(self, act: Answer) -> Handler:
        """A handler that does what ``act`` says. Override it where a handler is no plain function of one argument. For
        an adapter that ``is_async`` it may be an ``async def``; the kit makes one of what is none.
        """

        def handler(argument: Any) -> Any:
            body = self.body_of(argument)
            seen = Seen(body, self.headers_of(argument), self.path_of(argument), self.query_of(argument))
            return self.result(act(seen))

        return handler

    def __reduce__(self) -> Any:
        """Handlers are pickled on their way to a replica; in process the original runs, whatever this object holds."""
        return object, ()
