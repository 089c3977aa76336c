"""An open WebSocket: its two directions as frames (RFC 6455, by wsproto). Imports wsproto, which is an extra."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import generate_accept_token

from servekit_asgi.answer_body import AnswerBody
from servekit_asgi.event_queue import EventQueue

CLOSE_TIMEOUT_S = 5.0
"""The time that a client may take to answer a close frame."""


def accept_token(key: bytes) -> str:
    """The value of ``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key``."""
    return generate_accept_token(key).decode("ascii")


class OpenSocket:
    """Reads the client's frames into ``events``, and writes frames for the client into ``answer_body``."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        events: EventQueue,
        answer_body: AnswerBody,
        *,
        ping_interval_s: float | None,
        max_message_bytes: int,
    ) -> None:
        self._pieces = pieces
        self._events = events
        self._answer_body = answer_body
        self._ping_interval_s = ping_interval_s
        self._max_message_bytes = max_message_bytes
        self._connection = Connection(ConnectionType.SERVER)
        self._parts: list[Any] = []
        """The fragments so far of a message: all are str, or all are bytes."""
        self._size = 0
        self._heard = True
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._reading = asyncio.ensure_future(self._read())
        if ping_interval_s is not None:
            self._timer = self._loop.call_later(ping_interval_s, self._tick)

    @property
    def is_open(self) -> bool:
        """True while messages can be sent."""
        return self._connection.state is ConnectionState.OPEN and not self._over

    async def send(self, data: str | bytes) -> None:
        """Send a message, and return when there is room for the next. To be called only while `is_open`."""
        self._write(TextMessage(data) if isinstance(data, str) else BytesMessage(data))
        await self._answer_body.room()

    def close(self, code: int, reason: str, error: BaseException | None = None) -> None:
        """Send a close frame. ``error`` is the exception that broke the WebSocket off, for the core to log."""
        if not self.is_open:
            return
        self._error = error
        self._write(CloseConnection(code, reason or None))
        self._events.disconnect(code, reason)
        self._after(CLOSE_TIMEOUT_S, self.end)

    def end(self) -> None:
        """End reading and writing at once."""
        self._over = True
        self._events.disconnect()
        if self._timer is not None:
            self._timer.cancel()
        self._reading.cancel()
        self._answer_body.end(self._error)

    # -- from the client --------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            async for data in self._pieces:
                self._heard = True
                self._connection.receive_data(data)
                for event in self._connection.events():
                    await self._received(event)
                if self._connection.state in (ConnectionState.CLOSED, ConnectionState.REMOTE_CLOSING):
                    break
            if self.is_open:  # The client has ended its stream without a close frame; or the ingress worker leaves.
                self._events.disconnect()
                self._write(CloseConnection(1012, "service restart"))
        except ConnectionError:
            pass  # The client is gone, or nobody waits: `end` tells the application.
        finally:
            self.end()

    async def _received(self, event: Event) -> None:
        if isinstance(event, (TextMessage, BytesMessage)):
            await self._message_came(event)
        elif isinstance(event, Ping):
            if self.is_open:
                self._write(event.response())
                if self._answer_body.is_full:
                    await self._answer_body.room()
        elif isinstance(event, CloseConnection):
            if self._connection.state is ConnectionState.REMOTE_CLOSING:
                self._write(event.response())
                self._events.disconnect(event.code, event.reason or "")
            else:  # What came was no frame, and this is wsproto's word for it.
                self.close(event.code, event.reason or "")
                self.end()

    async def _message_came(self, event: TextMessage | BytesMessage) -> None:
        if self._connection.state is not ConnectionState.OPEN:
            return
        data: Any = event.data
        self._parts.append(data)
        self._size += len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
        if self._size > self._max_message_bytes:
            self._parts.clear()
            self.close(1009, f"a message is longer than {self._max_message_bytes} bytes")
        elif event.message_finished:
            parts, size, self._parts, self._size = self._parts, self._size, [], 0
            whole = parts[0] if len(parts) == 1 else data[:0].join(parts)
            text, raw = (whole, None) if isinstance(whole, str) else (None, bytes(whole))
            await self._events.put({"type": "websocket.receive", "text": text, "bytes": raw}, size)

    # -- to the client -----------------------------------------------------------------------------------------------

    def _write(self, event: Event) -> None:
        self._answer_body.write(self._connection.send(event))

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, call)

    def _tick(self) -> None:
        """Send a ping, or end a WebSocket whose client has sent nothing since the last ping.

        A client is not ended while its frames are not read because ``events`` is full, nor while it has yet to read
        what it was sent: the core limits that time.
        """
        assert self._ping_interval_s is not None
        if not self._heard and not self._events.is_full and not self._answer_body.is_full:
            self._write(CloseConnection(1011, "no pong came in time"))
            self.end()
            return
        self._heard = False
        if not self._answer_body.is_full:
            self._write(Ping())
        self._after(self._ping_interval_s, self._tick)
