"""The controller's process: what it is told, whom it watches, and how it ends.

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
import sys

import msgspec
import uvloop

from servekit import logs
from servekit.config import HttpLimits
from servekit.control import ingress_process
from servekit.control.admin import AdminApp
from servekit.control.service import Service
from servekit.control.setup import ProcessSetup, StartReport
from servekit.errors import ServekitError
from servekit.forks import forks
from servekit.http1.server import HttpServer
from servekit.plugins import Registry, disabled_by_environment, discover
from servekit.processes import begin_process, extend_sys_path
from servekit.wire.network import SocketNetwork, bind_unix

ADMIN_LIMITS = HttpLimits(body_bytes=2**30, body_timeout_s=60.0, idle_timeout_s=600.0)
"""A pickled target may be large."""
SHUTDOWN_TIMEOUT_S = 10.0
OWNER_GONE_TIMEOUT_S = 2.0
"""Nobody waits for the answers in flight any more, and all must be gone within 10 s."""


class ControllerProcess:
    """The life of this process."""

    def __init__(self, setup: ProcessSetup, registry: Registry) -> None:
        self._setup = setup
        self._registry = registry
        self._starting: asyncio.Task[None]
        self._ending = asyncio.Event()
        self._timeout_s = SHUTDOWN_TIMEOUT_S

    async def run(self) -> int:
        """Until told to end, or until the owner has ended; returns the exit code."""
        setup = self._setup
        loop = asyncio.get_running_loop()
        service = Service(
            setup.instance,
            SocketNetwork(),
            self._registry,
            launch_ingress=ingress_process.launch,
            control_address=f"unix:{setup.instance.directory}/control.sock",
        )
        starting = self._starting = asyncio.ensure_future(service.start())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        owner = self._watch_owner(loop)
        code = 0
        servers: list[asyncio.Server] = []
        try:
            await asyncio.wait([starting])
            if not starting.cancelled():
                starting.result()
                app, servers = await self._open_admin(service, loop)
                problems = [str(problem) for problem in self._registry.problems]
                runtimes = service.runtimes.lines()
                self._say(StartReport(plugins=self._registry.loaded, runtimes=runtimes, problems=problems))
                await self._ending.wait()
                await app.close()
        except ServekitError as error:
            self._say(StartReport(type(error).__name__, str(error)))
            code = 1
        finally:
            for server in servers:
                server.close()
            await service.stop(self._timeout_s)
            if owner is not None:
                loop.remove_reader(owner)
            if not setup.instance.standing:
                shutil.rmtree(setup.instance.directory, ignore_errors=True)
        return code

    async def _open_admin(
        self, service: Service, loop: asyncio.AbstractEventLoop
    ) -> tuple[AdminApp, list[asyncio.Server]]:
        app = AdminApp(service.operations, self._setup.instance.token)
        http = HttpServer(app, ADMIN_LIMITS, loop)
        http.start()
        sock = bind_unix(f"{self._setup.instance.directory}/admin.sock")
        servers = [await loop.create_unix_server(http.protocol_factory, sock=sock)]
        if self._setup.admin_fd is not None:
            tcp = socket.socket(fileno=self._setup.admin_fd)
            servers.append(await loop.create_server(http.protocol_factory, sock=tcp))
        forks.hold(self._setup.instance.http_fd, *(each for server in servers for each in server.sockets))
        return app, servers

    def _watch_owner(self, loop: asyncio.AbstractEventLoop) -> int | None:
        """By a pidfd: a pipe would stay open in a child that the owner forked."""
        try:
            owner = os.pidfd_open(self._setup.owner_pid)
        except ProcessLookupError:
            self._owner_gone()
            return None
        loop.add_reader(owner, self._owner_gone)
        return owner

    def _owner_gone(self) -> None:
        self._timeout_s = OWNER_GONE_TIMEOUT_S
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
    setup = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=ProcessSetup)
    logs.begin("controller", logging.INFO)
    start_log = logging.getLogger("servekit")
    extend_sys_path(setup.instance.sys_path)
    registry = discover(disabled=disabled_by_environment())
    for line in registry.loaded:
        start_log.info("%s", line)
    code = uvloop.new_event_loop().run_until_complete(ControllerProcess(setup, registry).run())
    # Threads of a runtime that hang must not keep this process.
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main()
