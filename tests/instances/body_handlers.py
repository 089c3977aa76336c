"""What serves long bodies in these tests."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask

LONGEST_S = 60.0


def digest(request: flask.Request) -> dict[str, Any]:
    """Reads in pieces; what it answers tells whether all of it came."""
    found, size = hashlib.sha256(), 0
    while piece := request.stream.read(100_000):
        found.update(piece)
        size += len(piece)
    return {"size": size, "digest": found.hexdigest(), "pid": os.getpid()}


def whole(request: flask.Request) -> bytes:
    return request.get_data()


def pieces(request: flask.Request) -> Iterator[bytes]:
    stream = request.stream
    return iter(lambda: stream.read(50_000), b"")


def made(request: flask.Request) -> Any:
    """``size`` bytes, whole or ``piece`` by piece."""
    size, piece = int(request.args["size"]), int(request.args.get("piece", "0"))
    if not piece:
        return bytes(size)
    return (bytes(min(piece, size - at)) for at in range(0, size, piece))


def unread(request: flask.Request) -> str:
    return "unread"


def pid(request: flask.Request) -> str:
    return str(os.getpid())


def _write(path: Path, number: int) -> None:
    """So that who reads it finds all of it, or the one before."""
    new = path.with_suffix(".new")
    new.write_text(str(number))
    new.replace(path)


class Endless:
    """Streams for ever; how many pieces it made, and that it was closed, is in files of ``folder``."""

    PIECE_BYTES = 50_000

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, request: flask.Request) -> Any:
        if "name" not in request.args:
            return str(os.getpid())
        name = request.args["name"]

        def pieces() -> Iterator[bytes]:
            try:
                yield b"%020d" % os.getpid()
                for count in itertools.count(1):
                    _write(self.folder / f"{name}.made", count)
                    yield bytes(self.PIECE_BYTES)
            finally:
                (self.folder / f"{name}.closed").touch()

        return pieces()


class Gated:
    """Reads a first part, says so by a file, and goes on when there is a gate; answers in pieces, with another gate."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, request: flask.Request) -> Any:
        if "name" not in request.args:
            return str(os.getpid())
        name = request.args["name"]
        stream = request.stream
        try:
            size = len(stream.read(300_000))
            _write(self.folder / f"{name}.begun", os.getpid())
            self._wait("upload")
            while piece := stream.read(100_000):
                size += len(piece)
        except ConnectionError:
            (self.folder / f"{name}.broken").touch()
            raise

        def pieces() -> Iterator[bytes]:
            yield b"%020d" % size
            (self.folder / f"{name}.answering").touch()
            self._wait("answer")
            for _ in range(100):
                yield bytes(10_000)

        return pieces()

    def _wait(self, gate: str) -> None:
        ends = time.monotonic() + LONGEST_S
        while not (self.folder / gate).exists():
            if time.monotonic() > ends:
                raise TimeoutError(f"nobody opened the gate {gate!r}")
            time.sleep(0.005)


class Together:
    """Goes on when four calls are here at once; answers with the most there were, and what its request was."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.together = threading.Barrier(4)

    def __call__(self, request: flask.Request) -> list[Any]:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        flask.g.name = request.args["name"]
        self.together.wait(LONGEST_S)
        seen = [flask.request.args["name"], flask.g.name, request.args["name"], len(flask.request.get_data())]
        with self.lock:
            self.running -= 1
        return [self.most, *seen]
