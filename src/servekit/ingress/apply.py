"""Applies the controller's snapshots to the state of an ingress worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Set

from msgspec import structs

from servekit.factories import Kind, at_path, build
from servekit.ingress.backend import Backend, Replica
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.links import ReplicaLinks
from servekit.ingress.router import Router
from servekit.ingress.shadow import Shadow
from servekit.ingress.weights import Weights
from servekit.interfaces import RoutingPolicy
from servekit.wire.control_frames import BackendEntry, EndpointRecord, PluginRef, ShadowEntry, Snapshot

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
        build_policy: Callable[[PluginRef], RoutingPolicy],
        ended: Callable[[Set[str]], None],
        worker: str = "",
    ) -> None:
        """
        Args:
            ended: called with the ids of replicas whose processes have ended, and whose links had not.
            worker: the id of this ingress worker.
        """
        self._router = router
        self._links = links
        self._build_policy = build_policy
        self._ended = ended
        self._worker = worker
        self._shadows: dict[str, Shadow] = {}
        """By endpoint."""

    async def apply(self, snapshot: Snapshot) -> str:
        """Apply a snapshot; return the errors of those parts that could not be applied, as text.

        Links to new replicas are open before traffic changes, so that no share goes elsewhere meanwhile; and old
        replicas are let go of last, so that there is never a moment without one. The process of a replica that is
        nowhere in the snapshot has ended: the calls that the replica had are lost. Not so where all is new, as from a
        controller that was started again: one that it does not know may be there yet, and is about to be told to end.
        """
        backends, endpoints = dict(snapshot.backends), dict(snapshot.endpoints)
        if snapshot.base is None:
            backends.update(dict.fromkeys(self._router.backends.keys() - backends.keys()))
            endpoints.update(dict.fromkeys(self._router.endpoints.keys() - endpoints.keys()))
        await self._links.open(self._grow(entry for entry in backends.values() if entry is not None))
        errors = []
        self._router.shared.snapshot = snapshot.version  # Before traffic changes: what waits chooses again then.
        for name, endpoint_entry in endpoints.items():
            try:
                self._set_endpoint(name, endpoint_entry)
            except Exception as error:
                _log.exception("endpoint %r could not be set up", name)
                errors.append(f"endpoint {name!r}: {error}")
        for name, backend_entry in backends.items():
            self._shrink(name, backend_entry, snapshot.leaving if snapshot.base is not None else None)
        if snapshot.base is not None:
            known = {replica_id for backend in self._router.backends.values() for replica_id in backend.replicas}
            self._ended(self._links.keep_only(known | set(snapshot.leaving)))
        return "; ".join(errors)

    def _grow(self, entries: Iterable[BackendEntry]) -> list[Replica]:
        """Take over the configs and the new replicas; return the latter."""
        fresh: list[Replica] = []
        for entry in entries:
            backend = self._router.backends.get(entry.name)
            if backend is None:
                backend = Backend(entry.name, entry.config, self._router.shared)
                self._router.backends[entry.name] = backend
            backend.config, backend.types, backend.failing = entry.config, entry.types, entry.failing
            fresh += backend.add(entry.replicas)
        return fresh

    def _shrink(self, name: str, entry: BackendEntry | None, leaving: Collection[str] | None) -> None:
        """Let go of the replicas that the snapshot has no longer; of the backend, when it is gone.

        ``leaving``: those of them whose processes are there; None: all may be.
        """
        backends = self._router.backends
        backend = backends.pop(name, None) if entry is None else backends[name]
        if backend is not None:
            backend.keep_only({replica.id for replica in entry.replicas} if entry is not None else (), leaving)

    def _set_endpoint(self, name: str, entry: EndpointRecord | None) -> None:
        router = self._router
        old = router.endpoints.get(name)
        if entry is None:
            if old is not None:
                self._set_shadow(old, None)
                router.remove(old)
                router.shared.weights.removed(name)
            return
        weights = {backend: weight for backend, weight in entry.traffic.items() if weight > 0}
        if old is not None and self._is_kept(old.entry, entry):
            before, old.entry = old.entry, entry
            if before.shadow != entry.shadow:
                self._set_shadow(old, entry.shadow)
            if (before.traffic, before.rollout) != (entry.traffic, entry.rollout):
                self._remember(entry, weights)
                try:
                    if before.rollout != entry.rollout:
                        old.set_rollout(entry.rollout, self._worker)
                    old.policy.traffic_changed(weights)
                finally:  # Also where its policy raises: the backends that are gone must get no more requests.
                    old.set_traffic(weights)
            return
        endpoint = Endpoint(entry, self._build_policy(entry.policy_ref), router.backends, router.shared)
        if entry.rollout is not None:
            endpoint.set_rollout(entry.rollout, self._worker)
        endpoint.policy.traffic_changed(weights)
        self._remember(entry, weights)
        endpoint.set_traffic(weights)
        if old is not None:
            self._set_shadow(old, None)
            router.remove(old, endpoint)
        router.add(endpoint)
        self._set_shadow(endpoint, entry.shadow)

    @staticmethod
    def _is_kept(old: EndpointRecord, new: EndpointRecord) -> bool:
        """Whether an endpoint, and its policy with what that remembers, are the same."""
        return structs.replace(old, traffic=new.traffic, rollout=new.rollout, shadow=new.shadow) == new

    def _set_shadow(self, endpoint: Endpoint, entry: ShadowEntry | None) -> None:
        old = self._shadows.pop(endpoint.name, None)
        if old is not None:
            old.stop()
        if entry is not None:
            self._shadows[endpoint.name] = Shadow(endpoint, entry, self._router.backends, self._router.shared)

    def _remember(self, entry: EndpointRecord, weights: dict[str, float]) -> None:
        """From this snapshot on, the endpoint's requests choose by these weights."""
        shared = self._router.shared
        shared.weights.changed(entry.name, Weights(shared.snapshot, entry.policy, weights))
