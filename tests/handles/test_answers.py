"""Records put together again from pieces, wherever those were cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servekit.handles.answers import RecordKind, RecordReader, record

records = st.lists(st.tuples(st.sampled_from(RecordKind), st.binary(max_size=50)), max_size=8)


@given(records, st.lists(st.integers(1, 40), min_size=1))
def test_records_survive_any_cut(sent: list[tuple[RecordKind, bytes]], cuts: list[int]) -> None:
    data = b"".join(record(kind, payload) for kind, payload in sent)
    reader, found = RecordReader(), []
    turn = 0
    while data:
        size = cuts[turn % len(cuts)]
        turn += 1
        reader.feed(data[:size])
        data = data[size:]
        while (each := reader.next()) is not None:
            found.append((each[0], bytes(each[1])))
    assert found == sent
    assert reader.next() is None
