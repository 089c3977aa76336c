"""An admin listener for an instance in process, which has none of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from servekit.config import HttpLimits
from servekit.control.admin import AdminApp
from servekit.control.service import Service
from servekit.http1.server import HttpServer
from servekit.inprocess import InProcessInstance


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
        no_pages: Any = None
        app = AdminApp(instance.service.operations, token, instance.service.metrics, no_pages, **options)
        http = HttpServer(app, HttpLimits(), loop)
        http.start()
        opened.extend([app, http, await loop.create_unix_server(http.protocol_factory, address)])

    async def close() -> None:
        app, http, server = opened
        server.close()
        http.close()
        await app.close()

    instance.submit(listen())
    try:
        yield
    finally:
        instance.submit(close())
