"""The request adapter ``asgi``: whole applications that speak ASGI 3 (FastAPI, Starlette, …), WebSockets included.

The modules that replicas alone need are imported by `create_adapter`, so that discovering the plugin imports none.
"""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import RequestAdapter, RequestAdapterFactory

PING_INTERVAL_S = 20.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024


def create_adapter(
    *,
    factory: bool = False,
    lifespan: str = "auto",
    ws_ping_interval_s: float | None = PING_INTERVAL_S,
    ws_max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> RequestAdapter:
    """The adapter ``asgi``: the target is an ASGI 3 application.

    Args:
        factory: the target is a function without arguments that makes the application; it is called once in each
            replica.
        lifespan: ``auto``: an application that raises on the scope ``lifespan`` is served without a lifespan; ``on``:
            such an application is an error; ``off``: the application is not called with that scope.
        ws_ping_interval_s: the seconds between two pings to a WebSocket's client. A client from which nothing comes
            between two pings is taken for gone. None: no pings.
        ws_max_message_bytes: the longest message that a WebSocket's client may send; a longer message closes the
            WebSocket (1009).

    Raises:
        ValueError: for an option that makes no sense.
    """
    from servekit_asgi.adapter import AsgiAdapter
    from servekit_asgi.websocket_call import SocketOptions

    sockets = SocketOptions(ws_ping_interval_s, ws_max_message_bytes)
    return AsgiAdapter(factory=factory, lifespan=lifespan, sockets=sockets)


@hookimpl
def servekit_register_request_adapters() -> Mapping[str, RequestAdapterFactory]:
    return {"asgi": create_adapter}
