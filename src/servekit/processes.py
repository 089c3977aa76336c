"""Processes: how servekit's own are started, and what each does first; and those that need not be children, told apart
by pid and start time, signalled and awaited through a pidfd.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from servekit.errors import InvalidInputError, ServekitError


class ProcessIdentity(NamedTuple):
    """Names one process for as long as the machine is up: a pid is used again, but not with the same start."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to the process's start: field 22 of ``/proc/PID/stat`` (proc_pid_stat(5))."""


class OpenProcess:
    """One process, held by a pidfd: a signal sent through it cannot hit another that took over the pid."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended already is no error."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, timeout_s: float) -> bool:
        """Whether the process ended within ``timeout_s``; a zombie counts as ended."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(max(0.0, timeout_s) * 1000))


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has ``pid`` now, zombies included; None when there is none."""
    fields = _stat_fields(pid)
    return None if fields is None else ProcessIdentity(pid, int(fields[19]))


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that very process is there and has not ended (a zombie has)."""
    fields = _stat_fields(identity.pid)
    return fields is not None and int(fields[19]) == identity.start_ticks and fields[0] not in ("Z", "X")


@contextmanager
def opened(identity: ProcessIdentity) -> Iterator[OpenProcess | None]:
    """That very process, or None when it has ended."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Only after the pidfd is held does the check hold too.
        yield OpenProcess(identity.pid, pidfd) if is_alive(identity) else None
    finally:
        os.close(pidfd)


def end_group(leader: ProcessIdentity) -> None:
    """Kill what is left of the process group that ``leader`` made, as one that is started in a session of its own does.

    ``leader`` has ended. While it is a zombie, and while its group has members, the kernel gives its number to nobody
    else; so its parent calls this before it reaps ``leader``. Whoever else does may find that the number has been used
    again since, and then kills nothing.
    """
    there = identify(leader.pid)
    if there is not None and there != leader:
        return
    # No such process: all have ended. No permission: what is left runs as another user, and is that user's business.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, signal.SIGKILL)


def exit_reason(code: int) -> str:
    """In words, what `subprocess.Popen.returncode` says: ``exit code 1``, ``killed by SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"


def has_ended(child_pid: int) -> bool:
    """Whether a child of this process has ended; it is not reaped."""
    try:
        return os.waitid(os.P_PID, child_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # Reaped already.
        return True


def _stat_fields(pid: int) -> list[str] | None:
    """``/proc/PID/stat`` from field 3, the state; the name before it may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def memory_file(data: bytes) -> int:
    """A descriptor of a file in memory, at its start: for a child's standard input.

    A pipe blocks at 64 KiB until the new interpreter reads, and breaks if that dies. The caller closes it.
    """
    descriptor = os.memfd_create("servekit")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


_RUN_MODULE = (
    "module = {!r}; import os, sys; lib = os.path.dirname(os.__file__); "
    "sys.path[:] = sorted(filter(None, sys.path), key=lambda e: e != lib and os.path.basename(e) != 'lib-dynload'); "
    "import runpy; runpy.run_module(module, None, '__main__', True)"
)
"""What ``python -m`` does, but with the standard library before every folder of the user's, and without the working
directory; ``os`` is imported before any such folder is looked at. ``-P`` does less, from Python 3.11 on alone, and
`multiprocessing` hands it on to the children of handlers."""


def module_command(module: str, *arguments: str, python: str | None = None) -> list[str]:
    """The command line of a process that runs ``module`` as ``python -m`` would, wherever it is started: a ``queue.py``
    in the working directory, or in a folder of PYTHONPATH, is not taken for the standard library's.

    ``python``: the interpreter; default, the one that runs here.
    """
    return [python or sys.executable, "-c", _RUN_MODULE.format(module), *arguments]


def start_module(
    module: str,
    told: bytes,
    *,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """A process that runs ``module``, as `module_command` has it, and can read ``told`` from its standard input.

    It has a session of its own: Ctrl-C in a terminal is not for it, and its process group can be ended. Raises
    ``OSError``.
    """
    memory = memory_file(told)
    command = module_command(module, python=python)
    try:
        return subprocess.Popen(command, stdin=memory, env=env, pass_fds=pass_fds, start_new_session=True)
    finally:
        os.close(memory)


def begin_process() -> None:
    """What a process of servekit's does first, on its main thread, before it has a descriptor of its own: undo what
    servekit cannot work with and the process may have inherited.

    That is closed standard descriptors; folders before the standard library; a working directory that has been deleted
    since; signals that are blocked, by which it is to end; and SIGCHLD ignored, with which no exit code is known.
    """
    fill_standard_descriptors()
    extend_sys_path(())
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def fill_standard_descriptors() -> None:
    """Open /dev/null for those of the descriptors 0 to 2 that are closed, as they are in daemons and after ``<&-``.

    A socket or a pipe would get such a number otherwise, and be replaced in each child by the child's standard input.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # The lowest number that is free.
            if opened == number:
                os.set_inheritable(opened, True)
            else:  # Another thread was quicker, and has the number.
                os.close(opened)


def working_directory(failing: type[ServekitError]) -> str:
    """This process's working directory; raises ``failing``, with words for people, where it has been deleted."""
    try:
        return tellable(os.getcwd())
    except OSError as error:
        raise failing(
            f"the working directory of this process cannot be used ({error.strerror}): it was deleted, or may not be "
            "entered; go to one that is there, with cd or os.chdir(), and try again"
        ) from error


def tellable(path: str) -> str:
    """``path``, for another process; raises `InvalidInputError` where its name is not UTF-8, as every message is."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"the path {path!r} is not UTF-8, so servekit's other processes cannot be told of it; give that folder "
            "another name, or run in a locale that has its letters"
        ) from None
    return path


def own_sys_path() -> list[str]:
    """Where this process finds modules beyond its interpreter's own folders, absolute: a worker is to find them too.

    Raises `InvalidInputError` where one of them is not `tellable`.
    """
    installed = _library() | {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    entries = (os.path.abspath(entry or os.getcwd()) for entry in sys.path)
    return [tellable(entry) for entry in dict.fromkeys(entries) if entry not in installed]


def extend_sys_path(entries: Iterable[str]) -> None:
    """Let this process find modules where another does: in what its `own_sys_path` gave, behind the standard library
    and before what is installed.

    What stood before the standard library goes behind it; what stood behind it already keeps its place.
    """
    library = _library()
    ends = max((at + 1 for at, entry in enumerate(sys.path) if entry in library), default=0)
    before, after = sys.path[:ends], sys.path[ends:]
    own = [entry for entry in (*entries, *before) if entry not in library and entry not in after]
    sys.path[:] = [*(entry for entry in before if entry in library), *dict.fromkeys(own), *after]


def _library() -> set[str]:
    """The folders of the standard library, and the archive that may take their place."""
    # In a virtual environment ``platstdlib`` would be within that, where there is none.
    folders = {sysconfig.get_path(name, vars={"platbase": sys.base_exec_prefix}) for name in ("stdlib", "platstdlib")}
    version = sysconfig.get_config_var("py_version_nodot")
    archives = {os.path.join(os.path.dirname(folder), f"python{version}.zip") for folder in folders}
    return folders | archives | {os.path.join(folder, "lib-dynload") for folder in folders}
