"""What replicas report of themselves, as Prometheus sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from servekit.control.replica_gauges import ReplicaGauges
from servekit.vitals import Vitals
from servekit.wire.control_frames import GpuUse, Report


def lines(*replicas: Any) -> list[str]:
    registry = CollectorRegistry()
    registry.register(ReplicaGauges(lambda: replicas))  # type: ignore[arg-type]
    return [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]


def replica(name: str, report: Report, link: object = "link") -> Any:
    return SimpleNamespace(id=name, record=SimpleNamespace(name="b"), report=report, link=link)


def test_each_replica_has_its_own() -> None:
    report = Report(
        1.5,
        running=2,
        calls_waiting=3,
        vitals=Vitals(1024, 9, 0.25),
        gpus=[GpuUse("0", 0.5, 7, 80)],
    )
    own = '{backend="b",replica="r1"}'
    of_gpu = '{backend="b",gpu="0",replica="r1"}'
    assert lines(replica("r1", report)) == [
        f"servekit_replica_busy_seconds{own} 1.5",
        f"servekit_replica_calls_running{own} 2.0",
        f"servekit_replica_calls_waiting{own} 3.0",
        f"servekit_replica_event_loop_lag_seconds{own} 0.25",
        f"servekit_replica_resident_memory_bytes{own} 1024.0",
        f"servekit_replica_open_fds{own} 9.0",
        f"servekit_replica_gpu_busy_ratio{of_gpu} 0.5",
        f"servekit_replica_gpu_used_bytes{of_gpu} 7.0",
        f"servekit_replica_gpu_memory_bytes{of_gpu} 80.0",
    ]


def test_one_without_a_link_says_nothing_and_one_in_process_has_no_memory() -> None:
    shown = lines(replica("r1", Report()), replica("r2", Report(), link=None))
    assert all('replica="r1"' in line for line in shown)
    assert not any("memory" in line or "fds" in line for line in shown)
