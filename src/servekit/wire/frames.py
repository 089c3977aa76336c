"""Frames, which travel on the links: each is a msgpack array, whose first item is the kind.

`servekit.wire.data_frames` has the frames of data links, on which calls go; `servekit.wire.control_frames` has those of
control links, on which workers and the controller talk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

PROTOCOL_VERSION = 13
"""Raised whenever a frame changes its shape: both ends of a link must have the same."""


class Frame(msgspec.Struct, array_like=True, gc=False):
    """The base of all frames."""


_UUID_CODE = 1
_INT_CODE = 2


def extended(value: Any) -> Any:
    """A value of a route's converter, as msgpack carries it: msgpack knows no UUIDs, and no ints of any size."""
    if isinstance(value, UUID):
        return msgspec.msgpack.Ext(_UUID_CODE, value.bytes)
    if isinstance(value, int) and value.bit_length() > 63:
        return msgspec.msgpack.Ext(_INT_CODE, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    return value


def _from_ext(code: int, data: memoryview) -> Any:
    if code == _UUID_CODE:
        return UUID(bytes=bytes(data))
    if code == _INT_CODE:
        return int.from_bytes(data, "big", signed=True)
    raise ValueError(f"unknown msgpack extension {code}")


NO_FRAME = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises: for bytes of no frame, for an extension's, and for more levels than Python can call itself."""


class Codec:
    """Encodes and decodes frames. Decoding raises one of `NO_FRAME` for bytes that are no frame of this kind."""

    def __init__(self, frames: Any) -> None:
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(frames, ext_hook=_from_ext).decode
