"""One HTTP request to an ASGI application, and its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from servekit.interfaces import Request, Response
from servekit_asgi.answer_body import AnswerBody, ClientGoneError

_log = logging.getLogger("servekit.asgi")

GONE_GRACE_S = 0.5
"""The time after which an application is cancelled that goes on with an answer nobody waits for."""

_DISCONNECT = {"type": "http.disconnect"}


class HttpCall:
    """One call of the application, with its `receive` and `send`. ``answer`` is set once the application has begun the
    body of its answer.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._head_only = request.method == "HEAD"
        self._pieces = request.pieces()
        self._body_over = False
        self._status = 0
        """0 until the application has sent ``http.response.start``."""
        self._headers: list[tuple[str, str]] = []
        self._answer_body = AnswerBody(0, self._body_closed)  # 0: `send` returns once the piece was read.
        self._complete = False
        self._over = asyncio.Event()
        """Set when the answer is complete or has no reader: from then on `receive` returns ``http.disconnect``."""
        self._task: asyncio.Task[None] | None = None
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def begin(self, application: Any, scope: dict[str, Any]) -> asyncio.Task[None]:
        """Call the application in a task. An exception of the application becomes the answer, or breaks it off."""
        self._task = asyncio.ensure_future(self._run(application, scope))
        return self._task

    async def abandon(self) -> None:
        """Tell the application that its answer has no reader, and cancel it where it does not end."""
        self._answer_body.close()
        self._over.set()
        if self._task is not None:
            await end_within(self._task, GONE_GRACE_S)

    async def _body_closed(self) -> None:
        """Called when the core reads no more of the body. An answer to HEAD is never read, and may end."""
        try:
            if self._head_only and not self._complete:
                await asyncio.wait_for(self._over.wait(), GONE_GRACE_S)
        except asyncio.TimeoutError:
            pass
        finally:
            if not self._complete:
                await self.abandon()

    async def _run(self, application: Any, scope: dict[str, Any]) -> None:
        try:
            await application(scope, self.receive, self.send)
        except ClientGoneError:
            _log.debug("request %s: the client was gone", self._request.id)
        except asyncio.CancelledError as error:
            self._failed(RuntimeError("the application was cancelled before it had answered"), error)
        except BaseException as error:
            self._failed(error)
        else:
            if not self._complete:
                said = "ended its answer before the last of its body" if self.answer.done() else "sent no answer"
                self._failed(RuntimeError(f"the application returned, but {said} (http.response.body)"))

    def _failed(self, error: BaseException, cause: BaseException | None = None) -> None:
        error.__cause__ = cause or error.__cause__
        if self._answer_body.gone.is_set() and not self._complete:
            _log.debug("request %s was given up: %r", self._request.id, error)
        elif not self.answer.done():
            self.answer.set_exception(error)
        elif not self._complete:
            self._answer_body.end(error)
        elif cause is None:
            _log.error("after its answer to request %s the application failed", self._request.id, exc_info=error)

    # -- what the application calls ---------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        if not self._body_over and not self._over.is_set():
            try:
                return {"type": "http.request", "body": await self._pieces.__anext__(), "more_body": True}
            except StopAsyncIteration:
                self._body_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            except ConnectionError:
                self._body_over = True
                self._over.set()
        else:
            await self._over.wait()
        return _DISCONNECT.copy()

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._status:
                raise RuntimeError("the application sent http.response.start a second time")
            self._status, self._headers = message["status"], text_headers(message.get("headers", ()))
        elif kind == "http.response.body":
            if not self._status:
                raise RuntimeError("the application sent http.response.body before http.response.start")
            if self._complete:
                raise RuntimeError("the application sent http.response.body after the last of its body")
            await self._send_body(bytes(message.get("body", b"")), message.get("more_body", False))
        else:
            raise RuntimeError(f"the application sent {kind!r}, which is no message of an HTTP answer")

    async def _send_body(self, body: bytes, more: bool) -> None:
        if self._answer_body.gone.is_set():
            raise ClientGoneError
        if not more:
            self._complete = True
        if not self.answer.done():
            self.answer.set_result(Response(self._status, self._headers, self._first_body(body, more)))
        elif not self._head_only and (body or more):
            self._answer_body.write(body)
        if not more:
            self._answer_body.end()
            self._over.set()
        else:
            await (asyncio.sleep(0) if self._head_only else self._answer_body.room())

    def _first_body(self, body: bytes, more: bool) -> bytes | AnswerBody:
        """The body of the response: bytes, where the application has sent the whole body as one piece."""
        if self._head_only:
            if not more:
                promised = any(name.lower() == "content-length" for name, _ in self._headers)
                return b"" if promised else body
            nothing = AnswerBody(0, self._body_closed)
            nothing.end()
            return nothing
        if more:
            self._answer_body.write(body)
            return self._answer_body
        return body


def text_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]


async def end_within(task: asyncio.Task[None], grace_s: float) -> None:
    """Let ``task`` end by itself; after ``grace_s`` seconds cancel it, and wait as long again."""
    try:
        await asyncio.wait([task], timeout=grace_s)
    finally:
        task.cancel()
    await asyncio.wait([task], timeout=grace_s)
