"""What a change has changed, in sentences: pure functions of the desired state before it and after it.

Of a config the keys are named, and of no value more than a number of replicas: values may be secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from servekit.control.rollout import Rollout
from servekit.control.state import BackendRecord, Desired
from servekit.wire.control_frames import EndpointRecord

_ROLLOUT_KINDS = {"advancing": "advanced"}


class Change(NamedTuple):
    """What has become of one endpoint or backend, as an event tells of it."""

    kind: str
    text: str
    endpoint: str = ""
    backend: str = ""
    detail: str = ""


def changes_of(before: Desired, after: Desired, *, put_back: bool = False) -> list[Change]:
    """What has become of each endpoint and backend; ``put_back``: for a change has failed."""
    found: list[Change] = []
    for name in {**before.backends, **after.backends}:
        old, new = before.backends.get(name), after.backends.get(name)
        if new is not old:
            found += _put_back(name, new) if put_back else _backend(name, old, new)
    for name in {**before.endpoints, **after.endpoints}:
        was, now = before.endpoints.get(name), after.endpoints.get(name)
        if now is not was:
            found += _endpoint(name, was, now)
    for name, rollout in after.rollouts.items():
        found += _rollout(before.rollouts.get(name), rollout)
    return found


def _rollout(old: Rollout | None, new: Rollout) -> Iterator[Change]:
    began = old is None or old.number != new.number
    if old is not None and not began and (old.state, old.step) == (new.state, new.step):
        return
    if new.state == "holding":  # Its step has been told.
        return
    kind = "began" if began else "resumed" if new.state == "waiting" else _ROLLOUT_KINDS.get(new.state, new.state)
    way = f"the roll-out of endpoint {new.endpoint} from {new.baseline} to {new.candidate}"
    what = {
        "began": "has begun",
        "resumed": "goes on",
        "advanced": f"is at {new.share:.4g}",
        "paused": "is paused",
        "inconclusive": "is inconclusive, and stays where it is until it is promoted, resumed or aborted",
        "promoted": "has ended: the new version is promoted",
        "rolled_back": "has ended: the old version has all requests again",
    }[kind]
    why = f": {new.reason}" if new.reason else ""
    yield Change(f"rollout_{kind}", f"{way} {what}{why}", new.endpoint, new.candidate)


def _endpoint(name: str, old: EndpointRecord | None, new: EndpointRecord | None) -> Iterator[Change]:
    if new is None:
        yield Change("endpoint_deleted", f"endpoint {name} is deleted", name)
        return
    if old is None:
        route = new.options.route
        yield Change("endpoint_created", f"endpoint {name} is created, {f'at {route}' if route else 'no HTTP'}", name)
    elif msgspec.structs.replace(old, traffic=new.traffic, rollout=new.rollout, shadow=new.shadow) != new:
        keys = [key for key in old.options.__struct_fields__ if getattr(old.options, key) != getattr(new.options, key)]
        keys += [key for key in ("methods", "policy", "policy_ref") if getattr(old, key) != getattr(new, key)]
        yield Change("endpoint_changed", f"endpoint {name} is changed: {', '.join(keys)}", name)
        if old.traffic == new.traffic:
            return
    if new.shadow != (None if old is None else old.shadow):
        yield _shadow(new)
        if old is not None and old.traffic is new.traffic:
            return
    if new.traffic or (old is not None and old.traffic):
        was = "" if old is None else f"it was: {weights(old.traffic)}"
        yield Change("traffic_set", f"endpoint {name} has traffic: {weights(new.traffic)}", name, "", was)


def _shadow(new: EndpointRecord) -> Change:
    if new.shadow is None:
        return Change("shadow_stopped", f"endpoint {new.name} has no shadow any more", new.name)
    which = "all" if new.shadow.share == 1 else f"{new.shadow.share:g} of the"
    text = f"{which} requests of endpoint {new.name} are copied to backend {new.shadow.backend}"
    return Change("shadow_started", text, new.name, new.shadow.backend)


def weights(traffic: dict[str, float]) -> str:
    """``v1 0.9, v2 0.1``, say."""
    return ", ".join(f"{backend} {weight:g}" for backend, weight in traffic.items()) or "none"


def _backend(name: str, old: BackendRecord | None, new: BackendRecord | None) -> Iterator[Change]:
    what = f"backend {name}"
    if new is None:
        yield Change("backend_deleted", f"{what} is deleted", backend=name)
    elif old is None:
        text = f"{what} is created, revision {new.original}: {new.target_text}"
        yield Change("backend_created", text, backend=name)
    elif new.revision != old.revision and new.original == old.original:
        yield Change("backend_restarted", f"every replica of {what} is replaced by a new one", backend=name)
    elif new.revision != old.revision:
        yield Change("backend_changed", f"{what} goes from revision {old.original} to {new.original}", backend=name)
    elif keys := _keys(old, new):
        if "num_replicas" in keys:
            numbers = f"from {old.config.num_replicas} to {new.config.num_replicas}"
            yield Change("backend_scaled", f"{what} goes {numbers} replicas", backend=name)
            keys.remove("num_replicas")
        if keys:
            text = f"the config of {what} is changed: {', '.join(keys)}"
            yield Change("backend_changed", text, backend=name)


def _keys(old: BackendRecord, new: BackendRecord) -> list[str]:
    return [key for key in old.config.__struct_fields__ if getattr(old.config, key) != getattr(new.config, key)]


def _put_back(name: str, new: BackendRecord | None) -> Iterator[Change]:
    text = "is gone again" if new is None else f"is as it was before, revision {new.original}"
    yield Change("backend_put_back", f"backend {name} {text}", backend=name)
