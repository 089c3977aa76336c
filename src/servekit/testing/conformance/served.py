"""A whole instance around one runtime object: controller in this process, real ingress worker, real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import httpx
import uvloop

from servekit.client import DirectClient
from servekit.control import ingress_process
from servekit.control.launch import bind_tcp
from servekit.control.service import Service
from servekit.control.setup import InstanceOptions, InstanceSetup
from servekit.instance import Instance
from servekit.interfaces import ReplicaRuntime, RuntimeContext
from servekit.plugins import disabled_by_environment, discover
from servekit.processes import own_sys_path
from servekit.testing.conformance import probes
from servekit.testing.conformance.rig import Rig
from servekit.wire.network import SocketNetwork

T = TypeVar("T")

CALL_TIMEOUT_S = 120.0
DRAIN_S = 1.0
"""How long the end of the instance waits for what is in flight: cases have handlers that hang."""


class Served(NamedTuple):
    """What a case asks of it."""

    get: Callable[[], str]
    """One request over HTTP; the text of its answer."""
    pids: Callable[[], set[int]]
    """Of the replicas that are ready."""


@contextlib.contextmanager
def served_backend(rig: Rig, options: Mapping[str, Any], target: type, *arguments: Any) -> Iterator[Served]:
    """An instance on the rig's runtime, with one backend of one replica, which serves ``target(*arguments)``."""
    with _instance(rig.runtime, rig.context, rig.controller.token) as instance:
        name = "conformance"
        instance.create_backend(
            name,
            f"{target.__module__}:{target.__qualname__}",
            *arguments,
            adapter=f"{probes.__name__}:{probes.TextAdapter.__qualname__}",
            ray_actor_options=options,
        )
        instance.create_endpoint(name, "/", backend=name)

        def get() -> str:
            answer = httpx.get(instance.url, timeout=CALL_TIMEOUT_S, verify=False, trust_env=False)
            return answer.raise_for_status().text

        def pids() -> set[int]:
            replicas = instance.status()["backends"][name]["replicas"]
            return {replica["pid"] for replica in replicas if replica["state"] == "ready"}

        yield Served(get, pids)


@contextlib.contextmanager
def _instance(runtime: ReplicaRuntime, context: RuntimeContext, token: bytes) -> Iterator[Instance]:
    """An instance whose replicas live on ``runtime``, which is open. It ends with the block; the runtime stays open."""
    registry = discover(disabled=disabled_by_environment())
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="controller", daemon=True)
    thread.start()
    with contextlib.ExitStack() as closing:
        closing.callback(loop.close)
        closing.callback(thread.join)
        closing.callback(loop.call_soon_threadsafe, loop.stop)
        http = closing.enter_context(bind_tcp("127.0.0.1", 0, "http_port"))
        setup = InstanceSetup(
            options=InstanceOptions(
                name="conformance",
                runtime="process",  # A name that there is; every name gives `fixed_runtime`.
            ),
            instance_id=context.instance_id,
            directory=context.directory,
            token=token,
            http_url=f"http://127.0.0.1:{http.getsockname()[1]}",
            http_fd=http.fileno(),
            sys_path=own_sys_path(),
        )

        async def start() -> Service:
            service = Service(
                setup,
                SocketNetwork(),
                registry,
                launch_ingress=ingress_process.launch,
                control_address=f"unix:{setup.directory}/instance.sock",
                fixed_runtime=runtime,
            )
            try:
                await service.start()
            except BaseException:
                await service.stop(0.0)
                raise
            return service

        service = _on(loop, start())
        closing.callback(lambda: _on(loop, service.stop(DRAIN_S)))
        client = DirectClient(lambda operation, body: _on(loop, service.operations.call(operation, body)))
        yield Instance(setup.options.name, setup.http_url, client, lambda: None, setup.directory)


def _on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(CALL_TIMEOUT_S)
