"""Plans, histories and kept revisions: pure functions of the desired state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import BackendConfig, EndpointOptions
from servekit.control import history, state
from servekit.control.deploys import Deploy, Wanted, all_as_written, plan_deploy, with_written
from servekit.control.history import Author, recorded
from servekit.control.state import BackendRecord, Desired, InFile
from servekit.deploy.reading import read
from servekit.errors import InUseError, InvalidInputError, NotFoundError, StalePlanError
from servekit.wire.control_frames import EndpointRecord, PluginRef

RUNTIME: tuple[str, dict[str, Any]] = ("process", {})


def backend(name: str, *args: Any, code: str = "c1", **config: Any) -> BackendRecord:
    return BackendRecord(
        name=name,
        target_text="model:Model",
        sys_path=(),
        cwd="/",
        code_digest=code,
        in_file=InFile(list(args)),
        target="0" * 64,
        config=BackendConfig(**config),
        adapter_ref=PluginRef("adapters:Flask"),
        runtime="process",
        runtime_options={},
    )


def endpoint(name: str, route: str | None = None, timeout_s: float = 60.0, **traffic: float) -> EndpointRecord:
    options = EndpointOptions(route or f"/{name}", timeout_s=timeout_s)
    return EndpointRecord(name, options, ("GET",), "weighted", PluginRef("policies:Weighted"), traffic)


def wanted(*records: BackendRecord | EndpointRecord, as_it_is: str = "") -> Wanted:
    return Wanted(
        {each.name: each for each in records if isinstance(each, EndpointRecord)},
        {each.name: each for each in records if isinstance(each, BackendRecord)},
        {},
        frozenset(as_it_is.split()),
    )


def plan(desired: Desired, *records: BackendRecord | EndpointRecord, as_it_is: str = "") -> Deploy:
    return plan_deploy(desired, wanted(*records, as_it_is=as_it_is), RUNTIME)


def done(desired: Desired, deploy: Deploy, why: str = "deploy") -> Desired:
    """The state after a deploy, as the controller makes it."""
    put = {
        name: each
        if each.revision
        else msgspec.structs.replace(each, revision=state.newest_revision(desired, name) + 1)
        for name, each in deploy.backends.items()
    }
    after = deploy.finish(state.put_backends(desired, put))
    return recorded(desired, after, Author("me", why), at=1.0)


def actions(deploy: Deploy) -> list[str]:
    return [f"{step.action} {step.name}" for step in deploy.steps]


def changes(deploy: Deploy) -> dict[str, tuple[Any, Any]]:
    return {each.key: (each.before, each.after) for step in deploy.steps for each in step.differences}


@pytest.fixture
def served() -> Desired:
    return done(Desired(), plan(Desired(), backend("a", 1), backend("b"), endpoint("e", a=0.5, b=0.5)))


def test_what_is_there_already_is_nothing_to_do(served: Desired) -> None:
    assert plan(served, backend("a", 1), backend("b"), endpoint("e", a=0.5, b=0.5)).steps == []


def test_each_change_is_a_step_with_what_it_changes(served: Desired) -> None:
    deploy = plan(served, backend("a", 2), backend("c", num_replicas=3), endpoint("e", timeout_s=5.0, a=1.0))
    assert actions(deploy) == ["replace a", "create c", "change e", "traffic e", "remove b"]
    found = changes(deploy)
    assert found["backends.a.args[0]"] == (1, 2)
    assert found["endpoints.e.timeout_s"] == (60.0, 5.0)
    assert (found["endpoints.e.traffic.a"], found["endpoints.e.traffic.b"]) == ((0.5, 1.0), (0.5, None))
    assert found["backends.c.config.num_replicas"] == (None, 3)


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ({"num_replicas": 3}, "change"),
        ({"user_config": {"a": {"b": 1}}}, "change"),
        ({"max_surge": 1}, "change"),
        ({"max_batch_size": 3}, "replace"),
        ({"code": "c2"}, "replace"),
    ],
)
def test_running_replicas_take_over_what_they_can(served: Desired, change: dict[str, Any], action: str) -> None:
    deploy = plan(served, backend("a", 1, **change), backend("b"), endpoint("e", a=0.5, b=0.5))
    assert actions(deploy) == [f"{action} a"]
    assert (deploy.backends["a"].revision == 0) == (action == "replace")


def test_an_object_of_a_script_is_no_target_of_a_file(served: Desired) -> None:
    made = msgspec.structs.replace(served.backends["a"], in_file=None)
    desired = state.replace_backend(served, made)
    deploy = plan(desired, backend("a", 1), backend("b"), endpoint("e", a=0.5, b=0.5))
    assert actions(deploy) == ["replace a"]
    assert changes(deploy)["backends.a.target"] == ("model:Model, an object", "model:Model")


def test_traffic_that_a_file_leaves_out_stays(served: Desired) -> None:
    assert plan(served, backend("a", 1), backend("b"), endpoint("e"), as_it_is="e").steps == []
    deploy = plan(served, backend("a", 1), endpoint("e"), as_it_is="e")
    with pytest.raises(InUseError, match="'b' is in the traffic of 'e'"):
        done(served, deploy)


def test_two_endpoints_exchange_their_routes() -> None:
    desired = done(Desired(), plan(Desired(), endpoint("e", "/1"), endpoint("f", "/2")))
    after = done(desired, plan(desired, endpoint("e", "/2"), endpoint("f", "/1")))
    assert {name: each.options.route for name, each in after.endpoints.items()} == {"e": "/2", "f": "/1"}


def test_what_does_not_fit_together_is_refused(served: Desired) -> None:
    with pytest.raises(NotFoundError, match="no backend 'z'"):
        done(served, plan(served, endpoint("e", z=1.0)))
    with pytest.raises(InvalidInputError, match="must sum to 1"):
        done(served, plan(served, backend("a", 1), endpoint("e", a=0.7)))


def test_values_of_variables_are_in_no_plan() -> None:
    secret = with_written(wanted(backend("a", "hidden")), {"backends.a.args[0]": "${KEY}"}, RUNTIME)
    created = plan_deploy(Desired(), secret, RUNTIME)
    assert changes(created)["backends.a.args[0]"] == (None, "${KEY}")
    desired = done(Desired(), created)
    assert plan_deploy(desired, secret, RUNTIME).steps == []
    other = with_written(wanted(backend("a", "hidden too")), {"backends.a.args[0]": "${KEY}"}, RUNTIME)
    assert changes(plan_deploy(desired, other, RUNTIME))["backends.a.args[0]"] == (
        "${KEY}",
        "${KEY}, which has another value now",
    )
    # Also once the revision was replaced, and is back.
    plain = done(desired, plan(desired, backend("a", "plain")))
    (kept,) = plain.kept["a"].records
    back = state.replace_backend(plain, msgspec.structs.replace(kept, revision=3, repeats=kept.original))
    assert changes(plan(back, backend("a", "plain")))["backends.a.args[0]"] == ("${KEY}", "plain")


def test_a_text_that_looks_like_a_variable_is_written_as_what_it_is() -> None:
    for text in ("${X}", "a $${X} ${", "$$${", "$X"):
        created = plan_deploy(Desired(), wanted(backend("a", text)), RUNTIME)
        found = changes(created)["backends.a.args[0]"][1]
        table = all_as_written({"args": [text]}, done(Desired(), created).all_written, "backends", "a")
        assert table == {"args": [found]}
        again = read([{"backends": {"a": {"target": "m:A", **table}}}], {"X": "another"})
        assert again.spec.backends["a"].args == [text]


# -- any plan ------------------------------------------------------------------------------------------------------

names = st.sampled_from("abc")
backends = st.dictionaries(
    names,
    st.builds(
        dict,
        arg=st.one_of(st.integers(0, 2), st.lists(st.integers(0, 1), max_size=2), st.none(), st.just({})),
        code=st.sampled_from(["c1", "c2"]),
        num_replicas=st.integers(0, 2),
        user_config=st.one_of(st.none(), st.just({}), st.dictionaries(names, st.integers(0, 1), max_size=2)),
        keep_last=st.integers(0, 2),
    ),
)


@st.composite
def configurations(draw: st.DrawFn) -> Wanted:
    made = draw(backends)
    records: list[Any] = [backend(name, fields.pop("arg"), **fields) for name, fields in made.items()]
    for name in draw(st.sets(st.sampled_from("ef"))):
        traffic = {draw(st.sampled_from(sorted(made))): 1.0} if made else {}
        records.append(endpoint(name, draw(st.sampled_from([f"/{name}", f"/{name}{name}"])), **traffic))
    return wanted(*records)


@given(st.lists(configurations(), min_size=1, max_size=4))
def test_a_plan_that_was_applied_leaves_nothing_to_do_and_every_step_back_is_there(files: list[Wanted]) -> None:
    desired = Desired()
    for each in files:
        desired = done(desired, plan_deploy(desired, each, RUNTIME))
        assert plan_deploy(desired, each, RUNTIME).steps == []
        assert desired.endpoints == each.endpoints
        assert desired.backends.keys() == each.backends.keys()
        for name, entries in desired.history.items():
            current = {used: desired.backends[used].original for used in desired.endpoints[name].traffic}
            assert (entries[-1].traffic, entries[-1].revisions) == (desired.endpoints[name].traffic, current)
            assert [entry.number for entry in entries] == [*range(1, len(entries) + 1)]
        for name, kept in desired.kept.items():
            originals = [record.original for record in kept.records]
            current_record = desired.backends.get(name)
            assert len(set(originals)) == len(originals) <= 3
            assert current_record is None or current_record.original not in originals


# -- history and the way back --------------------------------------------------------------------------------------


def test_the_way_back_is_through_revisions_that_are_kept(served: Desired) -> None:
    desired = done(served, plan(served, backend("a", 2), endpoint("e", a=1.0)))
    desired = done(desired, plan(desired, backend("a", 3), endpoint("e", a=1.0)))
    assert [entry.revisions for entry in desired.history["e"]] == [{"a": 1, "b": 1}, {"a": 2}, {"a": 3}]
    entry = history.entry_to_go_back_to(desired, "e", None)
    assert (entry.number, entry.revisions) == (2, {"a": 2})
    entry = history.entry_to_go_back_to(desired, "e", 1)
    records = history.revisions_of(desired, entry)
    assert {name: (each.in_file, each.original) for name, each in records.items()} == {
        "a": (InFile([1]), 1),
        "b": (InFile([]), 1),
    }
    with pytest.raises(NotFoundError, match="no entry 7"):
        history.entry_to_go_back_to(desired, "e", 7)
    fewer = done(desired, plan(desired, backend("a", 4, keep_last=1), endpoint("e", a=1.0)))
    with pytest.raises(InvalidInputError, match="revision 1 of backend 'a' is not kept any more"):
        history.revisions_of(fewer, entry)


def test_a_second_rollback_goes_on_back_and_a_deploy_says_what_it_undoes(served: Desired) -> None:
    desired = done(served, plan(served, backend("a", 1), backend("b"), endpoint("e", a=1.0)))
    desired = done(desired, plan(desired, backend("a", 1), backend("b"), endpoint("e", b=1.0)))
    for number in (2, 1):
        entry = history.entry_to_go_back_to(desired, "e", None)
        assert entry.number == number
        by = Author("me", f"rollback of e to {number}", {"e": number})
        desired = recorded(desired, state.set_traffic(desired, "e", entry.traffic), by, at=0.0)
    with pytest.raises(NotFoundError, match="there is no way back"):
        history.entry_to_go_back_to(desired, "e", None)
    (step,) = plan(desired, backend("a", 1), backend("b"), endpoint("e", b=1.0)).steps
    assert step.undoes == "undoes the rollback of e to 1 of 1970-01-01T00:00:00Z, by me"


def test_a_restart_is_no_other_revision(served: Desired) -> None:
    again = msgspec.structs.replace(served.backends["a"], revision=2, repeats=1)
    desired = recorded(served, state.replace_backend(served, again), Author(), at=0.0)
    assert (desired.kept, desired.history) == (served.kept, served.history)


def test_a_change_beside_a_roll_out_keeps_its_revision(served: Desired) -> None:
    began = done(served, plan(served, backend("a", 1), backend("b"), endpoint("e", a=1.0)))
    new = msgspec.structs.replace(began.backends["a"], revision=3)
    during = history.with_replaced(began, state.put_backends(began, {"a": new}), at=2.0)
    again = msgspec.structs.replace(began.backends["b"], revision=2)
    beside = recorded(during, state.replace_backend(during, again), Author(), at=3.0)
    beside = recorded(beside, state.remove_backend(beside, "b"), Author(), at=4.0)
    after = recorded(beside, beside, Author("me", "deploy"), at=5.0, began=began)
    assert [each.revision for each in after.kept["b"].records] == [1, 2]
    assert [each.revision for each in after.kept["a"].records] == [1]
    assert state.newest_revision(after, "b") == 2
    assert after.history["e"][-1].revisions == {"a": 3}


def test_what_fails_puts_back_what_was_kept(served: Desired) -> None:
    before = done(served, plan(served, backend("a", 1), backend("b"), endpoint("e", a=1.0)))
    new = msgspec.structs.replace(before.backends["a"], revision=3)
    during = history.with_replaced(before, state.put_backends(before, {"a": new}), at=2.0)
    in_place = msgspec.structs.replace(new, config=BackendConfig(max_queued_requests=7))
    during = recorded(during, state.replace_backend(during, in_place), Author(), at=3.0)
    during = recorded(during, state.set_traffic(during, "e", {"a": 0.5, "b": 0.5}), Author(), at=4.0)
    back = state.put_back(during, before, {"a": new})
    assert (back.backends, back.kept) == (before.backends, before.kept)
    assert state.newest_revision(back, "a") == 3  # History names it.


@pytest.mark.parametrize("step", ["create", "traffic", "remove"])
def test_a_deploy_undoes_no_change_of_an_endpoint_beside_it(served: Desired, step: str) -> None:
    named = {
        "create": [backend("a"), backend("b"), endpoint("e", a=1.0), endpoint("f", a=1.0)],
        "traffic": [backend("a"), backend("b"), endpoint("e", a=0.25, b=0.75)],
        "remove": [backend("a"), backend("b")],
    }
    deploy = plan(served, *named[step])
    if step == "create":
        changed = state.add_endpoint(served, endpoint("f", b=1.0))
    else:
        changed = state.set_traffic(served, "e", {"b": 1.0})
    with pytest.raises(StalePlanError, match="was changed by hand meanwhile"):
        deploy.finish(changed)


def test_the_history_and_the_names_that_are_kept_are_bounded(served: Desired) -> None:
    desired = served
    for number in range(150):
        shares = {"a": 1.0} if number % 2 else {"b": 1.0}
        desired = recorded(desired, state.set_traffic(desired, "e", shares), Author(), at=0.0)
    entries = desired.history["e"]
    assert (len(entries), entries[-1].number) == (history.MOST_ENTRIES, 151)
    for number in range(20):
        more = state.add_backend(desired, msgspec.structs.replace(backend("x"), name=f"x{number}"))
        desired = recorded(more, state.remove_backend(more, f"x{number}"), Author(), at=float(number))
    assert [*desired.kept] == [f"x{number}" for number in range(10, 20)]
    gone = recorded(desired, state.remove_endpoint(desired, "e"), Author(), at=0.0)
    assert gone.history == {}
