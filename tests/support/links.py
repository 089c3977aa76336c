"""A link for tests of what stands at its one end."""

from __future__ import annotations

from typing import Any


class FakeLink:
    """In the place of a `Link`: sends nothing, and keeps what it was given to send."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        """Each that was sent, in order."""
        self.not_written: list[Any] = []
        """Those of them that are to have stayed in the link's own buffer."""
        self.writable = True
        self.peer_has_ended = False
        self.closed = False
        self.peer_pid = 0

    def send(self, frame: Any) -> None:
        self.frames.append(frame)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    finish = close

    def abort(self) -> None: ...

    def peer_ended(self) -> None:
        self.peer_has_ended = True

    def unsent(self) -> list[Any]:
        return self.not_written

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if type(frame) is kind]
