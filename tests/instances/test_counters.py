"""Counters are of what was sent, and never go back, whoever is killed by SIGKILL: replicas, ingress workers, the
controller."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from instance_handlers import Named
from instance_tools import controller, fresh_get, pids, started_standing
from prometheus_client.parser import text_string_to_metric_families
from tests.support.waiting import until

import servekit as serve
from servekit import errors

pytestmark = [
    pytest.mark.processes,
    # httpcore leaves the socket of a refused connection to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

CLIENTS = 4


class Senders:
    """Clients that send on whatever happens, and count what they get."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(CLIENTS)]
        self.statuses: list[Counter[int]] = [Counter() for _ in self._threads]
        self.cut = [0] * CLIENTS
        """Requests that got no answer: each may have been counted, or not."""

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> Counter[int]:
        return sum(self.statuses, Counter[int]())

    def more(self, count: int = 200) -> None:
        wanted = self.answered.total() + count
        until(lambda: self.answered.total() >= wanted)

    def _send(self, client: int) -> None:
        while not self._over.is_set():
            try:
                with httpx.Client(base_url=self._url, timeout=60) as connection:
                    while not self._over.is_set():
                        self.statuses[client][connection.post("/e", content=b"x").status_code] += 1
            except httpx.TransportError:
                self.cut[client] += 1


@pytest.fixture
def standing(temporary: object) -> Iterator[subprocess.Popen[str]]:
    with started_standing("--ingress-workers", "2", "--admin-port", "0") as keeper:
        yield keeper


@pytest.fixture
def attached(standing: subprocess.Popen[str]) -> Iterator[serve.Instance]:
    with serve.init(address="auto") as instance:
        instance.create_backend("named", Named, "one", config={"num_replicas": 2})
        instance.create_endpoint("e", "/e", methods=["GET", "POST"], backend="named")
        yield instance


class Watched:
    """The counters of an instance; each look at them makes sure that none has gone back."""

    def __init__(self, instance: serve.Instance) -> None:
        self._url = instance.status()["admin_url"]
        self._headers = {"authorization": f"Bearer {instance.read_token}"}
        self._last: dict[tuple[str, ...], float] = {}

    def look(self) -> dict[tuple[str, ...], float]:
        """By the name and the values of the labels, in the labels' order. Empty: there is no controller."""
        try:
            answer = httpx.get(f"{self._url}/metrics", headers=self._headers, timeout=60)
        except httpx.TransportError:
            return {}
        assert answer.status_code == 200
        found = {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }
        assert not [key for key, value in self._last.items() if found.get(key, -1.0) < value]
        self._last = found
        return found

    def requests(self) -> Counter[int]:
        """Of the endpoint, by status."""
        found: Counter[int] = Counter()
        for key, value in self.look().items():
            if key[0] == "servekit_http_requests_total" and key[2] == "e":
                found[int(key[4])] += int(value)
        return found


def is_up(instance: serve.Instance) -> bool:
    try:
        status = instance.status()
    except errors.ControllerGoneError:
        return False
    return len(pids(instance, "named")) == 2 and all(each["ready"] for each in status["ingress"])


def test_what_was_answered_is_counted_whoever_is_killed(
    standing: subprocess.Popen[str], attached: serve.Instance
) -> None:
    watched = Watched(attached)
    with Senders(attached.url) as senders:
        senders.more()
        killed_ingress = attached.status()["ingress"][0]["pid"]
        for pid in (min(pids(attached, "named")), killed_ingress, controller(standing)):
            watched.look()
            os.kill(pid, signal.SIGKILL)
            senders.more()
            until(lambda: is_up(attached))
            watched.look()
        # A worker that ends while no controller is there, which the next one has to find.
        last = attached.status()["ingress"][1]["pid"]
        os.kill(controller(standing), signal.SIGKILL)
        os.kill(last, signal.SIGKILL)
        senders.more()
        until(lambda: is_up(attached))
        senders.more()
    answered, cut = senders.answered, sum(senders.cut)
    counted = until(lambda: watched.requests())
    assert answered[200] > 1000
    for status in (200, 502):
        assert answered[status] <= counted[status] <= answered[status] + cut, (answered, counted, cut)
    assert answered.total() <= counted.total() <= answered.total() + cut
    stat = attached.stat()["endpoints"]["e"]
    assert stat["requests"] == counted.total()
    found = watched.look()
    assert found["servekit_replica_restarts_total", "named", "exited"] >= 1
    taken = {key: value for key, value in found.items() if key[0] == "servekit_http_request_body_bytes_total"}
    assert sum(value for key, value in taken.items() if key[2] == "e") == counted.total()
    assert stat["latency_s"]["hour"]["p50"] > 0
    assert not [name for name in os.listdir(attached.directory) if name.endswith(".new")]
    assert sum(name.endswith(".tally") for name in os.listdir(attached.directory)) == 3


def test_metrics_for_all_at_a_host_of_ones_own():
    with serve.init(
        runtime="process", http_port=0, admin_host="127.0.0.2", admin_port=0, open_metrics=True
    ) as instance:
        url = instance.status()["admin_url"]
        assert url.startswith("http://127.0.0.2:")
        answer = fresh_get(f"{url}/metrics")
        assert answer.status_code == 200
        assert 'servekit_info{name="default"' in answer.text
        assert fresh_get(f"{url}/v1/status").status_code == 401
        reader = {"authorization": f"Bearer {instance.read_token}"}
        assert httpx.get(f"{url}/v1/status", headers=reader).json()["name"] == "default"
        assert httpx.get(f"{url}/v1/get_code", headers=reader).status_code == 403
