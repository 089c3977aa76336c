"""Clients that send one request after another, each on a connection of its own, and check every answer.

A program of its own, which `load.Load` starts: it imports the standard library alone, so it is there at once and takes
nothing from the process that injects faults. What became of each request is a line on standard output. It ends when
its standard input does.

A request has an id, in its query (GET) or in its JSON body (POST); its answer is to be a JSON object with the same id,
and with the ``pid`` of the process that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
import urllib.parse
from typing import Any

CONNECT_PAUSE_S = 0.05
"""A client whose connection is refused or cut waits as long before it tries again."""
WRITE_PERIOD_S = 0.02
LARGEST_BODY = 1 << 20

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AnswerError(Exception):
    """An answer that is none, or not the right one; the message is its kind."""


class Clients:
    """``gets`` and ``posts`` clients; the options are those of `load.Load`."""

    def __init__(
        self, url: str, path: str, gets: int, posts: int, pause_s: float, timeout_s: float, grace_s: float, most: int
    ) -> None:
        self._server = urllib.parse.urlsplit(url)
        self._path = path
        self._methods = ["GET"] * gets + ["POST"] * posts
        self._pause_s = pause_s
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._left = most
        self._lines: list[str] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), self._told)
        writer = asyncio.create_task(self._write())
        clients = [asyncio.create_task(self._client(number, method)) for number, method in enumerate(self._methods)]
        await self._over.wait()
        _, late = await asyncio.wait(clients, timeout=self._grace_s)
        for client in late:
            client.cancel()
        await asyncio.gather(*clients)
        writer.cancel()
        self._flush()

    def _told(self) -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._over.set()

    async def _client(self, number: int, method: str) -> None:
        connection: Connection | None = None
        for count in itertools.count():
            if self._over.is_set() or self._left <= 0:
                break
            self._left -= 1
            name, sent_s, by = f"{method[0]}{number}-{count}", time.monotonic(), 0
            try:
                if connection is None or connection[0].at_eof() or connection[1].is_closing():
                    connection = await self._reopened(connection)  # Closed while nobody used it: nothing is lost.
                by, keep = await asyncio.wait_for(self._exchange(connection, method, name), self._timeout_s)
                kind = ""
                if not keep:
                    connection = None
            except (OSError, EOFError, ValueError, AnswerError, asyncio.TimeoutError) as error:
                kind = str(error) if isinstance(error, AnswerError) else type(error).__name__
                if not isinstance(error, AnswerError):
                    _close(connection)
                    connection = None
            except asyncio.CancelledError:
                self._tell(name, method, sent_s, "unanswered", 0)
                break
            self._tell(name, method, sent_s, kind, by)
            with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(
                    self._over.wait(), CONNECT_PAUSE_S if connection is None and kind else self._pause_s
                )
        _close(connection)

    async def _exchange(self, connection: Connection, method: str, name: str) -> tuple[int, bool]:
        """Send one request; by which process it was answered, and whether the connection stays open."""
        reader, writer = connection
        body = json.dumps({"id": name}).encode() if method == "POST" else b""
        query = "" if body else f"{'&' if '?' in self._path else '?'}id={name}"
        head = f"{method} {self._path}{query} HTTP/1.1\r\nHost: {self._server.netloc}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        status, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
        answer = await _body(reader, headers)
        keep = headers.get("connection", "").lower() != "close"
        if not keep:
            writer.close()
        if status != 200:
            raise AnswerError(str(status))
        try:
            found: Any = json.loads(answer)
            answers, by = found["id"], int(found["pid"])
        except (ValueError, KeyError, TypeError):
            raise AnswerError("wrong") from None
        if answers != name:
            raise AnswerError("wrong")
        return by, keep

    async def _reopened(self, connection: Connection | None) -> Connection:
        _close(connection)
        opening = asyncio.open_connection(self._server.hostname, self._server.port)
        return await asyncio.wait_for(opening, self._timeout_s)

    def _tell(self, name: str, method: str, sent_s: float, kind: str, by: int) -> None:
        self._lines.append(json.dumps([name, method, sent_s, time.monotonic(), kind, by]))

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(WRITE_PERIOD_S)
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            print("\n".join(self._lines), flush=True)
            self._lines.clear()


def _close(connection: Connection | None) -> None:
    if connection is not None:
        connection[1].close()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    status, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """By its length, in chunks without trailers, or to the end of the connection."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    headers["connection"] = "close"
    return await reader.read(LARGEST_BODY)


if __name__ == "__main__":
    asyncio.run(Clients(**json.loads(sys.argv[1])).run())
