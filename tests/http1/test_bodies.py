"""Long bodies of requests: handed over in pieces, taken or not, and broken off in every way."""

from __future__ import annotations

import contextlib
import gc
import itertools
import socket
import threading
import weakref
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import HttpLimits
from servekit.http1.body import BUFFER_BYTES, WHOLE_BYTES, IncomingBody
from servekit.http1.reader import FEED_BYTES, Phase, RequestReader
from servekit.http1.request import HttpRequest, gather

PIECE_BYTES = BUFFER_BYTES
"""The longest that is read at once."""


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def head(framing: str, path: str = "/up", *, more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{more}{framing}\r\n\r\n".encode()


def sized(size: int, path: str = "/up", *, more: str = "") -> bytes:
    return head(f"Content-Length: {size}", path, more=more)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def pattern(size: int) -> bytes:
    """Bytes that show when some are missing, or out of order."""
    return b"".join(b"%08d" % number for number in range(size // 8 + 1))[:size]


def take_all(request: Any) -> bytes:
    pieces = []
    while (piece := request.incoming.take()) is not None:
        pieces.append(piece)
    request.connection.body_taken()
    return b"".join(pieces)


class Upload:
    """A client in the middle of sending a body, and its request as the app has it."""

    def __init__(self, running: Any, eventually: Any, size: int, sent: int) -> None:
        self.client = running.connect()
        self.body = pattern(size)
        before = len(running.app.requests)
        self.client.sendall(sized(size) + self.body[:sent])
        eventually(lambda: len(running.app.requests) > before)
        self.request = running.app.requests[-1]
        self.incoming = self.request.incoming
        eventually(lambda: self.incoming.size >= min(sent - len(self.request.body), BUFFER_BYTES))

    def answer(self) -> tuple[int, bytes]:
        with HTTPResponse(self.client) as response:
            response.begin()
            return response.status, response.read()

    def is_closed(self) -> bool:
        """Once the server has closed; whatever else it would send fails the test."""
        try:
            return self.client.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def begin(eventually: Any) -> Iterator[Any]:
    """Begin to upload ``size`` bytes to a server whose app is a `Desk`, and send the first ``sent`` of them."""
    with contextlib.ExitStack() as stack:

        def begin(running: Any, size: int, sent: int) -> Upload:
            upload = Upload(running, eventually, size, sent)
            stack.enter_context(upload.client)
            return upload

        yield begin


# -- the pieces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, WHOLE_BYTES - 1, WHOLE_BYTES, WHOLE_BYTES + 1, 3 * WHOLE_BYTES])
def test_a_body_up_to_the_limit_is_handed_over_whole(size: int, chunked: bool) -> None:
    reader = RequestReader(HttpRequest, HttpLimits())
    body = pattern(size)
    pieces = [body[at : at + 1000] for at in range(0, size, 1000)]
    if chunked:
        data = head("Transfer-Encoding: chunked") + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
    else:
        data = sized(size) + body
    for at in range(0, len(data), FEED_BYTES):
        reader.feed(data[at : at + FEED_BYTES])
    (request,) = reader.ready
    if size <= WHOLE_BYTES:
        assert request.incoming is None
        assert request.body == body
    else:
        assert request.incoming is not None
        assert WHOLE_BYTES < len(request.body) <= WHOLE_BYTES + FEED_BYTES
        assert request.incoming.ended
        assert request.body + b"".join(iter(request.incoming.take, None)) == body
    assert reader.incoming is None
    assert reader.phase is Phase.BETWEEN


lengths = st.lists(st.integers(1, 90_000), min_size=1, max_size=8)


@given(st.integers(WHOLE_BYTES + 1, 200_000), lengths, lengths, st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_body_arrives_as_it_was_sent_however_it_is_cut(
    size: int, chunks: list[int], feeds: list[int], takes: list[bool]
) -> None:
    """In chunks of any length, fed in pieces of any length, taken at any time."""
    body = pattern(size)
    sent = bytearray(head("Transfer-Encoding: chunked"))
    at = 0
    for length in itertools.cycle(max(length, 100) for length in chunks):
        sent += chunk(body[at : at + length])
        at += length
        if at >= size:
            break
    sent += b"0\r\n\r\n"
    reader = RequestReader(HttpRequest, HttpLimits())
    found = b""
    at = 0
    for length, taken in zip(itertools.cycle(max(length, 100) for length in feeds), itertools.cycle(takes)):
        length = min(length, reader.feed_bytes)
        reader.feed(bytes(sent[at : at + length]))
        at += length
        if reader.ready and reader.ready[0].incoming is not None and taken:
            found += reader.ready[0].incoming.take() or b""
        if at >= len(sent):
            break
    assert reader.fault is None
    (request,) = reader.ready
    assert request.incoming is not None
    assert request.incoming.ended
    found += b"".join(iter(request.incoming.take, None))
    assert request.body + found == body
    assert request.incoming.size == 0


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), st.just("take"), st.just("discard"))))
def test_the_size_is_that_of_what_can_be_taken(events: list[Any]) -> None:
    body, held, wanted, woken = IncomingBody(), list[bytes](), True, 0

    def wake() -> None:
        nonlocal woken
        woken += 1

    body.wake = wake
    for event in events:
        before = woken
        if event == "take":
            assert body.take() == (held.pop(0) if held else None)
        elif event == "discard":
            body.discard()
            held, wanted = [], False
        else:
            body.receive(event)
            if wanted:
                held.append(event)
            assert woken - before == wanted
        assert body.size == sum(map(len, held))


def test_all_of_a_body_is_gathered(desk: Any, begin: Any, eventually: Any) -> None:
    upload = begin(desk, 3_000_000, 100_000)
    found: list[bytes] = []
    desk.call(gather, upload.request, lambda request: found.append(request.body))
    assert found == []
    upload.client.sendall(upload.body[100_000:])
    eventually(lambda: found)
    assert found == [upload.body]


# -- nobody takes it ------------------------------------------------------------------------------------------------


def test_reading_stops_while_nobody_takes(desk: Any, begin: Any, eventually: Any) -> None:
    upload = begin(desk, 20_000_000, 100_000)
    upload.client.setblocking(False)
    at = 100_000
    while True:  # The kernel takes some megabytes, once the server takes nothing.
        try:
            at += upload.client.send(upload.body[at:])
        except BlockingIOError:
            if upload.incoming.size >= BUFFER_BYTES and desk.call(lambda: upload.request.connection._paused):
                break
    assert at < 20_000_000
    assert BUFFER_BYTES <= upload.incoming.size < BUFFER_BYTES + PIECE_BYTES
    found = [upload.request.body]
    most = 0
    while at < len(upload.body) or not upload.incoming.ended or upload.incoming.size:
        most = max(most, upload.incoming.size)
        found.append(desk.call(take_all, upload.request))
        with contextlib.suppress(BlockingIOError):
            at += upload.client.send(upload.body[at:]) if at < len(upload.body) else 0
    assert b"".join(found) == upload.body
    assert most < BUFFER_BYTES + PIECE_BYTES
    upload.client.setblocking(True)
    desk.call(upload.request.respond, 200, b"", b"done")
    assert upload.answer() == (200, b"done")


@pytest.mark.parametrize("sent", [70_000, 5_000_000])
def test_an_answer_before_the_body_leaves_the_connection_usable(
    desk: Any, begin: Any, eventually: Any, sent: int
) -> None:
    upload = begin(desk, 5_000_000, 70_000)
    if sent > 70_000:
        sending = threading.Thread(target=upload.client.sendall, args=(upload.body[70_000:],))
        sending.start()
        eventually(lambda: upload.incoming.size >= BUFFER_BYTES)
        desk.call(upload.request.respond, 200, b"", b"early")
        sending.join(10)
        assert not sending.is_alive()
        assert upload.answer() == (200, b"early")
    else:
        desk.call(upload.request.respond, 200, b"", b"early")
        assert upload.answer() == (200, b"early")
        upload.client.sendall(upload.body[70_000:])
    assert upload.incoming.size == 0
    upload.client.sendall(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
    eventually(lambda: len(desk.app.requests) == 2)
    assert desk.app.requests[1].path == "/next"
    desk.call(desk.app.requests[1].respond, 200, b"", b"next")
    assert upload.answer() == (200, b"next")
    assert desk.app.gone == []


def test_the_last_answer_before_the_body_ends_the_connection_behind_it(desk: Any, begin: Any, eventually: Any) -> None:
    """Also when the next request comes with the last piece: it is not answered, and nobody waits for that."""
    upload = begin(desk, 200_000, 70_000)
    upload.request.keep_alive = False
    desk.call(upload.request.respond, 200, b"", b"last")
    assert upload.answer() == (200, b"last")
    upload.client.sendall(upload.body[70_000:] + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
    assert upload.is_closed()
    assert len(desk.app.requests) == 1


def test_a_drain_waits_for_a_body_and_its_answer(desk: Any, begin: Any, eventually: Any) -> None:
    upload = begin(desk, 200_000, 70_000)
    left: list[int] = []
    draining = threading.Thread(target=lambda: left.append(desk.run(desk.server.drain(10))))
    draining.start()
    upload.client.sendall(upload.body[70_000:])
    eventually(lambda: upload.incoming.ended)
    assert upload.request.body + desk.call(take_all, upload.request) == upload.body
    desk.call(upload.request.respond, 200, b"", b"done")
    assert upload.answer() == (200, b"done")
    draining.join(10)
    assert left == [0]


def test_a_client_that_asks_may_send_a_long_body(desk: Any, eventually: Any) -> None:
    with desk.connect() as client:
        client.sendall(sized(100_000, more="Expect: 100-continue\r\n"))
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(pattern(100_000))
        eventually(lambda: desk.app.requests and desk.app.requests[0].incoming.ended)
        desk.call(desk.app.requests[0].respond, 200, b"", b"")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


# -- broken off -----------------------------------------------------------------------------------------------------

BREAKS: dict[str, tuple[int, Any]] = {
    "malformed": (400, lambda client: client.sendall(b"no chunk\r\n")),
    "too long": (413, lambda client: client.sendall(chunk(bytes(80_000)))),
    "stalled": (408, lambda client: None),
    "half-closed": (400, lambda client: client.shutdown(socket.SHUT_WR)),
}
CHUNKED = head("Transfer-Encoding: chunked") + chunk(pattern(100_000))


@pytest.fixture
def strict(start: Any) -> Any:
    return start(desk=True, body_bytes=150_000, body_timeout_s=0.2)


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_body_is_refused_and_its_request_abandoned(strict: Any, eventually: Any, how: str) -> None:
    status, breaks = BREAKS[how]
    with strict.connect() as client:
        client.sendall(CHUNKED)
        eventually(lambda: strict.app.requests)
        (request,) = strict.app.requests
        breaks(client)
        data = read_all(client)
    assert data.startswith(b"HTTP/1.1 %d " % status)
    assert data.count(b"HTTP/1.1") == 1
    assert b"connection: close" in data
    assert strict.app.gone == [request]
    assert request.done
    assert request.incoming.size == 0
    strict.call(request.respond, 200, b"", b"too late")  # does nothing
    eventually(lambda: not strict.server.connections)


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_body_behind_another_request(strict: Any, eventually: Any, how: str) -> None:
    """It is refused in its turn, and never handed over."""
    status, breaks = BREAKS[how]
    with strict.connect() as client:
        client.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n" + CHUNKED)
        eventually(lambda: strict.app.requests)
        (first,) = strict.app.requests
        eventually(lambda: strict.call(lambda: first.connection._reader.incoming))
        breaks(client)
        eventually(lambda: strict.call(lambda: first.connection._reader.fault))
        strict.call(first.respond, 200, b"", b"first")
        data = read_all(client)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"HTTP/1.1 ") == 2
    assert b"first" + b"HTTP/1.1 %d " % status in data
    assert strict.app.requests == [first]
    assert strict.app.gone == []


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_body_cuts_an_answer_that_has_begun(strict: Any, eventually: Any, how: str) -> None:
    _, breaks = BREAKS[how]
    with strict.connect() as client:
        client.sendall(CHUNKED)
        eventually(lambda: strict.app.requests)
        (request,) = strict.app.requests
        strict.call(request.begin, 200, b"", None)
        strict.call(request.write, b"some")
        breaks(client)
        data = read_all(client)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.endswith(b"4\r\nsome\r\n")
    assert data.count(b"HTTP/1.1") == 1
    assert strict.app.gone == [request]


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_body_that_was_answered_is_not_answered_again(strict: Any, eventually: Any, how: str) -> None:
    _, breaks = BREAKS[how]
    with strict.connect() as client:
        client.sendall(CHUNKED)
        eventually(lambda: strict.app.requests)
        strict.call(strict.app.requests[0].respond, 200, b"", b"early")
        breaks(client)
        data = read_all(client)
    assert data.endswith(b"early")
    assert data.count(b"HTTP/1.1") == 1
    assert strict.app.gone == []


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_body_in_one_piece_with_its_head(strict: Any, eventually: Any, how: str) -> None:
    status, breaks = BREAKS[how]

    class Joined:
        """Sends what breaks the body by the same write."""

        def __init__(self, client: socket.socket) -> None:
            self.client = client

        def sendall(self, data: bytes) -> None:
            self.client.sendall(CHUNKED + data)

        def shutdown(self, way: int) -> None:
            self.client.sendall(CHUNKED)
            self.client.shutdown(way)

    with strict.connect() as client:
        if how == "stalled":
            client.sendall(CHUNKED)
        breaks(Joined(client))
        data = read_all(client)
    assert data.startswith(b"HTTP/1.1 %d " % status)
    assert len(strict.app.gone) == len(strict.app.requests)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_in_mid_body_is_noticed(
    desk: Any, begin: Any, eventually: Any, reset: bool, begun: bool
) -> None:
    upload = begin(desk, 10_000_000, 100_000)
    if begun:
        desk.call(upload.request.begin, 200, b"", None)
        desk.call(upload.request.write, b"some")
    if reset:
        upload.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    upload.client.close()
    eventually(lambda: desk.app.gone == [upload.request])
    eventually(lambda: not desk.server.connections)
    assert upload.request.done
    assert upload.incoming.size == 0


def test_a_client_that_goes_while_reading_is_paused_is_noticed_once_the_body_is_taken(
    desk: Any, begin: Any, eventually: Any
) -> None:
    upload = begin(desk, 10_000_000, 600_000)
    upload.client.close()
    assert desk.app.gone == []
    eventually(lambda: desk.call(take_all, upload.request) == b"" and desk.app.gone)
    eventually(lambda: not desk.server.connections)


def test_a_body_that_nobody_takes_is_not_late(start: Any, begin: Any, eventually: Any) -> None:
    """While the server itself does not read, the client's time does not run."""
    server = start(desk=True, body_timeout_s=0.05)
    upload = begin(server, 1_000_000, 1_000_000)
    eventually(lambda: server.call(lambda: upload.request.connection._paused))
    connection = upload.request.connection
    server.call(connection.sweep, server.call(server.server.loop.time) + 1000)
    server.call(connection.sweep, server.call(server.server.loop.time) + 2000)
    found = upload.request.body
    while not upload.incoming.ended or upload.incoming.size:
        found += server.call(take_all, upload.request)
    assert found == upload.body
    server.call(upload.request.respond, 200, b"", b"done")
    assert upload.answer() == (200, b"done")


def test_a_body_that_nobody_takes_is_not_slow(start: Any, begin: Any, eventually: Any, sweeps: Any) -> None:
    server = start(desk=True, body_rate_bytes_s=1_000_000, body_rate_grace_s=0.4)
    upload = begin(server, 1_000_000, 900_000)
    eventually(lambda: server.call(lambda: upload.request.connection._paused))
    for _ in sweeps(server):
        pass
    server.call(gather, upload.request, lambda request: request.respond(200, b"", request.body))
    for _ in itertools.islice(sweeps(server), 3):  # It is read again, and its rate is looked at.
        pass
    upload.client.sendall(upload.body[900_000:])
    assert upload.answer() == (200, upload.body)


def test_nothing_of_a_broken_upload_is_left_to_the_garbage_collector(desk: Any, begin: Any, eventually: Any) -> None:
    desk.call(gc.disable)
    try:
        upload = begin(desk, 1_000_000, 100_000)
        left = weakref.ref(upload.request)
        upload.client.close()
        eventually(lambda: desk.app.gone)
        desk.app.requests.clear()
        desk.app.gone.clear()
        del upload.request, upload.incoming
        eventually(lambda: left() is None)
    finally:
        gc.enable()
