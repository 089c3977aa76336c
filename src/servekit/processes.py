"""Processes: how servekit's own are started, and what each does first; and how processes that need not be children are
identified, by pid and start time, and signalled and awaited through a pidfd. `WorkerProcess` is all of that for a
replica runtime whose workers are processes of this machine.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, NamedTuple

import msgspec

from servekit.errors import BackendStartError, DeadlineError, InvalidInputError, ServekitError
from servekit.interfaces import Exit, WorkerHandle, WorkerSpec
from servekit.oom_kills import OomKills
from servekit.output import printing_into

KILL_WAIT_S = 10.0
"""How long a process may take to vanish after SIGKILL; only one stuck in the kernel takes longer."""


class ProcessIdentity(NamedTuple):
    """Identifies one process for as long as the machine is up: a pid is used again, but not with the same start
    time."""

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

    def end(self, grace_s: float, kill_wait_s: float) -> bool:
        """Send SIGTERM, and SIGKILL after ``grace_s`` seconds; whether the process ended ``kill_wait_s`` after that."""
        self.send(signal.SIGTERM)
        if self.wait(grace_s):
            return True
        self.send(signal.SIGKILL)
        return self.wait(kill_wait_s)

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


class Activity(NamedTuple):
    """What the kernel says that a process is doing."""

    state: str
    """One letter: R runs or could, S sleeps, D waits for a device, T is stopped by a signal, t by a debugger."""
    cpu_ticks: int
    """The CPU time of all its threads, in clock ticks."""


def activity(pid: int) -> Activity | None:
    """What the process does (fields 3, 14 and 15 of proc_pid_stat(5)); None where there is none."""
    fields = _stat_fields(pid)
    return None if fields is None else Activity(fields[0], int(fields[11]) + int(fields[12]))


@contextmanager
def opened(identity: ProcessIdentity) -> Iterator[OpenProcess | None]:
    """The very process that has this identity, or None when it has ended."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # A check before the pidfd was there would not be of the process that the pidfd is of.
        yield OpenProcess(identity.pid, pidfd) if is_alive(identity) else None
    finally:
        os.close(pidfd)


def end_group(leader: ProcessIdentity) -> None:
    """Kill what is left of the process group that ``leader`` made, as one that is started in a session of its own does.

    ``leader`` has ended. While it is a zombie, and while its group has members, the kernel gives its number to nobody
    else; so its parent calls this before it reaps ``leader``. Called by another process, after the number was used
    again, it kills nothing.
    """
    there = identify(leader.pid)
    if there is not None and there != leader:
        return
    # No such process: all have ended. No permission: those that are left run as another user, and are left alone.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, signal.SIGKILL)


def resident_bytes() -> int:
    """Resident memory of this process, without its children: field 2 of ``/proc/self/statm`` (proc_pid_statm(5))."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def open_descriptors() -> int:
    """How many descriptors this process has open, without the one that looks."""
    return len(os.listdir("/proc/self/fd")) - 1


def exit_reason(code: int) -> str:
    """The meaning of a `subprocess.Popen.returncode`, in words: ``exit code 1``, ``killed by SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # A real-time signal has no name.
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
    "{}import runpy; runpy.run_module(module, None, '__main__', True)"
)
"""The program does what ``python -m`` does, but with the standard library before every folder of the user's, and
without the working directory; ``os`` is imported before any such folder is looked at. ``-P`` does less, from Python
3.11 on alone, and `multiprocessing` hands it on to the children of handlers."""


def module_command(module: str, *arguments: str, python: str | None = None, first: str = "") -> list[str]:
    """The command line of a process that runs ``module`` as ``python -m`` would, wherever it is started: a ``queue.py``
    in the working directory, or in a folder of PYTHONPATH, is not taken for the standard library's.

    ``python``: the interpreter; default, the one that runs here. ``first``: statements before that, each with a ``; ``
    behind it, which may use `os`.
    """
    return [python or sys.executable, "-c", _RUN_MODULE.format(module, first), *arguments]


def start_module(
    module: str,
    told: bytes,
    *,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    output: int | IO[bytes] | None = None,
    first: str = "",
) -> subprocess.Popen[bytes]:
    """A process that runs ``module``, as `module_command` has it, and can read ``told`` from its standard input.

    It has a session of its own: Ctrl-C in a terminal is not for it, and its process group can be ended. ``output`` is
    a file for what it prints; by default that goes where this process's own goes. Raises ``OSError``.
    """
    memory = memory_file(told)
    command = module_command(module, python=python, first=first)
    try:
        return subprocess.Popen(
            command, stdin=memory, stdout=output, stderr=output, env=env, pass_fds=pass_fds, start_new_session=True
        )
    finally:
        os.close(memory)


def read_told() -> bytes:
    """What `start_module` told this process, to the end of its standard input, which is /dev/null from then on.

    Every child of the process inherits descriptor 0, and could read the instance's token there.
    """
    told = sys.stdin.buffer.read()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return told


class _WorkerState(msgspec.Struct):
    """All that it takes to find a worker's process again."""

    worker_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True)
class WorkerProcess(WorkerHandle):
    """The handle of a worker that is a process of this machine.

    A replica runtime makes one by `start` or `attach`, and answers its own `poll` and `stop` by those of
    ``WorkerProcess.of(handle)``. Every method may be called from several threads at once.
    """

    identity: ProcessIdentity
    child: subprocess.Popen[bytes] | None = None
    """Set where this process has started the worker, and so must reap it."""
    _reaping: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)
    """Held while somebody looks whether the child has ended: once it is reaped, its number may be another's."""
    _oom_kills: OomKills = field(default_factory=OomKills, compare=False, repr=False)

    @classmethod
    def start(
        cls,
        spec: WorkerSpec,
        *,
        module: str = "servekit.worker",
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        output: int | IO[bytes] | None = None,
        first: str = "",
    ) -> WorkerProcess:
        """Start a child process that runs ``module``, and can read ``spec.bootstrap`` from its standard input.

        Args:
            spec: of the worker.
            module: what the process runs; it must end up in `servekit.worker.run`.
            python: the interpreter; default, the one that runs here. It must have servekit installed.
            env: the environment; default, that of this process.
            output: a file for what the worker prints; default, the log of the instance, or where the output of this
                process goes.
            first: statements that the process executes before anything else: see `module_command`.

        Raises:
            BackendStartError: the process could not be started.
        """
        names = {"role": "replica", "backend": spec.backend, "replica": spec.worker_id}
        try:
            with printing_into(spec.log_directory if output is None else "", names) as gathered:
                to = gathered if output is None else output
                child = start_module(module, spec.bootstrap, python=python, env=env, output=to, first=first)
        except OSError as error:
            raise BackendStartError(
                f"a worker of {spec.backend!r} could not be started with {python or sys.executable!r}: {error}"
            ) from error
        identity = identify(child.pid)
        assert identity is not None  # a child stays in /proc until it is reaped, and nobody else reaps this one
        state = msgspec.json.encode(_WorkerState(spec.worker_id, *identity))
        return cls(spec.worker_id, state, identity, child)

    @classmethod
    def of(cls, handle: WorkerHandle) -> WorkerProcess:
        """``handle`` itself where `start` or `attach` made it; else the worker that its ``state`` describes."""
        return handle if isinstance(handle, cls) else cls._found(handle.state)

    @classmethod
    def attach(cls, state: bytes) -> WorkerProcess:
        """The worker that an earlier controller has started; raises ``LookupError`` where it has ended."""
        worker = cls._found(state)
        if not is_alive(worker.identity):
            raise LookupError(f"worker {worker.worker_id} (pid {worker.identity.pid}) is gone")
        return worker

    def poll(self) -> Exit | None:
        """None while the process is there, else how it ended. What is left of its process group is killed then."""
        if self.child is not None:
            with self._reaping:
                if self.child.returncode is None:
                    if not has_ended(self.child.pid):
                        self._oom_kills.look(self.child.pid)
                        return None
                    end_group(self.identity)
                code = self.child.wait()
            return self._oom_kills.named(Exit(exit_reason(code), code))
        if is_alive(self.identity):
            self._oom_kills.look(self.identity.pid)
            return None
        end_group(self.identity)
        return self._oom_kills.named(Exit("its exit code went to the earlier controller that had started it"))

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM, after ``grace_s`` seconds SIGKILL, and return when the process has ended.

        A process that has ended already is no error. Raises `DeadlineError` where it is there `KILL_WAIT_S` seconds
        after SIGKILL.
        """
        with opened(self.identity) as process:
            if process is not None and not process.end(grace_s, KILL_WAIT_S):
                raise DeadlineError(
                    f"worker {self.worker_id} (pid {process.pid}) is still there {KILL_WAIT_S:g} s after "
                    "SIGKILL: it is stuck in the kernel, often on a device or a network file system"
                )
        self.poll()  # reaps a child

    @classmethod
    def _found(cls, state: bytes) -> WorkerProcess:
        found = msgspec.json.decode(state, type=_WorkerState)
        return cls(found.worker_id, state, ProcessIdentity(found.pid, found.start_ticks))


def begin_process() -> None:
    """Undo what a process of servekit's may have inherited and cannot work with. Call it first, on the main thread,
    before the process has a descriptor of its own.

    That is closed standard descriptors; others that the process's own children would inherit; folders before the
    standard library; a working directory that has been deleted since; blocked signals by which the process is to end;
    and an ignored SIGCHLD, with which no exit code is known.
    """
    fill_standard_descriptors()
    _keep_descriptors()
    extend_sys_path(())
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def set_title(role: str) -> None:
    """Have `ps` and the like show this process as ``servekit: ROLE``, and a child that it forks as one of its children.

    Its environment stays readable in ``/proc/PID/environ``.
    """
    from setproctitle import setproctitle

    option = "SPT_NOENV"  # Read once, by the first call; or else the title would take the environment's place, too.
    is_set = option in os.environ
    os.environ.setdefault(option, "1")
    setproctitle(f"servekit: {role}")
    if not is_set:
        del os.environ[option]  # Handlers and their children have no use for it.
    os.register_at_fork(after_in_child=lambda: setproctitle(f"servekit: child of {role}"))


def fill_standard_descriptors() -> None:
    """Open /dev/null for those of the descriptors 0 to 2 that are closed, as they are in daemons and after ``<&-``.

    A socket or a pipe would get such a number otherwise, and be replaced in each child by the child's standard input.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # It gets the lowest number that is free.
            if opened == number:
                os.set_inheritable(opened, True)
            else:  # Another thread was quicker, and has the number.
                os.close(opened)


def _keep_descriptors() -> None:
    """Have no child inherit what this process was given: the sockets that it listens on, above all.

    `subprocess` closes them in a child, but ``os.system``, ``os.posix_spawn`` and libraries in C do not.
    """
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2:
            with suppress(OSError):  # The descriptor by which the folder was listed.
                os.set_inheritable(number, False)


def working_directory(failing: type[ServekitError]) -> str:
    """This process's working directory; raises ``failing`` where it has been deleted, or may not be entered."""
    try:
        return tellable(os.getcwd())
    except OSError as error:
        raise failing(
            f"the working directory of this process cannot be used ({error.strerror}): it was deleted, or may not be "
            "entered; go to one that is there, with cd or os.chdir(), and try again"
        ) from error


def tellable(path: str) -> str:
    """``path``, as it can be told to another process; raises `InvalidInputError` where it is not UTF-8, as messages
    are."""
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
    installed = standard_library() | {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    entries = (os.path.abspath(entry or os.getcwd()) for entry in sys.path)
    return [tellable(entry) for entry in dict.fromkeys(entries) if entry not in installed]


def extend_sys_path(entries: Iterable[str]) -> None:
    """Let this process find modules where another does: in ``entries``, the other's `own_sys_path`, which come behind
    the standard library and before the installed packages.

    Folders that stood before the standard library go behind it; those that stood behind it keep their place.
    """
    library = standard_library()
    ends = max((at + 1 for at, entry in enumerate(sys.path) if entry in library), default=0)
    before, after = sys.path[:ends], sys.path[ends:]
    own = [entry for entry in (*entries, *before) if entry not in library and entry not in after]
    sys.path[:] = [*(entry for entry in before if entry in library), *dict.fromkeys(own), *after]


def standard_library() -> set[str]:
    """The folders of the standard library, and the archive that may take their place."""
    # In a virtual environment ``platstdlib`` would be a folder of the environment, which has no standard library.
    folders = {sysconfig.get_path(name, vars={"platbase": sys.base_exec_prefix}) for name in ("stdlib", "platstdlib")}
    version = sysconfig.get_config_var("py_version_nodot")
    archives = {os.path.join(os.path.dirname(folder), f"python{version}.zip") for folder in folders}
    return folders | archives | {os.path.join(folder, "lib-dynload") for folder in folders}
