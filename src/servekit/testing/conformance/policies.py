"""The conformance kit for routing policies."""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import pytest

from servekit.interfaces import DrawnUnit, Outcome, RequestInfo, RoutingPolicy
from servekit.testing.conformance.fake_endpoint import FakeEndpoint, Operation, operations, shares, weights_of
from servekit.testing.conformance.helpers import for_all, hypothesis
from servekit.testing.conformance.views import EveryHeader, FakeRequest

WEIGHTS: Sequence[Sequence[int]] = (
    [1],
    [1, 1],
    [9, 1],
    [1, 1, 1],
    [7, 2, 1],
    [999, 1],
    [73, 4, 23, 4, 73],  # smooth weighted round robin is off by more than 1 here
    [1] * 10,
)
EXACT_REQUESTS = 400
RANDOM_REQUESTS = 2500
"""The number of requests that shares are counted over. An exact policy is held to its tolerance after every request, a
policy that decides by chance after the last one only."""
HINT = " (is something kept in the class or the module?)"
ODD_VALUES = ("", " ", ";", "=", ";;=;", '"', "a" * 5000, "\x00", "\xff", "0", "-1", "a=b; c", "None", "%00")


class RoutingPolicyTests:
    """The tests that every routing policy must pass. Derive a class from this one in a module of tests, and override
    `make_policy`::

        class TestMine(RoutingPolicyTests):
            tolerance = 1.0

            def make_policy(self):
                return Mine()

    The attributes below are claims about the policy; each is checked.
    """

    tolerance: float | None = 1.0
    """After any n requests since the traffic was set, a backend of weight w has had n·w, give or take so many requests.
    None: shares are right by chance only, see `deviations`. ``math.inf``: the policy ignores weights."""
    deviations: float = 6.0
    """Where ``tolerance`` is None: the number of standard deviations of independent draws that a count may be off.

    With d of them, and v = n·w·(1 - w), a count may be t = d²/6 + √(d⁴/36 + d²·v) from n·w: at least d·√v, and so much
    more that by Bernstein's inequality a policy that draws rightly is beyond it with probability at most 2·exp(-d²/2).
    At 6 that is 3e-8 for each count."""
    deterministic_backends: bool = False
    """The same calls get the same backends, in another object too."""
    deterministic_replicas: bool = False
    """The same calls get the same replicas, in another object too."""
    max_examples: int = 50
    """The number of examples that hypothesis tries in each test that uses it."""

    def make_policy(self) -> RoutingPolicy:
        """A new policy, as the core makes one for each endpoint and ingress worker."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_policy that returns a new policy")

    def make_request(self, number: int) -> RequestInfo:
        """The ``number``-th request of a test, from 1. Override this method where the policy looks at requests."""
        return FakeRequest(id=f"request-{number}")

    # -- shares --------------------------------------------------------------------------------------------------

    def test_weights_are_honoured(self) -> None:
        for weights in WEIGHTS:
            self._check_shares(self._endpoint(), weights)

    def test_weights_are_honoured_from_the_moment_they_are_set(self) -> None:
        """The shares are right whatever happened before, and whichever weights were in force."""
        if self.tolerance is None:
            endpoint = self._endpoint()
            for weights in WEIGHTS:
                self._check_shares(endpoint, weights)
            return

        def check(before: list[Operation], weights: list[int]) -> None:
            endpoint = self._endpoint()
            endpoint.perform(before)
            endpoint.draw_order(None)
            for name in endpoint.replicas:
                endpoint.set_replicas(name, 2)
            self._check_shares(endpoint, weights, requests=40)

        self._for_all(check, operations(), shares())

    def test_weights_are_honoured_while_a_rollout_is_judged(self) -> None:
        """What draws each request keeps to the weights of two backends, by chance at least, and is as it was before
        once it draws no more."""
        for weights in ([1, 1], [9, 1], [1, 999], [5, 9]):
            endpoint = self._endpoint()
            if endpoint.draw_order(7) is DrawnUnit.REQUEST:
                endpoint.set_traffic(weights_of(weights))
                for _ in range(RANDOM_REQUESTS):
                    endpoint.send_request()
                    endpoint.finish_request()
                self._check_counts(endpoint, RANDOM_REQUESTS, beside=" while a roll-out is judged", by_chance=True)
            endpoint.draw_order(None)
            self._check_shares(endpoint, weights)

    # -- choices ---------------------------------------------------------------------------------------------------

    def test_whatever_happens_choices_are_among_those_given(self) -> None:
        """While traffic, replicas and requests come and go in any order, the policy raises nothing, and chooses only
        from the views that it is given."""

        def check(sequence: list[Operation]) -> None:
            endpoint = self._endpoint()
            endpoint.perform(sequence)
            endpoint.send_request()
            endpoint.close()

        self._for_all(check, operations())

    def test_one_backend_then_many_then_one(self) -> None:
        endpoint = self._endpoint()
        for weights in ([1], [1, 2, 3, 4], [0, 0, 1], [1] * 12, [1]):
            endpoint.set_traffic(weights_of(weights))
            for turn in range(30):
                endpoint.send_request()
                endpoint.reorder([turn % 3, 2, turn % 5, 1])

    def test_what_has_weight_0_is_removed_or_not_ready_gets_nothing(self) -> None:
        endpoint = self._endpoint()
        everyone = {"a": 1, "b": 1, "c": 1, "d": 1}
        for name in everyone:
            changes = [
                partial(endpoint.set_traffic, {**everyone, name: 0}),
                partial(endpoint.set_traffic, {other: 1 for other in everyone if other != name}),
                partial(endpoint.set_replicas, name, 0),
                partial(endpoint.replace_replicas, name),
            ]
            for change in changes:
                endpoint.set_traffic(everyone)
                for other in everyone:
                    endpoint.set_replicas(other, 2)
                for _ in range(20):
                    endpoint.send_request()
                change()
                for _ in range(20):
                    endpoint.send_request()

    def test_an_endpoint_may_have_no_traffic_at_first(self) -> None:
        endpoint = self._endpoint()
        endpoint.set_traffic({})
        endpoint.set_traffic({"a": 1})
        endpoint.send_request()
        endpoint.close()

    def test_an_endpoint_that_never_had_a_request_is_closed(self) -> None:
        endpoint = self._endpoint()
        endpoint.set_traffic({"a": 1})
        endpoint.close()

    def test_a_strict_endpoint_lists_backends_without_replicas(self) -> None:
        """With ``strict=True``, backends without a replica are among the choices: their share of the requests fails."""
        endpoint = self._endpoint()
        endpoint.set_traffic({"a": 1, "b": 1, "c": 2})
        endpoint.set_replicas("a", 0)
        for _ in range(50):
            endpoint.choose_backend(endpoint.next_request(), strict=True)

    def test_any_request_is_given_a_place(self) -> None:
        """Requests without headers, and requests that have every header that a policy may look for, with odd values."""
        odd: list[Mapping[str, str]] = [{}, *map(EveryHeader, ODD_VALUES)]
        for headers in odd:
            for path in ("/", "", "/ä%20/?", "/" * 2000):
                request = FakeRequest(headers, "", path, id="")
                endpoint = FakeEndpoint(self.make_policy(), partial(lambda request, number: request, request))
                endpoint.set_traffic({"a": 2, "b": 1, "c": 1})
                endpoint.set_replicas("a", 3)
                for _ in range(4):
                    endpoint.send_request()
                    endpoint.finish_request()

    def test_a_request_may_end_in_any_way(self) -> None:
        endpoint = self._endpoint()
        endpoint.set_traffic({"a": 2, "b": 1})
        for outcome in Outcome:
            for gone in (False, True):
                endpoint.set_replicas("a", 2)
                for _ in range(6):
                    endpoint.send_request()
                if gone:
                    endpoint.replace_replicas("a")
                while endpoint.sent:
                    endpoint.finish_request(outcome=outcome)
        endpoint.send_request()

    # -- policies among others ------------------------------------------------------------------------------------

    def test_two_endpoints_share_nothing(self) -> None:
        """Two policies whose requests alternate choose as each would alone."""
        if self.make_policy() is self.make_policy():
            raise AssertionError("make_policy returned the same object twice: each endpoint has a policy of its own")
        one, other = {"a": 8.0, "b": 1.5, "c": 0.5}, {"a": 0.5, "b": 1.5, "c": 8.0}
        for second in (other, {f"other-{name}": weight for name, weight in other.items()}):
            for pattern in ("10", "1101000", "1" * 7 + "0" * 5):
                self._check_apart([one, second], pattern)

    def test_the_same_calls_get_the_same_choices(self) -> None:
        methods = {"choose_backend": self.deterministic_backends, "choose_replica": self.deterministic_replicas}
        declared = [method for method, deterministic in methods.items() if deterministic]
        if not declared:
            pytest.skip("the policy does not claim to be deterministic")

        def check(sequence: list[Operation]) -> None:
            endpoints = self._endpoint(), self._endpoint()
            for endpoint in endpoints:
                endpoint.perform(sequence)
            first, second = ([choice for choice in one.choices if choice[0] in declared] for one in endpoints)
            if first != second:
                number = next(n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
                endpoints[1].fail(
                    f"the same calls got different choices: choice {number + 1} was {first[number][1]!r} in one "
                    f"object and {second[number][1]!r} in another"
                )

        self._for_all(check, operations())

    def test_nothing_blocks(self) -> None:
        """A policy is called on the event loop: while the policy waits, no request is served."""
        endpoint = self._endpoint()
        calls: list[str] = []
        with no_blocking(calls.append):
            try:
                endpoint.set_traffic({"a": 3, "b": 1})
                endpoint.set_replicas("a", 3)
                for number in range(100):
                    endpoint.send_request()
                    if number % 2:
                        endpoint.finish_request()
                endpoint.close()
            except AssertionError:
                if not calls:
                    raise
        if calls:
            endpoint.fail(f"it called {calls[0]}, which blocks: a policy runs on the event loop, so do that elsewhere")

    # -- helpers -------------------------------------------------------------------------------------------------

    def _endpoint(self) -> FakeEndpoint:
        policy: object = self.make_policy()
        if isinstance(policy, RoutingPolicy):
            return FakeEndpoint(policy, self.make_request)
        raise AssertionError(f"make_policy returned {policy!r}, which is no servekit.interfaces.RoutingPolicy")

    def _for_all(self, check: Callable[..., None], *strategies: object) -> None:
        try:
            for_all(check, *strategies, max_examples=self.max_examples)
        except hypothesis().errors.Flaky as error:
            seen = next((one for one in getattr(error, "exceptions", ()) if isinstance(one, AssertionError)), error)
            hint = "(Not every time: the policy decides by chance. Give it a seed in make_policy.)"
            raise AssertionError(f"{seen}\n{hint}") from error

    def _check_shares(self, endpoint: FakeEndpoint, weights: Sequence[int], requests: int | None = None) -> None:
        __tracebackhide__ = True
        endpoint.set_traffic(weights_of(weights))
        total = requests or (RANDOM_REQUESTS if self.tolerance is None else EXACT_REQUESTS)
        for n in range(1, total + 1):
            endpoint.send_request()
            endpoint.finish_request()
            if self.tolerance is not None or n == total:
                self._check_counts(endpoint, n)

    def _check_counts(
        self, endpoint: FakeEndpoint, requests: int, beside: str = "", *, by_chance: bool = False
    ) -> None:
        __tracebackhide__ = True
        for name, weight in endpoint.weights.items():
            expected, count = requests * weight, endpoint.counts[name]
            allowed = self._allowed(requests, weight, by_chance=by_chance)
            if abs(count - expected) > allowed + 1e-6:
                endpoint.fail(
                    f"the weights are not honoured{beside}: of {requests} requests since traffic_changed backend "
                    f"{name!r} of weight {weight:g} has had {count}, and {expected:g} give or take {allowed:g} were due"
                )

    def _allowed(self, requests: int, weight: float, *, by_chance: bool = False) -> float:
        if self.tolerance is not None and not (by_chance and math.isfinite(self.tolerance)):
            return self.tolerance
        d, variance = self.deviations, requests * weight * (1 - weight)
        return d**2 / 6 + math.sqrt(d**4 / 36 + d**2 * variance)

    def _check_apart(self, traffic: Sequence[Mapping[str, float]], pattern: str) -> None:
        """Send requests of two endpoints alternately, by ``pattern``, and compare each endpoint with itself alone."""
        total = RANDOM_REQUESTS if self.tolerance is None else EXACT_REQUESTS
        together = [self._endpoint(), self._endpoint()]
        turns = [int(pattern[n % len(pattern)]) for n in range(total)]
        for endpoint, weights in zip(together, traffic, strict=True):
            endpoint.set_traffic(weights)
        for which in turns:
            together[which].send_request()
            together[which].finish_request()
        for which, (endpoint, weights) in enumerate(zip(together, traffic, strict=True)):
            requests = turns.count(which)
            alone = self._endpoint()
            alone.set_traffic(weights)
            for _ in range(requests):
                alone.send_request()
                alone.finish_request()
            self._check_counts(alone, requests)
            self._check_counts(
                endpoint, requests, beside=f" beside another endpoint's policy, though they are alone{HINT}"
            )
            chosen = [[choice for choice in one.choices if choice[0] == "choose_backend"] for one in (endpoint, alone)]
            if self.deterministic_backends and chosen[0] != chosen[1]:
                endpoint.fail(f"it chooses otherwise beside another endpoint's policy than alone{HINT}")


# -- calls that block --------------------------------------------------------------------------------------------------

_SOCKET_METHODS = frozenset(
    {"accept", "connect", "connect_ex", "recv", "recv_into", "recvfrom", "send", "sendall", "sendto"}
)
_NAMED = {
    "_socket": frozenset({"getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"}),
    "_posixsubprocess": frozenset({"fork_exec"}),
    "posix": frozenset({"open", "read", "write", "system", "wait", "waitpid"}),
    "io": frozenset({"open"}),
    "_io": frozenset({"open"}),
}


@contextlib.contextmanager
def no_blocking(report: Callable[[str], None]) -> Iterator[None]:
    """A context in which calls of ``time.sleep``, sockets, ``select``, files and processes raise in this thread.

    ``report`` is given the name of each such call, even where the caller catches the exception. The calls are seen by a
    profile function, which sees calls of C functions under whatever name they were imported; a patch would not. A wait
    for a lock is not seen.
    """

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            name = _blocking_name(argument)
            if name is not None:
                report(name)
                raise BlockingCallError(name)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


class BlockingCallError(AssertionError):
    """Raised in the place of a call that blocks."""


def _blocking_name(function: Any) -> str | None:
    name = getattr(function, "__name__", "")
    module = getattr(function, "__module__", None) or ""
    owner = getattr(function, "__self__", None)
    if function is time.sleep:
        return "time.sleep"
    if module == "select" or type(owner).__module__ == "select":
        return f"select.{name}"
    if name in _SOCKET_METHODS and isinstance(owner, socket.SocketType):
        return f"socket.{name}"
    return name if name in _NAMED.get(module, ()) else None
