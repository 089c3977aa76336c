"""Counters that outlive the process that counts: a file of records, which that process has mapped, and others read.

A record is a key and `SLOTS` whole numbers. An increment is a write to memory that is the file's: whatever ends the
process, what it has counted stays. Nothing is synced, so a crash of the machine may lose it.

A record is 4 KiB: the key's length in 8 bytes, which are 0 until all else is there; the slots, 8 bytes each; the key,
in JSON. The writer holds a lock on the file (flock(2)) as long as it lives.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Key: TypeAlias = "tuple[str | int, ...]"
"""The first word says of what kind the record is."""
OTHER = "_OTHER"
"""In the place of what is not told apart."""

_log = logging.getLogger("servekit")

# -- the slots of a record -------------------------------------------------------------------------------------------

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""In seconds, those of OpenTelemetry's HTTP conventions; a value that is a bound is in the bucket below it."""


def _fine() -> Iterator[float]:
    """`BOUNDS`, and ten a decade from 0.1 ms to a minute, without those that are all but one of `BOUNDS`."""
    yield from BOUNDS
    for exponent in range(-40, 18):
        bound = float(f"{10 ** (exponent / 10):.3g}")
        if all(abs(bound / other - 1) > 0.03 for other in BOUNDS):
            yield bound
    yield 60.0


FINE_BOUNDS = tuple(sorted(_fine()))
FINE_BUCKETS = len(FINE_BOUNDS) + 1

_place = itertools.count(FINE_BUCKETS)
DURATION_US = next(_place)
"""Summed. The slots before it are the histogram of durations, by `FINE_BOUNDS`."""


def _histogram() -> int:
    """The first slot of a histogram by `BOUNDS`, behind which its sum follows, in microseconds."""
    first = next(_place)
    for _ in range(len(BOUNDS) + 1):
        next(_place)
    return first


SUM = len(BOUNDS) + 1
"""From the first slot of such a histogram to its sum."""
INGRESS_WAIT = _histogram()
REPLICA_WAIT = _histogram()
HANDLER = _histogram()
FIRST_BYTE = _histogram()
BYTES_IN = next(_place)
BYTES_OUT = next(_place)
RESENDS = next(_place)
FAILOVERS = next(_place)
QUICK_US = int(BOUNDS[0] * 1e6)
"""What took no longer has each part of its time in the first bucket of that part's histogram."""
QUICK_BUCKETS = FINE_BOUNDS.index(BOUNDS[0]) + 1
QUICK = next(_place)
for _ in range(QUICK_BUCKETS - 1):
    next(_place)
"""The first of the slots for quick requests, which are counted there and not in those histograms, by duration; how long
the parts took, is in the next three. So a writer in a hurry has few slots to increment, and `spread` does the rest."""
QUICK_WAIT_US = next(_place)
QUICK_THERE_US = next(_place)
QUICK_HANDLER_US = next(_place)
SLOTS = next(_place)

QUICK_SLOT = bytes(QUICK + bisect_left(FINE_BOUNDS, us / 1e6) for us in range(QUICK_US + 1))
"""The slot of a quick request, by its duration in microseconds."""
COUNT = 0
"""The slot of a record that is one counter alone."""


def spread(slots: Sequence[int]) -> Sequence[int]:
    """The slots with those for quick requests added to all others that they stand for."""
    quick = slots[QUICK : QUICK + QUICK_BUCKETS]
    requests = sum(quick)
    if not requests:
        return slots
    found = list(slots)
    for at, count in enumerate(quick):
        found[at] += count
        found[QUICK + at] = 0
    for part, total in ((INGRESS_WAIT, QUICK_WAIT_US), (REPLICA_WAIT, QUICK_THERE_US), (HANDLER, QUICK_HANDLER_US)):
        found[part] += requests
        found[part + SUM] += slots[total]
        found[DURATION_US] += slots[total]
        found[total] = 0
    return found


def count_time(slots: memoryview, first: int, bounds: tuple[float, ...], duration_s: float) -> None:
    """Count a duration in a histogram, whose sum is behind it. ``first``: its first slot."""
    duration_s = max(0.0, duration_s)
    slots[first + bisect_left(bounds, duration_s)] += 1
    slots[first + len(bounds) + 1] += int(duration_s * 1e6)


# -- the file --------------------------------------------------------------------------------------------------------

SUFFIX = ".tally"
RECORD_BYTES = 4096
_WORDS = RECORD_BYTES // 8
_KEY_AT = 8 * (1 + SLOTS)
LONGEST_KEY = RECORD_BYTES - _KEY_AT
FIRST_SEGMENT = 16
"""Records. Each segment that follows has twice as many as the one before."""
MOST_KEYS = FIRST_SEGMENT * (2**8 - 1)
_KINDS = 8
"""For each there may be a record for what is too much."""


class Tallies:
    """The counters of one process. Not thread-safe, but for increments of slots that one thread alone increments."""

    def __init__(self, directory: str | None, name: str = "", *, most: int = MOST_KEYS) -> None:
        """
        Args:
            directory: the file is made in there; None: there is no file.
            name: how the file's name begins; the rest is by chance.
            most: keys; what would be beyond that is counted under `all_others`.
        """
        self.slots: dict[Key, memoryview] = {}
        """By key, the slots of the records that there are, to be incremented in place."""
        self.path = ""
        self._most = most
        self._file = -1
        self._segments = 0
        self._offset = 0
        self._free: list[memoryview] = []
        """Records of the last segment; the next one is the last."""
        self._loose: dict[Key, memoryview] = {}
        """Those that are in memory alone, for the file has no room."""
        self._warned = False
        if directory is not None:
            try:
                self._file, self.path = _locked_file(directory, name)
            except OSError as error:
                self._warn(error)

    def add(self, key: Key) -> memoryview:
        """The slots of the record that has this key, which is made where there is none."""
        found = self.slots.get(key)
        if found is not None:
            return found
        text, others = _text(key), all_others(key)
        if key != others and (len(text) > LONGEST_KEY or len(self.slots) >= self._most - _KINDS):
            return self.add(others)
        record = self._next_record()
        if record is None:
            self._loose[key] = slots = memoryview(bytearray(8 * SLOTS)).cast("q")
        else:
            slots = _write(record, text)
        self.slots[key] = slots
        return slots

    def settle(self) -> None:
        """Move what found no room in the file into it, where there is room by now. Not while a slot is incremented."""
        for key, loose in list(self._loose.items()):
            record = self._next_record()
            if record is None:
                return
            self.slots[key] = _write(record, _text(key), loose)
            del self._loose[key]

    def close(self) -> None:
        """Let go of the file, of which nothing is counted any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.slots.clear()  # A mapping has a descriptor of its own, as long as a slot of it is at hand.
            self._free.clear()

    def _next_record(self) -> memoryview | None:
        """None: the file has no room for one more."""
        if not self._free:
            if self._file < 0:
                return None
            size = RECORD_BYTES * (FIRST_SEGMENT << self._segments)
            try:
                # A write to a mapping without room on the disk would be a SIGBUS.
                os.posix_fallocate(self._file, self._offset, size)
                segment = memoryview(mmap.mmap(self._file, size, offset=self._offset))
            except OSError as error:
                self._warn(error)
                return None
            self._segments += 1
            self._offset += size
            self._free = [segment[at : at + RECORD_BYTES] for at in range(0, size, RECORD_BYTES)][::-1]
        return self._free.pop()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("what is counted from now on is in no file until there is room for it: %s", error)


def all_others(key: Key) -> Key:
    """The key under which all of a kind is counted for which there is no room."""
    return (key[0], *(OTHER if isinstance(word, str) else 0 for word in key[1:]))


def _text(key: Key) -> bytes:
    return json.dumps(key, separators=(",", ":"), ensure_ascii=False).encode()


def _write(record: memoryview, key: bytes, slots: memoryview | None = None) -> memoryview:
    """Make a record, which nobody reads before its length is there, the last; returns its slots."""
    words = record.cast("q")
    record[_KEY_AT : _KEY_AT + len(key)] = key
    if slots is not None:
        words[1 : 1 + SLOTS] = slots
    words[0] = len(key)
    return words[1 : 1 + SLOTS]


def _locked_file(directory: str, name: str) -> tuple[int, str]:
    """A new file, which has its name from when it is locked on."""
    path = os.path.join(directory, f"{name}-{os.urandom(3).hex()}{SUFFIX}")
    hidden = path + ".new"
    file = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(hidden, path)
    except BaseException:
        os.close(file)
        raise
    return file, path


# -- reading ---------------------------------------------------------------------------------------------------------


class TallyFile:
    """The file of one process, as another reads it, again and again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._keys: list[Key] = []
        """Of the records, in their order: they never change."""

    def read(self) -> dict[Key, Sequence[int]]:
        """The slots of each record that is complete. Raises ``OSError``.

        Each number is read as a whole, at some moment of the reading: it is never below what was read before.
        """
        with open(self.path, "rb") as file:
            data = file.read()
        words = memoryview(data)[: len(data) // 8 * 8].cast("q")
        found: dict[Key, Sequence[int]] = {}
        for at in range(0, len(words) - _WORDS + 1, _WORDS):
            number = at // _WORDS
            if number == len(self._keys):
                key = _key(data[at * 8 + _KEY_AT : at * 8 + _KEY_AT + words[at]] if words[at] > 0 else b"")
                if key is None:
                    break
                self._keys.append(key)
            found[self._keys[number]] = spread(words[at + 1 : at + 1 + SLOTS].tolist())
        return found

    @property
    def is_left(self) -> bool:
        """Whether the process that wrote it has ended. Raises ``OSError``."""
        with open(self.path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


def _key(text: bytes) -> Key | None:
    """None: it is not complete."""
    try:
        return tuple(json.loads(text))
    except ValueError:
        return None
