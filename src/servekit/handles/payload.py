"""Objects as bytes, with their large buffers beside the pickle: arguments on their way out, results on their way back.

A payload is the length of a head (4 bytes), the head (msgpack: the lengths of the pickle and of each buffer), the
pickle, and the buffers. Each buffer begins at a multiple of 16 bytes, so that arrays are aligned as their makers had
them.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, TypeAlias

import msgspec

from servekit.errors import InvalidInputError
from servekit.handles.pickling import dumps

PAYLOAD_BYTES = 2 * 1024**3
"""How long the arguments of a call, its result, or one item of a stream may be."""
IN_PICKLE_BYTES = 4 * 1024
"""A buffer shorter than this is cheaper inside the pickle."""
_ALIGNMENT = 16
_size = struct.Struct(">I")

Buffer: TypeAlias = "bytes | bytearray | memoryview"


def pack(value: Any) -> bytes:
    """A payload of ``value``. The payload is a copy: a later change of an array in ``value`` does not change it.

    Raises `InvalidInputError` where the payload is longer than `PAYLOAD_BYTES`, and any error of pickling.
    """
    buffers: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < IN_PICKLE_BYTES:
            return True
        buffers.append(view)
        return False

    pickled = dumps(value, keep_inside)
    head = msgspec.msgpack.encode([len(pickled), *(view.nbytes for view in buffers)])
    parts: list[Buffer] = [_size.pack(len(head)), head, pickled]
    length = _size.size + len(head) + len(pickled)
    for view in buffers:
        gap = -length % _ALIGNMENT
        parts += (bytes(gap), view)
        length += gap + view.nbytes
    if length > PAYLOAD_BYTES:
        raise InvalidInputError(f"{length:,} bytes are more than one call can carry ({PAYLOAD_BYTES:,})")
    return b"".join(parts)


def unpack(payload: Buffer) -> Any:
    """The object. Its arrays are views into ``payload``, and can be written to: a payload that is ``bytes``, and has
    arrays, is copied first. Raises any error of unpickling.
    """
    start = _size.size + _size.unpack_from(payload)[0]
    pickled, *buffers = msgspec.msgpack.decode(memoryview(payload)[_size.size : start], type=list[int])
    if not buffers:
        return pickle.loads(memoryview(payload)[start : start + pickled])
    whole = memoryview(payload if isinstance(payload, bytearray) else bytearray(payload))
    at = start + pickled
    views = []
    for length in buffers:
        at += -at % _ALIGNMENT
        views.append(whole[at : at + length])
        at += length
    return pickle.loads(whole[start : start + pickled], buffers=views)
