"""Every argument of the public API, with whatever comes to mind in its place: taken, or refused as servekit refuses."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import servekit as serve
from servekit.arguments import kinds_of
from servekit.config import Autoscaling, BackendConfig, HttpLimits, fits
from servekit.handles.handle import Handle
from servekit.instance import Instance
from servekit.testing.instances import open_host
from servekit.testing.instances import serve as serve_in


class Model:
    """What hypothesis may well pass for anything."""

    def __call__(self, request: Any) -> str:
        return "hello"


def function(request: Any) -> str:
    return "hello"


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8), st.just("\ud800")
)
ANYTHING = st.one_of(
    PLAIN,
    st.lists(PLAIN, max_size=3),
    st.dictionaries(PLAIN, PLAIN, max_size=3),
    st.sampled_from([function, Model, Model(), object(), ValueError("x"), os, {1}, iter([1]), 10**400]),
)
VALID: dict[str, dict[str, Any]] = {
    "create_endpoint": {"name": "new"},
    "create_backend": {"name": "new", "target": function},
    "set_traffic": {"endpoint": "e", "traffic": {"b": 1.0}},
    "update_backend_config": {"name": "b", "config": {}},
    "init": {"name": "new", "runtime": "process", "http_port": 0, "ingress_workers": 0},  # So that none is started.
    "accept_batch": {"handler": function},
    "get_handle": {"endpoint": "e"},
    "options": {},
    **{name: {"name": "b"} for name in ("get_backend_config", "get_code", "delete_backend", "restart_backend")},
    **{name: {"endpoint": "e"} for name in ("get_traffic",)},
    "delete_endpoint": {"name": "e"},
    "apply": {"plan": None},
    "history": {"endpoint": "e"},
    "rollback": {"endpoint": "e"},
    "shadow": {"endpoint": "e", "to": "b"},
    "stop_shadow": {"endpoint": "e"},
    "shadow_report": {"endpoint": "e"},
    "shadow_traffic": {"endpoint": "e", "backend": "b", "proportion": 0.1},
    "events": {},
    "failures": {},
    "explain": {"request_id": "mine"},
    "last_requests": {"kind": "slow"},
    "rollout": {"endpoint": "e", "to": "c", "judge_options": {"margin": 0.1}},
    **{f"{what}_rollout": {"endpoint": "e"} for what in ("pause", "resume", "promote", "abort")},
    "report": {"name": "accuracy", "value": 0.9},
}
ARGUMENTLESS = {
    *("current", "get_context", "list_backends", "list_endpoints", "shutdown", "stat", "status", "wait"),
    *("export", "plan"),
}


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in serve.__all__:
        if inspect.isfunction(getattr(serve, name)):
            yield name, getattr(serve, name)
    yield "get_code", lambda **arguments: serve.current().get_code(**arguments)
    yield "options", lambda **arguments: serve.get_handle("e").options(**arguments)


FUNCTIONS = dict(public_functions())
SIGNATURES = {**FUNCTIONS, "get_code": Instance.get_code, "options": Handle.options}
CASES = [
    (name, argument.name)
    for name, function in SIGNATURES.items()
    for argument in inspect.signature(function).parameters.values()
    if argument.name != "self" and argument.kind is not argument.VAR_POSITIONAL
]


@pytest.fixture(scope="module")
def instance() -> Iterator[Any]:
    with open_host("inprocess") as host, serve_in(host) as served:
        yield served


@pytest.fixture
def emptied(instance: Any) -> None:
    """The instance has the endpoint ``e`` with the backend ``b``, the backend ``c``, and nothing else."""
    restore()


def restore() -> None:
    for endpoint in serve.list_endpoints():
        serve.delete_endpoint(endpoint)
    for backend in serve.list_backends():
        serve.delete_backend(backend)
    for backend in ("b", "c"):
        serve.create_backend(backend, function)
    serve.create_endpoint("e", backend="b")


def test_each_public_function_is_tried() -> None:
    assert {name for name, _ in CASES} | ARGUMENTLESS == set(SIGNATURES)
    assert {name for name, _ in CASES} == set(VALID)


@pytest.mark.parametrize(("name", "argument"), CASES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=ANYTHING)
def test_an_argument_is_taken_or_refused(emptied: None, name: str, argument: str, value: Any) -> None:
    arguments = {**VALID[name], argument: value}
    kind = kinds_of(SIGNATURES[name]).get(argument, Any)
    before = serve.list_endpoints(), serve.list_backends()
    try:
        FUNCTIONS[name](**arguments)
    except serve.ServekitError:
        assert (serve.list_endpoints(), serve.list_backends()) == before
    else:
        assert fits(value, kind)
        restore()
    if not fits(value, kind):
        with pytest.raises(serve.errors.ArgumentError, match=rf"{name}\(\): {argument}(\[.*\])? must be "):
            FUNCTIONS[name](**arguments)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_argument_that_is_none(emptied: None, name: str) -> None:
    with pytest.raises(serve.errors.ArgumentError, match="there is no argument 'hostess'"):
        FUNCTIONS[name](**VALID.get(name, {}), hostess=1)


@pytest.mark.parametrize("kind", [BackendConfig, HttpLimits, Autoscaling])
@given(data=st.data())
def test_a_field_of_a_record_is_taken_or_refused(kind: type[Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(kind.__struct_fields__))
    with contextlib.suppress(serve.ServekitError):
        kind(**{field: data.draw(ANYTHING)})


def test_the_types_of_a_plugin_option_are_its_annotations(emptied: None) -> None:
    with pytest.raises(serve.errors.PluginOptionsError, match="secret_key must be text or None, not int: 5"):
        serve.create_backend("new", function, adapter_options={"secret_key": 5})
