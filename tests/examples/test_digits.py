"""The digits example: its models without servekit, and the whole demo on each runtime."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from flask import Request

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DIGITS))
    return importlib.import_module("models")


def post(body: object) -> Request:
    return Request.from_values("/digits", method="POST", json=body)


@pytest.mark.parametrize(("handler", "name"), [("LogisticDigits", "logistic"), ("ForestDigits", "forest")])
def test_a_model_reads_digits_that_it_has_not_seen(models: ModuleType, handler: str, name: str) -> None:
    classifier = getattr(models, handler)()
    _, images, _, labels = models.load_split()
    answers = [classifier(post({"image": image.tolist()})) for image in images[:100]]
    right = sum(answer["label"] == label for answer, label in zip(answers, labels, strict=False))
    assert right > 90
    assert all(answer["model"] == name and 0 < answer["probability"] <= 1 for answer in answers)


@pytest.mark.parametrize("body", [[], {}, {"image": [1, 2, 3]}, {"image": ["0"] * 64}])
def test_a_body_without_an_image_is_a_400(models: ModuleType, body: object) -> None:
    _, status = models.classify("any", None, post(body))
    assert status == 400


def test_the_demo_sees_the_exact_split(run_demo: Callable[..., str]) -> None:
    printed = run_demo(DIGITS)
    rows = [line.split() for line in printed.splitlines()]
    assert ["logistic", "270", "90.0%"] in [row[:3] for row in rows]
    assert ["forest", "30", "10.0%"] in [row[:3] for row in rows]
