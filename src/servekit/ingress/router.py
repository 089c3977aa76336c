"""Where requests enter an ingress worker: each finds its endpoint, gets its id and its deadline, and is dispatched.

Everything here is plain calls on one event loop: the HTTP connection calls `handle`, a link's frame ends in a method of
the `Exchange`, and no task or future stands between them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from servekit.config import nearest
from servekit.http1.request import HttpRequest
from servekit.ingress import refusals
from servekit.ingress.backend import Backend
from servekit.ingress.bodies import Upload, when_due
from servekit.ingress.builtin import Builtin
from servekit.ingress.counters import Counters
from servekit.ingress.deadlines import Deadlines
from servekit.ingress.dispatcher import Dispatcher
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange, HandleExchange
from servekit.ingress.refusals import Refused
from servekit.ingress.spool import SpoolSpace
from servekit.interfaces import RequestRecord, path_of
from servekit.routes import RESERVED, RouteTable

_LONGEST_ID = 128


class Router:
    """The routing of one ingress worker. It is the `HttpApp` of its listener."""

    new_request = Exchange

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spools: SpoolSpace,
        observe: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        """``spools``: the room for what is to wait on the disk."""
        self.endpoints: dict[str, Endpoint] = {}
        self.backends: dict[str, Backend] = {}
        self.routes: RouteTable[Endpoint] = RouteTable()
        self.builtin = Builtin(self.endpoints)
        self.counters = Counters()
        self.observe = observe
        """Told of every request that has ended."""
        self.spools = spools
        self.dispatcher = Dispatcher(self.endpoints, self.backends, self.counters, loop.time)
        self.deadlines = Deadlines(loop)
        self._now = loop.time
        # Ids are unique per worker and readable beside each other: a random prefix and a count.
        self._id_prefix = os.urandom(6).hex() + "-"
        self._ids = 0

    def close(self) -> None:
        self.deadlines.close()
        for endpoint in self.endpoints.values():
            endpoint.policy.close()

    def handle(self, request: HttpRequest) -> None:
        """A request has arrived over HTTP, whole or with the first part of its body."""
        assert type(request) is Exchange
        exchange = request
        self._begin(exchange, exchange.fields.get(b"x-request-id"))
        endpoint = self.routes.exact.get(exchange.path)
        exchange.view_args = None
        if endpoint is None:
            found = self.routes.find(exchange.path)
            if found is None:
                exchange.owner = _NOWHERE
                exchange.refuse(self._unrouted(exchange))
                return
            endpoint, exchange.view_args = found
        exchange.owner = endpoint
        methods = endpoint.methods
        if methods is not None:
            if exchange.method not in methods:
                exchange.refuse(refusals.wrong_method(exchange.method, endpoint.allow))
                return
            if exchange.method == "OPTIONS" and "OPTIONS" not in endpoint.entry.methods:
                exchange.refuse(refusals.options(endpoint.allow))
                return
        named = exchange.fields.get(b"x-serve-call-method")
        exchange.call_method = None if named is None else named.decode("latin-1")
        self._admit(exchange, endpoint.timeout_s)

    def handle_call(self, exchange: HandleExchange, endpoint_name: str, request_id: bytes) -> None:
        """A handle's call has arrived, whole or with the first part of its arguments.

        The caller has set ``connection``, ``body``, ``incoming``, ``call_method``, ``chain``, ``own_timeout_s`` and
        ``limit_s``.
        """
        self._begin(exchange, request_id)
        exchange.dress()
        endpoint = self.endpoints.get(endpoint_name)
        if endpoint is None:
            exchange.owner, exchange.path = _NOWHERE, "/"
            exchange.refuse(refusals.no_endpoint(endpoint_name, nearest(endpoint_name, self.endpoints)))
            return
        exchange.owner, exchange.path = endpoint, endpoint.route_text or "/"
        self._admit(exchange, exchange.timeout_s)

    def abandoned(self, request: HttpRequest) -> None:
        """The client went away."""
        assert isinstance(request, Exchange)
        request.abandoned()

    def writable(self, request: HttpRequest) -> None:
        """The client reads again."""
        assert isinstance(request, Exchange)
        if request.answer_rest is not None:
            request.answer_rest.client_reads()

    def _begin(self, exchange: Exchange, request_id: bytes | None) -> None:
        exchange.router = self
        exchange.target = exchange.replica = exchange.queue = None
        exchange.upload = exchange.download = exchange.answer_rest = None
        incoming = exchange.incoming
        exchange.body_rest = None if incoming is None else Upload(incoming, exchange.connection)
        exchange.tries = 0
        exchange.expires = 0.0
        # An id that is too long, or would not be safe in a log line, is replaced.
        text = request_id.decode("latin-1") if request_id and len(request_id) <= _LONGEST_ID else ""
        if text.isascii() and text.isprintable() and text:
            exchange.id = text
        else:
            self._ids += 1
            exchange.id = f"{self._id_prefix}{self._ids}"

    def _admit(self, exchange: Exchange, timeout_s: float) -> None:
        """Its deadline runs; it is dispatched once its body is there, or enough of it."""
        exchange.expires = expires = self._now() + timeout_s
        deadlines = self.deadlines
        deadlines.open.add(exchange)
        if expires < deadlines.earliest:
            deadlines.plan(expires)
        if exchange.incoming is None or exchange.upgrade:  # What follows a tunnel's head is no body that would end.
            self.dispatcher.dispatch(exchange)
        else:
            when_due(exchange.incoming, lambda: self.dispatcher.dispatch(exchange))

    def _unrouted(self, exchange: Exchange) -> Refused:
        if exchange.path.startswith(RESERVED):
            return self.builtin.answer(exchange.method, exchange.path)
        target = self.routes.redirect(exchange.path)
        if target is not None:
            # What was sent: text may have lost bytes, and an escaped slash.
            path = target if exchange.sent_target is None else path_of(exchange.sent_target) + b"/"
            query = exchange.query.decode("latin-1")
            return refusals.moved(self.builtin.quoted(path) + (f"?{query}" if query else ""))
        return refusals.no_route(exchange.path)


class _Nowhere:
    """Stands for the endpoint of a request that has none."""

    name = ""
    watches = False


_NOWHERE: Any = _Nowhere()
