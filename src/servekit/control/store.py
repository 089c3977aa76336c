"""Where the desired state outlives the controller: rows in SQLite; targets and code in files named by their hash."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from servekit.code import bundle, place
from servekit.control.state import BackendRecord, Desired
from servekit.errors import InternalError, NotFoundError
from servekit.private_folders import write_private
from servekit.wire.control_frames import EndpointRecord

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (kind TEXT, name TEXT, body BLOB, PRIMARY KEY (kind, name)) WITHOUT ROWID;
"""


class WorkerRecord(msgspec.Struct, frozen=True):
    """A started worker, for the controller that comes after this one."""

    worker_id: str
    backend: str
    revision: int
    handle: bytes
    number: int
    started_at: float


class Store:
    """Not for two threads at once: the controller calls it in the one of a `StoreThread`."""

    def __init__(self, directory: str) -> None:
        self._blobs = Path(directory) / "targets"
        self._blobs.mkdir(mode=0o700, exist_ok=True)
        self._folders = Path(directory) / place.FOLDER
        self._folders.mkdir(mode=0o700, exist_ok=True)
        self._db = sqlite3.connect(Path(directory) / "state.db", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        # A crash of the machine may lose the last changes, one of the process none: workers die with the machine.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def load(self) -> tuple[Desired, list[WorkerRecord]]:
        """What was last saved."""
        rows = self._db.execute("SELECT kind, body FROM records").fetchall()
        endpoints = [msgspec.msgpack.decode(body, type=EndpointRecord) for kind, body in rows if kind == "endpoint"]
        backends = [msgspec.msgpack.decode(body, type=BackendRecord) for kind, body in rows if kind == "backend"]
        workers = [msgspec.msgpack.decode(body, type=WorkerRecord) for kind, body in rows if kind == "worker"]
        return Desired({e.name: e for e in endpoints}, {b.name: b for b in backends}), workers

    def save(self, before: Desired, after: Desired) -> None:
        """Write what differs, whole or not at all."""
        with self._transaction():
            self._save_kind("endpoint", before.endpoints, after.endpoints)
            self._save_kind("backend", before.backends, after.backends)

    def save_worker(self, record: WorkerRecord) -> None:
        self._put("worker", record.worker_id, record)

    def forget_worker(self, worker_id: str) -> None:
        self._db.execute("DELETE FROM records WHERE kind = 'worker' AND name = ?", (worker_id,))

    def put_blob(self, data: bytes, digest: str) -> None:
        """Keep the bytes of a target or of its code, whose SHA-256 is ``digest``."""
        path = self._blobs / digest
        if not path.exists():
            write_private(path, data)

    def get_blob(self, digest: str) -> bytes:
        """Raises `NotFoundError`, and `InternalError` where the bytes are not those that were kept."""
        try:
            data = (self._blobs / digest).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"no target or code with the SHA-256 {digest!r} was uploaded") from None
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
                # A child that has just begun may still write bytecode there: what is left goes the next time.
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        self._db.close()

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

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


class StoreThread:
    """Runs calls on the store one after another, off the controller's loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def call(self, work: Callable[[Store], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._store)

    async def close(self) -> None:
        await self.call(lambda store: store.close())
        self._thread.shutdown()
