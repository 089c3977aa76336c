from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servekit.control.state import Desired
from servekit.control.store import Store, WorkerRecord
from servekit.errors import InternalError, NotFoundError
from servekit.wire.control_frames import PluginRef

WORKER = WorkerRecord("r1", "b", 2, b"\x00\xffstate", 7, 1700000000.5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path))
    yield store
    store.close()


def again(tmp_path: Path) -> tuple[Desired, list[WorkerRecord]]:
    """What the controller after this one finds."""
    other = Store(str(tmp_path))
    try:
        return other.load()
    finally:
        other.close()


def put(store: Store, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    store.put_blob(data, digest)
    return digest


def test_a_new_one_is_empty(store: Store) -> None:
    assert store.load() == (Desired(), [])


def test_what_was_saved_is_found_by_another(store: Store, make: Any, tmp_path: Path) -> None:
    desired = make.desired(
        make.endpoint(traffic={"b": 0.75, "c": 0.25}, route="/u/<int:id>", methods=("GET", "POST")),
        make.endpoint("ümlaut", route=None, mount=False),
        make.backend(config={"num_replicas": 3, "callable_methods": ("train",)}, revision=4),
        make.backend("c"),
    )
    store.save(Desired(), desired)
    store.save_worker(WORKER)
    assert again(tmp_path) == (desired, [WORKER])


def test_options_come_back_as_they_were(store: Store, make: Any, tmp_path: Path) -> None:
    options = {"bytes": b"\xff", "inf": math.inf, "by_number": {1: "one"}, "list": [1, 2.5, None, True], "text": "é"}
    desired = make.desired(make.backend(runtime_options=options, adapter_ref=PluginRef("a:A", options)))
    store.save(Desired(), desired)
    assert again(tmp_path)[0] == desired


def test_only_what_differs_is_written(store: Store, make: Any, tmp_path: Path) -> None:
    first = make.desired(make.endpoint(), make.endpoint("f"), make.backend())
    store.save(Desired(), first)
    second = make.desired(make.endpoint(timeout_s=5.0), make.backend(), make.backend("c"))
    store.save(first, second)
    assert again(tmp_path)[0] == second
    store.save(second, Desired())
    assert again(tmp_path)[0] == Desired()


def test_a_save_that_fails_has_changed_nothing(store: Store, make: Any, tmp_path: Path) -> None:
    first = make.desired(make.endpoint(), make.backend())
    store.save(Desired(), first)
    # The backend comes after the endpoints, which are written already when it turns out that it cannot be.
    second = make.desired(make.endpoint(timeout_s=5.0), make.backend(runtime_options={"what": object()}))
    with pytest.raises(TypeError):
        store.save(first, second)
    assert again(tmp_path)[0] == first
    store.save(first, Desired())  # And the next one goes through.
    assert again(tmp_path)[0] == Desired()


def test_workers_are_forgotten(store: Store, tmp_path: Path) -> None:
    store.save_worker(WORKER)
    store.forget_worker("another")
    assert again(tmp_path)[1] == [WORKER]
    store.forget_worker("r1")
    store.forget_worker("r1")
    assert again(tmp_path)[1] == []


def test_targets_by_their_hash(store: Store, tmp_path: Path) -> None:
    one, other = put(store, b"one"), put(store, b"\x00" * 100_000)
    assert put(store, b"one") == one
    assert (store.get_blob(one), store.get_blob(other)) == (b"one", b"\x00" * 100_000)
    store.drop_blobs_except({other})
    with pytest.raises(NotFoundError, match=one):
        store.get_blob(one)
    assert store.get_blob(other)
    later = Store(str(tmp_path))
    assert later.get_blob(other)
    later.close()


def test_bytes_that_were_damaged_on_the_disk(store: Store, tmp_path: Path) -> None:
    digest = put(store, b"one")
    (tmp_path / "targets" / digest).write_bytes(b"on")
    with pytest.raises(InternalError, match="damaged"):
        store.get_blob(digest)


def test_the_files_are_the_users_alone(store: Store, tmp_path: Path) -> None:
    assert (tmp_path / "targets").stat().st_mode & 0o077 == 0
