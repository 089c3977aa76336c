"""The HTTP front under requests that were damaged: the same in whatever pieces they come, and always an end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile.rfc_cases import CASES, chunked, get, post

from servekit.config import HttpLimits
from servekit.http1.reader import FEED_BYTES, RequestReader
from servekit.http1.request import HttpRequest

LIMITS = HttpLimits(request_line_bytes=100, header_bytes=100, headers_bytes=300, header_count=8, body_bytes=100)
H2C = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
HANDSHAKE = get(
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
SEEDS = [case.sent for case in CASES if 0 < len(case.sent) < FEED_BYTES // 4] + [HANDSHAKE + b"frames"]
PARTS = [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\xff", b"0", b"1", b";", b'"', b"\\", b"%00", b"?", b"#"]
PARTS += [b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"Connection: close\r\n"]
PARTS += [b"GET / HTTP/1.1\r\n", b"0\r\n\r\n", b"1\r\nx\r\n", b"1;a=b\r\n", b"Expect: 100-continue\r\n", b"x" * 150]
FOUND = [
    # What was found, and edges that would take long to be found.
    get(b"X: a\r\n b\r\n")[:30] + b"\r\n" * 3,
    b"GET" + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r" + b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\r\n" + get(),
    b"x" * 102,
    b"GET /" + b"x" * 86 + b" HTTP/1.1\r\n",
    b"GET /" + b"x" * 87 + b" HTTP/1.1\r\n",
    get(b"X: " + b"y" * 97 + b"\r\n") + get(b"X: " + b"y" * 100 + b"\r\n"),
    get(b"X:" + b" " * 3000 + b"\r\n"),
    get(H2C + b"Transfer-Encoding: chunked\r\n", method=b"POST") + b"1; a\r\nx\r\n0\r\n\r\n" + get(),
    get(H2C + b"Content-Length: 0\r\n", method=b"POST") + get(),
    get(H2C + b"Content-Length: 1\r\nConnection: close\r\n", method=b"POST") + b"x" + get(),
    HANDSHAKE + b"\r\n\r\n" + get(),
    get() + HANDSHAKE + get(),
    chunked(b"1\r\nx\r\n0\r\n\r\n") * 2 + b"\r\n" + get(),
    chunked(b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"),
    chunked(b"0\r\n" + b"A: b\r\n" * 50 + b"\r\n"),
    chunked(b"0\r\n" + b"A: b\r\n" * 51 + b"\r\n"),
    post(b"Content-Length: 3\r\n", b"\r\n\r") + b"\n" + get(),
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A few of the table's requests behind each other, with a few bytes put in, left out, or doubled."""
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 12))
        match draw(st.sampled_from(["put in", "leave out", "double", "replace", "cut"])):
            case "put in":
                data = data[:at] + draw(st.sampled_from(PARTS)) + data[at:]
            case "leave out":
                data = data[:at] + data[at + size :]
            case "double":
                data = data[: at + size] + data[at:]
            case "replace":
                data = data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + size :]
            case _:
                data = data[:at] or data
    return data[:FEED_BYTES]


def parse(pieces: list[bytes]) -> tuple[Any, ...]:
    """All that there is to see of what one reader made of these, but for words."""
    reader = RequestReader(HttpRequest, LIMITS)
    tunnelled = b""
    for piece in pieces:
        if not reader.ended:
            reader.feed(piece)
        elif reader.ready and reader.ready[-1].upgrade:  # As the connection does.
            tunnelled += piece
    requests = []
    for r in reader.ready:
        rest = b""
        while r.incoming is not None and (piece := r.incoming.take()) is not None:
            rest += piece
        requests.append(
            (r.method, r.path, r.query, r.version, r.raw_headers, r.body, r.keep_alive, r.sent_target, rest)
        )
    if tunnelled:
        requests[-1] = (*requests[-1][:-1], requests[-1][-1] + tunnelled)
    return requests, reader.fault and reader.fault.status, reader.ended


def check_splits(data: bytes) -> None:
    whole = parse([data])
    assert parse([data[at : at + 1] for at in range(len(data))]) == whole
    for at in range(1, len(data), 1 + len(data) // 100):
        assert parse([data[:at], data[at:]]) == whole, at


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(damaged())
def test_split_anywhere_it_is_read_the_same(data: bytes) -> None:
    check_splits(data)


@pytest.mark.parametrize("data", FOUND + SEEDS)
def test_the_table_split_anywhere(data: bytes) -> None:
    check_splits(data)


def check_front(front: Any, data: bytes, cuts: list[int]) -> None:
    """Each request that the handler saw has its answer, the connection ends, and the next one is served."""
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[i:j] for i, j in itertools.pairwise(at)]
    answers, seen = front.exchange(*pieces)
    assert [body for status, body in answers if status == 200 and body] == [
        each for each in seen if not each.startswith(b"HEAD ")
    ]
    assert front.exchange(get()) == ([(200, b"GET / ")], [b"GET / "])


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=damaged().filter(lambda data: b"HEAD" not in data), cuts=st.lists(st.integers(0, FEED_BYTES), max_size=3))
def test_every_connection_is_answered_or_closed(front: Any, data: bytes, cuts: list[int]) -> None:
    check_front(front, data, cuts)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(noise=st.binary(max_size=300), ends=st.booleans())
def test_noise(front: Any, noise: bytes, ends: bool) -> None:
    check_front(front, noise + b"\r\n\r\n" * ends, [])


@pytest.mark.parametrize("data", FOUND)
def test_what_was_found(front: Any, data: bytes) -> None:
    check_front(front, data, [])
