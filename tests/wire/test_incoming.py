"""A body that is read in one thread while it arrives in another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES
from servekit.wire.streams import Incoming

DEADLINE_S = 10.0
FIRST = b"f" * 65_537


class Reading:
    """What a thread makes of a stream's file."""

    def __init__(self, stream: Incoming, read: Callable[[Any], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._read = read
        self._file = stream.as_file()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._read(self._file)
        except BaseException as error:
            self.error = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def get(self) -> Any:
        self._thread.join(DEADLINE_S)
        assert self.is_over, "it still reads"
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def grants() -> list[int]:
    return []


@pytest.fixture
def stream(grants: list[int]) -> Incoming:
    return Incoming(grants.append, FIRST)


READS: dict[str, Callable[[Any], bytes]] = {
    "all": lambda file: file.read(),
    "few": lambda file: b"".join(iter(lambda: file.read(1000), b"")),
    "many": lambda file: b"".join(iter(lambda: file.read(1_000_000), b"")),
    "some": lambda file: b"".join(iter(lambda: file.read1(70_000), b"")),
    "lines": lambda file: b"".join(file),
    "readinto": lambda file: _by_readinto(file),
    "mixed": lambda file: file.read(10) + file.readline() + file.read1(5) + file.read(70_000) + file.read(),
}


def _by_readinto(file: Any) -> bytes:
    found, buffer = b"", bytearray(30_000)
    while size := file.readinto(buffer):
        found += buffer[:size]
    return found


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("sizes", [[], [1], [65_536] * 4, [300_000, 1, 7]])
@pytest.mark.parametrize("early", [False, True])
def test_all_of_it_is_read(stream: Any, grants: list[int], how: str, sizes: list[int], early: bool) -> None:
    pieces = [bytes([number]) * (size - 1) + b"\n" for number, size in enumerate(sizes)]

    def come() -> None:
        for piece in pieces:
            stream.feed(piece)
        stream.end()

    if early:
        come()
    reading = Reading(stream, READS[how])
    if not early:
        come()
    assert reading.get() == FIRST + b"".join(pieces)
    assert sum(grants) <= sum(sizes)
    assert all(size >= PIECE_BYTES for size in grants)


def test_a_read_waits_for_what_comes(stream: Any) -> None:
    reading = Reading(stream, lambda file: file.read(len(FIRST) + 3))
    stream.feed(b"a")
    assert not reading.is_over
    stream.feed(b"bcd")
    assert reading.get() == FIRST + b"abc"


def test_readline_does_not_wait_for_more_than_the_line(stream: Any) -> None:
    stream.feed(b"\nnext")
    assert Reading(stream, lambda file: file.readline()).get() == FIRST + b"\n"


def test_a_body_that_breaks_off_is_an_error(stream: Any) -> None:
    reading = Reading(stream, lambda file: file.read())
    stream.feed(b"some")
    assert not reading.is_over
    stream.end(ConnectionError("the client is gone"))
    with pytest.raises(ConnectionError, match="the client is gone"):
        reading.get()
    with pytest.raises(ConnectionError, match="the client is gone"):  # now, and whenever it is asked again
        Reading(stream, lambda file: file.read(1)).get()


def test_the_end_comes_again_and_again(stream: Any) -> None:
    stream.end()
    assert Reading(stream, lambda file: [file.read(), file.read(), file.read(5), file.readline()]).get() == [
        FIRST,
        b"",
        b"",
        b"",
    ]


def test_a_full_window_and_the_whole(stream: Any) -> None:
    stream.feed(bytes(BODY_WINDOW_BYTES - 1))
    assert not stream.is_full
    stream.feed(b"x")
    assert stream.is_full
    stream.end()
    assert stream.take_all() == FIRST + bytes(BODY_WINDOW_BYTES - 1) + b"x"


STEPS = st.one_of(st.tuples(st.just("feed"), st.integers(1, 256 * 1024)), st.tuples(st.just("take"), st.just(0)))


@given(st.lists(STEPS, max_size=30))
def test_what_is_granted_is_what_was_read_of_what_took_credit(steps: list[tuple[str, int]]) -> None:
    """A sender that keeps to its credit always has some, once all that came is read."""
    granted = 0

    def grant(size: int) -> None:
        nonlocal granted
        granted += size

    stream = Incoming(grant, FIRST)
    credit = BODY_WINDOW_BYTES
    sent, read = 0, 0
    for what, size in steps:
        if what == "feed" and credit + granted - sent > 0:
            stream.feed(bytes(size))
            sent += size
        elif what == "take":
            read += len(stream.take() or b"")
        assert granted <= max(read - len(FIRST), 0)
        assert max(read - len(FIRST), 0) - granted < PIECE_BYTES + 256 * 1024, "but for the piece that was taken last"
        assert sent - granted < BODY_WINDOW_BYTES + 256 * 1024
    while stream.take() is not None:
        pass
    assert credit + granted - sent > 0
