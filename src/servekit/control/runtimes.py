"""The runtimes in use: one per name and options, opened when first asked for, closed in reverse order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from servekit.errors import BackendStartError, InstanceStartError, InvalidInputError, ServekitError
from servekit.factories import Kind, build, describe
from servekit.interfaces import ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.plugins import Registry

T = TypeVar("T")

_log = logging.getLogger("servekit.control")

THREADS = 16
"""Runtime calls at a time; starts beyond them wait."""


class Runtimes:
    """Builds and holds runtimes; makes their blocking calls in threads."""

    def __init__(self, registry: Registry, context: RuntimeContext, fixed: ReplicaRuntime | None = None) -> None:
        """``fixed``: every name gives this runtime. Names and options are checked all the same."""
        self._registry = registry
        self._context = context
        self._fixed = fixed
        self._open: dict[tuple[str, bytes], ReplicaRuntime] = {}
        self._lock = asyncio.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="runtime")
        # A start may wait long for a place: it must not keep those from being looked at and stopped that have one.
        self._starts = ThreadPoolExecutor(THREADS, thread_name_prefix="start")

    def check(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise where there is no such runtime, or the runtime does not take these options."""
        provided = self._registry.get(Kind.RUNTIME, name)
        self._registry.check_options(provided, options)

    async def get(self, name: str, options: Mapping[str, Any]) -> ReplicaRuntime:
        """The opened runtime. Raises what its plugin raises, as a `ServekitError`."""
        if self._fixed is not None:
            return self._fixed
        key = (name, msgspec.json.encode(options, order="sorted"))
        async with self._lock:
            if key not in self._open:
                provided = self._registry.get(Kind.RUNTIME, name)
                runtime: ReplicaRuntime = build(provided, options)
                await self.call(runtime.open, self._context, failing=f"runtime {name!r} could not be opened")
                self._open[key] = runtime
                for line in _line(name, runtime):
                    _log.info("%s", line)
            return self._open[key]

    def lines(self) -> list[str]:
        """Where the workers of each open runtime live, of those that say it."""
        return [line for (name, _), runtime in self._open.items() for line in _line(name, runtime)]

    async def check_worker_options(self, name: str, runtime: ReplicaRuntime, options: Mapping[str, Any]) -> None:
        """Raise `InvalidInputError` where a worker cannot be started with these."""

        def check() -> None:
            try:
                runtime.check_worker_options(options)
            except ServekitError:
                raise
            except ValueError as error:
                raise InvalidInputError(f"{runtime.worker_options_name} for runtime {name!r}: {error}") from error

        await self.call(check, failing=f"{runtime.worker_options_name} could not be checked")

    async def start(self, runtime: ReplicaRuntime, spec: WorkerSpec) -> WorkerHandle:
        """`ReplicaRuntime.start`. Raises a `ServekitError`."""
        failing = f"a replica of backend {spec.backend!r} could not be started"
        return await self._call(self._starts, runtime.start, spec, failing=failing)

    async def call(self, function: Callable[..., T], *arguments: Any, failing: str = "") -> T:
        """A blocking call of a runtime, in a thread. What is no `ServekitError` becomes one."""
        return await self._call(self._threads, function, *arguments, failing=failing)

    @staticmethod
    async def _call(threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any, failing: str) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)
        except (ServekitError, LookupError):
            raise
        except Exception as error:
            kind = InstanceStartError if failing.startswith("runtime") else BackendStartError
            raise kind(f"{failing or 'the runtime failed'}: {describe(error)}") from error

    async def close(self) -> None:
        """Close all, the last opened first. Their workers have been stopped."""
        runtimes = [*reversed(self._open.values())]
        self._open.clear()
        for runtime in runtimes:
            await self.call(runtime.close)
        self._starts.shutdown(wait=False)
        self._threads.shutdown(wait=False)


def _line(name: str, runtime: ReplicaRuntime) -> list[str]:
    try:
        where = runtime.describe()
    except Exception as error:  # That it cannot say where it is must not keep `status` from telling all the rest.
        where = f"it does not say where its workers live: {describe(error)}"
    return [f"runtime {name}: {where}"] if where else []
