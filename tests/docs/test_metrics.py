"""The table of families in ``docs/metrics.md`` is that of the families there are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.admin import Kept

from servekit.control.metrics import Metrics
from servekit.testing.instances import open_host

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(servekit_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


def test_families_kinds_and_labels() -> None:
    with open_host("inprocess") as registry, Kept(registry) as instance:  # type: ignore[arg-type]

        async def families() -> dict[str, tuple[str, tuple[str, ...]]]:
            metrics: Metrics = instance.service.metrics
            return {family.name: (family.kind, family.labels) for family in metrics.families()}

        there = instance.submit(families())
    told = {}
    for name, kind, labels in ROW.findall(PAGE.read_text()):
        same = labels.strip() == "the same"
        told[name] = (kind, told["servekit_http_requests_total"][1] if same else tuple(re.findall(r"`(\w+)`", labels)))
    assert told == there
