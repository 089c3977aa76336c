"""The bundled judge ``threshold``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from servekit.interfaces import Reported, RolloutJudge, Ruling, Sample, Verdict
from servekit_judges import options, words
from servekit_judges.histograms import quantile_bucket
from servekit_judges.options import Limits

Finding = tuple[Ruling, str]


class Threshold(RolloutJudge):
    """Limits that the candidate has to keep in each step, whatever the version beside it does.

    A limit is broken where it is by the figures as they are: nothing is said of how likely that is by chance, but that
    there must be ``min_requests``, and ``failures_in_row`` looks that all find it so.
    """

    per_step = True

    def __init__(
        self,
        error_rate: float | None = 0.01,
        p99_s: float | None = None,
        report_limits: Mapping[str, Mapping[str, float]] | None = None,
        max_differing: float | None = None,
        min_requests: int = 100,
        failures_in_row: int = 3,
        look_every_s: float = 10.0,
    ) -> None:
        """
        Args:
            error_rate: the largest share of requests that may fail, from 0 to 1; None: any.
            p99_s: the longest that the 99th percentile of durations may be, rounded up to a bound of the histogram,
                which has ten a decade: what is in the same bucket cannot be told apart. None: any.
            report_limits: by the name of ``servekit.report``, what its mean may be: ``{"accuracy": {"min": 0.9}}``,
                with ``min``, ``max`` or both.
            max_differing: the largest share of answers as a shadow that may differ, from 0 to 1; None: any.
            min_requests: before so many requests of the candidate, or compared answers, nothing is said of them.
            failures_in_row: how many looks in a row have to find a limit broken.
            look_every_s: the time between two looks.

        Raises:
            ValueError: an option is out of its range, or there is no limit.
        """
        self._error_rate = None if error_rate is None else options.share("error_rate", error_rate)
        self._p99_s = None if p99_s is None else options.positive("p99_s", p99_s)
        self._report_limits = options.limits("report_limits", report_limits)
        self._max_differing = None if max_differing is None else options.share("max_differing", max_differing)
        if self._error_rate is self._p99_s is self._max_differing is None and not self._report_limits:
            raise ValueError("there is no limit: give error_rate, p99_s, report_limits or max_differing")
        self._min_requests = options.count("min_requests", min_requests)
        self.patience = options.count("failures_in_row", failures_in_row)
        self.look_every_s = options.positive("look_every_s", look_every_s)
        self.reports = tuple(self._report_limits)

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        if candidate.requests < self._min_requests:
            return Verdict(
                Ruling.UNSURE, f"{candidate.requests:,} requests of the {self._min_requests:,} that it takes to tell"
            )
        findings = list(self._findings(candidate))
        for ruling in (Ruling.WORSE, Ruling.UNSURE):
            if found := [text for each, text in findings if each is ruling]:
                return Verdict(ruling, words.joined(found))
        return Verdict(Ruling.NO_WORSE, words.joined([text for _, text in findings]))

    def _findings(self, candidate: Sample) -> Iterator[Finding]:
        if self._error_rate is not None:
            yield _most("errors", candidate.errors, candidate.requests, self._error_rate)
        if self._p99_s is not None:
            yield _p99(candidate, self._p99_s)
        for name, limits in self._report_limits.items():
            yield _mean(name, candidate.reports.get(name, Reported()), limits)
        if self._max_differing is not None:
            yield self._shadow(candidate, self._max_differing)

    def _shadow(self, candidate: Sample, limit: float) -> Finding:
        if candidate.shadow_pairs < self._min_requests:
            compared = f"{candidate.shadow_pairs:,} answers as a shadow compared"
            return Ruling.UNSURE, f"{compared}, of the {self._min_requests:,} that it takes to tell"
        return _most("answers as a shadow that differ", candidate.shadow_differing, candidate.shadow_pairs, limit)


def _most(what: str, hits: int, trials: int, limit: float) -> Finding:
    figures = f"{what} {words.of(hits, trials)}"
    if hits > limit * trials:
        return Ruling.WORSE, f"{figures}: more than {words.percent(limit)}"
    return Ruling.NO_WORSE, f"{figures}, which may be {words.percent(limit)}"


def _p99(candidate: Sample, limit_s: float) -> Finding:
    if not sum(candidate.durations):
        return Ruling.UNSURE, "no durations were counted"
    low, high = quantile_bucket(candidate, 0.99)
    figures = f"p99 {words.between(low, high)}"
    if low >= limit_s:
        return Ruling.WORSE, f"{figures}: longer than {words.seconds(limit_s)}"
    return Ruling.NO_WORSE, f"{figures}, which may be {words.seconds(limit_s)}"


def _mean(name: str, reported: Reported, limits: Limits) -> Finding:
    mean = reported.mean
    if mean is None:
        return Ruling.UNSURE, f"no {name} was reported"
    figures = f"{name} {mean:.4g} in the mean of {reported.count:,}"
    if limits.least is not None and not mean >= limits.least:
        return Ruling.WORSE, f"{figures}: less than {limits.least:g}"
    if limits.most is not None and not mean <= limits.most:
        return Ruling.WORSE, f"{figures}: more than {limits.most:g}"
    return Ruling.NO_WORSE, f"{figures}, which is within its limits"
