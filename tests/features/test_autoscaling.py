"""Replicas that follow the load, on every runtime."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from servekit.errors import BackendStartError, InvalidInputError
from servekit.testing.instances import ServedInstance

# Ray has a part in how replicas start and end, and none in how many there are to be.
pytestmark = pytest.mark.runtimes("inprocess", "process")


def scaling(**changes: Any) -> dict[str, Any]:
    quick = {"min_replicas": 0, "max_replicas": 3, "target_ongoing_requests": 2.0}
    return {"autoscaling": {**quick, "upscale_delay_s": 0.0, "downscale_delay_s": 0.5, **changes}}


def replicas(serve: ServedInstance, name: str = "b", state: str = "ready") -> int:
    return sum(replica["state"] == state for replica in serve.status()["backends"][name]["replicas"])


def wanted(serve: ServedInstance, name: str = "b") -> int:
    return int(serve.status()["backends"][name]["wanted_replicas"])


def busy(request: Any) -> str:
    time.sleep(0.05)
    return "done"


def version(request: Any) -> str:
    return "done"


class Failing:
    """Can be built where a file is there, and writes down that it was."""

    def __init__(self, gate: str, log: str = os.devnull) -> None:
        if not Path(gate).exists():
            raise ValueError("no such model")
        Path(log).write_text("built")

    def __call__(self, request: Any) -> str:
        return "done"


class Gated:
    """Its calls take until a file is there."""

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    def __call__(self, request: Any) -> str:
        ends = time.monotonic() + 30
        while not self.gate.exists():
            assert time.monotonic() < ends
            time.sleep(0.005)
        return "done"


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_from_nothing_and_back(serve: ServedInstance) -> None:
    serve.create_backend("b", version, config={"num_replicas": 0, **scaling()})
    serve.create_endpoint("e", "/b", backend="b")
    assert (replicas(serve), wanted(serve)) == (0, 0)
    for _ in range(2):
        assert serve.client.get("/b").text == "done"
        until(lambda: wanted(serve) == 0)
        until(lambda: not serve.status()["backends"]["b"]["replicas"])


def test_what_is_refused_asks_for_replicas(serve: ServedInstance) -> None:
    """Without a queue the replica has two at the most, and four would have to ask for another."""
    config = {"num_replicas": 1, "max_queued_requests": 0}
    serve.create_backend("b", busy, config={**config, **scaling(min_replicas=1, target_ongoing_requests=4.0)})
    serve.create_endpoint("e", "/b", backend="b")
    over = threading.Event()

    def ask() -> None:
        with serve.new_client() as client:
            while not over.is_set():
                client.get("/b")

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(ask)
        try:
            until(lambda: wanted(serve) == 3)
        finally:
            over.set()


def test_one_is_begun_with_and_goes_when_nothing_comes(serve: ServedInstance, tmp_path: Path) -> None:
    began = tmp_path / "began"
    began.touch()
    serve.create_backend("b", Failing, str(began), str(began), config=scaling())
    assert began.read_text() == "built"
    until(lambda: not serve.status()["backends"]["b"]["replicas"])


def test_it_follows_the_load_and_loses_nothing(serve: ServedInstance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    config = scaling(min_replicas=1, target_ongoing_requests=1.0)
    serve.create_backend("b", Gated, str(gate), config=config)
    serve.create_endpoint("e", "/b", backend="b")
    assert (replicas(serve), wanted(serve)) == (1, 1)
    with ThreadPoolExecutor(6) as threads:
        clients = [serve.new_client() for _ in range(6)]
        answers = [threads.submit(client.get, "/b") for client in clients]
        until(lambda: replicas(serve) == 3)
        assert serve.status()["backends"]["b"]["load"] == 6.0
        gate.write_text("go")
        assert [answer.result(30).text for answer in answers] == ["done"] * 6
        for client in clients:
            client.close()
    until(lambda: len(serve.status()["backends"]["b"]["replicas"]) == 1)
    assert wanted(serve) == 1


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_going_up_and_down_under_load_loses_no_request(serve: ServedInstance) -> None:
    serve.create_backend("b", busy, config=scaling(min_replicas=1, target_ongoing_requests=0.5))
    serve.create_endpoint("e", "/b", backend="b")
    with serve.assert_no_drops("/b", clients=4) as load:
        until(lambda: replicas(serve) == 3)
        load.more()
        serve.update_backend_config("b", scaling(min_replicas=1, target_ongoing_requests=100.0))
        until(lambda: len(serve.status()["backends"]["b"]["replicas"]) == 1)
        load.more()


def test_new_bounds_hold_at_once(serve: ServedInstance) -> None:
    serve.create_backend("b", version, config=scaling(downscale_delay_s=1000.0))
    serve.update_backend_config("b", scaling(min_replicas=2, downscale_delay_s=1000.0))
    assert (replicas(serve), wanted(serve)) == (2, 2)
    serve.update_backend_config("b", scaling(max_replicas=1, downscale_delay_s=1000.0))
    until(lambda: len(serve.status()["backends"]["b"]["replicas"]) == 1)
    serve.update_backend_config("b", {"autoscaling": None, "num_replicas": 2})
    assert (replicas(serve), wanted(serve)) == (2, 2)


def test_a_deploy_with_none_and_with_some(serve: ServedInstance) -> None:
    serve.create_backend("b", version, config={"num_replicas": 0, **scaling(downscale_delay_s=5.0)})
    serve.create_endpoint("e", "/b", backend="b")
    serve.update_backend_config("b", {"max_concurrent_queries": 2})
    assert serve.status()["backends"]["b"]["replicas"] == []
    with serve.assert_no_drops("/b") as load:
        load.more()
        serve.update_backend_config("b", {"max_concurrent_queries": 3})
        load.more()
    staying = [each for each in serve.status()["backends"]["b"]["replicas"] if each["state"] != "draining"]
    first = serve.history("e")[-1]["revisions"]["b"]
    assert {replica["revision"] for replica in staying} == {first + 2}


def test_a_version_without_a_replica_gets_its_share_back(serve: ServedInstance) -> None:
    serve.create_backend("old", version)
    serve.create_backend("new", version, config={"num_replicas": 0, **scaling(downscale_delay_s=5.0)})
    serve.create_endpoint("e", "/b", backend="old")
    serve.set_traffic("e", {"old": 0.5, "new": 0.5})

    def served_by_new() -> int:
        assert serve.client.get("/b").text == "done"
        return int(serve.stat()["backends"].get("new", {}).get("requests", 0))

    until(served_by_new)


def test_under_strict_its_share_waits_for_it(serve: ServedInstance) -> None:
    serve.create_backend("old", version)
    serve.create_backend("new", version, config={"num_replicas": 0, **scaling(downscale_delay_s=5.0)})
    serve.create_endpoint("e", "/b", backend="old", strict=True)
    serve.set_traffic("e", {"old": 0.5, "new": 0.5})
    assert [serve.client.get("/b").text for _ in range(4)] == ["done"] * 4
    assert replicas(serve, "new") == 1


def test_a_backend_that_cannot_start_is_tried_again_while_requests_wait(serve: ServedInstance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    serve.create_backend("b", Failing, str(gate), config={"num_replicas": 0, **scaling()})
    serve.create_endpoint("e", "/b", backend="b")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(serve.client.get, "/b")
        until(lambda: "no such model" in serve.status()["backends"]["b"]["last_start_error"])
        gate.write_text("now")
        assert answer.result(30).text == "done"
    with pytest.raises(BackendStartError, match="no such model"):
        serve.create_backend("c", Failing, str(tmp_path / "other"), config=scaling())


def test_what_is_no_autoscaling_is_refused(serve: ServedInstance) -> None:
    for wrong, message in [
        ({"max_replica": 2}, "did you mean 'max_replicas'"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is 2, but min_replicas is 3"),
        ({"target_ongoing_requests": 0}, "target_ongoing_requests must be"),
        ({"upscale_delay_s": -1}, "upscale_delay_s must be"),
        ({"downscale_delay_s": float("nan")}, "downscale_delay_s must be"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            serve.create_backend("b", version, config={"autoscaling": wrong})
    assert serve.list_backends() == {}
