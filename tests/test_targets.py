from __future__ import annotations

import importlib
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import fastapi
import flask
import pytest

from servekit.errors import InvalidInputError, UnpicklableTargetError
from servekit.processes import own_sys_path
from servekit.replica.target import Handlers, load
from servekit.targets import pack_target, text_of


def double(value: int) -> int:
    return 2 * value


class Model:
    def __init__(self, factor: Any = 1, **more: Any) -> None:
        self.factor = factor

    def __call__(self, value: int) -> int:
        return value * int(self.factor)


def test_what_was_packed_can_be_called() -> None:
    assert Handlers(load(pack_target(double, (), None).data)).call(2) == 4
    assert Handlers(load(pack_target(lambda value: value + 1, (), None).data)).call(2) == 3
    assert Handlers(load(pack_target(Model, (3,), {"other": 1}).data)).call(2) == 6
    assert Handlers(load(pack_target("math:sqrt", (), None).data)).call(4) == 2


@pytest.mark.parametrize("target", [None, 3, [], {}, object()])
def test_what_is_no_target(target: Any) -> None:
    with pytest.raises(InvalidInputError, match="neither a function nor a class"):
        pack_target(target, (), None)


@pytest.mark.parametrize("target", ["", "module", "module:", ":attribute"])
def test_what_is_no_path(target: str) -> None:
    with pytest.raises(InvalidInputError, match="'module:attribute'"):
        pack_target(target, (), None)


@pytest.mark.parametrize(("args", "kwargs"), [((1,), None), ((), {"a": 1})])
def test_a_function_takes_no_init_arguments(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
    with pytest.raises(InvalidInputError, match="double is not a class"):
        pack_target(double, args, kwargs)


def test_what_cannot_be_pickled_is_named() -> None:
    thread = threading.Thread()

    def holds_a_thread(value: Any) -> Any:
        return thread

    for target, args, kwargs, culprit in [
        (
            holds_a_thread,
            (),
            {},
            "the target .*holds_a_thread uses the variable 'thread', a threading.Thread, which cannot",
        ),
        (Model, (1, thread), {}, "init argument 2, a threading.Thread, cannot"),
        (
            Model,
            (1,),
            {"fine": 1, "bad": [thread]},
            "init argument 'bad' has the item 0, a threading.Thread, which cannot",
        ),
    ]:
        with pytest.raises(UnpicklableTargetError, match=culprit) as caught:
            pack_target(target, args, kwargs)
        assert "process that made it" in str(caught.value)
        assert "__init__" in str(caught.value)
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ValueError)
        assert caught.value.__cause__ is not None


def test_what_people_call_a_target() -> None:
    assert text_of("module:attr") == "module:attr"
    assert text_of(double).endswith(":double")
    assert text_of(Model).endswith(":Model")
    assert text_of(Model()).endswith(":Model")


def test_the_search_path_has_what_was_added_and_not_the_interpreters_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/somewhere", *sys.path, "/somewhere"])
    entries = own_sys_path()
    assert entries[:2] == [os.getcwd(), "/somewhere"]
    assert entries.count("/somewhere") == 1
    assert os.path.dirname(os.__file__) not in entries
    assert all(os.path.isabs(entry) for entry in entries)


class Holding:
    """Holds what an application holds: itself weakly, and a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.own = weakref.ref(self)
        self.nothing = weakref.ref(Model())

    def __call__(self) -> Any:
        with self.lock:
            return self.own(), self.nothing()


def test_an_object_with_locks_and_weak_references_travels_as_a_copy() -> None:
    copy = load(pack_target(Holding(), (), None).data).target
    assert copy() == (copy, None)


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that can be imported, with applications in it."""
    (tmp_path / "apps_of_targets.py").write_text(
        "import flask, fastapi\nflask_app = flask.Flask(__name__)\nflask_app.jinja_env\nfast_app = fastapi.FastAPI()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("apps_of_targets")
    del sys.modules["apps_of_targets"]


@pytest.mark.parametrize("name", ["flask_app", "fast_app"])
def test_an_application_in_a_module_travels_by_its_name(apps: Any, name: str) -> None:
    packed = pack_target(getattr(apps, name), (), None).data
    assert f"apps_of_targets:{name}".encode() in packed
    assert load(packed).target is getattr(apps, name)


def test_an_application_that_has_no_name_travels_as_a_copy() -> None:
    app = flask.Flask("copied")
    app.get("/<name>")(lambda name: f"hello {name}")
    copy = load(pack_target(app, (), None).data).target
    assert copy is not app
    assert copy.test_client().get("/x").text == "hello x"
    state = fastapi.FastAPI()
    state.state.model = "m"
    assert load(pack_target(state, (), None).data).target.state.model == "m"


def test_an_application_that_cannot_travel_says_how_it_could() -> None:
    app = flask.Flask("stays")
    app.thread = threading.Thread()  # type: ignore[attr-defined]
    with pytest.raises(UnpicklableTargetError) as caught:
        pack_target(app, (), None)
    assert "Flask has the attribute 'thread', a threading.Thread, which cannot be pickled" in str(caught.value)
    assert "'module:attribute' instead" in str(caught.value)
    assert '"factory": True' in str(caught.value)
