"""What a standing instance keeps: its disk is full, and has room again; its database is damaged."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.row import Row, not_run, seconds
from benchmarks.faults.scene import (
    POSTS_INSIDE,
    Scene,
    Watch,
    kill,
    nothing,
    others,
    posts_inside,
    scene,
    watched,
)
from servekit.errors import ServekitError

DISK_MB = 4
"""The code that travels with a handler of the benchmarks takes two."""
DAMAGED_S = 3.0
"""So long there is no controller."""


@contextlib.contextmanager
def small_disk(mb: int) -> Iterator[Path]:
    """A file system of its own, in memory. Raises ``OSError`` where none can be mounted."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={mb}m,mode=700", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip())
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as full:
        while full.write(bytes(4096)):
            pass


def changed(at: Scene, watch: Watch, when: str) -> None:
    began_s = time.monotonic()
    try:
        at.instance.update_backend_config("echo", {"user_config": when})
        came = "was done"
    except ServekitError as error:
        came = f"was refused ({type(error).__name__})"
    watch.notes.append(f"a change {when} {came}, after {seconds(time.monotonic() - began_s)}")


def full_disk(runtime: str) -> Row:
    """A replica dies meanwhile."""
    fault = "the disk is full, and a replica is killed"
    with contextlib.ExitStack() as undo:
        try:
            disk = undo.enter_context(small_disk(DISK_MB))
        except OSError as error:
            return not_run(fault, f"no file system can be mounted: {error}")
        at = undo.enter_context(scene(runtime, standing=True, state=str(disk)))
        with watched(at) as watch:
            victim = min(at.replicas().values())
            with watch.fault():
                fill(disk / "full")
                kill([victim])
            watch.until_whole(others(at, {victim}))
            changed(at, watch, "meanwhile")
            (disk / "full").unlink()
            changed(at, watch, "once there was room again")
        return watch.row(fault, posts_inside, POSTS_INSIDE)


def damaged(runtime: str) -> Row:
    """The controller that starts again does not take it; then the last good state is put back by hand."""
    with scene(runtime, standing=True) as at:
        with watched(at) as watch:
            before = at.replicas()
            with watch.fault():
                for name in ("state.db-wal", "state.db-shm"):  # They would mend it.
                    (at.state / name).unlink(missing_ok=True)
                (at.state / "state.db").write_bytes(b"no database" * 1000)
                kill([at.controller()], signal.SIGKILL)
            time.sleep(DAMAGED_S)
            restore = [sys.executable, "-m", "servekit.cli.main", "restore", "--name", at.instance.name]
            done = subprocess.run(restore, capture_output=True, text=True, check=False)
            came = f"failed: {done.stderr.strip()}" if done.returncode else "put the last good state back"
            watch.notes.append(f"after {DAMAGED_S:.0f} s `servekit restore` {came}")
            watch.until_whole(lambda: len(at.replicas()) == 4 and at.ingress())
            adopted = sum(at.replicas().get(name) == pid for name, pid in before.items())
            watch.notes.append(f"{adopted} of 4 replicas were adopted, with their ids and processes")
        return watch.row("the store is damaged, and the controller is killed", nothing, "")


FAULTS = {"full-disk": full_disk, "damaged-store": damaged}
