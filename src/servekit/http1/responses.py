"""Rendering answers: status lines, the lines that every answer ends its head with, and plain refusals."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from servekit.error_answers import OF_HTTP, ErrorAnswer
from servekit.http1.checks import Fault, Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
LENGTH = b"content-length: %d\r\n"

SWITCHED = b"upgrade: websocket\r\nconnection: upgrade\r\n"
"""The lines of a 101, which goes on as another protocol (RFC 9110, 7.8)."""
BODILESS = frozenset({*range(100, 200), 204, 304})
"""Statuses of answers that have no body, not even an empty one, and so no length (RFC 9110, 8.6 and 6.4.1)."""
_FAULT_TYPES = {status: kind for kind, status in OF_HTTP.items()}
_FAULT_LINES = {503: b"retry-after: 1\r\n", 426: b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"}

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class LastLines(NamedTuple):
    """The last lines of a head, the empty line included, for a connection that goes on (by version), or ends."""

    keep: bytes
    keep_1_0: bytes
    close: bytes


def render_last_lines() -> LastLines:
    """The last lines of answers that are written now."""
    lines = b"date: %b\r\n" % formatdate(usegmt=True).encode()
    return LastLines(lines + b"\r\n", lines + b"connection: keep-alive\r\n\r\n", lines + b"connection: close\r\n\r\n")


def status_line(status: int) -> bytes:
    """``HTTP/1.1 404 Not Found`` and CRLF; a status that has no name gets none."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def render(status: int, head: bytes, body: bytes, last_lines: bytes, *, head_only: bool) -> bytes:
    """A whole answer. ``head_only``: to a HEAD request, with the length of the body but without it. Where the body
    is empty, the length is left to ``head``, for the answer to GET may have a body all the same (RFC 9110, 8.6).
    """
    line = _STATUS_LINES.get(status) or status_line(status)
    if status in BODILESS or (head_only and not body):
        return line + head + last_lines
    return b"".join((line, head, LENGTH % len(body), last_lines, b"" if head_only else body))


def render_fault(fault: Fault, headers: Headers, last_lines: bytes) -> bytes:
    """A refusal of a request with these ``headers``, as many as were read: there is none of whom to ask more."""
    lines = _FAULT_LINES.get(fault.status, b"")
    head, body = ErrorAnswer(_FAULT_TYPES[fault.status], fault.text, lines).render(headers, "")
    return render(fault.status, head, body, last_lines, head_only=False)
