"""A replica worker's life: learn what to serve, build the handler, serve until drained.

Two threads. The handler is built and called on the one that calls `run`, the process's main thread; the control link
has an event loop on another, so that a handler that hangs is seen as such rather than taken for dead.
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

from servekit.code.place import CodePlace
from servekit.config import DRAIN_TIMEOUT_S
from servekit.factories import load_path
from servekit.handles import callers
from servekit.handles.caller import Caller
from servekit.interfaces import RequestAdapter
from servekit.processes import extend_sys_path
from servekit.replica import pools
from servekit.replica.executor import Executor
from servekit.replica.life import Life, trace_of
from servekit.replica.server import DataServer
from servekit.replica.sigterm import Sigterm
from servekit.replica.target import Handlers, Target, load
from servekit.tasks import TaskSet
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control import ControlClient
from servekit.wire.control_frames import (
    Assign,
    Blob,
    Drain,
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
from servekit.wire.network import Listener, Network
from servekit.wire.polling import BusyPoll

_log = logging.getLogger("servekit.replica")
_FLUSH_TIMEOUT_S = 5.0


class ReplicaWorker:
    """One replica. ``load_target`` and ``load_plugin`` are replaced by the in-process runtime."""

    def __init__(
        self,
        bootstrap: WorkerBootstrap,
        network: Network,
        *,
        load_target: Callable[[bytes], Target] = load,
        load_plugin: Callable[[str], Callable[..., RequestAdapter]] = load_path,
        own_process: bool = True,
    ) -> None:
        self._bootstrap = bootstrap
        self._network = network
        self._load_target = load_target
        self._load_plugin = load_plugin
        self._own_process = own_process
        self._hello = WorkerHello(bootstrap.worker_id, os.getpid(), socket.gethostname())
        self._assigned: queue.SimpleQueue[tuple[Assign, bytes, bytes] | None] = queue.SimpleQueue()
        self._assign: Assign | None = None
        self._blob = bytearray()
        self._control: ControlClient
        self._server: DataServer | None = None
        self._executor: Executor | None = None
        self._data_loop: asyncio.AbstractEventLoop | None = None
        self._life: Life | None = None
        self._sigterm: Sigterm | None = None
        self._caller: Caller | None = None
        """For the handles in this process; in process, the instance has one."""
        self._tasks = TaskSet()
        """On the data loop, beside the calls."""
        self._code: CodePlace | None = None
        self._ended = False

    def run(self, control_loop: asyncio.AbstractEventLoop) -> str:
        """Live, with the control link on ``control_loop``, which another thread runs; returns why it ended."""
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
            control_loop.call_soon_threadsafe(self._close_control)
            with contextlib.suppress(concurrent.futures.TimeoutError):
                reason = f"{reason}; control link: {control.result(_FLUSH_TIMEOUT_S)}"
            if self._code is not None:
                self._code.leave()
        return reason

    def end(self, reason: str) -> None:
        """Leave, from any thread: give back what has not begun, finish what has."""
        self._ended = True
        _log.info("ending: %s", reason)
        self._assigned.put(None)
        self._on_data_loop(lambda server: server.leave(DRAIN_TIMEOUT_S))

    # -- the control link's thread --------------------------------------------------------------------------------

    async def _keep_control(self) -> str:
        self._control = ControlClient(
            self._bootstrap,
            self._network,
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
        return self._hello if life is None else msgspec.structs.replace(self._hello, user_config=life.taken)

    def _close_control(self) -> None:
        if hasattr(self, "_control"):
            self._control.close()

    def _received(self, frame: object) -> None:
        if isinstance(frame, Assign):
            self._assign, self._blob = frame, bytearray()
            if self._own_process and self._caller is None:
                told = self._bootstrap
                loop = asyncio.get_running_loop()
                self._caller = Caller(self._network, told.token, told.worker_id, loop, frame.ingresses)
        elif isinstance(frame, Ingresses):
            if self._caller is not None:
                self._caller.set_ingresses(frame.addresses)
            return
        elif isinstance(frame, Blob):
            self._blob += frame.data
        elif isinstance(frame, Drain):
            timeout_s = frame.timeout_s
            if self._server is None:
                self.end("drained before it was ready")
            self._on_data_loop(lambda server: server.drain(timeout_s))
            return
        elif isinstance(frame, Reconfigure):
            user_config, link = frame.user_config, self._control.link
            self._on_data_loop(lambda _: self._tasks.spawn(self._reconfigure(user_config, link)))
            return
        assign = self._assign
        if assign is not None and len(self._blob) == assign.target_bytes + assign.code_bytes:
            target, code = self._blob[: assign.target_bytes], self._blob[assign.target_bytes :]
            self._assigned.put((assign, bytes(target), bytes(code)))
            self._assign, self._blob = None, bytearray()

    def _report(self) -> Report:
        executor, life = self._executor, self._life
        if executor is None:
            return Report()
        if life is not None and life.is_hung:
            self._control.send(Unhealthy(life.hung_reason))
        since = executor.busy_since
        return Report(executor.outstanding, time.perf_counter() - since if since else 0.0)

    def _on_data_loop(self, act: Callable[[DataServer], object]) -> None:
        loop, server = self._data_loop, self._server
        if loop is not None and server is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended, and with it what was to be done.
                loop.call_soon_threadsafe(act, server)

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
            self._control.send(StartFailed(trace_of(error) + self._differences()))
            return "the handler could not be built"
        try:
            return self._run_loop(assign, handlers, adapter)
        finally:
            self._server = self._executor = self._data_loop = self._life = None
            handlers.release()
            adapter.close()

    def _enter(self, assign: Assign, code: bytes) -> None:
        """Make this process see the modules and files that the client saw."""
        extend_sys_path(assign.sys_path)
        if assign.code:
            self._code = CodePlace(self._bootstrap.directory, assign.code, code, assign.sys_path)
            for difference in self._code.differences():
                _log.warning("%s", difference)
        if os.path.isdir(assign.cwd):  # On another machine it may not be there.
            os.chdir(assign.cwd)

    def _differences(self) -> str:
        """For whoever reads why the handler could not be built."""
        found = "; ".join(self._code.differences()) if self._code is not None else ""
        return f"\n\nNot as it was where the backend was created: {found}" if found else ""

    def _run_loop(self, assign: Assign, handlers: Handlers, adapter: RequestAdapter) -> str:
        # A frame of its own: what the loop still refers to must not keep the handler from being released.
        with contextlib.closing(uvloop.new_event_loop()) as loop:
            return loop.run_until_complete(self._live(assign, handlers, adapter))

    async def _live(self, assign: Assign, handlers: Handlers, adapter: RequestAdapter) -> str:
        """All that happens to the handler between its building and its release."""
        life = self._life = Life(handlers, adapter, assign.config)
        try:
            try:
                await life.begin()
            except (Exception, SystemExit) as error:
                self._control.send(StartFailed(trace_of(error)))
                return "the handler could not be built"
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
        loop = asyncio.get_running_loop()
        capabilities = handlers.capabilities(adapter, assign.config)
        executor = Executor(
            assign.backend,
            handlers,
            adapter,
            slots=capabilities.slots,
            debug=assign.debug,
            replica=self._bootstrap.worker_id,
            max_batch_size=assign.config.max_batch_size or 1,
            batch_wait_s=assign.config.batch_wait_timeout,
        )
        polling = BusyPoll.on(loop, self._bootstrap.busy_poll_s)
        server = DataServer(executor, DataLinks(self._bootstrap.token, self._bootstrap.worker_id, polling))
        self._data_loop, self._server, self._executor = loop, server, executor
        if self._own_process and threading.current_thread() is threading.main_thread():
            self._sigterm = Sigterm(lambda: self.end("SIGTERM"))
        listener = await self._network.listen(self._listen_address(), server.calls.new_link)
        try:
            # A redial, after a change of controllers, says the same as `Ready` does now.
            self._hello = msgspec.structs.replace(
                self._hello,
                ready=True,
                addresses=[listener.address],
                capabilities=capabilities,
            )
            self._control.send(Ready([listener.address], capabilities))
            if self._ended:
                server.leave(DRAIN_TIMEOUT_S)
            await server.serve()
        finally:
            executor.close(server.calls)
            _close(listener)
            await server.calls.finish()

    def _listen_address(self) -> str:
        """On the controller's machine a Unix socket (or memory); elsewhere TCP, on the address that reaches it."""
        local = self._control.local_address
        if isinstance(local, tuple):
            return f"tcp:{local[0]}:0" if len(local) == 2 else f"tcp:[{local[0]}]:0"
        if not self._own_process:
            return f"memory:{self._bootstrap.worker_id}"
        return f"unix:{self._bootstrap.directory}/{self._bootstrap.worker_id}.sock"


def _close(listener: Listener) -> None:
    with contextlib.suppress(FileNotFoundError):  # The instance's directory may be gone already.
        listener.close()
