"""What replicas of the runtime ``process`` are given, as they find it; and replicas that there are few places for."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from instance_tools import Load, replicas

import servekit as serve
from servekit import errors

pytestmark = pytest.mark.runtimes("process")

CPU = min(os.sched_getaffinity(0))


class OnGpu:
    """Says what it was sent and where it is. It fails to start where another replica has its GPU."""

    def __init__(self, folder: str) -> None:
        self.gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        self._lock = Path(folder, self.gpu)
        self._lock.touch(exist_ok=False)
        time.sleep(0.2)  # As a model takes its time to load: meanwhile requests wait.

    def __call__(self, request: Any) -> str:
        sent = (request.data or request.query_string).decode()
        rank = serve.get_context().replica_rank
        return json.dumps({"sent": sent, "gpu": self.gpu, "rank": rank, "cwd": os.getcwd()})

    def close(self) -> None:
        self._lock.unlink()


def test_a_replica_has_what_its_placement_says(serving: serve.Instance, tmp_path: Path) -> None:
    def found(request: Any) -> dict[str, Any]:
        try:
            large = len(bytearray(2**30))
        except MemoryError:
            large = 0
        names = ("OMP_NUM_THREADS", "FLAVOUR", "CUDA_VISIBLE_DEVICES")
        return {
            "env": [os.environ.get(name) for name in names],
            "cwd": os.getcwd(),
            "nice": os.nice(0),
            "cpus": sorted(os.sched_getaffinity(0)),
            "large": large,
        }

    own = {"env": {"FLAVOUR": "sweet"}, "cwd": str(tmp_path), "nice": 1, "cpu_affinity": [CPU], "threads": 1}
    serving.create_backend("placed", found, placement={**own, "gpus": [7], "memory_bytes": 2**29})
    serving.create_endpoint("placed", "/placed", backend="placed")
    assert httpx.get(serving.url + "/placed").json() == {
        "env": ["1", "sweet", "7"],
        "cwd": str(tmp_path),
        "nice": os.nice(0) + 1,
        "cpus": [CPU],
        "large": 0,
    }


def test_replicas_are_replaced_with_no_two_on_one_gpu_and_no_request_lost(
    serving: serve.Instance, tmp_path: Path
) -> None:
    config = {"num_replicas": 2}
    serving.create_backend("b", OnGpu, str(tmp_path), config=config, placement={"gpus": ["2", "3"]})
    serving.create_endpoint("e", "/e", methods=["GET", "POST"], backend="b")
    before = {each["id"] for each in replicas(serving, "b")}
    with Load(serving, "/e") as load:
        serving.restart_backend("b")
        after = replicas(serving, "b")
        assert before.isdisjoint(each["id"] for each in after)
        assert sorted(each["rank"] for each in after) == [0, 1]
        with pytest.raises(errors.InvalidInputError, match="num_replicas is 3, .* room for 2 replicas"):
            serving.update_backend_config("b", {"num_replicas": 3})
        serving.update_backend_config("b", {"num_replicas": 1})
        serving.restart_backend("b")  # With no other there meanwhile: requests wait.
        load.more()
    assert not load.failures
    assert {(each["rank"], each["gpu"]) for each in load.answers} == {(0, "2"), (1, "3")}
