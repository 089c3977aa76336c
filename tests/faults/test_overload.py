"""Ten times what the replicas can answer: what they do is to be of use to somebody."""

from __future__ import annotations

import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from benchmarks.fixed_rate import measure

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]

SERVICE_S = 0.1
REPLICAS = 2
TIMEOUT_S = 1.0
TIMES = 10
DURATION_S = 6.0


class Counted:
    """Writes down each call that it runs."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __call__(self, request: Any) -> str:
        with open(self.log, "a") as log:
            log.write("x")
        time.sleep(SERVICE_S)
        return "done"


@pytest.mark.parametrize("ingress_workers", [1, 2])
def test_what_replicas_answer_is_in_time(start: Any, tmp_path: Path, ingress_workers: int) -> None:
    log = tmp_path / "calls"
    instance = start(ingress_workers=ingress_workers)
    config = {"num_replicas": REPLICAS, "max_queued_requests": 10_000}
    instance.create_backend("b", Counted, str(log), config=config)
    instance.create_endpoint("e", "/e", ["GET"], backend="b", timeout_s=TIMEOUT_S)
    port = urllib.parse.urlsplit(instance.url).port
    assert port is not None
    found = measure(port, "/e", TIMES * REPLICAS / SERVICE_S, DURATION_S, TIMEOUT_S, 0.0)
    assert set(found.statuses) <= {"200", "503", "504"}, found
    # Without an end to the queue, all that were answered after the first second were too late: a tenth or so.
    assert found.in_time >= 0.5 * len(log.read_text()), found
    # And the most were told at once: what waits is what can be answered.
    assert found.statuses["503"] >= 0.5 * found.sent, found
