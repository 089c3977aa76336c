"""The admin API over HTTP: ``POST /v1/OPERATION``, or ``GET`` for those without arguments; JSON comes back.

On a Unix socket (mode 0600, in a directory of mode 0700), and on request on loopback TCP. Either way the instance's
token is asked for; on TCP the Host must be this machine, against DNS rebinding.
"""

from __future__ import annotations

import hmac
import logging

import msgspec

from servekit.control.operations import Operations
from servekit.errors import InternalError, NotFoundError, ServekitError
from servekit.http1.request import HttpRequest, gather
from servekit.tasks import TaskSet

_log = logging.getLogger("servekit.control")

_JSON = b"content-type: application/json\r\n"
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "servekit"})
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

    def writable(self, request: HttpRequest) -> None:
        """No answer here goes out in pieces."""

    def _begin(self, request: HttpRequest) -> None:
        self._tasks.spawn(self._answer(request))

    def abandoned(self, request: HttpRequest) -> None:
        """A change that has begun is made to its end, whoever waits for it."""

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
            result = await self._operations.call(name, body, json=as_json)
        except ServekitError as error:
            request.respond(404 if isinstance(error, NotFoundError) else 400, _JSON, _error(error))
        except Exception as error:
            _log.exception("operation %s failed", name)
            request.respond(500, _JSON, _error(InternalError(f"{type(error).__name__}: {error}")))
        else:
            request.respond(200, _JSON, result)

    def _refused(self, request: HttpRequest) -> tuple[int, bytes, bytes] | None:
        given = request.fields.get(b"authorization", b"")
        if not hmac.compare_digest(given, self._authorization):
            return 401, b"www-authenticate: Bearer\r\n" + _JSON, _message("the instance's token is missing or wrong")
        host = request.fields.get(b"host", b"").decode("latin-1")
        if host.rpartition(":")[0] not in _LOCAL_HOSTS and host not in _LOCAL_HOSTS:
            return 403, _JSON, _message(f"the admin API does not answer for the host {host!r}")
        if not request.path.startswith(PREFIX):
            return 404, _JSON, _message(f"operations are below {PREFIX}")
        if request.method not in ("POST", "GET"):
            return 405, b"allow: GET, POST\r\n" + _JSON, _message("use GET or POST")
        return None


def _error(error: ServekitError) -> bytes:
    return msgspec.json.encode({"error": type(error).__name__, "message": str(error)})


def _message(text: str) -> bytes:
    return msgspec.json.encode({"error": "AuthenticationError", "message": text})
