"""What processes counted, added up: nothing is lost and nothing counts twice, whoever is killed when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.full_disk import no_room

from servekit.control import totals as totals_module
from servekit.control.totals import BASE, Totals
from servekit.tallies import Tallies

KEY = ("request", "e", "b", "GET", 200, "")


def counted(folder: Path, requests: int, name: str = "ingress1") -> Tallies:
    tallies = Tallies(str(folder), name)
    tallies.add(KEY)[3] += requests
    return tallies


def requests(totals: Totals) -> int:
    return totals.read()[KEY][3]


def files(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in folder.iterdir())


def test_workers_that_are_there_and_that_have_ended(tmp_path: Path) -> None:
    totals = Totals(str(tmp_path))
    assert totals.read() == {}
    first, second = counted(tmp_path, 3), counted(tmp_path, 4, "ingress2")
    assert requests(totals) == 7
    first.close()
    third = counted(tmp_path, 10)
    assert [requests(totals) for _ in range(3)] == [17, 17, 17]
    assert files(tmp_path) == ["ingress1", "ingress2", BASE]
    third.add(KEY)[3] += 1
    assert requests(totals) == 18
    for each in (second, third):
        each.close()
    assert requests(totals) == 18
    assert files(tmp_path) == [BASE]


def test_another_controller_counts_on(tmp_path: Path) -> None:
    totals = Totals(str(tmp_path))
    first, second = counted(tmp_path, 3), counted(tmp_path, 4)
    first.close()
    assert requests(totals) == 7
    totals.forgotten[0][KEY] = [1] * len(totals.read()[KEY])
    totals.save()
    second.close()
    another = Totals(str(tmp_path), resumed=True)
    assert requests(another) == 7
    assert another.forgotten == totals.forgotten
    assert Totals(str(tmp_path)).read() == {}, "an instance that begins has counted nothing"
    assert files(tmp_path) == []


def test_a_controller_that_is_killed_between_writing_the_base_and_deleting_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = Totals(str(tmp_path))
    counted(tmp_path, 3).close()

    def killed(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError("killed")

    with monkeypatch.context() as patch:
        write = totals_module.write_private

        def write_and_die(*arguments: Any, **more: Any) -> None:
            write(*arguments, **more)
            patch.setattr(Path, "unlink", killed)

        patch.setattr(totals_module, "write_private", write_and_die)
        assert requests(totals) == 3
        assert requests(totals) == 3
    assert files(tmp_path) == ["ingress1", BASE]
    another = Totals(str(tmp_path), resumed=True)
    assert [requests(another) for _ in range(2)] == [3, 3]
    assert files(tmp_path) == [BASE]


def test_a_controller_that_cannot_write_the_base_reads_the_files(tmp_path: Path) -> None:
    counted(tmp_path, 3).close()
    live = counted(tmp_path, 4)
    with no_room():
        totals = Totals(str(tmp_path), resumed=True)
        assert [requests(totals) for _ in range(2)] == [7, 7]
    assert [requests(totals) for _ in range(2)] == [7, 7]
    assert requests(Totals(str(tmp_path), resumed=True)) == 7
    live.close()


def test_a_base_that_is_damaged_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / BASE).write_bytes(b"{")
    assert Totals(str(tmp_path), resumed=True).read() == {}
    assert "damaged" in caplog.text


def test_a_file_that_cannot_be_read_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = Totals(str(tmp_path))
    live = counted(tmp_path, 3)
    assert requests(totals) == 3

    def no_descriptors(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("servekit.tallies.TallyFile.read", no_descriptors)
        assert requests(totals) == 3
    assert requests(totals) == 3
    live.close()


def test_there_is_a_bound_on_what_is_kept(tmp_path: Path) -> None:
    totals = Totals(str(tmp_path), most_keys=3)
    for number in range(10):
        tallies = Tallies(str(tmp_path), "w")
        tallies.add(("request", f"e{number}", "b", "GET", 200, ""))[0] += 1
        tallies.close()
        sums = totals.read()
    assert len(sums) == 4
    assert sum(slots[0] for slots in sums.values()) == 10
