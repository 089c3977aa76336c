"""A request's way through an ingress worker: in by its route, out to a replica, and back with the answer.

Everything here is plain calls on one event loop: the HTTP parser calls `handle`, a link's frame calls `answered`, and
no task or future stands between them.
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
from servekit.ingress.bodies import Download, Upload
from servekit.ingress.builtin import Builtin
from servekit.ingress.deadlines import Deadlines
from servekit.ingress.dispatcher import Dispatcher
from servekit.ingress.endings import Endings, with_id
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange, HandleExchange
from servekit.ingress.refusals import Refused
from servekit.interfaces import Outcome, RequestRecord, path_of
from servekit.routes import RESERVED, RouteTable
from servekit.wire.data_frames import UNKNOWN, Answer
from servekit.wire.link import Link

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110, 9.2.2: these may be sent once more when a replica dies with them."""
_MOST_TRIES = 2
_LONGEST_ID = 128


class Router:
    """The routing of one ingress worker. It is the `HttpApp` of its listener."""

    new_request = Exchange

    def __init__(self, loop: asyncio.AbstractEventLoop, observe: Callable[[RequestRecord], None] | None = None) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.backends: dict[str, Backend] = {}
        self.routes: RouteTable[Endpoint] = RouteTable()
        self.builtin = Builtin(self.endpoints)
        self._endings = Endings(self.endpoints, observe)
        self.counters = self._endings.counters
        self.dispatcher = Dispatcher(self.endpoints, self.backends, self._endings, loop.time)
        self._now = loop.time
        self._deadlines = Deadlines(loop, self._expired)
        # Ids are unique per worker and readable beside each other: a random prefix and a count.
        self._id_prefix = os.urandom(6).hex() + "-"
        self._ids = 0

    def close(self) -> None:
        self._deadlines.close()
        for endpoint in self.endpoints.values():
            endpoint.policy.close()

    # -- from clients -----------------------------------------------------------------------------------------

    def handle(self, request: HttpRequest) -> None:
        """A request has arrived over HTTP, whole or with the first part of its body."""
        assert type(request) is Exchange
        exchange = request
        self._begin(exchange, exchange.fields.get(b"x-request-id"))
        found = self.routes.find(exchange.path)
        if found is None:
            exchange.owner = _NOWHERE
            self._endings.refuse(exchange, self._unrouted(exchange))
            return
        endpoint, exchange.view_args = found
        exchange.owner = endpoint
        methods = endpoint.methods
        if methods is not None and exchange.method not in methods:
            self._endings.refuse(exchange, refusals.wrong_method(exchange.method, endpoint.allow))
            return
        if methods is not None and exchange.method == "OPTIONS" and "OPTIONS" not in endpoint.entry.methods:
            self._endings.refuse(exchange, refusals.options(endpoint.allow))
            return
        named = exchange.fields.get(b"x-serve-call-method")
        exchange.call_method = None if named is None else named.decode("latin-1")
        self._admit(exchange, endpoint.timeout_s, at_once=bool(exchange.upgrade))

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
            known = nearest(endpoint_name, self.endpoints)
            self._endings.refuse(exchange, refusals.no_endpoint(endpoint_name, known))
            return
        exchange.owner, exchange.path = endpoint, endpoint.route_text or "/"
        self._admit(exchange, exchange.timeout_s)

    def _begin(self, exchange: Exchange, request_id: bytes | None) -> None:
        exchange.id = self._request_id(request_id)
        exchange.bucket = exchange.target = exchange.replica = exchange.queue = exchange.download = None
        exchange.tries = 0
        incoming = exchange.incoming
        exchange.upload = None if incoming is None else Upload(incoming, exchange.connection)

    def _admit(self, exchange: Exchange, timeout_s: float, at_once: bool = False) -> None:
        """Its deadline runs; it is dispatched once its body is there, or enough of it, or ``at_once``."""
        exchange.expires = self._now() + timeout_s
        self._deadlines.add(exchange, exchange.expires)
        if exchange.upload is None or at_once:
            self.dispatcher.dispatch(exchange)
        else:
            exchange.upload.when_due(lambda: self.dispatcher.dispatch(exchange))

    def abandoned(self, request: HttpRequest) -> None:
        """The client went away."""
        assert isinstance(request, Exchange)
        self._endings.settle(request, 499)
        self.dispatcher.unqueue(request)
        if request.replica is not None:
            request.replica.cancel(request)
            self._endings.tell_policy(request, Outcome.ABANDONED)

    def writable(self, request: HttpRequest) -> None:
        """The client reads again."""
        assert isinstance(request, Exchange)
        if request.download is not None:
            request.download.grant()

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

    def _request_id(self, given: bytes | None) -> str:
        # One that is too long, or would not be safe in a log line, is replaced.
        if given and len(given) <= _LONGEST_ID and given.isascii():
            text = given.decode("ascii")
            if text.isprintable():
                return text
        self._ids += 1
        return f"{self._id_prefix}{self._ids}"

    # -- from a replica ------------------------------------------------------------------------------------------

    def answered(self, exchange: Exchange, answer: Answer) -> None:
        """A replica has answered. For one that nobody waits for, only the room counts."""
        if not exchange.done:
            self._endings.finish(exchange, answer.status, answer.head, answer.body)
            self._endings.tell_policy(exchange, Outcome.FAILED if answer.failed else Outcome.ANSWERED)

    def begun(self, exchange: Exchange, answer: Answer, link: Link) -> None:
        """A replica has begun an answer whose body follows in pieces. From here on there is no deadline."""
        if exchange.done:
            return
        Deadlines.discard(exchange)
        first = answer.body
        exchange.download = Download(link, answer.id, answer.status, len(first))
        length = None if answer.rest == UNKNOWN else len(first) + answer.rest
        exchange.begin(answer.status, with_id(exchange, answer.head), length)
        exchange.write(first)

    def continued(self, exchange: Exchange, data: bytes) -> None:
        """The next piece of an answer's body."""
        if not exchange.done and exchange.download is not None:
            exchange.download.passed_on(len(data), exchange.write(data))

    def ended(self, exchange: Exchange, *, complete: bool) -> None:
        """An answer's body is over; or the call is, without an answer that anyone waits for."""
        if not exchange.done and exchange.download is not None:
            self._endings.settle(exchange, exchange.download.status)
            exchange.end(complete=complete)
            self._endings.tell_policy(exchange, Outcome.ANSWERED if complete else Outcome.FAILED)

    def refused(self, exchange: Exchange, reason: str) -> None:
        """A replica did not begin a call."""
        if exchange.done:
            return
        if reason == "draining":
            self._again(exchange, sent=False)
        else:
            self._endings.tell_policy(exchange, Outcome.TIMED_OUT)
            self._endings.refuse(exchange, refusals.too_late(exchange.owner.name, exchange.timeout_s))

    def lost(self, exchange: Exchange, *, sent: bool) -> None:
        """A replica died with a call: once more, where the method allows it or nothing was sent."""
        if exchange.done:
            return
        if exchange.download is None:
            self._again(exchange, sent=sent)
            return
        self._endings.tell_policy(exchange, Outcome.LOST)
        self._endings.settle(exchange, exchange.download.status)
        exchange.end(complete=False)

    def _again(self, exchange: Exchange, *, sent: bool) -> None:
        self._endings.tell_policy(exchange, Outcome.LOST)
        exchange.replica = None
        if not sent:
            exchange.tries -= 1
        kept = exchange.upload is None or exchange.upload.can_start_again
        if kept and (not sent or (exchange.method in IDEMPOTENT and exchange.tries < _MOST_TRIES)):
            self.dispatcher.dispatch(exchange)
        else:
            name = exchange.target.name if exchange.target is not None else ""
            self._endings.refuse(exchange, refusals.replica_died(name))

    # -- the deadline --------------------------------------------------------------------------------------------------

    def _expired(self, item: Any) -> None:
        exchange: Exchange = item
        if exchange.done:
            return
        self.dispatcher.unqueue(exchange)
        if exchange.replica is not None:
            exchange.replica.cancel(exchange)
            self._endings.tell_policy(exchange, Outcome.TIMED_OUT)
        self._endings.refuse(exchange, refusals.too_late(exchange.owner.name, exchange.timeout_s))


class _Nowhere:
    """Stands for the endpoint of a request that has none."""

    name = ""


_NOWHERE: Any = _Nowhere()
