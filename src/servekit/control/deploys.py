"""What a deploy would change, and the change: pure functions of the desired state and of what is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from servekit.config import REPLICA_FIELDS
from servekit.control import state
from servekit.control.deployed_rollouts import by_rollout, outcome, to_begin
from servekit.control.history import undone
from servekit.control.rollout import RolloutOptions
from servekit.control.rollout_changes import begin_rollout
from servekit.control.state import BackendRecord, Desired, Written
from servekit.control.tables import BackendTable, EndpointTable, backend_table, endpoint_table, flat, key_path
from servekit.errors import StalePlanError
from servekit.wire.control_frames import EndpointRecord

_NOT_COMPARED = ("freeze", "include", "exclude")
"""Of a backend: the digest of its code says what they come to."""


class Difference(msgspec.Struct, frozen=True):
    """One key that a deploy changes."""

    key: str
    before: Any
    """As a file would have it. None: there is nothing."""
    after: Any


class Step(msgspec.Struct, frozen=True):
    """What a deploy does to one endpoint or backend."""

    action: str
    """``create``; ``change``, in place; ``replace``, by new replicas that start beside the old ones; ``traffic``;
    ``rollout``, which begins one; ``remove``."""
    kind: str
    """``endpoint`` or ``backend``."""
    name: str
    differences: list[Difference] = []
    undoes: str = ""
    """What the step would undo that was done by hand; of a roll-out, how the last one to that backend has ended."""


class Wanted(msgspec.Struct, frozen=True):
    """All that is to be served."""

    endpoints: dict[str, EndpointRecord]
    backends: dict[str, BackendRecord]
    written: dict[str, Written]
    """Of the endpoints."""
    as_it_is: frozenset[str] = frozenset()
    """Endpoints whose traffic stays what it is."""
    rollouts: dict[str, RolloutOptions] = {}
    """By endpoint, how its one backend takes over, where it serves by another one now."""


class Deploy(msgspec.Struct, frozen=True):
    """The way from a desired state to what is wanted."""

    steps: list[Step]
    backends: dict[str, BackendRecord]
    """Those to be put; those whose revision is 0 by new replicas."""
    wanted: Wanted
    planned_from: dict[str, EndpointRecord]
    """The endpoints that there were."""
    rollouts: dict[str, RolloutOptions] = {}
    """By endpoint, those that begin."""

    def finish(
        self, desired: Desired, begin: Callable[[Desired, str, RolloutOptions], Desired] = begin_rollout
    ) -> Desired:
        """The change once the backends are ready: endpoints and traffic, roll-outs that begin, and what nobody needs
        goes. Raises `StalePlanError` where an endpoint that it changes was changed meanwhile.

        Args:
            begin: makes of a state the one in which an endpoint's roll-out has begun.
        """
        for step in self.steps:
            if step.kind == "endpoint":
                check_unchanged(desired, step.name, self.planned_from.get(step.name))
        gone = {(step.kind, step.name) for step in self.steps if step.action == "remove"}
        desired = msgspec.structs.replace(
            desired,
            endpoints={name: each for name, each in desired.endpoints.items() if ("endpoint", name) not in gone},
            written=self.wanted.written,
        )
        changed = {s.name for s in self.steps if s.kind == "endpoint" and s.action not in ("remove", "rollout")}
        others = {name: each for name, each in desired.endpoints.items() if name not in changed}
        now, desired = desired, msgspec.structs.replace(desired, endpoints=others)  # Two may exchange their routes.
        for name in self.wanted.endpoints:
            if name in changed:
                desired = state.add_endpoint(desired, _endpoint(now, self.wanted, name))
        for kind, name in gone:
            if kind == "backend" and name in desired.backends:
                desired = state.remove_backend(desired, name)
        for name, options in self.rollouts.items():
            desired = begin(desired, name, options)
        return desired


def plan_deploy(desired: Desired, wanted: Wanted, default_runtime: tuple[str, dict[str, Any]]) -> Deploy:
    """What changes, in the order in which it does. Raises where a roll-out that is wanted cannot be."""
    steps, backends = [], {}
    rollouts = to_begin(desired, wanted.rollouts, wanted.backends)
    wanted = msgspec.structs.replace(wanted, as_it_is=wanted.as_it_is | by_rollout(desired, wanted.rollouts))
    for name, record in wanted.backends.items():
        old = desired.backends.get(name)
        after = _flat_backend(record, default_runtime)
        if old is None:
            default = _flat_table(BackendTable(target=""), name)
            steps.append(Step("create", "backend", name, _created(after, default, record.written)))
            backends[name] = msgspec.structs.replace(record, revision=0)
        elif found := _differences(_flat_backend(old, default_runtime), after, old.written, record.written):
            replaced = any(not _is_in_place(each.key, name) for each in found)
            steps.append(Step("replace" if replaced else "change", "backend", name, found, _undone(desired, name)))
            new = record if replaced else state.with_config(old, record.config)
            new = msgspec.structs.replace(new, written=record.written)
            backends[name] = msgspec.structs.replace(new, revision=0, repeats=0) if replaced else new
    for name in wanted.endpoints:
        steps += _endpoint_steps(desired, wanted, name)
        if name in rollouts:
            differences = _rollout_differences(desired, rollouts[name], name)
            steps.append(Step("rollout", "endpoint", name, differences, outcome(desired, name, rollouts[name].to)))
    steps += [Step("remove", "endpoint", name) for name in desired.endpoints if name not in wanted.endpoints]
    gone = [name for name in desired.backends if name not in wanted.backends]
    steps += [Step("remove", "backend", name, [], _undone(desired, name)) for name in gone]
    return Deploy(steps, backends, wanted, desired.endpoints, rollouts)


def check_unchanged(desired: Desired, endpoint: str, before: EndpointRecord | None) -> None:
    """Raise `StalePlanError` where the endpoint is not what it was when a deploy, or rollback, began."""
    if desired.endpoints.get(endpoint) != before:
        raise StalePlanError(
            f"endpoint {endpoint!r} was changed by hand meanwhile, and that holds: all else is as it was before. "
            "Look at what there is, and try again"
        )


def _endpoint_steps(desired: Desired, wanted: Wanted, name: str) -> Iterator[Step]:
    old, new = desired.endpoints.get(name), _endpoint(desired, wanted, name)
    after = _flat_endpoint(endpoint_table(new), name)
    if old is None:
        yield Step("create", "endpoint", name, _created(after, _flat_endpoint(EndpointTable(), name), wanted.written))
        return
    found = _differences(_flat_endpoint(endpoint_table(old), name), after, desired.written, wanted.written)
    traffic = [each for each in found if each.key.startswith(key_path("endpoints", name, "traffic"))]
    options = [each for each in found if each not in traffic]
    if options:
        yield Step("change", "endpoint", name, options)
    if traffic:
        yield Step("traffic", "endpoint", name, traffic, undone(desired, name))


def _rollout_differences(desired: Desired, options: RolloutOptions, name: str) -> list[Difference]:
    """The traffic before and after, and the steps between."""
    before = desired.endpoints[name].traffic
    usual, told = msgspec.structs.asdict(RolloutOptions(to=options.to)), msgspec.structs.asdict(options)
    always = ("steps", "hold_s", "judge")
    shown = {key: value for key, value in told.items() if key in always or value != usual[key]}
    shown["steps"] = list(options.steps)
    return [
        *(Difference(key_path("endpoints", name, "traffic", old), share, None) for old, share in before.items()),
        Difference(key_path("endpoints", name, "traffic", options.to), None, 1.0),
        *(Difference(key_path("endpoints", name, "rollout", key), None, value) for key, value in shown.items()),
    ]


def _endpoint(desired: Desired, wanted: Wanted, name: str) -> EndpointRecord:
    record, old = wanted.endpoints[name], desired.endpoints.get(name)
    if old is None:
        return record
    traffic = old.traffic if name in wanted.as_it_is else record.traffic
    return msgspec.structs.replace(record, traffic=traffic, shadow=old.shadow)  # No file says a shadow.


def _flat_backend(record: BackendRecord, default_runtime: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        **_flat_table(backend_table(record, default_runtime), record.name),
        key_path("backends", record.name, "code"): record.code_digest,
    }


def _flat_table(table: BackendTable, name: str) -> dict[str, Any]:
    builtins = msgspec.to_builtins(table, builtin_types=(bytes,))
    return flat({key: value for key, value in builtins.items() if key not in _NOT_COMPARED}, "backends", name)


def _flat_endpoint(table: EndpointTable, name: str) -> dict[str, Any]:
    return flat(msgspec.to_builtins(table), "endpoints", name)


def _is_in_place(key: str, name: str) -> bool:
    config = key_path("backends", name, "config") + "."
    field = key.removeprefix(config).partition(".")[0].partition("[")[0]
    return key.startswith(config) and field not in REPLICA_FIELDS


def _undone(desired: Desired, backend: str) -> str:
    """What a change of the backend undoes of an endpoint that it serves."""
    served = [name for name, each in desired.endpoints.items() if backend in each.traffic]
    return next(filter(None, (undone(desired, name) for name in served)), "")


# -- what is written with variables of the environment ------------------------------------------------------------


def with_written(wanted: Wanted, texts: Mapping[str, str], runtime: tuple[str, dict[str, Any]]) -> Wanted:
    """What is wanted, with the texts, by key path, of values that have variables of the environment."""
    backends = {
        name: msgspec.structs.replace(record, written=_written(texts, _flat_backend(record, runtime)))
        for name, record in wanted.backends.items()
    }
    written: dict[str, Written] = {}
    for name, record in wanted.endpoints.items():
        written.update(_written(texts, _flat_endpoint(endpoint_table(record), name)))
    return msgspec.structs.replace(wanted, backends=backends, written=written)


def _written(texts: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Written]:
    return {path: Written(text, _digest(values[path])) for path, text in texts.items() if path in values}


def as_written(path: str, value: Any, written: Mapping[str, Written]) -> Any:
    """The value as its file has it: with the variables of the environment that are in it, and with any other ``${`` as
    the text that it is."""
    found = written.get(path)
    if found is not None and found.digest == _digest(value):
        return found.text
    return value.replace("${", "$${") if isinstance(value, str) else value


def all_as_written(value: Any, written: Mapping[str, Written], *parts: object) -> Any:
    """`as_written` of all that is in nested tables and lists."""
    if isinstance(value, dict):
        return {key: all_as_written(inner, written, *parts, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [all_as_written(inner, written, *parts, index) for index, inner in enumerate(value)]
    return as_written(key_path(*parts), value, written)


def _digest(value: Any) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(value)).digest()


_ABSENT: Any = object()
_EMPTY: tuple[Any, ...] = (_ABSENT, None, [], {}, "")


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], was: Mapping[str, Written], now: Mapping[str, Written]
) -> list[Difference]:
    found = []
    for key in [*after, *(key for key in before if key not in after)]:
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if old == new or (_ABSENT in (old, new) and old in _EMPTY and new in _EMPTY):
            continue
        shown_old, shown_new = (as_written(key, each, w) for each, w in ((old, was), (new, now)))
        if shown_old == shown_new:
            shown_new = f"{shown_new}, which has another value now"
        found.append(Difference(key, *(None if each is _ABSENT else each for each in (shown_old, shown_new))))
    return found


def _created(after: Mapping[str, Any], default: Mapping[str, Any], now: Mapping[str, Written]) -> list[Difference]:
    """What is there of a new endpoint or backend, but for the defaults."""
    return [msgspec.structs.replace(each, before=None) for each in _differences(default, after, {}, now)]
