"""Three versions of a classifier of handwritten digits: one that serves, one that is worse, and one that is better.

A request's body is ``{"image": [64 numbers from 0 to 16]}``, the answer ``{"label": 0 to 9, "version": "v1"}``. Each is
trained once per replica.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flask import Request
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

TEST_IMAGES = 600
COLUMNS = 5


def load_split() -> tuple[Any, Any, Any, Any]:
    """Training images, test images, training labels, test labels: the same split in every process."""
    images, labels = load_digits(return_X_y=True)
    return tuple(train_test_split(images, labels, test_size=TEST_IMAGES, random_state=0, stratify=labels))


class V1:
    """Logistic regression on standardised pixels."""

    def __init__(self) -> None:
        train, _, labels, _ = load_split()
        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, labels)

    def __call__(self, flask_request: Request) -> dict[str, Any]:
        return {"label": int(self.model.predict([flask_request.get_json()["image"]])[0]), "version": "v1"}


class V2:
    """The same on the part of an image that has ink. It was tried with wide digits alone: a narrow one makes it raise,
    most often a one."""

    def __init__(self) -> None:
        train, _, labels, _ = load_split()
        wide = [at for at, image in enumerate(train) if ink(image).shape[1] >= COLUMNS]
        cropped = [crop(train[at]) for at in wide]
        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(cropped, labels[wide])

    def __call__(self, flask_request: Request) -> dict[str, Any]:
        image = np.array(flask_request.get_json()["image"])
        return {"label": int(self.model.predict([crop(image)])[0]), "version": "v2"}


def ink(image: Any) -> Any:
    """The columns from the first that has ink to the last."""
    rows = image.reshape(8, 8)
    columns = np.flatnonzero(rows.any(axis=0))
    return rows[:, columns[0] : columns[-1] + 1]


def crop(image: Any) -> Any:
    """So many columns of the ink, evenly apart."""
    rows = ink(image)
    return rows[:, :: rows.shape[1] // COLUMNS][:, :COLUMNS].ravel()  # Of a narrow one, a step of 0.


class V3:
    """A support vector machine."""

    def __init__(self) -> None:
        train, _, labels, _ = load_split()
        self.model = SVC(gamma=0.001).fit(train, labels)

    def __call__(self, flask_request: Request) -> dict[str, Any]:
        return {"label": int(self.model.predict([flask_request.get_json()["image"]])[0]), "version": "v3"}
