"""A handler's `Response` as the bytes that an answer frame carries."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Iterable
from functools import lru_cache
from typing import TypeAlias

from servekit.interfaces import Response

# The ingress writes these itself: it alone knows the connection (RFC 9110, 7.6.1; RFC 9112, 6), and the request's id.
_OWN = frozenset(
    {"connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade", "x-request-id"}
)
_is_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_bad_in_value = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search

HEAD_BYTES = 256 * 1024
"""The longest that all headers of an answer may be."""

Rendered: TypeAlias = "tuple[int, bytes, bytes | Iterable[bytes] | AsyncIterable[bytes], int | None]"
"""Status, head, body; and of a body that is not whole its length, where that is known."""


def render(response: Response, upgrade: bool = False, head_only: bool = False) -> Rendered:
    """Raises `TypeError` or `ValueError` for what cannot go out.

    Args:
        upgrade: 101 may be the answer.
        head_only: to HEAD. Where the body was left out, the length that the headers promise is that of GET's answer.
    """
    status = response.status
    if not isinstance(status, int) or not (200 <= status <= 599 or (upgrade and status == 101)):
        raise ValueError(f"a handler's status is a whole number from 200 to 599, not {status!r}")
    headers, body = response.headers, response.body
    head = _known_line(*headers[0]) if len(headers) == 1 else _lines(headers)
    if type(body) is not bytes:
        if isinstance(body, (bytes, bytearray, memoryview)):
            body = bytes(body)
        elif isinstance(body, (list, tuple)):
            body = b"".join(body)
        elif isinstance(body, str) or not isinstance(body, (Iterable, AsyncIterable)):
            raise TypeError(f"a response's body is bytes or an iterable of bytes, not {type(body).__name__}")
        else:
            return status, head, body, _length(headers)
    return status, head + _promise(response) if head_only and not body else head, body, None


def text(message: str) -> tuple[bytes, bytes]:
    """``(head, body)`` of a plain answer of the core's own."""
    return b"content-type: text/plain; charset=utf-8\r\n", message.encode(errors="backslashreplace") + b"\n"


def close_body(body: object) -> None:
    """What made a body learns that no more of it is wanted."""
    close = getattr(body, "close", None)
    if close is not None:
        close()


async def aclose_body(body: object) -> None:
    """The same for an async iterable."""
    close = getattr(body, "aclose", None)
    if close is not None:
        await close()


def is_async(body: object) -> bool:
    """True for a body that is driven on the loop: what can be iterated over both ways is not."""
    return isinstance(body, AsyncIterable) and not isinstance(body, Iterable)


def _lines(headers: list[tuple[str, str]]) -> bytes:
    lines = []
    for name, value in headers:
        if name.lower() in _OWN:
            continue
        if not _is_token(name) or _bad_in_value(value):
            raise ValueError(f"the response header {name!r} has a character that no header may have")
        lines.append(f"{name}: {value}\r\n")
    head = "".join(lines).encode("latin-1")
    if len(head) > HEAD_BYTES:
        raise ValueError(f"the response's headers are longer than {HEAD_BYTES} bytes")
    return head


@lru_cache(maxsize=32)
def _known_line(name: str, value: str) -> bytes:
    """Of an answer that has one header: most often a Content-Type, of which a backend has few."""
    return _lines([(name, value)])


def _promise(response: Response) -> bytes:
    """The Content-Length of an answer to HEAD that has no body. 0 is what it has there, not what GET's would have."""
    length = _length(response.headers)
    return b"content-length: %d\r\n" % length if length and response.status not in (204, 304) else b""


def _length(headers: list[tuple[str, str]]) -> int | None:
    """What a Content-Length promises; a file's length, say."""
    for name, value in headers:
        if name.lower() == "content-length" and value.isascii() and value.isdecimal():
            return int(value)
    return None
