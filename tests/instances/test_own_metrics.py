"""Metrics of handlers' own, as Prometheus sees them: summed, and never going back, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from instance_handlers import Words
from instance_tools import Scripts, controller, pids, started_standing, told
from tests.support.waiting import until

import servekit as serve
from servekit import errors

pytestmark = [
    pytest.mark.processes,
    # httpcore leaves the socket of a refused connection to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

SCRIPT = """
import json, time, urllib.request
import servekit as serve

WORDS = serve.metrics.counter("words", "Words", labels=["language"])
ENGLISH = WORDS.labels("en")

def read(request):
    ENGLISH.inc()
    return "read"

def asked(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read().decode()

with serve.init(runtime="process", http_port=0, admin_port=0) as instance:
    serve.create_backend("reader", read)
    serve.create_endpoint("read", "/read", backend="reader")
    for _ in range(3):
        asked(instance.url + "/read")
    metrics, found = instance.status()["admin_url"] + "/metrics", []
    while 'words_total{backend="reader",language="en"} 3.0' not in found:
        time.sleep(0.1)
        found = asked(metrics, authorization="Bearer " + instance.read_token).splitlines()
    print("TOLD", json.dumps({"lines": [line for line in found if line.startswith("words")]}), flush=True)
"""


@pytest.fixture
def standing(temporary: object) -> Iterator[subprocess.Popen[str]]:
    with started_standing("--admin-port", "0") as keeper:
        yield keeper


@pytest.fixture
def attached(standing: subprocess.Popen[str]) -> Iterator[serve.Instance]:
    with serve.init(address="auto") as instance:
        instance.create_backend("reader", Words, config={"num_replicas": 2})
        instance.create_endpoint("read", "/read", backend="reader")
        yield instance


def lines(instance: serve.Instance) -> list[str]:
    """Of the exposition. Empty: there is no controller."""
    headers = {"authorization": f"Bearer {instance.read_token}"}
    try:
        answer = httpx.get(f"{instance.status()['admin_url']}/metrics", headers=headers, timeout=60)
    except (httpx.TransportError, errors.ControllerGoneError):
        return []
    assert answer.status_code == 200
    return answer.text.splitlines()


def counted(instance: serve.Instance) -> list[str]:
    return [line.split()[-1] for line in lines(instance) if line.startswith("words_total{")]


def reading(instance: serve.Instance) -> set[int]:
    return {int(float(line.split()[-1])) for line in lines(instance) if line.startswith("reading_pid{")}


def read(instance: serve.Instance, times: int) -> None:
    with httpx.Client(base_url=instance.url, timeout=60) as client:
        for _ in range(times):
            assert client.get("/read?text=two+words").text == "read"


def test_words_are_counted_whoever_is_killed(standing: subprocess.Popen[str], attached: serve.Instance) -> None:
    read(attached, 10)
    until(lambda: counted(attached) == ["20.0"])
    assert reading(attached) == pids(attached, "reader")
    killed = min(pids(attached, "reader"))
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(reading(attached)) == 2 and killed not in reading(attached))
    assert counted(attached) == ["20.0"]
    read(attached, 10)
    until(lambda: counted(attached) == ["40.0"])
    os.kill(controller(standing), signal.SIGKILL)
    until(lambda: counted(attached))
    assert counted(attached) == ["40.0"]
    read(attached, 10)
    until(lambda: counted(attached) == ["60.0"])
    assert {
        'word_length_bucket{backend="reader",le="2.0"} 0.0',
        'word_length_bucket{backend="reader",le="8.0"} 60.0',
        'word_length_count{backend="reader"} 60.0',
        'word_length_sum{backend="reader"} 240.0',
    } <= set(lines(attached))


def test_what_a_replica_counted_last_is_told_when_it_ends(attached: serve.Instance) -> None:
    read(attached, 5)
    attached.delete_endpoint("read")
    attached.delete_backend("reader")
    assert counted(attached) == ["10.0"]
    assert reading(attached) == set()


def test_replicas_tell_of_themselves(attached: serve.Instance) -> None:
    def told() -> dict[str, float]:
        found = [line.rpartition(" ") for line in lines(attached) if line.startswith("servekit_replica_")]
        return {key.partition("{")[0]: float(value) for key, _, value in found if 'backend="reader"' in key}

    now = until(lambda: (found := told()).get("servekit_replica_open_fds") and found)
    assert now["servekit_replica_open_fds"] > 3
    assert now["servekit_replica_resident_memory_bytes"] > 1e6
    assert now["servekit_replica_event_loop_lag_seconds"] >= 0
    assert now["servekit_replica_calls_running"] == now["servekit_replica_calls_waiting"] == 0


def test_a_global_of_a_script_counts_in_its_replica(scripts: Scripts) -> None:
    process = scripts.start(scripts.write("script.py", SCRIPT))
    assert told(process) == {"lines": ['words_total{backend="reader",language="en"} 3.0']}
