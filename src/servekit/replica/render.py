"""A handler's `Response` as the bytes that an answer frame carries."""

from __future__ import annotations

import re
from collections.abc import Iterable

from servekit.interfaces import Response

# The ingress writes these itself: it alone knows the connection (RFC 9110, 7.6.1; RFC 9112, 6), and the request's id.
_OWN = frozenset(
    {"connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade", "x-request-id"}
)
_is_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_bad_in_value = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search

BODY_BYTES = 64 * 1024 * 1024
"""The longest body that an answer may have."""
_TOO_LONG = f"the response's body is longer than {BODY_BYTES} bytes"


def render(response: Response) -> tuple[int, bytes, bytes]:
    """``(status, head, body)``. Raises `TypeError` or `ValueError` for what cannot go out."""
    status = response.status
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"a handler's status is a whole number from 200 to 599, not {status!r}")
    body = response.body
    whole = body if type(body) is bytes else _joined(body)
    if len(whole) > BODY_BYTES:
        raise ValueError(_TOO_LONG)
    return status, _head(response.headers), whole


def text(message: str) -> tuple[bytes, bytes]:
    """``(head, body)`` of a plain answer of the core's own."""
    return b"content-type: text/plain; charset=utf-8\r\n", message.encode(errors="backslashreplace") + b"\n"


def _head(headers: list[tuple[str, str]]) -> bytes:
    lines = []
    for name, value in headers:
        if name.lower() in _OWN:
            continue
        if not _is_token(name) or _bad_in_value(value):
            raise ValueError(f"the response header {name!r} has a character that no header may have")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


def _joined(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    if not isinstance(body, Iterable):
        raise TypeError(f"a response's body is bytes or an iterable of bytes, not {type(body).__name__}")
    pieces, size = [], 0
    try:
        for piece in body:
            size += len(piece)
            if size > BODY_BYTES:
                raise ValueError(_TOO_LONG)
            pieces.append(piece)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return b"".join(pieces)
