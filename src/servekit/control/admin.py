"""The admin API over HTTP: ``POST /v1/OPERATION``, or ``GET`` for those without arguments; JSON comes back.

It listens on a Unix socket (mode 0600, in a directory of mode 0700), and on request on loopback TCP. Both ask for the
instance's token; but every other path is the dashboard's, which has sessions. The Host must be this machine, against
DNS rebinding; and no page of another origin is answered, which the browser tells by Origin, or where it sends none by
Sec-Fetch-Site.
"""

from __future__ import annotations

import hmac
import logging

import msgspec

from servekit.control.operations import Operations
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

_log = logging.getLogger("servekit.control")

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "servekit"})
_OWN_SITE = (b"", b"none", b"same-origin")
"""What Sec-Fetch-Site is for a client that is no browser, an address that its user typed, and a page of ours."""
PREFIX = "/v1/"
Refusal = tuple[int, bytes, bytes]
"""Status, head, body."""


class AdminApp:
    """The `HttpApp` of the admin listeners."""

    new_request = HttpRequest

    def __init__(self, operations: Operations, token: bytes, pages: HttpApp) -> None:
        """``pages``: answers what is not below `PREFIX`; it asks who the client is by itself."""
        self._operations = operations
        self._pages = pages
        self._authorization = b"Bearer " + token.hex().encode()
        self._tasks = TaskSet()

    def handle(self, request: HttpRequest) -> None:
        refused = _refused(request) or self._refused_operation(request)
        if refused is not None:
            request.respond(*refused)
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

    async def _answer(self, request: HttpRequest) -> None:
        name = request.path.removeprefix(PREFIX)
        as_json = request.fields.get(b"content-type", b"").startswith(b"application/json")
        body = request.body
        if not body:
            as_json, body = True, b"{}"
        try:
            who = request.fields.get(b"x-servekit-client", b"").decode("latin-1")[:200]
            result = await self._operations.call(name, body, json=as_json, who=who)
        except ServekitError as error:
            request.respond(404 if isinstance(error, NotFoundError) else 400, JSON, _error(error))
        except Exception as error:
            _log.exception("operation %s failed", name)
            request.respond(500, JSON, _error(InternalError(f"{type(error).__name__}: {error}")))
        else:
            request.respond(200, JSON, result)

    def _refused_operation(self, request: HttpRequest) -> Refusal | None:
        if not request.path.startswith(PREFIX):
            return None
        if not hmac.compare_digest(request.fields.get(b"authorization", b""), self._authorization):
            error = AuthenticationError("the instance's token is missing or wrong")
            return 401, b"www-authenticate: Bearer\r\n" + JSON, _error(error)
        if request.method not in ("POST", "GET"):
            return 405, b"allow: GET, POST\r\n" + JSON, _error(InvalidInputError("use GET or POST"))
        return None


def _refused(request: HttpRequest) -> Refusal | None:
    """The answer to a request that comes from where none is answered."""
    fields = request.fields
    host = fields.get(b"host", b"").decode("latin-1")
    if host.rpartition(":")[0] not in _LOCAL_HOSTS and host not in _LOCAL_HOSTS:
        return 403, JSON, _error(ForbiddenError(f"the admin API does not answer for the host {host!r}"))
    origin = fields.get(b"origin", b"").decode("latin-1")
    of_own = origin in ("", f"http://{host}") and fields.get(b"sec-fetch-site", b"") in _OWN_SITE
    if not of_own and not _is_visit(request):
        return 403, JSON, _error(ForbiddenError(f"the admin API does not answer to pages of {origin or 'others'}"))
    return None


def _is_visit(request: HttpRequest) -> bool:
    """Whether the user goes to the dashboard, by a link on another page say. The page itself holds nothing secret."""
    fields = request.fields
    is_page = fields.get(b"sec-fetch-mode") == b"navigate" and fields.get(b"sec-fetch-dest") == b"document"
    return is_page and request.method == "GET" and request.path == "/"


def _error(error: ServekitError) -> bytes:
    return msgspec.json.encode({"error": type(error).__name__, "message": str(error)})
