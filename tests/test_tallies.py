"""Counters in a file: what is read is what was counted, whenever it is read and whatever ends the writer."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.full_disk import no_room

from servekit.tallies import (
    BOUNDS,
    FINE_BOUNDS,
    FIRST_SEGMENT,
    RECORD_BYTES,
    SLOTS,
    Key,
    Tallies,
    TallyFile,
    all_others,
)

WRITER = """
import sys
from servekit.tallies import Tallies
tallies = Tallies(sys.argv[1], "w")
print(tallies.path, flush=True)
for number in range(10**9):
    tallies.add(("k", number % 50))[number % 7] += 1
    print(flush=True)
"""


def firsts(counted: object) -> dict[Key, int]:
    return {key: slots[0] for key, slots in counted.items()}  # type: ignore[attr-defined]


@given(st.lists(st.one_of(st.tuples(st.sampled_from('abcdé\\" '), st.integers(0, 40)), st.none()), max_size=200))
@settings(max_examples=50)
def test_any_interleaving_of_growth_and_reading(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Key | None]
) -> None:
    tallies, counted = Tallies(str(tmp_path_factory.mktemp("t")), "w"), Counter[Key]()
    file = TallyFile(tallies.path)
    for step in [*steps, None]:
        if step is None:
            assert firsts(file.read()) == counted
            assert firsts(TallyFile(tallies.path).read()) == counted
        else:
            tallies.add(step)[0] += 1
            counted[step] += 1
    tallies.close()


def test_a_writer_that_is_killed_has_counted(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        file = TallyFile(writer.stdout.readline().decode().strip())
        for _ in range(400):
            writer.stdout.readline()
        assert not file.is_left
        writer.send_signal(signal.SIGKILL)
        told = 400 + sum(1 for _ in writer.stdout)
    assert file.is_left
    assert told <= sum(sum(slots) for slots in file.read().values()) <= told + 1


def test_a_file_that_is_cut_has_the_records_before_the_cut(tmp_path: Path) -> None:
    tallies = Tallies(str(tmp_path), "w")
    for number in range(5):
        tallies.add(("k", number))[0] = number
    copy = tmp_path / "copy"
    for size in (0, 1, 8, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 9, 3 * RECORD_BYTES + 100):
        copy.write_bytes(Path(tallies.path).read_bytes()[:size])
        assert list(TallyFile(str(copy)).read()) == [("k", number) for number in range(size // RECORD_BYTES)]
    tallies.close()


@pytest.mark.parametrize("length", [0, 5, 10**6, -1])
def test_a_record_whose_key_is_not_complete_does_not_count(tmp_path: Path, length: int) -> None:
    tallies = Tallies(str(tmp_path), "w")
    for number in range(2):
        tallies.add(("k", number))[0] = 7
    data = bytearray(Path(tallies.path).read_bytes())
    data[RECORD_BYTES : RECORD_BYTES + 8] = length.to_bytes(8, sys.byteorder, signed=True)
    copy = tmp_path / "copy"
    copy.write_bytes(data)
    assert firsts(TallyFile(str(copy)).read()) == {("k", 0): 7}
    tallies.close()


def test_keys_beyond_the_bound_are_counted_together_by_kind(tmp_path: Path) -> None:
    tallies = Tallies(str(tmp_path), "w", most=20)
    for number in range(50):
        tallies.add(("k", "name", number))[0] += 1
        tallies.add(("other", "x" * 10_000))[1] += 1
    counted = TallyFile(tallies.path).read()
    assert len(counted) <= 20
    assert sum(slots[0] for slots in counted.values()) == 50
    assert counted[all_others(("k", "name", 1))][0] > 30
    assert counted["other", "_OTHER"][1] == 50
    tallies.close()


def test_where_there_is_no_room_it_is_counted_in_memory_until_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tallies = Tallies(str(tmp_path), "w")
    for number in range(FIRST_SEGMENT):
        tallies.add(("k", number))[0] += 1
    with no_room():
        for number in range(40):
            tallies.add(("k", number))[0] += 1
        tallies.settle()
    assert len(TallyFile(tallies.path).read()) == FIRST_SEGMENT
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    tallies.settle()
    for number in range(40):
        tallies.slots["k", number][0] += 1
    wanted = {("k", number): 3 if number < FIRST_SEGMENT else 2 for number in range(40)}
    assert firsts(TallyFile(tallies.path).read()) == wanted
    tallies.close()


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tallies = Tallies(str(tmp_path / "none"), "w")
    tallies.add(("k",))[0] += 1
    tallies.settle()
    assert "in no file" in caplog.text
    tallies.close()


def test_a_file_is_left_once_its_writer_lets_go(tmp_path: Path) -> None:
    tallies = Tallies(str(tmp_path), "w")
    tallies.add(("k",))[0] += 1
    file = TallyFile(tallies.path)
    assert not file.is_left
    tallies.close()
    tallies.close()
    assert file.is_left
    assert firsts(file.read()) == {("k",): 1}
    assert os.listdir(tmp_path) == [os.path.basename(file.path)]


def test_the_bounds_are_opentelemetrys_and_finer_ones() -> None:
    assert set(BOUNDS) < set(FINE_BOUNDS)
    assert list(FINE_BOUNDS) == sorted(set(FINE_BOUNDS))
    assert (FINE_BOUNDS[0], FINE_BOUNDS[-1]) == (0.0001, 60.0)
    assert all(1.02 < upper / lower < 1.4 for lower, upper in itertools.pairwise(FINE_BOUNDS))
    assert 8 * (1 + SLOTS) < RECORD_BYTES
