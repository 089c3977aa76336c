"""What travels on the links: one msgpack array per frame, its first item the kind.

`servekit.wire.data_frames` has those of data links, on which calls go; `servekit.wire.control_frames` those of control
links, on which workers and the controller talk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

PROTOCOL_VERSION = 6
"""Raised whenever a frame changes its shape: both ends of a link must have the same."""


class Frame(msgspec.Struct, array_like=True, gc=False):
    """The base of all frames."""


_UUID_CODE = 1
_INT_CODE = 2


def extended(value: Any) -> Any:
    """``value``, which a route's converter made, as msgpack carries it: it knows no UUIDs, and no ints of any size."""
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


class Codec:
    """Frames to bytes and back. Decoding raises `msgspec.MsgspecError` for whatever is no frame of this kind."""

    def __init__(self, frames: Any) -> None:
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(frames, ext_hook=_from_ext).decode
