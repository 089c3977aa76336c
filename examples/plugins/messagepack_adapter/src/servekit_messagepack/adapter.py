"""The adapter."""

from __future__ import annotations

from typing import Any

import msgspec

from servekit.interfaces import Handler, Request, RequestAdapter, Response


class MessagePackAdapter(RequestAdapter):
    """Decodes bodies and encodes results; a body that is no MessagePack is a 400."""

    def __init__(self, max_depth: int = 100) -> None:
        """``max_depth``: how deep lists and maps of a body may be nested."""
        if max_depth < 1:
            raise ValueError(f"max_depth is {max_depth}: at least 1 is needed, for a body that is a list")
        self._max_depth = max_depth

    def decode(self, request: Request) -> Any:
        """Raises `msgspec.DecodeError`."""
        try:
            decoded = msgspec.msgpack.decode(request.body)
        except RecursionError:
            raise msgspec.DecodeError("nested too deeply") from None
        if _depth(decoded, self._max_depth) > self._max_depth:
            raise msgspec.DecodeError(f"nested deeper than {self._max_depth} levels")
        return decoded

    def encode(self, result: Any) -> Response:
        return Response(200, [("Content-Type", "application/msgpack")], msgspec.msgpack.encode(result))

    def call(self, handler: Handler, request: Request) -> Response:
        # Only this may refuse: an exception of the handler's own is the handler's fault.
        try:
            argument = self.decode(request)
        except msgspec.DecodeError as error:
            return _refusal(error)
        return self.encode(handler(argument))

    def answer_item(self, item: Any, request: Request) -> Response:
        """One request of a batch: what could not be decoded is refused, and the others are served."""
        return _refusal(item) if isinstance(item, msgspec.DecodeError) else super().answer_item(item, request)


def _refusal(error: msgspec.DecodeError) -> Response:
    return Response(400, [("Content-Type", "text/plain")], f"{error}\n".encode())


def _depth(value: Any, most: int) -> int:
    """How deep ``value`` is nested; at most one more than ``most``."""
    if most < 0 or not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(item, most - 1) for item in inner), default=0)
