"""The admin API's operations: what the Python API, the command line and the dashboard can ask for.

Each has a struct for its arguments; a body that does not fit is refused before anything happens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from servekit.code import bundle
from servekit.code.bundle import Code
from servekit.config import (
    DEFAULT_METHODS,
    DEFAULT_POLICY,
    BackendConfig,
    EndpointOptions,
    backend_config,
)
from servekit.control import state
from servekit.control.controller import Controller
from servekit.control.runtimes import Runtimes
from servekit.control.state import BackendRecord, BackendSource
from servekit.control.store import StoreThread
from servekit.errors import InvalidInputError, NotFoundError
from servekit.interfaces import RoutingPolicy
from servekit.plugins import Kind, Registry, build
from servekit.wire.control_frames import EndpointRecord, PluginRef


class CreateEndpoint(EndpointOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    methods: list[str] | None = None
    backend: str | None = None
    policy: str = DEFAULT_POLICY
    policy_options: dict[str, Any] = msgspec.field(default_factory=dict)


class CreateBackend(BackendSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target_data: bytes
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    adapter_options: dict[str, Any] = msgspec.field(default_factory=dict)
    runtime: str | None = None
    """None: the runtime of the instance; likewise the options."""
    runtime_options: dict[str, Any] | None = None
    wait: bool = True
    code_data: bytes = b""
    """Frozen code, encoded; empty: there is none, or it need not travel."""


class Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class UpdateConfig(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    changes: dict[str, Any]


class SetTraffic(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shares: dict[str, Any]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Resolver:
    """Resolves the plugins that endpoints and backends name. The in-process instance has one that takes instances."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def policy(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        """Raises `UnknownPluginError`, `PluginOptionsError` and what else `build` raises."""
        provided = self._registry.get(Kind.POLICY, name)
        # Built once here, so that a policy that cannot be built fails the call and not every request.
        policy: RoutingPolicy = build(provided, options)
        policy.close()
        return PluginRef(provided.path, dict(options))

    def adapter(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        """Raises as `policy` does. The adapter is not built: its module may import what only replicas need."""
        provided = self._registry.get(Kind.ADAPTER, name)
        self._registry.check_options(provided, options)
        return PluginRef(provided.path, dict(options))


class Operations:
    """One instance's operations."""

    def __init__(
        self,
        controller: Controller,
        resolver: Resolver,
        runtimes: Runtimes,
        store: StoreThread,
        default_runtime: tuple[str, dict[str, Any]],
        about: Callable[[], dict[str, Any]],
    ) -> None:
        self._controller = controller
        self._resolver = resolver
        self._runtimes = runtimes
        self._store = store
        self._default_runtime = default_runtime
        self._about = about
        self._pending: list[BackendRecord] = []
        """Backends that are being created."""
        self._table: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = {
            "create_endpoint": (CreateEndpoint, self._create_endpoint),
            "delete_endpoint": (Named, lambda a: controller.delete_endpoint(a.name)),
            "create_backend": (CreateBackend, self._create_backend),
            "delete_backend": (Named, self._delete_backend),
            "update_backend_config": (UpdateConfig, lambda a: controller.update_backend_config(a.name, a.changes)),
            "get_backend_config": (Named, self._get_backend_config),
            "get_code": (Named, self._get_code),
            "set_traffic": (SetTraffic, lambda a: controller.set_traffic(a.name, a.shares)),
            "get_traffic": (Named, self._get_traffic),
            "list_endpoints": (Nothing, self._list_endpoints),
            "list_backends": (Nothing, self._list_backends),
            "link_addresses": (Named, self._link_addresses),
            "status": (Nothing, self._status),
            "stat": (Nothing, self._stat),
        }

    async def call(self, name: str, body: bytes, *, json: bool = False) -> bytes:
        """Run an operation with its arguments in msgpack, or JSON; the result is JSON. Raises a `ServekitError`."""
        if name not in self._table:
            raise NotFoundError(f"there is no operation {name!r}; there are {', '.join(self._table)}")
        arguments_type, operation = self._table[name]
        decode: Any = msgspec.json.decode if json else msgspec.msgpack.decode
        try:
            arguments = decode(body, type=arguments_type)
        except msgspec.MsgspecError as error:
            raise InvalidInputError(f"{name}: {error}") from None
        return msgspec.json.encode(await operation(arguments))

    # -- endpoints ---------------------------------------------------------------------------------------------------

    async def _create_endpoint(self, a: CreateEndpoint) -> None:
        default = () if a.mount else DEFAULT_METHODS
        methods = default if a.methods is None else tuple(dict.fromkeys(a.methods))
        if a.methods is not None and not methods:
            raise InvalidInputError(f"endpoint {a.name!r}: methods is empty; leave it out for GET, or name some")
        options = msgspec.convert(a, EndpointOptions, from_attributes=True)
        policy_ref = self._resolver.policy(a.policy, a.policy_options)
        traffic = {} if a.backend is None else {a.backend: 1.0}
        record = EndpointRecord(a.name, options, methods, a.policy, policy_ref, traffic)
        await self._controller.create_endpoint(record)

    async def _get_traffic(self, a: Named) -> dict[str, float]:
        return self._controller.desired.endpoint(a.name).traffic

    async def _list_endpoints(self, _: Nothing) -> dict[str, Any]:
        return {name: _endpoint_status(record) for name, record in self._controller.desired.endpoints.items()}

    async def _link_addresses(self, a: Named) -> list[list[str]]:
        """Where the handles of an endpoint dial: the addresses of each ingress worker."""
        self._controller.desired.endpoint(a.name)  # Raises where there is none of that name.
        return self._controller.ingresses.link_addresses

    # -- backends ----------------------------------------------------------------------------------------------------

    async def _create_backend(self, a: CreateBackend) -> None:
        runtime_name, runtime_options = self._runtime_of(a)
        target = _digest_of(a.target_data)
        code = _digest_of(a.code_data) if a.code_data else ""
        source = msgspec.structs.asdict(msgspec.convert(a, BackendSource, from_attributes=True))
        record = BackendRecord(
            **source,
            target=target,
            config=backend_config(a.config),
            adapter_ref=self._resolver.adapter(a.adapter, a.adapter_options),
            runtime=runtime_name,
            runtime_options=runtime_options,
            code=code,
            distributions=await self._distributions(a.code_data),
        )
        state.add_backend(self._controller.desired, record)  # Before a runtime is opened for nothing.
        self._runtimes.check(runtime_name, runtime_options)
        runtime = await self._runtimes.get(runtime_name, runtime_options)
        await self._runtimes.check_worker_options(runtime_name, runtime, a.worker_options)
        self._pending.append(record)
        try:
            await self._store.call(lambda store: store.put_blob(a.target_data, target))
            if code:
                await self._store.call(lambda store: store.put_blob(a.code_data, code))
            await self._controller.create_backend(record, wait=a.wait)
        finally:
            self._pending.remove(record)
            await self._drop_unused_blobs()

    async def _distributions(self, code: bytes) -> tuple[str, ...]:
        """What frozen code imports of installed distributions, by name."""
        if not code:
            return ()
        try:  # In the store's thread: it may be long.
            return tuple(await self._store.call(lambda _: bundle.decode(code).distributions))
        except msgspec.MsgspecError as error:
            raise InvalidInputError(f"code_data is not frozen code: {error}") from None

    def _runtime_of(self, a: CreateBackend) -> tuple[str, dict[str, Any]]:
        default, default_options = self._default_runtime
        name = default if a.runtime is None else a.runtime
        if a.runtime_options is not None:
            return name, a.runtime_options
        return name, default_options if name == default else {}

    async def _delete_backend(self, a: Named) -> None:
        await self._controller.delete_backend(a.name)
        await self._drop_unused_blobs()

    async def _drop_unused_blobs(self) -> None:
        def used() -> set[str]:
            records = [*self._controller.desired.backends.values(), *self._pending]
            return {digest for record in records for digest in (record.target, record.code)}

        await self._store.call(lambda store: store.drop_blobs_except(used()))

    async def _get_code(self, a: Named) -> dict[str, Any]:
        record = self._controller.desired.backend(a.name)
        code = Code()
        if record.code:
            code = bundle.decode(await self._store.call(lambda store: store.get_blob(record.code)))
        return {
            "digest": record.code_digest,
            "files": code.listing(),
            "distributions": code.distributions,
            "python": code.python,
        }

    async def _get_backend_config(self, a: Named) -> Any:
        return self._config(self._controller.desired.backend(a.name))

    def _config(self, record: BackendRecord) -> BackendConfig:
        """The backend's config, as it is in effect."""
        return msgspec.structs.replace(record.config, max_concurrent_queries=self._controller.slots(record))

    async def _list_backends(self, _: Nothing) -> dict[str, Any]:
        backends = self._controller.desired.backends
        return {name: _backend_status(record, self._config(record)) for name, record in backends.items()}

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def _status(self, _: Nothing) -> dict[str, Any]:
        fleet, autoscalers = self._controller.replicas, self._controller.autoscalers
        ingresses = self._controller.ingresses
        backends = await self._list_backends(Nothing())
        for name, backend in backends.items():
            replicas = sorted(fleet.of(name), key=lambda replica: replica.number)
            backend["replicas"] = [r.status(ingresses.outstanding(r.id)) for r in replicas]
            backend["wanted_replicas"] = autoscalers.replicas(self._controller.desired.backends[name])
            backend["load"] = round(autoscalers.load(name), 3)
            failures = self._controller.failures[name]
            backend["last_start_error"] = str(failures.start_error or "")
            backend["last_failure"] = str(failures.last or "")
        return {
            **self._about(),
            "runtimes": self._runtimes.lines(),
            "endpoints": await self._list_endpoints(Nothing()),
            "backends": backends,
            "ingress": [{"id": w.id, "pid": w.pid, "ready": w.applied > 0} for w in ingresses.workers.values()],
        }

    async def _stat(self, _: Nothing) -> dict[str, Any]:
        return self._controller.ingresses.counts.stat()


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _endpoint_status(record: EndpointRecord) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(record.options),
        "methods": list(record.methods) or ["*"],
        "policy": record.policy,
        "traffic": record.traffic,
    }


def _backend_status(record: BackendRecord, config: BackendConfig) -> dict[str, Any]:
    return {
        "target": record.target_text,
        "code_digest": record.code_digest,
        "adapter": record.adapter,
        "runtime": record.runtime,
        "config": msgspec.to_builtins(config, str_keys=True),
    }
