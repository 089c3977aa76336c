"""The admin API's operations: what the Python API, the command line and the dashboard can ask for.

Each has a struct for its arguments; a body that does not fit is refused before anything happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import msgspec

from servekit.code import bundle
from servekit.code.bundle import Code
from servekit.config import (
    DEFAULT_METHODS,
    DEFAULT_POLICY,
    METHODS,
    BackendConfig,
    EndpointOptions,
    backend_config,
)
from servekit.control import deploys, explanations, history, state
from servekit.control.changes import weights
from servekit.control.controller import Controller
from servekit.control.deployed_rollouts import options_of
from servekit.control.deploys import Deploy, Wanted
from servekit.control.event_ring import clock
from servekit.control.history import Author
from servekit.control.log_lines import Which, last_lines
from servekit.control.nesting import LEVELS, is_too_deep
from servekit.control.reader_answers import without_user_configs
from servekit.control.rollout import RolloutOptions
from servekit.control.rollout_changes import check_change
from servekit.control.rollout_keeper import RolloutKeeper
from servekit.control.rollout_operations import RolloutOperations
from servekit.control.runtimes import Runtimes
from servekit.control.shadow_operations import shadow_operations, shadows_told
from servekit.control.state import BackendRecord, BackendSource, Desired
from servekit.control.store import Store, StoreThread
from servekit.control.tables import RolloutTable, backend_table, check_in_file, endpoint_table, in_file
from servekit.errors import InUseError, InvalidInputError, NotFoundError, ServekitError, StalePlanError
from servekit.factories import Kind, at_path, build, check_options, takes
from servekit.interfaces import DrawnUnit, RequestObserver, RolloutJudge, RoutingPolicy
from servekit.plugins import Registry
from servekit.wire.control_frames import MOST_RECALLED, EndpointRecord, PluginRef, Recall

MOST_LOG_LINES = 1000
READ_ONLY = frozenset(
    {
        *("status", "stat", "recent", "history", "events", "failures", "explain", "last_requests"),
        *("list_endpoints", "list_backends", "get_traffic", "get_backend_config"),
    }
)
"""The operations that the read-only token opens: none that changes anything, shows code, or tells what a deploy would
have to know (`export` may have secrets in it, as arguments of targets)."""


class CreateEndpoint(EndpointOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    methods: list[str] | None = None
    backend: str | None = None
    policy: str = DEFAULT_POLICY
    policy_options: dict[str, Any] = msgspec.field(default_factory=dict)
    traffic: dict[str, Any] | None = None
    """In the place of ``backend``."""


class DeployEndpoint(CreateEndpoint, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rollout: RolloutTable | None = None


class CreateBackend(BackendSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target_data: bytes
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    adapter_options: dict[str, Any] = msgspec.field(default_factory=dict)
    runtime: str | None = None
    """None: the runtime of the instance, with the instance's options for it."""
    runtime_options: dict[str, Any] | None = None
    wait: bool = True
    code_data: bytes = b""
    """Frozen code, encoded; empty: there is none, or it need not travel."""


class DeployAll(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    endpoints: list[DeployEndpoint] = []
    backends: list[CreateBackend] = []
    written: dict[str, str] = {}
    """By key path, texts with variables of the environment, of which only the values are in the other fields."""
    number: int | None = None
    """Of the state that the plan was made from; None: of whatever there is."""
    why: str = ""


class GoBack(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    number: int | None = None


class Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class LogTail(msgspec.Struct, forbid_unknown_fields=True):
    backend: str | None = None
    """None: all lines."""
    replica: str | None = None
    lines: int = 200


class WhichSamples(msgspec.Struct, forbid_unknown_fields=True):
    endpoint: str | None = None
    """Neither an endpoint nor a backend: all of both."""
    backend: str | None = None
    since: float = 0.0


class ExplainRequest(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class LastRequests(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["slow", "failed"]
    endpoint: str | None = None
    most: Annotated[int, msgspec.Meta(ge=1, le=MOST_RECALLED)] = MOST_RECALLED


class UpdateConfig(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    changes: dict[str, Any]


class SetTraffic(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shares: dict[str, Any]


class WhichEvents(msgspec.Struct, forbid_unknown_fields=True):
    since: int = 0
    endpoint: str | None = None
    backend: str | None = None
    kind: str | None = None


class WhichFailures(msgspec.Struct, forbid_unknown_fields=True):
    backend: str | None = None


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Resolver:
    """Resolves the plugins that endpoints, backends and roll-outs name. The in-process instance has one that takes
    instances."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def policy(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        """Raises `UnknownPluginError`, `PluginOptionsError` and what else `build` raises."""
        provided = self._registry.get(Kind.POLICY, name)
        # Built here once, so that a policy that cannot be built fails the call and not every request.
        policy: RoutingPolicy = build(provided, options)
        policy.close()
        return PluginRef(provided.path, dict(options))

    def adapter(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        """Raises as `policy` does. The adapter is not built: its module may import what only replicas need."""
        provided = self._registry.get(Kind.ADAPTER, name)
        check_options(provided, options)
        return PluginRef(provided.path, dict(options))

    def observer(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        """Raises as `policy` does."""
        provided = self._registry.get(Kind.OBSERVER, name)
        observer: RequestObserver = build(provided, options)
        observer.close()
        return PluginRef(provided.path, dict(options))

    def drawn_unit(self, ref: PluginRef) -> DrawnUnit:
        """What a policy draws versions for, while a roll-out is judged."""
        policy: RoutingPolicy = build(at_path(Kind.POLICY, ref.path), ref.options)
        unit = policy.draw_order(0)
        policy.close()
        return unit

    def judge(self, options: RolloutOptions) -> RolloutJudge:
        """The judge of a roll-out. Raises as `policy` does."""
        provided = self._registry.get(Kind.JUDGE, options.judge)
        given = options.judge_options
        if takes(provided, "steps"):
            given = {"steps": options.judged_steps, **given}
        judge: RolloutJudge = build(provided, given)
        return judge


class Operations:
    """One instance's operations."""

    def __init__(
        self,
        controller: Controller,
        rollouts: RolloutKeeper,
        resolver: Resolver,
        runtimes: Runtimes,
        store: StoreThread,
        default_runtime: tuple[str, dict[str, Any]],
        about: Callable[[], dict[str, Any]],
        log_path: str = "",
    ) -> None:
        """``log_path``: of the log that the instance gathers; empty where it gathers none."""
        self._controller = controller
        self._resolver = resolver
        self._runtimes = runtimes
        self._store = store
        self._default_runtime = default_runtime
        self._about = about
        self._log_path = log_path
        self._pending: list[BackendRecord] = []
        """Backends that are being created, and those that they take the place of."""
        self._under_way = ""
        """Which deploy is, since when and by whom; empty: none."""
        self._cancelled, self._ended = asyncio.Event(), asyncio.Event()
        """Of the deploy under way."""
        self._table: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = {
            "create_endpoint": (CreateEndpoint, self._create_endpoint),
            "delete_endpoint": (Named, lambda a: controller.change(state.remove_endpoint, a.name)),
            "create_backend": (CreateBackend, self._create_backend),
            "delete_backend": (Named, self._delete_backend),
            "update_backend_config": (UpdateConfig, lambda a: controller.update_backend_config(a.name, a.changes)),
            "restart_backend": (Named, lambda a: controller.restart_backend(a.name)),
            "get_backend_config": (Named, self._get_backend_config),
            "get_code": (Named, self._get_code),
            "set_traffic": (SetTraffic, lambda a: controller.change(state.set_traffic, a.name, a.shares)),
            "get_traffic": (Named, self._get_traffic),
            "list_endpoints": (Nothing, self._list_endpoints),
            "list_backends": (Nothing, self._list_backends),
            "plan": (DeployAll, self._plan),
            "apply": (DeployAll, self._apply),
            "export": (Nothing, self._export),
            "history": (Named, self._history),
            "rollback": (GoBack, self._rollback),
            "cancel_deploy": (Nothing, self._cancel_deploy),
            **shadow_operations(controller),
            "recent": (WhichSamples, self._recent),
            "log_tail": (LogTail, self._log_tail),
            "events": (WhichEvents, self._events),
            "failures": (WhichFailures, self._failures),
            "link_addresses": (Named, self._link_addresses),
            "status": (Nothing, self._status),
            "stat": (Nothing, self._stat),
            "explain": (ExplainRequest, self._explain),
            "last_requests": (LastRequests, self._last_requests),
        }
        self._rollouts = rollouts
        self._rollout_operations = RolloutOperations(controller, rollouts, resolver.drawn_unit, self._refuse_beside)
        self._table |= self._rollout_operations.table

    async def call(
        self, name: str, body: bytes, *, json: bool = False, who: str = "", reads_only: bool = False
    ) -> bytes:
        """Run an operation with its arguments in msgpack, or JSON; the result is JSON. Raises a `ServekitError`.

        Args:
            who: the caller, for people.
            reads_only: the caller is to see no ``user_config``, which may hold secrets.
        """
        if name not in self._table:
            raise NotFoundError(f"there is no operation {name!r}; there are {', '.join(self._table)}")
        arguments_type, operation = self._table[name]
        decode: Any = msgspec.json.decode if json else msgspec.msgpack.decode
        try:
            arguments = decode(body, type=arguments_type)
        except msgspec.MsgspecError as error:
            raise InvalidInputError(f"{name}: {error}") from None
        except RecursionError:
            arguments = None
        if arguments is None or is_too_deep(arguments):
            raise InvalidInputError(f"{name}: an argument is nested more than {LEVELS} levels deep; make it flatter")
        history.author.set(Author(who, name))
        result = msgspec.json.encode(await operation(arguments))
        return without_user_configs(name, result) if reads_only else result

    # -- endpoints ---------------------------------------------------------------------------------------------------

    async def _create_endpoint(self, a: CreateEndpoint) -> None:
        await self._controller.change(state.add_endpoint, self._endpoint_record(a))

    def _endpoint_record(self, a: CreateEndpoint) -> EndpointRecord:
        default = () if a.mount else DEFAULT_METHODS
        known = {method.lower(): method for method in METHODS}
        methods = default if a.methods is None else tuple(dict.fromkeys(known.get(m.lower(), m) for m in a.methods))
        if a.methods is not None and not methods:
            raise InvalidInputError(f"endpoint {a.name!r}: methods is empty; leave it out for GET, or name some")
        options = msgspec.convert(a, EndpointOptions, from_attributes=True)
        policy_ref = self._resolver.policy(a.policy, a.policy_options)
        traffic = (a.traffic or {}) if a.backend is None else {a.backend: 1.0}
        return EndpointRecord(a.name, options, methods, a.policy, policy_ref, traffic)

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
        record = await self._backend_record(a)
        state.add_backend(self._controller.desired, record)  # Before a runtime is opened for nothing.
        record = await self._placed(record)
        async with self._blobs({record.name: record}, [a]):
            await self._controller.create_backend(record, wait=a.wait)

    async def _backend_record(self, a: CreateBackend) -> BackendRecord:
        runtime_name, runtime_options = self._runtime_of(a)
        source = msgspec.convert(a, BackendSource, from_attributes=True)
        return BackendRecord(
            **{field: getattr(source, field) for field in source.__struct_fields__},
            target=_digest_of(a.target_data),
            config=backend_config(a.config),
            adapter_ref=self._resolver.adapter(a.adapter, a.adapter_options),
            runtime=runtime_name,
            runtime_options=runtime_options,
            code=_digest_of(a.code_data) if a.code_data else "",
            distributions=await self._distributions(a.code_data),
        )

    async def _placed(self, record: BackendRecord) -> BackendRecord:
        """The record with what its runtime says of its placement. Raises where no replica can be started so."""
        self._runtimes.check(record.runtime, record.runtime_options)
        runtime = await self._runtimes.get(record.runtime, record.runtime_options)
        placed = await self._runtimes.placement(record.runtime, runtime, record.worker_options)
        cwd = placed.cwd or record.cwd
        return msgspec.structs.replace(record, most_replicas=placed.most_replicas, cwd=cwd)

    @contextlib.asynccontextmanager
    async def _blobs(self, records: Mapping[str, BackendRecord], given: Iterable[CreateBackend]) -> AsyncIterator[None]:
        """Keep the bytes of these records, and those that they take the place of, with all that is kept of those, while
        the block runs; what nobody needs after that is deleted."""
        desired = self._controller.desired
        replaced = (desired.backends.get(name) for name in records)
        kept = (record for name in records if name in desired.kept for record in desired.kept[name].records)
        pending = [*records.values(), *filter(None, replaced), *kept]
        self._pending += pending
        try:
            for a in given:
                await self._store.call(partial(_put_blobs, a=a))
            yield
        finally:
            for record in pending:
                self._pending.remove(record)
            await self._drop_unused_blobs()

    async def _distributions(self, code: bytes) -> tuple[str, ...]:
        """The names of the installed distributions that frozen code imports."""
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
            desired = self._controller.desired
            kept = (record for each in desired.kept.values() for record in each.records)
            records = [*desired.backends.values(), *kept, *self._pending]
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

    # -- deploys ----------------------------------------------------------------------------------------------------

    async def _deploy(self, a: DeployAll) -> tuple[Desired, Deploy]:
        """The state that there is, and the way to what is wanted, all of which is checked."""
        wanted = Wanted(
            {each.name: self._endpoint_record(each) for each in a.endpoints},
            {each.name: await self._backend_record(each) for each in a.backends},
            {},
            frozenset(each.name for each in a.endpoints if each.traffic is None),
            {e.name: options_of(e.name, e.rollout, e.traffic) for e in a.endpoints if e.rollout is not None},
        )
        wanted = deploys.with_written(wanted, a.written, self._default_runtime)
        desired = self._controller.desired
        deploy = deploys.plan_deploy(desired, wanted, self._default_runtime)
        if a.number not in (None, desired.number):
            raise StalePlanError(
                f"the plan was made from state {a.number}, and it is state {desired.number} now: "
                f"{_last_change(desired)}Make another plan"
            )
        finished = deploy.finish(state.put_backends(desired, deploy.backends), lambda now, *_: now)
        for name, options in deploy.rollouts.items():
            await self._rollout_operations.check(finished, name, options)
        check_change(desired, finished)
        for record in deploy.backends.values():
            self._runtimes.check(record.runtime, record.runtime_options)
        return desired, deploy

    async def _plan(self, a: DeployAll) -> dict[str, Any]:
        self._refuse_beside()  # What is desired then may be put back.
        desired, deploy = await self._deploy(a)
        return {"number": desired.number, "steps": deploy.steps}

    async def _apply(self, a: DeployAll) -> dict[str, Any]:
        with self._alone("deploy"):
            desired, deploy = await self._deploy(a)
            if not deploy.steps:
                await self._controller.wait_rolled_out(desired.backends)
                return {"number": desired.number, "steps": []}
            history.author.set(msgspec.structs.replace(history.author.get(), why=a.why or "deploy"))

            given = [each for each in a.backends if each.name in deploy.backends]
            with self._told("deploy", "; ".join(f"{each.action} {each.kind} {each.name}" for each in deploy.steps)):
                finish = partial(deploy.finish, begin=self._rollout_operations.begun)
                await self._roll_out(desired, deploy.backends, given, finish)
            self._rollouts.wake()
            return {"number": self._controller.desired.number, "steps": deploy.steps}

    async def _roll_out(
        self,
        desired: Desired,
        records: dict[str, BackendRecord],
        given: Iterable[CreateBackend],
        then: Callable[[Desired], Desired],
    ) -> None:
        """`Controller.roll_out` of records that are to be placed first, where ``desired`` is what there still is."""
        placed = {name: await self._placed(record) for name, record in records.items()}

        def choose(now: Desired) -> Mapping[str, BackendRecord]:
            if now.number != desired.number:
                raise StalePlanError(f"the state changed meanwhile: {_last_change(now)}Try again")
            return placed

        async with self._blobs(placed, given):
            await self._controller.roll_out(choose, then, self._cancelled)

    def _refuse_beside(self) -> None:
        if self._under_way:
            raise InUseError(
                f"{self._under_way}, which `servekit status` shows; wait for its end, or end it by "
                "`servekit deploy --cancel`, and try again"
            )

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Raises `InUseError` while another deploy, or rollback, is under way."""
        self._refuse_beside()
        by = history.author.get().who
        self._under_way = f"a {what}{f' by {by}' if by else ''} is under way since {clock(time.time())}"
        self._cancelled, self._ended = asyncio.Event(), asyncio.Event()
        try:
            yield
        finally:
            self._under_way = ""
            self._ended.set()

    @contextlib.contextmanager
    def _told(self, what: str, steps: str, endpoint: str = "") -> Iterator[None]:
        """Tell of the beginning and the end of a deploy, or rollback."""
        author, add = history.author.get(), partial(self._controller.event_log.add, endpoint=endpoint)
        why = author.why if author.why.startswith(what) else f"{what} ({author.why})"
        add(f"{what}_began", f"{why} is begun", who=author.who, detail=steps)
        try:
            yield
        except (ServekitError, asyncio.CancelledError) as error:
            problem = str(error) or "the instance ends"
            first = problem.partition("\n")[0]
            text = f"{why} has failed, and what was served before is back: {first}"
            add(f"{what}_failed", text, who=author.who, detail=problem)
            raise
        add(f"{what}_done", f"{why} is done", who=author.who, detail=steps)

    async def _cancel_deploy(self, _: Nothing) -> str:
        """End the deploy, or rollback, that is under way, whoever began it; return once it has ended."""
        if not self._under_way:
            raise NotFoundError("no deploy is under way, and no rollback")
        under_way, ended = self._under_way, self._ended
        self._cancelled.set()
        await ended.wait()
        return under_way

    async def _export(self, _: Nothing) -> dict[str, Any]:
        """All tables of a file that would change nothing."""
        desired = self._controller.desired
        for record in desired.backends.values():
            check_in_file(record)
        tables: dict[str, Any] = {
            "endpoints": {n: in_file("endpoints", n, endpoint_table(e)) for n, e in desired.endpoints.items()},
            "backends": {
                n: in_file("backends", n, backend_table(b, self._default_runtime)) for n, b in desired.backends.items()
            },
        }
        written = desired.all_written
        return {key: deploys.all_as_written(table, written, key) for key, table in tables.items()}

    async def _history(self, a: Named) -> list[dict[str, Any]]:
        return history.told(self._controller.desired, a.name)

    async def _rollback(self, a: GoBack) -> dict[str, Any]:
        with self._alone("rollback"):
            desired = self._controller.desired
            entry = history.entry_to_go_back_to(desired, a.name, a.number)
            who = history.author.get().who
            history.author.set(Author(who, f"rollback of {a.name} to {entry.number}", back_to={a.name: entry.number}))

            def then(now: Desired) -> Desired:
                deploys.check_unchanged(now, a.name, desired.endpoints[a.name])
                return state.set_traffic(now, a.name, entry.traffic) if entry.traffic else now

            with self._told("rollback", f"to {weights(entry.traffic)}", a.name):
                await self._roll_out(desired, history.revisions_of(desired, entry), [], then)
        return msgspec.structs.asdict(entry)

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
            backend["queued"] = ingresses.queued(name)
            failures = self._controller.failures[name]
            backend["last_start_error"] = str(failures.start_error or "")
            backend["last_failure"] = str(failures.last or "")
        return {
            **self._about(),
            "runtimes": self._runtimes.lines(),
            "deploy": self._under_way,
            "endpoints": {
                name: {**endpoint, "parked": ingresses.parked(name)}
                for name, endpoint in (await self._list_endpoints(Nothing())).items()
            },
            "backends": backends,
            "rollouts": self._rollouts.told(),
            "shadows": shadows_told(self._controller.desired),
            "ingress": [{"id": w.id, "pid": w.pid, "ready": w.applied > 0} for w in ingresses.workers.values()],
        }

    async def _events(self, a: WhichEvents) -> list[dict[str, Any]]:
        return self._controller.event_log.told(a.since, a.endpoint, a.backend, a.kind)

    async def _failures(self, a: WhichFailures) -> list[dict[str, Any]]:
        return self._controller.failure_groups.told(a.backend)

    async def _stat(self, _: Nothing) -> dict[str, Any]:
        # What an ingress worker counted before an endpoint was deleted may have come after that.
        self._controller.forget_counts()
        desired = self._controller.desired
        return self._controller.ingresses.counts.stat(desired.endpoints, desired.backends)

    async def _recent(self, a: WhichSamples) -> dict[str, dict[str, Any]]:
        """The samples of the last hour that were taken after ``since``: by endpoint, by backend, and in ``parts`` by
        endpoint and the backends that had a part of its requests."""
        desired, counts = self._controller.desired, self._controller.ingresses.counts
        every = a.endpoint is None and a.backend is None
        endpoints = desired.endpoints if every else [name for name in (a.endpoint,) if name in desired.endpoints]
        backends = desired.backends if every else [name for name in (a.backend,) if name in desired.backends]
        parts: dict[str, dict[str, Any]] = {name: {} for name in endpoints}
        for endpoint, backend in counts.parts():
            if endpoint in parts:
                parts[endpoint][backend] = counts.history(endpoint, backend, a.since)
        return {
            "endpoints": {name: counts.history(name, "", a.since) for name in endpoints},
            "backends": {name: counts.history("", name, a.since) for name in backends},
            "parts": parts,
        }

    async def _log_tail(self, a: LogTail) -> list[str]:
        """The last lines that the processes of the instance have logged and printed, or those of a backend's
        replicas."""
        if not self._log_path:
            raise NotFoundError(
                "this instance gathers no log: its processes print where it was started; `servekit start` gathers one"
            )
        if not 1 <= a.lines <= MOST_LOG_LINES:
            raise InvalidInputError(f"log_tail: lines must be from 1 to {MOST_LOG_LINES}, not {a.lines}")
        which = Which(a.backend, a.replica)
        return await asyncio.to_thread(last_lines, self._log_path, which, a.lines)

    async def _explain(self, a: ExplainRequest) -> dict[str, Any]:
        answers = await self._controller.ingresses.recall(Recall(0, request_id=a.id))
        explained = explanations.explanation(answers)
        if explained is None:
            raise NotFoundError(explanations.unknown(a.id, answers))
        return explained

    async def _last_requests(self, a: LastRequests) -> dict[str, Any]:
        if a.endpoint is not None:
            self._controller.desired.endpoint(a.endpoint)  # Raises where there is none of that name.
        question = Recall(0, kind=a.kind, endpoint=a.endpoint or "", most=a.most)
        answers = await self._controller.ingresses.recall(question)
        return {"requests": explanations.last_of(answers, a.most), "silent": explanations.silent(answers)}


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _put_blobs(store: Store, a: CreateBackend) -> None:
    store.put_blob(a.target_data, _digest_of(a.target_data))
    if a.code_data:
        store.put_blob(a.code_data, _digest_of(a.code_data))


def _last_change(desired: Desired) -> str:
    """Who changed traffic last, for people: most often it is that."""
    entries = [entries[-1] for entries in desired.history.values()]
    last = max(entries, key=lambda entry: entry.at, default=None)
    if last is None:
        return ""
    return f"the last change of traffic was {last.why}{f', by {last.who}' if last.who else ''}. "


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
