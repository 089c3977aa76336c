"""The bodies of calls: credit that both ends keep to, and the faces of the end that takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, Chunk, Credit, End
from servekit.wire.streams import Incoming, Outgoing, WholeBody

LONGEST = 256 * 1024
"""A piece of a request's body, as it was read."""


class Peer:
    """The other end's link: what it was sent is handed to a body, and what that grants comes back at once or later."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, frame: Any) -> None:
        self.sent.append(frame)

    @property
    def data(self) -> bytes:
        return b"".join(bytes(frame.data) for frame in self.sent if type(frame) is Chunk)

    @property
    def ends(self) -> list[bool]:
        return [frame.complete for frame in self.sent if type(frame) is End]


@pytest.fixture
def peer() -> Any:
    return Peer()


def incoming(first: bytes = b"", *, owes_first: bool = False) -> tuple[Incoming, list[int]]:
    granted: list[int] = []
    return Incoming(granted.append, first, owes_first=owes_first), granted


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


# -- the end that sends --------------------------------------------------------------------------------------------


def test_a_body_that_is_there_goes_out_as_there_is_credit_and_is_ended(peer: Any) -> None:
    body = bytes(range(256)) * 4096  # 1 MiB
    stream = Outgoing(peer, 7)
    stream.follow(WholeBody(body))
    assert len(peer.data) == BODY_WINDOW_BYTES
    assert not peer.ends
    while not peer.ends:
        stream.grant(2 * PIECE_BYTES)
    assert peer.data == body
    assert peer.ends == [True]
    assert {frame.id for frame in peer.sent} == {7}


def test_an_empty_body_is_ended_at_once(peer: Any) -> None:
    Outgoing(peer, 1).follow(WholeBody(b""))
    assert peer.ends == [True]


def test_the_first_part_of_an_answer_has_taken_credit(peer: Any) -> None:
    assert Outgoing(peer, 1, PIECE_BYTES).credit == BODY_WINDOW_BYTES - PIECE_BYTES


def test_whoever_writes_is_told_when_there_is_credit_again(peer: Any) -> None:
    stream, woken = Outgoing(peer, 1), []
    stream.wake = lambda: woken.append(stream.credit)
    assert [stream.write(bytes(PIECE_BYTES)) for _ in range(4)] == [True, True, True, False]
    stream.grant(1)
    stream.grant(1)
    assert woken == [1]
    stream.end(complete=False, queue_length=3, service_us=5)
    stream.grant(PIECE_BYTES)
    assert woken == [1]
    assert peer.sent[-1] == End(1, False, 3, 5)


def test_what_a_source_brings_while_it_is_asked_goes_out_in_order(peer: Any) -> None:
    """As a connection does that reads on once something of its body was taken."""

    class Refilled(WholeBody):
        def __init__(self) -> None:
            super().__init__(b"a")
            self.left = [b"b", b"c"]

        def take(self) -> Any:
            piece = super().take()
            if piece is not None and self.left:
                self._rest = memoryview(self.left.pop(0))
                self.size = len(self._rest)
                assert self.wake is not None
                self.wake()
            return piece

    Outgoing(peer, 1).follow(Refilled())
    assert peer.data == b"abc"
    assert peer.ends == [True]


def test_a_stream_that_was_stopped_sends_nothing_more(peer: Any) -> None:
    source = WholeBody(bytes(1024 * 1024))
    stream = Outgoing(peer, 1)
    stream.follow(source)
    before = list(peer.sent)
    stream.stop()
    stream.grant(BODY_WINDOW_BYTES)
    assert peer.sent == before
    assert source.wake is None


# -- the end that takes --------------------------------------------------------------------------------------------


def test_what_was_taken_is_granted_with_the_next_that_is_asked_for() -> None:
    body, granted = incoming()
    for _ in range(3):
        body.feed(bytes(PIECE_BYTES // 2))
    body.take()
    body.take()
    assert granted == []
    body.take()
    assert granted == [PIECE_BYTES]
    assert body.take() is None
    assert granted == [PIECE_BYTES], "less than a piece is kept back"


@pytest.mark.parametrize("first", [1, PIECE_BYTES, LONGEST])
def test_the_first_part_of_an_answer_is_owed_and_that_of_a_call_is_not(first: int) -> None:
    for owes, expected in ((True, first + PIECE_BYTES), (False, PIECE_BYTES)):
        body, granted = incoming(bytes(first), owes_first=owes)
        assert body.size == first
        body.feed(bytes(PIECE_BYTES))
        while body.take() is not None:
            pass
        assert sum(granted) == expected


def test_a_full_window_is_known_and_so_is_one_that_is_overrun() -> None:
    body, _ = incoming(bytes(PIECE_BYTES))
    for _ in range(4):
        assert not body.is_full
        body.feed(bytes(PIECE_BYTES))
    assert body.is_full
    body.take()
    body.take()
    assert body.is_full, "nothing was granted yet"
    body.take()
    assert not body.is_full
    for _ in range(5):
        assert not body.is_overrun
        body.feed(bytes(PIECE_BYTES))
    body.feed(bytes(PIECE_BYTES))
    assert body.is_overrun


def test_a_body_that_has_ended_grants_no_more() -> None:
    body, granted = incoming()
    body.feed(bytes(2 * PIECE_BYTES))
    body.end()
    assert body.take_all() == bytes(2 * PIECE_BYTES)
    assert granted == []
    assert not body.granted


def test_what_broke_it_off_is_raised_behind_what_has_come() -> None:
    body, _ = incoming(b"first")
    body.end(ConnectionError("gone"))
    body.end()
    body.feed(b"late")
    assert body.take() == b"first"
    with pytest.raises(ConnectionError, match="gone"):
        body.take()


def test_what_is_discarded_is_not_read() -> None:
    body, _ = incoming(b"first")
    body.discard(ConnectionError("gone"))
    assert body.size == 0
    with pytest.raises(ConnectionError, match="gone"):
        body.wait()


def in_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """What ``call`` returns, or raises, in a thread that has begun."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(10)
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    return result


def test_a_thread_waits_for_what_comes() -> None:
    body, _ = incoming()
    found = in_thread(lambda: [body.wait(), body.wait(), body.wait()])
    body.feed(b"a")
    body.feed(b"b")
    body.end()
    assert found() == [b"a", b"b", None]


def test_a_thread_that_waits_is_told_that_it_is_broken_off() -> None:
    body, _ = incoming()
    found = in_thread(body.wait)
    body.end(ConnectionError("gone"))
    with pytest.raises(ConnectionError, match="gone"):
        found()


def test_read_as_a_file() -> None:
    body, _ = incoming(b"one\ntwo")
    file = body.as_file()
    found = in_thread(lambda: [file.readline(), file.read(2), file.read()])
    body.feed(b"\nthree")
    for _ in range(3):
        body.feed(bytes(PIECE_BYTES))
    body.end()
    line, two, rest = found()
    assert (line, two) == (b"one\n", b"tw")
    assert rest == b"o\nthree" + bytes(3 * PIECE_BYTES)


def test_a_task_waits_for_what_comes_on_its_own_loop_and_from_another_thread() -> None:
    async def read(feed: Callable[[Callable[[], None]], object]) -> list[bytes]:
        body, _ = incoming()

        def come() -> None:
            body.feed(b"a")
            body.feed(b"b")
            body.end()

        feed(come)
        return [piece async for piece in body]

    async def on_its_own() -> list[bytes]:
        return await read(asyncio.get_running_loop().call_soon)

    assert run(on_its_own()) == [b"a", b"b"]
    assert run(read(lambda come: threading.Timer(0.01, come).start())) == [b"a", b"b"]


def test_a_second_task_is_refused() -> None:
    async def two() -> None:
        body, _ = incoming()
        first = asyncio.ensure_future(body.arrive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one reader at a time"):
            await body.arrive()
        body.feed(b"a")
        assert await first == b"a"

    run(two())


def test_a_task_that_is_cancelled_leaves_the_body_to_another() -> None:
    async def cancelled() -> None:
        body, _ = incoming()
        first = asyncio.ensure_future(body.arrive())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        body.feed(b"a")
        assert await body.arrive() == b"a"

    run(cancelled())


# -- both -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, LONGEST), max_size=20),
    st.integers(0, PIECE_BYTES),
    st.booleans(),
    st.lists(st.sampled_from(["write", "take"]), max_size=60),
)
def test_neither_end_waits_for_the_other_and_no_more_than_the_window_is_on_the_way(
    pieces: list[int], first: int, of_a_call: bool, steps: list[str]
) -> None:
    link: Any = Peer()
    stream = Outgoing(link, 1, 0 if of_a_call else first)
    body = Incoming(stream.grant, bytes(first), owes_first=not of_a_call)
    to_send, taken, longest = list(pieces), 0, max(pieces, default=1)

    def write() -> None:
        if to_send and stream.credit > 0:
            stream.write(bytes(to_send.pop(0)))
            body.feed(link.sent[-1].data)
            assert BODY_WINDOW_BYTES - stream.credit < BODY_WINDOW_BYTES + longest

    def take() -> None:
        nonlocal taken
        taken += len(body.take() or b"")
        assert stream.credit <= BODY_WINDOW_BYTES, "no more is granted than took credit"

    for step in steps:
        (write if step == "write" else take)()
    for _ in range(2 * len(pieces) + 2):
        write()
        take()
    assert not to_send, "all was taken, and the sender waits"
    assert taken == first + sum(pieces)


def test_credits_are_frames_of_the_call_that_is_read(peer: Any) -> None:
    body = Incoming(lambda size: peer.send(Credit(9, size)))
    body.feed(bytes(PIECE_BYTES))
    assert body.take() == bytes(PIECE_BYTES)
    assert body.take() is None
    assert peer.sent == [Credit(9, PIECE_BYTES)]


def test_what_a_thread_or_a_task_has_read_is_granted_at_once() -> None:
    async def read() -> None:
        body, granted = incoming()
        for _ in range(3):
            body.feed(bytes(PIECE_BYTES))
        body.wait()
        assert granted == [PIECE_BYTES]
        await body.arrive()
        body.as_file().read(1)
        assert granted == 3 * [PIECE_BYTES]

    run(read())
