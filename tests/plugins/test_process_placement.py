"""Placement options of the runtime ``process``: what they are checked for, and what a process starts with."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from servekit.interfaces import Placement
from servekit.processes import module_command
from servekit_process import ProcessPlacement, ProcessRuntime

CPU = min(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gpu": [0]}, "'gpu' is not a placement option here; did you mean 'gpus'"),
        ({"num_cpus": 1}, "'num_cpus' is not a placement option here"),
        ({"cwd": "."}, "cwd must be the absolute path"),
        ({"cwd": "/nowhere"}, "a folder that is there, not '/nowhere'"),
        ({"python": "/nowhere/python"}, "'/nowhere/python' cannot be run"),
        ({"nice": 20}, "nice must be from"),
        ({"nice": "low"}, "nice must be a whole number"),
        ({"cpu_affinity": []}, "cpu_affinity must name some of the CPUs"),
        ({"cpu_affinity": [CPU, 100_000]}, "cpu_affinity must name some of the CPUs"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"threads": True}, "threads must be a whole number"),
        ({"memory_bytes": 1024}, "memory_bytes must be at least"),
        ({"env": {"A": 1}}, r"env\['A'\] must be text"),
        ({"env": {"A=B": ""}}, "env has 'A=B', which cannot be set"),
        ({"env": {"A": "\0"}}, "nothing has NUL"),
        ({"gpus": 1}, "gpus must be a list"),
        ({"gpus": []}, "gpus must be numbers or UUIDs"),
        ({"gpus": [-1]}, "gpus must be numbers or UUIDs"),
        ({"gpus": ["0,1"]}, "gpus must be numbers or UUIDs"),
        ({"gpus": [0], "gpus_per_replica": 2}, "gpus_per_replica must be from 1 to 1"),
        ({"gpus": [0, 0], "gpus_per_replica": 2}, "names one twice"),
        ({"gpus_per_replica": 2}, "of no use without gpus"),
        ({"gpus": [0], "env": {"CUDA_VISIBLE_DEVICES": ""}}, "leave it out of env"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ProcessRuntime().check_worker_options(options)


def test_the_core_is_told_how_many_replicas_there_is_a_place_for_and_where_they_run(tmp_path: Any) -> None:
    check = ProcessRuntime().check_worker_options
    assert check({}) == Placement()
    assert check({"gpus": [0, 1, 1]}) == Placement(3)
    assert check({"gpus": [0, 1, 2, "GPU-5f3a"], "gpus_per_replica": 2, "cwd": str(tmp_path)}) == Placement(
        2, str(tmp_path)
    )


def test_the_gpus_of_a_replica_follow_from_its_rank() -> None:
    placement = ProcessPlacement.of({"gpus": [4, 5, "GPU-a", "MIG-b/1"], "gpus_per_replica": 2})
    assert [placement.environ({}, rank) for rank in (0, 1)] == [
        {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "4,5"},
        {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "GPU-a,MIG-b/1"},
    ]


def test_what_is_nearer_to_the_backend_wins() -> None:
    placement = ProcessPlacement.of({"threads": 2, "gpus": [1], "env": {"OMP_NUM_THREADS": "3", "A": "placement"}})
    base = {"A": "runtime", "B": "runtime", "MKL_NUM_THREADS": "8", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    found = placement.environ({**base, "CUDA_VISIBLE_DEVICES": "0,1"}, 0)
    assert found.items() >= {"A": "placement", "B": "runtime", "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}.items()
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("1", "FASTEST_FIRST")
    assert ProcessPlacement.of({}).environ(base, 0) == base


@pytest.mark.processes
def test_a_process_places_itself_before_it_does_anything_else(tmp_path: Any) -> None:
    program = ProcessPlacement.of({"nice": 2, "cpu_affinity": [CPU], "memory_bytes": 2**28}).program
    (tmp_path / "placed.py").write_text(
        "import os, resource\n"
        "print(os.nice(0), sorted(os.sched_getaffinity(0)), *resource.getrlimit(resource.RLIMIT_DATA))\n"
        "try: print(len(bytearray(2**29)))\n"
        "except MemoryError: print('no more')\n"
    )
    (tmp_path / "resource.py").write_text("raise SystemExit('taken for the standard library')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(module_command("placed", first=program), env=env, capture_output=True, text=True, timeout=60)
    assert ran.stdout == f"{os.nice(0) + 2} [{CPU}] {2**28} {2**28}\nno more\n", ran.stderr
    assert sys.executable in module_command("placed")
