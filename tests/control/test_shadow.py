"""The shadow in the desired state: pure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from servekit.config import BackendConfig, EndpointOptions
from servekit.control import shadow, state
from servekit.control.changes import changes_of
from servekit.control.state import BackendRecord, Desired
from servekit.errors import InUseError, InvalidInputError, NotFoundError
from servekit.wire.control_frames import EndpointRecord, PluginRef, ShadowEntry


def backend(name: str) -> BackendRecord:
    return BackendRecord(
        name=name,
        target_text="m:f",
        sys_path=(),
        cwd="/",
        target="0",
        config=BackendConfig(),
        adapter_ref=PluginRef("m:a"),
        runtime="process",
        runtime_options={},
    )


def endpoint(name: str, route: str | None) -> EndpointRecord:
    return EndpointRecord(name, EndpointOptions(route=route), ("GET",), "weighted", PluginRef("m:p"), {"v1": 1.0})


@pytest.fixture
def desired() -> Desired:
    desired = Desired(number=7)
    for name in ("v1", "v3"):
        desired = state.add_backend(desired, backend(name))
    for name, route in (("e", "/e"), ("handles", None)):
        desired = state.add_endpoint(desired, endpoint(name, route))
    return desired


def entry(**changes: Any) -> ShadowEntry:
    return msgspec.structs.replace(ShadowEntry("v3", 0.1), **changes)


def test_it_is_set_replaced_and_ended(desired: Desired) -> None:
    after = shadow.set_shadow(desired, "e", entry())
    assert shadow.shadow_of(after, "e") == entry(number=8)
    again = shadow.set_shadow(msgspec.structs.replace(after, number=8), "e", entry(share=0.5))
    assert shadow.shadow_of(again, "e") == entry(share=0.5, number=9)
    assert shadow.end_shadow(again, "e") == msgspec.structs.replace(desired, number=8)
    with pytest.raises(NotFoundError, match=r"endpoint 'e' has no shadow; shadow\('e', to=BACKEND\) begins one"):
        shadow.end_shadow(desired, "e")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"share": 0.0}, "share must be above 0"),
        ({"share": 1.1}, "share must be above 0"),
        ({"share": float("nan")}, "share must be above 0"),
        ({"noise": -0.1}, "noise must be from 0 to 1"),
        ({"tolerance": float("inf")}, "tolerance must be finite"),
        ({"timeout_s": 0.0}, "timeout_s must be above 0 and at most 3600"),
        ({"timeout_s": 3601.0}, "timeout_s must be above 0 and at most 3600"),
        ({"timeout_s": float("nan")}, "timeout_s must be above 0 and at most 3600"),
        ({"compare": "jsno"}, "compare must be 'json', 'status'"),
        ({"redact": "hide"}, "redact must be a function"),
        ({"ignore": ("time",)}, "'time', which is no JSON pointer"),
        ({"backend": "v1"}, "has all the traffic of endpoint 'e'"),
    ],
)
def test_what_is_not_acceptable(desired: Desired, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        shadow.set_shadow(desired, "e", entry(**changes))


def test_names_that_there_are_not(desired: Desired) -> None:
    with pytest.raises(NotFoundError, match="no endpoint 'x'"):
        shadow.set_shadow(desired, "x", entry())
    with pytest.raises(NotFoundError, match="no backend 'v4'"):
        shadow.set_shadow(desired, "e", entry(backend="v4"))
    with pytest.raises(InvalidInputError, match="endpoint 'handles' has no route"):
        shadow.set_shadow(desired, "handles", entry())


def test_its_backend_stays_while_it_lasts(desired: Desired) -> None:
    after = shadow.set_shadow(desired, "e", entry())
    with pytest.raises(InUseError, match=r"backend 'v3' is the shadow of 'e'; stop_shadow\('e'\) first"):
        state.remove_backend(after, "v3")
    assert "v3" not in state.remove_backend(shadow.end_shadow(after, "e"), "v3").backends
    assert "v3" not in state.remove_backend(state.remove_endpoint(after, "e"), "v3").backends


def test_a_change_of_it_is_told_and_none_of_traffic(desired: Desired) -> None:
    after = shadow.set_shadow(desired, "e", entry())
    (began,) = changes_of(desired, after)
    assert (began.kind, began.endpoint, began.backend) == ("shadow_started", "e", "v3")
    assert began.text == "0.1 of the requests of endpoint e are copied to backend v3"
    (ended,) = changes_of(after, shadow.end_shadow(after, "e"))
    assert ended.kind == "shadow_stopped"
    assert state.traffic_set(desired, after) == []
    both = state.set_traffic(after, "e", {"v1": 0.5, "v3": 0.5})
    assert state.traffic_set(desired, both) == ["e"]
    assert [each.kind for each in changes_of(desired, both)] == ["shadow_started", "traffic_set"]


def test_a_record_of_before_there_were_shadows_can_be_read() -> None:
    record = endpoint("e", "/e")
    values = msgspec.to_builtins(record)
    assert msgspec.convert(values[:-1], EndpointRecord) == record
