"""The probes tell what requests would meet, on instances with real replicas."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.waiting import until

from servekit.testing.instances import ServedInstance

# Ray has a part in how replicas start and end, and none in what the ingress says of them.
pytestmark = pytest.mark.runtimes("inprocess", "process")


class Gated:
    """Can be built where a file is there."""

    def __init__(self, gate: str) -> None:
        if not Path(gate).exists():
            raise ValueError("no such model")

    def __call__(self, request: object) -> str:
        return "done"


def test_an_endpoint_whose_only_backend_fails_to_start_is_not_ready(serve: ServedInstance, tmp_path: Path) -> None:
    assert serve.client.get("/-/readyz").status_code == 200
    serve.create_backend("b", Gated, str(tmp_path / "model"), wait=False)
    serve.create_endpoint("e", "/e", backend="b")
    until(lambda: "its replicas fail to start" in serve.client.get("/-/readyz").text)
    assert serve.client.get("/-/readyz/e").status_code == 503
    assert serve.client.get("/-/livez").status_code == 200
    (tmp_path / "model").touch()
    until(lambda: serve.client.get("/-/readyz").status_code == 200)
    assert serve.client.get("/e").text == "done"


def test_a_backend_that_scales_from_zero_is_ready_until_it_fails_to_start(
    serve: ServedInstance, tmp_path: Path
) -> None:
    scaling = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_replicas": 0}
    serve.create_backend("b", Gated, str(tmp_path / "model"), config=scaling)
    serve.create_endpoint("e", "/e", backend="b", timeout_s=0.5)
    assert serve.client.get("/-/readyz/e").status_code == 200
    assert serve.client.get("/e").status_code in (503, 504)
    until(lambda: serve.client.get("/-/readyz/e").status_code == 503)
