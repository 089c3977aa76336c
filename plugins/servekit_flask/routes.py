"""Endpoints as werkzeug knows them: for ``request.endpoint``, ``request.url_rule`` and `flask.url_for`."""

from __future__ import annotations

from functools import lru_cache

from werkzeug.routing import Map, Rule


@lru_cache(maxsize=256)
def rule_of(endpoint: str, route: str) -> Rule:
    """The rule of one endpoint, bound to a map of its own: ``url_for`` knows the endpoint that was asked, and no other.

    An endpoint without a route gets a rule that is in no map, so that it has a name but no URL.
    """
    if not route:
        return Rule("/", endpoint=endpoint)
    rule = Rule(route, endpoint=endpoint)
    Map([rule])
    return rule


@lru_cache(maxsize=1)
def empty_map() -> Map:
    """The map of the rules that are in none."""
    return Map()
