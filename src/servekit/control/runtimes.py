"""The runtimes in use: one per name and options, opened when first asked for, closed in reverse order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from servekit.errors import BackendStartError, InstanceStartError, InvalidInputError, ServekitError
from servekit.factories import Kind, build, check_options, describe
from servekit.interfaces import Exit, Placement, ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.plugins import Registry

T = TypeVar("T")

_log = logging.getLogger("servekit.control")

THREADS = 16
"""Calls of runtimes at a time, and as many starts of workers on each; more wait."""


class Runtimes:
    """Builds and holds runtimes; makes their blocking calls in threads."""

    def __init__(self, registry: Registry, context: RuntimeContext, fixed: ReplicaRuntime | None = None) -> None:
        """``fixed``: every name gives this runtime. Names and options are checked all the same."""
        self._registry = registry
        self._context = context
        self._fixed = fixed
        self._open: dict[tuple[str, bytes], ReplicaRuntime] = {}
        self._opening: WeakValueDictionary[tuple[str, bytes], asyncio.Lock] = WeakValueDictionary()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="runtime")
        # A start may wait long for a place: it must keep no other worker from being polled and stopped, and none of
        # another runtime from being started.
        self._starts: dict[ReplicaRuntime, ThreadPoolExecutor] = {}
        # Nor may the end of workers that do not answer, on machines that are cut off.
        self.ends = ThreadPoolExecutor(THREADS, thread_name_prefix="end")

    def check(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise `UnknownPluginError` where there is no such runtime, `PluginOptionsError` where it refuses the
        options."""
        check_options(self._registry.get(Kind.RUNTIME, name), options)

    async def get(self, name: str, options: Mapping[str, Any]) -> ReplicaRuntime:
        """The runtime, opened. Raises the errors of its plugin, as a `ServekitError`."""
        if self._fixed is not None:
            return self._fixed
        key = (name, msgspec.json.encode(options, order="sorted"))
        async with self._opening.setdefault(key, asyncio.Lock()):
            if key not in self._open:
                provided = self._registry.get(Kind.RUNTIME, name)
                runtime: ReplicaRuntime = build(provided, options)
                failing = f"runtime {name!r} could not be opened"
                await self.call(runtime.open, self._context, failing=failing, error=InstanceStartError)
                self._open[key] = runtime
                for line in _line(name, runtime):
                    _log.info("%s", line)
            return self._open[key]

    def lines(self) -> list[str]:
        """For each open runtime that says where its workers live: a line that says so."""
        return [line for (name, _), runtime in self._open.items() for line in _line(name, runtime)]

    async def placement(self, name: str, runtime: ReplicaRuntime, options: Mapping[str, Any]) -> Placement:
        """What the runtime says of placement options. Raises `InvalidInputError` where a worker cannot be started with
        them."""

        def check() -> Placement:
            try:
                return runtime.check_worker_options(options) or Placement()
            except ServekitError:
                raise
            except ValueError as error:
                raise InvalidInputError(f"placement for runtime {name!r}: {error}") from error

        return await self.call(check, failing="placement could not be checked")

    async def start(self, runtime: ReplicaRuntime, spec: WorkerSpec) -> WorkerHandle:
        """`ReplicaRuntime.start`. Raises a `ServekitError`."""
        failing = f"a replica of backend {spec.backend!r} could not be started"
        return await self.call(runtime.start, spec, failing=failing, threads=self._starts_of(runtime))

    async def advertise_host(self, runtime: ReplicaRuntime) -> str | None:
        """`ReplicaRuntime.advertise_host`, a part of a start. Raises a `ServekitError`."""
        failing = "the runtime gave no address"
        return await self.call(runtime.advertise_host, failing=failing, threads=self._starts_of(runtime))

    async def look(self, runtime: ReplicaRuntime, handle: WorkerHandle) -> tuple[Exit | None, str]:
        """`ReplicaRuntime.poll`, and where the worker is there, `ReplicaRuntime.doomed`. Raises a `ServekitError`."""

        def look() -> tuple[Exit | None, str]:
            ended = runtime.poll(handle)
            return ended, "" if ended is not None else runtime.doomed(handle)

        return await self.call(look)

    def _starts_of(self, runtime: ReplicaRuntime) -> ThreadPoolExecutor:
        if runtime not in self._starts:
            self._starts[runtime] = ThreadPoolExecutor(THREADS, thread_name_prefix="start")
        return self._starts[runtime]

    async def call(
        self,
        function: Callable[..., T],
        *arguments: Any,
        failing: str = "the runtime failed",
        error: type[ServekitError] = BackendStartError,
        threads: ThreadPoolExecutor | None = None,
    ) -> T:
        """A blocking call of a runtime, in a thread.

        Raises:
            ServekitError: as the runtime raised it; for any other exception ``error``, whose message begins with
                ``failing``.
            LookupError: as the runtime raised it.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(threads or self._threads, function, *arguments)
        except (ServekitError, LookupError):
            raise
        except Exception as cause:
            raise error(f"{failing}: {describe(cause)}") from cause

    async def close(self) -> None:
        """Close all runtimes, the last opened first. Their workers have been stopped."""
        runtimes = [*reversed(self._open.values())]
        self._open.clear()
        for runtime in runtimes:
            await self.call(runtime.close)
        for threads in (*self._starts.values(), self.ends):
            threads.shutdown(wait=False)
        self._threads.shutdown(wait=False)


def _line(name: str, runtime: ReplicaRuntime) -> list[str]:
    """Where the runtime's workers live, for the log; nothing, where the runtime does not say it."""
    try:
        where = runtime.describe()
    except Exception as error:  # A runtime that cannot say it must not keep `status` from telling all the rest.
        where = f"it does not say where its workers live: {describe(error)}"
    return [f"runtime {name}: {where}"] if where else []
