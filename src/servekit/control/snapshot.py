"""What ingress workers are to know, and the difference between two such states: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from servekit.control.state import Desired
from servekit.wire.control_frames import BackendEntry, EndpointRecord, ReplicaEntry, Snapshot


class Content(msgspec.Struct, frozen=True):
    """What a snapshot says, whole."""

    endpoints: dict[str, EndpointRecord] = {}
    backends: dict[str, BackendEntry] = {}
    leaving: tuple[str, ...] = ()
    """Replicas that get no more requests and may have some to answer."""


def content_of(
    desired: Desired,
    ready: Mapping[str, Iterable[ReplicaEntry]],
    earlier: tuple[Desired, Content] | None = None,
    leaving: Iterable[str] = (),
) -> Content:
    """
    Args:
        ready: the replicas that may get requests, by backend.
        earlier: a desired state and its content. The entries of backends that have not changed since are taken from
            there: with thousands of backends, making every entry anew would be most of what a change costs.
        leaving: the other replicas whose processes may be there, and that ingress workers may know.
    """
    was, had = earlier or (Desired(), Content())
    backends = {}
    for name, record in desired.backends.items():
        replicas = tuple(ready.get(name, ()))
        entry = had.backends.get(name)
        if entry is None or was.backends.get(name) is not record or entry.replicas != replicas:
            # What is the handlers' own is none of an ingress worker's business.
            config = msgspec.structs.replace(record.config, user_config=None)
            entry = BackendEntry(name, config, replicas)
        backends[name] = entry
    return Content(desired.endpoints, backends, tuple(sorted(leaving)))


def difference(base: Content | None, base_version: int, content: Content, version: int) -> Snapshot:
    """The snapshot that makes ``content`` of ``base``; the whole of it, where there is no base."""
    if base is None:
        return Snapshot(version, None, dict(content.endpoints), dict(content.backends), content.leaving)
    return Snapshot(
        version,
        base_version,
        _changed(base.endpoints, content.endpoints),
        _changed(base.backends, content.backends),
        content.leaving,
    )


T = TypeVar("T")


def _changed(before: Mapping[str, T], after: Mapping[str, T]) -> dict[str, Any]:
    changed: dict[str, Any] = {
        name: entry for name, entry in after.items() if (old := before.get(name)) is not entry and old != entry
    }
    changed.update(dict.fromkeys(before.keys() - after.keys()))
    return changed
