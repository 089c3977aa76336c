"""The scope of a request or a WebSocket, as the ASGI specification has it (3.0; HTTP and WebSocket 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from servekit.interfaces import Request

VERSIONS = {"version": "3.0", "spec_version": "2.4"}


def http_scope(request: Request, state: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "http", "method": request.method, "scheme": request.scheme, **_common(request, state)}


def websocket_scope(request: Request, state: Mapping[str, Any]) -> dict[str, Any]:
    offered = request.header("sec-websocket-protocol") or ""
    subprotocols = [name.strip() for name in offered.split(",") if name.strip()]
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    common = _common(request, state)
    scheme = "wss" if request.scheme == "https" else "ws"
    return {"type": "websocket", "scheme": scheme, "subprotocols": subprotocols, "extensions": extensions, **common}


def _common(request: Request, state: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that both scopes have. ``path`` and ``raw_path`` are the whole path, ``root_path`` included."""
    return {
        "asgi": VERSIONS.copy(),
        "http_version": "1.1",
        "path": request.path,
        "raw_path": request.raw_path,
        "root_path": request.route.rstrip("/") if request.mount else "",
        "query_string": request.query_string,
        "headers": _safe(request.headers),
        "client": (request.client, 0) if request.client else None,  # The core does not pass on the client's port.
        "server": _server_of(request.header("host") or "", 443 if request.scheme == "https" else 80),
        "state": dict(state),
    }


def _safe(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without those that an application may take for others, as Django does, or a bridge to WSGI: names with an
    underscore (``x_user`` for ``x-user``), and ``Proxy``, which becomes ``HTTP_PROXY`` (CVE-2016-5385)."""
    return [header for header in headers if b"_" not in header[0] and header[0] != b"proxy"]


@lru_cache(maxsize=256)
def _server_of(host: str, default_port: int) -> tuple[str, int] | None:
    """Name and port in a Host header."""
    name, _, port = host.rpartition(":")
    if name and port.isdecimal() and len(port) <= 5:
        return name, int(port)
    return (host.rstrip(":"), default_port) if host else None
