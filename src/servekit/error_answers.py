"""The errors that servekit itself answers: their types, and their form, which the client's Accept header decides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec

# What is answered as text stays text, whatever a browser finds in it.
_NO_SNIFF = b"x-content-type-options: nosniff\r\n"
TEXT = b"content-type: text/plain; charset=utf-8\r\n" + _NO_SNIFF
JSON = b"content-type: application/json\r\n" + _NO_SNIFF
_MOST_RANGES = 100
_MOST_PARAMETERS = 10

OF_HTTP: Mapping[str, int] = {
    "malformed": 400,
    "client_too_slow": 408,
    "body_too_large": 413,
    "target_too_long": 414,
    "expectation_failed": 417,
    "upgrade_required": 426,
    "headers_too_large": 431,
    "too_many_connections": 503,
    "version_not_supported": 505,
}
"""The types of what the HTTP front refuses before there is a request: one for each status that it answers."""
STATUSES: Mapping[str, int] = {
    "bad_json": 400,
    "method_not_callable": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "invalid_request": 422,
    "handler_failed": 500,
    "bad_result": 500,
    "policy_failed": 500,
    "replica_died": 502,
    "deadly_request": 502,
    "no_traffic": 503,
    "no_replica": 503,
    "not_ready": 503,
    "version_down": 503,
    "queue_full": 503,
    "overloaded": 503,
    "no_room": 503,
    "deadline": 504,
    "call_cycle": 508,
    **OF_HTTP,
}
"""Every type, with its status. Types are for programs, and stay; messages are for people. See ``docs/errors.md``."""


# The OpenAPI document has the names of these three, and their docstrings.


class ServekitProblem(msgspec.Struct):
    """One thing that is wrong with a request."""

    loc: list[str | int]
    """``body``, ``query`` or ``path``; then names of fields and indices of lists, from the outside in; ``...`` is a key
    of a dict, unknown which."""
    msg: str


class ServekitErrorRecord(msgspec.Struct, omit_defaults=True):
    """An error: the type is for programs, the message for people; problems are there where a request does not fit."""

    type: str
    message: str
    request_id: str
    problems: list[ServekitProblem] = []


class ServekitErrorBody(msgspec.Struct):
    """What JSON says of an error."""

    error: ServekitErrorRecord


class ErrorAnswer(NamedTuple):
    """An error, before its form is decided."""

    type: str
    message: str
    lines: bytes = b""
    """Further header lines, each with its CRLF."""

    @property
    def status(self) -> int:
        return STATUSES[self.type]

    def render(self, headers: Iterable[tuple[bytes, bytes]], request_id: str) -> tuple[bytes, bytes]:
        """``(head, body)`` for the client that sent ``headers``: JSON where it prefers that to text, else text."""
        if accepts_json(headers):
            return JSON + self.lines, self.json(request_id) + b"\n"
        text = f"{HTTPStatus(self.status).phrase}: {self.message}\n"
        return TEXT + self.lines, text.encode(errors="backslashreplace")

    def json(self, request_id: str, problems: list[ServekitProblem] | None = None) -> bytes:
        """The body in JSON, whoever asks."""
        # JSON is UTF-8: what no UTF-8 has, half of a surrogate pair, is escaped as in the text.
        message = self.message.encode(errors="backslashreplace").decode()
        record = ServekitErrorRecord(self.type, message, request_id, problems or [])
        return msgspec.json.encode(ServekitErrorBody(record))


def accepts_json(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether an Accept header names JSON, ``application/json`` or ``application/…+json``, and plain text is not
    preferred (RFC 9110, 12.5.1). Of two that are equally good, the one that is named first; ``*/*`` names neither.

    Of a header with more than `_MOST_RANGES`, those beyond are not looked at.
    """
    accept = b",".join(value for name, value in headers if name == b"accept").decode("latin-1").lower()
    if "json" not in accept:
        return False
    json = (0.0, 0)
    text: dict[str, tuple[float, int]] = {}
    for place, item in enumerate(accept.split(",", _MOST_RANGES)[:_MOST_RANGES]):
        media, *parameters = (part.strip() for part in item.split(";", _MOST_PARAMETERS))
        rank = (_quality(parameters), -place)
        if media == "application/json" or (media.startswith("application/") and media.endswith("+json")):
            json = max(json, rank)
        elif media in ("text/plain", "text/*", "*/*"):
            text[media] = max(text.get(media, rank), rank)
    # The most specific range says how good plain text is; that of everything never wins over a name.
    quality, at = text.get("text/plain") or text.get("text/*") or (text.get("*/*", (0.0, 0))[0], -len(accept))
    return json[0] > 0 and json >= (quality, at)


_is_quality = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?").fullmatch


def _quality(parameters: Iterable[str]) -> float:
    """What ``q`` says; 1 where it is not there, and 0 for what is no quality."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.rstrip() == "q":
            return float(value) if _is_quality(value.lstrip()) else 0.0
    return 1.0
