"""Two classifiers of handwritten digits, each a handler class: trained once per replica, asked by POST.

A request's body is ``{"image": [64 numbers from 0 to 16]}``, the answer ``{"label", "model", "probability"}``.
"""

from __future__ import annotations

from typing import Any

from flask import Request
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TEST_IMAGES = 300


def load_split() -> tuple[Any, Any, Any, Any]:
    """Training images, test images, training labels, test labels: the same split in every process."""
    images, labels = load_digits(return_X_y=True)
    return tuple(train_test_split(images, labels, test_size=TEST_IMAGES, random_state=0, stratify=labels))


def classify(name: str, model: Any, request: Request) -> Any:
    """What ``model`` sees on the image in ``request``; 400 when there is no image in it."""
    body = request.get_json()
    image = body.get("image") if isinstance(body, dict) else None
    if not (isinstance(image, list) and len(image) == 64 and all(isinstance(pixel, int | float) for pixel in image)):
        return {"error": 'send {"image": [64 numbers from 0 to 16]}'}, 400
    probabilities = model.predict_proba([image])[0]
    best = probabilities.argmax()
    return {"label": int(model.classes_[best]), "model": name, "probability": round(float(probabilities[best]), 3)}


class LogisticDigits:
    """Logistic regression on standardised pixels."""

    def __init__(self) -> None:
        train, _, labels, _ = load_split()
        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, labels)

    def __call__(self, flask_request: Request) -> Any:
        return classify("logistic", self.model, flask_request)


class ForestDigits:
    """A random forest."""

    def __init__(self) -> None:
        train, _, labels, _ = load_split()
        self.model = RandomForestClassifier(n_estimators=100, random_state=0).fit(train, labels)

    def __call__(self, flask_request: Request) -> Any:
        return classify("forest", self.model, flask_request)
