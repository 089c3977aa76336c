"""Load that does not wait for answers: requests leave at times fixed beforehand, whatever became of those before.

A latency is counted from the time at which its request was to leave. A client that waits for an answer before it sends
the next request, as `wrk` does, leaves out those that a slow server would have kept waiting (coordinated omission).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.load import LoadError

CONNECTIONS_EACH = 24
"""Opened beforehand on each ingress worker."""
MOST_BURSTS = 40
MOST_CONNECTIONS = 512
"""In flight at a time, at most: a server with more than that does not keep up."""
REQUEST_TIMEOUT_S = 10.0


@dataclass
class Observed:
    """What the answers after the warm-up were."""

    latencies_ms: list[float] = field(default_factory=list)
    bodies: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    """Answers by ingress worker."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


_servekit_id = re.compile(r"([0-9a-f]{12})-\d+").fullmatch

Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """GETs of one path, on as many kept-alive connections as it takes; these are used in turns."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._free: deque[Connection] = deque()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self, workers: int) -> None:
        """As many connections to each of so many ingress workers: who accepts one is chance, and not an even one.

        Raises `LoadError` where that cannot be had.
        """
        found: dict[str, list[Connection]] = {}
        for _ in range(MOST_BURSTS):
            # At once, so that a worker that is awake does not take them all.
            opened = await asyncio.gather(*(self._connect() for _ in range(CONNECTIONS_EACH)))
            answers = await asyncio.gather(*(self._ask(connection) for connection in opened))
            for connection, answer in zip(opened, answers, strict=True):
                of_worker = found.setdefault(worker_of(answer), [])
                if len(of_worker) < CONNECTIONS_EACH:
                    of_worker.append(connection)
                else:
                    self._close(connection)
            if len(found) >= workers and all(len(each) == CONNECTIONS_EACH for each in found.values()):
                self._free.extend(connection for turn in zip(*found.values(), strict=True) for connection in turn)
                return
        shares = {worker: len(each) for worker, each in found.items()}
        raise LoadError(
            f"{workers} ingress workers are to have {CONNECTIONS_EACH} connections each; they have {shares}"
        )

    async def get(self) -> Answer:
        """Raises `LoadError` where too many are in flight, and ``OSError`` or ``EOFError`` of the connection."""
        connection = self._free.popleft() if self._free else await self._connect()
        answer = await self._ask(connection)
        self._free.append(connection)
        return answer

    async def close(self) -> None:
        writers = list(self._writers)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _ask(self, connection: Connection) -> Answer:
        reader, writer = connection
        writer.write(self._request)
        status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
        return Answer(status, headers, await read_body(reader, headers))

    def _close(self, connection: Connection) -> None:
        self._writers.discard(connection[1])
        connection[1].close()

    async def _connect(self) -> Connection:
        if len(self._writers) >= MOST_CONNECTIONS:
            raise LoadError(f"{MOST_CONNECTIONS} requests are in flight: the server does not keep up")
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.add(writer)
        return reader, writer


def worker_of(answer: Answer) -> str:
    """The ingress worker of servekit that an answer came from, by what its request ids begin with. Else an empty text.

    Ray Serve, too, sends request ids, in which there is no such beginning.
    """
    found = _servekit_id(answer.headers.get("x-request-id", ""))
    return found[1] if found else ""


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, by lower-case name, of an answer's head."""
    status, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The body that follows a head, by its length or in chunks without trailers, as Ray Serve sends it."""
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


async def open_loop(port: int, path: str, workers: int, arrivals: Sequence[float], warmup_s: float) -> Observed:
    """Send a request at each time of ``arrivals``, on connections to so many ingress workers in turns.

    Those before ``warmup_s`` are not counted.

    Raises `LoadError` where one request failed, or took more than `REQUEST_TIMEOUT_S`.
    """
    loop = asyncio.get_running_loop()
    client, observed = Client(port, path), Observed()
    tasks: list[asyncio.Task[None]] = []

    async def one(intended: float, counts: bool) -> None:
        answer = await asyncio.wait_for(client.get(), REQUEST_TIMEOUT_S)
        if answer.status != 200:
            raise LoadError(f"status {answer.status}: {answer.body[:100]!r}")
        if counts:
            observed.latencies_ms.append(1000 * (loop.time() - intended))
            observed.bodies[answer.body.decode()] += 1
            observed.workers[worker_of(answer)] += 1

    try:
        await client.open(workers)
        start = loop.time()
        for offset in arrivals:
            await asyncio.sleep(max(0.0, start + offset - loop.time()))
            tasks.append(asyncio.create_task(one(start + offset, offset >= warmup_s)))
        await asyncio.gather(*tasks)
    except (OSError, EOFError, LookupError, ValueError, asyncio.TimeoutError) as error:
        raise LoadError(f"a request failed: {error!r}") from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
    return observed
