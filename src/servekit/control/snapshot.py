"""The content of snapshots for ingress workers, and the difference between two contents: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from servekit.control.state import Desired
from servekit.wire.control_frames import BackendEntry, Capabilities, EndpointRecord, ReplicaEntry, Snapshot


class Content(msgspec.Struct, frozen=True):
    """All that ingress workers are to know."""

    endpoints: dict[str, EndpointRecord] = {}
    backends: dict[str, BackendEntry] = {}
    leaving: tuple[str, ...] = ()
    """Replicas that get no more requests and may have some to answer."""


def content_of(
    desired: Desired,
    ready: Mapping[str, Iterable[ReplicaEntry]],
    earlier: tuple[Desired, Content] | None = None,
    leaving: Iterable[str] = (),
    capabilities: Mapping[str, Capabilities] | None = None,
    failing: Collection[str] = (),
    autoscaled: Mapping[str, int] | None = None,
) -> Content:
    """The content for a desired state.

    Args:
        ready: the replicas that may get requests, by backend.
        earlier: an earlier desired state and its content. The entries of backends that have not changed since are taken
            from there: with thousands of backends, making every entry anew would be most of the cost of a change.
        leaving: the ids of the other replicas whose processes may be there, and that ingress workers may know.
        capabilities: what replicas said of their handlers last, by backend.
        failing: the backends whose replicas fail to start.
        autoscaled: how many replicas a backend is to have in the place of its ``num_replicas``.
    """
    was, had = earlier or (Desired(), Content())
    backends = {}
    for name, record in desired.backends.items():
        replicas = tuple(ready.get(name, ()))
        types = capabilities[name].types if capabilities is not None and name in capabilities else b""
        entry = had.backends.get(name)
        fails, wanted = name in failing, (autoscaled or {}).get(name, record.config.num_replicas)
        told = None if entry is None else (entry.replicas, entry.types, entry.failing, entry.config.num_replicas)
        if entry is None or told != (replicas, types, fails, wanted) or was.backends.get(name) is not record:
            # The ``user_config`` is for handlers alone.
            config = msgspec.structs.replace(record.config, user_config=None, num_replicas=wanted)
            entry = BackendEntry(name, config, replicas, types, fails)
        backends[name] = entry
    return Content(desired.endpoints, backends, tuple(sorted(leaving)))


def difference(base: Content | None, base_version: int, content: Content, version: int) -> Snapshot:
    """The snapshot that makes ``content`` of ``base``; where there is no base, that is all of ``content``."""
    had = base or Content()
    endpoints = _changed(had.endpoints, content.endpoints)
    backends = _changed(had.backends, content.backends)
    return Snapshot(version, None if base is None else base_version, endpoints, backends, content.leaving)


T = TypeVar("T")


def _changed(before: Mapping[str, T], after: Mapping[str, T]) -> dict[str, Any]:
    changed: dict[str, Any] = {
        name: entry for name, entry in after.items() if (old := before.get(name)) is not entry and old != entry
    }
    changed.update(dict.fromkeys(before.keys() - after.keys()))
    return changed
