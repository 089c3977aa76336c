"""The bundled judge ``sequential``, the default.

It tells how sure one can be that the candidate fails more often, or is slower, than the version that serves beside it
at the same time. It may be asked at any moment, as often as one likes: the chance that it is *ever* wrong is bounded,
over the whole roll-out. A test for a fixed number of requests has no such bound where one looks repeatedly.

The idea, for canaries, is Lindon, Sanden and Shirikian's (Rapid Regression Detection in Software Deployments through
Sequential Testing, arXiv 2205.14762; for counts Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data,
2022). Error rates are compared by bets on both versions (`evidence`), latencies by confidence sequences of quantiles at
the bounds of the histogram (`histograms`; Howard and Ramdas, Sequential Estimation of Quantiles, arXiv 1906.09712).

**What is said.** Each of the error rate and the quantiles is

* no worse, where the candidate's is certainly below the baseline's and the margin together;
* else worse, where the candidate's is certainly above the baseline's; or, with ``beyond_margin``, above the baseline's
  and the margin together;
* else unsure.

One that is worse makes the candidate `WORSE`; all being no worse makes it `NO_WORSE`. So a difference that is smaller
than the margin may be found either way: of less than half of it, *no worse* is mostly certain first. With
``beyond_margin`` it is never called worse, but one that is about as large as the margin is never decided.

**How sure.** ``alpha`` bounds the chance that a candidate that is no worse is ever called `WORSE`: half of it is for
the error rate, half for the quantiles, in equal parts. It bounds, too, the chance that a candidate that is worse by
more than the margin, in any of them, is ever called `NO_WORSE`: that takes all of them, so there nothing is divided.

**What is assumed.** That chance draws the version of each request, whatever is in it; that requests fail, or take long,
independently of each other; and that how often a version's do is the same throughout its samples. Where that changes
for both versions alike, an outage say, while their shares remain, both samples change alike, and the comparison is
fair. Where the shares change too, at another step, the versions have other parts of the bad time, and it is not.
So each step is judged by itself, and ``alpha`` is divided among the steps; unless ``steps`` is None.
"""

from __future__ import annotations

from collections.abc import Sequence

from servekit.interfaces import RolloutJudge, Ruling, Sample, Verdict
from servekit_judges import options, words
from servekit_judges.evidence import ABOVE, BELOW, Counts, is_certain
from servekit_judges.histograms import QuantileLimits

Finding = tuple[Ruling, str]


class Sequential(RolloutJudge):
    """An anytime-valid test of the error rate and of quantiles of the latency, against the version beside it."""

    def __init__(
        self,
        alpha: float = 0.05,
        margin: float = 0.01,
        relative_margin: float = 0.25,
        quantiles: Sequence[float] = (0.5, 0.99),
        latency_margin: float = 2.0,
        latency_floor_s: float = 0.005,
        beyond_margin: bool = False,
        steps: int | None = 1,
        look_every_s: float = 1.0,
    ) -> None:
        """
        Args:
            alpha: the chance that a candidate that is no worse is ever called worse, between 0 and 0.5; and that one
                that is worse by more than the margin is ever called no worse.
            margin: the candidate's error rate may be that much above the baseline's, above 0 and below 1.
            relative_margin: or this part of the baseline's error rate, where that is more.
            quantiles: of the latency, each between 0 and 1; empty: the latency is not judged.
            latency_margin: a quantile of the candidate's may be that many times the baseline's. The histogram has ten
                bounds a decade: it takes at least 1.6 to be reached wherever the quantile lies.
            latency_floor_s: quantiles up to that are never worse.
            beyond_margin: worse is only what is worse by more than the margin.
            steps: so many steps, at most, are judged, each by itself, and share ``alpha``; default, as many as the
                roll-out has. None: all that was seen since the candidate's warm-up counts together.
            look_every_s: the time between two looks.

        Raises:
            ValueError: an option is out of its range.
        """
        self._alpha = options.share("alpha", alpha, high=0.5, open_ends=True)
        self._margin = options.share("margin", margin, open_ends=True)
        self._relative_margin = options.at_least("relative_margin", relative_margin, 0.0)
        self._quantiles = options.quantiles("quantiles", quantiles)
        self._latency_margin = options.at_least("latency_margin", latency_margin, 1.0)
        self._latency_floor_s = options.at_least("latency_floor_s", latency_floor_s, 0.0)
        self._beyond_margin = beyond_margin
        self._steps = 1 if steps is None else options.count("steps", steps)
        self.per_step = steps is not None
        self.look_every_s = options.positive("look_every_s", look_every_s)
        self.claim = self._claim()
        self._chance = self._alpha / self._steps
        self._error_chance = self._chance / 2 if self._quantiles else self._chance
        # Each compares two quantiles, of which either may be taken for where it is not.
        of_each = self._chance / 4 / max(1, len(self._quantiles))
        self._for_worse = [QuantileLimits(each, of_each) for each in self._quantiles]
        self._for_no_worse = [QuantileLimits(each, self._chance / 2) for each in self._quantiles]

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        for version, sample in (("candidate", candidate), ("baseline", baseline)):
            if sample.requests <= 0:
                return Verdict(Ruling.UNSURE, f"no requests of the {version} yet")
        findings = [self._errors(baseline, candidate)]
        findings += [self._latency(at, baseline, candidate) for at in range(len(self._quantiles))]
        for ruling in (Ruling.WORSE, Ruling.UNSURE):
            if found := [text for each, text in findings if each is ruling]:
                return Verdict(ruling, words.joined(found))
        return Verdict(Ruling.NO_WORSE, words.joined([text for _, text in findings]))

    def _errors(self, baseline: Sample, candidate: Sample) -> Finding:
        ours, theirs = Counts(candidate.errors, candidate.requests), Counts(baseline.errors, baseline.requests)
        figures = f"errors {words.of(*ours)} against {words.of(*theirs)}"
        margin = words.percent(self._allowed(theirs.rate) - theirs.rate)
        if is_certain(ours, theirs, BELOW, self._chance, self._allowed):
            return Ruling.NO_WORSE, f"{figures}: not worse by {margin}, {self._sure}"
        allowed = self._allowed if self._beyond_margin else _same
        if is_certain(ours, theirs, ABOVE, self._error_chance, allowed):
            by = f" by more than {margin}" if self._beyond_margin else ""
            return Ruling.WORSE, f"{figures}: worse{by}, {self._sure}"
        return Ruling.UNSURE, f"{figures}: not certain yet"

    def _latency(self, at: int, baseline: Sample, candidate: Sample) -> Finding:
        limits = self._for_no_worse[at]
        least, most = limits.least(baseline), limits.most(candidate)
        name, times = words.quantile(self._quantiles[at]), f"{self._latency_margin:g} times"
        if most <= self._latency_floor_s:
            return Ruling.NO_WORSE, f"{name} at most {words.seconds(most)}: short enough, {self._sure}"
        if most <= self._latency_margin * least:
            figures = f"{name} at most {words.seconds(most)} against more than {words.seconds(least)}"
            return Ruling.NO_WORSE, f"{figures}: not worse by {times}, {self._sure}"
        strict = self._for_worse[at]
        above, up_to = strict.least(candidate), strict.most(baseline)
        if above >= max(up_to * (self._latency_margin if self._beyond_margin else 1.0), self._latency_floor_s):
            by = f" by more than {times}" if self._beyond_margin else ""
            figures = f"{name} more than {words.seconds(above)} against at most {words.seconds(up_to)}"
            return Ruling.WORSE, f"{figures}: worse{by}, {self._sure}"
        here = words.between(limits.least(candidate), most)
        there = words.between(least, limits.most(baseline))
        return Ruling.UNSURE, f"{name} {here} against {there}: not certain yet"

    def _allowed(self, rate: float) -> float:
        """The error rate that the candidate may have, where the baseline's is ``rate``."""
        return rate + max(self._margin, self._relative_margin * rate)

    @property
    def _sure(self) -> str:
        return f"sure to {words.percent(1 - self._alpha)}"

    def _claim(self) -> str:
        chance, margin = words.percent(self._alpha), words.percent(self._margin)
        names = " or ".join(words.quantile(each) for each in self._quantiles)
        floor = f" and takes more than {words.seconds(self._latency_floor_s)}" if self._latency_floor_s else ""
        slower = f", or that is slower by {self._latency_margin:g} times in {names}{floor}," if names else ""
        worse = "no worse by more than the margin" if self._beyond_margin else "no worse"
        wrong = (
            f"of candidates that are {worse}, at most {chance} are ever called worse, however often one looks; of "
            f"those with an error rate that is higher by {margin} or more{slower} at most {chance} are ever called no "
            "worse"
        )
        return f"{wrong}, in {self._steps} judged steps or fewer" if self.per_step and self._steps > 1 else wrong


def _same(rate: float) -> float:
    return rate
