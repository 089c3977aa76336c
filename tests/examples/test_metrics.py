"""The files of ``examples/metrics``: alerts, and a dashboard, with a real instance and a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

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
