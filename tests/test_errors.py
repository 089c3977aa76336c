from __future__ import annotations

import inspect
import pickle

import pytest

from servekit import errors
from servekit.errors import InternalError, NotFoundError, ServekitError, rebuild

FAMILY = [
    member
    for member in vars(errors).values()
    if inspect.isclass(member) and issubclass(member, ServekitError) and member is not ServekitError
]


@pytest.mark.parametrize("error", FAMILY)
def test_each_is_also_a_builtin_that_people_catch(error: type[ServekitError]) -> None:
    own = {Exception, BaseException, object}
    assert any(base.__module__ == "builtins" and base not in own for base in error.__mro__)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidInputError", ValueError),
        ("NotFoundError", ValueError),
        ("NotFoundError", LookupError),
        ("AlreadyExistsError", ValueError),
        ("InUseError", ValueError),
        ("UnpicklableTargetError", TypeError),
        ("PluginOptionsError", TypeError),
        ("UnknownPluginError", ValueError),
        ("MissingDependencyError", ImportError),
        ("PortInUseError", OSError),
        ("NotRunningError", RuntimeError),
        ("AlreadyRunningError", RuntimeError),
        ("BackendStartError", RuntimeError),
        ("ResourcesUnavailableError", RuntimeError),
        ("DeadlineError", TimeoutError),
        ("ControllerGoneError", ConnectionError),
        ("UnavailableError", RuntimeError),
        ("HandlerError", RuntimeError),
        ("CallCycleError", RuntimeError),
        ("ReplicaDiedError", ConnectionError),
        ("LinkError", ConnectionError),
        ("AuthenticationError", PermissionError),
        ("ForbiddenError", PermissionError),
    ],
)
def test_the_builtins(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), builtin)


@pytest.mark.parametrize("error", FAMILY)
def test_each_crosses_a_border_by_name_and_message(error: type[ServekitError]) -> None:
    message = "backend 'b' {is} % not\nthere"
    again = rebuild(error.__name__, message)
    assert type(again) is error
    assert str(again) == message
    assert type(pickle.loads(pickle.dumps(again))) is error


@pytest.mark.parametrize("name", ["ZeroDivisionError", "rebuild", "", "__builtins__", "annotations", "ServekitErr"])
def test_what_is_not_of_the_family_is_an_internal_error(name: str) -> None:
    again = rebuild(name, "oh")
    assert type(again) is InternalError
    assert str(again) == f"{name}: oh"


def test_not_found_shows_its_message_and_not_its_repr() -> None:
    assert str(NotFoundError("there is no endpoint 'x'")) == "there is no endpoint 'x'"
