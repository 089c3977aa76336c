"""What a request without a client has for a connection."""

from __future__ import annotations

from servekit.http1.request import HttpRequest


class NoConnection:
    """In the place of the connection of a copy: there is no client."""

    client = ""

    def answer(self, request: HttpRequest, status: int, head: bytes, body: bytes) -> None: ...

    def begin_answer(self, request: HttpRequest, status: int, head: bytes, length: int | None) -> None: ...

    def write_answer(self, data: bytes) -> bool:
        return True

    def end_answer(self, request: HttpRequest, complete: bool) -> None: ...

    def body_taken(self) -> None: ...
