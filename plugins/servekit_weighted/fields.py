"""A header or a cookie that a policy decides by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from servekit_weighted.options import text

Field: TypeAlias = Callable[[Mapping[str, str]], "str | None"]
"""What a request with these headers has there; None when it has nothing, or an empty text."""


def header_or_cookie(header: object, cookie: object) -> Field:
    """Reads the one that is named; raises ``ValueError`` unless exactly one is."""
    if (header is None) == (cookie is None):
        given = "neither" if header is None else "both"
        raise ValueError(f"{given} of header and cookie is given: name one of them, such as header='x-user'")
    return _header(text("header", header)) if cookie is None else _cookie(text("cookie", cookie))


def _header(name: str) -> Field:
    key = name.lower()
    return lambda headers: headers.get(key) or None


def _cookie(name: str) -> Field:
    def read(headers: Mapping[str, str]) -> str | None:
        # Not `http.cookies`, which gives up the whole header for one odd cookie. The first of a name is the most
        # specific one (RFC 6265, 5.4).
        for pair in headers.get("cookie", "").split(";"):
            key, _, value = pair.partition("=")
            if key.strip() == name:
                return value.strip().strip('"') or None
        return None

    return read
