"""One HTTP request on its way through the ingress worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from servekit.http1.request import HttpRequest
from servekit.interfaces import Request
from servekit.wire.frames import extended

if TYPE_CHECKING:
    from servekit.ingress.backend import Target
    from servekit.ingress.bodies import Download, Upload
    from servekit.ingress.endpoint import Endpoint
    from servekit.ingress.replica import Replica


class Exchange(HttpRequest):
    """A request with what routing knows of it. It is the `RequestInfo` that policies are handed."""

    __slots__ = (
        "bucket",
        "call_method",
        "download",
        "expires",
        "id",
        "number",
        "owner",
        "queue",
        "replica",
        "target",
        "tries",
        "upload",
        "view_args",
    )

    chain: ClassVar[tuple[str, ...] | None] = None
    """Of a handle's call, the replicas whose handlers wait for it, outermost first. See `HandleExchange`."""
    id: str
    owner: Endpoint
    view_args: dict[str, Any] | None
    call_method: str | None
    expires: float
    """The deadline, in the loop's time."""
    bucket: set[Any] | None
    """Where `Deadlines` keeps it."""
    target: Target | None
    """The chosen backend."""
    replica: Replica | None
    """Where its call is, or was last."""
    number: int
    """The id of that call."""
    tries: int
    """How often its call was sent."""
    queue: OrderedDict[Exchange, None] | None
    """Where it waits, while no replica has room."""
    upload: Upload | None
    """The rest of its body, when that is long."""
    download: Download | None
    """The rest of its answer's body, once that has begun in pieces."""

    @property
    def timeout_s(self) -> float:
        """How long it may take."""
        return self.owner.timeout_s

    @property
    def endpoint(self) -> str:
        return self.owner.name

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}

    def request(self) -> Request:
        """What a replica is sent."""
        owner = self.owner
        view_args = self.view_args
        if view_args:
            view_args = {key: extended(value) for key, value in view_args.items()}
        request = Request(
            self.method,
            self.path,
            self.query,
            self.raw_headers,
            self.body,
            owner.name,
            owner.route_text,
            self.id,
            self.connection.client,
            view_args,
            self.call_method,
            owner.mount,
        )
        if self.sent_target is not None:
            request.sent_target = self.sent_target
        return request


class HandleExchange(Exchange):
    """A handle's call: routed as a request, and sent to a replica with pickled arguments for a body."""

    __slots__ = ("chain", "limit_s", "own_timeout_s")

    chain: tuple[str, ...]  # type: ignore[misc]  # a slot here, so that a request over HTTP need not have one
    own_timeout_s: float | None
    """None: the endpoint's."""
    limit_s: float | None
    """What remains to the handler that calls."""

    def dress(self) -> None:
        """Fill in what a request over HTTP has, for policies, observers and adapters. ``id`` is set."""
        self.method, self.query, self.version = "POST", b"", "1.1"
        self.sent_target = None
        self.raw_headers = [(b"x-request-id", self.id.encode())]
        self.fields = dict(self.raw_headers)
        self.view_args = None
        self.keep_alive, self.done, self.received_at = True, False, monotonic()

    @property
    def timeout_s(self) -> float:
        timeout_s = self.owner.timeout_s if self.own_timeout_s is None else self.own_timeout_s
        return timeout_s if self.limit_s is None else min(timeout_s, self.limit_s)

    def request(self) -> Request:
        request = super().request()
        request.chain = self.chain
        return request
