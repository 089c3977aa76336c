"""What ingress workers are to know, and the difference between two such states: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from servekit.control.state import Desired
from servekit.wire.frames import BackendEntry, EndpointEntry, ReplicaEntry, Snapshot


class Content(msgspec.Struct, frozen=True):
    """What a snapshot says, whole."""

    endpoints: dict[str, EndpointEntry] = {}
    backends: dict[str, BackendEntry] = {}


def content_of(desired: Desired, ready: Mapping[str, Iterable[ReplicaEntry]]) -> Content:
    """``ready``: the replicas that may get requests, by backend. Backends being deleted are in it no longer."""
    return Content(
        {
            record.name: EndpointEntry(
                record.name,
                record.route,
                record.methods,
                record.mount,
                record.timeout_s,
                record.strict,
                record.policy_ref,
                record.traffic,
            )
            for record in desired.endpoints.values()
        },
        {
            record.name: BackendEntry(record.name, record.config, tuple(ready.get(record.name, ())))
            for record in desired.backends.values()
        },
    )


def difference(base: Content | None, base_version: int, content: Content, version: int) -> Snapshot:
    """The snapshot that makes ``content`` of ``base``; the whole of it, where there is no base."""
    if base is None:
        return Snapshot(version, None, dict(content.endpoints), dict(content.backends))
    return Snapshot(
        version,
        base_version,
        _changed(base.endpoints, content.endpoints),
        _changed(base.backends, content.backends),
    )


T = TypeVar("T")


def _changed(before: Mapping[str, T], after: Mapping[str, T]) -> dict[str, Any]:
    changed: dict[str, Any] = {name: entry for name, entry in after.items() if before.get(name) != entry}
    changed.update(dict.fromkeys(before.keys() - after.keys()))
    return changed
