from __future__ import annotations

import os
from pathlib import Path

import pytest

from servekit.private_folders import write_private


def test_a_file_is_written_for_this_user_alone_in_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old, and readable by all")
    path.with_suffix(".part").write_bytes(b"left by one that died as it wrote")
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_to_outlast_a_crash_of_the_machine_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path = tmp_path / "record.json"
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_size, path.exists())))
    write_private(path, b"new", durable=durable)
    assert synced == ([(3, False)] if durable else [])
