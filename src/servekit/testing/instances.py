"""The instances behind the fixture `serve_instance`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from servekit import api
from servekit.api import Instance
from servekit.inprocess import InProcessInstance
from servekit.plugins import Registry, disabled_by_environment, discover
from servekit.testing.transport import MemoryHttpTransport

CLIENT_TIMEOUT_S = 30.0


class ServedInstance:
    """An `Instance` and an HTTP client on it. Everything that an `Instance` has can be called here."""

    def __init__(self, instance: Instance, client: httpx.Client) -> None:
        self.instance = instance
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.instance, name)


@contextlib.contextmanager
def open_host(runtime: str) -> Iterator[Registry | Instance]:
    """What tests share: for in-process instances the plugins, discovered once; else one real instance."""
    if runtime == "inprocess":
        yield discover(disabled=disabled_by_environment())
        return
    instance = api.init(runtime=runtime, http_port=0)
    api.leave_current()
    with instance:
        yield instance


@contextlib.contextmanager
def serve(host: object) -> Iterator[ServedInstance]:
    """An instance of its own where that is cheap; else the shared one, emptied afterwards."""
    if isinstance(host, Registry):
        with (
            api.make_current(InProcessInstance(host)) as instance,
            httpx.Client(
                transport=MemoryHttpTransport(instance), base_url=instance.url, timeout=CLIENT_TIMEOUT_S
            ) as client,
        ):
            yield ServedInstance(instance, client)
        return
    assert isinstance(host, Instance)
    api.make_current(host)
    try:
        with httpx.Client(base_url=host.url, timeout=CLIENT_TIMEOUT_S) as client:
            yield ServedInstance(host, client)
    finally:
        api.leave_current()
        for name in host.list_endpoints():
            host.delete_endpoint(name)
        for name in host.list_backends():
            host.delete_backend(name)
