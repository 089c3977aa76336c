"""Along a chain of handles, a request keeps to its side of a roll-out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import servekit
from servekit.context import get_context
from servekit.tallies import FINE_BUCKETS
from servekit.testing.instances import ServedInstance
from servekit.traces import SIDE, text_of
from servekit.wire.control_frames import RolloutEntry

# What ingress workers are told is put into the one of an in-process instance by hand.
pytestmark = pytest.mark.runtimes("inprocess")

LIMIT_S = 30.0
REQUESTS = 20


def here() -> list[str]:
    context = get_context()
    return [context.backend, text_of(context.headers, SIDE)]


def front(flask_request: Any) -> Any:
    return [here(), *servekit.get_handle("middle").remote().result(LIMIT_S)]


async def middle(request: Any) -> Any:
    return [here(), *await servekit.get_handle("last").remote()]


def last(request: Any) -> Any:
    return [here()]


@pytest.fixture
def served(serve: ServedInstance) -> ServedInstance:
    """Of ``front`` and ``last`` there are two versions each, of ``middle`` one."""
    for name, target in (("front", front), ("last", last)):
        for version in ("old", "new"):
            serve.create_backend(f"{name}_{version}", target)
        serve.create_endpoint(name, "/front" if name == "front" else None)
        serve.set_traffic(name, {f"{name}_old": 0.5, f"{name}_new": 0.5})
    serve.create_backend("middle", middle)
    serve.create_endpoint("middle", backend="middle")
    return serve


def roll_out(served: ServedInstance, endpoint: str, **options: bool) -> None:
    async def begin() -> None:
        rollout = RolloutEntry(1, f"{endpoint}_old", f"{endpoint}_new", seed=3, **options)
        served.instance._ingress.router.endpoints[endpoint].set_rollout(rollout, "ingress1")  # type: ignore[attr-defined]

    served.instance.submit(begin())  # type: ignore[attr-defined]


def judged(served: ServedInstance, endpoint: str) -> Counter[str]:
    """By version, the requests that were counted."""
    found: Counter[str] = Counter()
    slots_of = served.instance._ingress.router.shared.tallies.slots  # type: ignore[attr-defined]
    for key, slots in list(slots_of.items()):
        if key[:2] == ("judged", endpoint):
            found[key[2]] += sum(slots[:FINE_BUCKETS])
    return found


SIDES = {
    "candidate": [["front_new", "candidate"], ["middle", "candidate"], ["last_new", "candidate"]],
    "baseline": [["front_old", "baseline"], ["middle", "baseline"], ["last_old", "baseline"]],
}


def test_calls_keep_to_the_side_of_the_request_that_they_are_made_for(served: ServedInstance) -> None:
    before = {name: judged(served, name) for name in ("front", "last")}
    roll_out(served, "front", propagate=True)
    roll_out(served, "last")
    answers = [served.client.get("/front", headers={"x-servekit-side": "baseline"}).json() for _ in range(REQUESTS)]
    taken = Counter(answer[0][1] for answer in answers)
    assert all(answer == SIDES[answer[0][1]] for answer in answers)
    assert taken == {"candidate": REQUESTS / 2, "baseline": REQUESTS / 2}
    for name in ("front", "last"):
        assert judged(served, name) - before[name] == {f"{name}_old": REQUESTS / 2, f"{name}_new": REQUESTS / 2}


def test_a_tester_keeps_to_it_too_and_is_counted_nowhere(served: ServedInstance) -> None:
    before = [judged(served, name) for name in ("front", "last")]
    roll_out(served, "front", propagate=True, header=True)
    roll_out(served, "last")
    answer = served.client.get("/front", headers={"x-servekit-version": "front_new"}).json()
    assert answer == [[name, f"{side};named"] for name, side in SIDES["candidate"]]
    assert [judged(served, name) for name in ("front", "last")] == before


def test_nothing_is_passed_on_where_nobody_asked_for_that(served: ServedInstance) -> None:
    roll_out(served, "front")
    roll_out(served, "last")
    answers = [served.client.get("/front").json() for _ in range(REQUESTS)]
    assert {side for answer in answers for _, side in answer} == {""}
    assert Counter(answer[2][0] for answer in answers) == {"last_old": REQUESTS / 2, "last_new": REQUESTS / 2}
