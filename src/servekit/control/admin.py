"""The admin API over HTTP: ``POST /v1/OPERATION``, or ``GET`` for those without arguments; JSON comes back.

It listens on a Unix socket (mode 0600, in a directory of mode 0700), and on request on loopback TCP. Both ask for the
instance's token. The Host must be this machine, against DNS rebinding; and no page of another origin is answered, which
the browser tells by Origin, or where it sends none by Sec-Fetch-Site.
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
from servekit.http1.request import HttpRequest, gather
from servekit.tasks import TaskSet

_log = logging.getLogger("servekit.control")

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "servekit"})
_OWN_SITE = (b"", b"none", b"same-origin")
"""What Sec-Fetch-Site is for a client that is no browser, an address that its user typed, and a page of ours."""
PREFIX = "/v1/"


class AdminApp:
    """The `HttpApp` of the admin listeners."""

    new_request = HttpRequest

    def __init__(self, operations: Operations, token: bytes) -> None:
        self._operations = operations
        self._authorization = b"Bearer " + token.hex().encode()
        self._tasks = TaskSet()

    def handle(self, request: HttpRequest) -> None:
        refused = self._refused(request)
        if refused is not None:
            request.respond(*refused)
        else:
            gather(request, self._begin)

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

    def _refused(self, request: HttpRequest) -> tuple[int, bytes, bytes] | None:
        fields = request.fields
        if not hmac.compare_digest(fields.get(b"authorization", b""), self._authorization):
            error: ServekitError = AuthenticationError("the instance's token is missing or wrong")
            return 401, b"www-authenticate: Bearer\r\n" + JSON, _error(error)
        host = fields.get(b"host", b"").decode("latin-1")
        if host.rpartition(":")[0] not in _LOCAL_HOSTS and host not in _LOCAL_HOSTS:
            return 403, JSON, _error(ForbiddenError(f"the admin API does not answer for the host {host!r}"))
        origin = fields.get(b"origin", b"").decode("latin-1")
        if origin not in ("", f"http://{host}") or fields.get(b"sec-fetch-site", b"") not in _OWN_SITE:
            return 403, JSON, _error(ForbiddenError(f"the admin API does not answer to pages of {origin or 'others'}"))
        if not request.path.startswith(PREFIX):
            return 404, JSON, _error(NotFoundError(f"operations are below {PREFIX}"))
        if request.method not in ("POST", "GET"):
            return 405, b"allow: GET, POST\r\n" + JSON, _error(InvalidInputError("use GET or POST"))
        return None


def _error(error: ServekitError) -> bytes:
    return msgspec.json.encode({"error": type(error).__name__, "message": str(error)})
