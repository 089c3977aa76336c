"""Two answers are compared by what the shadow says, and examples go through what hides secrets."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servekit.control.shadow_compare import LONGEST_EXAMPLE, LONGEST_PATH, Comparison
from servekit.errors import InvalidInputError
from servekit.wire.control_frames import ShadowAnswer, ShadowEntry, ShadowPair


@pytest.fixture(autouse=True)
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of a user's module."""
    module: Any = types.ModuleType("shadow_functions")

    def hide(path: str, value: object) -> object:
        return "hidden" if path == "/secret" else value

    def raises(*_: object) -> object:
        raise ValueError("the secret")

    module.hide, module.raises, module.number = hide, raises, 3
    module.alike = lambda live, shadow: live.body.lower() == shadow.body.lower()
    module.paths = lambda live, shadow: ["/x", "/y", "/x"] if live.status == shadow.status else []
    module.odd = lambda live, shadow: None
    monkeypatch.setitem(sys.modules, "shadow_functions", module)


def pair(live: object, shadow: object, statuses: tuple[int, int] = (200, 200), *, same: bool = False) -> ShadowPair:
    bodies = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (live, shadow)]
    live_answer, shadow_answer = (ShadowAnswer(*each) for each in zip(statuses, ("", ""), bodies, strict=True))
    return ShadowPair("e", 1, False, "id", same, live_answer, shadow_answer)


def found(pair: ShadowPair, **how: Any) -> list[tuple[str, str]]:
    return list(Comparison(ShadowEntry("v3", 0.1, **how)).of(pair))


def test_json_is_compared_by_path() -> None:
    assert found(pair({"a": 1, "b": 2}, {"a": 2, "b": 2})) == [("/a", "value")]
    assert found(pair({"a": 1.0}, {"a": 1.1}), tolerance=0.2) == []
    assert found(pair({"a": 1.0}, {"a": 1.1}), ignore=("/a",)) == []


def test_what_is_no_json_is_compared_as_a_whole() -> None:
    assert found(pair(b"hello", b"hallo")) == [("", "value")]
    assert found(pair(b"hello", {})) == [("", "type")]
    assert found(pair(b"", b"[" * 100_000)) == [("", "value")]


def test_another_status_is_all_that_is_told() -> None:
    assert found(pair({"a": 1}, {"a": 2}, (200, 500))) == [("status", "value")]
    assert found(pair({"a": 1}, {"a": 2}), compare="status") == []
    assert found(pair(b"", b"", (200, 404)), compare="status") == [("status", "value")]
    assert found(pair(b"", b"", same=True)) == []


def test_a_function_of_the_users_compares() -> None:
    assert found(pair(b"A", b"a"), compare="shadow_functions:alike") == []
    assert found(pair(b"A", b"b"), compare="shadow_functions:alike") == [("", "value")]
    assert found(pair(b"A", b"b"), compare="shadow_functions:paths") == [("/x", "value"), ("/y", "value")]
    with pytest.raises(TypeError, match="return True where the answers are alike, or a list of paths; not None"):
        found(pair(b"A", b"b"), compare="shadow_functions:odd")


def test_functions_that_cannot_be_loaded_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="compare: the controller cannot load it: 'no_such_module:f'"):
        Comparison(ShadowEntry("v3", 0.1, "no_such_module:f"))
    with pytest.raises(InvalidInputError, match=re.escape("redact: 'shadow_functions:number' is 3, which cannot")):
        Comparison(ShadowEntry("v3", 0.1, redact="shadow_functions:number"))


def test_examples_are_short_and_redacted() -> None:
    comparison = Comparison(ShadowEntry("v3", 0.1, redact="shadow_functions:hide"))
    examples = comparison.of(pair({"secret": "abc", "long": ""}, {"secret": "abd", "long": "x" * 1000}))
    assert (examples["/secret", "value"].live, examples["/secret", "value"].shadow) == ('"hidden"', '"hidden"')
    assert len(examples["/long", "value"].shadow) == LONGEST_EXAMPLE
    assert examples["/long", "value"].request_id == "id"
    comparison = Comparison(ShadowEntry("v3", 0.1, redact="shadow_functions:raises"))
    (example,) = comparison.of(pair({"secret": "abc"}, {"secret": "abd"})).values()
    assert example.live == example.shadow == "(shadow_functions:raises raised ValueError)"


def test_what_is_told_can_be_sent_and_is_short() -> None:
    module: Any = sys.modules["shadow_functions"]
    module.lone = lambda live, shadow: ["/\ud800", "/" + "x" * 1000, "/\ud800" * 1000]
    told = Comparison(ShadowEntry("v3", 0.1, "shadow_functions:lone")).of(pair(b"A", b"b"))
    assert next(iter(told)) == ("/\\ud800", "value")
    msgspec.json.encode([*told.items()])
    assert all(len(path) <= LONGEST_PATH for path, _ in told)
    body = rb'{"\ud800": "\udfff", "k": "' + rb"\ud800" * 1000 + rb'"}'
    told = Comparison(ShadowEntry("v3", 0.1)).of(pair(body, b"{}"))
    assert list(told) == [("/\\ud800", "missing"), ("/k", "missing")]
    msgspec.json.encode([*told.items()])
    assert all(len(each.live) <= LONGEST_EXAMPLE for each in told.values())


def test_a_module_that_exits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shadow_exits.py").write_text("import sys; sys.exit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidInputError, match="compare: the controller cannot load it"):
        Comparison(ShadowEntry("v3", 0.1, "shadow_exits:compare"))


@pytest.mark.parametrize("levels", [900, 100_000])
def test_what_is_very_deep_is_compared(levels: int) -> None:
    bodies = [b'{"k":' * levels + value + b"}" * levels for value in (b"1", b"2")]
    ((path, kind),) = found(pair(*bodies))
    assert (path == "", kind) == (levels == 100_000, "value"), "what is no JSON for Python is compared as a whole"
