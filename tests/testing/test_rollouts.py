"""Whole roll-outs inside one process, on a clock that the test moves."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

import servekit
from servekit.errors import InUseError, InvalidInputError, NotFoundError, UnknownPluginError
from servekit.interfaces import RolloutJudge, Ruling, Sample, Verdict
from servekit.testing.instances import ServedInstance

pytestmark = pytest.mark.servekit(virtual_clock=True)


class Counting(RolloutJudge):
    """Takes each error of the candidate for a reason, once there are enough requests."""

    reports = ()

    def __init__(self, least: int = 4) -> None:
        self.least = least
        self.seen: list[tuple[Sample, Sample, float]] = []

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        self.seen.append((baseline, candidate, elapsed_s))
        if candidate.errors:
            return Verdict(Ruling.WORSE, f"{candidate.errors} errors of {candidate.requests}")
        if min(baseline.requests, candidate.requests) < self.least:
            return Verdict(Ruling.UNSURE, "too few requests")
        return Verdict(Ruling.NO_WORSE, f"no error of {candidate.requests}")


class Dividing(Counting):
    """Says in its claim what it divides by."""

    def __init__(self, steps: int = 1) -> None:
        super().__init__()
        self.claim = f"in {steps} steps"


@pytest.fixture
def judge() -> Counting:
    return Counting()


@pytest.fixture
def served(serve_instance: ServedInstance) -> ServedInstance:
    """Endpoint ``e`` with all its traffic on ``v1``; ``v2`` answers, ``bad`` raises."""

    def fails(request: Any) -> str:
        raise ValueError("bad")

    servekit.create_backend("v1", lambda request: "one")
    servekit.create_backend("v2", lambda request: "two")
    servekit.create_backend("bad", fails)
    servekit.create_endpoint("e", "/e", backend="v1")
    return serve_instance


def told(endpoint: str = "e") -> dict[str, Any]:
    found: dict[str, Any] = servekit.status()["rollouts"][endpoint]
    return found


@pytest.fixture
def pass_time(served: ServedInstance) -> Callable[..., Counter[str]]:
    """Let so many seconds pass, in each of which four requests come; returns what was answered."""

    def run(seconds: int, each_s: int = 4, **request: Any) -> Counter[str]:
        answers: Counter[str] = Counter()
        for _ in range(seconds):
            for _ in range(each_s):
                answer = served.client.get("/e", **request)
                answers[answer.text if answer.status_code < 400 else str(answer.status_code)] += 1
            served.clock.advance(1.0)
        return answers

    return run


def test_a_version_that_is_no_worse_takes_over_step_by_step(
    served: ServedInstance, judge: Counting, pass_time: Callable[..., Counter[str]]
) -> None:
    servekit.rollout("e", to="v2", steps=[0.25, 0.5, 1.0], judge=judge, hold_s=10.0, warmup_s=3.0)
    assert told()["state"] == "waiting"
    assert servekit.get_traffic("e") == {"v1": 1.0}
    served.clock.advance(1.0)
    assert (told()["state"], told()["share"]) == ("holding", 0.25)
    assert servekit.get_traffic("e") == {"v1": 0.75, "v2": 0.25}
    assert set(pass_time(2)) == {"one", "two"}
    assert judge.seen == [], "it warms up"
    pass_time(5)
    assert "no error of" in told()["reason"]
    assert told()["verdict"] == "no_worse"
    seen = told()["seen"]
    assert seen["v1"]["requests"] > seen["v2"]["requests"] > 0
    pass_time(8)
    assert (told()["step"], told()["share"]) == (2, 0.5)
    pass_time(12)
    assert (told()["state"], servekit.get_traffic("e")) == ("promoted", {"v2": 1.0})
    assert pass_time(1) == {"two": 4}
    entries = [(entry["traffic"], entry["why"]) for entry in servekit.history("e")]
    assert entries[0] == ({"v2": 1.0}, f"roll-out to v2: promoted, {told()['reason']}")
    assert servekit.rollback("e")["traffic"] == {"v1": 1.0}, "past the steps"
    kinds = [event["kind"] for event in servekit.events(endpoint="e") if event["kind"].startswith("rollout")]
    assert kinds == ["rollout_began", "rollout_advanced", "rollout_advanced", "rollout_promoted"]


def test_a_version_that_is_worse_goes_back(
    served: ServedInstance, judge: Counting, pass_time: Callable[..., Counter[str]]
) -> None:
    servekit.rollout("e", to="bad", steps=[0.25, 1.0], judge=judge, hold_s=10.0, warmup_s=0.0)
    answers = pass_time(5)
    assert answers["500"] >= 1
    end = told()
    assert (end["state"], servekit.get_traffic("e")) == ("rolled_back", {"v1": 1.0})
    assert end["reason"].endswith(f"of {judge.seen[-1][1].requests}")
    assert pass_time(2) == {"one": 8}
    assert list(servekit.list_backends()) == ["v1", "v2", "bad"]
    last, *_ = servekit.history("e")
    assert last["why"] == f"roll-out to bad: rolled back, {end['reason']}"
    assert last["back_to"] == 1


def test_what_is_counted_is_counted_for_the_version_that_was_chosen(
    served: ServedInstance, judge: Counting, pass_time: Callable[..., Counter[str]]
) -> None:
    judge.least = 10_000
    servekit.rollout("e", to="v2", steps=[0.5, 1.0], judge=judge, hold_s=10.0, warmup_s=0.0, header=True)
    served.clock.advance(2.0)
    answers = pass_time(10)
    assert answers == {"one": 20, "two": 20}
    baseline, candidate, elapsed_s = judge.seen[-1]
    assert (baseline.requests, candidate.requests, baseline.errors, candidate.errors) == (20, 20, 0, 0)
    assert elapsed_s == 10.0, "since the first look at the step"
    assert sum(candidate.durations) == 20
    assert pass_time(5, headers={"X-Servekit-Version": "v2"}) == {"two": 20}
    assert judge.seen[-1][1].requests == 20, "forced ones are not counted"


def test_it_asks_where_it_is_not_certain(
    served: ServedInstance, judge: Counting, pass_time: Callable[..., Counter[str]]
) -> None:
    servekit.rollout("e", to="v2", steps=[0.5, 1.0], judge=judge, hold_s=10.0, warmup_s=0.0, max_duration_s=60.0)
    served.clock.advance(100.0)
    assert (told()["state"], told()["share"]) == ("inconclusive", 0.5)
    assert "not certain after 60 s at this step: too few requests" in told()["reason"]
    assert servekit.events(kind="rollout_inconclusive")
    for change in (
        lambda: servekit.set_traffic("e", {"v1": 1.0}),
        lambda: servekit.delete_backend("v2"),
        lambda: servekit.rollout("e", to="bad"),
    ):
        with pytest.raises(InUseError, match="promote_rollout"):
            change()
    servekit.resume_rollout("e")
    pass_time(15)
    assert told()["state"] == "promoted"


def test_what_somebody_decides(served: ServedInstance, judge: Counting, pass_time: Callable[..., Counter[str]]) -> None:
    with pytest.raises(NotFoundError, match="endpoint 'e' has no roll-out under way"):
        servekit.abort_rollout("e")
    servekit.rollout("e", to="v2", steps=[0.5, "gate", 1.0], judge=judge, hold_s=5.0, warmup_s=0.0)
    served.clock.advance(1.0)
    with pytest.raises(InUseError, match="was not paused"):
        servekit.resume_rollout("e")
    servekit.pause_rollout("e", "lunch")
    pass_time(20)
    assert (told()["state"], told()["reason"], told()["share"]) == ("paused", "lunch", 0.5)
    servekit.resume_rollout("e")
    pass_time(10)
    assert told()["state"] == "paused"
    assert told()["reason"].startswith("a gate: ")
    servekit.abort_rollout("e", "it is Friday")
    assert (told()["state"], told()["reason"]) == ("rolled_back", "it is Friday")
    assert servekit.get_traffic("e") == {"v1": 1.0}
    servekit.rollout("e", to="v2", steps=[0.5, 1.0], judge=judge)
    servekit.promote_rollout("e")
    assert (told()["state"], servekit.get_traffic("e")) == ("promoted", {"v2": 1.0})
    servekit.delete_endpoint("e")
    assert servekit.status()["rollouts"] == {}


def test_a_judge_that_fails_is_unsure(served: ServedInstance, pass_time: Callable[..., Counter[str]]) -> None:
    class Broken(RolloutJudge):
        def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Any:
            if elapsed_s < 3:
                raise KeyError("p99")
            return True

    servekit.rollout("e", to="v2", steps=[0.5, 1.0], judge=Broken(), hold_s=5.0, warmup_s=0.0)
    served.clock.advance(3.0)
    assert told()["reason"].startswith("the judge failed: KeyError: 'p99'")
    served.clock.advance(5.0)
    assert "the judge returned True, which is no servekit.interfaces.Verdict" in told()["reason"]
    assert told()["state"] == "holding"


def test_handlers_report_figures(served: ServedInstance, pass_time: Callable[..., Counter[str]]) -> None:
    class Accurate(Counting):
        reports = ("accuracy",)

    judge = Accurate()
    with pytest.raises(InvalidInputError, match="'accuracy', which backend 'v1' has not reported"):
        servekit.rollout("e", to="v2", judge=judge)

    def reports(request: Any) -> str:
        servekit.report("accuracy", 0.75)
        return "three"

    servekit.create_backend("v3", reports)
    servekit.create_backend("v4", reports)
    servekit.set_traffic("e", {"v3": 1.0})

    def known() -> bool:
        served.client.get("/e")
        try:
            servekit.rollout("e", to="v4", steps=[0.5, 1.0], judge=judge, hold_s=3600.0, warmup_s=0.0)
        except InvalidInputError:
            return False
        return True

    until(known)

    def seen() -> bool:
        pass_time(1)
        return bool(judge.seen) and "accuracy" in judge.seen[-1][1].reports

    until(seen)
    assert judge.seen[-1][1].reports["accuracy"].mean == 0.75


def test_a_judge_may_know_how_many_steps_it_judges(served: ServedInstance) -> None:
    where, steps = f"{__name__}:Dividing", [0.1, "gate", 0.5, 1.0]
    servekit.rollout("e", to="v2", steps=steps, judge=where)
    assert told()["claim"] == "in 2 steps"
    servekit.abort_rollout("e")
    servekit.rollout("e", to="v2", steps=steps, judge=where, judge_options={"steps": 7})
    assert told()["claim"] == "in 7 steps"


def test_what_cannot_begin_is_refused_at_once(served: ServedInstance) -> None:
    with pytest.raises(UnknownPluginError, match="fair"):
        servekit.rollout("e", to="v2", judge="fair")
    with pytest.raises(InvalidInputError, match="the last step is 1"):
        servekit.rollout("e", to="v2", steps=[0.1], judge=Counting())
    with pytest.raises(InvalidInputError, match="on_failure"):
        servekit.rollout("e", to="v2", judge=Counting(), on_failure="stop")  # type: ignore[arg-type]
    assert servekit.status()["rollouts"] == {}


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A URL, and what was posted there."""
    posted: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", posted
        server.shutdown()
        thread.join()


def test_whoever_is_to_know_is_told(
    served: ServedInstance, judge: Counting, webhook: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, posted = webhook
    servekit.rollout("e", to="v2", steps=["gate", 0.5, 1.0], judge=judge, notify=url)
    served.clock.advance(1.0)
    until(lambda: posted)
    assert (posted[0]["endpoint"], posted[0]["state"], posted[0]["candidate"]) == ("e", "paused", "v2")
    servekit.abort_rollout("e")
    until(lambda: len(posted) == 2)
    assert posted[1]["state"] == "rolled_back"
    file = tmp_path / "told"
    command = [sys.executable, "-c", f"import sys; open({str(file)!r}, 'w').write(sys.stdin.read())"]
    servekit.rollout("e", to="v2", steps=[0.5, 1.0], judge=judge, notify=command)
    servekit.promote_rollout("e")
    until(lambda: file.exists() and file.read_text())
    assert json.loads(file.read_text())["state"] == "promoted"
