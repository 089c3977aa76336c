"""A replica worker's life: learn what to serve, build the handler, serve until drained.

There are two threads. The handler is built and called on the thread that calls `run`, the process's main thread. The
control link has an event loop on the other, so that a handler that hangs is seen as such, and not taken for dead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

from servekit import metrics
from servekit.code.place import CodePlace
from servekit.config import DRAIN_TIMEOUT_S
from servekit.factories import load_path
from servekit.handles import callers
from servekit.handles.caller import Caller
from servekit.interfaces import RequestAdapter
from servekit.processes import extend_sys_path, open_descriptors, resident_bytes, set_title
from servekit.replica import pools, stacks
from servekit.replica.executor import Executor
from servekit.replica.failures import FailureCollector
from servekit.replica.gpus import Gpus
from servekit.replica.handler_calls import HandlerCalls
from servekit.replica.histograms import ValueHistogram
from servekit.replica.life import Life, start_failure
from servekit.replica.open_call import OpenCall
from servekit.replica.sigterm import Sigterm
from servekit.replica.target import Handlers, Target, load
from servekit.replica.told_metrics import MetricsTeller
from servekit.tasks import TaskSet
from servekit.vitals import Vitals
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.companion import listen_for_companions
from servekit.wire.control import ControlClient
from servekit.wire.control_frames import (
    Assign,
    Blob,
    Drain,
    Failed,
    Ingresses,
    Ready,
    Reconfigure,
    Reconfigured,
    Report,
    StartFailed,
    Unhealthy,
    WorkerHello,
)
from servekit.wire.data_links import DataLinks
from servekit.wire.link import Link
from servekit.wire.network import Listener, listen
from servekit.wire.polling import BusyPoll

_log = logging.getLogger("servekit.replica")
_FLUSH_TIMEOUT_S = 5.0
LOOK_S = 0.1
"""Between two looks at a data loop that may hang."""


class ReplicaWorker:
    """One replica. ``load_target`` and ``load_plugin`` are replaced by the in-process runtime."""

    def __init__(
        self,
        bootstrap: WorkerBootstrap,
        *,
        load_target: Callable[[bytes], Target] = load,
        load_plugin: Callable[[str], Callable[..., RequestAdapter]] = load_path,
        own_process: bool = True,
    ) -> None:
        self._bootstrap = bootstrap
        self._load_target = load_target
        self._load_plugin = load_plugin
        self._own_process = own_process
        self._hello = WorkerHello(bootstrap.worker_id, os.getpid(), socket.gethostname())
        self._assigned: queue.SimpleQueue[tuple[Assign, bytes, bytes] | None] = queue.SimpleQueue()
        self._assign: Assign | None = None
        self._blob = bytearray()
        self._control: ControlClient
        self._executor: Executor | None = None
        self._life: Life | None = None
        self._failures = FailureCollector()
        self._sigterm: Sigterm | None = None
        self._caller: Caller | None = None
        """The caller of the handles in this process; in process, the instance has one."""
        self._tasks = TaskSet()
        """The tasks on the data loop, beside the calls."""
        self._code: CodePlace | None = None
        self._recorder = metrics.recorder.get() if own_process else metrics.Recorder()
        self._teller = MetricsTeller(self._recorder)
        self._histograms: list[ValueHistogram] = []
        self._gpus = Gpus()
        self._ended = False
        self.left_behind = False
        """The replica is over, but its thread hangs. In process alone: else the process has ended."""
        self._control_loop: asyncio.AbstractEventLoop

    def run(self, control_loop: asyncio.AbstractEventLoop) -> str:
        """Live, with the control link on ``control_loop``, which another thread runs; returns why the replica ended."""
        self._control_loop = control_loop
        metrics.recorder.set(self._recorder)  # In process, for this thread alone, and what it calls.
        control = asyncio.run_coroutine_threadsafe(self._keep_control(), control_loop)
        reason = "ended"
        try:
            assigned = self._assigned.get()
            if assigned is not None:
                reason = self._serve(*assigned)
        finally:
            self._ended = True
            if self._caller is not None:
                self._caller.close("the replica has ended")
            with contextlib.suppress(RuntimeError):  # In process, a handler that hung may outlive the instance's loop.
                control_loop.call_soon_threadsafe(self._close_control)
            with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                reason = f"{reason}; control link: {control.result(_FLUSH_TIMEOUT_S)}"
            if self._code is not None:
                self._code.leave()
        return reason

    def end(self, reason: str) -> None:
        """Leave: give back the calls that have not begun, finish the others. May be called in any thread."""
        self._ended = True
        _log.debug("ends: %s", reason)
        self._assigned.put(None)
        self._on_data_loop(lambda executor: executor.leave(DRAIN_TIMEOUT_S))

    # -- the control link's thread --------------------------------------------------------------------------------

    async def _keep_control(self) -> str:
        self._control = ControlClient(
            self._bootstrap,
            hello=self._say_hello,
            received=self._received,
            report=self._report,
        )
        if self._ended:
            return "ended before it began"
        reason = await self._control.run()
        if not self._ended:
            self.end(reason)
            if self._own_process:
                # A handler that hangs keeps the other thread, and no controller is there to end this process.
                asyncio.get_running_loop().call_later(DRAIN_TIMEOUT_S + _FLUSH_TIMEOUT_S, os._exit, 1)
        return reason

    def _say_hello(self) -> WorkerHello:
        life = self._life
        self._teller.forget()
        return self._hello if life is None else msgspec.structs.replace(self._hello, user_config=life.taken)

    def _close_control(self) -> None:
        if hasattr(self, "_control"):
            self._tell_failures()
            self._tell_metrics(last=True)
            self._control.close()

    def _received(self, frame: object) -> None:
        if isinstance(frame, Assign):
            self._assign, self._blob = frame, bytearray()
            if self._own_process and self._caller is None:
                told = self._bootstrap
                loop = asyncio.get_running_loop()
                self._caller = Caller(told.token, told.worker_id, loop, frame.ingresses)
            self._check_assigned()
        elif isinstance(frame, Blob):
            self._blob += frame.data
            self._check_assigned()
        elif isinstance(frame, Ingresses):
            if self._caller is not None:
                self._caller.set_ingresses(frame.addresses)
        elif isinstance(frame, Drain):
            timeout_s, hung_s = frame.timeout_s, frame.hung_s
            if self._executor is None:
                self.end("drained before it was ready")
            self._on_data_loop(lambda executor: executor.drain(timeout_s))
            if hung_s:  # From now on, for a call may come to be so late only while the others are waited for.
                self._look_for_hang(hung_s)
        elif isinstance(frame, Reconfigure):
            user_config, link = frame.user_config, self._control.link
            self._on_data_loop(lambda _: self._tasks.spawn(self._reconfigure(user_config, link)))

    def _check_assigned(self) -> None:
        """Have the handler's thread serve, once all bytes of the target and of the code are here."""
        assign = self._assign
        if assign is not None and len(self._blob) == assign.target_bytes + assign.code_bytes:
            target, code = self._blob[: assign.target_bytes], self._blob[assign.target_bytes :]
            self._assigned.put((assign, bytes(target), bytes(code)))
            self._assign, self._blob = None, bytearray()

    def _tell_metrics(self, *, last: bool = False) -> None:
        news = self._teller.news(self._histograms, last=last)
        if news is not None:
            self._control.send(news)

    def _report(self) -> Report:
        executor, life = self._executor, self._life
        self._tell_failures()
        self._tell_metrics()
        if executor is None:
            return Report()
        if life is not None and life.is_hung:
            self._control.send(Unhealthy(life.hung_reason))
        if life is not None:
            life.look_at_loop(warns=executor.outstanding > 0)
        since, running = executor.busy_since, executor.running
        memory_bytes, descriptors = (resident_bytes(), open_descriptors()) if self._own_process else (0, 0)
        return Report(
            time.perf_counter() - since if since else 0.0,
            overdue_s=max(executor.overdue().values(), default=0.0),
            requests=executor.requests,
            memory_bytes=memory_bytes,
            running=running,
            calls_waiting=max(0, executor.outstanding - running),
            vitals=Vitals(memory_bytes, descriptors, life.lag_s if life is not None else 0.0),
            gpus=self._gpus.look() if self._own_process else [],
        )

    def _tell_failures(self) -> None:
        groups = self._failures.take()
        if groups:
            self._control.send(Failed(groups))

    def _start_failed(self, error: BaseException, message: str) -> str:
        """Tell the controller; returns why the replica ends."""
        message = message.encode(errors="backslashreplace").decode()  # It is to travel.
        self._failures.add("build", error, message)
        self._tell_failures()  # Before the other frame, by which the controller ends this replica.
        self._control.send(StartFailed(message))
        return "the handler could not be built"

    def _look_for_hang(self, hung_s: float, logged: bool = False) -> None:
        """Log what hangs, once, and do not wait for it; where that is the data loop, end the replica without it. Looks
        again, until the replica has ended."""
        executor, life = self._executor, self._life
        if executor is None or life is None or executor.calls.over:
            return
        silent_s, overdue = life.silent_s(), executor.overdue(hung_s)
        if not logged and (overdue or life.is_hung):
            self._log_hang(life, overdue)
            logged = True
        if life.is_hung or (overdue and silent_s >= hung_s):
            executor.break_off()
            if self._own_process:
                os._exit(1)
            self.left_behind = True
            return
        if overdue:
            self._on_data_loop(lambda executor: executor.give_up(hung_s))
        asyncio.get_running_loop().call_later(LOOK_S, self._look_for_hang, hung_s, logged)

    def _log_hang(self, life: Life, overdue: dict[OpenCall, float]) -> None:
        threads = "on standard error" if self._own_process else f"here:\n{stacks.threads_of(life.thread)}"
        what = stacks.describe(overdue) or life.hung_reason
        _log.error("something in the replica hangs, and is not waited for: %s\nIts threads are %s", what, threads)
        if self._own_process:
            stacks.dump_threads()

    def _on_data_loop(self, act: Callable[[Executor], object]) -> None:
        executor = self._executor
        if executor is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                executor.loop.call_soon_threadsafe(act, executor)

    # -- the handler's thread ---------------------------------------------------------------------------------------

    def _serve(self, assign: Assign, target: bytes, code: bytes) -> str:
        adapter: RequestAdapter | None = None
        try:
            if self._own_process:
                self._enter(assign, code)
                callers.in_worker = self._caller
                pools.install()
            adapter = self._load_plugin(assign.adapter.path)(**assign.adapter.options)
            handlers = Handlers(self._load_target(target))
            handlers.check(adapter, assign.config)
        except (Exception, SystemExit) as error:
            return self._start_failed(error, start_failure(error) + self._differences())
        try:
            return self._run_loop(assign, handlers, adapter)
        finally:
            self._executor = self._life = None
            handlers.release()
            adapter.close()

    def _enter(self, assign: Assign, code: bytes) -> None:
        """Make this process see the modules and files that the client saw."""
        set_title(f"replica {assign.backend} {self._bootstrap.worker_id}")
        extend_sys_path(assign.sys_path)
        if assign.code:
            self._code = CodePlace(self._bootstrap.directory, assign.code, code, assign.sys_path)
            for difference in self._code.differences():
                _log.warning("%s", difference)
        if os.path.isdir(assign.cwd):  # On another machine it may not be there.
            os.chdir(assign.cwd)

    def _differences(self) -> str:
        """A sentence on code that differs, for the report that the handler could not be built."""
        found = "; ".join(self._code.differences()) if self._code is not None else ""
        return f"\n\nNot as it was where the backend was created: {found}" if found else ""

    def _run_loop(self, assign: Assign, handlers: Handlers, adapter: RequestAdapter) -> str:
        # This has a frame of its own: objects that the loop still refers to must not keep the handler from its release.
        with contextlib.closing(uvloop.new_event_loop()) as loop:
            return loop.run_until_complete(self._live(assign, handlers, adapter))

    async def _live(self, assign: Assign, handlers: Handlers, adapter: RequestAdapter) -> str:
        """The life of the handler between its building and its release."""
        life = self._life = Life(handlers, adapter, assign.config, self._failures)
        try:
            try:
                await life.begin()
            except (Exception, SystemExit) as error:
                return self._start_failed(error, start_failure(error))
            self._tasks.spawn(life.watch(lambda reason: self._control.send(Unhealthy(reason))))
            await self._serve_data(assign, handlers, adapter)
            return "drained"
        finally:
            await self._tasks.close()
            await life.end()
            if self._sigterm is not None:
                self._sigterm.close()

    async def _reconfigure(self, user_config: Any, link: Link | None) -> None:
        assert self._life is not None
        self._control.send(Reconfigured(await self._life.reconfigure(user_config)), link)

    async def _serve_data(self, assign: Assign, handlers: Handlers, adapter: RequestAdapter) -> None:
        told = self._bootstrap
        capabilities = handlers.capabilities(adapter, assign.config)
        polling = BusyPoll.on(asyncio.get_running_loop(), told.busy_poll_s)
        executor = Executor(
            handlers,
            HandlerCalls(
                assign.backend, told.worker_id, adapter, assign.debug, rank=assign.rank, failures=self._failures
            ),
            DataLinks(told.token, told.worker_id, polling),
            slots=capabilities.slots,
            max_batch_size=assign.config.max_batch_size or 1,
            batch_wait_s=assign.config.batch_wait_timeout,
        )
        self._executor, self._histograms = executor, executor.batch_histograms
        if self._own_process and threading.current_thread() is threading.main_thread():
            self._sigterm = Sigterm(lambda: self.end("SIGTERM"))
        address = self._listen_address()
        listener = await listen(address, executor.calls.new_link)
        companions = await self._listen_for_companions(address)
        told_at = [companions.address] if companions is not None else []
        try:
            # The hello of a redial, after a change of controllers, says the same as `Ready` does now.
            self._hello = msgspec.structs.replace(
                self._hello,
                ready=True,
                addresses=[listener.address],
                capabilities=capabilities,
                companions=told_at,
            )
            self._control.send(Ready([listener.address], capabilities, told_at))
            if self._ended:
                executor.leave(assign.config.drain_timeout_s)
            await executor.serve()
        finally:
            executor.close()
            with contextlib.suppress(FileNotFoundError):  # The instance's directory may be gone already.
                listener.close()
            if companions is not None:
                self._control_loop.call_soon_threadsafe(companions.close)
            await executor.calls.finish()

    async def _listen_for_companions(self, address: str) -> Listener | None:
        """Take companions on the control link's thread, whatever the handler does; none on the controller's machine."""
        if address.startswith("unix:"):
            return None
        links = DataLinks(self._bootstrap.token, self._bootstrap.worker_id)
        listening = listen_for_companions(address, links)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(listening, self._control_loop))

    def _listen_address(self) -> str:
        """On the controller's machine a Unix socket; elsewhere TCP, on the address that reaches it."""
        local = self._control.local_address
        if isinstance(local, tuple):
            return f"tcp:{local[0]}:0" if len(local) == 2 else f"tcp:[{local[0]}]:0"
        return f"unix:{self._bootstrap.directory}/{self._bootstrap.worker_id}.sock"
