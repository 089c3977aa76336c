"""The conformance kit for routing policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from servekit.interfaces import Outcome, RequestInfo, RoutingPolicy
from servekit.testing.conformance.blocking import no_blocking
from servekit.testing.conformance.drawing import for_all, hypothesis
from servekit.testing.conformance.driver import PolicyDriver
from servekit.testing.conformance.sequences import Operation, operations, perform, shares, weights_of
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
DRAWN_REQUESTS = 2500
"""How many requests the shares are counted over: every prefix of them, or where only chance decides, the whole."""
HINT = " (is something kept in the class or the module?)"
ODD_VALUES = ("", " ", ";", "=", ";;=;", '"', "a" * 5000, "\x00", "\xff", "0", "-1", "a=b; c", "None", "%00")


class RoutingPolicyTests:
    """What every routing policy must do. Derive from it in a module of tests, and say how to make yours::

        class TestMine(RoutingPolicyTests):
            tolerance = 1.0

            def make_policy(self):
                return Mine()

    The attributes below are what the policy claims; each is checked.
    """

    tolerance: float | None = 1.0
    """After any n requests since the traffic was set, a backend of weight w has had n·w, give or take so many requests.
    None: only by chance, see `deviations`. ``math.inf``: the policy does not go by weight."""
    deviations: float = 6.0
    """Where ``tolerance`` is None: how many standard deviations off a count may be, of those of independent draws.

    With d of them, and v = n·w·(1 - w), a count may be t = d²/6 + √(d⁴/36 + d²·v) from n·w: at least d·√v, and so much
    more that by Bernstein's inequality a policy that draws rightly is beyond it with probability at most 2·exp(-d²/2).
    At 6 that is 3e-8 for each count."""
    deterministic_backends: bool = False
    """The same calls get the same backends, in another object too."""
    deterministic_replicas: bool = False
    """The same calls get the same replicas, in another object too."""
    max_examples: int = 50
    """How many sequences hypothesis tries in each test that draws them."""

    def make_policy(self) -> RoutingPolicy:
        """A new policy, as the core makes one for each endpoint and ingress worker."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_policy that returns a new policy")

    def make_request(self, number: int) -> RequestInfo:
        """The ``number``-th request of a test, from 1. Override it where the policy looks at requests."""
        return FakeRequest(id=f"request-{number}")

    # -- shares --------------------------------------------------------------------------------------------------

    def test_weights_are_honoured(self) -> None:
        for weights in WEIGHTS:
            self._check_shares(self._driver(), weights)

    def test_weights_are_honoured_from_the_moment_they_are_set(self) -> None:
        """Whatever happened before, and whichever weights were in force."""
        if self.tolerance is None:
            driver = self._driver()
            for weights in WEIGHTS:
                self._check_shares(driver, weights)
            return

        def check(before: list[Operation], weights: list[int]) -> None:
            driver = self._driver()
            perform(driver, before)
            for name in driver.replicas:
                driver.set_replicas(name, 2)
            self._check_shares(driver, weights, requests=40)

        self._for_all(check, operations(), shares())

    # -- choices ---------------------------------------------------------------------------------------------------

    def test_whatever_happens_choices_are_among_those_given(self) -> None:
        """Traffic, replicas and requests come and go in any order: no exception, and nobody chosen who is not there."""

        def check(sequence: list[Operation]) -> None:
            driver = self._driver()
            perform(driver, sequence)
            driver.request()
            driver.close()

        self._for_all(check, operations())

    def test_one_backend_then_many_then_one(self) -> None:
        driver = self._driver()
        for weights in ([1], [1, 2, 3, 4], [0, 0, 1], [1] * 12, [1]):
            driver.set_traffic(weights_of(weights))
            for turn in range(30):
                driver.request()
                driver.reorder([turn % 3, 2, turn % 5, 1])

    def test_what_has_weight_0_is_removed_or_not_ready_gets_nothing(self) -> None:
        driver = self._driver()
        everyone = {"a": 1, "b": 1, "c": 1, "d": 1}
        for name in everyone:
            changes = [
                partial(driver.set_traffic, {**everyone, name: 0}),
                partial(driver.set_traffic, {other: 1 for other in everyone if other != name}),
                partial(driver.set_replicas, name, 0),
                partial(driver.replace_replicas, name),
            ]
            for change in changes:
                driver.set_traffic(everyone)
                for other in everyone:
                    driver.set_replicas(other, 2)
                for _ in range(20):
                    driver.request()
                change()
                for _ in range(20):
                    driver.request()

    def test_an_endpoint_may_have_no_traffic_at_first(self) -> None:
        driver = self._driver()
        driver.set_traffic({})
        driver.set_traffic({"a": 1})
        driver.request()
        driver.close()

    def test_an_endpoint_that_never_had_a_request_is_closed(self) -> None:
        driver = self._driver()
        driver.set_traffic({"a": 1})
        driver.close()

    def test_a_strict_endpoint_lists_backends_without_replicas(self) -> None:
        """With ``strict=True`` they are among the choices, as long as another is ready: their share is to fail."""
        driver = self._driver()
        driver.set_traffic({"a": 1, "b": 1, "c": 2})
        driver.set_replicas("a", 0)
        for _ in range(50):
            driver.choose_backend(driver.next_request(), strict=True)

    def test_any_request_is_given_a_place(self) -> None:
        """Without a header, with every header that a policy may look for, with empty, odd and long values."""
        odd: list[Mapping[str, str]] = [{}, *map(EveryHeader, ODD_VALUES)]
        for headers in odd:
            for path in ("/", "", "/ä%20/?", "/" * 2000):
                request = FakeRequest(headers, "", path, id="")
                driver = PolicyDriver(self.make_policy(), partial(lambda request, number: request, request))
                driver.set_traffic({"a": 2, "b": 1, "c": 1})
                driver.set_replicas("a", 3)
                for _ in range(4):
                    driver.request()
                    driver.finish()

    def test_a_request_may_end_in_any_way(self) -> None:
        driver = self._driver()
        driver.set_traffic({"a": 2, "b": 1})
        for outcome in Outcome:
            for gone in (False, True):
                driver.set_replicas("a", 2)
                for _ in range(6):
                    driver.request()
                if gone:
                    driver.replace_replicas("a")
                while driver.sent:
                    driver.finish(outcome=outcome)
        driver.request()

    # -- policies among others ------------------------------------------------------------------------------------

    def test_two_endpoints_share_nothing(self) -> None:
        """Two policies that take turns choose as each would alone."""
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
            import pytest

            pytest.skip("the policy does not claim to be deterministic")

        def check(sequence: list[Operation]) -> None:
            drivers = self._driver(), self._driver()
            for driver in drivers:
                perform(driver, sequence)
            first, second = ([choice for choice in d.choices if choice[0] in declared] for d in drivers)
            if first != second:
                number = next(n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
                drivers[1].fail(
                    f"the same calls got different choices: choice {number + 1} was {first[number][1]!r} in one "
                    f"object and {second[number][1]!r} in another"
                )

        self._for_all(check, operations())

    def test_nothing_blocks(self) -> None:
        """A policy is called on the event loop: while it waits, nobody is served."""
        driver = self._driver()
        calls: list[str] = []
        with no_blocking(calls.append):
            try:
                driver.set_traffic({"a": 3, "b": 1})
                driver.set_replicas("a", 3)
                for number in range(100):
                    driver.request()
                    if number % 2:
                        driver.finish()
                driver.close()
            except AssertionError:
                if not calls:
                    raise
        if calls:
            driver.fail(f"it called {calls[0]}, which blocks: a policy runs on the event loop, so do that elsewhere")

    # -- means ---------------------------------------------------------------------------------------------------

    def _driver(self) -> PolicyDriver:
        policy: object = self.make_policy()
        if isinstance(policy, RoutingPolicy):
            return PolicyDriver(policy, self.make_request)
        raise AssertionError(f"make_policy returned {policy!r}, which is no servekit.interfaces.RoutingPolicy")

    def _for_all(self, check: Callable[..., None], *strategies: object) -> None:
        try:
            for_all(check, *strategies, max_examples=self.max_examples)
        except hypothesis().errors.Flaky as error:
            seen = next((one for one in getattr(error, "exceptions", ()) if isinstance(one, AssertionError)), error)
            hint = "(Not every time: the policy decides by chance. Give it a seed in make_policy.)"
            raise AssertionError(f"{seen}\n{hint}") from error

    def _check_shares(self, driver: PolicyDriver, weights: Sequence[int], requests: int | None = None) -> None:
        __tracebackhide__ = True
        driver.set_traffic(weights_of(weights))
        total = requests or (DRAWN_REQUESTS if self.tolerance is None else EXACT_REQUESTS)
        for n in range(1, total + 1):
            driver.request()
            driver.finish()
            if self.tolerance is not None or n == total:
                self._check_counts(driver, n)

    def _check_counts(self, driver: PolicyDriver, requests: int, beside: str = "") -> None:
        __tracebackhide__ = True
        for name, weight in driver.weights.items():
            expected, count = requests * weight, driver.counts[name]
            allowed = self._allowed(requests, weight)
            if abs(count - expected) > allowed + 1e-6:
                driver.fail(
                    f"the weights are not honoured{beside}: of {requests} requests since traffic_changed backend "
                    f"{name!r} of weight {weight:g} has had {count}, and {expected:g} give or take {allowed:g} were due"
                )

    def _allowed(self, requests: int, weight: float) -> float:
        if self.tolerance is not None:
            return self.tolerance
        d, variance = self.deviations, requests * weight * (1 - weight)
        return d**2 / 6 + math.sqrt(d**4 / 36 + d**2 * variance)

    def _check_apart(self, traffic: Sequence[Mapping[str, float]], pattern: str) -> None:
        """Requests of two endpoints, in turns by ``pattern``, then the same requests of each alone."""
        total = DRAWN_REQUESTS if self.tolerance is None else EXACT_REQUESTS
        together = [self._driver(), self._driver()]
        turns = [int(pattern[n % len(pattern)]) for n in range(total)]
        for driver, weights in zip(together, traffic, strict=True):
            driver.set_traffic(weights)
        for which in turns:
            together[which].request()
            together[which].finish()
        for which, (driver, weights) in enumerate(zip(together, traffic, strict=True)):
            requests = turns.count(which)
            alone = self._driver()
            alone.set_traffic(weights)
            for _ in range(requests):
                alone.request()
                alone.finish()
            self._check_counts(alone, requests)
            self._check_counts(
                driver, requests, beside=f" beside another endpoint's policy, though they are alone{HINT}"
            )
            chosen = [[choice for choice in d.choices if choice[0] == "choose_backend"] for d in (driver, alone)]
            if self.deterministic_backends and chosen[0] != chosen[1]:
                driver.fail(f"it chooses otherwise beside another endpoint's policy than alone{HINT}")
