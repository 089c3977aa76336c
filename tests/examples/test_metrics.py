"""The files of ``examples/metrics``: alerts, and a dashboard, with a real instance and a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.waiting import until

import servekit as serve

FOLDER = Path(__file__).parents[2] / "examples" / "metrics"
NAME = re.compile(r"\bservekit_\w+")


def command(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*arguments: object) -> str:
    done = subprocess.run(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def test_alerts_are_rules_and_are_raised() -> None:
    promtool = command("promtool")
    assert "SUCCESS" in run(promtool, "check", "rules", FOLDER / "alerts.yml")
    assert "SUCCESS" in run(promtool, "test", "rules", FOLDER / "alerts_test.yml")


def test_each_alert_is_tried() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text())
    assert len(alerts) >= 10
    tried = (FOLDER / "alerts_test.yml").read_text()
    assert [alert for alert in alerts if f"alertname: {alert}\n        exp_alerts" not in tried] == []


def test_the_settings_of_prometheus_are_good(tmp_path: Path) -> None:
    promtool = command("promtool")
    for path in FOLDER.glob("*.yml"):
        shutil.copy(path, tmp_path)
    (tmp_path / "token").write_text("token")
    assert "SUCCESS" in run(promtool, "check", "config", tmp_path / "prometheus.yml")


def test_the_dashboard_is_laid_out() -> None:
    found = dashboard()
    panels = [panel for panel in found["panels"] if panel["type"] != "row"]
    assert len(panels) >= 20
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in found["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on each other"
    assert max(x for x, _ in cells) == 23
    assert all(panel["title"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    names = {variable["name"] for variable in found["templating"]["list"]}
    used = {name for query in queries() for name in re.findall(r"\$(\w+)", query)}
    assert used - {"__rate_interval"} <= names


# -- a real instance ---------------------------------------------------------------------------------------------------

ANSWERED = 'sum by (backend) (servekit_http_requests_total{endpoint="e",status="200"})'


@serve.accept_batch
def read(requests: list[Any]) -> list[str]:
    serve.metrics.counter("words", "Words that were read").inc(len(requests))
    return ["read"] * len(requests)


class Prometheus:
    """Scrapes an instance twice a second, with the settings of the example else."""

    def __init__(self, instance: serve.Instance, folder: Path) -> None:
        for path in FOLDER.glob("*.yml"):
            shutil.copy(path, folder)
        settings = (folder / "prometheus.yml").read_text()
        target = instance.status()["admin_url"].removeprefix("http://")
        settings = settings.replace("127.0.0.1:8001", target).replace("interval: 15s", "interval: 500ms")
        (folder / "prometheus.yml").write_text(settings)
        (folder / "token").write_text(instance.read_token)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=60)
        options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with (folder / "log").open("wb") as log:
            command_line = [command("prometheus"), *options, f"--web.listen-address={address}"]
            self._process = subprocess.Popen(command_line, cwd=folder, stdout=log, stderr=log)

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(60)

    @property
    def is_up(self) -> bool:
        """It has read the instance."""
        try:
            return self.value('up{job="servekit"}') == 1
        except (httpx.TransportError, json.JSONDecodeError):  # "Service Unavailable", in words, while it begins.
            return False

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, query: str) -> float | None:
        """Of the first series; None: there is none."""
        found = self.get("/query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None


@pytest.fixture(scope="module")
def instance() -> Iterator[serve.Instance]:
    with serve.init(runtime="process", http_port=0, admin_port=0) as instance:
        instance.create_backend("b", read, config={"num_replicas": 2, "max_batch_size": 4})
        instance.create_endpoint("e", "/e", backend="b")
        yield instance


@pytest.fixture
def prometheus(instance: serve.Instance, tmp_path: Path) -> Iterator[Prometheus]:
    command("prometheus")
    with Prometheus(instance, tmp_path) as prometheus:
        until(lambda: prometheus.is_up)
        yield prometheus


def ask(instance: serve.Instance, times: int) -> None:
    with httpx.Client(base_url=instance.url, timeout=60) as client:
        for _ in range(times):
            assert client.get("/e").text == "read"


def exposition(instance: serve.Instance) -> str:
    headers = {"authorization": f"Bearer {instance.read_token}"}
    return httpx.get(instance.status()["admin_url"] + "/metrics", headers=headers, timeout=60).text


@pytest.mark.processes
def test_what_prometheus_has_counted_was_sent_though_a_replica_was_killed(
    instance: serve.Instance, prometheus: Prometheus
) -> None:
    before = prometheus.value(ANSWERED) or 0.0
    ask(instance, 40)
    until(lambda: prometheus.value(ANSWERED) == before + 40 == prometheus.value("sum(words_total)"))
    replicas = instance.status()["backends"]["b"]["replicas"]
    os.kill(replicas[0]["pid"], signal.SIGKILL)
    until(lambda: prometheus.value('servekit_replica_restarts_total{backend="b",reason="exited"}') == 1)
    until(lambda: prometheus.value('servekit_replicas{backend="b",state="ready"}') == 2)
    ask(instance, 40)
    until(lambda: prometheus.value(ANSWERED) == before + 80 == prometheus.value("sum(words_total)"))
    assert not prometheus.value("resets(words_total[1h])")
    assert not prometheus.value("max(resets(servekit_http_requests_total[1h]))")


@pytest.mark.processes
def test_every_query_of_the_dashboard_and_the_alerts_is_answered(
    instance: serve.Instance, prometheus: Prometheus
) -> None:
    assert len(queries()) >= 30
    for query in queries():
        query = re.sub(r"\$(instance|endpoint|backend)", ".*", query).replace("$__rate_interval", "1m")
        prometheus.get("/query", query=query)
    (group,) = prometheus.get("/rules")["groups"]
    until(lambda: all(rule["health"] == "ok" for rule in prometheus.get("/rules")["groups"][0]["rules"]))
    assert len(group["rules"]) >= 10


@pytest.mark.processes
def test_what_dashboard_and_alerts_ask_for_is_there(instance: serve.Instance) -> None:
    ask(instance, 1)
    known = set(
        until(lambda: (found := exposition(instance)) and "servekit_batch_size_bucket" in found and found).split()
    )
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    asked = {name for text in (*queries(), (FOLDER / "alerts.yml").read_text()) for name in NAME.findall(text)}
    assert len(asked) >= 25
    assert sorted(asked - known) == []


@pytest.mark.processes
def test_the_metrics_are_as_prometheus_has_them(instance: serve.Instance) -> None:
    promtool = command("promtool")
    ask(instance, 1)
    text = exposition(instance)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
