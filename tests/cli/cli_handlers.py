"""A handler in a module of its own: what it needs, and is frozen with it, is little."""

from __future__ import annotations

from typing import Any

from servekit.interfaces import RolloutJudge, Ruling, Sample, Verdict


def handler(flask_request: Any) -> Any:
    body = flask_request.get_data(as_text=True)
    return {"method": flask_request.method, "body": body, "x": flask_request.headers.get("x-tried")}


class Says(RolloutJudge):
    """A judge that finds every candidate as it was told to."""

    def __init__(self, ruling: str = "no_worse", why: str = "as good") -> None:
        self.verdict = Verdict(Ruling(ruling), why)

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        return self.verdict
