"""Endpoints and backends in the words of a configuration file: pure functions, by which plans compare and exports write
what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.config import DEFAULT_ADAPTER, DEFAULT_METHODS, DEFAULT_POLICY, BackendConfig, EndpointOptions
from servekit.control.rollout import RolloutKeys
from servekit.control.state import BackendRecord, InFile
from servekit.errors import InvalidInputError
from servekit.wire.control_frames import EndpointRecord


class RolloutTable(RolloutKeys, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[endpoints.NAME.rollout]``: the arguments of `rollout`, but for ``to``, which ``traffic`` says."""


class EndpointTable(EndpointOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[endpoints.NAME]``: the arguments of `create_endpoint`."""

    methods: list[str] | None = None
    policy: str = DEFAULT_POLICY
    policy_options: dict[str, Any] = msgspec.field(default_factory=dict)
    traffic: dict[str, float] | None = None
    """None: it stays as it is; a new endpoint has none."""
    rollout: RolloutTable | None = None
    """How the one backend in ``traffic`` takes over from another. None: at once."""


class BackendTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[backends.NAME]``: the arguments of `create_backend`."""

    target: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    adapter: str = DEFAULT_ADAPTER
    adapter_options: dict[str, Any] = {}
    runtime: str | None = None
    runtime_options: dict[str, Any] | None = None
    placement: dict[str, Any] = {}
    freeze: bool = True
    include: list[str] = []
    exclude: list[str] = []
    config: BackendConfig = BackendConfig()


def endpoint_table(record: EndpointRecord) -> EndpointTable:
    default = () if record.options.mount else DEFAULT_METHODS
    return EndpointTable(
        **msgspec.structs.asdict(record.options),
        methods=None if record.methods == default else list(record.methods),
        policy=record.policy,
        policy_options=record.policy_ref.options,
        traffic=record.traffic or None,
    )


def backend_table(record: BackendRecord, default_runtime: tuple[str, dict[str, Any]]) -> BackendTable:
    """The table for a record; of what no file could say, it has the target's name alone.

    ``default_runtime``: the instance's, which need not be named, and its options.
    """
    given = record.in_file or InFile()
    own_runtime = (record.runtime, record.runtime_options) != default_runtime
    return BackendTable(
        target=record.target_text if record.in_file else f"{record.target_text}, an object",
        args=given.args,
        kwargs=given.kwargs,
        adapter=record.adapter,
        adapter_options=record.adapter_ref.options,
        runtime=record.runtime if own_runtime else None,
        runtime_options=record.runtime_options if own_runtime else None,
        placement=record.worker_options,
        freeze=given.freeze,
        include=given.include,
        exclude=given.exclude,
        config=record.config,
    )


def key_path(*parts: object) -> str:
    """``backends.v1.args[0]``; names that need it are in quotes, as in TOML."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            bare = str(part).replace("-", "").replace("_", "")
            plain = bare.isascii() and bare.isalnum()
            path += ("." if path else "") + (str(part) if plain else f'"{part}"')
    return path


def flat(value: Any, *parts: object) -> dict[str, Any]:
    """What is in nested tables and lists, by `key_path`; empty ones are values."""
    if isinstance(value, Mapping) and value:
        items: Any = value.items()
    elif isinstance(value, (list, tuple)) and value:
        items = enumerate(value)
    else:
        return {key_path(*parts): list(value) if isinstance(value, tuple) else value}
    return {path: each for key, inner in items for path, each in flat(inner, *parts, key).items()}


def check_in_file(record: BackendRecord) -> None:
    """Raise `InvalidInputError` where no file could name the backend's target and its arguments."""
    if record.in_file is None:
        raise InvalidInputError(
            f"backend {record.name!r} was created with {record.target_text}, an object that no module has by name, or "
            "with arguments that are no plain data: a file names its target as 'module:attribute'. Put it into a "
            "module, and create the backend anew"
        )


def in_file(kind: str, name: str, table: EndpointTable | BackendTable) -> dict[str, Any]:
    """The keys of a table that are not their defaults, as a file would have them.

    Raises `InvalidInputError` where no file could say it.
    """
    default = BackendTable(target="") if isinstance(table, BackendTable) else EndpointTable()
    said = _said(table, default)
    for path, value in flat(said, kind, name).items():
        if value is None or isinstance(value, bytes):
            raise InvalidInputError(f"{path} is {value!r}, for which TOML has no word")
    return said


NO_VALUE = "none"
"""In a file, what is None in Python and has another default."""


def _said(table: msgspec.Struct, default: msgspec.Struct) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for field in table.__struct_fields__:
        value, usual = getattr(table, field), getattr(default, field)
        if isinstance(value, msgspec.Struct):
            value = _said(value, usual if isinstance(usual, type(value)) else type(value)())
            usual = usual and {}
        if value != usual:
            said[field] = NO_VALUE if value is None else msgspec.to_builtins(value, builtin_types=(bytes,))
    return said
