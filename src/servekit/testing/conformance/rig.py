"""What the cases of `ReplicaRuntimeTests` work with: an opened runtime, its workers, and the words for what fails."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from servekit.interfaces import Exit, ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.processes import ProcessIdentity, identify, is_alive, opened
from servekit.testing.conformance import traces
from servekit.testing.conformance.standin import StandInController, until

T = TypeVar("T")

MARK = "SERVEKIT_CONFORMANCE_MARK"
GONE_TIMEOUT_S = 10.0
"""How long a process that was ended may still be seen."""
INSIST_S = 15.0
"""How long `ReplicaRuntime.stop` may take beyond its grace: a kill is not instant on every platform."""


class Claims(Protocol):
    """What a test class says of its runtime."""

    worker_options: Mapping[str, Any]
    start_timeout_s: float
    notice_timeout_s: float
    attaches: bool
    local_processes: bool

    def make_runtime(self) -> ReplicaRuntime: ...


@dataclass
class Worker:
    """A worker that was started, and its process, once that is known."""

    id: str
    handle: WorkerHandle
    process: ProcessIdentity | None = None


class Rig:
    """One runtime, used as a controller uses it: every call of it is made in a thread, and is bounded."""

    runtime: ReplicaRuntime

    def __init__(self, tests: Claims) -> None:
        self._tests = tests
        self.mark = uuid.uuid4().hex
        os.environ[MARK] = self.mark  # For the processes that the runtime starts.
        # A short path: sockets are below it.
        self.directory = tempfile.mkdtemp(prefix="sk-")
        instance_id = f"conformance-{self.mark[:8]}"
        self.context = RuntimeContext(instance_id, tests.attaches, self.directory)
        self._before = traces.descendants(os.getpid())
        self.controller = StandInController(self.directory, instance_id)
        self._workers: list[Worker] = []
        self._numbers = 0
        self._open = False

    def open(self) -> None:
        """Make the runtime, and open it."""
        self.runtime = self._tests.make_runtime()
        if not isinstance(self.runtime, ReplicaRuntime):
            fail(f"make_runtime() returned {self.runtime!r}", "a runtime is a servekit.interfaces.ReplicaRuntime")
        self._open = True
        self.call("open", lambda: self.runtime.open(self.context), self._tests.start_timeout_s)

    # -- workers ---------------------------------------------------------------------------------------------------

    def spec(self, target: type, *arguments: Any) -> WorkerSpec:
        """For a worker that is to serve ``target(*arguments)``."""
        worker_id = f"w{self._numbers}"
        self._numbers += 1
        host = self.call("advertise_host", self.runtime.advertise_host, self._tests.start_timeout_s)
        bootstrap = self.controller.bootstrap(worker_id, host, self.runtime, target, *arguments)
        return WorkerSpec(worker_id, "conformance", bootstrap, self._tests.worker_options)

    def start(self, target: type, *arguments: Any) -> Worker:
        """A worker that is on its way."""
        return self.start_spec(self.spec(target, *arguments))

    def start_spec(self, spec: WorkerSpec) -> Worker:
        handle = self.call("start", lambda: self.runtime.start(spec), self._tests.start_timeout_s)
        return self.adopt(spec.worker_id, handle)

    def adopt(self, worker_id: str, handle: WorkerHandle) -> Worker:
        """A worker that came of `start` or `attach`."""
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

    def started(self, target: type, *arguments: Any) -> Worker:
        """A worker that has dialled."""
        worker = self.start(target, *arguments)
        self.await_dialled(worker)
        return worker

    def ready(self, target: type, *arguments: Any) -> Worker:
        """A worker that is ready."""
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
        """What it says of why its handler could not be built."""
        self._await(worker, lambda heard: bool(heard.failure), "said why its handler could not be built")
        return self.controller.heard(worker.id).failure

    # -- calls of the runtime ------------------------------------------------------------------------------------

    def call(self, name: str, function: Callable[[], T], timeout_s: float) -> T:
        """Make a call off the main thread, as the core does. What it raises is raised here."""
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
        found = self.call("poll", lambda: self.runtime.poll(worker.handle), self._tests.notice_timeout_s)
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
        """How it ended; ``why`` is what the case has done to it."""
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
        self.call("stop", lambda: self.runtime.stop(worker.handle, grace_s), grace_s + INSIST_S)

    def kill(self, worker: Worker) -> None:
        """As ``kill -9`` does."""
        assert worker.process is not None
        with opened(worker.process) as process:
            assert process is not None, f"worker {worker.id} is gone before it was killed"
            process.send(signal.SIGKILL)

    def expect_stopped(self, worker: Worker) -> None:
        """Right after `stop`: the worker has ended."""
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
        self.call("close", self.runtime.close, self._tests.start_timeout_s)

    def left(self) -> set[ProcessIdentity]:
        """The processes that came of the runtime and are still there, zombies included."""
        workers = {worker.process for worker in self._workers if worker.process and is_alive(worker.process)}
        return workers | (traces.descendants(os.getpid()) - self._before) | set(traces.marked(self.mark))

    def clean_up(self) -> None:
        """Whatever happened, leave nothing behind."""
        try:
            if self._open:
                self.close()
        finally:
            os.environ.pop(MARK, None)
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
        """Until something was heard of the worker. A worker that has ended is not waited for."""
        ends = time.monotonic() + self._tests.start_timeout_s
        ended: Exit | None = None
        while not self.controller.wait(worker.id, condition, 0.1):
            if ended is not None or time.monotonic() > ends:
                heard = self.controller.heard(worker.id)
                why = f"poll() says that it ended: {ended.reason}" if ended else "poll() says that it is there"
                after = f"; it said: {heard.failure}" if heard.failure else ""
                fail(
                    f"start() returned, but worker {worker.id} has not {what}"
                    f"{'' if ended else f' within {self._tests.start_timeout_s:g} s'}; {why}{after}",
                    "start() starts a process that calls servekit.worker.run(spec.bootstrap) on its main thread",
                )
            ended = self.poll(worker)


def fail(what: str, contract: str) -> NoReturn:
    """Say what is wrong, and what is demanded."""
    __tracebackhide__ = True
    raise AssertionError(f"{what}. The contract: {contract}.")
