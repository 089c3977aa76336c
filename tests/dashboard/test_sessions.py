from __future__ import annotations

import pytest

from servekit.dashboard import sessions as module
from servekit.dashboard.sessions import Session, Sessions
from servekit.errors import AuthenticationError, UnavailableError

TOKEN, READ_TOKEN = b"t" * 32, b"r" * 32


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(TOKEN, READ_TOKEN, clock)


def fields(sessions: Sessions, session: Session) -> dict[bytes, bytes]:
    """The headers of its requests."""
    cookie = f"other=1; {sessions.cookie}={sessions.cookie_of(session)}".encode()
    return {b"cookie": cookie, b"x-servekit-page": sessions.key_of(session).encode()}


def test_either_token_begins_one_and_the_instances_may_change(sessions: Sessions) -> None:
    assert sessions.begin(TOKEN.hex()).may_change
    assert sessions.begin(f" {TOKEN.hex()}\n").may_change
    assert not sessions.begin(READ_TOKEN.hex()).may_change
    assert sessions.begin(TOKEN.hex()).id != sessions.begin(TOKEN.hex()).id


@pytest.mark.parametrize("token", ["", "00", TOKEN.hex().upper() + "x", "\ud800", "é", TOKEN.hex()[:-1]])
def test_another_does_not(sessions: Sessions, token: str) -> None:
    with pytest.raises(AuthenticationError, match="no token of this instance"):
        sessions.begin(token)


def test_it_is_found_by_its_cookie_and_the_key_of_its_page(sessions: Sessions) -> None:
    session = sessions.begin(READ_TOKEN.hex())
    found = sessions.find(fields(sessions, session))
    assert (found.id, found.may_change) == (session.id, False)


def test_the_cookie_has_no_token_in_it_and_nothing_of_it_can_be_changed(sessions: Sessions) -> None:
    session = sessions.begin(READ_TOKEN.hex())
    cookie = sessions.cookie_of(session)
    assert READ_TOKEN.hex() not in cookie
    key = sessions.key_of(session).encode()
    forged = [
        cookie.replace("read.", "change."),
        cookie.replace(f".{int(session.ends)}.", f".{int(session.ends) + 9}."),
        cookie[:-1],
        "",
        "...",
        "change.9999999999.x.",
        "é.1.1.1",
    ]
    for each in forged:
        with pytest.raises(AuthenticationError, match="log in first"):
            sessions.find({b"cookie": f"{sessions.cookie}={each}".encode(), b"x-servekit-page": key})


def test_the_cookie_alone_is_not_enough_nor_is_the_key_of_another(sessions: Sessions) -> None:
    """Other ports of the host get the cookie too."""
    session, other = sessions.begin(TOKEN.hex()), sessions.begin(TOKEN.hex())
    headers = fields(sessions, session)
    for key in (b"", sessions.key_of(other).encode(), sessions.cookie_of(session).encode()):
        with pytest.raises(AuthenticationError, match="key of its page"):
            sessions.find({**headers, b"x-servekit-page": key})


def test_it_ends_by_itself_and_by_logging_out(sessions: Sessions, clock: Clock) -> None:
    first, second = sessions.begin(TOKEN.hex()), sessions.begin(TOKEN.hex())
    sessions.end(first)
    assert (sessions.has_ended(first), sessions.has_ended(second)) == (True, False)
    with pytest.raises(AuthenticationError, match="has ended"):
        sessions.find(fields(sessions, first))
    sessions.find(fields(sessions, second))
    clock.now += module.SESSION_S + 1
    assert sessions.has_ended(second)
    with pytest.raises(AuthenticationError, match="has ended"):
        sessions.find(fields(sessions, second))


def test_it_outlives_the_controller_and_not_the_instance(sessions: Sessions, clock: Clock) -> None:
    session = sessions.begin(TOKEN.hex())
    headers = fields(sessions, session)
    again = Sessions(TOKEN, READ_TOKEN, clock)
    assert again.cookie == sessions.cookie
    assert again.find(headers).id == session.id
    another = Sessions(b"u" * 32, READ_TOKEN, clock)
    assert another.cookie != sessions.cookie
    with pytest.raises(AuthenticationError):
        another.find(
            {**headers, b"cookie": headers[b"cookie"].replace(sessions.cookie.encode(), another.cookie.encode())}
        )


def test_wrong_tokens_are_told_to_wait_and_a_right_one_is_taken(sessions: Sessions, clock: Clock) -> None:
    for _ in range(module.MOST_WRONG):
        with pytest.raises(AuthenticationError):
            sessions.begin("wrong")
    with pytest.raises(UnavailableError, match="wait a minute"):
        sessions.begin("wrong")
    assert sessions.begin(TOKEN.hex()).may_change
    assert not sessions.begin(READ_TOKEN.hex()).may_change
    clock.now += module.WRONG_S
    with pytest.raises(AuthenticationError):
        sessions.begin("wrong")


def test_what_is_remembered_of_sessions_that_ended_is_bounded(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ENDED", 2)
    ended = [sessions.begin(TOKEN.hex()) for _ in range(3)]
    for session in ended:
        sessions.end(session)
    assert [sessions.has_ended(session) for session in ended] == [False, True, True]
