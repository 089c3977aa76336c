"""One instance in process, whose handler notes what it was given, and clients that send what they like."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import servekit
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.testing.instances import open_host, serve

DEADLINE_S = 20.0


class Notes(RequestAdapter):
    """Its handler gets, and gives back, what there was of a request."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def decode(self, request: Request) -> bytes:
        named = b" ".join(b"X=" + value for name, value in request.headers if name == b"x")
        self.seen.append(b"%b %b %b" % (request.method.encode(), request.target, named or request.body))
        return self.seen[-1]

    def encode(self, result: bytes) -> Response:
        return Response(200, [("content-type", "text/plain"), ("x-seen", str(len(self.seen) - 1))], result)


class Front:
    """The HTTP front of an instance, with one handler for everything."""

    def __init__(self, served: object, notes: Notes) -> None:
        self._served = served
        self._notes = notes
        self.socket = f"{served.instance.directory}/http.sock"  # type: ignore[attr-defined]
        """For other processes too."""

    @property
    def seen(self) -> list[bytes]:
        """Every request that the handler was given, in order; the answer to each has its number in ``x-seen``."""
        return self._notes.seen

    def connect(self) -> socket.socket:
        client: socket.socket = self._served.instance.connect()  # type: ignore[attr-defined]
        client.settimeout(DEADLINE_S)
        return client

    def exchange(self, *pieces: bytes) -> tuple[list[tuple[int, bytes]], list[bytes]]:
        """Send these, and no more. Returns the answers, each a status and a body, and what the handler was given."""
        before = len(self._notes.seen)
        with self.connect() as client:
            answers = answers_to(client, *pieces)
        return answers, self._notes.seen[before:]


def answers_to(client: socket.socket, *pieces: bytes) -> list[tuple[int, bytes]]:
    """Send these, and no more; returns the answers, each a status and a body."""
    try:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # It was refused before all was sent.
    data = b""
    while piece := client.recv(65536):
        data += piece
    return split(data, b"".join(pieces))


def split(data: bytes, sent: bytes) -> list[tuple[int, bytes]]:
    """The answers in ``data``: each is framed by its length. Nothing may be left."""
    answers = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        line, *lines = head.split(b"\r\n")
        version, status = line.split(b" ")[:2]
        assert version == b"HTTP/1.1"
        fields = [tuple(each.split(b": ", 1)) for each in lines]
        named = dict(fields)
        assert len(named) == len(fields), head
        bodiless = status[:1] == b"1" or (sent.startswith(b"HEAD") and not answers)
        size = 0 if bodiless else int(named[b"content-length"])
        answers.append((int(status), data[:size]))
        assert len(answers[-1][1]) == size
        data = data[size:]
    return answers


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with open_host("inprocess") as host, serve(host) as served:
        notes = Notes()
        servekit.create_backend("notes", lambda noted: noted, adapter=notes)
        methods = ["GET", "HEAD", "POST", "PATCH", "DELETE"]
        servekit.create_endpoint("notes", "/", methods, mount=True, backend="notes")
        yield Front(served, notes)
