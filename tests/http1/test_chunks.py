from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.http1.chunks import EXTENSIONS_BYTES, BadChunkError, ChunkedBody

EXTENSIONS = [b"", b";a", b"; a=b", b' ;\ta = "b;\\"" ;c']


def take(pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    """The body, what came behind it, and whether it ended."""
    chunks, body, behind = ChunkedBody(100), [], b""
    for piece in pieces:
        at = 0 if chunks.ended else chunks.feed(piece, 0, body.append)
        behind += piece[at:]
    return b"".join(body), behind, chunks.ended


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from(EXTENSIONS)), max_size=4),
    st.sampled_from([b"", b"A: b\r\n", b"A:b\r\nC:\r\n"]),
    st.binary(max_size=5),
    st.lists(st.integers(0, 300), max_size=6),
)
def test_what_was_put_in_comes_out_however_it_is_cut(
    parts: list[tuple[bytes, bytes]], trailers: bytes, behind: bytes, cuts: list[int]
) -> None:
    whole = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part, extension in parts)
    whole += b"0\r\n" + trailers + b"\r\n" + behind
    at = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    expected = (b"".join(part for part, _ in parts), behind, True)
    assert take([whole[i:j] for i, j in itertools.pairwise(at)]) == expected
    assert take([whole[at : at + 1] for at in range(len(whole))]) == expected


@pytest.mark.parametrize("more", [b"1;" + b"a" * 2 * EXTENSIONS_BYTES, b"0\r\nA: " + b"b" * 200, b"1\r\nxy", b"1\n"])
def test_nothing_that_is_wrong_is_waited_for(more: bytes) -> None:
    with pytest.raises(BadChunkError):
        ChunkedBody(100).feed(more, 0, bytes)


def test_what_is_left_of_a_chunk() -> None:
    chunks = ChunkedBody(100)
    chunks.feed(b"ff\r\nabc", 0, bytes)
    assert (chunks.left, chunks.ended) == (252, False)
