"""The adapter ``asgi`` does what every request adapter must, with an application for a handler."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from servekit.interfaces import Handler, RequestAdapter
from servekit.testing.conformance import RequestAdapterTests
from servekit.testing.conformance.exchanges import Answer, Seen
from servekit_asgi import create_adapter


class TestAsgiAdapter(RequestAdapterTests):
    unanswerable = ()

    def make_adapter(self) -> RequestAdapter:
        return create_adapter()

    def handler(self, act: Answer) -> Handler:
        async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                raise NotImplementedError(scope["type"])
            headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
            answer = act(Seen(await received(receive), headers, scope["path"], scope["query_string"]))
            head = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
            await send({"type": "http.response.start", "status": answer.status, "headers": head})
            body: Any = answer.body
            if isinstance(body, bytes):
                await send({"type": "http.response.body", "body": body})
                return
            async with aclosing(body):
                async for piece in body:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body"})

        return application


async def received(receive: Any) -> bytes:
    """All of a body, as frameworks read it."""
    pieces = []
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        pieces.append(event["body"])
        more = event["more_body"]
    return b"".join(pieces)
