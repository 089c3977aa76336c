"""What is public is in the reference, and in some test: hooks, what plugins implement, and every option.

The checks take the pages and the tests as texts, and give what is missing in them; so each is tried on texts that lack
something, too.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import servekit
from servekit import hookspecs, interfaces
from servekit.config import Autoscaling, BackendConfig, HttpLimits
from servekit.factories import Kind
from servekit.interfaces import ReplicaRuntime, RequestAdapter, RequestObserver, RolloutJudge, RoutingPolicy
from servekit.plugins import Registry, discover
from servekit.testing.instances import ServedInstance
from servekit_process import ProcessPlacement
from servekit_pytest import MARKER_OPTIONS

ROOT = Path(__file__).parents[2]
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
TESTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted((ROOT / "tests").rglob("*.py"))
    if path != Path(__file__)
}
REFERENCE = DOCS["reference.md"]

AUTOMODULE = re.compile(r"^\.\. automodule:: (\S+)\n((?: +:[\w-]+:.*\n)*)", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]+)`)? *\| (.+) \|$", re.MULTILINE)

HOOKS = [name for name in vars(hookspecs) if name.startswith("servekit_")]
METHODS = [
    (interface, name)
    for interface in (RoutingPolicy, ReplicaRuntime, RequestAdapter, RequestObserver, RolloutJudge)
    for name, member in vars(interface).items()
    if inspect.isfunction(getattr(member, "__func__", member)) and not name.startswith("_")  # a classmethod, too
]
FUNCTIONS: list[Callable[..., Any]] = [servekit.init, servekit.create_endpoint, servekit.create_backend]
CONFIGS: list[type[Any]] = [Autoscaling, BackendConfig, HttpLimits, ProcessPlacement]


# -- the checks ------------------------------------------------------------------------------------------------


def shown(page: str) -> set[str]:
    """What autodoc makes of a page: public members with a docstring, those without only where the page says so."""
    return {name for module, options in AUTOMODULE.findall(page) for name in _members(module, options)}


def _members(module_name: str, options: str) -> Iterator[str]:
    module = importlib.import_module(module_name)
    for name in getattr(module, "__all__", vars(module)):
        member = getattr(module, name)
        own = getattr(member, "__module__", None) == module_name or ":imported-members:" in options
        if name.startswith("_") or not own or not _is_shown(member, options):
            continue
        yield f"{module_name}.{name}"
        if inspect.isclass(member):
            for inner, value in vars(member).items():
                if not inner.startswith("_") and _is_shown(value, options):
                    yield f"{module_name}.{name}.{inner}"


def _is_shown(member: object, options: str) -> bool:
    return bool(inspect.getdoc(member)) or ":undoc-members:" in options


def not_in_reference(page: str) -> list[str]:
    needed = [f"servekit.hookspecs.{name}" for name in HOOKS]
    needed += [f"servekit.interfaces.{interface.__name__}.{name}" for interface, name in METHODS]
    needed += [f"servekit.{function.__name__}" for function in FUNCTIONS]
    return sorted(set(needed) - shown(page))


def not_described(docstring: str, parameters: list[str]) -> list[str]:
    """Those that the docstring's ``Args`` do not have."""
    arguments = docstring.partition("Args:")[2].partition("Raises:")[0]
    described = {name for line in re.findall(r"^ +([\w, ]+): ", arguments, re.MULTILINE) for name in line.split(", ")}
    return [name for name in parameters if name not in described]


def wrong_in_table(page: str, heading: str, fields: Mapping[str, Any]) -> list[str]:
    """Fields that the table below a heading lacks, or of which it says another default; and what is no field."""
    section = page.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    rows = {name: default for name, default, _ in ROW.findall(section)}
    wrong = [name for name, default in fields.items() if name not in rows or rows[name] != _written(default)]
    return wrong + sorted(rows.keys() - fields.keys())


def _written(default: Any) -> str:
    return "" if default is inspect.Parameter.empty else repr(default)


def not_tested(tests: Mapping[str, str]) -> list[str]:
    """Hooks and methods that no test implements or calls; of a method, in a test that has to do with such a class."""
    missing = [name for name in HOOKS if not any(re.search(rf"\b{name}\b", text) for text in tests.values())]
    for interface, name in METHODS:
        kind = re.findall("[A-Z][a-z]+", interface.__name__)[-1]  # RoutingPolicy: any …Policy
        used = re.compile(rf"(\bdef |\.){name}\(")
        if not any(re.search(rf"{kind}\b", text) and used.search(text) for text in tests.values()):
            missing.append(f"{interface.__name__}.{name}")
    return missing


def not_set(tests: Mapping[str, str], options: list[str]) -> list[str]:
    """Options that no test gives by name."""
    everything = "\n".join(tests.values())
    return [name for name in options if not re.search(rf'\b{name}=|"{name}":', everything)]


# -- what is there ---------------------------------------------------------------------------------------------


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def fields(config: type[Any]) -> dict[str, Any]:
    return {name: getattr(config(), name) for name in config.__struct_fields__}


def test_hooks_and_what_plugins_implement_are_in_the_reference() -> None:
    assert len(HOOKS) >= 6
    assert len(METHODS) >= 15
    assert not_in_reference(REFERENCE) == []
    assert '"members": True' in (ROOT / "docs" / "conf.py").read_text(), "or else the page shows no members"


def test_hooks_and_what_plugins_implement_are_tested() -> None:
    assert not_tested(TESTS) == []


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_parameters_are_described_and_tested(function: Callable[..., Any]) -> None:
    assert not_described(inspect.getdoc(function) or "", parameters(function)) == []
    # Given by their places: what there is to serve.
    assert not_set(TESTS, [name for name in parameters(function) if name not in ("init_args", "target")]) == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_keys_are_in_a_table_and_tested(config: type[Any]) -> None:
    assert wrong_in_table(REFERENCE, config.__name__, fields(config)) == []
    assert not_set(TESTS, list(fields(config))) == []


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.mark.parametrize("kind", [Kind.RUNTIME, Kind.ADAPTER, Kind.OBSERVER], ids=lambda kind: kind.name)
def test_options_of_bundled_plugins_are_in_a_table(registry: Registry, kind: Kind) -> None:
    for name in registry.names(kind):
        found = registry.get(kind, name)
        if found.origin.distribution == "servekit":
            options = inspect.signature(found.factory).parameters
            heading = f"The {kind.value.split()[-1]} {name}"
            assert wrong_in_table(REFERENCE, heading, {o: p.default for o, p in options.items()}) == [], heading


def test_bundled_policies_and_their_options_have_a_page(registry: Registry) -> None:
    for name in registry.names(Kind.POLICY):
        found = registry.get(Kind.POLICY, name)
        if found.origin.distribution == "servekit":
            (row,) = re.findall(rf"^\| `{name}`.*$", DOCS["policies.md"], re.MULTILINE)
            assert [o for o in parameters(found.factory) if f"`{o}`" not in row] == [], name


def test_what_tests_are_given_is_on_the_page_about_testing() -> None:
    public = [name for name in vars(ServedInstance) if not name.startswith("_")]
    wanted = ["client", *public, *MARKER_OPTIONS, "--servekit-runtime"]
    assert [name for name in wanted if name not in DOCS["testing.md"]] == []


# -- that the checks can fail ----------------------------------------------------------------------------------


def test_a_page_that_lacks_a_directive_is_found() -> None:
    for module, lost in [("hookspecs", HOOKS[0]), ("interfaces", "RoutingPolicy.close")]:
        page = REFERENCE.replace(f".. automodule:: servekit.{module}\n", "")
        assert page != REFERENCE
        assert f"servekit.{module}.{lost}" in not_in_reference(page)
    page = REFERENCE.replace(".. automodule:: servekit\n   :imported-members:\n", ".. automodule:: servekit\n")
    assert "servekit.init" in not_in_reference(page)


def test_a_member_without_a_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hookspecs.servekit_traffic_changed, "__doc__", None)
    assert not_in_reference(REFERENCE) == ["servekit.hookspecs.servekit_traffic_changed"]
    monkeypatch.setattr(interfaces.RequestAdapter.encode, "__doc__", None)
    page = REFERENCE.replace(
        ".. automodule:: servekit.interfaces\n   :undoc-members:", ".. automodule:: servekit.interfaces"
    )
    assert "servekit.interfaces.RequestAdapter.encode" in not_in_reference(page)


def test_a_parameter_that_is_not_described_is_found() -> None:
    docstring = inspect.getdoc(servekit.init) or ""
    assert not_described(docstring, [*parameters(servekit.init), "new_option"]) == ["new_option"]
    assert not_described(docstring.replace("busy_poll_s: ", ""), parameters(servekit.init)) == ["busy_poll_s"]
    assert not_described(docstring.replace("http_host, http_port: ", "http_host: "), parameters(servekit.init)) == [
        "http_port"
    ]


def test_a_table_that_is_wrong_is_found() -> None:
    keys = fields(BackendConfig)
    assert wrong_in_table(REFERENCE, "BackendConfig", {**keys, "new_key": 1}) == ["new_key"]
    assert wrong_in_table(REFERENCE, "BackendConfig", {**keys, "num_replicas": 2}) == ["num_replicas"]
    del keys["num_replicas"]
    assert wrong_in_table(REFERENCE, "BackendConfig", keys) == ["num_replicas"], "a key that is no more"
    assert wrong_in_table("", "BackendConfig", keys) == list(keys)


def test_what_no_test_touches_is_found() -> None:
    everything = [*HOOKS, *(f"{interface.__name__}.{name}" for interface, name in METHODS)]
    assert not_tested({}) == everything
    assert not_tested({"test_it.py": f"ReplicaRuntime {HOOKS[1]} runtime.attach( adapter.encode("}) == [
        name for name in everything if name not in (HOOKS[1], "ReplicaRuntime.attach")
    ]
    assert not_set({"test_it.py": 'f(debug=True, config={"num_replicas": 2})'}, ["debug", "num_replicas", "bug"]) == [
        "bug"
    ]
