from __future__ import annotations

from pathlib import Path

from servekit.private_folders import write_private


def test_a_file_is_written_for_this_user_alone_in_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old, and readable by all")
    path.with_suffix(".part").write_bytes(b"left by one that died as it wrote")
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
