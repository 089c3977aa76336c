"""What every instance answers below ``/-/``."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from servekit.http1.responses import TEXT
from servekit.ingress import refusals
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.refusals import Refused

_JSON = b"content-type: application/json\r\n"


class Builtin:
    """``/-/routes`` and ``/-/healthz``."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self.ready = False
        """Whether this worker wants traffic: it has a snapshot, and is not ending."""

    def answer(self, method: str, path: str) -> Refused:
        if path not in ("/-/routes", "/-/healthz"):
            return refusals.no_route(path)
        if method == "OPTIONS":
            return refusals.options("GET, HEAD, OPTIONS")
        if method not in ("GET", "HEAD"):
            return refusals.wrong_method(method, "GET, HEAD, OPTIONS")
        if path == "/-/routes":
            return 200, _JSON, msgspec.json.encode(self._routes())
        return (200, TEXT, b"ok\n") if self.ready else (503, TEXT, b"not ready\n")

    def _routes(self) -> dict[str, tuple[str, list[str]]]:
        return {
            endpoint.route: (endpoint.name, list(endpoint.entry.methods) or ["*"])
            for endpoint in self._endpoints.values()
            if endpoint.route is not None
        }

    @staticmethod
    def quoted(path: str | bytes) -> str:
        """``path`` as a Location header may carry it; as bytes it may have escapes."""
        return quote(path, safe="/:@!$&'()*+,;=~-._" if isinstance(path, str) else "/:@!$&'()*+,;=~-._%")
