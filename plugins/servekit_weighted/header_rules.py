"""The bundled routing policy ``header``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from servekit.interfaces import BackendView, DrawnUnit, ReplicaView, RequestInfo, RoutingPolicy, two_choices
from servekit_weighted.options import header_or_cookie, seeded, text
from servekit_weighted.split import WeightedSplit

EXAMPLE = "{'header': 'x-version', 'value': 'beta', 'backend': 'b'}"


class HeaderRules(RoutingPolicy):
    """The first rule that fits a request names the backend of that request; all other requests are split by weight.

    A request is split by weight, too, where the backend of its rule has no weight or no ready replica. Requests that a
    rule has sent do not count in the split. Replicas are chosen by `two_choices`.
    """

    def __init__(self, rules: Sequence[Mapping[str, Any]], seed: int | None = None) -> None:
        """
        Args:
            rules: a list of dicts. Each has ``header`` or ``cookie``, the name of a header (in any case) or of a
                cookie; ``value``, the value that it must have (without ``value``, any but the empty one fits); and
                ``backend``, the name of the backend that such a request goes to.
            seed: an integer with which the choices among replicas can be reproduced.
        """
        if isinstance(rules, (str, bytes, Mapping)) or not isinstance(rules, Sequence) or not rules:
            raise ValueError(f"rules is {rules!r}: give a list of at least one rule, such as [{EXAMPLE}]")
        self._rules = [_Rule(f"rules[{index}]", rule) for index, rule in enumerate(rules)]
        self._split = WeightedSplit()
        self._random = seeded(seed)

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self._split.traffic_changed(weights)

    def draw_order(self, seed: int | None) -> DrawnUnit:
        """Draw the order of the requests that no rule fits. Those that one fits are chosen by what is in them, and so
        all of them together are not drawn."""
        self._split.draw_order(seed)
        return DrawnUnit.NONE

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        headers = request.headers  # once: the core makes the mapping anew at each access
        for rule in self._rules:
            if rule.fits(headers):
                for backend in backends:
                    if backend.name == rule.backend:
                        return backend
                break
        return self._split.choose_backend(request, backends)

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return two_choices(replicas, self._random.random)


class _Rule:
    """One rule, checked. ``name`` stands for the rule in errors: ``rules[0]``."""

    def __init__(self, name: str, rule: object) -> None:
        if not isinstance(rule, Mapping):
            raise ValueError(f"{name} is {rule!r}: give a dict, such as {EXAMPLE}")  # noqa: TRY004
        unknown = [key for key in rule if key not in ("header", "cookie", "value", "backend")]
        if unknown:
            raise ValueError(f"{name} has {unknown[0]!r}: a rule has header or cookie, value, and backend")
        try:
            self._field = header_or_cookie(rule.get("header"), rule.get("cookie"))
            self._value = text("value", rule["value"]) if rule.get("value") is not None else None
            self.backend = text("backend", rule.get("backend"))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def fits(self, headers: Mapping[str, str]) -> bool:
        found = self._field(headers)
        return found is not None and (self._value is None or found == self._value)
