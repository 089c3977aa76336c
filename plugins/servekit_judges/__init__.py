"""The bundled judges of roll-outs."""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import RolloutJudgeFactory
from servekit_judges.sequential import Sequential
from servekit_judges.threshold import Threshold

__all__ = ["Sequential", "Threshold"]


@hookimpl
def servekit_register_rollout_judges() -> Mapping[str, RolloutJudgeFactory]:
    return {"sequential": Sequential, "threshold": Threshold}
