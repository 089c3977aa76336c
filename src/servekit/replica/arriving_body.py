"""A request's body that is on its way: how much of the body is to be here before its call begins.

All of this file runs on the data loop.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import BinaryIO

from servekit.interfaces import Request
from servekit.wire.streams import Incoming

MEMORY_BYTES = 1024 * 1024
"""A longer body that is needed whole is in a file."""


def window_is_here(upload: Incoming, request: Request, *, is_async: bool) -> bool:
    """Whether a call may begin whose handler reads the body as it comes. If so, the body is in ``request`` now.

    A call may begin when the window is full, or the body is over: a slow client holds no slot. A WebSocket's may begin
    at once: its first piece may wait for an answer. ``is_async``: a task reads the body; else a thread does.
    """
    if upload.ended:
        request.body = upload.take_all()
        return True
    if not upload.is_full and not request.upgrade:
        return False
    request.incoming = upload if is_async else upload.as_file()
    return True


class GatheredBody:
    """A body that is needed whole, and is taken in as it comes: in memory up to `MEMORY_BYTES`, else in a file."""

    def __init__(self, upload: Incoming, request: Request, *, as_file: bool) -> None:
        """``as_file``: a long body is read through `Request.stream`; else every body is `Request.body` in the end."""
        self._upload = upload
        self._request = request
        self._as_file = as_file
        self._pieces: list[bytes] = []
        self._size = 0
        self._file: BinaryIO | None = None

    def is_here(self) -> bool:
        """Whether all of the body is here. If so, the body is in the request now. To be asked whenever more has come.

        Raises `ConnectionError` where the body was broken off, and `OSError` where the file cannot be written.
        """
        while (piece := self._upload.take()) is not None:
            self._size += len(piece)
            if self._file is not None:
                self._file.write(piece)
                continue
            self._pieces.append(piece)
            if self._size > MEMORY_BYTES:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                self._file.writelines(self._pieces)
                self._pieces.clear()
        if self._upload.ended:
            self._give()
        return self._upload.ended

    def _give(self) -> None:
        if self._file is None:
            self._request.body = b"".join(self._pieces)
            return
        self._file.seek(0)
        if self._as_file:
            self._request.incoming = self._file
        else:
            self._request.body = self._file.read()

    def close(self) -> None:
        """The call is over. The handler may have left a thread behind that reads the body."""
        self._pieces.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # The bytes in the file's buffer may find no room on the disk.
                self._file.close()
