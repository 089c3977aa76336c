"""What the dashboard answers: the page and its files, sessions, the stream, and calls of operations.

The admin listener hands its requests over once it has looked at where they come from (Host, Origin, Sec-Fetch-Site).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

import msgspec

from servekit.dashboard.assets import Assets
from servekit.dashboard.sampler import AdminApi, Sampler
from servekit.dashboard.sessions import SESSION_S, Session, Sessions
from servekit.error_answers import JSON
from servekit.errors import (
    AuthenticationError,
    ForbiddenError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    ServekitError,
    UnavailableError,
)
from servekit.http1.request import HttpRequest, gather
from servekit.tasks import TaskSet

_log = logging.getLogger("servekit.control")

READS = frozenset({"status", "stat", "recent", "events", "failures", "history", "export", "log_tail"})
CHANGES = frozenset({"set_traffic", "rollback", "restart_backend", "cancel_deploy"})
"""Nothing that brings code into the instance: whoever gets hold of a session cannot run any."""
WHO = "dashboard"
MOST_BODY_BYTES = 64 * 1024
_POLICY = b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
_SAFE = (
    b"content-security-policy: %b\r\n"
    b"cross-origin-opener-policy: same-origin\r\n"
    b"cross-origin-resource-policy: same-origin\r\n"
    b"referrer-policy: no-referrer\r\n"
    b"x-content-type-options: nosniff\r\n"
    b"x-frame-options: DENY\r\n"
) % _POLICY
_STATUSES: dict[type[ServekitError], int] = {
    AuthenticationError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    UnavailableError: 429,
    InternalError: 500,
}
_DATA = JSON + b"cache-control: no-store\r\n"


class LogIn(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to log in."""

    token: str


class Dashboard:
    """An `HttpApp` for the paths of the page."""

    new_request = HttpRequest

    def __init__(self, operations: AdminApi, token: bytes, read_token: bytes, reads: Collection[str]) -> None:
        """``reads``: the operations that a session may ask which was begun by ``read_token``."""
        self._operations = operations
        self._reads = reads
        self._sessions = Sessions(token, read_token)
        self._sampler = Sampler(operations, self._sessions)
        self._assets = Assets()
        self._tasks = TaskSet()
        self._gets: dict[str, Callable[[HttpRequest], None]] = {
            "/session": self._tell,
            "/live": self._stream,
            "/configuration": self._configuration,
        }
        self._posts: dict[str, Callable[[HttpRequest], None]] = {"/login": self._log_in, "/logout": self._log_out}

    async def close(self) -> None:
        """End the streams, and cancel the calls that are under way."""
        await self._sampler.close()
        await self._tasks.close()

    def handle(self, request: HttpRequest) -> None:
        try:
            self._route(request)
        except ServekitError as error:
            _refuse(request, error)

    def _route(self, request: HttpRequest) -> None:
        path, method = request.path, request.method
        if path.startswith("/call/") and method == "POST":
            session = self._session(request)
            self._gathered(request, lambda request: self._begin_call(request, session))
        elif path in self._posts and method == "POST":
            self._gathered(request, self._posts[path])
        elif method not in ("GET", "HEAD"):
            raise InvalidInputError(f"{method} {path}: the page uses GET, and POST for /login, /logout and /call/…")
        elif path in self._gets and method == "GET":
            self._gets[path](request)
        else:
            self._answer_asset(request, "index.html" if path == "/" else path.removeprefix("/static/"))

    # -- files -------------------------------------------------------------------------------------------------------

    def _answer_asset(self, request: HttpRequest, name: str) -> None:
        asset = self._assets.find(name)
        if asset is None:
            raise NotFoundError(f"there is no {request.path} here: the page is at /, operations are below /v1/")
        same = request.fields.get(b"if-none-match", b"") == asset.tag
        request.respond(304 if same else 200, asset.head + _SAFE, b"" if same else asset.content)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _session(self, request: HttpRequest) -> Session:
        return self._sessions.find(request.fields)

    def _tell(self, request: HttpRequest) -> None:
        """Not an error where there is none: browsers write those in their console."""
        try:
            session = self._session(request)
        except AuthenticationError:
            _answer(request, None)
        else:
            _answer(request, {"may_change": session.may_change, "ends": session.ends})

    def _log_in(self, request: HttpRequest) -> None:
        try:
            given = msgspec.json.decode(request.body, type=LogIn)
        except msgspec.MsgspecError as error:
            raise InvalidInputError(f"login: {error}") from None
        session = self._sessions.begin(given.token)
        told = {"key": self._sessions.key_of(session), "may_change": session.may_change, "ends": session.ends}
        _answer(request, told, self._cookie(self._sessions.cookie_of(session), int(SESSION_S)))

    def _log_out(self, request: HttpRequest) -> None:
        self._sessions.end(self._session(request))
        _answer(request, None, self._cookie("", 0))

    def _cookie(self, value: str, age_s: int) -> bytes:
        """A header line. Not ``Secure``: the listener speaks no TLS, and answers pages of its own http origin alone."""
        lasts = f"Max-Age={age_s}; HttpOnly; SameSite=Strict"
        return f"set-cookie: {self._sessions.cookie}={value}; Path=/; {lasts}\r\n".encode()

    # -- what a session may ask --------------------------------------------------------------------------------------

    def _stream(self, request: HttpRequest) -> None:
        self._sampler.add(request, self._session(request))

    def _begin_call(self, request: HttpRequest, session: Session) -> None:
        name = request.path.removeprefix("/call/")
        if name not in READS | CHANGES:
            raise ForbiddenError(f"the dashboard has no use for the operation {name!r}")
        self._check(session, name)
        # A change that has begun is made to its end, also where its page is gone by then.
        self._tasks.spawn(self._told(request, name, self._ask(name, request.body or b"{}", session)))

    def _configuration(self, request: HttpRequest) -> None:
        """What ``servekit export`` writes."""
        session = self._session(request)
        self._check(session, "export")
        self._tasks.spawn(self._told(request, "export", self._export(session)))

    def _check(self, session: Session, name: str) -> None:
        if not session.may_change and name not in self._reads:
            raise ForbiddenError(f"{name} is not for a session of the read-only token: log in by the instance's token")

    async def _export(self, session: Session) -> bytes:
        import tomli_w

        exported, status = [msgspec.json.decode(await self._ask(name, b"{}", session)) for name in ("export", "status")]
        named = {"instance": {"name": status["name"], "runtime": status["runtime"]}}
        return msgspec.json.encode({"toml": tomli_w.dumps({**named, **exported})})

    async def _ask(self, name: str, body: bytes, session: Session) -> bytes:
        reads_only = not session.may_change
        return await self._operations.call(name, body, json=True, who=WHO, reads_only=reads_only)

    async def _told(self, request: HttpRequest, name: str, asking: Awaitable[bytes]) -> None:
        try:
            result = await asking
        except ServekitError as error:
            _refuse(request, error)
        except Exception as error:
            _log.exception("operation %s failed", name)
            _refuse(request, InternalError(f"{type(error).__name__}: {error}"))
        else:
            request.respond(200, _DATA, result)

    def _gathered(self, request: HttpRequest, then: Callable[[HttpRequest], None]) -> None:
        """Call ``then`` with the request once its body is there, which must be short."""
        length = request.fields.get(b"content-length", b"0" if request.incoming is None else b"")
        if not length.isdigit() or int(length) > MOST_BODY_BYTES:
            raise InvalidInputError(f"{request.path} takes a body of {MOST_BODY_BYTES} bytes at the most")

        def take(request: HttpRequest) -> None:
            try:
                then(request)
            except ServekitError as error:
                _refuse(request, error)

        gather(request, take)


def _answer(request: HttpRequest, told: object, lines: bytes = b"") -> None:
    request.respond(200, _DATA + lines, msgspec.json.encode(told))


def _refuse(request: HttpRequest, error: ServekitError) -> None:
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 400)
    lines = b"retry-after: 10\r\n" if status == 429 else b""
    told = {"error": type(error).__name__, "message": str(error)}
    request.respond(status, _DATA + lines, msgspec.json.encode(told))
