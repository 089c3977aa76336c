"""What is parsed depends on the bytes alone, not on the pieces in which they come."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import HttpLimits
from servekit.http1.reader import FEED_BYTES, Phase, RequestReader
from servekit.http1.request import HttpRequest

LIMITS = HttpLimits(
    request_line_bytes=60, header_bytes=60, headers_bytes=120, header_count=8, body_bytes=40, header_timeout_s=1
)

UPGRADE = b"Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
CHUNKED = b"Host: a\r\nTransfer-Encoding: chunked\r\n"
MESSAGES = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a%20b?c=d HTTP/1.1\r\nHost: a\r\nX: \t y z \t\r\nEmpty:\r\n\r\n",
    b"\r\nGET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: r\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n",
    b"POST / HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
]
LAST = [
    b"",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\nleft",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /not-com",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /" + b"x" * 60 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 60 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 8 + b"\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 41\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n29\r\n" + b"x" * 41,
    b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
]


def parse(pieces: list[bytes]) -> tuple[list[tuple[Any, ...]], int | None, bool]:
    reader = RequestReader(HttpRequest, LIMITS)
    for piece in pieces:
        if not reader.ended:
            reader.feed(piece)
    requests = [
        (r.method, r.path, r.query, r.version, r.raw_headers, r.fields, r.body, r.keep_alive, r.done, r.sent_target)
        for r in reader.ready
    ]
    return requests, reader.fault and reader.fault.status, reader.ended


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (b"/x", False),
        (b"/x?a=%20", False),
        (b"/a|b", False),
        (b"/x?", True),
        (b"/%78", True),
        (b"/%E9?a", True),
        (b"http://b/x", True),
    ],
)
def test_a_target_is_kept_where_path_and_query_are_not_all_of_it(target: bytes, kept: bool) -> None:
    ((*_, sent),), fault, _ = parse([b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target])
    assert (sent, fault) == (target if kept else None, None)


@given(st.lists(st.sampled_from(MESSAGES), max_size=4), st.sampled_from(LAST), st.data())
def test_splitting_changes_nothing(messages: list[bytes], last: bytes, data: st.DataObject) -> None:
    whole = b"".join(messages) + last
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    expected = parse([whole])
    assert parse([piece for piece in pieces if piece]) == expected
    assert len(expected[0]) >= len(messages)


@pytest.mark.parametrize("whole", MESSAGES + LAST)
def test_byte_by_byte(whole: bytes) -> None:
    assert parse([bytes([byte]) for byte in whole]) == parse([whole])


@given(st.binary(max_size=60))
def test_noise_never_raises(noise: bytes) -> None:
    parse([noise])
    parse([MESSAGES[0] + noise])
    parse([MESSAGES[6][:-20] + noise])


def test_a_request() -> None:
    ((method, path, query, version, headers, fields, body, keep_alive, done, _),), fault, ended = parse([MESSAGES[1]])
    assert (method, path, query, version, body) == ("GET", "/a b", b"c=d", "1.1", b"")
    assert headers == [(b"host", b"a"), (b"x", b"y z"), (b"empty", b"")]
    assert fields == dict(headers)
    assert (keep_alive, done, fault, ended) == (True, False, None, False)


def test_the_host_of_an_absolute_target_wins() -> None:
    (request,), _, _ = parse([b"GET http://b:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n"])
    assert request[1:3] == ("/x", b"y")
    assert request[4:6] == ([(b"host", b"b:1")], {b"host": b"b:1"})


def test_trailers_are_dropped() -> None:
    (first, second), fault, _ = parse([MESSAGES[6] + MESSAGES[0]])
    assert first[6] == b"abc0123456789"
    assert b"t" not in first[5]
    assert second[4] == [(b"host", b"a")]
    assert fault is None


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (b"GET /", b"x", 414),
        (b"GET / HTTP/1.1\r\nX: ", b"x", 431),
        (b"GET / HTTP/1.1\r\n", b"x", 431),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"y", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 413),
    ],
)
def test_nothing_grows_without_end(begin: bytes, more: bytes, status: int) -> None:
    reader = RequestReader(HttpRequest, LIMITS)
    reader.feed(begin)
    fed = 0
    while not reader.ended:
        reader.feed(more * 100)
        fed += 100 * len(more)
        assert fed < 5 * FEED_BYTES
    assert reader.fault is not None
    assert reader.fault.status == status


def test_a_body_in_many_small_pieces() -> None:
    reader = RequestReader(HttpRequest, HttpLimits())
    reader.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(40_000):
        reader.feed(b"1\r\nx\r\n")
    reader.feed(b"0\r\n\r\n")
    assert reader.ready[0].body == b"x" * 40_000


def test_phases() -> None:
    reader = RequestReader(HttpRequest, LIMITS)
    seen = [reader.phase]
    for piece in (b"\r\n", b"PO", b"ST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n", b"\r\n", b"a", b"b", b"\r\n"):
        reader.feed(piece)
        seen.append(reader.phase)
    between, head, body = Phase.BETWEEN, Phase.HEAD, Phase.BODY
    assert seen == [between, between, head, head, body, body, between, between]


def test_a_defect_of_ours_is_no_fault_of_the_client() -> None:
    def broken() -> HttpRequest:
        raise KeyError("broken")

    reader = RequestReader(broken, LIMITS)
    with pytest.raises(Exception, match="callback") as caught:
        reader.feed(MESSAGES[0])
    assert isinstance(caught.value.__context__, KeyError)
