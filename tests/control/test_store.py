from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servekit.control.event_ring import Event
from servekit.control.state import Desired, Kept, TrafficEntry, Written
from servekit.control.store import Store, StoreThread, WorkerRecord, restore
from servekit.errors import InternalError, InvalidInputError, NotFoundError, StoreError
from servekit.wire.control_frames import PluginRef

WORKER = WorkerRecord("r1", "b", 2, b"\x00\xffstate", 7, 1700000000.5, 3)


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


def test_events_are_beside_the_state(store: Store, make: Any, tmp_path: Path) -> None:
    events = [Event(number=n, at=float(n), kind="traffic_set", text=f"é {n}", count=n) for n in range(1, 6)]
    store.save_events(events[:3], [])
    store.save(Desired(), make.desired(make.backend()))
    store.save_events(events[3:], [1, 77])
    other = Store(str(tmp_path))
    assert other.events() == events[1:]
    other.save_events(events[:1], None)
    other.close()
    assert store.events() == events[:1]
    assert again(tmp_path)[0].backends.keys() == {"b"}


def test_a_state_of_before_there_were_events_has_none(store: Store, make: Any, tmp_path: Path) -> None:
    store.save(Desired(), make.desired(make.backend()))
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("DROP TABLE events")
        db.execute("PRAGMA user_version=2")
    db.close()
    later = Store(str(tmp_path))
    assert later.events() == []
    assert later.load()[0].backends.keys() == {"b"}
    later.save_events([Event(number=1, at=0.0, kind="traffic_set", text="")], [])
    assert len(later.events()) == 1
    later.close()


def test_events_that_cannot_be_read_are_an_error_of_their_own(store: Store) -> None:
    store._db.execute("INSERT INTO events VALUES (1, X'FF')")
    with pytest.raises(StoreError, match="events of an earlier controller"):
        store.events()


def test_the_ports_that_workers_on_other_machines_dial_are_beside_all_that(store: Store, tmp_path: Path) -> None:
    store.save_address("10.0.0.1", 4001)
    store.save_address("::1", 4002)
    store.save_address("10.0.0.1", 4003)
    assert again(tmp_path) == (Desired(), [])
    assert store.addresses() == {"10.0.0.1": 4003, "::1": 4002}


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


# -- what is missing, damaged, or of another version ---------------------------------------------------------------


def damaged(path: Path) -> None:
    path.write_bytes(b"no database" * 500)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [damaged, emptied, Path.unlink])
def test_a_database_that_is_damaged_or_lost_is_refused_and_can_be_restored(
    tmp_path: Path, make: Any, harm: Callable[[Path], None]
) -> None:
    desired = make.desired(make.endpoint(), make.backend(), make.backend("c"))
    store = Store(str(tmp_path))
    store.save(Desired(), desired)
    store.save_worker(WORKER)
    store.close()
    harm(tmp_path / "state.db")
    with pytest.raises(StoreError, match=f"servekit restore --name {tmp_path.name}") as refused:
        Store(str(tmp_path))
    assert "with 1 endpoint and 2 backends" in str(refused.value)
    assert "with 1 endpoint and 2 backends" in restore(str(tmp_path))
    assert again(tmp_path) == (desired, [WORKER])
    assert (tmp_path / "state.db.damaged").exists() == (harm is not Path.unlink)
    with pytest.raises(InvalidInputError, match="nothing to restore"):
        restore(str(tmp_path))


def test_a_record_that_no_version_wrote_is_refused(store: Store, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("INSERT INTO records VALUES ('backend', 'b', x'00')")
    db.close()
    with pytest.raises(StoreError, match="cannot be read"):
        store.load()


def test_a_state_that_an_earlier_controller_had_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is missing"):
        Store(str(tmp_path), resumed=True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_copy_there_is_nothing_to_restore_from(store: Store, make: Any, tmp_path: Path) -> None:
    store.save(Desired(), make.desired(make.backend()))
    store.close()
    damaged(tmp_path / "state.db")
    damaged(tmp_path / "state.last")
    with pytest.raises(StoreError, match="--purge deletes it") as refused:
        Store(str(tmp_path))
    assert "restore" not in str(refused.value)
    with pytest.raises(StoreError, match="no copy"):
        restore(str(tmp_path))


def test_what_a_newer_servekit_wrote_is_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="newer servekit"):
        Store(str(tmp_path))


def test_what_the_first_servekit_wrote_is_taken_over(tmp_path: Path, make: Any) -> None:
    """Its database has no version."""
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("CREATE TABLE records (kind TEXT, name TEXT, body BLOB, PRIMARY KEY (kind, name)) WITHOUT ROWID")
        record = make.backend()
        db.execute("INSERT INTO records VALUES ('backend', 'b', ?)", (msgspec.msgpack.encode(record),))
    db.close()
    assert again(tmp_path)[0].backends == {"b": record}


def test_history_and_kept_revisions_are_there_again(store: Store, tmp_path: Path, make: Any) -> None:
    written = {"endpoints.e.timeout_s": Written("${TIMEOUT}", b"digest")}
    desired = msgspec.structs.replace(make.desired(make.backend(), make.endpoint()), number=7, written=written)
    entry = TrafficEntry(1, 2.0, {"b": 1.0}, {"b": 1}, "ada", "deploy")
    later = msgspec.structs.replace(desired, history={"e": (entry,)}, kept={"a": Kept((make.backend("a"),), 3.0, 4)})
    store.save(Desired(), desired)
    store.save(desired, later)
    assert again(tmp_path)[0] == later
    store.save(later, desired)
    assert again(tmp_path)[0] == desired


def test_every_worker_is_forgotten_by_an_instance_that_begins(store: Store, tmp_path: Path) -> None:
    store.save_worker(WORKER)
    store.forget_workers()
    assert again(tmp_path)[1] == []


def test_a_disk_that_fails_is_named(store: Store) -> None:
    def full(_: Store) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def call() -> None:
        thread = StoreThread(store)
        with pytest.raises(StoreError, match="No space left on device.* Nothing was changed"):
            await thread.call(full)
        with pytest.raises(NotFoundError):
            await thread.call(lambda store: store.get_blob("0" * 64))
        await thread.close()

    asyncio.run(call())
