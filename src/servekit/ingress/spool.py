"""Bytes that have to wait, in files: answers that are read later than they are made, and bodies that are to be whole.

Reads and writes block the event loop, on purpose. They are of `PIECE_BYTES` or a few times that, to and from the page
cache: some 20 µs each, less than handing them to a thread and back. The kernel writes to the disk behind them, and
never does for most files, which are dropped within seconds. A write waits for the disk only where the kernel holds back
all that it may (``vm.dirty_ratio``, a fifth of the memory that is free), and the disk is slower than the clients.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import sys
import tempfile
from typing import IO, Protocol

from servekit.config import HttpLimits
from servekit.wire.data_frames import PIECE_BYTES

_log = logging.getLogger("servekit.ingress")

MEMORY_BYTES = 16 * 1024 * 1024
"""The most that all bodies in one ingress worker may hold in memory beside their files; beyond, each goes into its file
at once."""
JUDGED_AFTER_S = 5.0
"""How long a reader may have been spooled before it can be found to be slow."""
COMPLAIN_EVERY_S = 30.0


class SpoolReader(Protocol):
    """An answer that is spooled, for a client that may be slow."""

    @property
    def spooled_bytes(self) -> int:
        """How much the client has yet to take."""

    taken_bytes: int
    """How much the client has taken since ``spooled_at``, a time of the space's clock."""
    spooled_at: float

    def cut(self) -> None:
        """Others want the room: end the answer, and close its spool."""


class SpoolSpace:
    """The room that one ingress worker has for its spools: the directory, the bounds, and how much is in use."""

    def __init__(self, limits: HttpLimits, directory: str, loop: asyncio.AbstractEventLoop) -> None:
        """``directory``: the instance's, unless ``limits`` names another."""
        self.answer_bytes = limits.spool_answer_bytes
        self.total_bytes = limits.spool_total_bytes
        self.loop = loop
        self.readers: set[SpoolReader] = set()
        """Those that may be cut."""
        self.used_bytes = 0
        """The length of all files."""
        self.memory_bytes = 0
        """The bytes of all bodies that are in memory."""
        self._directory = limits.spool_directory or directory
        self._files = 0
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_files = sys.maxsize if descriptors == resource.RLIM_INFINITY else descriptors // 2
        """The other half of the descriptors is for connections."""
        self._drained_within_s = limits.write_timeout_s
        self._quiet_until = 0.0

    def open(self) -> IO[bytes]:
        """A new file that has no name: whatever ends this process, it leaves nothing. Raises `OSError`."""
        if self._files >= self._most_files:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        file = tempfile.TemporaryFile(buffering=0, dir=self._directory)  # noqa: SIM115  # its spool closes it
        self._files += 1
        return file

    def close(self, file: IO[bytes]) -> None:
        """Close a file that `open` made."""
        file.close()
        self._files -= 1

    @property
    def is_memory_full(self) -> bool:
        return self.memory_bytes >= MEMORY_BYTES

    def claim(self, size_bytes: int) -> bool:
        """Whether files may grow by so much; if so, that much is in use now. Readers that are slow are cut for it."""
        while self.used_bytes + size_bytes > self.total_bytes:
            slowest = self._slowest()
            if slowest is None:
                self.complain(
                    f"all {self.total_bytes:,} bytes of spool_total_bytes are in use: replicas wait for their readers, "
                    "and long bodies are refused"
                )
                return False
            _log.warning(
                "an answer is cut: its client has taken %d bytes in %.0f s, %d wait for it, and all %d bytes of "
                "spool_total_bytes are in use; raise that in http_limits if the disk allows it",
                slowest.taken_bytes,
                self.loop.time() - slowest.spooled_at,
                slowest.spooled_bytes,
                self.total_bytes,
            )
            slowest.cut()
        self.used_bytes += size_bytes
        return True

    def failed(self, error: OSError) -> None:
        """A file could not be made or written."""
        self.complain(
            f"{self._directory!r} cannot be written to ({error.strerror or error}): replicas wait for slow readers, "
            "and long bodies are refused. Make room there, or have spool_directory of http_limits name another folder"
        )

    def complain(self, text: str) -> None:
        """Log a warning, unless there was one within `COMPLAIN_EVERY_S`."""
        now = self.loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + COMPLAIN_EVERY_S
            _log.warning("no room to spool: %s", text)

    def _slowest(self) -> SpoolReader | None:
        """The reader that took least in its time. None: each reader will make room within ``write_timeout_s``, at its
        rate so far, or is too new to be judged.
        """
        now = self.loop.time()
        slow = [
            reader
            for reader in self.readers
            if now - reader.spooled_at >= JUDGED_AFTER_S
            and reader.taken_bytes * self._drained_within_s < reader.spooled_bytes * (now - reader.spooled_at)
        ]
        return min(slow, key=lambda reader: reader.taken_bytes / (now - reader.spooled_at), default=None)


class Spool:
    """Bytes in the order in which they came, each there until it is dropped. ``start`` and ``end`` are positions among
    all bytes that came since the spool was last empty.

    The bytes are in a file that is used as a ring, opened when it is needed, and never longer than ``most_bytes``: that
    many can be there at a time.
    """

    __slots__ = ("_file", "_length", "_memory", "_memory_bytes", "_most", "_space", "end", "start")

    def __init__(self, space: SpoolSpace, most_bytes: int, memory_bytes: int = 0) -> None:
        """``memory_bytes``: up to this length the bytes are in memory, where `SpoolSpace` has room for them there."""
        self._space = space
        self._most = most_bytes
        self._memory_bytes = memory_bytes
        self._memory = bytearray()
        """All there is, until there is a file."""
        self._file: IO[bytes] | None = None
        self._length = 0
        """The length of the file, as it was claimed of the space."""
        self.start = 0
        self.end = 0

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def in_memory(self) -> bytes | None:
        """All there is; None: it is in a file."""
        return bytes(self._memory) if self._file is None else None

    def append(self, data: bytes) -> bool:
        """Put data behind what there is. False, and nothing has changed: there is no room, or the disk fails."""
        if self._file is None and self.end + len(data) <= self._memory_bytes and not self._space.is_memory_full:
            self._space.memory_bytes += len(data)
            self._memory += data
            self.end += len(data)
            return True
        if self.size + len(data) > self._most or (self._file is None and not self._open()):
            return False
        return self._write(data)

    def read(self, at: int) -> bytes:
        """The bytes from ``at`` on, `PIECE_BYTES` at most; empty at the end. Raises `OSError`."""
        size = min(PIECE_BYTES, self.end - at)
        if self._file is None:
            return bytes(memoryview(self._memory)[at : at + size])
        place = at % self._most
        size = min(size, self._most - place)
        piece = os.pread(self._file.fileno(), size, place)
        if len(piece) < size:
            raise OSError(errno.EIO, "a spool is shorter than what was written to it")
        return piece

    def drop(self, size_bytes: int) -> None:
        """Forget so many bytes at the start. Only for a spool that holds nothing in memory."""
        self.start += size_bytes
        if self._file is not None and self.start == self.end:
            self.start = self.end = 0
            self._shrink(0)

    def close(self) -> None:
        """Forget all bytes."""
        self.start = self.end = 0
        self._forget_memory()
        if self._file is not None:
            self._space.close(self._file)
            self._file = None
            self._space.used_bytes -= self._length
            self._length = 0

    def _open(self) -> bool:
        """Have a file, with the bytes that were in memory."""
        try:
            self._file = self._space.open()
        except OSError as error:
            self._space.failed(error)
            return False
        had, self.end = bytes(self._memory), 0
        if self._write(had):
            self._forget_memory()
            return True
        self._space.close(self._file)
        self._file = None
        self.end = len(had)
        return False

    def _write(self, data: bytes) -> bool:
        grown = max(self._length, min(self._most, self.end % self._most + len(data))) - self._length
        if not self._space.claim(grown):
            return False
        if self._file is None:  # Closed meanwhile: its very reader was cut to make room.
            self._space.used_bytes -= grown
            return False
        before, self._length = self._length, self._length + grown
        rest = memoryview(data)
        at = self.end
        try:
            while rest:
                place = at % self._most
                written = os.pwrite(self._file.fileno(), rest[: self._most - place], place)
                at += written
                rest = rest[written:]
        except OSError as error:
            self._space.failed(error)
            self._shrink(before)
            return False
        self.end = at
        return True

    def _shrink(self, length: int) -> None:
        """Cut the file to this length, beyond which nothing in it is wanted."""
        assert self._file is not None
        os.ftruncate(self._file.fileno(), length)
        self._space.used_bytes -= self._length - length
        self._length = length

    def _forget_memory(self) -> None:
        self._space.memory_bytes -= len(self._memory)
        self._memory = bytearray()
