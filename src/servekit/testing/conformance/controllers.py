"""The controllers that the tests of runtimes need: a fake one, one that is killed, and a real one.

Run as a process of its own, this module is the controller that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec

from servekit.client import DirectClient
from servekit.config import ORPHAN_TIMEOUT_S, BackendConfig
from servekit.control import ingress_process
from servekit.control.launch import bind_tcp
from servekit.control.service import Service
from servekit.control.setup import InstanceOptions, InstanceSetup
from servekit.instance import Instance
from servekit.interfaces import ReplicaRuntime, RuntimeContext, WorkerSpec
from servekit.plugins import disabled_by_environment, discover
from servekit.private_folders import write_private
from servekit.processes import begin_process, extend_sys_path, own_sys_path, read_told, start_module
from servekit.replica.target import load
from servekit.targets import pack_target
from servekit.testing.conformance import probes
from servekit.wire.bootstrap import WorkerBootstrap, pack
from servekit.wire.control import ControlLinkOwner, control_link
from servekit.wire.control_frames import (
    Assign,
    Blob,
    PluginRef,
    Ready,
    StartFailed,
    WorkerHello,
)
from servekit.wire.link import Link
from servekit.wire.loop_thread import LoopThread
from servekit.wire.network import Listener, listen

T = TypeVar("T")
CALL_TIMEOUT_S = 120.0
"""The time that one operation of a controller, or one request, may take."""
DRAIN_S = 1.0
"""The time that the end of an instance waits for requests under way: some tests have handlers that hang."""


@dataclass
class Heard:
    """The messages of one worker so far."""

    target: bytes
    """The packed target that the worker is to serve."""
    hellos: list[WorkerHello] = field(default_factory=list)
    ready: bool = False
    failure: str = ""


class FakeController(ControlLinkOwner):
    """A controller's end of the control links, and nothing more: workers dial it, and are told what to serve.

    It listens in ``directory``, on an event loop in a thread of its own.
    """

    def __init__(self, directory: str) -> None:
        self.token = secrets.token_bytes(32)
        self._directory = directory
        self._workers: dict[str, Heard] = {}
        self._links: dict[Link, str] = {}
        self._listeners: dict[str, Listener] = {}
        self._changed = threading.Condition()
        self._loop_thread = LoopThread("fake controller")
        self._address = self._listen(f"unix:{directory}/control.sock")

    def bootstrap(self, worker_id: str, host: str | None, runtime: ReplicaRuntime, target: type, *args: Any) -> bytes:
        """The bootstrap of a worker that is to serve ``target(*args)``. ``host`` is the runtime's `advertise_host`."""
        path = f"{target.__module__}:{target.__qualname__}"
        with self._changed:
            self._workers[worker_id] = Heard(pack_target(path, args, None).data)
        control = [self._address]
        if host is not None:
            remote = self._listen(f"tcp:{host}:0")
            control = [*control, remote] if runtime.local_links else [remote]
        return pack(WorkerBootstrap("replica", worker_id, self.token, control, self._directory, ORPHAN_TIMEOUT_S))

    def heard(self, worker_id: str) -> Heard:
        return self._workers[worker_id]

    def wait(self, worker_id: str, condition: Callable[[Heard], bool], timeout_s: float) -> bool:
        """Wait until the worker's messages meet ``condition``; False where they have not after ``timeout_s``."""
        heard = self._workers[worker_id]
        with self._changed:
            return self._changed.wait_for(lambda: condition(heard), timeout_s)

    def close(self) -> None:
        async def close() -> None:
            for listener in self._listeners.values():
                listener.close()
            for link in list(self._links):
                link.abort()

        self._call(close())
        self._loop_thread.close()

    def _listen(self, address: str) -> str:
        if address not in self._listeners:
            self._listeners[address] = self._call(listen(address, self._new_link))
        return self._listeners[address].address

    def _new_link(self) -> Link:
        return control_link(self, self.token, b"controller", dialing=False)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return _run(self._loop_thread.loop, work)

    # -- LinkOwner, on the loop ------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        hello = msgspec.msgpack.decode(link.peer_hello, type=WorkerHello)
        heard = self._workers[hello.worker_id]
        self._links[link] = hello.worker_id
        with self._changed:
            heard.hellos.append(hello)
            self._changed.notify_all()
        if not hello.ready:
            adapter = PluginRef(f"{probes.__name__}:{probes.TextAdapter.__qualname__}")
            link.send(
                Assign(
                    backend="conformance",
                    target_bytes=len(heard.target),
                    sys_path=[],
                    cwd=self._directory,
                    adapter=adapter,
                    config=BackendConfig(),
                )
            )
            link.send(Blob(heard.target))

    def frame_received(self, link: Link, frame: Any) -> None:
        heard = self._workers[self._links[link]]
        with self._changed:
            if isinstance(frame, Ready):
                heard.ready = True
            elif isinstance(frame, StartFailed):
                heard.failure = frame.message
            self._changed.notify_all()

    def link_lost(self, link: Link, error: Exception | None) -> None:
        del self._links[link]


# -- a controller that is killed ---------------------------------------------------------------------------------------


class _Told(msgspec.Struct):
    """The standard input of the process that is the killed controller."""

    tests: bytes
    """The test class and the attributes of its object, as `pack_target` pickles them."""
    context: RuntimeContext
    spec: WorkerSpec
    sys_path: list[str]
    state_path: str


def start_in_killed_controller(tests: Any, context: RuntimeContext, spec: WorkerSpec, timeout_s: float) -> bytes:
    """Start a worker by ``tests.make_runtime()`` in another process, which is killed then; the worker's state.

    Raises `AssertionError` with the output of that process where it has started no worker.
    """
    state = Path(context.directory, f"{spec.worker_id}.state")
    printed = Path(context.directory, f"{spec.worker_id}.output")
    packed = pack_target(type(tests), (vars(tests),), None).data
    told = _Told(packed, context, spec, own_sys_path(), str(state))
    with printed.open("wb") as output:  # A file: the worker may keep a pipe open.
        child = start_module(__name__, msgspec.msgpack.encode(told), output=output)
        try:
            child.wait(timeout_s)
        finally:
            child.kill()
            child.wait()
    if not state.exists():
        raise AssertionError(
            "start() did not work in a process of its own, which was to be the earlier controller; it printed:\n\n"
            + printed.read_text(errors="replace")
        )
    return state.read_bytes()


def main() -> None:
    """Be the controller that is killed: start a worker, write its state to a file, and die as by ``kill -9``."""
    begin_process()
    told = msgspec.msgpack.decode(read_told(), type=_Told)
    extend_sys_path(told.sys_path)
    packed = load(told.tests)
    tests = packed.target()
    vars(tests).update(packed.init_args[0])
    runtime = tests.make_runtime()

    def start() -> None:
        runtime.open(told.context)
        state = runtime.start(told.spec).state
        write_private(Path(told.state_path), state, durable=False)

    # As in a controller: not on the main thread, and that thread does not stay.
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGKILL)


# -- a real controller -------------------------------------------------------------------------------------------------


class ServedBackend(NamedTuple):
    """A backend of a real instance."""

    get: Callable[[], str]
    """Sends one request over HTTP; the text of the answer."""
    pids: Callable[[], set[int]]
    """The process ids of the replicas that are ready."""


@contextlib.contextmanager
def served_backend(
    runtime: ReplicaRuntime, context: RuntimeContext, options: Mapping[str, Any], target: type, *arguments: Any
) -> Iterator[ServedBackend]:
    """An instance on ``runtime``, with one backend of one replica, which serves ``target(*arguments)``."""
    with _instance(runtime, context) as instance:
        name = "conformance"
        instance.create_backend(
            name,
            f"{target.__module__}:{target.__qualname__}",
            *arguments,
            adapter=f"{probes.__name__}:{probes.TextAdapter.__qualname__}",
            placement=options,
        )
        instance.create_endpoint(name, "/", backend=name)

        def get() -> str:
            answer = httpx.get(instance.url, timeout=CALL_TIMEOUT_S, verify=False, trust_env=False)
            return answer.raise_for_status().text

        def pids() -> set[int]:
            replicas = instance.status()["backends"][name]["replicas"]
            return {replica["pid"] for replica in replicas if replica["state"] == "ready"}

        yield ServedBackend(get, pids)


@contextlib.contextmanager
def _instance(runtime: ReplicaRuntime, context: RuntimeContext) -> Iterator[Instance]:
    """An instance whose replicas live on ``runtime``, which is open before and after. The controller is in this
    process, the ingress worker in a process of its own.
    """
    registry = discover(disabled=disabled_by_environment())
    loop_thread = LoopThread("controller")
    loop = loop_thread.loop
    with contextlib.ExitStack() as closing:
        closing.callback(loop_thread.close)
        http = closing.enter_context(bind_tcp("127.0.0.1", 0, "http_port"))
        setup = InstanceSetup(
            options=InstanceOptions(
                name="conformance",
                runtime="process",  # Some name that exists: every name gives `fixed_runtime`.
            ),
            instance_id=context.instance_id,
            directory=context.directory,
            token=secrets.token_bytes(32),
            http_url=f"http://127.0.0.1:{http.getsockname()[1]}",
            http_fd=http.fileno(),
            sys_path=own_sys_path(),
        )

        async def start() -> Service:
            service = Service(
                setup,
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

        service = _run(loop, start())
        closing.callback(lambda: _run(loop, service.stop(DRAIN_S)))
        client = DirectClient(lambda operation, body: _run(loop, service.operations.call(operation, body)))
        yield Instance(setup.options.name, setup.http_url, client, lambda: None, setup.directory)


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(CALL_TIMEOUT_S)


if __name__ == "__main__":
    main()
