"""What helps a test with a whole roll-out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest

import servekit
from servekit.errors import InvalidInputError, NotFoundError, ServekitError
from servekit.interfaces import RolloutJudge, Ruling, Sample, Verdict
from servekit.testing.instances import ServedInstance

virtual = pytest.mark.servekit(virtual_clock=True)


class Finds(RolloutJudge):
    """A judge that says one thing."""

    def __init__(self, ruling: Ruling) -> None:
        self.ruling = ruling

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        return Verdict(self.ruling, f"it is {self.ruling.value}")


@pytest.fixture
def served(serve_instance: ServedInstance) -> ServedInstance:
    for name in ("v1", "v2"):
        servekit.create_backend(name, lambda request, name=name: name)
    servekit.create_endpoint("e", "/e", backend="v1")
    return serve_instance


def begin(ruling: Ruling, **options: Any) -> None:
    steps = options.pop("steps", [0.25, 0.5, 1.0])
    servekit.rollout("e", to="v2", steps=steps, judge=Finds(ruling), seed=1, **options)


@virtual
def test_an_hour_passes_while_requests_come(served: ServedInstance) -> None:
    answers: Counter[str] = Counter()
    begin(Ruling.NO_WORSE, hold_s=1800.0)

    def send(client: httpx.Client) -> None:
        answers[client.get("/e").text] += 1

    end = served.finish_rollout("e", send, at_most_s=4000.0, every_s=20.0)
    assert end == served.assert_rollout("e", "promoted")
    assert 3600 <= served.clock.time_s <= 3700
    assert set(answers) == {"v1", "v2"}
    assert 180 <= answers.total() <= 186


@virtual
@pytest.mark.parametrize(
    ("ruling", "options", "state"),
    [
        (Ruling.WORSE, {}, "rolled_back"),
        (Ruling.NO_WORSE, {"steps": [0.5, "gate", 1.0]}, "paused"),
        (Ruling.UNSURE, {"max_duration_s": 100.0}, "inconclusive"),
    ],
)
def test_it_ends_where_time_alone_changes_nothing(
    served: ServedInstance, ruling: Ruling, options: dict[str, Any], state: str
) -> None:
    begin(ruling, **options)
    assert served.finish_rollout("e", lambda client: client.get("/e"), every_s=10.0)["state"] == state


@virtual
def test_one_that_goes_on_fails_with_what_is_known(served: ServedInstance) -> None:
    begin(Ruling.UNSURE)
    with pytest.raises(AssertionError, match=r"(?s)after 60 s the roll-out .*to 'v2' is holding at 0.25.*v2: \d+ requ"):
        served.finish_rollout("e", lambda client: client.get("/e"), at_most_s=60.0, every_s=7.0)
    assert served.clock.time_s == 60
    with pytest.raises(AssertionError, match=r"it is not promoted: the roll-out of endpoint 'e' from 'v1' to 'v2' is"):
        served.assert_rollout("e", "promoted")


@virtual
def test_there_must_be_one_and_a_time_that_passes(served: ServedInstance) -> None:
    with pytest.raises(NotFoundError, match="'e' has had no roll-out"):
        served.finish_rollout("e", lambda client: None)
    begin(Ruling.UNSURE)
    with pytest.raises(InvalidInputError, match="every_s is 0"):
        served.finish_rollout("e", lambda client: None, every_s=0)


def test_without_the_virtual_clock_it_is_refused(served: ServedInstance) -> None:
    begin(Ruling.UNSURE)
    with pytest.raises(ServekitError, match="has no clock to advance"):
        served.finish_rollout("e", lambda client: None)
