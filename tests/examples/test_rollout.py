"""The rollout example: its versions without servekit, and the demo on each runtime."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from flask import Request

ROLLOUT = Path(__file__).parents[2] / "examples" / "rollout"


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROLLOUT))
    return importlib.import_module("versions")


def right(versions: ModuleType, name: str) -> tuple[int, int]:
    """How many of the test images a version reads rightly, and for how many it raises."""
    version = getattr(versions, name)()
    _, images, _, labels = versions.load_split()
    found = failed = 0
    for image, label in zip(images, labels, strict=True):
        request = Request.from_values("/digits", method="POST", json={"image": image.tolist()})
        try:
            answer = version(request)
        except ValueError:
            failed += 1
            continue
        assert answer["version"] == name.lower()
        found += answer["label"] == label
    return found, failed


def test_one_version_is_worse_in_one_class_of_input_and_one_is_better(versions: ModuleType) -> None:
    (old, of_old), (_, of_worse), (better, of_better) = (right(versions, name) for name in ("V1", "V2", "V3"))
    assert (of_old, of_better) == (0, 0)
    assert 0.02 <= of_worse / versions.TEST_IMAGES <= 0.05
    assert better > old > 0.9 * versions.TEST_IMAGES


def test_a_worse_version_is_rolled_back_and_no_request_fails_but_its_own(run_demo: Callable[..., str]) -> None:
    printed = run_demo(ROLLOUT, "--to", "v2")
    assert "v2 is rolled back: errors" in printed
    failed, of_v2, share = re.findall(r"requests (\d+) failed, (\d+) of them by v2, which had at most (\d+)%", printed)[
        0
    ]
    assert int(failed) == int(of_v2) > 0
    assert share == "3"
    assert "v2 raised ValueError in crop" in printed


@pytest.mark.runtimes("process")
def test_a_better_version_is_promoted(run_demo: Callable[..., str]) -> None:
    printed = run_demo(ROLLOUT, "--to", "v3")
    assert "v3 is promoted" in printed
    assert " 0 failed, 0 of them by v3" in printed
