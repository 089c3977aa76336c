"""Requests that proxies have passed on: where a listener trusts any, it has these in the place of its router's own."""

from __future__ import annotations

from collections.abc import Iterable

from servekit.http1.checks import is_host
from servekit.http1.proxies import client_of, nearest_of, trust, values
from servekit.http1.request import HttpRequest
from servekit.ingress.exchange import Exchange
from servekit.ingress.router import Router
from servekit.interfaces import Request

FOR, PROTO, HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}


class ForwardedExchange(Exchange):
    """A request that a proxy may have passed on."""

    __slots__ = ("client", "scheme")

    client: str
    scheme: str  # type: ignore[misc]  # a slot here, as ``client``

    def request(self) -> Request:
        request = super().request()
        request.client, request.scheme = self.client, self.scheme
        return request


class BehindProxies:
    """The `HttpApp` of a listener that trusts proxies: reads what they say, and hands requests on to the router."""

    new_request = ForwardedExchange

    def __init__(self, router: Router, proxies: Iterable[str]) -> None:
        self._router = router
        self._is_trusted = trust(proxies)

    def handle(self, request: HttpRequest) -> None:
        assert type(request) is ForwardedExchange
        request.client, request.scheme = request.connection.client, "http"
        if self._is_trusted(request.client):
            self._believe(request)
        self._router.handle(request)

    def _believe(self, request: ForwardedExchange) -> None:
        headers = request.raw_headers
        request.client, hops = client_of(values(headers, FOR), request.client, self._is_trusted)
        request.scheme = _SCHEMES.get(nearest_of(values(headers, PROTO), hops).lower(), "http")
        host = nearest_of(values(headers, HOST), hops)
        if host and is_host(host):
            request.raw_headers = [(b"host", host), *(header for header in headers if header[0] != b"host")]
            request.fields[b"host"] = host
