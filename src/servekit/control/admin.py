"""The admin API over HTTP: ``POST /v1/OPERATION``, or ``GET`` for those without arguments; JSON comes back. And
``GET /metrics``, for Prometheus.

It listens on a Unix socket (mode 0600, in a directory of mode 0700), and on request on TCP. Both ask for the instance's
token; for what changes nothing the read-only one will do. Every other path is the dashboard's, which has sessions. The
Host must be this machine, against DNS rebinding; and no page of another origin is answered, which the browser tells by
Origin, or where it sends none by Sec-Fetch-Site.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket

import msgspec

from servekit.control.metrics import Metrics
from servekit.control.operations import READ_ONLY, Operations
from servekit.error_answers import JSON
from servekit.errors import (
    AuthenticationError,
    ForbiddenError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    ServekitError,
)
from servekit.http1.request import HttpApp, HttpRequest, gather
from servekit.tasks import TaskSet
from servekit.tokens import read_only

_log = logging.getLogger("servekit.control")

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "servekit"})
_OWN_SITE = (b"", b"none", b"same-origin")
"""What Sec-Fetch-Site is for a client that is no browser, an address that its user typed, and a page of ours."""
_ANY_HOST = frozenset({"0.0.0.0", "::"})
PREFIX = "/v1/"
METRICS = "/metrics"
Refusal = tuple[int, bytes, bytes]
"""Status, head, body."""


class AdminApp:
    """The `HttpApp` of the admin listeners."""

    new_request = HttpRequest

    def __init__(
        self,
        operations: Operations,
        token: bytes,
        metrics: Metrics,
        pages: HttpApp,
        *,
        open_metrics: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        """
        Args:
            pages: answers all but operations and metrics, and asks by itself who the client is.
            open_metrics: the metrics are for all, and need no token.
            host: where the TCP listener is.
        """
        self._operations = operations
        self._metrics = metrics
        self._pages = pages
        self._open_metrics = open_metrics
        self._hosts = _hosts(host)
        self._any_address = host in _ANY_HOST
        self._token = token.hex().encode()
        self._read_token = read_only(token).hex().encode()
        self._tasks = TaskSet()

    def handle(self, request: HttpRequest) -> None:
        refused = self._refused(request)
        if refused is not None:
            request.respond(*refused)
        elif request.path == METRICS:
            self._tasks.spawn(self._scrape(request))
        elif request.path.startswith(PREFIX):
            gather(request, self._begin)
        else:
            self._pages.handle(request)

    def _begin(self, request: HttpRequest) -> None:
        # A change that has begun is made to its end, also where its client is gone by then.
        self._tasks.spawn(self._answer(request))

    async def close(self) -> None:
        """Cancel the operations that are under way."""
        await self._tasks.close()

    async def _scrape(self, request: HttpRequest) -> None:
        try:
            text, content_type = await self._metrics.scraped(request.fields.get(b"accept", b"").decode("latin-1"))
        except Exception as error:
            _log.exception("the metrics could not be told")
            request.respond(500, JSON, _error(InternalError(f"{type(error).__name__}: {error}")))
        else:
            request.respond(200, b"content-type: %b\r\n" % content_type.encode("latin-1"), text)

    async def _answer(self, request: HttpRequest) -> None:
        name = request.path.removeprefix(PREFIX)
        as_json = request.fields.get(b"content-type", b"").startswith(b"application/json")
        body = request.body
        if not body:
            as_json, body = True, b"{}"
        try:
            who = request.fields.get(b"x-servekit-client", b"").decode("latin-1")[:200]
            reads_only = not self._has_token(request)
            result = await self._operations.call(name, body, json=as_json, who=who, reads_only=reads_only)
        except ServekitError as error:
            request.respond(404 if isinstance(error, NotFoundError) else 400, JSON, _error(error))
        except Exception as error:
            _log.exception("operation %s failed", name)
            request.respond(500, JSON, _error(InternalError(f"{type(error).__name__}: {error}")))
        else:
            request.respond(200, JSON, result)

    def _refused(self, request: HttpRequest) -> Refusal | None:
        fields, path = request.fields, request.path
        host = fields.get(b"host", b"").decode("latin-1")
        if not self._is_own(host):
            return 403, JSON, _error(ForbiddenError(f"the admin API does not answer for the host {host!r}"))
        origin = fields.get(b"origin", b"").decode("latin-1")
        of_own = origin in ("", f"http://{host}") and fields.get(b"sec-fetch-site", b"") in _OWN_SITE
        if not of_own and not _is_visit(request):
            return 403, JSON, _error(ForbiddenError(f"the admin API does not answer to pages of {origin or 'others'}"))
        return self._refused_by_token(request) if path == METRICS or path.startswith(PREFIX) else None

    def _refused_by_token(self, request: HttpRequest) -> Refusal | None:
        path = request.path
        may_all, may_read = self._has_token(request), self._has_read_token(request)
        if not (may_all or may_read or (self._open_metrics and path == METRICS)):
            error = AuthenticationError("the instance's token is missing or wrong")
            return 401, b"www-authenticate: Bearer\r\n" + JSON, _error(error)
        if path == METRICS:
            if request.method != "GET":
                return 405, b"allow: GET\r\n" + JSON, _error(InvalidInputError("use GET"))
            return None
        if request.method not in ("POST", "GET"):
            return 405, b"allow: GET, POST\r\n" + JSON, _error(InvalidInputError("use GET or POST"))
        if not may_all and path.removeprefix(PREFIX) not in READ_ONLY:
            message = (
                f"the read-only token opens {METRICS} and {', '.join(sorted(READ_ONLY))}; this takes the other one"
            )
            return 403, JSON, _error(ForbiddenError(message))
        return None

    def _has_token(self, request: HttpRequest) -> bool:
        return hmac.compare_digest(_given_token(request), self._token)

    def _has_read_token(self, request: HttpRequest) -> bool:
        return hmac.compare_digest(_given_token(request), self._read_token)

    def _is_own(self, host: str) -> bool:
        """Whether a Host names this machine, or an address of it: a name that is rebound is no address."""
        name, _, port = host.rpartition(":")
        names = (host, name) if port.isdigit() else (host,)
        if any(each in self._hosts for each in names):
            return True
        return self._any_address and any(_is_address(each.strip("[]")) for each in names)


def _given_token(request: HttpRequest) -> bytes:
    """Empty: none was given. The scheme's case does not count (RFC 9110, 11.1)."""
    scheme, _, token = request.fields.get(b"authorization", b"").partition(b" ")
    return token.lstrip(b" ") if scheme.lower() == b"bearer" else b""


def _hosts(host: str) -> frozenset[str]:
    """What a Host may be, without its port, where the listener is at ``host``."""
    if host in _ANY_HOST:
        return _LOCAL_HOSTS | {socket.gethostname(), socket.getfqdn()}
    return _LOCAL_HOSTS | {f"[{host}]" if ":" in host else host}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_visit(request: HttpRequest) -> bool:
    """Whether the user goes to the dashboard, by a link on another page say. The page itself holds nothing secret."""
    fields = request.fields
    is_page = fields.get(b"sec-fetch-mode") == b"navigate" and fields.get(b"sec-fetch-dest") == b"document"
    return is_page and request.method == "GET" and request.path == "/"


def _error(error: ServekitError) -> bytes:
    return msgspec.json.encode({"error": type(error).__name__, "message": str(error)})
