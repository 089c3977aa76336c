"""An instance inside one process: the same controller, ingress, links and replicas, with threads for processes and
memory for sockets.

What differs from a real instance is where a worker runs and what its connections are made of; requests are parsed,
routed, framed, queued and answered by the very same code. Targets are pickled, for the same errors, but the original
object is what runs, so that a test can look at what its handler saw.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

import uvloop

from servekit.client import DirectClient
from servekit.config import HttpLimits
from servekit.control.directories import scratch_directory
from servekit.control.operations import Resolver
from servekit.control.service import Service
from servekit.control.setup import InstanceOptions, InstanceSetup
from servekit.errors import InternalError, NotRunningError
from servekit.factories import load_path
from servekit.handles.caller import Caller
from servekit.ingress.apply import build_policy
from servekit.ingress.worker import IngressWorker
from servekit.instance import Instance
from servekit.interfaces import Exit, ReplicaRuntime, RequestAdapter, RoutingPolicy, WorkerHandle, WorkerSpec
from servekit.plugins import Registry
from servekit.replica.target import Target
from servekit.replica.worker import ReplicaWorker
from servekit.targets import Packed, pack_target
from servekit.wire.bootstrap import WorkerBootstrap, unpack
from servekit.wire.control_frames import PluginRef
from servekit.wire.memory import MemoryNetwork, MemoryTransport

T = TypeVar("T")

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
BY_INSTANCE = "instance:"
"""What the path of a plugin begins with that was given by instance."""

BuildPolicy: TypeAlias = Callable[[PluginRef], RoutingPolicy]


class Originals:
    """The objects of the test: what replicas run in the place of a pickle, and plugins that are given by instance."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._targets: dict[bytes, Target] = {}
        self._plugins: dict[str, Any] = {}

    def pack_target(
        self, target: Any, init_args: tuple[Any, ...], init_kwargs: Mapping[str, Any] | None, *more: Any
    ) -> Packed:
        """The pickle, with a number behind it that leads back to the original."""
        packed = pack_target(target, init_args, init_kwargs, *more)
        mark = next(self._numbers).to_bytes(8, "big")
        self._targets[mark] = Target(target, init_args, dict(init_kwargs or {}))
        return packed._replace(data=packed.data + mark)

    def load_target(self, data: bytes) -> Target:
        original = self._targets[data[-8:]]
        if isinstance(original.target, str):
            # Kept, so that every replica of the backend has what the first had.
            original.target = load_path(original.target)
        return original

    def keep_plugin(self, plugin: Any) -> str:
        name = f"{BY_INSTANCE}{next(self._numbers)}"
        self._plugins[name] = plugin
        return name

    def policy(self, ref: PluginRef) -> RoutingPolicy:
        return self._plugins[ref.path] if ref.path in self._plugins else build_policy(ref)

    def adapter(self, path: str) -> Callable[..., RequestAdapter]:
        if path in self._plugins:
            return lambda: self._plugins[path]
        factory: Callable[..., RequestAdapter] = load_path(path)
        return factory


class InProcessResolver(Resolver):
    """A `Resolver` to which a policy or an adapter can be given by instance."""

    def policy(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        return PluginRef(name) if name.startswith(BY_INSTANCE) else super().policy(name, options)

    def adapter(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        return PluginRef(name) if name.startswith(BY_INSTANCE) else super().adapter(name, options)


class InProcessRuntime(ReplicaRuntime):
    """Each worker is a thread of this process, with an event loop of its own."""

    def __init__(self, network: MemoryNetwork, originals: Originals, control_loop: asyncio.AbstractEventLoop) -> None:
        self._network = network
        self._originals = originals
        self._control_loop = control_loop
        self._workers: dict[str, tuple[ReplicaWorker, threading.Thread]] = {}

    def check_worker_options(self, options: Mapping[str, Any]) -> None:
        """All are taken, and none has a meaning here: a test need not say where its service is placed."""

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        worker = ReplicaWorker(
            unpack(spec.bootstrap),
            self._network,
            load_target=self._originals.load_target,
            load_plugin=self._originals.adapter,
            own_process=False,
        )
        thread = threading.Thread(target=worker.run, args=(self._control_loop,), name=spec.worker_id, daemon=True)
        self._workers[spec.worker_id] = (worker, thread)
        thread.start()
        return WorkerHandle(spec.worker_id, b"")

    def poll(self, handle: WorkerHandle) -> Exit | None:
        found = self._workers.get(handle.worker_id)
        return None if found is not None and found[1].is_alive() else Exit("its thread has ended")

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        """A thread that hangs in a handler cannot be ended: after ``grace_s`` it is left behind, as a daemon."""
        found = self._workers.pop(handle.worker_id, None)
        if found is not None:
            worker, thread = found
            worker.end("stopped")
            thread.join(grace_s)

    def attach(self, state: bytes) -> WorkerHandle:
        raise LookupError("threads do not outlive their process")


class _InProcessIngress:
    """An ingress worker as a task of the instance's loop."""

    pid = 0

    def __init__(self, worker: IngressWorker) -> None:
        self._task = asyncio.ensure_future(worker.run())

    async def wait(self) -> str:
        await asyncio.wait([self._task])
        error = None if self._task.cancelled() else self._task.exception()
        return f"ended: {error!r}" if error is not None else "ended"

    def kill(self) -> None:
        self._task.cancel()


class InProcessInstance(Instance):
    """An instance without processes and sockets. It has no port: `connect` gives what a client would dial."""

    _code_travels = False

    def __init__(
        self,
        registry: Registry,
        *,
        http_limits: HttpLimits | None = None,
        debug: bool = False,
        around_policy: Callable[[PluginRef, BuildPolicy], RoutingPolicy] | None = None,
        clock: Any = None,
    ) -> None:
        """
        Args:
            around_policy: builds a routing policy, with what is handed to it, and may put something around it.
            clock: what requests' deadlines run on: the `time` and `call_later` of a loop; default, the loop's own.
        """
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servekit-inprocess", daemon=True)
        self._thread.start()
        self._pid = os.getpid()
        self._network = MemoryNetwork()
        self._originals = Originals()
        self._around_policy = around_policy
        self._clock = clock
        self._ingress: IngressWorker
        directory = scratch_directory()
        setup = InstanceSetup(
            options=InstanceOptions(
                name="in-process", runtime="process", limits=http_limits or HttpLimits(), debug=debug
            ),
            instance_id="in-process",
            directory=directory,
            token=bytes(32),
            http_url="http://servekit",
            http_fd=-1,
            sys_path=[],
        )
        try:
            service = self.submit(self._start(setup, registry), START_TIMEOUT_S)
        except BaseException:
            self._end_loop(directory)
            raise

        def end() -> None:
            if not self._is_here:
                return  # Its threads are not here, and its directory is the parent's.
            try:
                self.submit(service.stop(STOP_TIMEOUT_S), 2 * STOP_TIMEOUT_S)
            finally:
                self._close_caller()
                self._end_loop(directory)

        client = DirectClient(lambda operation, body: self.submit(service.operations.call(operation, body)))
        super().__init__(setup.options.name, setup.http_url, client, end, directory, setup.token.hex())

    @property
    def _is_here(self) -> bool:
        """False in a child that was forked from its process: the threads are not there."""
        return os.getpid() == self._pid

    def submit(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run ``work`` on the instance's loop, and return its result."""
        if not self._is_here:
            work.close()
            raise _elsewhere()
        if threading.current_thread() is self._thread:
            work.close()
            raise InternalError("this would wait for itself: it was called on the instance's own event loop")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def connect(self, protocol: asyncio.Protocol) -> MemoryTransport:
        """Connect a client's ``protocol``, which lives on the instance's loop, to the ingress."""

        async def join() -> MemoryTransport:
            return self._network.join(protocol, self._loop, self._ingress.server.protocol_factory, self._loop)

        return self.submit(join())

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function`` on the instance's loop."""
        self._loop.call_soon_threadsafe(function, *arguments)

    async def _start(self, setup: InstanceSetup, registry: Registry) -> Service:
        service = Service(
            setup,
            self._network,
            registry,
            launch_ingress=self._launch_ingress,
            control_address="memory:control",
            resolver=InProcessResolver(registry),
            fixed_runtime=InProcessRuntime(self._network, self._originals, self._loop),
        )
        try:
            await service.start()
        except BaseException:
            await service.stop(0.0)
            raise
        return service

    async def _launch_ingress(self, bootstrap: WorkerBootstrap) -> _InProcessIngress:
        self._ingress = IngressWorker(
            bootstrap, self._network, build_policy=self._build_policy, own_process=False, clock=self._clock
        )
        return _InProcessIngress(self._ingress)

    def _build_policy(self, ref: PluginRef) -> RoutingPolicy:
        build = self._originals.policy
        return build(ref) if self._around_policy is None else self._around_policy(ref, build)

    def _end_loop(self, directory: str) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(directory, ignore_errors=True)

    # -- what the Python API asks of it ------------------------------------------------------------------------------

    def _new_caller(self, ingresses: list[list[str]]) -> Caller:
        if not self._is_here:
            raise _elsewhere()
        return Caller(self._network, bytes.fromhex(self.token), "in-process", self._loop, ingresses)

    def _pack_target(self, *arguments: Any) -> Packed:
        return self._originals.pack_target(*arguments)

    def _runtime_options(self, runtime: str | None, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
        # Checked, but of no use: every worker is a thread of this process.
        return None if given is None else dict(given)

    def _plugin(self, what: str, named: str | Any) -> str:
        return named if isinstance(named, str) else self._originals.keep_plugin(named)


def _elsewhere() -> NotRunningError:
    return NotRunningError(
        "this process was forked from the one that has the in-process instance: use it there, or start another here"
    )
