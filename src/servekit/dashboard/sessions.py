"""Who may see the page, and who may change something: sessions of browsers, each begun by a token.

Nothing is kept of a session. What the browser has of it is signed with a key that is derived from the instance's token:
so a session outlives the controller, as the instance does, and ends with the instance. It has two parts, both of which
each request must bring. The cookie is kept from scripts; but a browser sends it to every port of the host, to other
users' servers say. The page's key is in a header, from a storage that only pages of this very port can read.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from servekit.errors import AuthenticationError, UnavailableError

SESSION_S = 12 * 3600.0
MOST_WRONG = 20
"""Wrong tokens in `WRONG_S`; those beyond them are told to wait. A right one is always taken: else whoever sends wrong
ones would lock others out."""
WRONG_S = 60.0
MOST_ENDED = 1000
"""Sessions that were logged out of and are remembered; of more, the oldest are forgotten."""
KEY_HEADER = b"x-servekit-page"


class Session(msgspec.Struct, frozen=True):
    """One browser that has logged in."""

    id: str
    may_change: bool
    """Whether it was begun by the instance's token, and not by the one that only reads."""
    ends: float
    """By ``time.time()``."""


class Sessions:
    """Begins, recognizes and ends the sessions of one instance."""

    def __init__(self, token: bytes, read_token: bytes, now: Callable[[], float] = time.time) -> None:
        self._tokens = [(token.hex().encode(), True), (read_token.hex().encode(), False)]
        self._secret = _signed(token, "sessions of the dashboard").encode()
        self._now = now
        self._wrong: deque[float] = deque(maxlen=MOST_WRONG)
        """When the last wrong tokens came."""
        self._ended: dict[str, None] = {}
        self.cookie = f"servekit-{_signed(self._secret, 'name of the cookie')[:8]}"
        """Its name: browsers have one set of cookies for all ports of a host, so each instance has another."""

    def begin(self, token: str) -> Session:
        """Raises `AuthenticationError`, and `UnavailableError` after too many of those."""
        now = self._now()
        given = token.strip().encode(errors="replace")
        found = [may_change for known, may_change in self._tokens if hmac.compare_digest(given, known)]
        if not found:
            self._count_wrong(now)
            raise AuthenticationError("that is no token of this instance; `servekit dashboard` prints a link to log in")
        return Session(secrets.token_hex(16), found[0], now + SESSION_S)

    def _count_wrong(self, now: float) -> None:
        if len(self._wrong) == MOST_WRONG and now < self._wrong[0] + WRONG_S:
            raise UnavailableError(f"{MOST_WRONG} wrong tokens came within {WRONG_S:g} s; wait a minute")
        self._wrong.append(now)

    def cookie_of(self, session: Session) -> str:
        """The cookie's value. It does not have the token in it, nor tells anything of it."""
        told = f"{'change' if session.may_change else 'read'}.{int(session.ends)}.{session.id}"
        return f"{told}.{_signed(self._secret, told)}"

    def key_of(self, session: Session) -> str:
        """What the page sends in a header, with each request."""
        return _signed(self._secret, f"page of {session.id}")

    def find(self, fields: Mapping[bytes, bytes]) -> Session:
        """The session of a request with these headers. Raises `AuthenticationError`."""
        session = self._of_cookie(_cookies(fields.get(b"cookie", b"")).get(self.cookie, ""))
        if session is None or session.id in self._ended or session.ends < self._now():
            raise AuthenticationError("log in first: there is no session, or it has ended")
        if not hmac.compare_digest(fields.get(KEY_HEADER, b""), self.key_of(session).encode()):
            raise AuthenticationError("log in first: the request lacks the key of its page")
        return session

    def _of_cookie(self, cookie: str) -> Session | None:
        told, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), _signed(self._secret, told).encode()):
            return None
        role, ends, id_ = told.split(".")
        return Session(id_, role == "change", float(ends))

    def end(self, session: Session) -> None:
        self._ended[session.id] = None
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    def has_ended(self, session: Session) -> bool:
        return session.id in self._ended or session.ends < self._now()


def _signed(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _cookies(header: bytes) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in header.decode("latin-1").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}
