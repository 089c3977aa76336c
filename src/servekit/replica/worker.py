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
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable

import msgspec
import uvloop

from servekit.config import DRAIN_TIMEOUT_S
from servekit.factories import load_path
from servekit.interfaces import RequestAdapter
from servekit.processes import extend_sys_path
from servekit.replica.executor import Executor
from servekit.replica.server import DataServer
from servekit.replica.target import Handlers, Target, load
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control import ControlClient
from servekit.wire.frames import Assign, Blob, Drain, Ready, Report, StartFailed, WorkerHello
from servekit.wire.network import Listener, Network

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
        self._assigned: queue.SimpleQueue[tuple[Assign, bytes] | None] = queue.SimpleQueue()
        self._assign: Assign | None = None
        self._blob = bytearray()
        self._control: ControlClient
        self._server: DataServer | None = None
        self._data_loop: asyncio.AbstractEventLoop | None = None
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
            control_loop.call_soon_threadsafe(self._close_control)
            with contextlib.suppress(concurrent.futures.TimeoutError):
                reason = f"{reason}; control link: {control.result(_FLUSH_TIMEOUT_S)}"
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
            hello=lambda: self._hello,
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

    def _close_control(self) -> None:
        if hasattr(self, "_control"):
            self._control.close()

    def _received(self, frame: object) -> None:
        if isinstance(frame, Assign):
            self._assign, self._blob = frame, bytearray()
        elif isinstance(frame, Blob):
            self._blob += frame.data
        elif isinstance(frame, Drain):
            timeout_s = frame.timeout_s
            if self._server is None:
                self.end("drained before it was ready")
            self._on_data_loop(lambda server: server.drain(timeout_s))
            return
        if self._assign is not None and len(self._blob) == self._assign.target_bytes:
            self._assigned.put((self._assign, bytes(self._blob)))
            self._assign = None

    def _report(self) -> Report:
        server = self._server
        if server is None:
            return Report()
        since = server.executor.busy_since
        return Report(server.executor.outstanding, time.perf_counter() - since if since else 0.0)

    def _on_data_loop(self, act: Callable[[DataServer], None]) -> None:
        loop, server = self._data_loop, self._server
        if loop is not None and server is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended, and with it what was to be done.
                loop.call_soon_threadsafe(act, server)

    # -- the handler's thread ---------------------------------------------------------------------------------------

    def _serve(self, assign: Assign, blob: bytes) -> str:
        adapter: RequestAdapter | None = None
        try:
            if self._own_process:
                _enter(assign)
            adapter = self._load_plugin(assign.adapter.path)(**assign.adapter.options)
            handlers = Handlers(self._load_target(blob))
        except (Exception, SystemExit) as error:
            self._control.send(StartFailed("".join(traceback.format_exception(error)).rstrip()))
            return "the handler could not be built"
        try:
            with contextlib.closing(uvloop.new_event_loop()) as loop:
                loop.run_until_complete(self._serve_data(assign, handlers, adapter))
        finally:
            handlers.close()
            adapter.close()
        return "drained"

    async def _serve_data(self, assign: Assign, handlers: Handlers, adapter: RequestAdapter) -> None:
        loop = asyncio.get_running_loop()
        server = DataServer(self._bootstrap.token, self._bootstrap.worker_id.encode(), self._bootstrap.busy_poll_s)
        server.executor = Executor(
            assign.backend,
            handlers,
            adapter,
            slots=assign.config.max_concurrent_queries or 1,
            debug=assign.debug,
            idle=server.check_drained,
            tell_load=server.tell_load,
        )
        self._data_loop, self._server = loop, server
        if self._own_process and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGTERM, self.end, "SIGTERM")
        listener = await self._network.listen(self._listen_address(), server.new_link)
        try:
            # A redial, after a change of controllers, says the same as `Ready` does now.
            slots = assign.config.max_concurrent_queries or 1
            self._hello = msgspec.structs.replace(self._hello, ready=True, addresses=[listener.address], slots=slots)
            self._control.send(Ready([listener.address], slots))
            if self._ended:
                server.leave(DRAIN_TIMEOUT_S)
            await server.serve()
        finally:
            server.executor.close()
            _close(listener)
            await server.finish()

    def _listen_address(self) -> str:
        """On the controller's machine a Unix socket (or memory); elsewhere TCP, on the address that reaches it."""
        local = self._control.local_address
        if isinstance(local, tuple):
            return f"tcp:{local[0]}:0" if len(local) == 2 else f"tcp:[{local[0]}]:0"
        if not self._own_process:
            return f"memory:{self._bootstrap.worker_id}"
        return f"unix:{self._bootstrap.directory}/{self._bootstrap.worker_id}.sock"


def _enter(assign: Assign) -> None:
    """Make this process see the modules and files that the client saw."""
    extend_sys_path(assign.sys_path)
    if os.path.isdir(assign.cwd):  # On another machine it may not be there.
        os.chdir(assign.cwd)


def _close(listener: Listener) -> None:
    with contextlib.suppress(FileNotFoundError):  # The instance's directory may be gone already.
        listener.close()
