"""A routing policy that is right, and many that are each wrong in one thing."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import Any, ClassVar

from servekit.interfaces import BackendView, DrawnUnit, Outcome, ReplicaView, RequestInfo, RoutingPolicy


class Drawn(RoutingPolicy):
    """Right: by chance, by weight. The broken ones differ from it in one thing each."""

    def __init__(self) -> None:
        self.random = random.Random(5)

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        return self.random.choices(backends, [backend.weight for backend in backends])[0]


class ByPosition(Drawn):
    turn = 0

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.turn += 1
        return backends[self.turn % len(backends)]


class CountsForEver(Drawn):
    """Furthest behind its share goes next; but what was before the last change of traffic counts as well."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        total = sum(self.counts.values()) + 1
        backend = max(backends, key=lambda one: total * one.weight - self.counts.get(one.name, 0))
        self.counts[backend.name] = self.counts.get(backend.name, 0) + 1
        return backend


class KeepsViews(Drawn):
    """Remembers who is there, and forgets nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, BackendView] = {}

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.known.update((backend.name, backend) for backend in backends)
        return super().choose_backend(request, list(self.known.values()))


class KeepsOneView(Drawn):
    first: BackendView | None = None

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.first = self.first or backends[0]
        return self.first


class KeepsReplicas(Drawn):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, ReplicaView] = {}

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        self.known.update((replica.id, replica) for replica in replicas)
        return self.random.choice(list(self.known.values()))


class CountsOnThree(Drawn):
    turn = 0

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        self.turn += 1
        return replicas[self.turn % 3 if len(replicas) > 1 else 0]


class ByName(Drawn):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> Any:
        return backends[0].name


class Awaited(Drawn):
    async def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> Any:  # type: ignore[override]
        return backends[0]


class ReadsTheFirstLetter(Drawn):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        request.headers.get("x-user", "nobody")[0]
        return super().choose_backend(request, backends)


class NeedsAHeader(Drawn):
    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return replicas[int(request.headers["x-shard"]) % len(replicas)]


class SharesItsCounts(Drawn):
    counts: ClassVar[dict[str, int]] = {}

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self.counts.clear()

    choose_backend = CountsForEver.choose_backend


class SharesItsTurn(Drawn):
    turn: ClassVar[list[int]] = [0]

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.turn[0] += 1
        point = (self.turn[0] * 0.6180339887498949) % 1.0  # spread evenly, for one endpoint alone
        for backend in sorted(backends, key=lambda one: one.name):
            point -= backend.weight
            if point < 0:
                return backend
        return backends[0]


class DividesByTheSum(Drawn):
    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self.mean = sum(weights.values()) / len(weights)


class WritesToTheWeights(Drawn):
    def traffic_changed(self, weights: Any) -> None:
        weights.pop(min(weights, default=None), None)


class LooksAtReplicas(Drawn):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        min(backends, key=lambda backend: min(replica.outstanding for replica in backend.replicas))
        return super().choose_backend(request, backends)


class KnowsThreeEndings(Drawn):
    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        {Outcome.ANSWERED: 1, Outcome.FAILED: 0, Outcome.TIMED_OUT: 0, Outcome.ABANDONED: 0}[outcome]


class ForgetsWhoIsGone(Drawn):
    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, int] = {}

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        self.sent = {replica.id: self.sent.get(replica.id, 0) for replica in replicas}
        return replicas[0]

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        self.sent[replica.id] -= 1


class Unlike(Drawn):
    made = itertools.count()

    def __init__(self) -> None:
        self.random = random.Random(next(self.made))


class EveryOtherIsTheOtherWayRound(Drawn):
    made = itertools.count()

    def __init__(self) -> None:
        self.position = -(next(self.made) % 2)

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        return backends[self.position]


class SometimesNone(Drawn):
    unseeded = random.SystemRandom()

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> Any:
        return None if self.unseeded.random() < 0.03 else super().choose_backend(request, backends)


class CloseNeedsARequest(Drawn):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.began = True
        return super().choose_backend(request, backends)

    def close(self) -> None:
        assert self.began


class Sorts(Drawn):
    def choose_backend(self, request: RequestInfo, backends: Any) -> BackendView:
        backends.sort(key=lambda backend: -backend.weight)
        return super().choose_backend(request, backends)


class Empties(Drawn):
    def choose_replica(self, request: RequestInfo, replicas: Any) -> ReplicaView:
        chosen: ReplicaView = replicas.pop()
        return chosen


class WritesToAView(Drawn):
    def choose_replica(self, request: RequestInfo, replicas: Any) -> ReplicaView:
        replicas[0].outstanding += 1
        return super().choose_replica(request, replicas)


class WritesRoundTheBack(Drawn):
    def choose_replica(self, request: RequestInfo, replicas: Any) -> ReplicaView:
        object.__setattr__(replicas[0], "outstanding", 7)
        return super().choose_replica(request, replicas)


class WritesToHeaders(Drawn):
    def choose_backend(self, request: Any, backends: Sequence[BackendView]) -> BackendView:
        request.headers["x-seen"] = "1"
        return super().choose_backend(request, backends)


class Sleeps(Drawn):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        sleep(60)
        return super().choose_backend(request, backends)


class AsksAndShrugs(Drawn):
    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        try:
            with socket.socket() as asked:
                asked.connect(("127.0.0.1", 1))
        except Exception:  # noqa: S110
            pass
        return super().choose_replica(request, replicas)


class ReadsAFile(Drawn):
    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        Path(__file__).read_text()


class DrawsAndSaysNothing(Drawn):
    def draw_order(self, seed: int | None) -> DrawnUnit:
        self.random = random.Random(seed)
        return None  # type: ignore[return-value]


class DrawsEvenly(Drawn):
    """While a roll-out is judged, all weights are one."""

    evenly = False

    def draw_order(self, seed: int | None) -> DrawnUnit:
        self.evenly = seed is not None
        return DrawnUnit.REQUEST

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        return self.random.choice(backends) if self.evenly else super().choose_backend(request, backends)


class DrawsForEver(DrawsEvenly):
    def draw_order(self, seed: int | None) -> DrawnUnit:
        self.evenly |= seed is not None
        return DrawnUnit.KEY
