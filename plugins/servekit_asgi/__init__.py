"""The request adapter ``asgi``: whole applications that speak ASGI 3 (FastAPI, Starlette, …), WebSockets included.

Discovering this plugin imports no asyncio server and no wsproto: the replicas alone need them.
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
        factory: the target, called without arguments, makes the application, once in each replica.
        lifespan: ``auto``: an application that raises on the scope ``lifespan`` does without; ``on``: it must not;
            ``off``: it is not asked.
        ws_ping_interval_s: how often a WebSocket's client is sent a ping. One from which nothing comes until the next
            is due is taken for gone. None: no pings.
        ws_max_message_bytes: the longest message taken from a WebSocket; one that is longer closes it (1009).

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
