"""A handler's `Response` as the bytes that an answer frame carries."""

from __future__ import annotations

import operator
import re
from collections.abc import AsyncIterable, Iterable
from functools import lru_cache
from typing import TypeAlias

from servekit.errors import ResultError
from servekit.interfaces import Response

# The ingress writes these headers: it alone knows the connection (RFC 9110, 7.6.1; RFC 9112, 6) and the request's id.
_OWN = frozenset(
    {"connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade", "x-request-id"}
)
_is_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_bad_in_value = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search

HEAD_BYTES = 256 * 1024
"""The longest that all headers of an answer may be."""

Rendered: TypeAlias = "tuple[int, bytes, bytes | Iterable[bytes] | AsyncIterable[bytes], int | None]"
"""Status, head, body; and the length of a body that is not whole, where the length is known."""


def render(response: Response, upgrade: bool = False, head_only: bool = False) -> Rendered:
    """The bytes of a response. Raises `ResultError` for a response that cannot go out.

    Args:
        upgrade: 101 may be the answer.
        head_only: the request was a HEAD. Where the body was left out, the Content-Length of ``response`` is kept: it
            is the length of GET's answer.
    """
    status = response.status
    if type(status) is not int and hasattr(status, "__index__"):  # A number of numpy's, or an `http.HTTPStatus`.
        status = operator.index(status)
    if not isinstance(status, int) or not (200 <= status <= 599 or (upgrade and status == 101)):
        raise ResultError(f"a handler's status is a whole number from 200 to 599, not {status!r}")
    headers, body = response.headers, response.body
    try:
        head = _known_line(*headers[0]) if len(headers) == 1 else _lines(headers)
    except ResultError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError):
        raise ResultError(f"a response's headers are a list of pairs of text, not {str(headers)[:60]}") from None
    if type(body) is not bytes:
        if isinstance(body, (bytes, bytearray, memoryview)):
            body = bytes(body)
        elif isinstance(body, (list, tuple)):
            body = _joined(body)
        elif isinstance(body, str) or not isinstance(body, (Iterable, AsyncIterable)):
            raise ResultError(f"a response's body is bytes or an iterable of bytes, not {type(body).__name__}")
        else:
            return status, head, body, _length(headers)
    return status, head + _promise(response) if head_only and not body else head, body, None


def close_body(body: object) -> None:
    """Tell the maker of a body that no more of the body is wanted."""
    close = getattr(body, "close", None)
    if close is not None:
        close()


async def aclose_body(body: object) -> None:
    """As `close_body`, for an async iterable."""
    close = getattr(body, "aclose", None)
    if close is not None:
        await close()


def is_async(body: object) -> bool:
    """Whether a body is iterated over on the loop. A body that is both kinds of iterable is not."""
    return isinstance(body, AsyncIterable) and not isinstance(body, Iterable)


def _lines(headers: list[tuple[str, str]]) -> bytes:
    lines = []
    for name, value in headers:
        if name.lower() in _OWN:
            continue
        if not _is_token(name) or _bad_in_value(value):
            raise ResultError(f"the response header {name!r} has a character that no header may have")
        lines.append(f"{name}: {value}\r\n")
    try:
        head = "".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        name, value = next(each for each in headers if any(ord(char) > 255 for char in each[1]))
        raise ResultError(
            f"the response header {name!r} is {value!r}, which HTTP cannot carry: encode what is not latin-1, by "
            "urllib.parse.quote say"
        ) from None
    if len(head) > HEAD_BYTES:
        raise ResultError(f"the response's headers are longer than {HEAD_BYTES} bytes")
    return head


def _joined(pieces: list[bytes] | tuple[bytes, ...]) -> bytes:
    try:
        return b"".join(pieces)
    except TypeError as error:
        raise ResultError(f"a response's body is bytes or an iterable of bytes: {error}") from None


@lru_cache(maxsize=32)
def _known_line(name: str, value: str) -> bytes:
    """The head of an answer that has one header: most often a Content-Type, of which a backend has few."""
    return _lines([(name, value)])


def _promise(response: Response) -> bytes:
    """The Content-Length line of an answer to HEAD that has no body; empty where the length is 0, for GET's answer may
    have another."""
    length = _length(response.headers)
    return b"content-length: %d\r\n" % length if length and response.status not in (204, 304) else b""


def _length(headers: list[tuple[str, str]]) -> int | None:
    """The length that a Content-Length promises: that of a file, say."""
    for name, value in headers:
        if name.lower() == "content-length" and value.isascii() and value.isdecimal():
            return int(value)
    return None
