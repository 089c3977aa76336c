from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors import ResultError
from servekit.interfaces import Response
from servekit.replica.render import render


def test_a_response_is_rendered() -> None:
    response = Response(201, [("X-One", "1"), ("x-one", "é"), ("Set-Cookie", "a=b; c")], b"body")
    assert render(response) == (201, b"X-One: 1\r\nx-one: \xe9\r\nSet-Cookie: a=b; c\r\n", b"body", None)


@pytest.mark.parametrize(
    ("status", "said", "body", "head"),
    [
        (200, "7", b"", b"content-length: 7\r\n"),
        (200, "7", [], b"content-length: 7\r\n"),
        (200, "7", bytearray(), b"content-length: 7\r\n"),
        (206, "7", b"body", b""),
        (200, "0", b"", b""),
        (200, "x", b"", b""),
        (204, "7", b"", b""),
        (304, "7", b"", b""),
    ],
)
def test_of_an_answer_to_head_that_has_no_body_a_length_is_kept(status: int, said: str, body: Any, head: bytes) -> None:
    response = Response(status, [("Content-Length", said)], body)
    assert render(response, head_only=True) == (
        status,
        head,
        bytes(b"".join(body) if isinstance(body, list) else body),
        None,
    )
    assert render(response)[1] == b""


@pytest.mark.parametrize(
    "name", ["Content-Length", "date", "CONNECTION", "Transfer-Encoding", "Keep-Alive", "upgrade", "X-Request-ID"]
)
def test_headers_that_the_ingress_writes_itself_are_dropped(name: str) -> None:
    assert render(Response(200, [(name, "x"), ("x-own", "1")]))[1] == b"x-own: 1\r\n"


@pytest.mark.parametrize(
    "header",
    [
        ("x", "a\r\nx-evil: 1"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x", "\x7f"),
        ("x\r\ny", "1"),
        ("x y", "1"),
        ("x:", "1"),
        ("", "1"),
        ("é", "1"),
        ("x", "✓"),
    ],
)
def test_headers_cannot_be_injected(header: tuple[str, str]) -> None:
    with pytest.raises(ResultError):
        render(Response(200, [header]))


@given(st.text(), st.text())
def test_a_header_is_one_line_or_refused(name: str, value: str) -> None:
    try:
        _, head, _, _ = render(Response(200, [(name, value)]))
    except ResultError:
        return
    assert head.count(b"\r\n") == head.count(b"\r") == head.count(b"\n") <= 1


@pytest.mark.parametrize("status", [200, 204, 404, 599, HTTPStatus.CREATED])
def test_statuses(status: int) -> None:
    assert render(Response(status, []))[0] == status


@pytest.mark.parametrize("status", [0, 100, 199, 600, -1, True, 200.0, "200", None])
def test_statuses_that_no_answer_has(status: Any) -> None:
    with pytest.raises(ResultError, match="status"):
        render(Response(status, []))


class Bytes(bytes):
    pass


@pytest.mark.parametrize(
    "body", [b"abc", bytearray(b"abc"), memoryview(b"abc"), Bytes(b"abc"), [b"a", b"bc"], (b"a", b"", b"bc")]
)
def test_bodies(body: Any) -> None:
    rendered = render(Response(200, [], body))[2]
    assert type(rendered) is bytes
    assert rendered == b"abc"


@pytest.mark.parametrize("body", ["abc", 3, None, ["a"], [1], object()])
def test_bodies_that_are_none(body: Any) -> None:
    with pytest.raises(ResultError):
        render(Response(200, [], body))


def pieces() -> Iterator[bytes]:
    yield b"abc"


@pytest.mark.parametrize(
    ("headers", "length"),
    [([], None), ([("content-Length", "3")], 3), ([("Content-Length", "-3")], None), ([("Content-Length", "x")], None)],
)
def test_what_makes_its_pieces_one_by_one_is_left_as_it_is(headers: Any, length: int | None) -> None:
    body = pieces()
    assert render(Response(200, headers, body)) == (200, b"", body, length)


@pytest.mark.parametrize("headers", [{"a": "b"}, {"a": "b", "c": "d"}, [("a", 1)], [("a",)], ["abc"], 5])
def test_headers_that_are_no_pairs_of_text(headers: Any) -> None:
    with pytest.raises(ResultError, match="pairs of text"):
        render(Response(200, headers))


def test_the_headers_are_bounded() -> None:
    with pytest.raises(ResultError, match="headers are longer than"):
        render(Response(200, [("x", "y" * 300_000)]))


def test_what_one_answer_was_refused_for_the_next_is_too() -> None:
    for _ in range(2):
        with pytest.raises(ResultError, match="character that no header may have"):
            render(Response(200, [("x-a", "b\r\n")]))
        assert render(Response(200, [("x-a", "b")]))[1] == b"x-a: b\r\n"
        assert render(Response(200, [("X-A", "b")]))[1] == b"X-A: b\r\n"
