"""An `httpx` transport to an in-process instance: real HTTP/1.1, over connections in memory."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from servekit.inprocess import InProcessInstance

_CONNECTIONS = 1000
_AHEAD = 4
"""Reads that wait for the client, at which its end of the connection reads no more, as a full socket does."""


class _Stream(asyncio.Protocol, httpcore.NetworkStream):
    """The client's end of a connection: written from the test's thread, fed on the instance's loop."""

    def __init__(self, instance: InProcessInstance) -> None:
        self._instance = instance
        self._received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._rest = b""
        self._paused = False
        self._transport = instance.connect(self)

    # -- asyncio.Protocol, on the loop ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._received.qsize() >= _AHEAD - 1:
            # Before it can be got: whoever gets it then sees that this end waits.
            self._paused = True
            self._transport.pause_reading()
        self._received.put(data)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._received.put(b"")

    # -- httpcore.NetworkStream, on the test's thread --------------------------------------------------------------

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._rest:
            try:
                self._rest = self._received.get(timeout=timeout)
            except queue.Empty:
                raise httpcore.ReadTimeout(f"no answer within {timeout:g} s") from None
            if self._paused and self._received.empty():
                self._instance.call_soon(self._resume)
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._instance.call_soon(self._transport.write, bytes(buffer))

    def close(self) -> None:
        self._instance.call_soon(self._transport.close)

    def get_extra_info(self, info: str) -> Any:
        # A pool asks this of an idle connection: one that the server has closed must not be used again.
        return not self._received.empty() if info == "is_readable" else None


class _Backend(httpcore.NetworkBackend):
    def __init__(self, instance: InProcessInstance) -> None:
        self._instance = instance

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._instance)


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpcore.NetworkError as error:
            raise _as_httpx(error) from error
        except (httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _as_httpx(error) from error

    def close(self) -> None:
        self._stream.close()


class MemoryHttpTransport(httpx.BaseTransport):
    """For ``httpx.Client(transport=…)``. The instance must outlive it."""

    def __init__(self, instance: InProcessInstance) -> None:
        self._pool = httpcore.ConnectionPool(network_backend=_Backend(instance), max_connections=_CONNECTIONS)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        url = request.url
        try:
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _as_httpx(error) from error
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response.stream), extensions=response.extensions
        )

    def close(self) -> None:
        self._pool.close()


def _as_httpx(error: Exception) -> Exception:
    """The class of the same name, which is what users of httpx catch."""
    kind: type[Exception] = getattr(httpx, type(error).__name__)
    return kind(str(error))
