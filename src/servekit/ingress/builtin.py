"""What every instance answers below ``/-/``, and of itself for its endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias
from urllib.parse import quote

import msgspec

from servekit.error_answers import JSON, TEXT, ErrorAnswer
from servekit.ingress import refusals
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange
from servekit.ingress.openapi import Document

_ALLOWED = "GET, HEAD, OPTIONS"
_READY_OF = "/-/readyz/"

Whole: TypeAlias = "tuple[int, bytes, bytes]"
"""Status, head, body."""

_OK: Whole = (200, TEXT, b"ok\n")


class Builtin:
    """``/-/routes``, ``/-/openapi.json``, and the probes ``/-/livez``, ``/-/readyz`` and ``/-/healthz``."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints
        described = Document(endpoints)
        self.ready = False
        """Whether this worker wants traffic: it has a snapshot, and is not ending."""
        self._answers: dict[str, Callable[[], Whole | ErrorAnswer]] = {
            "/-/routes": lambda: (200, JSON, msgspec.json.encode(self._routes())),
            "/-/livez": lambda: _OK,
            "/-/readyz": lambda: self._readiness(self._endpoints.values()),
            "/-/healthz": lambda: self._readiness(self._endpoints.values()),  # the name that it had before
            "/-/openapi.json": lambda: (200, JSON, described.encoded()),
        }

    def answer(self, exchange: Exchange) -> None:
        """Answer a request to a path below ``/-/``."""
        answer = self._answers.get(exchange.path) or self._probe_of(exchange.path)
        if answer is None:
            exchange.refuse(refusals.no_route(exchange.path))
        elif exchange.method == "OPTIONS":
            exchange.finish(*options(_ALLOWED))
        elif exchange.method not in ("GET", "HEAD"):
            exchange.refuse(refusals.wrong_method(exchange.method, _ALLOWED))
        else:
            found = answer()
            if isinstance(found, ErrorAnswer):
                exchange.refuse(found)
            else:
                exchange.finish(*found)

    def _probe_of(self, path: str) -> Callable[[], Whole | ErrorAnswer] | None:
        """The probe of one endpoint, ``/-/readyz/ENDPOINT``."""
        endpoint = self._endpoints.get(path.removeprefix(_READY_OF)) if path.startswith(_READY_OF) else None
        return None if endpoint is None else lambda: self._readiness([endpoint])

    def _readiness(self, endpoints: Iterable[Endpoint]) -> Whole | ErrorAnswer:
        """Whether requests to these endpoints are wanted here: where not, what is missing.

        Only that no backend with a share of an endpoint's traffic can serve makes the endpoint not ready: then every
        request fails. The replicas of a roll-out come and go, and one that died has others beside it.
        """
        if not self.ready:
            return refusals.not_ready("this instance is starting, or is being shut down")
        missing = [f"endpoint {endpoint.name!r}: {why}" for endpoint in endpoints if (why := endpoint.missing)]
        return refusals.not_ready("; ".join(missing) + ".") if missing else _OK

    def _routes(self) -> dict[str, tuple[str, list[str]]]:
        return {
            endpoint.route: (endpoint.name, list(endpoint.entry.methods) or ["*"])
            for endpoint in self._endpoints.values()
            if endpoint.route is not None
        }


def options(allow: str) -> Whole:
    """What an endpoint answers to OPTIONS, where its handler does not."""
    return 200, TEXT + f"allow: {allow}\r\n".encode(), b""


SERVER_OPTIONS: Whole = 200, TEXT, b""
"""The answer to ``OPTIONS *``, which asks about the server and no resource of its (RFC 9110, 9.3.7)."""


def moved(path: str | bytes, query: str) -> Whole:
    """The way to a route with a slash at its end. ``path``: as bytes it may have escapes."""
    kept = "/:@!$&'()*+,;=~-._" if isinstance(path, str) else "/:@!$&'()*+,;=~-._%"
    location = quote(path, safe=kept) + (f"?{query}" if query else "")
    return 308, TEXT + f"location: {location}\r\n".encode(), f"Permanent Redirect: {location}\n".encode()
