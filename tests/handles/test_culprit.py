from __future__ import annotations

import threading
from typing import Any

import pytest

from servekit.handles.culprit import blame

SCRIPT = """
import dataclasses, functools, threading

thread = threading.Thread()
shelf = {"threads": [thread]}

@dataclasses.dataclass
class Holder:
    held: object

def uses():
    return thread

def calls():
    return uses()

def looks_up():
    return list(shelf["threads"])

def has_inner():
    return lambda: thread

def has_default(given=thread):
    return given

@functools.cache
def caches():
    return thread

class Uses:
    own = thread

class Calls:
    def method(self):
        return uses()
"""
SPACE: dict[str, Any] = {"__name__": "__main__"}
exec(SCRIPT, SPACE)


@pytest.mark.parametrize(
    ("value", "way"),
    [
        ("uses", "it uses the global 'thread'"),
        ("calls", "it uses the global 'uses', which uses the global 'thread'"),
        ("looks_up", "it uses the global 'shelf', which has the item 'threads', which has the item 0"),
        ("has_inner", "it uses the global 'thread'"),
        ("has_default", "it has a default value"),
        ("caches", "it leads to the function caches, which uses the global 'thread'"),
        ("Uses", "it has the attribute 'own'"),
        ("Calls", "it has the attribute 'method', which uses the global 'uses', which uses the global 'thread'"),
        ("Calls().method", "it is the method, which uses the global 'uses', which uses the global 'thread'"),
        ("Holder(thread)", "it has the attribute 'held'"),
        ("functools.partial(print, thread)", "it has the argument 1"),
        ("[{'a': thread}]", "it has the item 0, which has the item 'a'"),
    ],
)
def test_the_way_to_what_cannot_be_pickled(value: str, way: str) -> None:
    what, why = blame("it", eval(value, SPACE)) or ("", "")
    assert what == f"{way}, a threading.Thread, which"
    assert why == "PicklingError: a Thread belongs to the process that made it"


def test_what_is_at_fault_itself_and_what_is_not() -> None:
    what, _ = blame("it", threading.Thread()) or ("", "")
    assert what == "it, a threading.Thread,"
    assert blame("it", [1, print, SPACE["Holder"]]) is None


def test_the_inside_of_a_librarys_object_is_not_told() -> None:
    """The buffer of a file, say: the user has the file."""
    with open("/dev/null", "w") as file:
        what, _ = blame("it", SPACE["Holder"](file)) or ("", "")
    assert what == "it has the attribute 'held', an _io.TextIOWrapper, which"


def test_circles_have_an_end() -> None:
    one: list[Any] = []
    one += [one, {"one": one}, SPACE["Holder"](one), threading.Thread()]
    what, _ = blame("it", one) or ("", "")
    assert what == "it has the item 3, a threading.Thread, which"
