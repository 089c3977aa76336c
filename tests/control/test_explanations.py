"""What is told of a request that the ingress workers remember."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.control.explanations import explanation, last_of, span, unknown
from servekit.interfaces import RequestRecord, RequestStep
from servekit.wire.control_frames import Recalled, RecalledRequest


def request(*steps: RequestStep, pending: bool = False, **fields: Any) -> RecalledRequest:
    values: dict[str, Any] = {
        "id": "6b1d-7",
        "endpoint": "e",
        "backend": "v1",
        "replica": "r1",
        "method": "GET",
        "path": "/e",
        "status": 200,
        "latency_s": 0.030,
        "ended_at": 100.0,
        "body_bytes": 11,
        "client": "192.0.2.1",
        "route": "/e",
        "sent_s": 0.001,
        "began_s": 0.029,
        "service_s": 0.008,
        "sends": 1,
        "ahead": 2,
        "snapshot": 7,
        "steps": steps,
        **fields,
    }
    return RecalledRequest(RequestRecord(**values), pending, "weighted", {"v1": 0.9, "v2": 0.1})


def explained(told: RecalledRequest, **answers: Recalled | None) -> dict[str, Any]:
    found = explanation({"i1": Recalled(1, [told], 1), **answers})
    assert found is not None
    return found


def says(*steps: RequestStep, **fields: Any) -> list[str]:
    return [step["says"] for step in explained(request(*steps, **fields))["steps"]]


def test_an_id_that_is_not_known_is_cut() -> None:
    assert f"no request '{200 * 'x'}…' is remembered. None has" in unknown(100_000 * "x", {})


def test_the_usual_road() -> None:
    found = explained(request())
    assert found["came_at"] == pytest.approx(99.97)
    assert (found["policy"], found["weights"]) == ("weighted", {"v1": 0.9, "v2": 0.1})
    assert (found["ingress"], found["times"], found["silent"], found["pending"]) == ("i1", 1, [], False)
    assert [(step["after_s"], step["what"], step["says"]) for step in found["steps"]] == [
        (0.0, "came", "GET /e of endpoint 'e' (route /e)"),
        (0.001, "chosen", "policy 'weighted' chose backend 'v1' from v1=0.9, v2=0.1"),
        (0.001, "sent", "sent to replica r1 of 'v1', which had 2 calls from here"),
        (0.029, "began", "the answer began, the handler ran for 8.00 ms, after a wait of 20.0 ms there"),
        (0.03, "ended", "answered 200, 11 bytes"),
    ]


def test_one_that_waited_and_was_refused() -> None:
    never = {"sent_s": -1.0, "began_s": -1.0, "service_s": -1.0, "replica": "", "status": 503}
    loads = {f"r{number}": (2, 2) for number in range(1, 6)} | {"r3": (0, 0)}
    full = RequestStep(0.001, "queue_full", "v1", number=7, loads=loads)
    assert says(full, error="queue_full", **never)[1:] == [
        "policy 'weighted' chose backend 'v1' from v1=0.9, v2=0.1",
        "the queue of 'v1' was full, 7 waited, and no replica had room (r1 2 of 2, r2 2 of 2, r3 none now, r4 2 of 2 "
        "and 1 more)",
        "answered 503 (queue_full)",
    ]
    parked = RequestStep(0.001, "queue_full", "", number=7)
    assert says(parked, error="queue_full", **{**never, "backend": ""})[1] == "the queue was full: 7 waited"
    late = RequestStep(0.001, "queued", "v1", number=0)
    assert says(late, error="deadline", **{**never, "status": 504})[-2:] == [
        "no replica of 'v1' had room: it waited in the queue, behind 0",
        "answered 504 (deadline): its time was over while it waited in the queue of 'v1'",
    ]


def test_one_that_was_sent_twice() -> None:
    told = says(
        RequestStep(0.0005, "sent", "v1", "r0", 0), RequestStep(0.0008, "lost", "v1", "r0"), sends=2, status=200
    )
    assert told[1:5] == [
        "policy 'weighted' chose backend 'v1' from v1=0.9, v2=0.1",
        "sent to replica r0 of 'v1', which had no call from here",
        "replica r0 died with it",
        "policy 'weighted' chose backend 'v1' from v1=0.9, v2=0.1",
    ]
    once = says(
        RequestStep(0.001, "sent", "v1", "r1", 1),
        RequestStep(0.003, "lost", "v1", "r1", text="it was sent 2 times"),
        status=502,
        error="replica_died",
        began_s=-1.0,
    )
    assert once[2:] == [
        "sent to replica r1 of 'v1', which had 1 call from here",
        "replica r1 died with it; not sent again, for it was sent 2 times",
        "answered 502 (replica_died)",
    ]


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (
            RequestStep(0.0, "parked", number=3),
            "no backend had a ready replica: it waited for one that was coming, behind 3",
        ),
        (RequestStep(0.0, "failed_over", "v1", text="v2"), "no replica of v2 was ready: 'v1' had its share"),
        (RequestStep(0.0, "gathered", number=70_000), "all of its body was here: 70,000 bytes"),
        (RequestStep(0.0, "alone", "v1", "r1", text="a replica {x} died"), "a replica {x} died: it went alone into r1"),
        (RequestStep(0.0, "new_word", "v1", text="of a later version"), "of a later version"),
    ],
)
def test_each_step_is_a_sentence(step: RequestStep, sentence: str) -> None:
    assert sentence in says(step)


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        (
            {"status": 500, "error": "handler_failed"},
            "answered 500: the handler raised; servekit logs has the traceback",
        ),
        ({"error": "broken_off", "body_bytes": 1}, "broken off after 1 byte; its status had been 200"),
        ({"status": 499, "began_s": -1.0}, "the client went away while replica r1 had it"),
        ({"status": 499}, "the client went away while its answer had begun"),
        ({"status": 404, "error": "not_found"}, "answered 404 (not_found)"),
        ({"pending": True, "status": 0, "began_s": -1.0}, "under way: replica r1 has it"),
    ],
)
def test_each_end_is_a_sentence(fields: dict[str, Any], end: str) -> None:
    assert says(**fields)[-1] == end


def test_what_came_by_a_handle_or_to_no_endpoint() -> None:
    assert says(chain=("r5", "r6"))[0] == "a handle called endpoint 'e' in r5 → r6"
    assert says(path="/\x1b[2J\n" + "x" * 300)[0].startswith("GET /\\x1b[2J\\nxxx")
    assert len(says(path="x" * 300, endpoint="")[0]) < 250
    assert says(endpoint="")[0] == "GET /e, which is no endpoint's"


def test_where_weights_are_not_known_any_more() -> None:
    told = request()
    told.policy, told.weights = "", {}
    assert explained(told)["steps"][1]["says"] == "backend 'v1' was chosen; from what is not known any more"


def test_the_last_of_an_id_is_told_and_one_under_way_before_all() -> None:
    later = Recalled(1, [request(ended_at=200.0)], 3)
    found = explained(request(), i2=later, i3=None)
    assert (found["ingress"], found["times"], found["silent"]) == ("i2", 4, ["i3"])
    assert [other["ingress"] for other in found["others"]] == ["i1"]
    assert explained(request(pending=True), i2=later)["ingress"] == "i1"
    called = Recalled(1, [request(pending=True, chain=("r5",))], 1)
    assert explained(request(), i2=called)["ingress"] == "i1"


def test_lists_of_several_workers_are_one() -> None:
    answers = {
        "i1": Recalled(1, [request(ended_at=3.0), request(ended_at=1.0)]),
        "i2": Recalled(1, [request(ended_at=2.0)]),
        "i3": None,
    }
    found = last_of(answers, 2)
    assert [(each["ingress"], each["came_at"] + each["latency_s"]) for each in found] == [("i1", 3.0), ("i2", 2.0)]


def test_it_says_how_far_back_is_remembered() -> None:
    answers = {"i1": Recalled(1, [], 0, 10_000, 1000.0), "i2": Recalled(1, [], 0, 5, 2000.0), "i3": None}
    assert explanation(answers) is None
    message = unknown("mine", answers)
    assert "no request 'mine' is remembered. The last 10,005 are, back to " in message
    assert message.endswith("Ingress workers that did not answer: i3.")
    none = "no request 'mine' is remembered. None has ended since the ingress workers began; ids are in the answers'"
    assert unknown("mine", {"i1": Recalled(1, [])}) == f"{none} X-Request-Id."


def test_spans_are_short() -> None:
    assert [span(each) for each in (0.00021, 0.0142, 0.9, 3.1)] == ["0.21 ms", "14.2 ms", "900.0 ms", "3.10 s"]
