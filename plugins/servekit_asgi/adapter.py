"""The adapter: it starts an application with the replica, calls it once for each request, and stops it at the end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any, NoReturn

from servekit.interfaces import Handler, Request, RequestAdapter, Response
from servekit.tasks import TaskSet
from servekit_asgi.http_call import HttpCall
from servekit_asgi.lifespan import Lifespan
from servekit_asgi.scopes import http_scope, websocket_scope
from servekit_asgi.websocket_call import SocketOptions, WebSocketCall

_log = logging.getLogger("servekit.asgi")

TASKS_TIMEOUT_S = 5.0
"""The time that calls of the application may go on after the last answer, when the replica ends."""


class AsgiAdapter(RequestAdapter):
    """Calls the backend's target as an ASGI 3 application, on the replica's event loop."""

    whole_application = True
    is_async = True
    streams_body = True

    def __init__(self, *, factory: bool, lifespan: str, sockets: SocketOptions) -> None:
        if lifespan not in ("auto", "on", "off"):
            raise ValueError(f"lifespan is 'auto', 'on' or 'off', not {lifespan!r}")
        self._factory = factory
        self._mode = lifespan
        self._socket_options = sockets
        self._application: Any = None
        self._lifespan: Lifespan | None = None
        self._state: dict[str, Any] = {}
        self._tasks = TaskSet()
        self._sockets: set[WebSocketCall] = set()

    async def start(self, handler: Handler) -> None:
        """Make the application, where the target is a factory, and start its lifespan.

        Raises ``TypeError`` where the target is no ASGI 3 application, ``RuntimeError`` where it does not start.
        """
        application: Any = handler() if self._factory else handler
        if self._factory and inspect.isawaitable(application):
            application = await application
        self._application = application
        _check(application)
        if self._mode != "off":
            self._lifespan = Lifespan(application, required=self._mode == "on")
            await self._lifespan.start()
            self._state = self._lifespan.state

    async def stop(self) -> None:
        """Wait for calls of the application that go on after their answers, and end its lifespan."""
        self.drain()
        if not await self._tasks.wait(TASKS_TIMEOUT_S):
            late = len(self._tasks)
            _log.warning("%d calls of the application went on after its last answer, and were cancelled", late)
            self._tasks.cancel()
            await self._tasks.wait(TASKS_TIMEOUT_S)
        if self._lifespan is not None:
            await self._lifespan.stop()

    def drain(self) -> None:
        """Close all WebSockets (1012, service restart): the replica leaves, and a WebSocket has no end of its own."""
        for socket in list(self._sockets):
            socket.go_away()

    async def call_async(self, handler: Handler, request: Request) -> Response:
        application = handler if self._application is None else self._application
        call: HttpCall | WebSocketCall
        if request.upgrade:
            call = WebSocketCall(request, self._socket_options)
            task = call.begin(application, websocket_scope(request, self._state))
            self._sockets.add(call)
            task.add_done_callback(lambda _: self._sockets.discard(call))
        else:
            call = HttpCall(request)
            task = call.begin(application, http_scope(request, self._state))
        self._tasks.hold(task)
        try:
            return await call.answer
        except asyncio.CancelledError:
            await call.abandon()
            raise

    # -- methods that are never called for a whole application -------------------------------------------------------

    def decode(self, request: Request) -> dict[str, Any]:
        return http_scope(request, self._state)

    def encode(self, result: Any) -> NoReturn:
        raise TypeError("an ASGI application answers by `send`, so the adapter has `call_async` alone")

    def call(self, handler: Handler, request: Request) -> NoReturn:
        raise TypeError("an ASGI application is called on an event loop, so the adapter has `call_async` alone")


def _check(application: Any) -> None:
    """Raise ``TypeError`` where ``application`` cannot be called with ``scope``, ``receive`` and ``send``."""
    name = f"{type(application).__module__}.{type(application).__qualname__}"
    if not callable(application):
        raise TypeError(f"the factory made an object of {name}, which cannot be called and so is no application")
    try:
        inspect.signature(application).bind({}, None, None)
    except TypeError as error:
        raise TypeError(
            f"{application!r} is no ASGI 3 application: it cannot be called with scope, receive and send ({error}). "
            'A WSGI application takes adapter="wsgi"; one for ASGI 2 is to be wrapped, by '
            "asgiref.compatibility.guarantee_single_callable"
        ) from None
    except ValueError:
        return  # A callable without a signature: the first call shows whether it is an application.
