"""Which endpoint a path belongs to.

Exact routes are one dictionary look-up, however many there are. Flask-style patterns (``/users/<int:id>``) go by
werkzeug's own rules, and mounted endpoints by the longest prefix; an exact route wins over a pattern, a pattern over a
mount.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from servekit.errors import InvalidInputError

if TYPE_CHECKING:
    from werkzeug.routing import Map

VARIABLE = re.compile(r"<(?:(?P<converter>[^:<>]+):)?(?P<name>[^:<>]+)>")

RESERVED = "/-/"
"""Paths below it are servekit's own."""


class Routed(Protocol):
    @property
    def route(self) -> str | None: ...

    @property
    def mount(self) -> bool: ...


E = TypeVar("E", bound=Routed)


def is_pattern(route: str) -> bool:
    return "<" in route


@functools.lru_cache(maxsize=16 * 1024)
def canonical(route: str) -> str:
    """Two routes that match the same paths have the same canonical form: the names of variables do not count."""
    return VARIABLE.sub(lambda found: f"<{found['converter'] or 'string'}>", route)


def check_route(route: str, *, mount: bool) -> None:
    """Raise `InvalidInputError` where ``route`` cannot be one."""
    if not route.startswith("/"):
        raise InvalidInputError(f"the route {route!r} must start with '/'")
    if (route + "/").startswith(RESERVED):
        raise InvalidInputError(f"the route {route!r} is servekit's own; choose one that is not below {RESERVED!r}")
    if any(character in route for character in "?#") or any(ord(character) <= 32 for character in route):
        raise InvalidInputError(f"the route {route!r} holds a space, a control character, '?' or '#'")
    if not is_pattern(route):
        return
    if mount:
        raise InvalidInputError(f"the route {route!r} is mounted, so it must be a plain prefix without <variables>")
    from werkzeug.routing import Map, Rule

    try:
        Map([Rule(route)])
    except Exception as error:  # Among them a SyntaxError, where a variable comes twice.
        raise InvalidInputError(f"the route {route!r} is not one that werkzeug takes: {error}") from None


class RouteTable(Generic[E]):
    """The routes of all endpoints."""

    def __init__(self) -> None:
        self.exact: dict[str, E] = {}
        self._mounts: dict[str, E] = {}
        self._patterns: dict[str, E] = {}
        self._match_pattern: Callable[[str], tuple[str, Mapping[str, Any]] | None] | None = None
        self._add_pattern: Callable[[str], None] | None = None
        """Adds a route to those that `_match_pattern` knows; None where it knows none yet."""

    def add(self, endpoint: E) -> None:
        route = endpoint.route
        if route is None:
            return
        if endpoint.mount:
            self._mounts[route.rstrip("/")] = endpoint
        elif is_pattern(route):
            known = route in self._patterns
            self._patterns[route] = endpoint
            if self._add_pattern is not None and not known:
                self._add_pattern(route)
        else:
            self.exact[route] = endpoint

    def remove(self, endpoint: E) -> None:
        route = endpoint.route
        if route is None:
            return
        if endpoint.mount:
            routes, key = self._mounts, route.rstrip("/")
        else:
            routes, key = (self._patterns if is_pattern(route) else self.exact), route
        # Another endpoint may have taken the route over already.
        if routes.get(key) is endpoint:
            del routes[key]
            if routes is self._patterns:
                self._match_pattern = self._add_pattern = None

    def find(self, path: str) -> tuple[E, dict[str, Any] | None] | None:
        """The endpoint, and what the variable parts of its route matched."""
        endpoint = self.exact.get(path)
        if endpoint is not None:
            return endpoint, None
        if path.startswith(RESERVED):
            return None
        if self._patterns:
            found = (self._match_pattern or self._compile())(path)
            if found is not None:
                return self._patterns[found[0]], dict(found[1])
        return self._find_mount(path) if self._mounts else None

    def redirect(self, path: str) -> str | None:
        """Where a path without an endpoint should have gone: a route with a slash at the end, as in Flask."""
        slashed = path + "/"
        if slashed in self.exact:
            return slashed
        return slashed if self._patterns and (self._match_pattern or self._compile())(slashed) else None

    def _find_mount(self, path: str) -> tuple[E, None] | None:
        prefix = path
        while True:
            endpoint = self._mounts.get(prefix)
            if endpoint is not None:
                return endpoint, None
            if not prefix:
                return None
            prefix = prefix[: prefix.rfind("/")] if "/" in prefix else ""

    def _compile(self) -> Callable[[str], tuple[str, Mapping[str, Any]] | None]:
        # werkzeug costs 0.1 s to import: only those who use patterns pay.
        from werkzeug.exceptions import HTTPException
        from werkzeug.routing import Map, Rule

        class Matched(Rule):
            """A rule that is only matched: what `url_for` needs takes most of the time that compiling one takes."""

            def _compile_builder(self, append_unknown: bool = True) -> Any:
                return lambda *_: None

        rules: Map = Map([Matched(route, endpoint=route) for route in self._patterns], strict_slashes=True)
        adapter = rules.bind("")

        def match(path: str) -> tuple[str, Mapping[str, Any]] | None:
            try:
                route, view_args = adapter.match(path, method="GET")
            except (HTTPException, ValueError):
                # Not found, or a redirect to another spelling; or a number with more digits than `int` reads.
                return None
            return route, view_args

        self._match_pattern = match
        self._add_pattern = lambda route: rules.add(Matched(route, endpoint=route))
        return match
