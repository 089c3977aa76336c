"""What replicas say of themselves in their reports, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from servekit.control.replica import ManagedReplica
from servekit.wire.control_frames import GpuUse, Report

if TYPE_CHECKING:
    from prometheus_client import Metric

OF_REPLICA: tuple[tuple[str, str, Callable[[Report], float]], ...] = (
    ("busy_seconds", "How long the call has been running that has run for longest", lambda report: report.busy_s),
    ("calls_running", "Calls that the handler is answering", lambda report: report.running),
    ("calls_waiting", "Calls that have not begun", lambda report: report.calls_waiting),
    ("event_loop_lag_seconds", "How long the data loop took to come by", lambda report: report.vitals.loop_lag_s),
    ("resident_memory_bytes", "Resident memory of the process", lambda report: report.vitals.memory_bytes),
    ("open_fds", "Descriptors that the process has open", lambda report: report.vitals.descriptors),
)
OF_PROCESS = {"resident_memory_bytes", "open_fds"}
"""Those that a replica without a process of its own has not."""
OF_GPU: tuple[tuple[str, str, Callable[[GpuUse], float]], ...] = (
    ("gpu_busy_ratio", "The part of the last moments in which the GPU computed", lambda gpu: gpu.busy),
    ("gpu_used_bytes", "Memory of the GPU that is used, by whatever process", lambda gpu: gpu.used_bytes),
    ("gpu_memory_bytes", "Memory of the GPU", lambda gpu: gpu.memory_bytes),
)


class ReplicaGauges:
    """The gauges of the replicas that have a control link, from their last reports."""

    def __init__(self, replicas: Callable[[], Iterable[ManagedReplica]]) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[Metric]:
        """For a registry of `prometheus_client`."""
        from prometheus_client import Metric

        reports = [
            ({"backend": replica.record.name, "replica": replica.id}, replica.report)
            for replica in self._replicas()
            if replica.link is not None
        ]
        for name, text, value_of in OF_REPLICA:
            metric = Metric(f"servekit_replica_{name}", text, "gauge")
            for labels, report in reports:
                value = value_of(report)
                if value or name not in OF_PROCESS:
                    metric.add_sample(metric.name, labels, value)
            yield metric
        for name, text, of_gpu in OF_GPU:
            metric = Metric(f"servekit_replica_{name}", text, "gauge")
            for labels, report in reports:
                for gpu in report.gpus:
                    metric.add_sample(metric.name, {**labels, "gpu": gpu.device}, of_gpu(gpu))
            yield metric
