"""The controller's process: it runs the control plane and the admin API until it is told to end or its owner has ended.

Started by `servekit.control.launch` as a process that runs this module; its setup comes on standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket

import msgspec
import uvloop

from servekit import logs
from servekit.config import HttpLimits
from servekit.control import ingress_process
from servekit.control.admin import AdminApp
from servekit.control.log_files import LogFiles
from servekit.control.operations import READ_ONLY
from servekit.control.service import Service
from servekit.control.setup import InstanceSetup, ProcessSetup, StartReport
from servekit.dashboard.app import Dashboard
from servekit.errors import ServekitError, StoreError
from servekit.forks import forks
from servekit.http1.server import HttpServer
from servekit.output import open_output, stream_to
from servekit.plugins import Registry, disabled_by_environment, discover
from servekit.processes import begin_process, extend_sys_path, read_told, set_title
from servekit.tokens import read_only
from servekit.wire.network import bind_unix

_log = logging.getLogger("servekit.control")

ADMIN_LIMITS = HttpLimits(body_bytes=2**30, body_timeout_s=60.0, idle_timeout_s=600.0)
"""A pickled target may be large."""
OWNER_GONE_TIMEOUT_S = 2.0
"""No client waits for answers any more, and every process of the instance must have ended within 10 s."""


class ControllerProcess:
    """One instance's controller, from the start of this process to its end."""

    def __init__(self, setup: ProcessSetup, registry: Registry) -> None:
        self._setup = setup
        self._registry = registry
        self._starting: asyncio.Task[None]
        self._listening: tuple[int, ...] = ()
        """The listening socket, which the ingress workers share."""
        self._ending = asyncio.Event()
        self._owner_is_gone = False
        self._timeout_s = setup.instance.options.drain_timeout_s

    async def run(self) -> int:
        """Run until the process is told to end, or its owner has ended; returns the exit code.

        The workers of an earlier controller go on where this one does not come up: another follows.
        """
        setup = self._setup
        loop = asyncio.get_running_loop()
        try:
            service = Service(
                setup.instance,
                self._registry,
                launch_ingress=ingress_process.launch,
                control_address=f"unix:{setup.instance.directory}/control.sock",
            )
        except StoreError as error:
            self._say(StartReport(type(error).__name__, str(error)))
            return 1
        starting = self._starting = asyncio.ensure_future(service.start())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        owner = self._watch_owner(loop, service)
        code, delay_s = 0, 0.0  # Who has never come up has nobody to wait for.
        servers: list[asyncio.Server] = []
        try:
            await asyncio.wait([starting])
            if not starting.cancelled():
                starting.result()
                pages, app, servers = await self._open_admin(service, loop)
                found, runtimes = self._registry, service.runtimes.lines()
                self._say(StartReport("", "", found.loaded, runtimes, [*found.problems], service.kept))
                delay_s = setup.instance.options.drain_delay_s
                await self._ending.wait()
                await pages.close()
                await app.close()
        except ServekitError as error:
            self._say(StartReport(type(error).__name__, str(error)))
            code = 1
        finally:
            for server in servers:
                server.close()
            if self._listening:
                # Once the ingress workers have closed theirs, connecting is refused.
                forks.let_go(self._listening)
                os.close(self._listening[0])
            if self._ending.is_set() or not setup.instance.resumed:
                await service.stop(self._timeout_s, 0.0 if self._owner_is_gone else delay_s)
            if owner is not None:
                loop.remove_reader(owner)
        return code

    async def _open_admin(
        self, service: Service, loop: asyncio.AbstractEventLoop
    ) -> tuple[Dashboard, AdminApp, list[asyncio.Server]]:
        setup = self._setup.instance
        options = setup.options
        pages = Dashboard(service.operations, setup.token, read_only(setup.token), READ_ONLY)
        app = AdminApp(
            service.operations,
            setup.token,
            service.metrics,
            pages,
            open_metrics=options.open_metrics,
            host=options.admin_host,
        )
        http = HttpServer(app, ADMIN_LIMITS, loop)
        http.start()
        sock = bind_unix(f"{setup.directory}/admin.sock")
        servers = [await loop.create_unix_server(http.protocol_factory, sock=sock)]
        if setup.admin_fd is not None:
            tcp = socket.socket(fileno=setup.admin_fd)
            servers.append(await loop.create_server(http.protocol_factory, sock=tcp))
        self._listening = forks.hold(*filter(None, [setup.http_fd]))
        forks.hold(*(each for server in servers for each in server.sockets))
        return pages, app, servers

    def _watch_owner(self, loop: asyncio.AbstractEventLoop, service: Service) -> int | None:
        """Watch the owner by a pidfd: a pipe would stay open in a child that the owner forked."""
        try:
            owner = os.pidfd_open(self._setup.owner_pid)
        except ProcessLookupError:
            self._owner_gone(service)
            return None

        def gone() -> None:
            loop.remove_reader(owner)
            self._owner_gone(service)

        loop.add_reader(owner, gone)
        return owner

    def _owner_gone(self, service: Service) -> None:
        """End soon, also where an end that takes longer is under way."""
        if self._setup.instance.standing:
            _log.error("the keeper, the process of servekit start, has ended (was it killed?): the instance ends")
        self._owner_is_gone, self._timeout_s = True, OWNER_GONE_TIMEOUT_S
        asyncio.get_running_loop().call_later(OWNER_GONE_TIMEOUT_S, service.cut_off)
        self._end()

    def _end(self) -> None:
        self._starting.cancel()
        self._ending.set()

    def _say(self, report: StartReport) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._setup.ready_fd, msgspec.json.encode(report) + b"\n")
        os.close(self._setup.ready_fd)


def main() -> None:
    """Read the setup from standard input, and be that instance's controller."""
    begin_process()
    forks.guard(worker=True)
    setup = msgspec.msgpack.decode(read_told(), type=ProcessSetup)
    set_title(f"controller of {setup.instance.options.name}")
    log_files = _begin_logs(setup.instance)
    start_log = logging.getLogger("servekit")
    extend_sys_path(setup.instance.sys_path)
    registry = discover(disabled=disabled_by_environment())
    added = registry.added
    for line in registry.loaded:
        start_log.log(logging.INFO if line in added else logging.DEBUG, "%s", line)
    try:
        code = uvloop.new_event_loop().run_until_complete(ControllerProcess(setup, registry).run())
    finally:
        if log_files is not None:
            log_files.close()
        if not setup.instance.standing:
            shutil.rmtree(setup.instance.directory, ignore_errors=True)
    # Threads of a runtime that hang must not keep this process.
    logging.shutdown()
    os._exit(code)


def _begin_logs(setup: InstanceSetup) -> LogFiles | None:
    """Begin to log, and to gather what the processes of the instance print."""
    names = {"role": "controller"}
    if not setup.log_directory:
        logs.begin(names, setup.logs)
        return None
    try:
        log_files = LogFiles(setup.logs, setup.options.log_file_bytes, setup.options.log_files)
        stream = stream_to(open_output(setup.log_directory, names))
    except OSError as error:
        logs.begin(names, setup.logs)
        _log.warning("what is printed is not gathered: %s", error)
        return None
    # Not to the terminal: one that is stopped would hold up this process.
    logs.begin(names, setup.logs, stream)
    log_files.start()
    return log_files


if __name__ == "__main__":
    main()
