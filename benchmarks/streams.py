"""Load of streamed answers: many at once, of which only the end of each chunk is looked for.

Every chunk that the handlers of `benchmarks.servers` make ends with `END`, which is nowhere else in an answer. So they
are counted by ``bytes.count``, whatever HTTP or server-sent events put around them, and however they were joined:
nothing is parsed.
"""

from __future__ import annotations

import re
import selectors
import socket
import statistics
import time
from dataclasses import dataclass

from benchmarks.load import LoadError
from benchmarks.servers import Call

END = b"~"
LAST = b"0\r\n\r\n"
"""The end of a body in chunks (RFC 9112, 7.1)."""
RECEIVE_BYTES = 256 * 1024
SILENCE_S = 10.0
"""Without a byte on any connection, what was measured is void."""
_made_at = re.compile(rb"made at (\d+)~")


@dataclass(frozen=True)
class Streams:
    """``rate``: chunks a second. ``first_ms``: from the handler's first chunk to its arrival here, the median."""

    rate: float
    first_ms: float


class Stream:
    """One connection, on which one answer of ``chunks`` chunks follows the other."""

    def __init__(self, port: int, request: bytes, chunks: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._chunks = chunks
        self._seen = 0
        self._head = b""
        """What has come of an answer whose first chunk has not."""
        self._tail = b""
        self.ending = False
        """The answer that it has is the last."""
        self.ended = False

    def ask(self) -> None:
        self._seen, self._head, self._tail = 0, b"", b""
        self.socket.sendall(self._request)

    def receive(self, firsts_ms: list[float]) -> int:
        """Take what has come, and ask again after an answer's end; returns how many chunks. Raises `LoadError`."""
        data = self.socket.recv(RECEIVE_BYTES)
        now = time.monotonic_ns()
        if not data:
            raise LoadError(f"a stream was cut after {self._seen} of {self._chunks} chunks")
        count = data.count(END)
        if not self._seen:
            self._head += data
            if count:
                firsts_ms.append((now - self._first_made_at()) / 1e6)
        self._seen += count
        self._tail = (self._tail + data)[-len(LAST) :] if len(data) < len(LAST) else data[-len(LAST) :]
        if self._tail == LAST:
            if self._seen != self._chunks:
                raise LoadError(f"a stream ended after {self._seen} of {self._chunks} chunks: {self._head[:200]!r}")
            self.ended = self.ending
            if not self.ending:
                self.ask()
        return count

    def _first_made_at(self) -> int:
        found = _made_at.search(self._head)
        if found is None or not self._head.startswith(b"HTTP/1.1 200"):
            raise LoadError(f"no stream, but {self._head[:200]!r}")
        return int(found[1])


def streams(
    port: int,
    call: Call,
    chunks: int,
    connections: int,
    duration_s: float,
    *,
    spread_s: float = 0.0,
    rest_s: float = 0.0,
) -> Streams:
    """Take ``call``'s answers, of so many ``chunks`` each, on ``connections`` at once, for ``duration_s``.

    ``spread_s``: the connections ask for their first over so long a time, rather than all at once. Chunks are counted
    once all have asked. ``rest_s``: between two looks at all connections, so that this client leaves the CPU to what is
    measured; times to the first chunk then mean little. Raises `LoadError` when one stream failed.
    """
    request = render(call)
    opened: list[Stream] = []
    firsts_ms: list[float] = []
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(connections):
                opened.append(Stream(port, request, chunks))
                selector.register(opened[-1].socket, selectors.EVENT_READ, opened[-1])
            for stream in opened:
                stream.ask()
                _take(selector, spread_s / connections, rest_s, firsts_ms)
            began = time.monotonic()
            count = _take(selector, duration_s, rest_s, firsts_ms)
            rate = count / (time.monotonic() - began)
            _finish(selector, opened, rest_s)
        except OSError as error:
            raise LoadError(repr(error)) from error
        finally:
            for stream in opened:
                stream.socket.close()
    if not count or not firsts_ms:
        raise LoadError("no chunks came")
    return Streams(rate, statistics.median(firsts_ms))


def _take(selector: selectors.BaseSelector, duration_s: float, rest_s: float, firsts_ms: list[float]) -> int:
    """Take whatever comes for so long; returns how many chunks did."""
    count = 0
    end = time.monotonic() + duration_s
    heard = time.monotonic()
    while (left_s := end - time.monotonic()) > 0:
        ready = selector.select(min(left_s, SILENCE_S))
        for key, _ in ready:
            count += key.data.receive(firsts_ms)
        if ready:
            heard = time.monotonic()
            time.sleep(rest_s)
        elif time.monotonic() - heard > SILENCE_S:
            raise LoadError(f"nothing came for {SILENCE_S:.0f} s")
    return count


def _finish(selector: selectors.BaseSelector, opened: list[Stream], rest_s: float) -> None:
    """Take what is left of every answer: a server that goes on with it would have less to give to what follows."""
    for stream in opened:
        stream.ending = True
    end = time.monotonic() + SILENCE_S
    while selector.get_map() and time.monotonic() < end:
        for key, _ in selector.select(SILENCE_S / 10):
            key.data.receive([])
            if key.data.ended:
                selector.unregister(key.fileobj)
        time.sleep(rest_s)


def render(call: Call) -> bytes:
    """``call`` as it goes over the wire."""
    lines = [f"{call.method} {call.path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in call.headers.items()]
    if call.body:
        lines.append(f"Content-Length: {len(call.body)}")
    return "\r\n".join([*lines, "", ""]).encode() + call.body
