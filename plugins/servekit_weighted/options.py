"""The options that several policies have. All functions here raise ``ValueError`` that says what to write instead."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TypeAlias

Field: TypeAlias = Callable[[Mapping[str, str]], "str | None"]
"""Reads one header or cookie out of a request's headers; None where the request has none, or an empty one."""


def seeded(seed: object) -> random.Random:
    """A random generator for one policy object. Equal seeds give equal draws; None gives different draws every time."""
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ValueError(f"seed is {seed!r}: give an integer, or leave it out for choices that differ every time")
    return random.Random(seed)


def text(name: str, value: object) -> str:
    """``value``, where it is a text that is not empty; ``name`` is the option's name, for the error."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}: give a text that is not empty")
    return value


def header_or_cookie(header: object, cookie: object) -> Field:
    """A function that reads the header or the cookie of that name. Exactly one of the two must be given."""
    if (header is None) == (cookie is None):
        given = "neither" if header is None else "both"
        raise ValueError(f"{given} of header and cookie is given: name one of them, such as header='x-user'")
    return _header(text("header", header)) if cookie is None else _cookie(text("cookie", cookie))


def _header(name: str) -> Field:
    key = name.lower()
    return lambda headers: headers.get(key) or None


def _cookie(name: str) -> Field:
    def read(headers: Mapping[str, str]) -> str | None:
        # `http.cookies` gives up the whole header for one odd cookie. Of several cookies with one name, the first is
        # the most specific (RFC 6265, 5.4).
        for pair in headers.get("cookie", "").split(";"):
            key, _, value = pair.partition("=")
            if key.strip() == name:
                return value.strip().strip('"') or None
        return None

    return read
