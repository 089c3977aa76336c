"""One WebSocket of an ASGI application, from the handshake to the end."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servekit.interfaces import Request, Response
from servekit_asgi.answer_body import AnswerBody, ClientGoneError
from servekit_asgi.event_queue import EventQueue
from servekit_asgi.http_call import GONE_GRACE_S, end_within, text_headers

if TYPE_CHECKING:
    from servekit_asgi.open_socket import OpenSocket

_log = logging.getLogger("servekit.asgi")

SEND_BUFFER_BYTES = 64 * 1024
"""`send` waits while more than so many bytes are not read by the core."""


@dataclass(frozen=True)
class SocketOptions:
    """The options of WebSockets: see `servekit_asgi.create_adapter`."""

    ping_interval_s: float | None
    max_message_bytes: int

    def __post_init__(self) -> None:
        if self.ping_interval_s is not None and not self.ping_interval_s > 0:
            raise ValueError(f"ws_ping_interval_s is above 0, or None for no pings; not {self.ping_interval_s!r}")
        if self.max_message_bytes < 1:
            raise ValueError(f"ws_max_message_bytes is at least 1, not {self.max_message_bytes!r}")


class WebSocketCall:
    """One call of the application, with its `receive` and `send`. ``answer`` is a refusal, or a 101 whose body has the
    frames for the client.
    """

    def __init__(self, request: Request, options: SocketOptions) -> None:
        self._request = request
        self._options = options
        self._events = EventQueue()
        self._answer_body = AnswerBody(SEND_BUFFER_BYTES, self._body_closed)
        self._socket: OpenSocket | None = None
        self._connect_sent = False
        self._closed = False
        """True once the application has closed the WebSocket, or has sent the last piece of a refusal."""
        self._refusal: tuple[int, list[tuple[str, str]]] | None = None
        self._task: asyncio.Task[None] | None = None
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def begin(self, application: Any, scope: dict[str, Any]) -> asyncio.Task[None]:
        """Call the application in a task. Raises ``RuntimeError`` where wsproto is not installed."""
        _import_open_socket()
        self._task = asyncio.ensure_future(self._run(application, scope))
        return self._task

    async def abandon(self) -> None:
        """Called when nobody waits for the answer, before the answer has begun."""
        await self._body_closed()
        if self._task is not None:
            await end_within(self._task, GONE_GRACE_S)

    def go_away(self) -> None:
        """Close an open WebSocket since the replica ends, so that the client connects to another replica."""
        if self._socket is not None:
            self._socket.close(1012, "service restart")

    async def _body_closed(self) -> None:
        """Called when the core reads no more of the answer: the connection is over, and `receive` and `send` say so."""
        self._answer_body.close()
        self._events.disconnect()
        if self._socket is not None:
            self._socket.end()

    async def _run(self, application: Any, scope: dict[str, Any]) -> None:
        error: BaseException | None = None
        try:
            await application(scope, self.receive, self.send)
        except ClientGoneError:
            _log.debug("WebSocket %s: the client was gone", self._request.id)
        except asyncio.CancelledError:
            error = RuntimeError("the application was cancelled while it had a WebSocket open")
        except BaseException as raised:
            error = raised
        self._application_ended(error)

    def _application_ended(self, error: BaseException | None) -> None:
        if self._socket is not None and self._socket.is_open:
            code, reason = (1000, "") if error is None else (1011, "internal error")
            self._socket.close(code, reason, error)
        elif not self.answer.done():
            self.answer.set_exception(
                error or RuntimeError("the application returned, but neither accepted the WebSocket nor refused it")
            )
        elif self._socket is None and not self._closed:
            self._answer_body.end(error or RuntimeError("the application returned within the body of its refusal"))
        elif error is not None:
            _log.debug("after WebSocket %s was over, the application ended by", self._request.id, exc_info=error)

    # -- what the application calls ---------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        if not self._connect_sent:
            self._connect_sent = True
            return {"type": "websocket.connect"}
        return await self._events.get()

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._closed:
            raise RuntimeError(f"the application sent {kind!r} after it had closed the WebSocket")
        if self._socket is not None:
            await self._send_open(kind, message)
        elif self._answer_body.gone.is_set():
            raise ClientGoneError
        elif kind == "websocket.accept" and self._refusal is None:
            self._accept(message)
        elif kind == "websocket.close" and self._refusal is None:
            self._closed = True
            self._events.disconnect()
            self.answer.set_result(Response(403, [("Content-Type", "text/plain")], b"Forbidden\n"))
        elif kind == "websocket.http.response.start" and self._refusal is None:
            self._refusal = message["status"], text_headers(message.get("headers", ()))
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            await self._send_refusal(bytes(message.get("body", b"")), message.get("more_body", False))
        else:
            raise RuntimeError(f"the application sent {kind!r}, for which the WebSocket's handshake has no place")

    async def _send_open(self, kind: str, message: dict[str, Any]) -> None:
        assert self._socket is not None
        if kind == "websocket.close":
            self._closed = True
            code = message.get("code")
            self._socket.close(1000 if code is None else code, message.get("reason") or "")
        elif kind != "websocket.send":
            raise RuntimeError(f"the application sent {kind!r} on an open WebSocket")
        elif not self._socket.is_open:
            raise ClientGoneError
        else:
            text: Any = message.get("text")
            data = message.get("bytes")
            if (text is None) == (data is None):
                raise RuntimeError("websocket.send has either text or bytes")
            await self._socket.send(text if data is None else bytes(data))

    def _accept(self, message: dict[str, Any]) -> None:
        open_socket = _import_open_socket()
        headers = [("Sec-WebSocket-Accept", open_socket.accept_token(_key_of(self._request)))]
        if message.get("subprotocol"):
            headers.append(("Sec-WebSocket-Protocol", message["subprotocol"]))
        headers += text_headers(message.get("headers") or ())
        self._socket = open_socket.OpenSocket(
            self._request.pieces(),
            self._events,
            self._answer_body,
            ping_interval_s=self._options.ping_interval_s,
            max_message_bytes=self._options.max_message_bytes,
        )
        self._answer_body.write(b"")  # The head is to go out now, not with the first message.
        self.answer.set_result(Response(101, headers, self._answer_body))

    async def _send_refusal(self, body: bytes, more: bool) -> None:
        assert self._refusal is not None
        self._closed = not more
        if not self.answer.done():
            self.answer.set_result(Response(*self._refusal, self._answer_body if more else body))
        self._answer_body.write(body)
        if more:
            await self._answer_body.room()
        else:
            self._answer_body.end()


def _key_of(request: Request) -> bytes:
    return (request.header("sec-websocket-key") or "").encode("latin-1")


def _import_open_socket() -> Any:
    """The module that needs wsproto; raises ``RuntimeError`` where that is not installed."""
    try:
        from servekit_asgi import open_socket
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("wsproto", "h11"):
            raise
        raise RuntimeError("WebSockets need wsproto, which is not installed: pip install 'servekit[asgi]'") from error
    return open_socket
