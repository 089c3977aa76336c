"""The conformance kit for replica runtimes. Its cases run on real workers."""

from __future__ import annotations

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
from servekit.testing.conformance import probes, traces
from servekit.testing.conformance.earlier import start_and_die
from servekit.testing.conformance.rig import Rig, Worker, fail
from servekit.testing.conformance.served import served_backend
from servekit.testing.conformance.standin import until

GRACE_S = 30.0
"""For a worker that ends when it is asked."""
SHORT_GRACE_S = 0.3
"""For one that does not."""
AT_ONCE = 4
EXIT_CODE = 3
UNKNOWN_OPTION = "no_runtime_has_such_an_option"


class ReplicaRuntimeTests:
    """What every replica runtime must do. Derive from it in a module of tests, and say how to make yours::

        class TestMine(ReplicaRuntimeTests):
            def make_runtime(self):
                return Mine()

    Each case has a runtime of its own: made, opened, used from threads, and closed. In a session with fixtures of your
    own, an autouse fixture of the class may put on ``self`` what ``make_runtime`` needs; it must be picklable where
    ``attaches`` is True.

    The attributes below are what the runtime claims, and how long the cases wait before they call it broken.
    """

    worker_options: Mapping[str, Any] = {}
    """Options that `ReplicaRuntime.check_worker_options` takes; the workers are started with them."""
    start_timeout_s: float = 60.0
    """How long `open`, `start` and `close` may each take, and a worker to dial and to become ready."""
    notice_timeout_s: float = 30.0
    """How long after a process's end `poll` may still give None."""
    attaches: bool = True
    """A later controller finds the workers of an earlier one. False: `attach` always raises LookupError."""
    local_processes: bool = True
    """Workers are processes of this machine, under the pid that they see, and of this user; they share its files.
    False leaves out what needs that: kill -9, and what is left behind."""

    def make_runtime(self) -> ReplicaRuntime:
        """A new runtime, as the core makes one for each set of options."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_runtime that returns a new runtime")

    def output(self, handle: WorkerHandle, printed: str) -> str:
        """What the worker has printed so far. Override it where that goes to a log.

        ``printed`` is what came on stdout and stderr of this process, which stands in for the controller's.
        """
        return printed

    @pytest.fixture
    def rig(self, capfd: pytest.CaptureFixture[str]) -> Iterator[Rig]:
        """One runtime, opened, and what a case needs to drive it."""
        rig = Rig(self)
        try:
            rig.open()
            yield rig
        finally:
            rig.clean_up()

    # -- start -------------------------------------------------------------------------------------------------------

    def test_a_worker_becomes_ready(self, rig: Rig) -> None:
        rig.ready(probes.Idle)

    def test_workers_started_at_once_from_threads_become_ready(self, rig: Rig) -> None:
        specs = [rig.spec(probes.Idle) for _ in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            workers = list(threads.map(rig.start_spec, specs))
            for worker in workers:
                rig.await_ready(worker)
            pids = {rig.controller.heard(worker.id).hellos[0].pid for worker in workers}
            if len(pids) < AT_ONCE:
                fail(f"{AT_ONCE} workers run in {len(pids)} processes", "each worker is a process of its own")
            list(threads.map(lambda worker: rig.stop(worker, GRACE_S), workers))
        for worker in workers:
            rig.expect_stopped(worker)

    def test_the_bootstrap_is_in_neither_argv_nor_environment(self, rig: Rig) -> None:
        token = traces.spellings(rig.controller.token)
        for process in self._look(rig):
            for part, name in (("cmdline", "argv"), ("environ", "the environment")):
                seen = bytes.fromhex(process[part])
                if any(spelling in seen for spelling in token):
                    fail(
                        f"the bootstrap is in {name} of process {process['pid']}, a worker or an ancestor of one, "
                        "where others can read it",
                        "the bootstrap holds the instance's secret: hand it over by a pipe, a file of mode 0600 or an "
                        "authenticated call",
                    )

    def test_what_a_worker_prints_is_to_be_seen(self, rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
        texts = {"stdout": f"out-{rig.mark}", "stderr": f"err-{rig.mark}"}
        worker = rig.ready(probes.Speaking, *texts.values())
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

    def test_worker_options(self, rig: Rig) -> None:
        rig.call("check_worker_options", lambda: rig.runtime.check_worker_options(self.worker_options), GRACE_S)
        try:
            rig.runtime.check_worker_options({**self.worker_options, UNKNOWN_OPTION: 1})
        except ValueError as error:
            if UNKNOWN_OPTION not in str(error):
                fail(f"check_worker_options() said {str(error)!r} of an unknown option", "the message names the option")
        else:
            fail(
                f"check_worker_options() took {UNKNOWN_OPTION!r}",
                "it raises ValueError for what start() could not use, so that create_backend refuses a typing error",
            )

    # -- poll ----------------------------------------------------------------------------------------------------------

    def test_a_worker_that_is_killed_is_seen_to_be_gone(self, rig: Rig) -> None:
        self._needs_local_processes()
        worker, other = rig.ready(probes.Idle), rig.ready(probes.Idle)
        rig.kill(worker)
        ended = rig.await_exit(worker, "was killed by SIGKILL")
        if not re.search(r"kill|signal|crash|died|lost", ended.reason, re.IGNORECASE):
            fail(f"after kill -9, poll() gives the reason {ended.reason!r}", "the reason says how the worker ended")
        rig.expect_alive(other, "is ready, and it was another that was killed")

    def test_what_a_killed_worker_had_started_ends_with_it(self, rig: Rig) -> None:
        self._needs_local_processes()
        file = Path(rig.directory, "child")
        worker = rig.ready(probes.Parent, str(file))
        child = identify(int(file.read_text()))
        rig.kill(worker)
        rig.await_exit(worker, "was killed by SIGKILL")
        if child is not None and not until(lambda: not is_alive(child), self.notice_timeout_s):
            os.kill(child.pid, signal.SIGKILL)
            fail(
                "a worker was killed, and a process that it had started in its group is still there",
                "poll() ends what is left of a worker's process group: see servekit.processes.end_group",
            )

    def test_a_worker_that_exits_is_seen_to_be_gone(self, rig: Rig) -> None:
        worker = rig.start(probes.Exiting, EXIT_CODE)
        ended = rig.await_exit(worker, f"ended with exit code {EXIT_CODE}")
        if ended.code not in (None, EXIT_CODE):
            fail(f"poll() gave {ended!r} for a worker that ended with exit code {EXIT_CODE}", "a code is the right one")

    def test_a_target_that_raises_is_reported_and_the_worker_gone(self, rig: Rig) -> None:
        worker = rig.start(probes.Failing)
        assert "this target cannot be built" in rig.await_failure(worker)
        rig.await_exit(worker, "said that its handler could not be built, and left")

    def test_a_worker_that_cannot_begin_is_reported(self, rig: Rig) -> None:
        """`start` may raise, or `poll` tell it: a bootstrap that is none makes `servekit.worker.run` raise."""
        spec = WorkerSpec("unreadable", "conformance", b"\xc1 this is no bootstrap", self.worker_options)
        try:
            worker = rig.start_spec(spec)
        except Exception as error:
            if not str(error):
                fail(f"start() raised {error!r}, without a message", "what start() raises says what is wrong")
        else:
            rig.await_exit(worker, "was given a bootstrap that it cannot read, and so ended with an exception")

    # -- stop ----------------------------------------------------------------------------------------------------------

    def test_stop_asks_first(self, rig: Rig) -> None:
        left = Path(rig.directory, "left")
        worker = rig.ready(probes.Idle, str(left))
        rig.stop(worker, GRACE_S)
        rig.expect_stopped(worker)
        if self.local_processes and not left.exists():
            fail(
                f"stop() with a grace of {GRACE_S:g} s ended an idle worker before that could close its handler",
                "stop() first asks (SIGTERM does), and insists only after grace_s seconds",
            )

    def test_stop_insists_when_a_worker_hangs(self, rig: Rig) -> None:
        worker = self._deaf(rig)
        rig.stop(worker, SHORT_GRACE_S)
        rig.expect_stopped(worker)

    def test_stop_with_no_grace_ends_a_worker_that_hangs(self, rig: Rig) -> None:
        worker = self._deaf(rig)
        rig.stop(worker, 0)
        rig.expect_stopped(worker)

    def test_stop_of_a_worker_that_has_ended_is_no_error(self, rig: Rig) -> None:
        exited = rig.start(probes.Exiting, EXIT_CODE)
        rig.await_exit(exited, f"ended with exit code {EXIT_CODE}")
        stopped = rig.ready(probes.Idle)
        rig.stop(stopped, GRACE_S)
        for worker, how in ((exited, "exited"), (stopped, "was stopped")):
            try:
                rig.stop(worker, SHORT_GRACE_S)
            except Exception as error:
                fail(
                    f"stop() of a worker that {how} raised {type(error).__name__}: {error}",
                    "a worker that has ended already is no error, for stop()",
                )
            rig.expect_stopped(worker)

    # -- attach --------------------------------------------------------------------------------------------------------

    def test_a_later_controller_attaches_to_polls_and_stops_a_worker(self, rig: Rig) -> None:
        if not self.attaches:
            self._attach_raises(rig, rig.ready(probes.Idle), "though the test class says attaches = False")
            return
        spec = rig.spec(probes.Idle)
        state = start_and_die(self, rig.context, spec, 2 * self.start_timeout_s)
        try:
            handle = rig.call("attach", lambda: rig.runtime.attach(state), self.start_timeout_s)
        except LookupError as error:
            fail(
                f"attach() raised {type(error).__name__} ({error}) for a worker of a controller that was killed",
                "where RuntimeContext.standing is True, workers outlive their controller, and the state leads to them",
            )
        worker = rig.adopt(spec.worker_id, handle)
        rig.await_ready(worker)
        rig.stop(worker, GRACE_S)
        rig.expect_stopped(worker)

    def test_attach_raises_for_a_worker_that_is_gone(self, rig: Rig) -> None:
        worker = rig.ready(probes.Idle)
        rig.stop(worker, GRACE_S)
        rig.expect_stopped(worker)
        self._attach_raises(rig, worker, "that has ended")

    # -- close ---------------------------------------------------------------------------------------------------------

    def test_close_leaves_nothing_behind(self, rig: Rig) -> None:
        self._needs_local_processes()
        rig.ready(probes.Idle)
        rig.start(probes.Exiting, EXIT_CODE)
        self._deaf(rig)
        rig.close()
        until(lambda: not rig.left(), self.notice_timeout_s)
        if left := rig.left():
            fail(
                f"stop() and close() have left processes behind: {traces.describe(left)}",
                "after close() nothing is there that the runtime has started, nor a child that nobody waited for",
            )

    # -- a whole instance ----------------------------------------------------------------------------------------------

    def test_an_instance_answers_and_replaces_a_replica_that_is_killed(self, rig: Rig) -> None:
        with served_backend(rig, self.worker_options, probes.Idle) as (get, pids):
            assert {int(get()) for _ in range(10)} <= pids()
            if not self.local_processes:
                return
            (pid,) = pids()
            os.kill(pid, 9)
            if not until(lambda: bool(pids() - {pid}), self.start_timeout_s + self.notice_timeout_s):
                fail("no other replica came for one that was killed", "poll() tells the core that a worker has ended")
            assert {int(get()) for _ in range(10)} <= pids()

    def test_an_instance_ends_though_a_handler_hangs(self, rig: Rig) -> None:
        self._needs_local_processes()
        began = Path(rig.directory, "hanging")
        with ThreadPoolExecutor(1) as threads:
            with served_backend(rig, self.worker_options, probes.Hanging, str(began)) as (get, pids):
                threads.submit(get)
                assert until(began.exists, self.start_timeout_s), "the request did not reach the handler"
                processes = {process for process in rig.left() if process.pid in pids()}
                assert processes
            if not until(lambda: not any(map(is_alive, processes)), self.notice_timeout_s):
                fail("the instance has ended, and its replica has not", "stop() insists after grace_s seconds")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _needs_local_processes(self) -> None:
        if not self.local_processes:
            pytest.skip("its workers are not processes of this machine")

    def _deaf(self, rig: Rig) -> Worker:
        """A worker that hangs and does not listen to SIGTERM."""
        began = Path(rig.directory, "deaf")
        worker = rig.started(probes.Deaf, str(began))
        if self.local_processes:
            assert until(began.exists, self.start_timeout_s), "the worker was told what to serve, and did not begin"
        return worker

    def _attach_raises(self, rig: Rig, worker: Worker, whose: str) -> None:
        try:
            rig.call("attach", lambda: rig.runtime.attach(worker.handle.state), self.start_timeout_s)
        except LookupError:
            return
        except Exception as error:
            fail(f"attach() raised {type(error).__name__} ({error}) for a worker {whose}", "it raises LookupError")
        fail(
            f"attach() gave a handle for a worker {whose}", "it raises LookupError, and the core starts another replica"
        )

    def _look(self, rig: Rig) -> list[dict[str, Any]]:
        """What is to be seen of a worker and its ancestors. It comes by its failure to start, so from any machine."""
        said = rig.await_failure(rig.start(probes.Looking))
        assert probes.SEEN in said, said
        found: list[dict[str, Any]] = json.loads(said.rpartition(probes.SEEN)[2])
        return found
