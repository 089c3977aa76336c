from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from servekit.interfaces import (
    BackendView,
    ReplicaRuntime,
    Request,
    RequestAdapter,
    RequestInfo,
    Response,
    RoutingPolicy,
    two_choices,
)


class First(RoutingPolicy):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        return backends[0]


@dataclass(eq=False)
class Replica:
    id: str
    outstanding: int = 0
    queue_length: int = 0
    node: str = ""


INFO: Any = None
DRAWS = 20_000


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    random.seed(7)


def draws(loads: Sequence[int]) -> list[float]:
    """How often each of replicas with these loads is chosen, as a share."""
    replicas = [Replica(str(n), load) for n, load in enumerate(loads)]
    counts = Counter(First().choose_replica(INFO, replicas).id for _ in range(DRAWS))
    return [counts[replica.id] / DRAWS for replica in replicas]


def close(share: float, expected: float) -> bool:
    """Within five standard deviations."""
    return abs(share - expected) < 5 * math.sqrt(max(expected * (1 - expected), 1e-9) / DRAWS)


def test_one_replica() -> None:
    assert draws([5]) == [1.0]


def test_of_two_the_better_is_always_chosen() -> None:
    # Two that need not be distinct would take the worse one every fourth time.
    assert draws([1, 0]) == [0.0, 1.0]
    assert draws([0, 3]) == [1.0, 0.0]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_equals_are_chosen_equally(count: int) -> None:
    assert all(close(share, 1 / count) for share in draws([4] * count))


def test_two_choices_draw_from_the_generator_that_is_given() -> None:
    replicas = [Replica(str(n), 4) for n in range(5)]
    chosen = [[two_choices(replicas, random.Random(seed).random).id for _ in range(9)] for seed in range(20)]
    assert all(len(set(ids)) == 1 for ids in chosen)
    assert len({ids[0] for ids in chosen}) > 1
    assert two_choices(replicas[:1], lambda: 1 / 0) is replicas[0]


@pytest.mark.parametrize("best", range(4))
def test_every_pair_is_equally_likely(best: int) -> None:
    # The best of four is in half of all pairs, the worst wins none, wherever they stand.
    loads = [2, 2, 2, 2]
    loads[best], loads[(best + 1) % 4] = 0, 9
    shares = draws(loads)
    assert close(shares[best], 1 / 2)
    assert shares[(best + 1) % 4] == 0
    assert all(close(shares[(best + step) % 4], 1 / 4) for step in (2, 3))


def test_optional_methods_of_a_policy_do_nothing() -> None:
    policy = First()
    policy.traffic_changed({"b": 1.0})
    policy.close()


@pytest.mark.parametrize("interface", [RoutingPolicy, ReplicaRuntime, RequestAdapter])
def test_interfaces_are_abstract(interface: type[Any]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        interface()


def test_an_adapter_decodes_calls_and_encodes() -> None:
    class Text(RequestAdapter):
        def decode(self, request: Request) -> str:
            return request.body.decode()

        def encode(self, result: Any) -> Response:
            return Response(200, [], str(result).encode())

    request = Request("POST", "/", b"", [(b"x-one", b"1"), (b"x-one", b"2")], b"abc", "e", "/", "1", "")
    assert Text().call(str.upper, request) == Response(200, [], b"ABC")
    assert request.stream.read() == b"abc"
    assert (request.header("X-One"), request.header("x-two"), request.header("x-two", "d")) == ("1", None, "d")


@pytest.mark.parametrize(
    ("path", "query", "sent", "target", "raw_path"),
    [
        ("/x", b"", None, b"/x", b"/x"),
        ("/x", b"a=%20", None, b"/x?a=%20", b"/x"),
        ("/ä/<int:x>", b"", None, b"/%C3%A4/%3Cint%3Ax%3E", b"/%C3%A4/%3Cint%3Ax%3E"),
        ("/x", b"", b"/x?", b"/x?", b"/x"),
        ("/\ufffd", b"?", b"/%E9??", b"/%E9??", b"/%E9"),
        ("/a//b", b"q", b"http://h:1/a%2F/b?q", b"http://h:1/a%2F/b?q", b"/a%2F/b"),
        ("/", b"q=://", b"http://h?q=://", b"http://h?q=://", b"/"),
        ("/http://h/", b"", b"/http:/%2Fh/", b"/http:/%2Fh/", b"/http:/%2Fh/"),
        ("*", b"", b"*", b"*", b"*"),
    ],
)
def test_a_target_is_as_it_was_sent(
    path: str, query: bytes, sent: bytes | None, target: bytes, raw_path: bytes
) -> None:
    request = Request("GET", path, query, [], b"", "e", "/", "1", "", sent_target=sent)
    assert (request.target, request.raw_path) == (target, raw_path)


def test_a_runtime_takes_no_placement_options_unless_it_says_so() -> None:
    class Runtime(ReplicaRuntime):
        def start(self, spec: Any) -> Any: ...
        def poll(self, handle: Any) -> Any: ...
        def stop(self, handle: Any, grace_s: float) -> None: ...
        def attach(self, state: bytes) -> Any: ...

    Runtime().check_worker_options({})
    with pytest.raises(ValueError, match="num_gpus"):
        Runtime().check_worker_options({"num_gpus": 1})
