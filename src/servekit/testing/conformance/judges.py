"""The conformance kit for judges of roll-outs."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from servekit.interfaces import Reported, RolloutJudge, Ruling, Sample, Verdict
from servekit.testing.conformance.helpers import described, fail, for_all, hypothesis
from servekit.testing.conformance.policies import no_blocking

BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
REQUESTS = (1, 10, 100, 1_000, 20_000, 3_000_000)
_GOODNESS = {Ruling.WORSE: 0, Ruling.UNSURE: 1, Ruling.NO_WORSE: 2}


class RolloutJudgeTests:
    """The tests that every judge of roll-outs must pass. Derive a class from this one in a module of tests, and
    override `make_judge`::

        class TestMine(RolloutJudgeTests):
            options = {"most": 0.02}

            def make_judge(self, **options):
                return Mine(**options)

    The attributes below are claims about the judge; each is checked.
    """

    options: Mapping[str, Any] = {}
    """What `make_judge` is given: a roll-out's ``judge_options``."""
    compares: bool = True
    """It compares the two versions, so that versions whose samples are alike are not worse. False: it goes by the
    candidate alone, say."""
    counts_errors: bool = True
    """More errors among as many requests never make its verdict better."""
    max_examples: int = 50
    """The number of examples that hypothesis tries in each test that uses it."""

    def make_judge(self, **options: Any) -> RolloutJudge:
        """A new judge, as the core makes one for each roll-out."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_judge that returns a new judge")

    def make_sample(self, requests: int, errors: int = 0, duration_s: float = 0.04) -> Sample:
        """A sample without oddities: of every name in `RolloutJudge.reports` 1.0 is reported, and where there are
        requests a hundredth of them are compared as a shadow's. Override it where the judge's limits ask for others."""
        durations = [0] * (len(BOUNDS) + 1)
        durations[sum(bound < duration_s for bound in BOUNDS)] = requests
        reports = {name: Reported(requests, float(requests)) for name in self._judge().reports}
        return Sample(requests, errors, BOUNDS, tuple(durations), reports, requests // 100)

    # -- what it says of itself --------------------------------------------------------------------------------------

    def test_what_it_says_of_itself(self) -> None:
        judge = self._judge()
        names: Any = judge.reports
        if isinstance(names, str) or not isinstance(names, Collection) or not all(isinstance(n, str) for n in names):
            fail(f"reports is {names!r}", "it is a collection of the names that the judge looks at, and no text")
        if not isinstance(judge.per_step, bool):
            fail(f"per_step is {judge.per_step!r}", "it is True or False")
        if isinstance(judge.patience, bool) or not isinstance(judge.patience, int) or judge.patience < 1:
            fail(f"patience is {judge.patience!r}", "it is a whole number that is at least 1")
        if not isinstance(judge.look_every_s, (int, float)) or not judge.look_every_s > 0:
            fail(f"look_every_s is {judge.look_every_s!r}", "it is a number of seconds above 0")
        if not isinstance(judge.claim, str) or len(judge.claim.splitlines()) > 1:
            fail(f"claim is {judge.claim!r}", "it is a text on one line, or empty")

    def test_its_options_survive_the_controller(self) -> None:
        """The controller keeps the options as JSON, and makes the judge anew from them."""
        try:
            read = json.loads(json.dumps(self.options, allow_nan=False))
        except (TypeError, ValueError) as error:
            fail(f"its options {self.options!r} cannot be kept ({described(error)})", "they are plain data", error)
        again = self._judge(read)
        for requests in REQUESTS:
            samples = self.make_sample(20 * requests, requests), self.make_sample(requests, requests // 2)
            self._same(
                self._verdict(self._judge(), *samples), self._verdict(again, *samples), "made of options as JSON"
            )

    # -- any samples -------------------------------------------------------------------------------------------------

    def test_any_samples_get_a_verdict(self) -> None:
        """Of no requests at either side, of no durations, of names that were not reported, of everything failing; and
        nothing is waited for."""

        def check(baseline: Sample, candidate: Sample, elapsed_s: float) -> None:
            blocking: list[str] = []
            try:
                with no_blocking(blocking.append):
                    self._verdict(self._judge(), baseline, candidate, elapsed_s)
            except AssertionError:
                if not blocking:
                    raise
            if blocking:
                fail(f"judge called {blocking[0]}, which blocks", "it is a function of its arguments alone")

        self._for_all(check, self._samples(), self._samples(), hypothesis().strategies.floats(0, 1e9))

    def test_the_same_samples_get_the_same_verdict(self) -> None:
        """In another object too, and whatever the judge was asked between: it is made anew after a restart."""

        def check(baseline: Sample, candidate: Sample, other: Sample) -> None:
            judge = self._judge()
            first = self._verdict(judge, baseline, candidate)
            for samples in ((candidate, baseline), (other, other), (other, candidate)):
                self._verdict(judge, *samples)
            self._same(first, self._verdict(judge, baseline, candidate), "asked again, after others")
            self._same(first, self._verdict(self._judge(), baseline, candidate), "asked as another object")

        self._for_all(check, self._samples(), self._samples(), self._samples())

    # -- what it may say -----------------------------------------------------------------------------------------------

    def test_no_requests_are_no_failure(self) -> None:
        """Where the candidate has had no requests, nothing is known of it: it is neither worse nor no worse."""
        for requests in (0, *REQUESTS):
            for errors in (0, requests // 2, requests):
                baseline = self.make_sample(requests, errors)
                for candidate in (Sample(), self.make_sample(0)):
                    verdict = self._verdict(self._judge(), baseline, candidate, 3600.0)
                    if verdict.ruling is not Ruling.UNSURE:
                        self._wrong(verdict, baseline, candidate, "a candidate that has had no requests is UNSURE")

    def test_versions_that_are_alike_are_not_worse(self) -> None:
        if not self.compares:
            pytest.skip("the judge does not claim to compare: versions that are alike may both be beyond its limits")
        for requests in REQUESTS:
            for errors in (0, 1, requests // 100, requests // 2, requests):
                for duration_s in (0.001, 0.15, 60.0):
                    sample = self.make_sample(requests, errors, duration_s)
                    verdict = self._verdict(self._judge(), sample, sample)
                    if verdict.ruling is Ruling.WORSE:
                        self._wrong(verdict, sample, sample, "the candidate is not WORSE where both did the same")

    def test_more_errors_are_never_better(self) -> None:
        if not self.counts_errors:
            pytest.skip("the judge does not claim counts_errors")
        for requests in REQUESTS:
            for baseline_errors in (0, requests // 20):
                baseline, before = self.make_sample(4 * requests, baseline_errors), None
                for errors in sorted({*range(min(requests, 12)), *(requests * n // 20 for n in range(21))}):
                    candidate = self.make_sample(requests, errors)
                    verdict = self._verdict(self._judge(), baseline, candidate)
                    if before and _GOODNESS[verdict.ruling] > _GOODNESS[before.ruling]:
                        contract = f"more errors are never better, and with fewer it was {before.ruling.name}"
                        self._wrong(verdict, baseline, candidate, contract)
                    before = verdict

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _judge(self, options: Mapping[str, Any] | None = None) -> RolloutJudge:
        judge: object = self.make_judge(**(self.options if options is None else options))
        if isinstance(judge, RolloutJudge):
            return judge
        raise AssertionError(f"make_judge returned {judge!r}, which is no servekit.interfaces.RolloutJudge")

    def _verdict(self, judge: RolloutJudge, baseline: Sample, candidate: Sample, elapsed_s: float = 60.0) -> Verdict:
        """What the judge says, which is checked; so is that it writes to no sample."""
        __tracebackhide__ = True
        samples = baseline, candidate
        before = copy.deepcopy(samples)
        try:
            verdict: object = judge.judge(*samples, elapsed_s)
        except Exception as error:
            fail(f"judge raised {described(error)} for {_shown(*samples)}", "any samples get a verdict", error)
        if samples != before:
            fail(f"judge wrote to a sample: {before!r} became {samples!r}", "it leaves samples as they are")
        if not isinstance(verdict, Verdict) or not isinstance(verdict.ruling, Ruling):
            fail(f"judge returned {verdict!r} for {_shown(*samples)}", "it returns a servekit.interfaces.Verdict")
        reason: Any = verdict.reason
        if (
            not isinstance(reason, str)
            or len(reason.splitlines()) != 1
            or reason != reason.strip()
            or reason[-1] == "."
        ):
            fail(f"the reason is {reason!r}", "it is a sentence on one line, without a full stop")
        return verdict

    def _same(self, one: Verdict, other: Verdict, how: str) -> None:
        __tracebackhide__ = True
        if one != other:
            fail(f"the same samples got {one!r}, and {how} {other!r}", "the same arguments get the same verdict")

    def _wrong(self, verdict: Verdict, baseline: Sample, candidate: Sample, contract: str) -> None:
        __tracebackhide__ = True
        said = f"judge said {verdict.ruling.name} ({verdict.reason}) of {_shown(baseline, candidate)}"
        fail(said, contract)

    def _for_all(self, check: Any, *strategies: object) -> None:
        for_all(check, *strategies, max_examples=self.max_examples)

    def _samples(self) -> Any:
        """Samples as they may come, with and without what the judge looks at."""
        given = hypothesis().strategies
        names = sorted({*self._judge().reports, "servekit_other"})

        @given.composite  # type: ignore[untyped-decorator]
        def samples(draw: Any) -> Sample:
            bounds = draw(given.sampled_from([(), BOUNDS, (0.5,)]))
            amount = given.integers(0, draw(given.sampled_from([0, 3, 1_000, 10**7])))
            durations = tuple(draw(amount) for _ in range(len(bounds) + 1))
            requests, pairs = sum(durations), draw(amount)
            reports = {
                name: Reported(draw(given.integers(0, 1_000)), draw(given.floats(-1e9, 1e9)))
                for name in names
                if draw(given.booleans())
            }
            errors, differing = draw(given.integers(0, requests)), draw(given.integers(0, pairs))
            return Sample(requests, errors, bounds, durations if bounds else (), reports, pairs, differing)

        return samples()


def _shown(baseline: Sample, candidate: Sample) -> str:
    return " against ".join(
        f"{sample.errors:,} errors of {sample.requests:,} requests, durations {list(sample.durations)}"
        for sample in (candidate, baseline)
    )
