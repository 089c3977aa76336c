"""The conformance kit for replica runtimes. The tests start real workers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from servekit.interfaces import ReplicaRuntime, WorkerHandle, WorkerSpec
from servekit.processes import identify, is_alive
from servekit.testing.conformance import probes
from servekit.testing.conformance.checked_runtime import CheckedRuntime, Worker, describe_processes, spellings
from servekit.testing.conformance.controllers import served_backend, start_in_killed_controller
from servekit.testing.conformance.helpers import fail, until

GRACE_S = 30.0
"""The grace for a worker that ends when it is asked."""
SHORT_GRACE_S = 0.3
"""The grace for a worker that hangs."""
AT_ONCE = 4
EXIT_CODE = 3
UNKNOWN_OPTION = "no_runtime_has_such_an_option"


class ReplicaRuntimeTests:
    """The tests that every replica runtime must pass. Derive a class from this one in a module of tests, and override
    `make_runtime`::

        class TestMine(ReplicaRuntimeTests):
            def make_runtime(self):
                return Mine()

    Each test has a runtime of its own, which is made, opened, used from threads, and closed. An autouse fixture of the
    class may put on ``self`` what ``make_runtime`` needs; where ``attaches`` is True, that must be picklable.

    The attributes below are claims about the runtime, and the times that a test waits before it fails.
    """

    worker_options: Mapping[str, Any] = {}
    """Options that `ReplicaRuntime.check_worker_options` accepts; the workers are started with these options."""
    start_timeout_s: float = 60.0
    """The time that each of `open`, `start` and `close` may take, and a worker to dial and to become ready."""
    notice_timeout_s: float = 30.0
    """The time for which `poll` may still return None after the end of a process."""
    attaches: bool = True
    """A later controller finds the workers of an earlier controller. False: `attach` always raises LookupError."""
    local_processes: bool = True
    """Workers are processes of this machine and this user, have the pid here that they see, and share this machine's
    files. False skips the tests that need this: those that kill workers, and look for processes left behind."""

    def make_runtime(self) -> ReplicaRuntime:
        """A new runtime, as the core makes one for each set of options."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_runtime that returns a new runtime")

    def output(self, handle: WorkerHandle, printed: str) -> str:
        """The output of the worker so far. Override this method where that goes to a log.

        ``printed`` is the output of this process, in which the controller runs in these tests.
        """
        return printed

    @pytest.fixture
    def runtime(self) -> Iterator[CheckedRuntime]:
        """The runtime that is under test, opened."""
        with self._opened() as runtime:
            yield runtime

    @contextlib.contextmanager
    def _opened(self) -> Iterator[CheckedRuntime]:
        runtime = CheckedRuntime(self)
        try:
            runtime.open()
            yield runtime
        finally:
            runtime.clean_up()

    # -- start -------------------------------------------------------------------------------------------------------

    def test_a_worker_becomes_ready(self, runtime: CheckedRuntime) -> None:
        runtime.start_until_ready(probes.Idle)

    def test_workers_started_at_once_from_threads_become_ready(self, runtime: CheckedRuntime) -> None:
        specs = [runtime.spec(probes.Idle) for _ in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            workers = list(threads.map(runtime.start_spec, specs))
            for worker in workers:
                runtime.await_ready(worker)
            pids = {runtime.controller.heard(worker.id).hellos[0].pid for worker in workers}
            if len(pids) < AT_ONCE:
                fail(f"{AT_ONCE} workers run in {len(pids)} processes", "each worker is a process of its own")
            list(threads.map(lambda worker: runtime.stop(worker, GRACE_S), workers))
        for worker in workers:
            runtime.expect_stopped(worker)

    def test_the_bootstrap_is_in_neither_argv_nor_environment(self, runtime: CheckedRuntime) -> None:
        token = spellings(runtime.controller.token)
        for process in self._look(runtime):
            for part, name in (("cmdline", "argv"), ("environ", "the environment")):
                seen = bytes.fromhex(process[part])
                if any(spelling in seen for spelling in token):
                    fail(
                        f"the bootstrap is in {name} of process {process['pid']}, a worker or an ancestor of one, "
                        "where others can read it",
                        "the bootstrap holds the instance's secret: hand it over by a pipe, a file of mode 0600 or an "
                        "authenticated call",
                    )

    def test_what_a_worker_prints_is_to_be_seen(self, capfd: pytest.CaptureFixture[str]) -> None:
        # Opened in the test: what a fixture has started prints to where pytest looks while fixtures are made.
        with self._opened() as runtime:
            self._prints(runtime, capfd)

    def _prints(self, runtime: CheckedRuntime, capfd: pytest.CaptureFixture[str]) -> None:
        texts = {"stdout": f"out-{runtime.run_id}", "stderr": f"err-{runtime.run_id}"}
        worker = runtime.start_until_ready(probes.Speaking, *texts.values())
        printed: list[str] = []

        def lacking() -> list[str]:
            printed.extend(capfd.readouterr())
            seen = self.output(worker.handle, "".join(printed))
            return [stream for stream, text in texts.items() if text not in seen]

        until(lambda: not lacking(), self.notice_timeout_s)
        if missing := lacking():
            fail(
                f"what a worker prints to {' and '.join(missing)} is nowhere to be seen (the kit looks at what "
                "output() gives)",
                "a worker's output goes to the controller's, or to a log that the runtime's documentation names",
            )

    def test_worker_options(self, runtime: CheckedRuntime) -> None:
        runtime.call("check_worker_options", lambda: runtime.wrapped.check_worker_options(self.worker_options), GRACE_S)
        try:
            runtime.wrapped.check_worker_options({**self.worker_options, UNKNOWN_OPTION: 1})
        except ValueError as error:
            if UNKNOWN_OPTION not in str(error):
                fail(f"check_worker_options() said {str(error)!r} of an unknown option", "the message names the option")
        else:
            fail(
                f"check_worker_options() took {UNKNOWN_OPTION!r}",
                "it raises ValueError for what start() could not use, so that create_backend refuses a typing error",
            )

    # -- poll ----------------------------------------------------------------------------------------------------------

    def test_a_worker_that_is_killed_is_seen_to_be_gone(self, runtime: CheckedRuntime) -> None:
        self._needs_local_processes()
        worker, other = runtime.start_until_ready(probes.Idle), runtime.start_until_ready(probes.Idle)
        runtime.kill(worker)
        ended = runtime.await_exit(worker, "was killed by SIGKILL")
        if not re.search(r"kill|signal|crash|died|lost", ended.reason, re.IGNORECASE):
            fail(f"after kill -9, poll() gives the reason {ended.reason!r}", "the reason says how the worker ended")
        runtime.expect_alive(other, "is ready, and it was another that was killed")

    def test_what_a_killed_worker_had_started_ends_with_it(self, runtime: CheckedRuntime) -> None:
        self._needs_local_processes()
        file = Path(runtime.directory, "child")
        worker = runtime.start_until_ready(probes.Parent, str(file))
        child = identify(int(file.read_text()))
        runtime.kill(worker)
        runtime.await_exit(worker, "was killed by SIGKILL")
        if child is not None and not until(lambda: not is_alive(child), self.notice_timeout_s):
            os.kill(child.pid, signal.SIGKILL)
            fail(
                "a worker was killed, and a process that it had started in its group is still there",
                "poll() ends what is left of a worker's process group: see servekit.processes.end_group",
            )

    def test_a_worker_that_exits_is_seen_to_be_gone(self, runtime: CheckedRuntime) -> None:
        worker = runtime.start(probes.Exiting, EXIT_CODE)
        ended = runtime.await_exit(worker, f"ended with exit code {EXIT_CODE}")
        if ended.code not in (None, EXIT_CODE):
            fail(f"poll() gave {ended!r} for a worker that ended with exit code {EXIT_CODE}", "a code is the right one")

    def test_a_target_that_raises_is_reported_and_the_worker_gone(self, runtime: CheckedRuntime) -> None:
        worker = runtime.start(probes.Failing)
        assert "this target cannot be built" in runtime.await_failure(worker)
        runtime.await_exit(worker, "said that its handler could not be built, and left")

    def test_a_worker_that_cannot_begin_is_reported(self, runtime: CheckedRuntime) -> None:
        """Bytes that are no bootstrap make `servekit.worker.run` raise: `start` raises, or `poll` returns an Exit."""
        spec = WorkerSpec("unreadable", "conformance", b"\xc1 this is no bootstrap", self.worker_options)
        try:
            worker = runtime.start_spec(spec)
        except Exception as error:
            if not str(error):
                fail(f"start() raised {error!r}, without a message", "what start() raises says what is wrong")
        else:
            runtime.await_exit(worker, "was given a bootstrap that it cannot read, and so ended with an exception")

    # -- stop ----------------------------------------------------------------------------------------------------------

    def test_stop_asks_first(self, runtime: CheckedRuntime) -> None:
        left = Path(runtime.directory, "left")
        worker = runtime.start_until_ready(probes.Idle, str(left))
        runtime.stop(worker, GRACE_S)
        runtime.expect_stopped(worker)
        if self.local_processes and not left.exists():
            fail(
                f"stop() with a grace of {GRACE_S:g} s ended an idle worker before that could close its handler",
                "stop() first asks (SIGTERM does), and insists only after grace_s seconds",
            )

    def test_stop_insists_when_a_worker_hangs(self, runtime: CheckedRuntime) -> None:
        worker = self._deaf(runtime)
        runtime.stop(worker, SHORT_GRACE_S)
        runtime.expect_stopped(worker)

    def test_stop_with_no_grace_ends_a_worker_that_hangs(self, runtime: CheckedRuntime) -> None:
        worker = self._deaf(runtime)
        runtime.stop(worker, 0)
        runtime.expect_stopped(worker)

    def test_stop_of_a_worker_that_has_ended_is_no_error(self, runtime: CheckedRuntime) -> None:
        exited = runtime.start(probes.Exiting, EXIT_CODE)
        runtime.await_exit(exited, f"ended with exit code {EXIT_CODE}")
        stopped = runtime.start_until_ready(probes.Idle)
        runtime.stop(stopped, GRACE_S)
        for worker, how in ((exited, "exited"), (stopped, "was stopped")):
            try:
                runtime.stop(worker, SHORT_GRACE_S)
            except Exception as error:
                fail(
                    f"stop() of a worker that {how} raised {type(error).__name__}: {error}",
                    "a worker that has ended already is no error, for stop()",
                )
            runtime.expect_stopped(worker)

    # -- attach --------------------------------------------------------------------------------------------------------

    def test_a_later_controller_attaches_to_polls_and_stops_a_worker(self, runtime: CheckedRuntime) -> None:
        if not self.attaches:
            self._attach_raises(
                runtime, runtime.start_until_ready(probes.Idle), "though the test class says attaches = False"
            )
            return
        spec = runtime.spec(probes.Idle)
        state = start_in_killed_controller(self, runtime.context, spec, 2 * self.start_timeout_s)
        try:
            worker = runtime.attach(spec.worker_id, state)
        except LookupError as error:
            fail(
                f"attach() raised {type(error).__name__} ({error}) for a worker of a controller that was killed",
                "where RuntimeContext.standing is True, workers outlive their controller, and the state leads to them",
            )
        runtime.await_ready(worker)
        runtime.stop(worker, GRACE_S)
        runtime.expect_stopped(worker)

    def test_attach_raises_for_a_worker_that_is_gone(self, runtime: CheckedRuntime) -> None:
        worker = runtime.start_until_ready(probes.Idle)
        runtime.stop(worker, GRACE_S)
        runtime.expect_stopped(worker)
        self._attach_raises(runtime, worker, "that has ended")

    # -- close ---------------------------------------------------------------------------------------------------------

    def test_close_leaves_nothing_behind(self, runtime: CheckedRuntime) -> None:
        self._needs_local_processes()
        runtime.start_until_ready(probes.Idle)
        runtime.start(probes.Exiting, EXIT_CODE)
        self._deaf(runtime)
        runtime.close()
        until(lambda: not runtime.left(), self.notice_timeout_s)
        if left := runtime.left():
            fail(
                f"stop() and close() have left processes behind: {describe_processes(left)}",
                "after close() nothing is there that the runtime has started, nor a child that nobody waited for",
            )

    # -- a whole instance ----------------------------------------------------------------------------------------------

    def test_an_instance_answers_and_replaces_a_replica_that_is_killed(self, runtime: CheckedRuntime) -> None:
        with served_backend(runtime.wrapped, runtime.context, self.worker_options, probes.Idle) as (get, pids):
            assert {int(get()) for _ in range(10)} <= pids()
            if not self.local_processes:
                return
            (pid,) = pids()
            os.kill(pid, 9)
            if not until(lambda: bool(pids() - {pid}), self.start_timeout_s + self.notice_timeout_s):
                fail("no other replica came for one that was killed", "poll() tells the core that a worker has ended")
            assert {int(get()) for _ in range(10)} <= pids()

    def test_an_instance_ends_though_a_handler_hangs(self, runtime: CheckedRuntime) -> None:
        self._needs_local_processes()
        began = Path(runtime.directory, "hanging")
        with ThreadPoolExecutor(1) as threads:
            with served_backend(runtime.wrapped, runtime.context, self.worker_options, probes.Hanging, str(began)) as (
                get,
                pids,
            ):
                threads.submit(get)
                assert until(began.exists, self.start_timeout_s), "the request did not reach the handler"
                processes = {process for process in runtime.left() if process.pid in pids()}
                assert processes
            if not until(lambda: not any(map(is_alive, processes)), self.notice_timeout_s):
                fail("the instance has ended, and its replica has not", "stop() insists after grace_s seconds")

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _needs_local_processes(self) -> None:
        if not self.local_processes:
            pytest.skip("its workers are not processes of this machine")

    def _deaf(self, runtime: CheckedRuntime) -> Worker:
        """Start a worker that hangs and ignores SIGTERM."""
        began = Path(runtime.directory, "deaf")
        worker = runtime.start_until_dialled(probes.Deaf, str(began))
        if self.local_processes:
            assert until(began.exists, self.start_timeout_s), "the worker was told what to serve, and did not begin"
        return worker

    def _attach_raises(self, runtime: CheckedRuntime, worker: Worker, whose: str) -> None:
        try:
            runtime.attach(worker.id, worker.handle.state)
        except LookupError:
            return
        except Exception as error:
            fail(f"attach() raised {type(error).__name__} ({error}) for a worker {whose}", "it raises LookupError")
        fail(
            f"attach() gave a handle for a worker {whose}", "it raises LookupError, and the core starts another replica"
        )

    def _look(self, runtime: CheckedRuntime) -> list[dict[str, Any]]:
        """The command lines and environments of a worker and its ancestors.

        The worker reports them as the reason why it does not start, so that they come from any machine.
        """
        said = runtime.await_failure(runtime.start(probes.Looking))
        assert probes.SEEN in said, said
        found: list[dict[str, Any]] = json.JSONDecoder().raw_decode(said.partition(probes.SEEN)[2])[0]
        return found
