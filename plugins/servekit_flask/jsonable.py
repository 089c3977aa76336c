"""JSON as Flask writes it, for more types; never with ``NaN`` or ``Infinity``, which no JSON has."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from json import JSONEncoder
from typing import Any

from flask.json.provider import DefaultJSONProvider

from servekit import jsonable


def default(value: Any) -> Any:
    """What JSON has in the place of ``value``; raises ``TypeError`` when it has nothing.

    Flask's own forms come first: a date is as in HTTP's headers, and ``__html__()`` is called where there is one.
    """
    if isinstance(value, datetime.date) or hasattr(value, "__html__"):
        return DefaultJSONProvider.default(value)
    return jsonable.convert(value)


class HandlerJSON(DefaultJSONProvider):
    """The provider behind `flask.jsonify`, and behind a handler's dict or list. Raises `ResultError` for what cannot
    become JSON, and says where it is."""

    default = staticmethod(default)

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        kwargs.setdefault("allow_nan", False)
        return _encoded(lambda value: super(HandlerJSON, self).dumps(value, **kwargs), obj)

    def encode(self, value: Any) -> bytes:
        """The body of ``jsonify(value)``, byte for byte, in half the time."""
        encoder = _encoder(self.ensure_ascii, self.sort_keys, self.compact is False)
        return _encoded(encoder.encode, value).encode() + b"\n"


def _encoded(encode: Callable[[Any], str], value: Any) -> str:
    with suppress(TypeError, ValueError, RecursionError):  # What `plain` says of it is better.
        return encode(value)
    return encode(jsonable.plain(value, default))


@lru_cache(maxsize=8)
def _encoder(ensure_ascii: bool, sort_keys: bool, indented: bool) -> JSONEncoder:
    return JSONEncoder(
        ensure_ascii=ensure_ascii,
        sort_keys=sort_keys,
        indent=2 if indented else None,
        separators=None if indented else (",", ":"),
        allow_nan=False,
        default=default,
    )
