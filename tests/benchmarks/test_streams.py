from __future__ import annotations

import asyncio
import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from benchmarks.load import LoadError
from benchmarks.servers import STREAMS, Call
from benchmarks.servers.chunks import CHUNK, async_chunks, chunks
from benchmarks.streams import END, render, streams

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ASK = Call("GET", "/stream?chunks=5")


def framed(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class Answers(socketserver.ThreadingTCPServer):
    """A server on a free port that answers each request with what ``make`` returns, and counts them."""

    def __init__(self, make: Callable[[], bytes], *, cut: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Answerer)
        self.port = self.server_address[1]
        self.make = make
        self.cut = cut
        self.asked = 0
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self) -> Answers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join(10)
        self.server_close()  # waits for those that answer: their clients are gone


class Answerer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = cast("Answers", self.server)
        with contextlib.suppress(ConnectionError):
            while self.request.recv(4096).endswith(b"\r\n\r\n"):
                server.asked += 1
                whole = server.make()
                for at in range(0, len(whole), 7):  # whatever the pieces that a client receives
                    self.request.sendall(whole[at : at + 7])
                if server.cut:
                    return


def whole_stream() -> bytes:
    return HEAD + framed(*chunks(5, 0)) + b"0\r\n\r\n"


@pytest.fixture
def server() -> Iterator[Answers]:
    with Answers(whole_stream) as server:
        yield server


def test_chunks_are_counted_and_the_first_is_timed(server: Answers) -> None:
    found = streams(server.port, ASK, 5, 3, 0.2)

    assert server.asked > 3
    assert 0 < found.rate <= server.asked * 5 / 0.2
    assert 0 < found.first_ms < 10_000


def test_a_client_that_rests_sees_the_same(server: Answers) -> None:
    assert streams(server.port, ASK, 5, 3, 0.2, rest_s=0.001, spread_s=0.05).rate > 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HEAD + framed(*chunks(4, 0)) + b"0\r\n\r\n", "ended after 4 of 5"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 1\r\n\r\n" + END, "no stream, but"),
        (HEAD + framed(CHUNK), "no stream, but"),
    ],
)
def test_one_failed_stream_voids_the_figure(answer: bytes, words: str) -> None:
    with Answers(lambda: answer) as server, pytest.raises(LoadError, match=words):
        streams(server.port, ASK, 5, 2, 5.0)


def test_a_stream_that_is_cut_voids_the_figure() -> None:
    with Answers(lambda: HEAD + framed(*chunks(3, 0)), cut=True) as server, pytest.raises(LoadError, match="cut after"):
        streams(server.port, ASK, 5, 2, 5.0)


def test_nobody_there_voids_the_figure() -> None:
    with pytest.raises(LoadError, match="ConnectionRefused"):
        streams(1, ASK, 5, 1, 0.1)


def test_the_request_is_http() -> None:
    call = Call("POST", "/stream", b"{}", {"Content-Type": "application/json"})
    assert render(call) == (
        b"POST /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_both_generators_make_the_same_number_of_chunks_of_one_length() -> None:
    async def collected() -> list[bytes]:
        return [chunk async for chunk in async_chunks(4, 0)]

    for found in (list(chunks(4, 0)), asyncio.run(collected())):
        assert len(found) == 4
        assert found[0].startswith(b"made at ")
        assert all(chunk.count(END) == 1 and chunk.endswith(END) for chunk in found)
        assert {len(chunk) for chunk in found[1:]} == {24}
    assert set(STREAMS) == {"stream", "astream"}
