"""The metrics of one instance: what the controller knows now, and what was counted since the instance began."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from itertools import chain
from typing import Any

from servekit.control.controller import RESTART_REASONS, Controller
from servekit.control.exposition import (
    DROPPED,
    MOST_SERIES,
    MOST_TOLD_SERIES,
    Family,
    bounded,
    bounded_metrics,
    render,
)
from servekit.control.plan import ReplicaState
from servekit.control.replica_gauges import ReplicaGauges
from servekit.control.request_metrics import request_families
from servekit.control.totals import Sums
from servekit.control.user_metrics import UserMetrics
from servekit.tallies import COUNT, OTHER, Tallies
from servekit.vitals import LoopLag, cpu_us, own_vitals

_DROPPED: tuple[str | int, ...] = ("dropped",)


def _version() -> str:
    try:
        return metadata.version("servekit")
    except metadata.PackageNotFoundError:  # It runs from a checkout.
        return "unknown"


class Metrics:
    """Made, and asked, on the controller's loop."""

    def __init__(
        self,
        controller: Controller,
        tallies: Tallies,
        about: Callable[[], dict[str, Any]],
        user_metrics: UserMetrics,
        *,
        most_series: int = MOST_SERIES,
        most_told_series: int = MOST_TOLD_SERIES,
    ) -> None:
        """
        Args:
            tallies: the controller's own counters.
            about: what there is to say of the instance: see `servekit.status`.
            user_metrics: what replicas have told.
        """
        self._controller = controller
        self._tallies = tallies
        self._about = about
        self._user_metrics = user_metrics
        self._replica_gauges = ReplicaGauges(controller.replicas.replicas.values)
        self._most_series, self._most_told_series = most_series, most_told_series
        self._version = _version()
        self._lag = LoopLag()

    def close(self) -> None:
        self._lag.close()

    async def scraped(self, accept: str) -> tuple[bytes, str]:
        """All of it as text, and the Content-Type of that."""
        families = self.families()
        of_replicas = chain(
            list(self._replica_gauges.collect()), self._user_metrics.parts(set(self._controller.desired.backends))
        )
        await self._user_metrics.save()  # Who has seen it will see no less from the next controller.
        # Many series take their time, and the controller has others to answer.
        told, dropped = await asyncio.to_thread(bounded_metrics, of_replicas, self._most_told_series)
        self._tallies.add(_DROPPED)[COUNT] += dropped  # The next answer has it.
        return await asyncio.to_thread(render, families, accept, told)

    def families(self) -> list[Family]:
        """Those that are counted in the controller and in ingress workers."""
        self._tallies.add(("cpu", "controller"))[COUNT] = cpu_us()
        sums = self._controller.ingresses.counts.totals.read()
        found, dropped = bounded(self._families(sums), self._most_series, self._is_deleted)
        self._tallies.add(_DROPPED)[COUNT] += dropped
        text = (
            "Series that were left out of an answer, summed, for there would have been more than its bound; or, with a "
            "backend, of what its replicas tell, beyond their bounds."
        )
        family = Family(DROPPED, "counter", text, ("backend",))
        family.add(sums.get(_DROPPED, [0])[COUNT] + dropped, "")
        for backend, count in self._user_metrics.dropped().items():
            family.add(count, backend)
        return [*found, family]

    def _is_deleted(self, labels: dict[str, str]) -> bool:
        """Whether the endpoint or the backend that the labels name is no more."""
        desired = self._controller.desired
        there: dict[str, Collection[str]] = {"endpoint": desired.endpoints, "backend": desired.backends}
        return any(
            labels.get(label, "") not in ("", OTHER) and labels[label] not in names for label, names in there.items()
        )

    def _families(self, sums: Sums) -> Iterator[Family]:
        """The few first: what is beyond the bound is left out."""
        yield self._info()
        yield from self._processes(sums)
        yield from self._replicas(sums)
        yield from self._now()
        yield from request_families(sums)

    def _info(self) -> Family:
        about = self._about()
        labels = {"version": self._version, "name": str(about["name"]), "runtime": str(about["runtime"])}
        return Family("servekit_info", "gauge", "The instance; always 1.", tuple(labels), [(tuple(labels.values()), 1)])

    def _processes(self, sums: Sums) -> Iterator[Family]:
        ingresses = self._controller.ingresses
        text = "Whether the ingress worker has a link to the controller, and serves."
        ready = Family("servekit_ingress_ready", "gauge", text, ("process",))
        snapshot = Family(
            "servekit_snapshot_version", "gauge", "The version of what is served that a process has.", ("process",)
        )
        connections = Family("servekit_http_connections", "gauge", "Open connections of clients.", ("process",))
        memory = Family(
            "servekit_process_resident_memory_bytes", "gauge", "Resident memory of servekit's processes.", ("process",)
        )
        descriptors = Family("servekit_process_open_fds", "gauge", "Open descriptors.", ("process",))
        lag = Family(
            "servekit_event_loop_lag_seconds",
            "gauge",
            "How late the event loop called what was due, at the most, since the report or scrape before.",
            ("process",),
        )
        vitals = {"controller": own_vitals(self._lag)}
        snapshot.add(ingresses.version, "controller")
        for worker in ingresses.workers.values():
            ready.add(int(worker.link is not None and worker.applied > 0), worker.id)
            if worker.report is not None:
                vitals[worker.id] = worker.report.vitals
                snapshot.add(worker.report.snapshot, worker.id)
                connections.add(worker.report.connections, worker.id)
        for process, seen in vitals.items():
            memory.add(seen.memory_bytes, process)
            descriptors.add(seen.descriptors, process)
            lag.add(seen.loop_lag_s, process)
        cpu = Family("servekit_process_cpu_seconds_total", "counter", "CPU time, user and system.", ("process",))
        for key, slots in sums.items():
            if key[0] == "cpu":
                cpu.add(slots[COUNT] / 1e6, str(key[1]))
        yield from (ready, snapshot, connections, memory, descriptors, lag, cpu)

    def _replicas(self, sums: Sums) -> Iterator[Family]:
        controller = self._controller
        states = Counter((each.record.name, each.state) for each in controller.replicas.replicas.values())
        there = Family("servekit_replicas", "gauge", "Replicas, by state.", ("backend", "state"))
        wanted = Family(
            "servekit_replicas_wanted", "gauge", "Replicas that a backend is to have, autoscaled or not.", ("backend",)
        )
        load = Family(
            "servekit_autoscaler_load",
            "gauge",
            "Requests at replicas and waiting, smoothed, as the autoscaler saw them last.",
            ("backend",),
        )
        for name, record in controller.desired.backends.items():
            for state in ReplicaState:
                there.add(states.pop((name, state), 0), name, state.value)
            wanted.add(controller.autoscalers.replicas(record), name)
            if record.config.autoscaling is not None:
                load.add(controller.autoscalers.load(name), name)
        for (name, state), count in states.items():  # Of backends that were deleted.
            there.add(count, name, state.value)
        yield from (there, wanted, load)
        counted: dict[tuple[str, ...], int] = {
            (name, reason): 0 for name in controller.desired.backends for reason in RESTART_REASONS
        }
        counted |= {(str(key[1]), str(key[2])): slots[COUNT] for key, slots in sums.items() if key[0] == "restart"}
        text = "Replicas that were followed by another though nobody had asked for that, by reason."
        rows = list(counted.items())
        yield Family("servekit_replica_restarts_total", "counter", text, ("backend", "reason"), rows)

    def _now(self) -> Iterator[Family]:
        """What the ingress workers have in hand, as they reported last."""
        controller = self._controller
        in_flight = Family("servekit_http_requests_in_flight", "gauge", "Requests at replicas.", ("backend",))
        queued = Family(
            "servekit_http_requests_queued", "gauge", "Requests that wait for room in a replica.", ("backend",)
        )
        parked = Family(
            "servekit_http_requests_parked",
            "gauge",
            "Requests that wait for any backend that can serve.",
            ("endpoint",),
        )
        reports = [each.report for each in controller.ingresses.workers.values() if each.report is not None]
        at_replicas: Counter[str] = Counter()
        for replica in controller.replicas.replicas.values():
            at_replicas[replica.record.name] += controller.ingresses.outstanding(replica.id)
        for name in controller.desired.backends:
            in_flight.add(at_replicas[name], name)
            queued.add(sum(report.queued.get(name, 0) for report in reports), name)
        for name in controller.desired.endpoints:
            parked.add(sum(report.parked.get(name, 0) for report in reports), name)
        yield from (in_flight, queued, parked)
