"""The store, in which the desired state outlives the controller: rows in SQLite; targets and code in files named by
their hash."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from servekit.code import bundle, place
from servekit.control.event_ring import Event
from servekit.control.rollout import Rollout
from servekit.control.state import BackendRecord, Desired, Kept, TrafficEntry, Written
from servekit.errors import InternalError, InvalidInputError, NotFoundError, ServekitError, StoreError
from servekit.private_folders import write_private
from servekit.wire.control_frames import EndpointRecord

T = TypeVar("T")

_log = logging.getLogger("servekit.control")

_FILE, _COPY, _METRICS = "state.db", "state.last", "metrics.last"
_NO_DAMAGE = ("disk is full", "disk I/O error", "unable to open", "readonly", "locked")
"""The words of SQLite's for what says nothing of the file (``sqlite3_errstr``)."""
_STEPS = (
    "CREATE TABLE IF NOT EXISTS records (kind TEXT, name TEXT, body BLOB, PRIMARY KEY (kind, name)) WITHOUT ROWID",
    # Kept revisions and histories are records as well. A servekit that does not know of them would delete the code of
    # the former as unused, so it refuses this version.
    "DELETE FROM records WHERE kind IN ('kept', 'history', 'written', 'state')",
    # Not records: `_keep_copy` writes all of those with each change.
    "CREATE TABLE events (number INTEGER PRIMARY KEY, body BLOB)",
    # A servekit that does not know of roll-outs would leave one where it is, for ever: it refuses this version.
    "DELETE FROM records WHERE kind = 'rollout'",
)
"""The statements that make the schema of each version of the one before, beginning with that of an empty file. The
version of a database is its ``user_version`` (https://www.sqlite.org/pragma.html#pragma_user_version)."""


class WorkerRecord(msgspec.Struct, frozen=True):
    """A started replica worker, for the controller that comes after this one."""

    worker_id: str
    backend: str
    revision: int
    handle: bytes
    number: int
    started_at: float
    rank: int = 0


class _Copy(msgspec.Struct, array_like=True):
    """The records that were saved last, beside the database."""

    version: int
    saved_at: float
    rows: list[tuple[str, str, bytes]]


class Store:
    """The store of one instance; only one thread at a time may call it."""

    def __init__(
        self, directory: str, code_directory: str | None = None, *, durable: bool = True, resumed: bool = False
    ) -> None:
        """Open the store, or make it where there is none.

        Args:
            directory: of the state.
            code_directory: in which code is unpacked for replicas; default, that of the state.
            durable: a later instance takes this state over, even where the machine crashed in between.
            resumed: an earlier controller has used the store: it must be there.

        Raises:
            StoreError: what is there cannot be read. Nothing was changed.
        """
        self._durable = durable
        self._directory = Path(directory)
        self._blobs = self._directory / "targets"
        path = self._directory / _FILE
        is_empty = not path.exists() or path.stat().st_size == 0
        if is_empty and (resumed or (self._directory / _COPY).exists() or _has_files(self._blobs)):
            raise _damaged(self._directory, "is missing, or is an empty file")
        self._blobs.mkdir(mode=0o700, exist_ok=True)
        self._folders = Path(code_directory or directory) / place.FOLDER
        self._folders.mkdir(mode=0o700, exist_ok=True)
        try:
            self._db = _opened(path)
        except sqlite3.Error as error:
            if any(reason in str(error) for reason in _NO_DAMAGE):
                raise StoreError(f"the state in {path} cannot be opened: {error}. Make room on a full disk") from error
            raise _damaged(self._directory, f"cannot be read ({error})") from error

    def load(self) -> tuple[Desired, list[WorkerRecord]]:
        """The state that was last saved, and the workers. Raises `StoreError`."""
        try:
            rows = self._db.execute("SELECT kind, name, body FROM records").fetchall()
            return _desired(rows), [_decode(body, WorkerRecord) for kind, _, body in rows if kind == "worker"]
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise _damaged(self._directory, f"cannot be read ({error})") from error

    def save(self, before: Desired, after: Desired) -> None:
        """Write the difference between the two states, whole or not at all."""
        with self._db:  # Commits, or rolls back where this raises.
            self._db.execute("BEGIN IMMEDIATE")
            self._save_kind("endpoint", before.endpoints, after.endpoints)
            self._save_kind("backend", before.backends, after.backends)
            self._save_kind("kept", before.kept, after.kept)
            self._save_kind("history", before.history, after.history)
            self._save_kind("written", before.written, after.written)
            self._save_kind("rollout", before.rollouts, after.rollouts)
            self._save_kind("state", {"number": before.number}, {"number": after.number})
        self._keep_copy()

    def save_worker(self, record: WorkerRecord) -> None:
        self._put("worker", record.worker_id, record)
        self._keep_copy()

    def forget_worker(self, worker_id: str) -> None:
        self._db.execute("DELETE FROM records WHERE kind = 'worker' AND name = ?", (worker_id,))
        self._keep_copy()

    def forget_workers(self) -> None:
        """Forget all workers, and where they dialled: they ended with the instance that started them."""
        self._db.execute("DELETE FROM records WHERE kind IN ('worker', 'address')")

    def addresses(self) -> dict[str, int]:
        """The ports on which workers on other machines dial the controller, by the host that they dial."""
        rows = self._db.execute("SELECT name, body FROM records WHERE kind = 'address'")
        return {host: msgspec.msgpack.decode(body, type=int) for host, body in rows}

    def save_address(self, host: str, port: int) -> None:
        self._put("address", host, port)

    def events(self) -> list[Event]:
        """The events that were saved, the oldest first. Raises `StoreError`."""
        try:
            rows = self._db.execute("SELECT body FROM events ORDER BY number").fetchall()
            return [_decode(body, Event) for (body,) in rows]
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise StoreError(f"the events of an earlier controller cannot be read: {error}") from error

    def save_events(self, events: Iterable[Event], gone: Collection[int] | None) -> None:
        """Save these events, and forget those of the numbers ``gone``; None: all others."""
        rows = [(event.number, msgspec.msgpack.encode(event)) for event in events]
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if gone is None:
                self._db.execute("DELETE FROM events")
            else:
                self._db.executemany("DELETE FROM events WHERE number = ?", [(number,) for number in gone])
            self._db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?)", rows)

    def load_metrics(self) -> bytes:
        """What `save_metrics` saved last; empty where it did not."""
        try:
            return (self._directory / _METRICS).read_bytes()
        except FileNotFoundError:
            return b""

    def save_metrics(self, data: bytes) -> None:
        """Keep the metrics of replicas. A crash of the machine may lose them."""
        write_private(self._directory / _METRICS, data, durable=False)

    def put_blob(self, data: bytes, digest: str) -> None:
        """Keep the bytes of a target or of its code, whose SHA-256 is ``digest``."""
        path = self._blobs / digest
        if not path.exists():
            write_private(path, data, durable=self._durable)

    def get_blob(self, digest: str) -> bytes:
        """The bytes whose SHA-256 is ``digest``. Raises `NotFoundError`, and `InternalError` where the file is
        damaged."""
        try:
            data = (self._blobs / digest).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"there is no target or code with the SHA-256 {digest!r} in {self._blobs}: create the backend anew"
            ) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise InternalError(f"the file with the SHA-256 {digest!r} is damaged; create the backend anew")
        return data

    def get_target(self, record: BackendRecord, is_remote: bool) -> tuple[bytes, bytes]:
        """The bytes of the target, and of its code where the replica that is to run it is on another machine.

        For replicas on this machine and their children the code is unpacked into the instance's directory.
        """
        target = self.get_blob(record.target)
        if not record.code:
            return target, b""
        if is_remote:
            return target, self.get_blob(record.code)
        folder = self._folders / record.code
        if not folder.exists():
            bundle.unpack(bundle.decode(self.get_blob(record.code)), folder)
        return target, b""

    def drop_blobs_except(self, digests: set[str]) -> None:
        """Delete the bytes, and the folders of code, that no backend refers to."""
        for path in self._blobs.iterdir():
            if path.name not in digests:
                path.unlink()
        for path in self._folders.iterdir():
            if path.name not in digests:
                # A handler's child that has just begun may still write bytecode there: the rest goes the next time.
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        self._db.close()

    def _keep_copy(self) -> None:
        """Write what was saved to a file beside the database, from which `restore` can make another one."""
        if not self._durable:
            return
        try:
            rows = self._db.execute("SELECT kind, name, body FROM records").fetchall()
            copy = msgspec.msgpack.encode(_Copy(len(_STEPS), time.time(), rows))
            write_private(self._directory / _COPY, copy, durable=False)
        except (OSError, sqlite3.Error) as error:
            _log.warning("the state is saved, but not the copy of it: %s", error)

    def _save_kind(self, kind: str, before: Mapping[str, object], after: Mapping[str, object]) -> None:
        for name, record in after.items():
            old = before.get(name)
            if old is not record and old != record:
                self._put(kind, name, record)
        for name in before.keys() - after.keys():
            self._db.execute("DELETE FROM records WHERE kind = ? AND name = ?", (kind, name))

    def _put(self, kind: str, name: str, record: object) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, name, msgspec.msgpack.encode(record))
        )


class StoreThread:
    """Calls the store in a thread of its own, one call after another, so that the controller's loop never waits for
    it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def call(self, work: Callable[[Store], T]) -> T:
        """What ``work`` returns. Raises `StoreError` where the disk fails; then nothing was changed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, work)

    def _call(self, work: Callable[[Store], T]) -> T:
        try:
            return work(self._store)
        except ServekitError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the state of this instance cannot be saved: {error}. Nothing was changed; make room on a full disk"
            ) from error

    async def close(self) -> None:
        await self.call(lambda store: store.close())
        self._thread.shutdown()


def restore(directory: str) -> str:
    """Put the last good state in the place of a database that is missing or damaged; returns a description of it.

    The damaged file stays, as ``state.db.damaged``.

    Raises:
        InvalidInputError: the database is neither.
        StoreError: there is no copy, or it cannot be written.
    """
    folder = Path(directory)
    try:
        with contextlib.closing(Store(directory)) as store:
            store.load()
    except StoreError as error:
        copy, new = _read_copy(folder), folder / "state.new"
        if copy is None:
            raise StoreError(f"there is no copy of the state in {directory}: {error}") from error
    else:
        raise InvalidInputError(f"the state in {directory} can be read: there is nothing to restore")
    try:
        _put_back(folder, new, copy)
    except (OSError, sqlite3.Error) as error:
        new.unlink(missing_ok=True)
        raise StoreError(f"the copy of the state in {directory} cannot be put back: {error}") from error
    return _describe(copy)


def _put_back(folder: Path, new: Path, copy: _Copy) -> None:
    """Make a database of the copy at ``new``, and put it in the place of the damaged one."""
    new.unlink(missing_ok=True)
    with contextlib.closing(_opened(new, version=copy.version, journal="DELETE")) as db, db:
        db.executemany("INSERT INTO records VALUES (?, ?, ?)", copy.rows)
    # The log of the damaged file must not be taken for one of the new file.
    for name in (f"{_FILE}-wal", f"{_FILE}-shm"):
        (folder / name).unlink(missing_ok=True)
    if (folder / _FILE).exists():
        (folder / _FILE).replace(folder / f"{_FILE}.damaged")
    new.replace(folder / _FILE)


def _opened(path: Path, *, version: int | None = None, journal: str = "WAL") -> sqlite3.Connection:
    """The database at ``path``, brought to this schema, or made with that of ``version``."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA journal_mode={journal}")
        # A crash of the machine may lose the last changes, one of this process none: workers die with the machine.
        db.execute("PRAGMA synchronous=NORMAL")
        (problem,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found > len(_STEPS):
            raise sqlite3.DatabaseError(f"a newer servekit wrote it: its schema is {found}, and {len(_STEPS)} is known")
        wanted = len(_STEPS) if version is None else version
        if found < wanted:
            with db:
                db.execute("BEGIN IMMEDIATE")
                for step in _STEPS[found:wanted]:
                    db.execute(step)
                db.execute(f"PRAGMA user_version={wanted}")
    except BaseException:
        db.close()
        raise
    return db


def _has_files(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _decode(body: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(body, type=kind)


def _desired(rows: Iterable[tuple[str, str, bytes]]) -> Desired:
    kinds: dict[str, Any] = {
        "endpoint": EndpointRecord,
        "backend": BackendRecord,
        "kept": Kept,
        "history": tuple[TrafficEntry, ...],
        "written": Written,
        "rollout": Rollout,
        "state": int,
    }
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for kind, name, body in rows:
        if kind in kinds:
            found[kind][name] = msgspec.msgpack.decode(body, type=kinds[kind])
    number = found["state"].get("number", 0)
    return Desired(
        found["endpoint"],
        found["backend"],
        number,
        found["kept"],
        found["history"],
        found["written"],
        found["rollout"],
    )


def _read_copy(folder: Path) -> _Copy | None:
    """The copy of the state; None where there is none, or that is damaged, too."""
    try:
        copy = _decode((folder / _COPY).read_bytes(), _Copy)
        _desired(copy.rows)
    except (OSError, msgspec.MsgspecError):
        return None
    return copy


def _describe(copy: _Copy) -> str:
    kinds = [kind for kind, *_ in copy.rows]
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(copy.saved_at))
    return f"the state of {saved}, with {counted(kinds.count('endpoint'), kinds.count('backend'))}"


def counted(endpoints: int, backends: int) -> str:
    """``1 endpoint and 2 backends``, say."""
    counts = {"endpoint": endpoints, "backend": backends}
    return " and ".join(f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items())


def _damaged(folder: Path, problem: str) -> StoreError:
    copy = _read_copy(folder)
    name = f"--name {folder.name}"
    advice = "" if copy is None else f"servekit restore {name} puts back {_describe(copy)}, of which there is a copy; "
    return StoreError(
        f"the state in {folder / _FILE} {problem}. Nothing was changed, and what is served goes on. "
        f"{advice}servekit stop {name} --purge deletes it"
    )
