"""A replica runtime that is used as a controller uses it, and checked in every call."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from servekit.interfaces import Exit, ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.processes import ProcessIdentity, identify, is_alive, opened
from servekit.testing.conformance.controllers import FakeController
from servekit.testing.conformance.helpers import fail, until

T = TypeVar("T")

RUN_VARIABLE = "SERVEKIT_CONFORMANCE_RUN"
"""The environment variable by which the processes that a runtime has started are found."""
GONE_TIMEOUT_S = 10.0
"""The time within which a process that was ended must be gone."""
INSIST_S = 15.0
"""The time that `ReplicaRuntime.stop` may take beyond its grace: a kill is not instant on every platform."""


class Claims(Protocol):
    """The claims of a test class about its runtime: see `ReplicaRuntimeTests`."""

    worker_options: Mapping[str, Any]
    start_timeout_s: float
    notice_timeout_s: float
    attaches: bool
    local_processes: bool

    def make_runtime(self) -> ReplicaRuntime: ...


@dataclass
class Worker:
    """A worker that was started. ``process`` is known once the worker has dialled."""

    id: str
    handle: WorkerHandle
    process: ProcessIdentity | None = None


class CheckedRuntime:
    """One runtime with its workers. Every call of the runtime is made in a thread of its own, and must return in time;
    what it returns is checked. A mistake of the runtime raises ``AssertionError``.
    """

    wrapped: ReplicaRuntime
    """The runtime that is under test; there once `open` was called."""

    def __init__(self, tests: Claims) -> None:
        self._tests = tests
        self._start_timeout_s = tests.start_timeout_s
        self.run_id = uuid.uuid4().hex
        os.environ[RUN_VARIABLE] = self.run_id  # The processes that the runtime starts inherit it.
        # A short path: sockets are below it.
        self.directory = tempfile.mkdtemp(prefix="sk-")
        instance_id = f"conformance-{self.run_id[:8]}"
        self.context = RuntimeContext(instance_id, tests.attaches, self.directory)
        self._before = _descendants(os.getpid())
        self.controller = FakeController(self.directory)
        self._workers: list[Worker] = []
        self._numbers = 0
        self._open = False

    def open(self) -> None:
        """Make the runtime, and open it."""
        self.wrapped = self._tests.make_runtime()
        if not isinstance(self.wrapped, ReplicaRuntime):
            fail(f"make_runtime() returned {self.wrapped!r}", "a runtime is a servekit.interfaces.ReplicaRuntime")
        self._open = True
        self.call("open", lambda: self.wrapped.open(self.context), self._start_timeout_s)

    # -- workers ---------------------------------------------------------------------------------------------------

    def spec(self, target: type, *arguments: Any) -> WorkerSpec:
        """A spec for a worker that is to serve ``target(*arguments)``."""
        worker_id = f"w{self._numbers}"
        self._numbers += 1
        host = self.call("advertise_host", self.wrapped.advertise_host, self._start_timeout_s)
        bootstrap = self.controller.bootstrap(worker_id, host, self.wrapped, target, *arguments)
        return WorkerSpec(worker_id, "conformance", bootstrap, self._tests.worker_options)

    def start(self, target: type, *arguments: Any) -> Worker:
        """Start a worker that is to serve ``target(*arguments)``."""
        return self.start_spec(self.spec(target, *arguments))

    def start_spec(self, spec: WorkerSpec) -> Worker:
        return self._added(spec.worker_id, self.call("start", lambda: self.wrapped.start(spec), self._start_timeout_s))

    def attach(self, worker_id: str, state: bytes) -> Worker:
        """Attach to a worker; what the runtime raises is raised here."""
        return self._added(worker_id, self.call("attach", lambda: self.wrapped.attach(state), self._start_timeout_s))

    def _added(self, worker_id: str, handle: WorkerHandle) -> Worker:
        worker = Worker(worker_id, handle)
        self._workers.append(worker)
        if not isinstance(handle, WorkerHandle) or not isinstance(handle.state, bytes):
            fail(f"a {type(handle).__name__} came for worker {worker_id}", "start and attach return a WorkerHandle")
        if handle.worker_id != worker_id:
            fail(
                f"the handle of worker {worker_id!r} has the worker_id {handle.worker_id!r}",
                "a handle has the worker_id of its spec",
            )
        return worker

    def start_until_dialled(self, target: type, *arguments: Any) -> Worker:
        worker = self.start(target, *arguments)
        self.await_dialled(worker)
        return worker

    def start_until_ready(self, target: type, *arguments: Any) -> Worker:
        worker = self.start(target, *arguments)
        self.await_ready(worker)
        return worker

    def await_dialled(self, worker: Worker) -> None:
        self._await(worker, lambda heard: bool(heard.hellos), "dialled")
        if self._tests.local_processes:
            pid = self.controller.heard(worker.id).hellos[0].pid
            worker.process = identify(pid)
            if pid == os.getpid():
                fail(f"worker {worker.id} runs in the process that called start()", "a worker is a process of its own")

    def await_ready(self, worker: Worker) -> None:
        self.await_dialled(worker)
        self._await(worker, lambda heard: heard.ready, "become ready")
        self.expect_alive(worker, "is ready")

    def await_failure(self, worker: Worker) -> str:
        """The worker's message that says why its handler could not be built."""
        self._await(worker, lambda heard: bool(heard.failure), "said why its handler could not be built")
        return self.controller.heard(worker.id).failure

    # -- calls of the runtime ------------------------------------------------------------------------------------

    def call(self, name: str, function: Callable[[], T], timeout_s: float) -> T:
        """Call ``function`` off the main thread, as the core does; what it raises is raised here."""
        done: list[T] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                done.append(function())
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=work, name=f"runtime.{name}", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            fail(f"{name}() has not returned after {timeout_s:g} s", "calls may block, but each returns in the end")
        if raised:
            raise raised[0]
        return done[0]

    def poll(self, worker: Worker) -> Exit | None:
        found = self.call("poll", lambda: self.wrapped.poll(worker.handle), self._tests.notice_timeout_s)
        if found is not None and not (isinstance(found, Exit) and found.reason.strip()):
            fail(f"poll() gave {found!r} for a worker that has ended", "poll() gives an Exit with a reason, for people")
        return found

    def expect_alive(self, worker: Worker, why: str) -> None:
        ended = self.poll(worker)
        if ended is not None:
            fail(
                f"poll() says that worker {worker.id} has ended ({ended.reason}), but it {why}",
                "poll() gives None while the process is there",
            )

    def await_exit(self, worker: Worker, why: str) -> Exit:
        """Wait for the end of a worker, which the test has caused; ``why`` says how, for the failure."""
        ended = until(lambda: self.poll(worker), self._tests.notice_timeout_s)
        if ended is None:
            fail(
                f"poll() still gives None {self._tests.notice_timeout_s:g} s after worker {worker.id} {why}",
                "poll() gives an Exit once the process has ended; the core replaces a replica on that word alone",
            )
        again = self.poll(worker)
        if again is None:
            fail(
                f"poll() gave {ended!r} for worker {worker.id}, and None when asked again",
                "a worker that has ended stays so",
            )
        return ended

    def stop(self, worker: Worker, grace_s: float) -> None:
        self.call("stop", lambda: self.wrapped.stop(worker.handle, grace_s), grace_s + INSIST_S)

    def kill(self, worker: Worker) -> None:
        """End the process of a worker, as ``kill -9`` does."""
        assert worker.process is not None
        with opened(worker.process) as process:
            assert process is not None, f"worker {worker.id} is gone before it was killed"
            process.send(signal.SIGKILL)

    def expect_stopped(self, worker: Worker) -> None:
        """Check, right after `stop`, that the worker has ended."""
        if worker.process is not None and is_alive(worker.process):
            fail(
                f"stop() returned while the process of worker {worker.id} (pid {worker.process.pid}) was still there",
                "stop() asks, insists after grace_s seconds, and returns when the process has ended",
            )
        if self.poll(worker) is None:
            fail(
                f"stop() returned, and poll() gives None for worker {worker.id}",
                "stop() returns when the process has ended, and poll() then gives an Exit",
            )

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop every worker and close the runtime, as the core does."""
        self._open = False
        for worker in self._workers:
            self.stop(worker, 0.5)
        self.call("close", self.wrapped.close, self._start_timeout_s)

    def left(self) -> set[ProcessIdentity]:
        """The processes that the runtime has started and that are still there, zombies included."""
        workers = {worker.process for worker in self._workers if worker.process and is_alive(worker.process)}
        return workers | (_descendants(os.getpid()) - self._before) | _processes_of_run(self.run_id)

    def clean_up(self) -> None:
        """Leave nothing behind, whatever has happened."""
        try:
            if self._open:
                self.close()
        finally:
            os.environ.pop(RUN_VARIABLE, None)
            self.controller.close()
            ends = time.monotonic() + GONE_TIMEOUT_S
            while (left := [process for process in self.left() if is_alive(process)]) and time.monotonic() < ends:
                for identity in left:
                    with opened(identity) as process:
                        if process is not None:
                            process.send(signal.SIGKILL)
                time.sleep(0.02)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _await(self, worker: Worker, condition: Callable[[Any], bool], what: str) -> None:
        """Wait until the worker's messages meet ``condition``; fail where the worker ends before, or takes too long."""
        ends = time.monotonic() + self._start_timeout_s
        ended: Exit | None = None
        while not self.controller.wait(worker.id, condition, 0.1):
            if ended is not None or time.monotonic() > ends:
                heard = self.controller.heard(worker.id)
                why = f"poll() says that it ended: {ended.reason}" if ended else "poll() says that it is there"
                after = f"; it said: {heard.failure}" if heard.failure else ""
                fail(
                    f"start() returned, but worker {worker.id} has not {what}"
                    f"{'' if ended else f' within {self._start_timeout_s:g} s'}; {why}{after}",
                    "start() starts a process that calls servekit.worker.run(spec.bootstrap) on its main thread",
                )
            ended = self.poll(worker)


# -- what /proc shows -------------------------------------------------------------------------------------------------


def _processes_of_run(run_id: str) -> set[ProcessIdentity]:
    """The living processes that have ``run_id`` in their environment, but this one."""
    found = set()
    for pid in _pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        identity = identify(pid)
        if pid != os.getpid() and run_id.encode() in environ and identity is not None and is_alive(identity):
            found.add(identity)
    return found


def _descendants(of: int) -> set[ProcessIdentity]:
    """The children of the process ``of``, and their children, and so on; zombies included."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(pid)
    found: set[ProcessIdentity] = set()
    todo = [of]
    while todo:
        for child in children.get(todo.pop(), []):
            identity = identify(child)
            if identity is not None:
                found.add(identity)
                todo.append(child)
    return found


def describe_processes(processes: set[ProcessIdentity]) -> str:
    """A list for people: ``pid 17 (python -m servekit.worker), pid 18 (…)``."""
    return ", ".join(f"pid {process.pid} ({_title(process.pid)})" for process in sorted(processes))


def spellings(secret: bytes) -> set[bytes]:
    """``secret`` as it is, in Python's source, in hexadecimal, and inside a base64 text at every offset."""
    found = {secret, repr(secret)[2:-1].encode(), secret.hex().encode(), secret.hex().upper().encode()}
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            whole = (before + len(secret)) // 3 * 3 - before
            text = encode(bytes(before) + secret[:whole])
            found.add(text[4 if before else 0 :])  # The first group is mixed with the bytes before the secret.
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _title(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "ended meanwhile"
    return text[:200] or "a zombie: it was not waited for"
