from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from servekit.config import BackendConfig, EndpointOptions
from servekit.control.snapshot import Content, content_of, difference
from servekit.wire.control_frames import (
    BackendEntry,
    Capabilities,
    EndpointRecord,
    PluginRef,
    ReplicaEntry,
    Snapshot,
    control_codec,
)

NAMES = st.sampled_from("abcd")
WEIGHTS = st.dictionaries(NAMES, st.sampled_from([0.0, 0.5, 1.0]), max_size=2)
CONTENTS = st.builds(
    lambda endpoints, backends, leaving: Content(
        {name: endpoint(name, route, weights) for name, (route, weights) in endpoints.items()},
        {name: backend(name, count, replicas) for name, (count, replicas) in backends.items()},
        tuple(leaving),
    ),
    st.dictionaries(NAMES, st.tuples(st.sampled_from(["/x", "/y", None]), WEIGHTS), max_size=4),
    st.dictionaries(NAMES, st.tuples(st.integers(0, 2), st.lists(NAMES, unique=True, max_size=3)), max_size=4),
    st.lists(NAMES, unique=True, max_size=2),
)


def endpoint(name: str, route: str | None, weights: dict[str, float]) -> EndpointRecord:
    return EndpointRecord(name, EndpointOptions(route), ("GET",), "p", PluginRef("p:P", {"a": 1}), weights)


def backend(name: str, num_replicas: int, replicas: list[str]) -> BackendEntry:
    entries = tuple(ReplicaEntry(replica, "node", (f"unix:/{replica}",)) for replica in replicas)
    return BackendEntry(name, BackendConfig(num_replicas=num_replicas), entries)


def applied(base: Content, snapshot: Snapshot) -> Content:
    """What an ingress worker makes of it."""

    def patched(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        start = {} if snapshot.base is None else before
        return {name: entry for name, entry in {**start, **changes}.items() if entry is not None}

    return Content(
        patched(base.endpoints, snapshot.endpoints), patched(base.backends, snapshot.backends), snapshot.leaving
    )


@given(base=CONTENTS, content=CONTENTS)
def test_a_difference_applied_to_its_base_gives_the_content(base: Content, content: Content) -> None:
    snapshot = difference(base, 3, content, 4)
    assert (snapshot.base, snapshot.version) == (3, 4)
    codec = control_codec()
    assert applied(base, codec.decode(codec.encode(snapshot))) == content


@given(base=CONTENTS, content=CONTENTS)
def test_without_a_base_it_is_all_there_is(base: Content, content: Content) -> None:
    snapshot = difference(None, 3, content, 4)
    assert snapshot.base is None
    assert applied(base, snapshot) == content


@given(base=CONTENTS, content=CONTENTS)
def test_what_is_the_same_is_not_sent(base: Content, content: Content) -> None:
    snapshot = difference(base, 3, content, 4)
    for name, entry in {**snapshot.endpoints, **snapshot.backends}.items():
        assert entry not in (base.endpoints.get(name), base.backends.get(name)) or entry is None
    nothing = difference(content, 3, content, 4)
    assert nothing.endpoints == nothing.backends == {}


def test_the_content_of_the_desired_state(make: Any) -> None:
    desired = make.desired(make.endpoint(traffic={"b": 1.0}, strict=True), make.backend(), make.backend("c"))
    entry = ReplicaEntry("r1", "node", ("unix:/r1",))
    content = content_of(desired, {"b": [entry], "gone": [entry]})
    options = EndpointOptions("/e", mount=False, timeout_s=60.0, strict=True)
    assert content.endpoints == {
        "e": EndpointRecord("e", options, ("GET",), "weighted", PluginRef("policies:Weighted"), {"b": 1.0})
    }
    assert content.backends == {
        "b": BackendEntry("b", BackendConfig(), (entry,)),
        "c": BackendEntry("c", BackendConfig(), ()),
    }


def test_a_backend_that_autoscales_says_how_many_replicas_it_is_to_have_now(make: Any) -> None:
    desired = make.desired(make.backend())
    earlier = desired, content_of(desired, {})
    content = content_of(desired, {}, earlier, autoscaled={"b": 5})
    assert content.backends["b"].config.num_replicas == 5
    again = content_of(desired, {}, (desired, content), autoscaled={"b": 5})
    assert again.backends["b"] is content.backends["b"]
    assert set(difference(earlier[1], 1, content, 2).backends) == {"b"}


def test_what_replicas_say_of_their_handlers_is_said_once_a_backend(make: Any) -> None:
    desired = make.desired(make.backend(), make.backend("c"))
    earlier = desired, content_of(desired, {})
    content = content_of(desired, {}, earlier, capabilities={"b": Capabilities(2, True, b"{}")})
    assert content.backends == {
        "b": BackendEntry("b", BackendConfig(), (), b"{}"),
        "c": BackendEntry("c", BackendConfig(), ()),
    }
    assert content.backends["c"] is earlier[1].backends["c"]
    assert set(difference(earlier[1], 1, content, 2).backends) == {"b"}
