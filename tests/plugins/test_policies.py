"""Every bundled policy passes the conformance kit; is there by its name, and checks its options."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

import servekit as serve
from servekit.errors import PluginOptionsError
from servekit.interfaces import RoutingPolicy
from servekit.testing.conformance import FakeRequest, RoutingPolicyTests
from servekit_weighted import (
    FixedPacking,
    HeaderRules,
    LeastLoaded,
    RandomChoice,
    RoundRobin,
    Sticky,
    WeightedSplit,
    servekit_register_routing_policies,
)

RULES = [{"header": "X-Version", "value": "beta", "backend": "b"}, {"cookie": "user", "backend": "c"}]

# -- the kit ---------------------------------------------------------------------------------------------------------


class TestWeightedSplit(RoutingPolicyTests):
    deterministic_backends = True

    def make_policy(self) -> RoutingPolicy:
        return WeightedSplit()


class TestRoundRobin(RoutingPolicyTests):
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return RoundRobin()


class TestLeastLoaded(RoutingPolicyTests):
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return LeastLoaded()


class TestRandomChoice(RoutingPolicyTests):
    tolerance = None
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return RandomChoice(seed=3)


class TestFixedPacking(RoutingPolicyTests):
    tolerance = 3.0
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return FixedPacking(seed=0)


class TestFixedPackingOfFive(RoutingPolicyTests):
    tolerance = 5.0
    deterministic_backends = True

    def make_policy(self) -> RoutingPolicy:
        return FixedPacking(k=5)


class TestHeaderRulesWithoutHeaders(RoutingPolicyTests):
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return HeaderRules(RULES, seed=0)


class TestHeaderRules(RoutingPolicyTests):
    tolerance = math.inf
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return HeaderRules(RULES, seed=0)

    def make_request(self, number: int) -> FakeRequest:
        return FakeRequest([{}, {"x-version": "beta"}, {"x-version": "old"}, {"cookie": "user=1"}][number % 4])


class TestStickyWithoutKeys(RoutingPolicyTests):
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return Sticky(header="x-user", seed=0)


class TestSticky(RoutingPolicyTests):
    """Every request of another client: what is drawn by hashing is as good as drawn by chance."""

    tolerance = None
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return Sticky(header="x-user", seed=0)

    def make_request(self, number: int) -> FakeRequest:
        return FakeRequest({"x-user": f"user-{number}"})


class TestStickyOfFewClients(RoutingPolicyTests):
    tolerance = math.inf
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return Sticky(cookie="session", seed=0)

    def make_request(self, number: int) -> FakeRequest:
        return FakeRequest({"cookie": f"session={number % 5}"})


# -- by name, with options that are checked ---------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {"header": {"rules": RULES}, "sticky": {"cookie": "session"}}


@pytest.mark.parametrize("policy", sorted(servekit_register_routing_policies()))
def test_each_is_there_by_name(serve_instance: Any, policy: str) -> None:
    serve.create_endpoint("e", "/e", policy=policy, policy_options=OPTIONS.get(policy))
    for name in "ab":
        serve.create_backend(name, lambda flask_request: "ok", config={"num_replicas": 2})
    serve.set_traffic("e", {"a": 0.5, "b": 0.5})
    assert [serve_instance.client.get("/e").text for _ in range(6)] == ["ok"] * 6


def test_rules_pick_the_backend_of_real_requests(serve_instance: Any) -> None:
    rules = [{"header": "X-Version", "value": "beta", "backend": "b"}, {"cookie": "tester", "backend": "b"}]
    serve.create_endpoint("e", "/e", policy="header", policy_options={"rules": rules})
    serve.create_backend("a", lambda flask_request: "a")
    serve.create_backend("b", lambda flask_request: "b")
    serve.set_traffic("e", {"a": 0.999, "b": 0.001})

    def ask(**headers: str) -> str:
        return serve_instance.client.get("/e", headers=headers).text

    assert [ask(), ask(x_version="beta"), ask(**{"x-version": "BETA"})] == ["a", "a", "a"]
    assert [ask(**{"X-Version": "beta"}), ask(cookie="id=3; tester=yes")] == ["b", "b"]
    serve.set_traffic("e", {"a": 1.0})
    assert ask(**{"X-Version": "beta"}) == "a"


@pytest.mark.parametrize(
    ("policy", "options", "said"),
    [
        (RandomChoice, {"seed": "1"}, "seed is '1': give an integer"),
        (RandomChoice, {"seed": True}, "seed is True: give an integer"),
        (FixedPacking, {"k": 0}, "k is 0: give a whole number"),
        (FixedPacking, {"k": 2.0}, "k is 2.0: give a whole number"),
        (FixedPacking, {"seed": 1.5}, "seed is 1.5: give an integer"),
        (HeaderRules, {"rules": []}, "rules is []: give a list of at least one rule, such as [{'header'"),
        (HeaderRules, {"rules": {"header": "a"}}, "give a list of at least one rule"),
        (HeaderRules, {"rules": "x-version"}, "give a list of at least one rule"),
        (HeaderRules, {"rules": ["x"]}, "rules[0] is 'x': give a dict, such as {'header'"),
        (HeaderRules, {"rules": [*RULES, {"backend": "b"}]}, "rules[2]: neither of header and cookie is given"),
        (HeaderRules, {"rules": [{"header": "a", "cookie": "b", "backend": "c"}]}, "rules[0]: both of header and"),
        (HeaderRules, {"rules": [{"header": "a"}]}, "rules[0]: backend is None: give a text"),
        (HeaderRules, {"rules": [{"header": "", "backend": "b"}]}, "rules[0]: header is '': give a text"),
        (HeaderRules, {"rules": [{"header": "a", "value": 1, "backend": "b"}]}, "rules[0]: value is 1: give a text"),
        (HeaderRules, {"rules": [{"headers": "a", "backend": "b"}]}, "rules[0] has 'headers': a rule has header or"),
        (Sticky, {}, "neither of header and cookie is given: name one of them"),
        (Sticky, {"header": "a", "cookie": "b"}, "both of header and cookie is given: name one of them"),
        (Sticky, {"header": 3}, "header is 3: give a text"),
        (Sticky, {"header": "a", "balance": 1}, "balance is 1: give a number above 1"),
        (Sticky, {"header": "a", "balance": math.nan}, "balance is nan: give a number above 1"),
        (Sticky, {"header": "a", "balance": "2"}, "balance is '2': give a number above 1"),
    ],
)
def test_bad_options_are_refused_with_what_to_write(policy: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        policy(**options)


def test_bad_options_are_refused_when_the_endpoint_is_created(serve_instance: Any) -> None:
    with pytest.raises(PluginOptionsError, match=r"'header'.*rules\[0\]: neither of header and cookie"):
        serve.create_endpoint("e", "/e", policy="header", policy_options={"rules": [{"backend": "b"}]})
    assert serve.list_endpoints() == {}
