"""Spools by themselves: what comes out, how long their files are, and what becomes of them where there is no room."""

from __future__ import annotations

import errno
import os
import resource
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import HttpLimits
from servekit.ingress.spool import JUDGED_AFTER_S, MEMORY_BYTES, Spool, SpoolSpace
from servekit.wire.data_frames import PIECE_BYTES

MOST = 1000


class Watched(SpoolSpace):
    """Knows its files and spools."""

    def __init__(self, limits: HttpLimits, directory: str, loop: Any) -> None:
        super().__init__(limits, directory, loop)
        self.files: list[IO[bytes]] = []
        self.spools: list[Spool] = []

    def open(self) -> IO[bytes]:
        self.files.append(super().open())
        return self.files[-1]

    def spool(self, most_bytes: int = MOST, memory_bytes: int = 0) -> Spool:
        self.spools.append(Spool(self, most_bytes, memory_bytes))
        return self.spools[-1]

    def end(self) -> None:
        """Of what was claimed, nothing is left."""
        assert self.used_bytes == self.length
        for spool in self.spools:
            spool.close()
        assert (self.used_bytes, self.memory_bytes) == (0, 0)
        assert all(file.closed for file in self.files)

    @property
    def length(self) -> int:
        return sum(os.fstat(file.fileno()).st_size for file in self.files if not file.closed)


class Reader:
    """It has taken so much since it began to be spooled, and so much waits for it."""

    def __init__(self, space: Watched, *, taken: int, since: float, size: int) -> None:
        self.spool = space.spool(2 * MOST)
        assert self.spool.append(bytes(size))
        self.space, self.taken_bytes, self.spooled_at = space, taken, since
        self.is_cut = False
        space.readers.add(self)

    @property
    def spooled_bytes(self) -> int:
        return self.spool.size

    def cut(self) -> None:
        self.is_cut = True
        self.space.readers.discard(self)
        self.spool.close()


def space(folder: Path, loop: Any, **limits: Any) -> Watched:
    return Watched(HttpLimits(**limits), str(folder), loop)


@pytest.fixture
def make(tmp_path: Path, fake_loop: Any) -> Iterator[Any]:
    made = []

    def make(folder: Path = tmp_path, **limits: Any) -> Watched:
        made.append(space(folder, fake_loop, **limits))
        return made[-1]

    yield make
    for room in made:
        room.end()


@pytest.fixture
def room(make: Any) -> Any:
    return make()


steps = st.lists(st.one_of(st.integers(1, 700), st.just("take"), st.just("drop")), max_size=60)


@given(steps=steps)
def test_what_goes_in_comes_out_in_order_and_the_file_is_never_longer_than_its_bound(
    steps: list[Any], tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    room = space(folder, None)
    spool = room.spool()
    inside: deque[int] = deque()
    put = 0
    for step in steps:
        if isinstance(step, int):
            data = bytes((put + offset) % 251 for offset in range(step))
            assert spool.append(data) is (len(inside) + step <= MOST)
            if len(inside) + step <= MOST:
                inside.extend(data)
                put += step
        elif inside:
            piece = spool.read(spool.start)
            assert piece == bytes(inside)[: len(piece)] != b""
            if step == "take":
                spool.drop(len(piece))
                for _ in piece:
                    inside.popleft()
        assert spool.size == len(inside)
        assert room.length == room.used_bytes <= MOST
        if not inside:
            assert room.length == 0
    room.end()


@given(sizes=st.lists(st.integers(1, 400), max_size=12), memory=st.integers(0, 2000))
def test_a_spool_that_keeps_all_can_be_read_from_anywhere(sizes: list[int], memory: int, tmp_path_factory: Any) -> None:
    room = space(tmp_path_factory.getbasetemp(), None)
    spool = room.spool(10**6, memory)
    body = b""
    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        assert spool.append(piece)
        body += piece
    assert bool(room.files) is (len(body) > memory)
    assert room.memory_bytes == (len(body) if not room.files else 0)
    for at in (0, len(body) // 2, len(body)):
        assert spool.read(at) == body[at:]
    room.end()


def test_it_is_read_in_pieces(room: Watched) -> None:
    spool = room.spool(10 * PIECE_BYTES)
    assert spool.append(bytes(3 * PIECE_BYTES))
    assert len(spool.read(0)) == PIECE_BYTES


def test_a_file_has_no_name(room: Watched, tmp_path: Path) -> None:
    """So nothing is left of it, whatever ends the process."""
    spool = room.spool()
    assert not room.files
    assert spool.append(b"data")
    assert room.files
    assert list(tmp_path.iterdir()) == []


def test_memory_that_others_hold_is_not_used(room: Watched) -> None:
    spools = [room.spool(2 * MEMORY_BYTES, 2 * MEMORY_BYTES) for _ in range(2)]
    assert all(spool.append(bytes(size)) for spool, size in zip(spools, (MEMORY_BYTES, 1), strict=True))
    assert len(room.files) == 1


def test_descriptors_are_left_for_connections(make: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    room = make()
    spools = [room.spool() for _ in range(3)]
    assert [spool.append(b"data") for spool in spools] == [True, True, False]
    assert "Too many open files" in caplog.text
    spools[0].close()
    assert spools[2].append(b"data")


# -- no room ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(make: Any, tmp_path: Path, caplog: Any) -> None:
    room = make(tmp_path / "gone")
    in_file, in_memory = room.spool(), room.spool(MOST, 10)
    assert not in_file.append(b"data")
    assert in_memory.append(b"in memory")
    assert not in_memory.append(b"beyond it")
    assert in_memory.read(0) == b"in memory"
    assert (in_file.size, in_memory.size, room.used_bytes) == (0, 9, 0)
    (record,) = caplog.records
    assert "spool_directory" in record.getMessage()


def test_a_disk_that_is_full(room: Watched, monkeypatch: Any, caplog: Any) -> None:
    """It takes some of a piece and no more; later there is room again."""
    left = 100

    def pwrite(descriptor: int, data: Any, at: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        size = min(left, len(data))
        left -= size
        return real(descriptor, data[:size], at)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    spool = room.spool()
    assert spool.append(b"a" * 80)
    assert not spool.append(b"b" * 80)
    assert not spool.append(b"b" * 80)
    assert (spool.size, room.used_bytes, room.length) == (80, 80, 80)
    assert spool.read(0) == b"a" * 80
    left = 1000
    assert spool.append(b"b" * 80)
    assert spool.read(0) == b"a" * 80 + b"b" * 80
    assert len(caplog.records) == 1  # Once in a while.


def test_the_slowest_reader_is_cut_for_others(make: Any, fake_loop: Any, caplog: Any) -> None:
    room = make(spool_total_bytes=1000, write_timeout_s=10.0)
    since = fake_loop.now
    fake_loop.advance(2 * JUDGED_AFTER_S)
    slow, slower = (Reader(room, taken=taken, since=since, size=300) for taken in (100, 50))
    new = Reader(room, taken=0, since=fake_loop.now, size=300)
    other = room.spool(1000)
    assert other.append(bytes(300))
    assert (slow.is_cut, slower.is_cut, new.is_cut) == (False, True, False)
    (record,) = caplog.records
    assert "spool_total_bytes" in record.getMessage()
    assert other.append(bytes(300))
    assert slow.is_cut
    assert not other.append(bytes(300))  # The new one is not judged yet.
    assert not new.is_cut
    assert room.used_bytes == room.length == 900


def test_readers_that_will_make_room_are_not_cut(make: Any, fake_loop: Any) -> None:
    """However long their answers are: others wait."""
    room = make(spool_total_bytes=1000, write_timeout_s=10.0)
    reader = Reader(room, taken=1000, since=fake_loop.now, size=900)
    fake_loop.advance(10.0)
    assert not room.spool(1000).append(bytes(200))
    assert not reader.is_cut
    fake_loop.advance(10.0)  # By now it has taken half of that in its time.
    assert room.spool(1000).append(bytes(200))
    assert reader.is_cut


def test_a_reader_that_is_cut_for_itself(make: Any, fake_loop: Any) -> None:
    room = make(spool_total_bytes=1000)
    reader = Reader(room, taken=0, since=fake_loop.now, size=900)
    fake_loop.advance(60.0)
    assert not reader.spool.append(bytes(200))
    assert reader.is_cut
    assert room.used_bytes == room.length == 0


def test_what_fits_in_memory_needs_no_room_in_files(tmp_path: Path, fake_loop: Any) -> None:
    space = SpoolSpace(HttpLimits(spool_total_bytes=0), str(tmp_path), fake_loop)
    spool = Spool(space, space.total_bytes, 1000)
    assert spool.append(bytes(1000))
    assert not spool.append(b"x")
    spool.close()
    assert (space.used_bytes, space.memory_bytes) == (0, 0)
