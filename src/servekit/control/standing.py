"""Standing instances: one that outlives its clients, and whose controller is started again when it crashes."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from servekit.backoff import Backoff
from servekit.control.directories import standing_directory
from servekit.control.launch import Launch
from servekit.control.setup import InstanceOptions
from servekit.control.state import check_name
from servekit.errors import AlreadyRunningError, NotRunningError, ServekitError
from servekit.private_folders import write_private
from servekit.processes import ProcessIdentity, fill_standard_descriptors, identify, is_alive, opened

_log = logging.getLogger("servekit.control")

STOP_TIMEOUT_S = 60.0
_FIRST_RESTART_S = 0.1
_LONGEST_RESTART_S = 10.0


class StandingRecord(msgspec.Struct):
    """What is written down of a standing instance, for those who attach to it."""

    url: str
    directory: str
    token: bytes
    keeper: ProcessIdentity
    """The process of ``servekit start``."""


def find(name: str) -> StandingRecord:
    """The running standing instance ``name``. Raises `NotRunningError`."""
    path = _record_path(standing_directory(name))
    if path.exists():
        record = msgspec.json.decode(path.read_bytes(), type=StandingRecord)
        if is_alive(record.keeper):
            return record
    raise NotRunningError(
        f"no standing instance {name!r} is running here; start one with: servekit start --name {name}"
    )


def stop(name: str) -> None:
    """End the standing instance ``name``; return when it has ended. Raises `NotRunningError`."""
    with opened(find(name).keeper) as keeper:
        if keeper is not None:
            keeper.send(signal.SIGTERM)
            keeper.wait(STOP_TIMEOUT_S)


def keep(options: InstanceOptions, up: Callable[[Launch], None]) -> None:
    """Run a standing instance until SIGTERM or SIGINT. ``up`` is called when it first serves.

    Raises `AlreadyRunningError`, and what kept the first controller from coming up. Call it on the main thread.
    """
    fill_standard_descriptors()
    check_name("instance", options.name)
    directory = standing_directory(options.name)
    lock = os.open(os.path.join(directory, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyRunningError(
            f"a standing instance {options.name!r} is running already; "
            f"stop it with: servekit stop --name {options.name}"
        ) from None
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    launch = Launch(options, standing=True)
    launch.begin()
    for problem in launch.wait_up().problems:
        _log.warning("%s", problem)  # That a plugin is not in use must not be missed.
    _write_record(launch)
    up(launch)
    _watch(launch, ending)
    launch.stop(STOP_TIMEOUT_S)
    os.close(lock)


def _watch(launch: Launch, ending: threading.Event) -> None:
    """Start the controller again whenever it ends; return when all is to end, with a controller that can end it."""
    pauses = Backoff(_FIRST_RESTART_S, _LONGEST_RESTART_S)
    began = time.monotonic()
    while True:
        assert launch.process is not None
        while launch.process.poll() is None:
            if ending.wait(0.05):
                return
        pause_s = pauses.next(time.monotonic() - began)
        _log.error("the controller ended (%s); starting it again in %g s", launch.process.returncode, pause_s)
        ending.wait(pause_s)
        began = time.monotonic()
        try:
            launch.start_again()
        except ServekitError as error:
            _log.error("the controller did not come up: %s", error)


def _write_record(launch: Launch) -> None:
    keeper = identify(os.getpid())
    assert keeper is not None
    setup = launch.setup
    record = StandingRecord(setup.http_url, setup.directory, setup.token, keeper)
    write_private(_record_path(setup.directory), msgspec.json.encode(record))


def _record_path(directory: str) -> Path:
    return Path(directory) / "instance.json"
