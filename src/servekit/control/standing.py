"""Standing instances: they outlive their clients, and a controller of theirs that crashes is started again."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from servekit import logs
from servekit.backoff import FIRST_RESTART_S, LONGEST_RESTART_S, Backoff
from servekit.code import place
from servekit.control import store
from servekit.control.directories import STOPPED_BY, make_state_directory, standing_directory, state_directory
from servekit.control.ingress_process import all_recorded
from servekit.control.launch import LOOK_S, STOP_MARGIN_S, Launch
from servekit.control.setup import InstanceOptions, InstanceSetup, StartReport
from servekit.control.silence import LOOK_EVERY_S, Silence
from servekit.control.state import check_name
from servekit.errors import (
    AlreadyRunningError,
    DeadlineError,
    InstanceStartError,
    InvalidInputError,
    NotFoundError,
    NotRunningError,
    PortInUseError,
    ServekitError,
)
from servekit.output import open_output, stream_to
from servekit.private_folders import write_private
from servekit.processes import (
    ProcessIdentity,
    activity,
    exit_reason,
    fill_standard_descriptors,
    identify,
    is_alive,
    opened,
    set_title,
)

_log = logging.getLogger("servekit.control")

ENDING_TIMEOUT_S = 20.0
"""The time that a controller may take to end an instance whose keeper was killed; 3 s are usual."""


_LOCK = "lock"
"""The file in the state of an instance that is locked while it runs; it says where the instance's directory is."""


class StandingRecord(msgspec.Struct):
    """The file of a standing instance, for the processes that attach to it."""

    url: str
    directory: str
    token: bytes
    keeper: ProcessIdentity
    """The process of ``servekit start``."""
    stop_timeout_s: float = 60.0
    """The time that its end takes at the most."""


def find(name: str) -> StandingRecord:
    """The running standing instance ``name``, also one that was started with another TMPDIR.

    Raises `NotRunningError`.
    """
    for directory in filter(None, (standing_directory(name, make=False), _directory_in_lock(name))):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            record = msgspec.json.decode(_record_path(directory).read_bytes(), type=StandingRecord)
            if is_alive(record.keeper):
                return record
    raise NotRunningError(f"no standing instance {name!r} is running here; start one with: {_command('start', name)}")


def _directory_in_lock(name: str) -> str:
    """The directory of the instance that holds the state of ``name``, or held it last; empty where nobody did."""
    with contextlib.suppress(OSError):
        return os.fsdecode(Path(state_directory(name), _LOCK).read_bytes())
    return ""


def _command(command: str, name: str) -> str:
    """The command line that does ``command`` to the instance ``name``."""
    runtime = " --runtime process" if command == "start" and importlib.util.find_spec("ray") is None else ""
    return f"servekit {command}{runtime}{'' if name == 'default' else f' --name {shlex.quote(name)}'}"


def stop(name: str, *, purge: bool = False, who: str = "") -> None:
    """End the standing instance ``name``; return when it has ended. ``purge``: delete its state as well;
    ``who`` does it, for people.

    Raises `NotRunningError`, with ``purge`` only where there is no state of that name either; and `DeadlineError` where
    some of it is left.
    """
    check_name("instance", name)
    directory = state_directory(name)
    try:
        _end(find(name), who)
    except NotRunningError:
        if not purge or not os.path.exists(directory):
            raise
    if purge:
        with _locked(name, directory):
            shutil.rmtree(directory)


def _end(record: StandingRecord, who: str) -> None:
    """End that instance: its keeper, then whatever of it answers requests, be there a controller or not."""
    with contextlib.suppress(OSError):  # On a full disk nobody is named.
        write_private(Path(record.directory, STOPPED_BY), who.encode())
    workers = [worker.identity for worker in all_recorded(record.directory)]
    ends = time.monotonic() + record.stop_timeout_s
    for identity in (record.keeper, *workers):
        with opened(identity) as process:
            if process is not None and identity is record.keeper:
                process.send(signal.SIGTERM)
            # A worker that has neither a controller nor a keeper ends by itself, once it has answered.
            if process is not None and not process.wait(ends - time.monotonic()):
                raise DeadlineError(
                    f"the instance has not ended within {record.stop_timeout_s:g} s: process {identity.pid} is there"
                )


def restore(name: str) -> str:
    """Put the last good state of the standing instance ``name`` in the place of one that is missing or damaged; returns
    a description of it. An instance whose controller waits for that goes on with it.

    Raises `NotFoundError`, `InvalidInputError` where the state is neither, and `StoreError`.
    """
    check_name("instance", name)
    directory = state_directory(name)
    if not os.path.exists(directory):
        raise NotFoundError(f"there is no state of a standing instance {name!r}: {directory} is not there")
    return store.restore(directory)


def keep(
    options: InstanceOptions,
    up: Callable[[Launch, StartReport, threading.Event], None],
    ends: Callable[[], None] = lambda: None,
) -> None:
    """Run a standing instance until SIGTERM or SIGINT. ``up`` is called in a thread when it first serves, with an event
    that is set when the instance is to end, ``ends`` when it ends.

    Raises `AlreadyRunningError`, and the error of a first controller that does not come up, or of ``up``, once the
    instance has ended. Call it on the main thread.
    """
    fill_standard_descriptors()
    check_name("instance", options.name)
    set_title(f"keeper of {options.name}")
    is_new = not os.path.exists(state_directory(options.name))
    with _locked(options.name, make_state_directory(options.name)) as lock:
        ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
        try:
            launch, report = _begun(options, lock, ending)
        except (InvalidInputError, PortInUseError):
            if is_new:
                shutil.rmtree(state_directory(options.name))
            raise
        except InstanceStartError:
            if ending.is_set():
                return
            raise
        for problem in report.problems:
            _log.warning("%s", problem)  # A plugin that is not in use must not be missed.
        _write_record(launch)
        failures: list[BaseException] = []

        def bring_up() -> None:
            try:
                up(launch, report, ending)
            except BaseException as error:
                if not ending.is_set():  # What fails because all ends is no news.
                    failures.append(error)
                    ending.set()

        threading.Thread(target=bring_up, name="bring up", daemon=True).start()
        _watch(launch, ending)
        ends()
        launch.stop()
        if failures:
            raise failures[0]


def _begun(options: InstanceOptions, lock: int, ending: threading.Event) -> tuple[Launch, StartReport]:
    launch = Launch(options, standing=True, lock=lock)
    _clear(Path(launch.setup.directory))
    _begin_logs(launch.setup)
    launch.begin()
    return launch, launch.wait_up(ending)


def _begin_logs(setup: InstanceSetup) -> None:
    """Log to the terminal, and into the instance's log."""
    names, streams = {"role": "keeper"}, [sys.stderr]
    if setup.log_directory:
        with contextlib.suppress(OSError):  # The controller says what there is no room for.
            streams.append(stream_to(open_output(setup.log_directory, names)))
    logs.begin(names, setup.logs, *streams)


def _clear(directory: Path) -> None:
    """Remove what an earlier instance of the name has left whose keeper was killed: the records of workers that are
    about to end; and code, for a machine that crashed may have left files there without their content."""
    for path in (*directory.glob("ingress*.json"), _record_path(str(directory)), directory / STOPPED_BY):
        path.unlink(missing_ok=True)
    shutil.rmtree(directory / place.FOLDER, ignore_errors=True)


@contextlib.contextmanager
def _locked(name: str, directory: str) -> Iterator[int]:
    """Hold the state of the instance ``name``; gives the descriptor of the lock. One whose keeper was killed, and whose
    controller is ending it, is waited for. Raises `AlreadyRunningError` where another holds it."""
    lock = os.open(os.path.join(directory, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    ends = time.monotonic() + ENDING_TIMEOUT_S
    try:
        while not _has_locked(lock):
            with contextlib.suppress(NotRunningError):
                find(name)
                ends = 0.0
            if time.monotonic() > ends:
                raise AlreadyRunningError(
                    f"a standing instance {name!r} is running already, or has not ended since its keeper was killed; "
                    f"stop it with: {_command('stop', name)}"
                )
            time.sleep(LOOK_S)
        os.ftruncate(lock, 0)
        os.pwrite(lock, os.fsencode(standing_directory(name, make=False)), 0)
        yield lock
    finally:
        os.close(lock)


def _has_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _watch(launch: Launch, ending: threading.Event) -> None:
    """Start the controller again whenever it ends; return when the instance is to end."""
    pauses = Backoff(FIRST_RESTART_S, LONGEST_RESTART_S)
    began = time.monotonic()
    while True:
        assert launch.process is not None
        if not _has_ended(launch.process, ending, looks=not launch.setup.options.debug):
            return
        pause_s = pauses.next(time.monotonic() - began)
        ended = exit_reason(launch.process.returncode)
        _log.error("controller ended: %s; another is started in %g s", ended, pause_s)
        if ending.wait(pause_s):
            return
        began = time.monotonic()
        try:
            launch.start_again(ending, ended)
        except ServekitError as error:
            _log.error("controller did not come up: %s", error)


def _has_ended(controller: subprocess.Popen[bytes], ending: threading.Event, *, looks: bool) -> bool:
    """Wait until the controller has ended; False: the instance is to end before.

    ``looks``: a controller that is stopped (SIGSTOP) is killed, as it kills its workers.
    """
    silence, looked_at = Silence(), time.monotonic()
    while controller.poll() is None:
        if ending.wait(0.05):
            return False
        if not looks or time.monotonic() < looked_at + LOOK_EVERY_S:
            continue
        looked_at = time.monotonic()
        doing = activity(controller.pid)
        if doing is None or doing.state != "T":
            silence.heard()
        elif silence.looked():
            _log.error("controller is killed: %s", silence.meaning(doing, serves=False))
            controller.kill()
    return True


def _write_record(launch: Launch) -> None:
    keeper = identify(os.getpid())
    assert keeper is not None
    setup = launch.setup
    options = setup.options
    stop_timeout_s = options.drain_delay_s + options.drain_timeout_s + 2 * STOP_MARGIN_S
    record = StandingRecord(setup.http_url, setup.directory, setup.token, keeper, stop_timeout_s)
    write_private(_record_path(setup.directory), msgspec.json.encode(record))


def _record_path(directory: str) -> Path:
    return Path(directory) / "instance.json"
