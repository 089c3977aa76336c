"""A request's body that is needed whole: taken in as it comes, in memory up to 1 MB, in a file beyond that."""

from __future__ import annotations

import tempfile
from typing import BinaryIO

from servekit.interfaces import Request
from servekit.wire.streams import Incoming

MEMORY_BYTES = 1024 * 1024


class GatheredBody:
    """Lives on the data loop."""

    def __init__(self, upload: Incoming) -> None:
        self._upload = upload
        self._pieces: list[bytes] = []
        self._size = 0
        self._file: BinaryIO | None = None

    def take(self) -> bool:
        """Take in what has come; whether that is all. Raises what broke the body off, and `OSError` of the disk."""
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
        return self._upload.ended

    def give(self, request: Request, *, as_file: bool) -> None:
        """All of it, as `Request.body`; or, with ``as_file``, a long one behind `Request.stream`."""
        if self._file is None:
            request.body = b"".join(self._pieces)
            return
        self._file.seek(0)
        if as_file:
            request.incoming = self._file
        else:
            request.body = self._file.read()

    def close(self) -> None:
        """It is not needed any more."""
        self._pieces.clear()
        if self._file is not None:
            self._file.close()
