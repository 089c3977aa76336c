"""Objects as bytes: what goes in comes out, with large buffers beside the pickle."""

from __future__ import annotations

import array
import pickle
import threading
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors import InvalidInputError
from servekit.handles import payload
from servekit.handles.payload import IN_PICKLE_BYTES, pack, unpack

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Buffers:
    """Pickled as arrays are: with its memory as a buffer."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Buffers, (pickle.PickleBuffer(self.memory),)


@given(values)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(st.lists(st.integers(0, 3 * IN_PICKLE_BYTES), max_size=6))
def test_buffers_of_whatever_lengths_come_out_and_can_be_written_to(sizes: list[int]) -> None:
    given_ = [Buffers(bytearray(bytes([n % 251]) * size)) for n, size in enumerate(sizes)]
    packed = pack(given_)
    for container in (packed, bytearray(packed), memoryview(packed)):
        found = unpack(container)
        assert [bytes(each.memory) for each in found] == [bytes(each.memory) for each in given_]
        for each in found:
            memory = memoryview(each.memory)
            assert not memory.readonly
            if memory:
                memory[0] = 255


def test_a_payload_shares_nothing_with_what_was_packed() -> None:
    memory = bytearray(100_000)
    packed = pack(Buffers(memory))
    memory[:] = b"x" * len(memory)
    assert bytes(unpack(packed).memory) == bytes(100_000)


def test_large_buffers_are_views_into_a_payload_that_can_be_written_to() -> None:
    container = bytearray(pack(Buffers(bytearray(b"a" * 100_000))))
    memoryview(unpack(container).memory)[0:3] = b"xyz"
    assert b"xyza" in container


def test_buffers_begin_where_arrays_may() -> None:
    numpy = pytest.importorskip("numpy")
    found = unpack(pack([numpy.arange(5_001, dtype=kind) for kind in ("int8", "float64", "complex128", "int16")]))
    for each in found:
        assert each.flags.aligned
        assert each.flags.writeable
        assert (each == numpy.arange(5_001)).all() or each.dtype == "int8"


def test_a_read_only_array_stays_one() -> None:
    numpy = pytest.importorskip("numpy")
    fixed = numpy.zeros(10_000)
    fixed.flags.writeable = False
    assert not unpack(pack(fixed)).flags.writeable


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "PAYLOAD_BYTES", 10_000)
    assert unpack(pack(bytes(9_000))) == bytes(9_000)
    with pytest.raises(InvalidInputError, match="more than one call can carry"):
        pack(bytes(10_000))
    with pytest.raises(InvalidInputError):
        pack([array.array("d", bytes(8_000)), Buffers(bytearray(8_000))])


def test_functions_and_classes_of_a_module_that_no_import_finds_travel_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nowhere_to_be_found")
    exec("class Thing:\n    size = 3\n\ndef double(value):\n    return 2 * value\n", module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    packed = pack((module.Thing(), module.double))
    monkeypatch.delitem(__import__("sys").modules, module.__name__)
    thing, double = unpack(packed)
    assert thing.size == 3
    assert double(4) == 8


def test_what_cannot_be_pickled_is_an_error_of_pickling() -> None:
    with pytest.raises(pickle.PicklingError, match="Thread"):
        pack({"a": threading.Thread()})
