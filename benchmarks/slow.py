"""What slow clients cost the others: readers that take an answer at a trickle, and uploads that stall.

    python -m benchmarks.slow
    PYTHONPATH=/another/tree/src:/another/tree/plugins python -m benchmarks.slow   # the same of another servekit

One replica with one slot makes the long answers, another takes the bodies. Both are asked for something short, again
and again: alone, while the slow clients come, which is work for the first of the two, and while they are there. Printed
is how long that took, and how much memory all processes had at the most (proportional set size, so shared pages count
once).
"""

from __future__ import annotations

import argparse
import http.client
import socket
import statistics
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import ExitStack

import flask

import servekit
from benchmarks.processes import tree_memory_mb

READERS = 200
ANSWER_BYTES = 4_000_000
UPLOADS = 20
UPLOAD_BYTES = 5_000_000
SENT_BYTES = 400_000
TRICKLE_BYTES = 200
ROUND_S = 0.1
"""Each reader takes `TRICKLE_BYTES` once in so long a time."""
PATIENCE_S = 10.0
"""Beyond it, a request of the others has failed."""


def made(request: flask.Request) -> bytes:
    return bytes(range(250)) * (int(request.args["size"]) // 250)


def taken(request: flask.Request) -> str:
    return str(len(request.get_data()))


class Others:
    """A client that asks for something short, and finds out how long it takes."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask_while(self, phase: str, goes_on: Callable[[], bool]) -> float:
        """Ask for as long as ``goes_on``, and print how it went; returns the most memory there was, in MB."""
        latencies_s: dict[str, list[float]] = {"made": [], "taken": []}
        failed, most_mb = 0, 0.0
        while goes_on():
            for name, found in latencies_s.items():
                began = time.monotonic()
                failed += not self._is_answered("GET", f"/{name}?size=250")
                found.append(time.monotonic() - began)
            most_mb = max(most_mb, tree_memory_mb())
        print(f"{phase}: {failed} failed; memory of all processes {most_mb:.0f} MB at the most")
        for name, found in latencies_s.items():
            p99 = statistics.quantiles(found, n=100)[98] if len(found) > 1 else found[0]
            print(
                f"    {name:5} {len(found):5} requests: median {1000 * statistics.median(found):7.1f} ms, "
                f"p99 {1000 * min(p99, max(found)):7.1f} ms, max {1000 * max(found):7.1f} ms"
            )
        return most_mb

    def _is_answered(self, method: str, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            answer.read()
            return answer.status == 200
        except OSError:
            return False
        finally:
            connection.close()


class SlowClients:
    """The readers and the uploads; a thread takes the trickle."""

    def __init__(self, port: int) -> None:
        self.sockets: list[socket.socket] = []
        self._port = port
        self._readers: list[socket.socket] = []
        self.begun: set[socket.socket] = set()
        """The readers whose answers have begun."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._trickle)

    def __enter__(self) -> SlowClients:
        for _ in range(UPLOADS):
            upload = self._connect()
            upload.sendall(b"POST /taken HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % UPLOAD_BYTES)
            upload.sendall(bytes(SENT_BYTES))
            self.sockets.append(upload)
        for _ in range(READERS):
            self._readers.append(self._connect())
            self._readers[-1].sendall(b"GET /made?size=%d HTTP/1.1\r\nHost: a\r\n\r\n" % ANSWER_BYTES)
        self.sockets += self._readers
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for each in self.sockets:
            each.close()

    def _connect(self) -> socket.socket:
        client = socket.socket()
        # What the kernel holds for a reader is not what is measured.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.connect(("127.0.0.1", self._port))
        return client

    def _trickle(self) -> None:
        for reader in self._readers:
            reader.setblocking(False)
        while not self._over.wait(ROUND_S):
            for reader in self._readers:
                try:
                    reader.recv(TRICKLE_BYTES)
                except BlockingIOError:
                    continue  # Its answer has not begun.
                self.begun.add(reader)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow", description=__doc__.partition("\n")[0])
    parser.add_argument("--duration", type=float, default=10.0, metavar="SECONDS", help="with the slow clients")
    duration_s = parser.parse_args().duration
    with ExitStack() as stack:
        instance = stack.enter_context(servekit.init(runtime="process", http_port=0))
        port = urllib.parse.urlsplit(instance.url).port
        assert port is not None
        for name, handler in (("made", made), ("taken", taken)):
            servekit.create_backend(name, handler)
            servekit.create_endpoint(name, f"/{name}", ["GET", "POST"], backend=name)
        others = Others(port)
        alone_mb = others.ask_while("alone", lasting(2.0))
        slow = stack.enter_context(SlowClients(port))
        came_mb = others.ask_while("while they come", both(lasting(duration_s), lambda: len(slow.begun) < READERS))
        there_mb = others.ask_while(f"beside {len(slow.begun)} readers and {UPLOADS} uploads", lasting(duration_s))
        print(f"memory grew by {there_mb - alone_mb:.0f} MB, and by {came_mb - alone_mb:.0f} MB while they came")


def lasting(duration_s: float) -> Callable[[], bool]:
    """Whether so much time has not passed yet."""
    ends = time.monotonic() + duration_s
    return lambda: time.monotonic() < ends


def both(one: Callable[[], bool], other: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: one() and other()


if __name__ == "__main__":
    main()
