from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors import InvalidInputError
from servekit.routes import RouteTable, canonical, check_route


@dataclass(frozen=True, eq=False)
class Endpoint:
    route: str | None
    mount: bool = False


def table(*endpoints: Endpoint) -> RouteTable[Endpoint]:
    routes: RouteTable[Endpoint] = RouteTable()
    for endpoint in endpoints:
        routes.add(endpoint)
    return routes


def found(routes: RouteTable[Endpoint], path: str) -> str | None:
    """The route that ``path`` was found by."""
    match = routes.find(path)
    return None if match is None else match[0].route


# -- finding ----------------------------------------------------------------------------------------------------


def test_exact_routes() -> None:
    routes = table(Endpoint("/a"), Endpoint("/a/"), Endpoint("/a/b"), Endpoint("/é"), Endpoint(None))
    for path in ("/a", "/a/", "/a/b", "/é"):
        assert found(routes, path) == path
    for path in ("/", "/A", "/a/b/", "//a", "a", "*", "/-/routes"):
        assert found(routes, path) is None


@pytest.mark.parametrize(
    ("route", "path", "view_args"),
    [
        ("/u/<name>", "/u/é b", {"name": "é b"}),
        ("/u/<string:name>", "/u/x", {"name": "x"}),
        ("/u/<int:number>", "/u/007", {"number": 7}),
        ("/u/<int(min=5):number>", "/u/5", {"number": 5}),
        ("/u/<float:number>", "/u/1.5", {"number": 1.5}),
        ("/u/<path:rest>", "/u/a/b/c", {"rest": "a/b/c"}),
        ("/u/<uuid:key>", f"/u/{uuid.UUID(int=3)}", {"key": uuid.UUID(int=3)}),
        ("/u/<any(red, blue):colour>", "/u/blue", {"colour": "blue"}),
        ("/u/<int:a>-<int:b>", "/u/1-2", {"a": 1, "b": 2}),
        ("/<a>/<b>", "/x/y", {"a": "x", "b": "y"}),
    ],
)
def test_patterns(route: str, path: str, view_args: dict[str, Any]) -> None:
    endpoint = Endpoint(route)
    assert table(endpoint).find(path) == (endpoint, view_args)


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("/u/<int:number>", "/u/x"),
        ("/u/<int:number>", "/u/-1"),
        ("/u/<int:number>", "/u/1/"),
        ("/u/<int(min=5):number>", "/u/4"),
        ("/u/<float:number>", "/u/1"),
        ("/u/<name>", "/u/a/b"),
        ("/u/<name>", "/u/"),
        ("/u/<uuid:key>", "/u/3"),
        ("/u/<int:number>", "/u/" + "9" * 5000),
    ],
)
def test_what_a_pattern_does_not_match(route: str, path: str) -> None:
    assert table(Endpoint(route)).find(path) is None


def test_mounts_have_the_subtree_and_the_longest_prefix_wins() -> None:
    routes = table(Endpoint("/app", mount=True), Endpoint("/app/admin/", mount=True))
    for path in ("/app", "/app/", "/app/x", "/app//x", "/app/administrator"):
        assert found(routes, path) == "/app"
    for path in ("/app/admin", "/app/admin/", "/app/admin/x/y"):
        assert found(routes, path) == "/app/admin/"
    for path in ("/", "/apple", "/ap", "*"):
        assert found(routes, path) is None


def test_a_mount_at_the_root_has_all_but_what_is_reserved() -> None:
    routes = table(Endpoint("/", mount=True))
    for path in ("/", "/x", "/x/y", "/-", "/-x"):
        assert found(routes, path) == "/"
    assert found(routes, "/-/healthz") is None


def test_an_exact_route_wins_over_a_pattern_and_that_over_a_mount() -> None:
    routes = table(Endpoint("/", mount=True), Endpoint("/u/<name>"), Endpoint("/u/me"))
    assert found(routes, "/u/me") == "/u/me"
    assert found(routes, "/u/you") == "/u/<name>"
    assert found(routes, "/u/you/too") == "/"


def test_the_narrower_pattern_wins() -> None:
    routes = table(Endpoint("/<path:rest>"), Endpoint("/u/<name>"), Endpoint("/u/<int:number>"))
    assert found(routes, "/u/1") == "/u/<int:number>"
    assert found(routes, "/u/x") == "/u/<name>"
    assert found(routes, "/x/y") == "/<path:rest>"


@pytest.mark.parametrize("path", ["/-/routes", "/-/a/b", "/-/"])
def test_patterns_do_not_match_what_is_reserved(path: str) -> None:
    assert table(Endpoint("/<path:rest>"), Endpoint("/<a>/<b>")).find(path) is None


# -- redirects ----------------------------------------------------------------------------------------------------


def test_a_path_that_lacks_the_slash_at_its_end() -> None:
    routes = table(Endpoint("/a/"), Endpoint("/u/<name>/"), Endpoint("/b"))
    assert routes.redirect("/a") == "/a/"
    assert routes.redirect("/u/x") == "/u/x/"
    assert routes.find("/u/x") is None
    for path in ("/b", "/b/", "/c", "/u/x/", "/a/", "//evil.example/a"):
        assert routes.redirect(path) is None


# -- changes --------------------------------------------------------------------------------------------------------


def test_what_was_removed_is_not_found() -> None:
    endpoints = [Endpoint("/a"), Endpoint("/u/<name>"), Endpoint("/m", mount=True), Endpoint(None)]
    routes = table(*endpoints)
    assert [found(routes, path) for path in ("/a", "/u/x", "/m/x")] == ["/a", "/u/<name>", "/m"]
    for endpoint in endpoints:
        routes.remove(endpoint)
    assert [found(routes, path) for path in ("/a", "/u/x", "/m/x")] == [None, None, None]


def test_a_pattern_that_comes_later_is_found() -> None:
    routes = table(Endpoint("/u/<name>"))
    assert found(routes, "/v/1") is None
    routes.add(Endpoint("/v/<name>"))
    assert found(routes, "/v/1") == "/v/<name>"


@pytest.mark.parametrize(
    ("route", "mount", "path"), [("/a", False, "/a"), ("/u/<n>", False, "/u/1"), ("/m", True, "/m/x")]
)
def test_removing_one_does_not_take_the_route_from_its_successor(route: str, mount: bool, path: str) -> None:
    old, new = Endpoint(route, mount), Endpoint(route, mount)
    routes = table(old, new)
    routes.remove(old)
    match = routes.find(path)
    assert match is not None
    assert match[0] is new


# -- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["/", "/a", "/a/b/", "/é", "/<x>", "/u/<int(min=1):id>", "/-x/", "/a.b~c"])
def test_routes(route: str) -> None:
    check_route(route, mount=False)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ("a", "must start with '/'"),
        ("", "must start with '/'"),
        ("/-/mine", "servekit's own"),
        ("/-/", "servekit's own"),
        ("/-", "servekit's own"),
        ("/a b", "space"),
        ("/a\nb", "control character"),
        ("/a?b", "'?'"),
        ("/a#b", "'#'"),
        ("/<", "werkzeug"),
        ("/<no_such:x>", "werkzeug"),
        ("/<x>/<x>", "werkzeug"),
        ("/<int(nothing=1):x>", "werkzeug"),
    ],
)
def test_what_is_no_route(route: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_route(route, mount=False)
    assert reason in str(caught.value)
    assert repr(route) in str(caught.value)


def test_mounts_have_no_variables() -> None:
    check_route("/app", mount=True)
    with pytest.raises(InvalidInputError, match="without <variables>"):
        check_route("/<app>", mount=True)


def test_the_canonical_form() -> None:
    assert canonical("/u/<int:a>/<b>") == canonical("/u/<int:x>/<y>")
    assert canonical("/<a>") == canonical("/<string:a>")
    assert canonical("/<a>") != canonical("/<int:a>")
    assert canonical("/<int(min=1):a>") != canonical("/<int:a>")
    assert canonical("/a") != canonical("/a/")


@given(st.text(alphabet="/<>:ab-()=1,", max_size=20), st.text(alphabet="/ab-1", max_size=20))
def test_a_route_that_passes_the_check_can_be_searched(route: str, path: str) -> None:
    try:
        check_route(f"/{route}", mount=False)
    except InvalidInputError:
        return
    routes = table(Endpoint(f"/{route}"))
    routes.find(f"/{path}")
    routes.redirect(f"/{path}")


@given(st.lists(st.text(alphabet="ab/", min_size=1, max_size=6), unique=True), st.text(alphabet="ab/", max_size=6))
def test_exact_routes_match_themselves_alone(paths: list[str], asked: str) -> None:
    routes = table(*[Endpoint(f"/{path}") for path in paths])
    assert found(routes, f"/{asked}") == (f"/{asked}" if asked in paths else None)
