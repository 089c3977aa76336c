"""A shadow on instances with real replicas: a changed field among noisy ones, and live requests that know nothing."""

from __future__ import annotations

import os
import time
from typing import Any

import flask
import pytest
from tests.support.waiting import until

import servekit
from servekit.testing.instances import ServedInstance

# Ray has no part in what happens between ingress worker and replica.
pytestmark = pytest.mark.runtimes("inprocess", "process")


class Model:
    """Answers with one field that a version has, and ten that are by chance."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, request: flask.Request) -> dict[str, Any]:
        noise = {f"noise{number}": os.urandom(8).hex() for number in range(10)}
        return {"k": self.k, "path": request.path, "shadow": None, **noise}


class Hangs:
    """Answers no copy in time."""

    def __call__(self, request: flask.Request) -> str:
        time.sleep(3 if servekit.get_context().shadow else 0)
        return "{}"


def test_one_changed_field_among_ten_noisy_ones(serve: ServedInstance) -> None:
    serve.create_backend("v1", Model, 1)
    serve.create_backend("v3", Model, 2)
    serve.create_endpoint("e", "/e", backend="v1")
    serve.shadow("e", to="v3", share=1.0, noise=1.0)

    def seen() -> Any:
        assert serve.client.get("/e").json()["k"] == 1
        report = serve.shadow_report("e")
        return report["repeats"] >= 15 and report["pairs"] >= 15 and report

    report = until(seen)
    assert [(each["path"], each["kind"], each["noise"]) for each in report["paths"]] == [("/k", "value", 0.0)]
    assert report["paths"][0]["examples"][0]["live"] == "1"
    assert report["paths"][0]["examples"][0]["shadow"] == "2"
    assert report["differing"] == report["pairs"]
    assert report["noisy_paths"] == 10
    assert serve.status()["shadows"]["e"]["backend"] == "v3"
    assert serve.stat()["backends"]["v3"]["requests"] == 0


def test_live_requests_go_on_while_the_shadow_hangs_or_is_gone(serve: ServedInstance) -> None:
    serve.create_backend("v1", Model, 1)
    serve.create_backend("v3", Hangs)
    serve.create_endpoint("e", "/e", backend="v1")
    serve.shadow("e", to="v3", share=1.0, noise=0.0, timeout_s=0.1)
    for _ in range(50):
        assert serve.client.get("/e").json()["k"] == 1
    until(lambda: serve.shadow_report("e")["late"])
    serve.update_backend_config("v3", {"num_replicas": 0})
    for _ in range(10):
        assert serve.client.get("/e").json()["k"] == 1
    until(lambda: serve.shadow_report("e")["dropped"].get("no_replica"))
    assert serve.stat()["endpoints"]["e"]["by_status"].keys() == {"200"}
