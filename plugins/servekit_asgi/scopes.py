"""The scope of a request or a WebSocket, as the ASGI specification has it (3.0; HTTP and WebSocket 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from servekit.interfaces import Request

VERSIONS = {"version": "3.0", "spec_version": "2.4"}


def http_scope(request: Request, state: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "http", "method": request.method, "scheme": "http", **_common(request, state)}


def websocket_scope(request: Request, state: Mapping[str, Any]) -> dict[str, Any]:
    offered = request.header("sec-websocket-protocol") or ""
    subprotocols = [name.strip() for name in offered.split(",") if name.strip()]
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    common = _common(request, state)
    return {"type": "websocket", "scheme": "ws", "subprotocols": subprotocols, "extensions": extensions, **common}


def _common(request: Request, state: Mapping[str, Any]) -> dict[str, Any]:
    """``path`` and ``raw_path`` are all of it, ``root_path`` is the prefix at which the application is mounted."""
    return {
        "asgi": VERSIONS.copy(),
        "http_version": "1.1",
        "path": request.path,
        "raw_path": request.raw_path,
        "root_path": request.route.rstrip("/") if request.mount else "",
        "query_string": request.query_string,
        "headers": request.headers,
        "client": (request.client, 0) if request.client else None,  # Its port does not travel.
        "server": _server_of(request.header("host") or ""),
        "state": dict(state),
    }


@lru_cache(maxsize=256)
def _server_of(host: str) -> tuple[str, int] | None:
    """Name and port in a Host header."""
    name, _, port = host.rpartition(":")
    if name and port.isdecimal() and len(port) <= 5:
        return name, int(port)
    return (host.rstrip(":"), 80) if host else None
