"""Long bodies through the router: credit both ways, calls that are sent again, and answers that are broken off."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.config import HttpLimits
from servekit.http1.body import IncomingBody
from servekit.ingress.bodies import Download, Upload
from servekit.ingress.spool import SpoolSpace
from servekit.interfaces import Outcome
from servekit.wire.data_frames import (
    BODY_WINDOW_BYTES,
    PIECE_BYTES,
    UNKNOWN,
    Answer,
    Call,
    Cancel,
    Chunk,
    Credit,
    End,
    Refusal,
)
from servekit.wire.streams import Incoming, Outgoing

FIRST = bytes(65_000)
HEAD = b"content-type: text/plain\r\n"


@pytest.fixture
def served(world: Any) -> Any:
    world.apply(world.backend(), world.endpoint(methods=("GET", "POST", "PUT"), timeout_s=2.0))
    return world


@pytest.fixture
def pair(world: Any) -> Any:
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint(methods=("GET", "POST", "PUT"), timeout_s=2.0))
    return world


class Due(IncomingBody):
    """Enough has come for the call to be handed over; how much that is, is for one test alone."""

    is_full = True


def upload(world: Any, method: str = "POST", **more: Any) -> tuple[Any, IncomingBody]:
    incoming = Due()
    return world.ask(method=method, body=FIRST, incoming=incoming, **more), incoming


def sent(world: Any, replica: str = "r1", number: int = 1) -> list[bytes]:
    return [frame.data for frame in world.link(replica).of(Chunk) if frame.id == number]


def ends(world: Any, replica: str = "r1") -> list[End]:
    found: list[End] = world.link(replica).of(End)
    return found


def outcomes(world: Any) -> list[Outcome]:
    return [outcome for _, _, outcome in world.policy().finished]


def begin(world: Any, call: Any, first: bytes = b"first", replica: str = "r1", **more: Any) -> None:
    """An answer in pieces; by default one whose handler goes on."""
    fields = {"rest": UNKNOWN, "running": True, **more}
    world.receive(replica, Answer(call.id, 200, HEAD, first, 0, 0, False, **fields))


# -- uploads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [True, False])
def test_a_call_is_handed_over_when_its_body_is_there_or_a_window_of_it(served: Any, ended: bool) -> None:
    incoming = IncomingBody()
    served.ask(method="POST", body=FIRST, incoming=incoming)
    incoming.receive(bytes(BODY_WINDOW_BYTES - 1))
    assert served.calls("r1") == []
    if ended:
        incoming.end()
    else:
        incoming.receive(b"x")
    (call,) = served.calls("r1")
    assert call.more
    assert sum(map(len, sent(served))) == BODY_WINDOW_BYTES - 1 if ended else BODY_WINDOW_BYTES


def test_a_client_that_leaves_before_that_reaches_no_replica(served: Any) -> None:
    incoming = IncomingBody()
    asked = served.ask(method="POST", body=FIRST, incoming=incoming)
    served.leave(asked)
    incoming.end()
    assert served.calls("r1") == []


def test_a_long_body_follows_its_call(served: Any) -> None:
    asked, incoming = upload(served)
    (call,) = served.calls("r1")
    assert call.more
    assert call.request.body == FIRST
    assert sent(served) == []
    incoming.receive(b"one")
    incoming.receive(b"two")
    assert sent(served) == [b"one", b"two"]
    assert ends(served) == []
    before = asked.connection.taken
    incoming.end()
    assert ends(served) == [End(call.id)]
    served.answer("r1", call)
    assert asked.status == 200
    assert asked.connection.taken >= before
    assert len(ends(served)) == 1


def test_a_short_body_is_in_its_call(served: Any) -> None:
    served.ask(method="POST", body=b"short")
    (call,) = served.calls("r1")
    assert not call.more
    assert not ends(served)


def test_what_is_there_already_goes_out_with_the_call(served: Any) -> None:
    incoming = IncomingBody()
    incoming.receive(b"one")
    incoming.end()
    served.ask(method="POST", body=FIRST, incoming=incoming)
    kinds = [type(frame) for frame in served.link("r1").frames]
    assert kinds == [Call, Chunk, End]


def test_no_more_is_sent_than_there_is_credit_for(served: Any) -> None:
    asked, incoming = upload(served)
    piece = bytes(100_000)
    for _ in range(5):
        incoming.receive(piece)
    assert len(sent(served)) == 3  # The third went beyond the window, and then no more.
    assert incoming.size == 200_000
    served.receive("r1", Credit(1, 40_000))
    assert len(sent(served)) == 4 - (BODY_WINDOW_BYTES + 40_000 <= 300_000)
    served.receive("r1", Credit(1, 10_000))
    assert len(sent(served)) == 4
    incoming.end()
    assert not ends(served)  # Not before the last piece.
    served.receive("r1", Credit(1, 200_000))
    assert len(sent(served)) == 5
    assert len(ends(served)) == 1
    assert not asked.answered


def test_credit_for_a_call_that_is_over_does_nothing(served: Any) -> None:
    _, incoming = upload(served)
    incoming.receive(bytes(300_000))
    served.answer("r1", served.calls("r1")[0])
    count = len(served.link("r1").frames)
    served.receive("r1", Credit(1, 100_000), Credit(77, 1))
    assert len(served.link("r1").frames) == count


def test_after_an_early_answer_nothing_more_is_sent_nor_kept(served: Any) -> None:
    asked, incoming = upload(served)
    incoming.receive(b"one")
    served.answer("r1", served.calls("r1")[0])
    assert asked.status == 200
    incoming.receive(b"two")
    incoming.end()
    assert sent(served) == [b"one"]
    assert not ends(served)
    assert incoming.size == 0
    assert not served.cancels("r1")


@pytest.mark.parametrize("path", ["/nowhere", "/x"])
def test_after_a_refusal_of_our_own_nothing_is_kept(world: Any, path: str) -> None:
    world.apply(world.backend(), world.endpoint(methods=("GET",)))
    incoming = IncomingBody()
    asked = world.ask(path, "POST", body=FIRST, incoming=incoming)
    assert asked.status in (404, 405)
    incoming.receive(bytes(1000))
    assert incoming.size == 0


def test_a_client_that_leaves_in_mid_upload(served: Any) -> None:
    asked, incoming = upload(served)
    (call,) = served.calls("r1")
    incoming.receive(b"one")
    served.leave(asked)
    assert served.cancels("r1") == [call.id]
    assert not ends(served)
    assert outcomes(served) == [Outcome.ABANDONED]
    assert served.records[-1].status == 499
    assert served.replica("r1").outstanding == 1
    served.receive("r1", Refusal(call.id, "cancelled"))
    assert served.replica("r1").outstanding == 0
    assert len(served.records) == 1


def test_a_deadline_in_mid_upload(served: Any) -> None:
    asked, incoming = upload(served)
    served.loop.advance(3.0)
    assert asked.status == 504
    assert len(served.cancels("r1")) == 1
    incoming.receive(b"late")
    assert sent(served) == []


# -- sent again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_a_replica_dies_in_mid_upload(pair: Any, method: str, granted: bool, written: bool) -> None:
    asked, incoming = upload(pair, method)
    (call,) = pair.calls("r1")
    incoming.receive(b"one")
    if granted:
        pair.receive("r1", Credit(1, 1000))
    incoming.receive(b"two")
    pair.lose("r1", unsent=[] if written else [call])
    if granted or (method == "POST" and written):
        assert asked.status == 502
        assert not pair.calls("r2")
        assert incoming.size == 0
        return
    incoming.receive(b"three")
    incoming.end()
    (again,) = pair.calls("r2")
    assert again.more
    assert again.request.body == FIRST
    assert sent(pair, "r2") == [b"one", b"two", b"three"]
    assert ends(pair, "r2") == [End(again.id)]
    pair.answer("r2", again)
    assert asked.status == 200


def test_a_draining_replica_gives_back_an_upload_that_waits_for_another(world: Any) -> None:
    """What comes meanwhile is kept, too."""
    world.apply(world.backend("b", ["r1"]), world.endpoint())
    asked, incoming = upload(world)
    incoming.receive(b"one")
    old = world.link("r1")
    world.receive("r1", *[Refusal(1, "draining")])
    # It is dispatched at once, to the same replica here, which refuses again, and leaves.
    again = world.calls("r1")[-1]
    assert [frame.data for frame in old.of(Chunk) if frame.id == again.id] == [b"one"]
    world.lose("r1", unsent=[again])
    incoming.receive(b"two")
    incoming.end()
    assert not asked.answered
    new = world.open(world.replica("r1"))
    (call,) = new.of(Call)
    assert [frame.data for frame in new.of(Chunk)] == [b"one", b"two"]
    assert new.of(End) == [End(call.id)]


def test_what_was_sent_is_kept_only_up_to_the_window(pair: Any) -> None:
    _, incoming = upload(pair, "PUT")
    for _ in range(10):
        incoming.receive(bytes(50_000))
    count = len(sent(pair))
    pair.lose("r1")
    assert len(sent(pair, "r2")) == count
    assert sum(map(len, sent(pair, "r2"))) < BODY_WINDOW_BYTES + 50_000
    pair.receive("r2", Credit(1, 1_000_000))
    assert len(sent(pair, "r2")) == 10


# -- answers in pieces ----------------------------------------------------------------------------------------------


def test_an_answer_of_known_length(served: Any) -> None:
    asked = served.ask()
    (call,) = served.calls("r1")
    begin(served, call, b"first", rest=6, running=False)
    assert served.replica("r1").outstanding == 0  # The handler is over.
    assert asked.connection.begun[0][2] == 11
    served.receive("r1", Chunk(call.id, b"second"))
    assert served.records == []
    served.receive("r1", End(call.id))
    assert asked.connection.pieces == [b"first", b"second"]
    assert asked.connection.ended == [True]
    assert outcomes(served) == [Outcome.ANSWERED]
    assert [record.status for record in served.records] == [200]
    assert not served.replica("r1").calls.pending


def test_an_answer_that_is_being_made_holds_its_place(served: Any) -> None:
    asked = served.ask()
    (call,) = served.calls("r1")
    begin(served, call)
    assert asked.connection.begun[0][2] is None
    assert asked.exchange.id.encode() in asked.connection.begun[0][1]
    assert served.replica("r1").outstanding == 1
    served.receive("r1", End(call.id, True, 3, 1000))
    assert served.replica("r1").outstanding == 0
    assert served.replica("r1").queue_length == 3
    assert asked.connection.ended == [True]


def test_an_answer_that_has_begun_has_no_deadline(served: Any) -> None:
    asked = served.ask()
    begin(served, served.calls("r1")[0])
    served.loop.advance(100)
    assert not asked.connection.ended
    assert not served.cancels("r1")


def test_an_answer_that_is_broken_off(served: Any) -> None:
    asked = served.ask()
    begin(served, served.calls("r1")[0])
    served.receive("r1", End(1, False))
    assert asked.connection.ended == [False]
    assert outcomes(served) == [Outcome.FAILED]
    assert served.replica("r1").outstanding == 0


@pytest.mark.parametrize("running", [True, False])
def test_a_replica_that_dies_in_mid_answer_cuts_it(pair: Any, running: bool) -> None:
    asked = pair.ask()
    other = pair.ask()
    begin(pair, pair.calls("r1")[0], running=running, rest=UNKNOWN if running else 1000)
    pair.lose("r1")
    assert asked.connection.ended == [False]
    assert not asked.answered
    assert len(pair.calls("r2")) == 1  # The other one, and not this one.
    pair.answer("r2", pair.calls("r2")[0])
    assert other.status == 200
    assert outcomes(pair)[:2] == [Outcome.LOST, Outcome.LOST]


def test_a_client_that_leaves_in_mid_answer(served: Any) -> None:
    asked = served.ask()
    begin(served, served.calls("r1")[0])
    served.leave(asked)
    assert served.cancels("r1") == [1]
    served.receive("r1", Chunk(1, bytes(100_000)), Chunk(1, bytes(100_000)))
    assert not served.link("r1").of(Credit)
    assert asked.connection.pieces == [b"first"]
    served.receive("r1", End(1, False))
    assert served.replica("r1").outstanding == 0
    assert outcomes(served) == [Outcome.ABANDONED]
    assert [record.status for record in served.records] == [499]


def test_an_answer_that_begins_after_its_client_has_left(served: Any) -> None:
    asked = served.ask()
    served.leave(asked)
    begin(served, served.calls("r1")[0])
    served.receive("r1", Chunk(1, b"more"), End(1, False))
    assert asked.connection.begun == []
    assert served.replica("r1").outstanding == 0
    assert not served.replica("r1").calls.pending


def test_a_retired_replica_goes_on_with_its_answers(served: Any) -> None:
    asked = served.ask()
    begin(served, served.calls("r1")[0])
    replica = served.replica("r1")
    served.apply(served.backend("b", []))
    for frame in (Chunk(1, b"more"), End(1)):
        replica.calls.frame_received(replica.calls.link, frame)
    assert asked.connection.pieces == [b"first", b"more"]
    assert asked.connection.ended == [True]


def test_a_slow_reader_is_granted_no_credit(served: Any) -> None:
    asked = served.ask()
    asked.connection.reads = False
    begin(served, served.calls("r1")[0], bytes(PIECE_BYTES))
    served.receive("r1", *[Chunk(1, bytes(PIECE_BYTES)) for _ in range(3)])
    assert not served.link("r1").of(Credit)
    asked.connection.reads = True
    asked.exchange.writable()
    assert sum(credit.size_bytes for credit in served.link("r1").of(Credit)) == 4 * PIECE_BYTES
    granted = len(served.link("r1").of(Credit))
    asked.exchange.writable()
    assert len(served.link("r1").of(Credit)) == granted


def test_an_upload_goes_on_behind_an_answer_that_has_begun(served: Any) -> None:
    asked, incoming = upload(served)
    begin(served, served.calls("r1")[0])
    incoming.receive(b"one")
    assert sent(served) == [b"one"]
    served.receive("r1", End(1))
    assert asked.connection.ended == [True]
    incoming.receive(b"two")
    assert sent(served) == [b"one"]
    assert incoming.size == 0


# -- credit ---------------------------------------------------------------------------------------------------------


class Far:
    """A replica's end of a link, for one body."""

    def __init__(self) -> None:
        self.received = b""
        self.outstanding = 0
        """Sent and not granted again."""
        self.most = 0
        self.ended = 0
        self.granted = 0

    def send(self, frame: Any) -> None:
        assert self.ended == 0
        if type(frame) is Chunk:
            self.received += frame.data
            self.outstanding += len(frame.data)
            self.most = max(self.most, self.outstanding)
        elif type(frame) is Credit:
            self.granted += frame.size_bytes
        else:
            self.ended += 1


class Near:
    def body_taken(self) -> None:
        pass


@given(
    st.lists(st.integers(1, 200_000), max_size=12),
    st.lists(st.integers(0, 3), max_size=30),
)
def test_uploads_keep_to_their_credit_and_arrive(pieces: list[int], steps: list[int]) -> None:
    """Pieces come and credit is granted in any order: never beyond the window and one piece, and never stuck."""
    far: Any = Far()
    near: Any = Near()
    incoming, body = IncomingBody(), [bytes([number % 251]) * size for number, size in enumerate(pieces)]
    upload = Upload(incoming, near)
    stream = Outgoing(far, 1)
    upload.start(stream)
    todo = list(body)
    for step in steps:
        if step == 0 and todo:
            incoming.receive(todo.pop(0))
        elif step == 1 and far.outstanding >= PIECE_BYTES:
            granted, far.outstanding = far.outstanding, 0
            stream.grant(granted)
        elif step == 2 and upload.can_start_again:
            far.received, far.outstanding, far.ended = b"", 0, 0
            stream.stop()
            stream = Outgoing(far, 1)
            upload.start(stream)
    for piece in todo:
        incoming.receive(piece)
    incoming.end()
    while far.outstanding >= PIECE_BYTES and not far.ended:
        granted, far.outstanding = far.outstanding, 0
        stream.grant(granted)
    assert far.received == b"".join(body)
    assert far.ended == 1
    assert far.most < BODY_WINDOW_BYTES + max(pieces, default=1)
    assert incoming.size == 0


class Client:
    """An exchange whose client reads, or does not."""

    done = False

    def __init__(self) -> None:
        self.reads = True
        self.written = 0
        self.ends: list[bool] = []

    def write(self, data: bytes) -> bool:
        self.written += len(data)
        return self.reads

    def delivered(self, *, complete: bool) -> None:
        self.done = True
        self.ends.append(complete)


@given(st.integers(0, PIECE_BYTES), st.lists(st.tuples(st.integers(1, PIECE_BYTES), st.booleans()), max_size=60))
def test_downloads_grant_what_was_read_and_never_leave_a_sender_without(
    first: int, pieces: list[tuple[int, bool]]
) -> None:
    far: Any = Far()
    client: Any = Client()
    incoming = Incoming(lambda size: far.send(Credit(1, size)), bytes(first), owes_first=True)
    download = Download(client, 200, incoming, None)
    sent = first
    for size, reads in pieces:
        client.reads = reads
        if BODY_WINDOW_BYTES - (sent - far.granted) <= 0:
            client.reads = True
            download.client_reads()  # What the client's reading on leads to.
            assert sent - far.granted < PIECE_BYTES
            client.reads = reads
        incoming.feed(bytes(size))
        sent += size
        assert far.granted <= client.written
        if reads and client.written == sent:
            assert sent - far.granted < PIECE_BYTES
    client.reads = True
    download.client_reads()
    incoming.end()
    assert client.written == sent
    assert client.ends == [True]


def test_cancel_is_sent_once(served: Any) -> None:
    asked, _ = upload(served)
    served.leave(asked)
    served.loop.advance(10)
    assert len(served.link("r1").of(Cancel)) == 1


# -- bodies that are taken in whole ---------------------------------------------------------------------------------


@pytest.fixture
def whole(world: Any) -> Any:
    """Two replicas that are to be given bodies whole."""
    replicas = world.backend("b", ["r1", "r2"], streams_bodies=False)
    world.apply(replicas, world.endpoint(methods=("GET", "POST", "PUT"), timeout_s=2.0))
    return world


def feed(incoming: IncomingBody, size: int, *, end: bool = False) -> bytes:
    pieces = [bytes([number % 251]) * min(100_000, size - at) for number, at in enumerate(range(0, size, 100_000))]
    for piece in pieces:
        incoming.receive(piece)
    if end:
        incoming.end()
    return b"".join(pieces)


def received(world: Any, replica: str, call: Call) -> bytes:
    """The body that a replica has got behind a call, which reads all of it."""
    while not [frame for frame in world.link(replica).of(End) if frame.id == call.id]:
        before = len(world.link(replica).frames)
        world.receive(replica, Credit(call.id, PIECE_BYTES))
        assert len(world.link(replica).frames) > before
    return b"".join(sent(world, replica, call.id))


@pytest.mark.parametrize("size", [10, 300_000, 5_000_000])
def test_the_policy_is_asked_once_the_body_is_here(whole: Any, size: int) -> None:
    asked, incoming = upload(whole)
    body = feed(incoming, size)
    assert incoming.size == 0
    assert whole.policy().choices == []
    assert not whole.router.backends["b"].waiting
    assert not whole.calls("r1")
    incoming.end()
    (call,) = whole.calls("r1")
    assert call.request.body == FIRST
    assert received(whole, "r1", call) == body
    whole.answer("r1", call)
    assert asked.status == 200
    assert whole.spools.used_bytes == whole.spools.memory_bytes == 0


def test_a_long_body_waits_in_a_file_and_not_in_memory(whole: Any) -> None:
    _, incoming = upload(whole)
    feed(incoming, 900_000)
    assert (whole.spools.memory_bytes, whole.spools.used_bytes) == (900_000, 0)
    feed(incoming, 900_000)
    assert (whole.spools.memory_bytes, whole.spools.used_bytes) == (0, 1_800_000)


@pytest.mark.parametrize("how", ["client", "deadline", "refusal"])
@pytest.mark.parametrize("size", [500_000, 3_000_000])
def test_what_was_taken_in_is_let_go_of(whole: Any, how: str, size: int) -> None:
    asked, incoming = upload(whole)
    feed(incoming, size)
    if how == "client":
        whole.leave(asked)
    elif how == "deadline":
        whole.loop.advance(3.0)
        assert asked.status == 504
    else:
        whole.apply(gone=["endpoint:e"])
        incoming.end()
        assert asked.status == 404
    assert whole.spools.used_bytes == whole.spools.memory_bytes == 0
    incoming.receive(b"late")
    assert incoming.size == 0
    assert not whole.calls("r1")


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_whole_body_is_sent_again_until_an_answer_has_begun(whole: Any, method: str) -> None:
    asked, incoming = upload(whole, method)
    body = feed(incoming, 3_000_000, end=True)
    (call,) = whole.calls("r1")
    assert received(whole, "r1", call) == body
    whole.lose("r1")
    if method == "POST":
        assert asked.status == 502
    else:
        (again,) = whole.calls("r2")
        assert again.request.body == FIRST
        assert received(whole, "r2", again) == body
        begin(whole, again, replica="r2")
        assert whole.spools.used_bytes == 0
        whole.receive("r2", End(again.id))
        assert asked.connection.ended == [True]
    assert whole.spools.used_bytes == 0


def test_an_answer_that_begins_before_the_body_is_read(whole: Any) -> None:
    asked, incoming = upload(whole)
    body = feed(incoming, 3_000_000, end=True)
    (call,) = whole.calls("r1")
    begin(whole, call)
    assert received(whole, "r1", call) == body
    assert whole.spools.used_bytes == 0
    whole.receive("r1", End(call.id))
    assert asked.connection.ended == [True]


def test_one_replica_among_others_that_wants_bodies_whole(world: Any) -> None:
    one, other = world.backend("b", ["r1"]), world.backend("c", ["r2"], streams_bodies=False)
    world.apply(one, other, world.endpoint(weights={"b": 0.5, "c": 0.5}))
    _, incoming = upload(world)
    assert not world.calls("r1")
    incoming.end()
    assert len(world.calls("r1")) == 1


def test_an_upload_that_waits_while_the_traffic_changes_to_such_a_replica(world: Any) -> None:
    whole = world.backend("c", ["r2"], streams_bodies=False)
    world.apply(world.backend(), whole, world.endpoint())
    world.link("r1").writable = False
    asked, incoming = upload(world)
    assert asked.exchange in world.router.backends["b"].waiting
    incoming.receive(b"one")
    world.apply(world.endpoint(weights={"c": 1.0}))
    world.lose("r1")
    assert not world.calls("r2")
    incoming.receive(b"two")
    incoming.end()
    (call,) = world.calls("r2")
    assert received(world, "r2", call) == b"onetwo"


def test_an_upload_that_came_before_any_replica(world: Any) -> None:
    world.links.down.add("r1")
    world.apply(world.backend(streams_bodies=False), world.endpoint())
    asked, incoming = upload(world)
    assert asked.exchange in world.router.endpoints["e"].waiting
    link = world.open(world.replica("r1"))
    assert not link.of(Call)
    incoming.receive(b"one")
    incoming.end()
    (call,) = link.of(Call)
    assert received(world, "r1", call) == b"one"


def test_a_websocket_is_not_taken_in(whole: Any) -> None:
    whole.ask(incoming=IncomingBody(), upgrade=True)
    (call,) = whole.calls("r1")
    assert call.request.upgrade


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_a_body_that_there_is_no_room_for(world: Any, size: int, tmp_path: Any) -> None:
    world.apply(world.backend(streams_bodies=False), world.endpoint())
    world.spools.total_bytes = 2_000_000
    asked, incoming = upload(world)
    feed(incoming, size, end=True)
    if size < 2_000_000:
        assert len(world.calls("r1")) == 1
        return
    assert asked.status == 503
    assert asked.header("retry-after") == "1"
    assert "no room" in asked.text
    assert not world.calls("r1")
    assert world.spools.used_bytes == 0


def test_a_body_that_cannot_be_read_again(whole: Any, monkeypatch: Any) -> None:
    def pread(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    asked, incoming = upload(whole)
    feed(incoming, 3_000_000)
    monkeypatch.setattr("os.pread", pread)
    incoming.end()
    assert asked.status == 503
    assert len(whole.cancels("r1")) == 1
    assert outcomes(whole) == [Outcome.ABANDONED]


# -- slow readers ---------------------------------------------------------------------------------------------------


def test_a_body_that_cannot_be_read_again_behind_an_answer_that_has_begun(whole: Any, monkeypatch: Any) -> None:
    incoming = IncomingBody()
    asked = whole.ask(method="POST", body=FIRST, incoming=incoming)
    feed(incoming, 2_000_000, end=True)
    (call,) = whole.calls("r1")
    begin(whole, call, rest=UNKNOWN, running=True)

    def fail(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("servekit.ingress.spool.os.pread", fail)
    whole.receive("r1", Credit(call.id, BODY_WINDOW_BYTES))
    assert asked.connection.ended == [False]
    assert not asked.answered


def stall(world: Any, **more: Any) -> Any:
    """A request whose client stops reading with the first piece of its answer."""
    asked = world.ask()
    begin(world, world.calls("r1")[-1], **more)
    asked.connection.reads = False
    return asked


def more(world: Any, count: int, number: int = 1, size: int = PIECE_BYTES) -> bytes:
    """So many more pieces come from the replica, each only if there is credit."""
    body = b""
    for index in range(count):
        granted = sum(frame.size_bytes for frame in world.link("r1").of(Credit) if frame.id == number)
        if world.came[number] - granted >= BODY_WINDOW_BYTES:
            break
        piece = bytes([index % 251]) * size
        world.came[number] += size
        body += piece
        world.receive("r1", Chunk(number, piece))
    return body


def read_on(world: Any, asked: Any, times: int = 100_000) -> None:
    """The client takes a piece at a time: its buffer is full again with each."""
    for _ in range(times):
        before = len(asked.connection.pieces)
        asked.exchange.writable()
        if asked.connection.ended or len(asked.connection.pieces) == before:
            return


def test_an_answer_leaves_its_replica_while_its_client_does_not_read(served: Any) -> None:
    asked = stall(served)
    body = more(served, 1)
    assert len(body) == PIECE_BYTES
    body += more(served, 1)
    assert not served.link("r1").of(Credit)  # The client may be about to read.
    served.loop.advance(0.1)
    assert served.link("r1").of(Credit)
    body += more(served, 100)
    assert len(body) == 102 * PIECE_BYTES
    assert served.spools.used_bytes >= 100 * PIECE_BYTES
    served.receive("r1", End(1, True, 0, 0))
    assert served.replica("r1").outstanding == 0
    assert not served.replica("r1").calls.pending
    assert outcomes(served) == [Outcome.ANSWERED]
    assert served.records == []
    served.lose("r1")  # Which does no harm any more.
    assert not asked.connection.ended
    read_on(served, asked)
    assert b"".join(asked.connection.pieces) == b"first" + body
    assert asked.connection.ended == [True]
    assert [record.status for record in served.records] == [200]
    assert outcomes(served) == [Outcome.ANSWERED]
    assert served.spools.used_bytes == served.spools.memory_bytes == 0
    assert not served.spools.readers


def test_a_client_that_reads_on_soon_costs_no_file(served: Any) -> None:
    asked = stall(served)
    body = more(served, 2)
    asked.connection.reads = True
    asked.exchange.writable()
    served.loop.advance(1.0)
    body += more(served, 100)
    assert served.spools.used_bytes == 0
    served.receive("r1", End(1))
    assert b"".join(asked.connection.pieces) == b"first" + body
    assert asked.connection.ended == [True]


def test_a_client_that_catches_up_and_falls_behind_again(served: Any) -> None:
    asked = stall(served)
    body = b""
    for _ in range(3):
        asked.connection.reads = False
        body += more(served, 3)
        served.loop.advance(0.1)
        body += more(served, 3)
        assert served.spools.used_bytes > 0
        asked.connection.reads = True
        asked.exchange.writable()
        assert served.spools.used_bytes == 0
        assert b"".join(asked.connection.pieces) == b"first" + body
        assert not served.spools.readers


def test_a_spool_has_a_bound_and_beyond_it_the_replica_waits(served: Any) -> None:
    served.spools.answer_bytes = 1_000_000
    asked = stall(served)
    body = more(served, 2)
    served.loop.advance(0.1)
    body += more(served, 100)
    assert 1_000_000 < len(body) <= 1_000_000 + BODY_WINDOW_BYTES + 2 * PIECE_BYTES
    assert served.spools.used_bytes <= 1_000_000
    for _ in range(40):  # The file is a ring: a client that reads slowly keeps it full.
        read_on(served, asked, 1)
        body += more(served, 1)
        assert served.spools.used_bytes <= 1_000_000
    served.receive("r1", End(1))
    read_on(served, asked)
    assert b"".join(asked.connection.pieces) == b"first" + body
    assert asked.connection.ended == [True]


def test_a_disk_that_takes_nothing_leaves_the_replica_waiting(served: Any, caplog: Any) -> None:
    served.spools._directory = "/nowhere"
    asked = stall(served)
    body = more(served, 100)
    served.loop.advance(1.0)
    body += more(served, 100)
    assert len(body) <= BODY_WINDOW_BYTES + 2 * PIECE_BYTES
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    asked.connection.reads = True
    asked.exchange.writable()
    body += more(served, 10)
    served.receive("r1", End(1))
    assert b"".join(asked.connection.pieces) == b"first" + body
    assert asked.connection.ended == [True]


def test_an_answer_whose_spool_cannot_be_read_is_cut(served: Any, monkeypatch: Any) -> None:
    def pread(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    asked = stall(served)
    more(served, 2)
    served.loop.advance(0.1)
    monkeypatch.setattr("os.pread", pread)
    asked.exchange.writable()
    assert asked.connection.ended == [False]
    assert served.cancels("r1") == [1]
    assert served.spools.used_bytes == 0


@pytest.mark.parametrize("is_over", [False, True])
def test_a_client_that_leaves_with_a_spool(served: Any, is_over: bool) -> None:
    asked = stall(served)
    more(served, 3)
    served.loop.advance(0.1)
    if is_over:
        served.receive("r1", End(1))
    served.leave(asked)
    assert served.cancels("r1") == ([] if is_over else [1])
    assert outcomes(served) == [Outcome.ANSWERED if is_over else Outcome.ABANDONED]
    assert [record.status for record in served.records] == [499]
    assert served.spools.used_bytes == served.spools.memory_bytes == 0
    assert not served.spools.readers


@pytest.mark.parametrize("how", ["broken off", "lost"])
def test_an_answer_that_breaks_off_behind_what_is_spooled(served: Any, how: str) -> None:
    asked = stall(served)
    body = more(served, 5)
    served.loop.advance(0.1)
    if how == "lost":
        served.lose("r1")
    else:
        served.receive("r1", End(1, False))
    assert not asked.connection.ended
    read_on(served, asked)
    assert b"".join(asked.connection.pieces) == b"first" + body
    assert asked.connection.ended == [False]
    assert outcomes(served) == [Outcome.LOST if how == "lost" else Outcome.FAILED]


@pytest.mark.parametrize("is_over", [False, True])
def test_the_slowest_reader_is_cut_when_all_room_is_in_use(served: Any, is_over: bool) -> None:
    slow = stall(served)
    more(served, 5)
    served.loop.advance(0.1)
    if is_over:
        served.receive("r1", End(1))
    served.loop.advance(10.0)
    served.spools.total_bytes = served.spools.used_bytes
    other = stall(served)
    number = served.calls("r1")[-1].id
    more(served, 3, number)
    served.loop.advance(0.1)
    assert slow.connection.ended == [False]
    assert served.cancels("r1") == ([] if is_over else [1])
    assert not other.connection.ended
    assert served.spools.used_bytes > 0
    assert [record.status for record in served.records] == [200]


def test_a_reader_that_is_cut_to_make_room_for_itself_leaves_nothing(served: Any) -> None:
    served.spools.total_bytes = 200_000
    asked = stall(served)
    more(served, 2, size=60_000)
    served.loop.advance(10.0)
    more(served, 4, size=60_000)
    assert asked.connection.ended == [False]
    served.loop.advance(10.0)
    assert (served.spools.used_bytes, served.spools.memory_bytes) == (0, 0)
    assert not served.spools.readers


def test_a_websocket_that_is_not_read_holds_its_handler_back(served: Any) -> None:
    asked = served.ask(incoming=IncomingBody(), upgrade=True)
    served.receive("r1", Answer(1, 101, b"", b"", 0, 0, False, UNKNOWN, True))
    asked.connection.reads = False
    more(served, 100)
    served.loop.advance(1.0)
    assert not served.link("r1").of(Credit)
    assert served.spools.used_bytes == 0


def test_the_rest_of_an_upload_is_let_go_of_when_its_answer_is_made(served: Any) -> None:
    """And read, and forgotten: its client may not read before it has sent all."""
    asked, incoming = upload(served)
    begin(served, served.calls("r1")[0])
    asked.connection.reads = False
    more(served, 2)
    served.receive("r1", End(1))
    assert not asked.connection.ended
    before = asked.connection.taken
    incoming.receive(b"late")
    assert incoming.size == 0
    assert asked.connection.taken >= before > 0


class Turns:
    """An exchange whose client takes so many pieces, then no more until it `reads_on`."""

    def __init__(self) -> None:
        self.done = False
        self.room = 1
        self.got: list[bytes] = []
        self.complete: bool | None = None

    def write(self, data: bytes) -> bool:
        self.got.append(data)
        self.room -= 1
        return self.room > 0

    def delivered(self, *, complete: bool) -> None:
        assert not self.done
        self.done, self.complete = True, complete
        self.download.stop()

    def cut(self) -> None:
        raise AssertionError("nothing is wrong with it")

    download: Download


@settings(deadline=None)
@given(
    steps=st.lists(
        st.one_of(st.integers(1, PIECE_BYTES), st.sampled_from(["read", "wait", "full", "free"])), max_size=80
    ),
    bound=st.sampled_from([0, 100_000, 1_000_000]),
    first=st.integers(0, PIECE_BYTES),
)
def test_downloads_deliver_all_in_order_whatever_the_client_and_the_disk_do(
    steps: list[Any], bound: int, first: int, new_loop: Any, tmp_path_factory: Any
) -> None:
    loop = new_loop()
    space = SpoolSpace(HttpLimits(spool_answer_bytes=bound), str(tmp_path_factory.getbasetemp()), loop)
    far: Any = Far()
    client: Any = Turns()
    sent = [bytes(first)]
    incoming = Incoming(lambda size: far.send(Credit(1, size)), sent[0], owes_first=True)
    download = client.download = Download(client, 200, incoming, space)

    def read(pieces: int) -> None:
        waited, client.room = client.room <= 0, pieces
        if waited and not client.done:
            download.client_reads()

    def come(piece: bytes) -> None:
        sent.append(piece)
        incoming.feed(piece)

    for number, step in enumerate(steps):
        if step == "read":
            read(1 + number % 3)
        elif step == "wait":
            loop.advance(0.02)
        elif step in ("full", "free"):
            space.total_bytes = 0 if step == "full" else 10**9
        elif sum(map(len, sent)) - far.granted < BODY_WINDOW_BYTES:
            come(bytes([number]) * step)
        assert space.used_bytes <= bound
        assert sum(map(len, sent)) - far.granted < BODY_WINDOW_BYTES + PIECE_BYTES
    space.total_bytes = 10**9
    for _ in range(2 * len(sent) + 10):  # Once the client has taken all, its sender has credit again.
        read(10)
        loop.advance(0.02)
    assert b"".join(client.got) == b"".join(sent)
    assert sum(map(len, sent)) - far.granted < PIECE_BYTES
    client.room = 0
    for _ in range(3):
        come(b"the last pieces")
    incoming.end()
    while not client.done:
        read(1)
        loop.advance(0.02)
    assert client.complete
    assert b"".join(client.got) == b"".join(sent)
    assert (space.used_bytes, space.memory_bytes, len(space.readers)) == (0, 0, 0)
    assert not [timer for _, _, timer, _ in loop.timers if not timer.cancelled]
