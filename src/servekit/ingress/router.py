"""Where requests enter an ingress worker: each finds its endpoint, gets its id and its deadline, and is dispatched.

Everything here is plain calls on one event loop: the HTTP connection calls `handle`, a link's frame ends in a method of
the `Exchange`, and no task or future stands between them.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

from servekit.config import nearest
from servekit.http1.request import HttpRequest
from servekit.ingress import builtin, refusals
from servekit.ingress.backend import Backend
from servekit.ingress.bodies import Upload, when_due
from servekit.ingress.builtin import Builtin
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange, HandleExchange
from servekit.ingress.shared import Shared
from servekit.interfaces import path_of
from servekit.routes import RESERVED, RouteTable
from servekit.traces import SIDE, TRACEPARENT, TRACESTATE
from servekit.wire.data_frames import Invoke

_is_id = re.compile(rb"[!-Z\\^-~]{1,128}").fullmatch
"""An id is a word in a line of the log, where brackets are around it."""


class _Nowhere:
    """Stands for the endpoint of a request that has none."""

    name = route_text = ""
    watches = False
    judged = None
    slow_s = math.inf


_NOWHERE: Any = _Nowhere()


class Router:
    """The routing of one ingress worker. It is the `HttpApp` of its listener."""

    new_request = Exchange

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.endpoints: dict[str, Endpoint] = {}
        self.backends: dict[str, Backend] = {}
        self.builtin = Builtin(self.endpoints)
        self._routes: RouteTable[Endpoint] = RouteTable()
        # Ids are unique per worker and readable beside each other: a random prefix and a count.
        self._id_prefix = os.urandom(6).hex() + "-"
        self._ids = 0

    def add(self, endpoint: Endpoint) -> None:
        """Have requests come to an endpoint."""
        self.endpoints[endpoint.name] = endpoint
        self._routes.add(endpoint)

    def remove(self, endpoint: Endpoint, successor: Endpoint | None = None) -> None:
        """Have no more requests come to an endpoint; those that it has not sent go on to its successor."""
        self._routes.remove(endpoint)
        del self.endpoints[endpoint.name]
        endpoint.remove(successor)

    def close(self) -> None:
        self.shared.deadlines.close()
        for backend in self.backends.values():
            backend.close()
        for endpoint in self.endpoints.values():
            endpoint.policy.close()

    def handle(self, request: HttpRequest) -> None:
        """A request has arrived over HTTP, whole or with the first part of its body."""
        assert isinstance(request, Exchange)
        exchange = request
        fields, share = exchange.fields, self.shared.trace_share
        self._begin(exchange, fields.get(b"x-request-id"))
        if share or TRACEPARENT in fields or TRACESTATE in fields:
            exchange.pass_trace_on(share)
        if SIDE in fields:
            exchange.set_header(SIDE, b"")  # Only what answers a request knows its side.
        endpoint = self._routes.exact.get(exchange.path)
        exchange.view_args = None
        if endpoint is None:
            found = None if exchange.path == "*" else self._routes.find(exchange.path)
            if found is None:
                exchange.owner = _NOWHERE
                self._unrouted(exchange)
                return
            endpoint, exchange.view_args = found
        exchange.owner = endpoint
        methods = endpoint.methods
        if methods is not None:
            if exchange.method not in methods:
                exchange.refuse(refusals.wrong_method(exchange.method, endpoint.allow))
                return
            if exchange.method == "OPTIONS" and "OPTIONS" not in endpoint.entry.methods:
                exchange.finish(*builtin.options(endpoint.allow))
                return
        named = exchange.fields.get(b"x-serve-call-method")
        exchange.call_method = None if named is None else named.decode("latin-1")
        self._admit(exchange, endpoint, endpoint.timeout_s)

    def handle_call(self, exchange: HandleExchange, call: Invoke) -> None:
        """A handle's call has arrived, whole or with the first part of its arguments.

        ``exchange`` has its ``connection``, ``body``, ``incoming``, ``call_method`` and ``chain``.
        """
        self._begin(exchange, call.request_id.encode(errors="replace"))
        exchange.fill_in(call.headers)
        # Of a call within another, that one has decided whether there is a trace.
        share = 0.0 if call.chain else self.shared.trace_share
        if share or call.headers:
            exchange.pass_trace_on(share)
        endpoint = self.endpoints.get(call.endpoint)
        if endpoint is None:
            exchange.owner, exchange.path = _NOWHERE, "/"
            exchange.refuse(refusals.no_endpoint(call.endpoint, nearest(call.endpoint, self.endpoints)))
            return
        exchange.owner, exchange.path = endpoint, endpoint.route_text or "/"
        timeout_s = endpoint.timeout_s if call.timeout_ms is None else call.timeout_ms / 1000
        self._admit(exchange, endpoint, timeout_s if call.limit_ms is None else min(timeout_s, call.limit_ms / 1000))

    def _begin(self, exchange: Exchange, request_id: bytes | None) -> None:
        exchange.shared = self.shared
        exchange.backend = ""
        exchange.replica = exchange.queue = exchange.steps = None
        exchange.upload = exchange.download = exchange.answer_rest = None
        incoming = exchange.incoming
        exchange.body_rest = None if incoming is None else Upload(incoming, exchange.connection)
        exchange.tries = exchange.deaths = exchange.ahead = exchange.queued = 0
        exchange.batch_size = exchange.snapshot = 0
        exchange.digest, exchange.unusual = b"", incoming is not None
        exchange.trace = exchange.parent = exchange.error = ""
        exchange.expires = exchange.sent_at = exchange.began_at = 0.0
        exchange.service_us = -1
        # An id that is too long, or would not be safe in a log line, is replaced.
        if request_id is not None and _is_id(request_id):
            exchange.id = request_id.decode("ascii")
        else:
            self._ids += 1
            exchange.id = f"{self._id_prefix}{self._ids}"

    def _admit(self, exchange: Exchange, endpoint: Endpoint, timeout_s: float) -> None:
        """Have the deadline run, and the request dispatched once its body is there, or enough of it."""
        exchange.timeout_s = timeout_s
        exchange.expires = expires = self.shared.now() + timeout_s
        deadlines = self.shared.deadlines
        deadlines.open.add(exchange)
        if expires < deadlines.earliest:
            deadlines.plan(expires)
        if exchange.incoming is None or exchange.upgrade:  # The body of a tunnel never ends.
            endpoint.dispatch(exchange)
        else:
            when_due(exchange.incoming, lambda: endpoint.dispatch(exchange))

    def _unrouted(self, exchange: Exchange) -> None:
        if exchange.path.startswith(RESERVED):
            self.builtin.answer(exchange)
            return
        if exchange.path == "*":
            exchange.finish(*builtin.SERVER_OPTIONS)
            return
        target = self._routes.redirect(exchange.path)
        if target is not None:
            # The path as it was sent: decoded, it may have lost bytes, and an escaped slash.
            path = target if exchange.sent_target is None else path_of(exchange.sent_target) + b"/"
            query = exchange.query.decode("latin-1")
            exchange.finish(*builtin.moved(path, query))
        else:
            exchange.refuse(refusals.no_route(exchange.path))
