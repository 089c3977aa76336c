from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import Autoscaling
from servekit.control import state
from servekit.control.state import Desired
from servekit.errors import AlreadyExistsError, InUseError, InvalidInputError, NotFoundError, ServekitError
from servekit.handler_shape import HandlerShape
from servekit.routes import canonical


@pytest.fixture
def served(make: Any) -> Desired:
    """Endpoint ``e`` with all its traffic on ``a``; ``b`` has none."""
    desired: Desired = make.desired(make.endpoint(traffic={"a": 1.0}), make.backend("a"), make.backend("b"))
    return desired


def traffic(desired: Desired, endpoint: str = "e") -> dict[str, float]:
    return desired.endpoint(endpoint).traffic


# -- endpoints ----------------------------------------------------------------------------------------------------


def test_an_endpoint_is_added_and_removed(make: Any) -> None:
    empty = Desired()
    added = state.add_endpoint(empty, make.endpoint())
    assert list(added.endpoints) == ["e"]
    assert empty == Desired()
    assert state.remove_endpoint(added, "e") == empty


def test_one_with_a_backend_at_once(make: Any) -> None:
    desired = state.add_endpoint(make.desired(make.backend()), make.endpoint(traffic={"b": 1.0}))
    assert traffic(desired) == {"b": 1.0}
    with pytest.raises(NotFoundError, match="no backend 'c'"):
        state.add_endpoint(desired, make.endpoint("f", traffic={"c": 1.0}))


@pytest.mark.parametrize("method", ["GET", "PROPFIND", "NOTIFY", "M-SEARCH", "MKCALENDAR"])
def test_any_method_that_the_parser_reads(make: Any, method: str) -> None:
    assert state.add_endpoint(Desired(), make.endpoint(methods=(method,))).endpoint("e").methods == (method,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"methods": ("get",)}, "'get' is not an HTTP method"),
        ({"methods": ("GET ",)}, "is not an HTTP method"),
        ({"methods": ("",)}, "is not an HTTP method"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"timeout_s": math.inf}, "timeout_s"),
        ({"timeout_s": math.nan}, "timeout_s"),
        ({"route": "x"}, "must start with '/'"),
        ({"route": "/-/mine"}, "servekit's own"),
        ({"route": "/<x>", "mount": True}, "mounted"),
        ({"route": None, "mount": True}, "needs a route"),
        ({"route": "/u/{id}"}, "angle brackets here, <id>"),
        ({"route": "/u/<x>/{id:int}"}, "angle brackets here, <int:id>"),
        ({"traffic": {"a": 0.5}}, "must sum to 1"),
    ],
)
def test_what_an_endpoint_cannot_be(make: Any, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        state.add_endpoint(make.desired(make.backend("a")), make.endpoint(**fields))
    assert reason in str(caught.value)


def test_a_name_that_is_taken(make: Any, served: Desired) -> None:
    with pytest.raises(AlreadyExistsError, match=r"endpoint 'e' exists already.*delete_endpoint\('e'\)"):
        state.add_endpoint(served, make.endpoint(route="/other"))
    with pytest.raises(AlreadyExistsError, match=r"backend 'a' exists already.*delete_backend\('a'\)"):
        state.add_backend(served, make.backend("a"))
    state.add_endpoint(served, make.endpoint("a"))  # An endpoint and a backend may share one.


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "a\x7f", "x" * 201, None, 3])
def test_what_is_no_name(make: Any, name: Any) -> None:
    for kind, add in (("an endpoint", state.add_endpoint), ("a backend", state.add_backend)):
        record = make.endpoint(name, route="/x") if add is state.add_endpoint else make.backend(name)
        with pytest.raises(InvalidInputError, match=f"cannot name {kind}"):
            add(Desired(), record)


def test_an_instance_has_the_name_of_its_folder() -> None:
    state.check_name("instance", "a b")
    with pytest.raises(InvalidInputError, match="cannot name an instance"):
        state.check_name("instance", "a/b")


@pytest.mark.parametrize("name", ["x", "a b", "a/b", "x" * 200, "é", "a.b-c_d:1", "ümlaut ☂"])
def test_names(make: Any, name: str) -> None:
    state.add_endpoint(Desired(), make.endpoint(name, route="/x"))


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"route": "/x"}, {"route": "/x"}),
        ({"route": "/u/<a>"}, {"route": "/u/<b>"}),
        ({"route": "/u/<a>"}, {"route": "/u/<string:b>"}),
        ({"route": "/u/<int:a>"}, {"route": "/u/<int:b>"}),
        ({"route": "/m", "mount": True}, {"route": "/m/", "mount": True}),
        ({"route": "/m", "mount": True}, {"route": "/m"}),
    ],
)
def test_a_route_that_is_taken(make: Any, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    desired = state.add_endpoint(Desired(), make.endpoint("other", **theirs))
    with pytest.raises(AlreadyExistsError, match="belongs to endpoint 'other'"):
        state.add_endpoint(desired, make.endpoint("mine", **mine))
    state.add_endpoint(state.remove_endpoint(desired, "other"), make.endpoint("mine", **mine))


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("/x", "/x/"), ("/u/<int:a>", "/u/<a>"), ("/u/<a>", "/u/me"), (None, None)],
)
def test_routes_beside_each_other(make: Any, mine: str | None, theirs: str | None) -> None:
    desired = state.add_endpoint(Desired(), make.endpoint("other", route=theirs))
    assert len(state.add_endpoint(desired, make.endpoint("mine", route=mine)).endpoints) == 2


def test_an_unknown_name_lists_the_nearest(served: Desired) -> None:
    for change in (state.remove_endpoint, lambda desired, name: state.set_traffic(desired, name, {"a": 1.0})):
        with pytest.raises(NotFoundError, match="there is no endpoint 'ee'; did you mean 'e'"):
            change(served, "ee")
    with pytest.raises(NotFoundError, match="there is no backend 'x'.*Known: a, b"):
        state.remove_backend(served, "x")


# -- backends ------------------------------------------------------------------------------------------------------


def test_a_backend_is_added_replaced_and_removed(make: Any) -> None:
    desired = state.add_backend(Desired(), make.backend())
    other = make.backend(config={"num_replicas": 3})
    assert state.replace_backend(desired, other).backends == {"b": other}
    assert state.remove_backend(desired, "b") == Desired()
    with pytest.raises(NotFoundError):
        state.replace_backend(Desired(), other)


@pytest.mark.parametrize("config", [{"num_replicas": 3}, {"autoscaling": Autoscaling(max_replicas=3)}])
def test_a_backend_is_asked_for_no_more_replicas_than_there_is_a_place_for(make: Any, config: dict[str, Any]) -> None:
    large = make.backend(config=config, most_replicas=2)
    with pytest.raises(InvalidInputError, match=r"backend 'b': \w+_replicas is 3, .* room for 2 replicas"):
        state.add_backend(Desired(), large)
    with pytest.raises(InvalidInputError, match="room for 2 replicas"):
        state.replace_backend(make.desired(make.backend(most_replicas=2)), large)
    roomy = make.backend(config=config, most_replicas=3)
    assert state.replace_backend(state.add_backend(Desired(), roomy), roomy).backend("b") == roomy


def test_a_backend_in_use_cannot_go(make: Any, served: Desired) -> None:
    served = state.add_endpoint(served, make.endpoint("f", traffic={"a": 1.0}))
    with pytest.raises(InUseError, match="backend 'a' is in the traffic of 'e', 'f'") as caught:
        state.remove_backend(served, "a")
    assert isinstance(caught.value, ValueError)
    for endpoint in "ef":
        served = state.set_traffic(served, endpoint, {"b": 1.0})
    assert list(state.remove_backend(served, "a").backends) == ["b"]


def test_the_backends_of_a_deleted_endpoint_stay(served: Desired) -> None:
    after = state.remove_endpoint(served, "e")
    assert list(after.backends) == ["a", "b"]
    assert list(state.remove_backend(after, "a").backends) == ["b"]


# -- traffic -------------------------------------------------------------------------------------------------------


def test_traffic_by_endpoint(served: Desired) -> None:
    after = state.set_traffic(served, "e", {"a": 0.9, "b": 0.1})
    assert traffic(after) == {"a": 0.9, "b": 0.1}
    assert state.traffic_set(served, after) == ["e"]
    assert traffic(served) == {"a": 1.0}
    after = state.set_traffic(after, "e", {"b": 1})
    assert traffic(after) == {"b": 1.0}


def test_traffic_that_is_set_to_what_it_was_was_set_and_no_other_change_sets_it(make: Any, served: Desired) -> None:
    assert state.traffic_set(served, state.set_traffic(served, "e", {"a": 1.0})) == ["e"]
    assert state.traffic_set(served, state.add_endpoint(served, make.endpoint("f", traffic={"b": 1.0}))) == ["f"]
    for after in (
        state.add_endpoint(served, make.endpoint("f")),
        state.remove_endpoint(served, "e"),
        state.add_backend(served, make.backend("c")),
        state.replace_backend(served, make.backend("a", revision=2)),
    ):
        assert state.traffic_set(served, after) == []


@pytest.mark.parametrize("weights", [[0.1] * 10, [1 / 3] * 3, [0.5, 0.5 + 9e-7], [0.0, 1.0]])
def test_weights_that_sum_to_one(make: Any, weights: list[float]) -> None:
    names = [f"b{n}" for n in range(len(weights))]
    desired = make.desired(make.endpoint(), *map(make.backend, names))
    after = state.set_traffic(desired, "e", dict(zip(names, weights, strict=True)))
    assert list(traffic(after).values()) == weights


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ({"a": 0.5}, "must sum to 1; these sum to 0.5"),
        ({"a": 1.0, "b": 1e-5}, "must sum to 1"),
        ({"a": 0.0}, "must sum to 1"),
        ({"a": math.nan}, "from 0 to 1, not nan"),
        ({"a": math.inf}, "from 0 to 1, not inf"),
        ({"a": -0.5, "b": 1.5}, "backend 'a' in endpoint 'e' must be a number from 0 to 1, not -0.5"),
        ({"a": 1.5}, "from 0 to 1, not 1.5"),
        ({"a": 10**400}, "from 0 to 1"),
        ({"a": True}, "from 0 to 1, not True"),
        ({"a": "1"}, "from 0 to 1, not '1'"),
        ({"a": None}, "from 0 to 1, not None"),
        ({"c": 1.0}, "there is no backend 'c'"),
        ({}, "traffic is empty: name at least one backend"),
        ([("a", 1.0)], "dict of weights"),
        (None, "dict of weights"),
    ],
)
def test_traffic_that_is_refused(served: Desired, shares: Any, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        state.set_traffic(served, "e", shares)
    assert reason in str(caught.value)
    assert traffic(served) == {"a": 1.0}


def test_the_seeds_own_example(make: Any) -> None:
    desired = make.desired(make.endpoint("simple_endpoint", route="/simple"), make.backend("simple_backend"))
    after = state.set_traffic(desired, "simple_backend", {"simple_endpoint": 1.0})
    assert traffic(after, "simple_endpoint") == {"simple_backend": 1.0}
    assert state.traffic_set(desired, after) == ["simple_endpoint"]


def test_a_share_below_one_scales_the_others(make: Any) -> None:
    names = ["a", "b", "c"]
    desired = make.desired(
        make.endpoint(traffic={"a": 0.75, "b": 0.25}),
        make.endpoint("f", traffic={"b": 0.5, "c": 0.5}),
        *map(make.backend, names),
    )
    after = state.set_traffic(desired, "c", {"e": 0.2, "f": 0.9})
    assert state.traffic_set(desired, after) == ["e", "f"]
    assert traffic(after) == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2})
    assert traffic(after, "f") == pytest.approx({"b": 0.1, "c": 0.9})


def test_a_share_of_one_leaves_the_others_out(served: Desired) -> None:
    after = state.set_traffic(served, "b", {"e": 1.0})
    assert traffic(after) == {"b": 1.0}
    state.remove_backend(after, "a")


def test_a_share_below_one_needs_another_to_take_the_rest(make: Any) -> None:
    desired = make.desired(make.endpoint(), make.endpoint("f", traffic={"b": 1.0}), make.backend())
    for endpoint in "ef":
        with pytest.raises(InvalidInputError, match=r"no other backend is there to take the rest; give it 1\.0"):
            state.set_traffic(desired, "b", {endpoint: 0.5})
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        state.set_traffic(desired, "b", {"e": 1.5})


def test_shares_are_set_in_all_endpoints_or_in_none(make: Any) -> None:
    desired = make.desired(make.endpoint(), make.endpoint("f"), make.backend())
    with pytest.raises(InvalidInputError):
        state.set_traffic(desired, "b", {"e": 1.0, "f": 0.5})
    assert traffic(desired) == traffic(desired, "f") == {}


def test_where_both_readings_are_possible_the_endpoint_comes_first(make: Any) -> None:
    desired = make.desired(*map(make.endpoint, "xy"), *map(make.backend, "xy"))
    after = state.set_traffic(desired, "x", {"y": 1.0})
    assert traffic(after, "x") == {"y": 1.0}
    assert traffic(after, "y") == {}
    assert state.traffic_set(desired, after) == ["x"]


def test_where_neither_is_the_endpoint_is_missed(make: Any) -> None:
    desired = make.desired(make.endpoint(), make.backend())
    with pytest.raises(NotFoundError, match="no endpoint 'b'"):
        state.set_traffic(desired, "b", {"b": 1.0})
    with pytest.raises(NotFoundError, match="no endpoint 'x'"):
        state.set_traffic(desired, "x", {"e": 1.0})


# -- any sequence of changes -------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["x", "y", "z"])
WEIGHTS = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1), st.sampled_from([math.nan, -1.0, 2.0]))
SHARES = st.one_of(
    st.dictionaries(NAMES, WEIGHTS, max_size=3),
    st.permutations(["x", "y", "z"]).flatmap(
        lambda names: st.floats(0, 1).map(lambda share: {names[0]: share, names[1]: 1 - share})
    ),
)
CHANGES = st.one_of(
    st.tuples(st.just("add_endpoint"), NAMES, st.sampled_from(["/x", "/<a>", "/<b>", None])),
    st.tuples(st.just("remove_endpoint"), NAMES, st.none()),
    st.tuples(st.just("add_backend"), NAMES, st.none()),
    st.tuples(st.just("remove_backend"), NAMES, st.none()),
    st.tuples(st.just("set_traffic"), NAMES, SHARES),
    st.tuples(st.just("set_traffic"), NAMES, SHARES),
)


def apply(make: Any, desired: Desired, kind: str, name: str, more: Any) -> Desired:
    if kind == "add_endpoint":
        return state.add_endpoint(desired, make.endpoint(name, route=more))
    if kind == "add_backend":
        return state.add_backend(desired, make.backend(name))
    if kind == "set_traffic":
        return state.set_traffic(desired, name, more)
    return getattr(state, kind)(desired, name)  # type: ignore[no-any-return]


@given(changes=st.lists(CHANGES, max_size=25))
def test_traffic_always_sums_to_one_and_names_what_is_there(make: Any, changes: list[tuple[str, str, Any]]) -> None:
    desired = make.desired(*map(make.endpoint, "xy"), *map(make.backend, "xy"))
    for change in changes:
        before = {name: dict(record.traffic) for name, record in desired.endpoints.items()}
        try:
            after = apply(make, desired, *change)
        except ServekitError:
            assert {name: record.traffic for name, record in desired.endpoints.items()} == before
            continue
        assert {name: record.traffic for name, record in desired.endpoints.items()} == before
        desired = after
        for record in desired.endpoints.values():
            assert record.traffic.keys() <= desired.backends.keys()
            assert all(0 <= weight <= 1 + 1e-6 for weight in record.traffic.values())
            assert not record.traffic or abs(math.fsum(record.traffic.values()) - 1) <= 1e-6
        routes = [canonical(e.options.route) for e in desired.endpoints.values() if e.options.route is not None]
        assert len(routes) == len(set(routes))


# -- what a typed handler takes --------------------------------------------------------------------------------------


def shape(doubt: str = "", **parameters: str) -> HandlerShape:
    return HandlerShape(False, (), False, (), False, None if doubt else parameters, doubt)


TYPED_MISFITS = [
    ({"user_id": "text"}, {"route": "/u/<int:uid>"}, "<uid>, which is no parameter of the handler.*'user_id'"),
    ({"item": "body"}, {}, r"'item' is the body of the request.*methods=\['POST'\]"),
    ({"n": "text"}, {"mount": True, "methods": ()}, "mount=True is for applications"),
    ({}, {"mount": True, "methods": ()}, "mount=True is for applications"),
    ({"doubt": "the parameter 'b' has no annotation"}, {}, "'b' has no annotation.*adapter='json'"),
]


@pytest.mark.parametrize(("parameters", "fields", "reason"), TYPED_MISFITS)
def test_a_route_that_could_never_call_a_typed_handler(make: Any, parameters: Any, fields: Any, reason: str) -> None:
    desired = make.desired(make.backend("a", shape=shape(**parameters)))
    with pytest.raises(InvalidInputError, match=reason):
        state.add_endpoint(desired, make.endpoint(traffic={"a": 1.0}, **fields))
    later = state.add_endpoint(desired, make.endpoint(**fields))
    with pytest.raises(InvalidInputError, match=reason):
        state.set_traffic(later, "e", {"a": 1.0})
    state.add_endpoint(desired, make.endpoint(route=None, traffic={"a": 1.0}))


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"uid": "text"}, {"route": "/u/<int:uid>"}),
        ({"item": "optional"}, {}),
        ({"item": "body"}, {"methods": ("GET", "POST")}),
        ({"q": "text"}, {}),
        ({"lang": "optional"}, {"route": "/<shop>/x"}),
        ({"request": "request", "q": "text"}, {"route": "/<shop>/x"}),
        ({"request": "request"}, {"mount": True, "methods": ()}),
    ],
)
def test_a_route_that_can_call_a_typed_handler(make: Any, parameters: Any, fields: Any) -> None:
    desired = make.desired(make.backend("a", shape=shape(**parameters)))
    state.add_endpoint(desired, make.endpoint(traffic={"a": 1.0}, **fields))


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"callable_methods": ("trian",)}, "lacks; did you mean 'train'"), ({"max_batch_size": 4}, "one request at a")],
)
def test_a_changed_config_is_checked_as_a_new_one_is(make: Any, config: dict[str, Any], reason: str) -> None:
    known = HandlerShape(True, ("train",), False, ("train",), False)
    desired = make.desired(make.backend("a", shape=known))
    with pytest.raises(InvalidInputError, match=reason):
        state.replace_backend(desired, make.backend("a", shape=known, config=config))
    state.replace_backend(desired, make.backend("a", shape=known, config={"callable_methods": ("train",)}))
