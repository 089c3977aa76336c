"""What the tests of the kits share."""

from __future__ import annotations

import pytest


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit for adapters waits for a second, where it has to see that something does not come."""
    monkeypatch.setattr("servekit.testing.conformance.RequestAdapterTests.patience_s", 1.0)
