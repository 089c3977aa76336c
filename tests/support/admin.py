"""An admin listener for an instance in process, which has none of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from servekit.config import HttpLimits
from servekit.control.admin import AdminApp
from servekit.control.operations import READ_ONLY
from servekit.control.service import Service
from servekit.dashboard.app import Dashboard
from servekit.http1.server import HttpServer
from servekit.inprocess import InProcessInstance
from servekit.tokens import read_only


class Kept(InProcessInstance):
    """Keeps the service, for a listener of its admin API."""

    service: Service

    async def _start(self, *arguments: Any) -> Service:
        self.service = await super()._start(*arguments)
        return self.service


@contextlib.contextmanager
def listening(instance: Kept, address: str, token: bytes, **options: Any) -> Iterator[None]:
    """The admin API answers at the Unix socket ``address``; ``options``: of `AdminApp`."""
    opened: list[Any] = []

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        operations, metrics = instance.service.operations, instance.service.metrics
        pages = Dashboard(operations, token, read_only(token), READ_ONLY)
        app = AdminApp(operations, token, metrics, pages, **options)
        http = HttpServer(app, HttpLimits(), loop)
        http.start()
        opened.extend([app, pages, http, await loop.create_unix_server(http.protocol_factory, address)])

    async def close() -> None:
        app, pages, http, server = opened
        server.close()
        http.close()
        await pages.close()
        await app.close()

    instance.submit(listen())
    try:
        yield
    finally:
        instance.submit(close())
