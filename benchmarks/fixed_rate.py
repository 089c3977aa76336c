"""Requests at a fixed rate, whatever becomes of those before: from a process of its own, with nothing but sockets.

    python -m benchmarks.fixed_rate PORT PATH BODY RATE DURATION_S TIMEOUT_S WARMUP_S

They are GETs, or POSTs of JSON where BODY is not empty.

A time is counted from when its request was to leave, so that a client that falls behind does not flatter the server
(coordinated omission). What came of the requests is written to the standard output, as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.load import LoadError
from benchmarks.routing.arrivals import percentile

MOST_CONNECTIONS = 15_000
"""In flight at a time, at most."""
LATE_S = 2.0
"""An answer is waited for so long beyond the time that it had."""
ENDS_S = 30.0
"""What the process may take beyond the load and the wait for the last answers."""


@dataclass
class Outcome:
    """What came of the requests that were to leave after the warm-up."""

    sent: int = 0
    in_time: int = 0
    """Answers with 200 within the time that a request has."""
    statuses: dict[str, int] = field(default_factory=dict)
    """How many answers had each status; ``none``: no answer came; ``unsent``: so many were in flight already."""
    refused_p50_ms: float = 0.0
    refused_p99_ms: float = 0.0
    """Times of the 503s."""
    behind_ms: float = 0.0
    """How late the client itself sent, in the worst case."""


def measure(
    port: int, path: str, rate: float, duration_s: float, timeout_s: float, warmup_s: float, body: str = ""
) -> Outcome:
    """Send from another process. Raises `LoadError` where that fails."""
    values = map(str, (port, path, body, rate, duration_s, timeout_s, warmup_s))
    command = [sys.executable, "-m", "benchmarks.fixed_rate", *values]
    patience_s = duration_s + timeout_s + LATE_S + ENDS_S
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s, check=False)
    except subprocess.TimeoutExpired:
        raise LoadError(f"the client did not end within {patience_s:g} s") from None
    if done.returncode:
        raise LoadError(f"the client failed: {done.stderr.strip()[-300:]}")
    return Outcome(**json.loads(done.stdout))


class Client:
    """The connections, each with the time at which the request that it waits for was to leave."""

    def __init__(self, port: int, path: str, body: str = "") -> None:
        self._address = ("127.0.0.1", port)
        head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n"
        self._request = f"{head}\r\n{body}".encode()
        self._epoll = select.epoll()
        self._free: list[socket.socket] = []
        self._asked: dict[int, tuple[socket.socket, float]] = {}
        self._parts: dict[int, bytes] = {}
        self.answers: list[tuple[float, float, str]] = []
        """When each request was to leave, when its answer was there, and its status."""

    def run(self, rate: float, duration_s: float, timeout_s: float) -> float:
        """Send, and wait for the answers; returns how late the client sent in the worst case, in seconds."""
        began, sent, behind_s = time.monotonic() + 0.01, 0, 0.0
        total = int(rate * duration_s)
        ends = began + duration_s + timeout_s + LATE_S
        while sent < total or self._asked:
            now = time.monotonic()
            if now > ends:
                break
            while sent < total and (due := began + sent / rate) <= now:
                self._send(due)
                sent += 1
                behind_s = max(behind_s, now - due)
            pause_s = max(0.0, began + sent / rate - now) if sent < total else 0.1
            for number, _ in self._epoll.poll(pause_s, 4096):
                self._receive(number)
        self.answers += [(due, ends, "none") for _, due in self._asked.values()]
        return behind_s

    def close(self) -> None:
        for connection in [*self._free, *(each for each, _ in self._asked.values())]:
            connection.close()
        self._epoll.close()

    def _send(self, due: float) -> None:
        if self._free:
            connection = self._free.pop()
        elif len(self._asked) >= MOST_CONNECTIONS:
            self.answers.append((due, due, "unsent"))
            return
        else:
            try:
                connection = socket.create_connection(self._address, timeout=1.0)
            except OSError:  # It takes no more.
                self.answers.append((due, time.monotonic(), "none"))
                return
            connection.setblocking(False)
            self._epoll.register(connection, select.EPOLLIN)
        self._asked[connection.fileno()] = connection, due
        with contextlib.suppress(OSError):  # It was closed meanwhile, as is read next.
            connection.send(self._request)  # Shorter than any buffer.

    def _receive(self, number: int) -> None:
        if number not in self._asked:  # It was closed while nobody used it.
            (connection,) = (each for each in self._free if each.fileno() == number)
            self._free.remove(connection)
            self._close(connection)
            return
        connection, due = self._asked[number]
        try:
            data = connection.recv(65536)
        except ConnectionError:
            data = b""
        answer = self._parts.pop(number, b"") + data
        head, found, body = answer.partition(b"\r\n\r\n")
        if data and not (found and _is_whole(head.lower(), body)):
            self._parts[number] = answer
            return
        del self._asked[number]
        self.answers.append((due, time.monotonic(), answer[9:12].decode() if data else "none"))
        if data and b"connection: close" not in head.lower():
            self._free.append(connection)
        else:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._epoll.unregister(connection.fileno())
        connection.close()


def _is_whole(head: bytes, body: bytes) -> bool:
    """Whether that is all of an answer's body, by its length or in chunks without trailers, as Ray Serve sends it."""
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])


def outcome(answers: list[tuple[float, float, str]], after: float, timeout_s: float, behind_s: float) -> Outcome:
    """Of the requests that were to leave at ``after`` or later."""
    counted = [(came - due, status) for due, came, status in answers if due >= after]
    refused_ms = [1000 * took_s for took_s, status in counted if status == "503"] or [0.0]
    return Outcome(
        len(counted),
        sum(status == "200" and took_s <= timeout_s for took_s, status in counted),
        dict(sorted(Counter(status for _, status in counted).items())),
        percentile(refused_ms, 50),
        percentile(refused_ms, 99),
        1000 * behind_s,
    )


def main() -> None:
    port, path, body, *numbers = sys.argv[1:]
    rate, duration_s, timeout_s, warmup_s = map(float, numbers)
    client = Client(int(port), path, body)
    began = time.monotonic()
    behind_s = client.run(rate, duration_s, timeout_s)
    found = outcome(client.answers, began + warmup_s, timeout_s, behind_s)
    client.close()
    print(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
