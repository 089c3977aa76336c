"""Makes an ingress worker's state what a snapshot says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Set

from servekit.factories import Kind, at_path, build
from servekit.ingress.backend import Backend
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.links import ReplicaLinks
from servekit.ingress.replica import Replica
from servekit.ingress.router import Router
from servekit.interfaces import RoutingPolicy
from servekit.wire.control_frames import BackendEntry, EndpointRecord, PluginRef, Snapshot

_log = logging.getLogger("servekit.ingress")


def build_policy(ref: PluginRef) -> RoutingPolicy:
    """The policy that ``ref`` names, by its import path."""
    policy = build(at_path(Kind.POLICY, ref.path), ref.options)
    assert isinstance(policy, RoutingPolicy)
    return policy


class Applier:
    """Applies snapshots, one after another."""

    def __init__(
        self,
        router: Router,
        links: ReplicaLinks,
        build_policy: Callable[[PluginRef], RoutingPolicy] = build_policy,
        ended: Callable[[Set[str]], None] = lambda replica_ids: None,
    ) -> None:
        """``ended``: told of replicas whose processes have ended, and whose links had not."""
        self._router = router
        self._links = links
        self._build_policy = build_policy
        self._ended = ended

    async def apply(self, snapshot: Snapshot) -> str:
        """Apply it; return what of it could not be, or an empty text.

        Links to new replicas are open before traffic changes, so that no share goes elsewhere meanwhile; and old
        replicas are let go last, so that there is never a moment without one. The process of one that is nowhere in
        the snapshot has ended: what it had is lost.
        """
        backends, endpoints = dict(snapshot.backends), dict(snapshot.endpoints)
        if snapshot.base is None:
            backends.update(dict.fromkeys(self._router.backends.keys() - backends.keys()))
            endpoints.update(dict.fromkeys(self._router.endpoints.keys() - endpoints.keys()))
        fresh = [replica for entry in backends.values() if entry is not None for replica in self._grow(entry)]
        await self._links.open(fresh)
        errors = []
        for name, endpoint_entry in endpoints.items():
            try:
                self._set_endpoint(name, endpoint_entry)
            except Exception as error:
                _log.exception("endpoint %r could not be set up", name)
                errors.append(f"endpoint {name!r}: {error}")
        for name, backend_entry in backends.items():
            self._shrink(name, backend_entry)
        known = {replica_id for backend in self._router.backends.values() for replica_id in backend.replicas}
        self._ended(self._links.keep_only(known | set(snapshot.leaving)))
        return "; ".join(errors)

    def _grow(self, entry: BackendEntry) -> list[Replica]:
        """Take over config and new replicas."""
        backend = self._router.backends.get(entry.name)
        if backend is None:
            backend = self._router.backends[entry.name] = Backend(entry.name, entry.config)
        backend.config = entry.config
        fresh = [Replica(new, backend, self._router) for new in entry.replicas if new.id not in backend.replicas]
        backend.replicas.update((replica.id, replica) for replica in fresh)
        return fresh

    def _shrink(self, name: str, entry: BackendEntry | None) -> None:
        """Let go of the replicas that the snapshot has no longer; of the backend, when it is gone."""
        backend = self._router.backends.get(name)
        if backend is None:
            return
        stay = set() if entry is None else {replica.id for replica in entry.replicas}
        for replica in [replica for replica in backend.replicas.values() if replica.id not in stay]:
            del backend.replicas[replica.id]
            replica.retire()
        if entry is None:
            del self._router.backends[name]
        self._router.dispatcher.replica_lost(backend)
        for endpoint in backend.endpoints:
            self._router.dispatcher.unpark(endpoint)

    def _set_endpoint(self, name: str, entry: EndpointRecord | None) -> None:
        router = self._router
        old = router.endpoints.get(name)
        if entry is None:
            if old is not None:
                self._remove(old)
            return
        if old is not None and _same_but_weights(old.entry, entry):
            reweighed = old.entry.traffic != entry.traffic
            old.entry = entry
            if reweighed:
                try:
                    old.policy.traffic_changed(_above_zero(entry))
                finally:
                    # Whatever its policy makes of it: the backends that are gone must get no more.
                    old.set_targets(router.backends)
                    router.dispatcher.redispatch(old.waiting)
            return
        policy = self._build_policy(entry.policy_ref)
        policy.traffic_changed(_above_zero(entry))
        if old is not None:
            self._remove(old)
        endpoint = Endpoint(entry, policy)
        endpoint.set_targets(router.backends)
        router.endpoints[name] = endpoint
        router.routes.add(endpoint)

    def _remove(self, endpoint: Endpoint) -> None:
        """What was sent ends as if nothing had happened; what waits for a replica at all is told."""
        router = self._router
        router.routes.remove(endpoint)
        del router.endpoints[endpoint.name]
        endpoint.drop_targets()
        endpoint.refresh()
        router.dispatcher.redispatch(endpoint.waiting)
        endpoint.policy.close()


def _above_zero(entry: EndpointRecord) -> dict[str, float]:
    return {name: weight for name, weight in entry.traffic.items() if weight > 0}


def _same_but_weights(one: EndpointRecord, other: EndpointRecord) -> bool:
    return all(
        getattr(one, field) == getattr(other, field) for field in EndpointRecord.__struct_fields__ if field != "traffic"
    )
