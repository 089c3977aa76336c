"""Judges that are wrong, each in one way, and one that is right."""

from __future__ import annotations

import random
import time
from typing import Any

from servekit.interfaces import RolloutJudge, Ruling, Sample, Verdict


class TwiceTheErrors(RolloutJudge):
    """Right, if simple: not certain of anything before a hundred requests."""

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        if candidate.requests < 100 or baseline.requests < 100:
            return Verdict(Ruling.UNSURE, "too few requests")
        worse = candidate.errors * baseline.requests > 2 * baseline.errors * candidate.requests + 5
        return Verdict(Ruling.WORSE if worse else Ruling.NO_WORSE, f"errors {candidate.errors}")


class Divides(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        rate = candidate.errors / candidate.requests
        return Verdict(Ruling.WORSE if rate > 0.1 else Ruling.NO_WORSE, "rate")


class TakesNoTrafficForFailure(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        if not candidate.requests:
            return Verdict(Ruling.WORSE, "no requests")
        return super().judge(baseline, candidate, elapsed_s)


class TakesNoTrafficForSuccess(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        if not candidate.requests:
            return Verdict(Ruling.NO_WORSE, "no errors")
        return super().judge(baseline, candidate, elapsed_s)


class BlamesTheCandidateForAll(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        if candidate.requests and candidate.errors == candidate.requests:
            return Verdict(Ruling.WORSE, "all fail")
        return super().judge(baseline, candidate, elapsed_s)


class Counts(TwiceTheErrors):
    """Keeps how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        self.asked += 1
        return Verdict(Ruling.UNSURE, f"asked {self.asked} times")


class Draws(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        return Verdict(Ruling.UNSURE, f"drawn {random.random()}")


class Sleeps(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        time.sleep(0)
        return super().judge(baseline, candidate, elapsed_s)


class WritesToReports(TwiceTheErrors):
    reports = ("accuracy",)

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        candidate.reports.pop("accuracy", None)
        return super().judge(baseline, candidate, elapsed_s)


class WantsMetrics(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        return Verdict(Ruling.UNSURE, f"accuracy {candidate.reports['accuracy'].mean}")


class SaysADecision(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Any:
        return Ruling.UNSURE


class WritesTwoLines(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        return Verdict(Ruling.UNSURE, "one line\nand another")


class SaysNothing(TwiceTheErrors):
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        return Verdict(Ruling.UNSURE, "")


class LikesErrors(TwiceTheErrors):
    """Takes many errors for a test of its clients'."""

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        if candidate.requests >= 100 and candidate.errors > candidate.requests // 2:
            return Verdict(Ruling.NO_WORSE, "that cannot be")
        return super().judge(baseline, candidate, elapsed_s)


class NamesOneReport(TwiceTheErrors):
    reports = "accuracy"


class HasNoPatience(TwiceTheErrors):
    patience = 0


class NeverLooks(TwiceTheErrors):
    look_every_s = 0.0


class ClaimsALot(TwiceTheErrors):
    claim = "never wrong\nat all"


class IsOfNoStep(TwiceTheErrors):
    per_step: Any = "yes"


class TakesASet(TwiceTheErrors):
    def __init__(self, names: Any = ()) -> None:
        self.names = names
