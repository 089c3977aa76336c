"""Clients of other kinds than those of `benchmarks.faults.load`, each in a thread of its own; every answer is checked.

The method of an `Outcome` says which kind it was: ``up`` and ``down`` send and take a long body, ``stream`` takes lines
that are made one after the other, ``slow`` takes a long answer slowly, ``handle`` calls by a handle, ``socket`` sends a
message over a WebSocket that stays open.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import servekit
from benchmarks.faults.outcomes import WRONG, Outcome
from benchmarks.soak.served import line, made

PAUSE_S = 0.2
FAILED_PAUSE_S = 0.2
LONGEST_S = 60.0
"""An answer that takes longer is none."""
LONG_BYTES = (100_000, 1_500_000)
SLOW_BYTES = 3_000_000
SLOW_READ_BYTES, SLOW_PAUSE_S = 128 * 1024, 0.05
LINES = (20, 100)
MESSAGES = 200
"""On one WebSocket."""

Ask = Callable[[str], str]
"""Sends what has this name; what became of it is the kind of its `Outcome`."""


class OtherClients:
    """From entering the block to its end."""

    def __init__(self, instance: servekit.Instance, seed: int) -> None:
        self._instance = instance
        self._address = urllib.parse.urlsplit(instance.url).netloc
        self._seed = seed
        self._over = threading.Event()
        self.outcomes: list[Outcome] = []
        kinds: dict[str, Ask] = {"up": self._up, "down": self._down, "stream": self._stream, "slow": self._slow}
        self._threads = [threading.Thread(target=self._run, args=(kind, ask)) for kind, ask in kinds.items()]
        self._threads += [threading.Thread(target=self._run, args=("handle", self._call))]
        self._threads += [threading.Thread(target=self._sockets)]

    def __enter__(self) -> OtherClients:
        self._handle = self._instance.get_handle("called")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, method: str, ask: Ask) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            self._one(method, f"{method}{self._seed}-{number}", ask)

    def _one(self, method: str, name: str, ask: Ask) -> bool:
        """Whether it was answered as it should be; returns after a pause."""
        sent_s = time.monotonic()
        try:
            kind = ask(name)
        except (OSError, http.client.HTTPException, ValueError, servekit.errors.ServekitError) as error:
            kind = type(error).__name__
        except ConnectionClosed as error:
            kind = str(error.rcvd.code) if error.rcvd else type(error).__name__
        except InvalidStatus as error:
            kind = str(error.response.status_code)
        self.outcomes.append(Outcome(name, method, sent_s, time.monotonic(), kind, 0))
        self._over.wait(FAILED_PAUSE_S if kind else PAUSE_S)
        return not kind

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def _up(self, name: str) -> str:
        body = made(name, random.Random(name).randint(*LONG_BYTES))
        with self._asked("POST", {"id": name}, body) as answer:
            found = answer.read()
            if answer.status != 200:
                return str(answer.status)
            told = json.loads(found)
            right = (name, len(body), hashlib.sha256(body).hexdigest())
            return "" if (told["id"], told["size"], told["digest"]) == right else WRONG

    def _down(self, name: str) -> str:
        size = random.Random(name).randint(*LONG_BYTES)
        with self._asked("GET", {"id": name, "size": size}) as answer:
            return _checked(answer, answer.read(), made(name, size))

    def _stream(self, name: str) -> str:
        count = random.Random(name).randint(*LINES)
        with self._asked("GET", {"id": name, "lines": count}) as answer:
            return _checked(answer, answer.read(), b"".join(line(name, number) for number in range(count)))

    def _slow(self, name: str) -> str:
        found = b""
        with self._asked("GET", {"id": name, "size": SLOW_BYTES}, received_bytes=65536) as answer:
            while piece := answer.read(SLOW_READ_BYTES):
                found += piece
                time.sleep(SLOW_PAUSE_S)
            if answer.length:
                raise http.client.IncompleteRead(found, answer.length)
            return _checked(answer, found, made(name, SLOW_BYTES))

    @contextlib.contextmanager
    def _asked(
        self, method: str, query: dict[str, Any], body: bytes | None = None, received_bytes: int = 0
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer, on a connection of its own."""
        connection = http.client.HTTPConnection(self._address, timeout=LONGEST_S)
        try:
            connection.connect()
            if received_bytes:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received_bytes)
            connection.request(method, f"/long?{urllib.parse.urlencode(query)}", body)
            yield connection.getresponse()
        finally:
            connection.close()

    # -- all else ----------------------------------------------------------------------------------------------------

    def _call(self, name: str) -> str:
        try:
            found = self._handle.remote(name).result(LONGEST_S)
        except concurrent.futures.TimeoutError:
            return "TimeoutError"
        return "" if found["id"] == name else WRONG

    def _sockets(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            opened: list[ClientConnection] = []

            def dial(_: str, opened: list[ClientConnection] = opened) -> str:
                opened.append(connect(f"ws://{self._address}/app/", open_timeout=LONGEST_S, close_timeout=1))
                return ""

            if self._one("socket", f"socket{self._seed}-{number}", dial):
                with opened[0] as connection:
                    self._talk(connection, f"socket{self._seed}-{number}")

    def _talk(self, connection: ClientConnection, name: str) -> None:
        def say(text: str) -> str:
            connection.send(text)
            return "" if connection.recv(LONGEST_S) == text else WRONG

        for number in range(MESSAGES):
            if self._over.is_set() or not self._one("socket", f"{name}-{number}", say):
                break


def _checked(answer: http.client.HTTPResponse, found: bytes, right: bytes) -> str:
    if answer.status != 200:
        return str(answer.status)
    return "" if found == right else WRONG
