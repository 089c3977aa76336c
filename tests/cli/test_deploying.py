"""What is shown while a deploy is under way."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.waiting import until

from servekit.cli.deploying import _progress
from servekit.errors import ControllerGoneError

NAME = "[/b] of :smile:"


class Moving:
    """An instance that has a replica which starts, and then no controller."""

    def __init__(self) -> None:
        self.asked = 0

    def status(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked > 1:
            raise ControllerGoneError("[/i]")
        return {"backends": {NAME: {"replicas": [{"id": "r1", "state": "starting"}]}}}


@pytest.mark.parametrize("on_a_terminal", [True, False])
def test_names_and_errors_are_shown_as_they_are(
    on_a_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if on_a_terminal else "0")
    monkeypatch.setattr("servekit.cli.deploying._POLL_S", 0.15)
    moving: Any = Moving()
    with _progress(moving):
        until(lambda: moving.asked > 2)
    shown = capsys.readouterr().err
    assert f"{NAME}: " in shown
    assert "servekit: no news: [/i]" in shown
