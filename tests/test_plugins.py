"""Discovery and blame, on real distributions: folders with a ``dist-info``, read by importlib_metadata."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import importlib_metadata
import pytest

from servekit.errors import InternalError, InvalidInputError, PluginOptionsError, UnknownPluginError
from servekit.factories import Kind, at_path, build, check_options, load_path
from servekit.interfaces import RoutingPolicy
from servekit.plugins import Registry, disabled_by_environment, discover, find, notify_observers

GOOD = """
from servekit.hookspecs import hookimpl
from servekit.interfaces import RoutingPolicy

class First(RoutingPolicy):
    def __init__(self, limit, sticky=False):
        if limit < 0:
            raise ValueError(f"limit must not be below 0, and is {limit}")
        if limit > 100:
            raise OSError("out of limits")
    def choose_backend(self, request, backends):
        return backends[0]

@hookimpl
def servekit_register_routing_policies():
    return {"NAME": First}
"""


class Site:
    """A folder on ``sys.path`` to put distributions into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def install(
        self, name: str, source: str, *, version: str = "1.0", value: str = "", entry: str = "", requires: str = ""
    ) -> None:
        """``name``: of the distribution, its module and (where ``entry`` says nothing else) its entry point."""
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source).replace("NAME", name))
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        requirement = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirement}")
        lines = entry or f"{name} = {value or name}"
        (info / "entry_points.txt").write_text(f"[servekit]\n{lines}\n")

    def discover(self, *disabled: str) -> Registry:
        """What is found when nothing else is installed."""
        found = importlib_metadata.distributions(path=[str(self.folder)])
        points = [point for each in found for point in each.entry_points if point.group == "servekit"]
        return discover(disabled=disabled, entry_points=points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site.folder))
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", "").startswith(str(site.folder)):
            del sys.modules[name]


def the_problem(registry: Registry) -> str:
    assert len(registry.problems) == 1, registry.problems
    text = str(registry.problems[0])
    assert "\n" not in text
    return text


# -- what works ------------------------------------------------------------------------------------------


def test_a_plugin_gives_a_name_with_its_origin_and_import_path(site: Site) -> None:
    site.install("pol_good", GOOD)
    registry = site.discover()
    assert registry.problems == ()
    assert registry.loaded == ["plugin pol_good from pol_good 1.0: routing policies pol_good"]
    assert registry.names(Kind.POLICY) == ["pol_good"]
    assert registry.names(Kind.ADAPTER) == []
    provided = registry.get(Kind.POLICY, "pol_good")
    assert (provided.origin.distribution, provided.origin.version) == ("pol_good", "1.0")
    assert provided.path == "pol_good:First"
    assert load_path(provided.path) is provided.factory


def test_an_entry_point_may_be_an_object(site: Site) -> None:
    source = GOOD.replace("@hookimpl\ndef servekit", "class Plugin:\n  @hookimpl\n  def servekit")
    source = source.replace("policies():\n    return", "policies(self):\n    return") + "\nplugin = Plugin()\n"
    site.install("pol_object", source, value="pol_object:plugin")
    registry = site.discover()
    assert registry.problems == ()
    assert registry.names(Kind.POLICY) == ["pol_object"]


def test_the_bundled_policy_is_an_entry_point_like_any_other() -> None:
    provided = discover().get(Kind.POLICY, "weighted")
    assert provided.origin.distribution == "servekit"
    assert isinstance(build(provided, {}), RoutingPolicy)
    assert "plugin weighted" not in "".join(discover(disabled={"weighted"}).loaded)


def test_the_order_does_not_depend_on_the_installation(site: Site) -> None:
    for name in ("pol_b", "pol_c", "pol_a"):
        site.install(name, GOOD)
    points = importlib_metadata.entry_points(group="servekit")
    mine = [point for point in points if point.name.startswith("pol_")]
    assert len(mine) == 3
    assert discover(entry_points=mine).loaded == discover(entry_points=mine[::-1]).loaded


def test_an_installation_found_twice_is_one_plugin(site: Site) -> None:
    site.install("pol_twice", GOOD)
    points = [p for p in importlib_metadata.entry_points(group="servekit") if p.name == "pol_twice"]
    registry = discover(entry_points=points * 2)
    assert registry.problems == ()
    assert registry.names(Kind.POLICY) == ["pol_twice"]


# -- blame -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import no_such_module", ["ModuleNotFoundError", "no_such_module"]),
        ("raise SystemExit('no GPU here')", ["SystemExit", "no GPU here"]),
        ("def broken(:", ["SyntaxError"]),
        ("x = 1", ["implements no hook", "hookimpl"]),
        (
            GOOD.replace("routing_policies", "routing_policy"),
            ["servekit_register_routing_policy", "did you mean 'servekit_register_routing_policies()'"],
        ),
        (
            GOOD.replace("policies()", "policies(config)"),
            ["servekit_register_routing_policies(config)", "should be servekit_register_routing_policies()"],
        ),
        (
            GOOD + "\n@hookimpl\ndef servekit_requests_finished(record): pass",
            ["servekit_requests_finished(record)", "should be servekit_requests_finished(records)"],
        ),
        (GOOD + "\n@hookimpl\nasync def servekit_requests_finished(records): pass", ["plain function", "async"]),
        (GOOD.replace("@hookimpl", "@hookimpl(wrapper=True)") + "\n    yield", ["plain function", "wrapper"]),
        (GOOD.replace("return {", "raise RuntimeError('whoops') #"), ["RuntimeError: whoops"]),
        (GOOD.replace('return {"NAME": First}', "return [First]"), ["policies returned [", "mapping"]),
        (GOOD.replace('return {"NAME": First}', "pass"), ["returned None", "mapping"]),
        (GOOD.replace('{"NAME": First}', '{"NAME": 3}'), ["policies gave", "3", "cannot be called"]),
        (GOOD.replace('{"NAME": First}', "{3: First}"), ["gave the name 3"]),
        (GOOD.replace('{"NAME": First}', '{"a:b": First}'), ["gave the name 'a:b'", "colon"]),
    ],
)
def test_a_faulty_plugin_is_rejected_whole_and_the_others_go_on(site: Site, source: str, expected: list[str]) -> None:
    site.install("pol_bad", source, version="2.3")
    site.install("pol_fine", GOOD)
    registry = site.discover()
    text = the_problem(registry)
    for part in ["plugin 'pol_bad' of pol_bad 2.3 was not loaded", *expected]:
        assert part in text
    assert registry.names(Kind.POLICY) == ["pol_fine"]
    assert registry.observers("servekit_requests_finished") == []
    with pytest.raises(UnknownPluginError) as caught:
        registry.get(Kind.POLICY, "pol_bad")
    for part in ["Known: pol_fine", "pol_bad 2.3 was not loaded", *expected]:
        assert part in str(caught.value)


def test_every_fault_of_a_plugin_is_named(site: Site) -> None:
    hooks = "@hookimpl\ndef servekit_one(): pass\n@hookimpl\ndef servekit_traffic_changed(events): pass\n"
    site.install("pol_bad", "from servekit.hookspecs import hookimpl\n" + hooks)
    text = the_problem(site.discover())
    assert "'servekit_one'" in text
    assert "should be servekit_traffic_changed(event)" in text


def test_a_factory_that_workers_could_not_import_loses_its_name_only(site: Site) -> None:
    source = GOOD.replace('{"NAME": First}', '{"near": First, "far": lambda: First(1)}')
    site.install("pol_lambda", source)
    registry = site.discover()
    assert registry.names(Kind.POLICY) == ["near"]
    text = the_problem(registry)
    for part in ("routing policy 'far' of plugin 'pol_lambda' of pol_lambda 1.0", "<lambda>", "top of a module"):
        assert part in text
    with pytest.raises(UnknownPluginError, match="routing policy 'far' of plugin 'pol_lambda'"):
        registry.get(Kind.POLICY, "far")


@pytest.mark.parametrize(("requirement", "fits"), [("servekit>=99", False), ("servekit<99", True)])
def test_the_required_range_of_servekit_must_fit(site: Site, requirement: str, fits: bool) -> None:
    site.install("pol_range", GOOD, requires=requirement)
    registry = site.discover()
    assert (registry.names(Kind.POLICY) == ["pol_range"]) is fits
    if not fits:
        running = importlib_metadata.version("servekit")
        assert f"it requires servekit>=99, and this is servekit {running}" in the_problem(registry)


@pytest.mark.parametrize("requirement", ["servekit>=99; extra == 'test'", "servekit-other>=99"])
def test_requirements_that_do_not_count(site: Site, requirement: str) -> None:
    site.install("pol_range", GOOD, requires=requirement)
    assert site.discover().problems == ()


def test_a_half_removed_distribution_harms_nobody_else(site: Site) -> None:
    site.install("pol_fine", GOOD)
    site.install("pol_half", GOOD)
    (site.folder / "pol_half-1.0.dist-info" / "METADATA").unlink()
    registry = site.discover()
    assert registry.names(Kind.POLICY) == ["pol_fine"]
    assert "plugin 'pol_half' of a distribution without metadata was not loaded: " in the_problem(registry)


def test_a_name_that_two_distributions_give_is_disabled_and_names_both(site: Site) -> None:
    site.install("pol_one", GOOD.replace("NAME", "same"))
    site.install("pol_two", GOOD.replace("NAME", "same"), version="2.0")
    site.install("pol_fine", GOOD)
    registry = site.discover()
    assert registry.names(Kind.POLICY) == ["pol_fine"]
    with pytest.raises(UnknownPluginError) as caught:
        registry.get(Kind.POLICY, "same")
    for text in (str(caught.value), the_problem(registry)):
        assert "pol_one 1.0" in text
        assert "pol_two 2.0" in text
        assert "SERVEKIT_DISABLE_PLUGINS" in text
    assert "plugin pol_one from pol_one 1.0: nothing in use" in registry.loaded


def test_the_same_name_twice_in_one_distribution_is_a_clash(site: Site) -> None:
    site.install("pol_copy", GOOD.replace("NAME", "same"), entry="unused = math")
    site.install("pol_orig", GOOD.replace("NAME", "same"), entry="one = pol_orig\none = pol_copy")
    registry = site.discover("unused")
    assert registry.names(Kind.POLICY) == []
    assert "pol_copy:First" in the_problem(registry)
    assert "pol_orig:First" in the_problem(registry)


# -- switching off ---------------------------------------------------------------------------------------


def test_a_plugin_that_is_switched_off_frees_its_names(site: Site) -> None:
    site.install("pol_one", GOOD.replace("NAME", "same"))
    site.install("pol_two", GOOD.replace("NAME", "same"))
    registry = site.discover("pol_one")
    assert registry.problems == ()
    assert registry.get(Kind.POLICY, "same").origin.distribution == "pol_two"
    with pytest.raises(UnknownPluginError, match="Switched off: pol_one"):
        registry.get(Kind.POLICY, "other")


def test_another_distribution_takes_over_the_names_of_a_bundled_plugin(site: Site) -> None:
    """Its entry point's name too: only the bundled plugin is switched off."""
    site.install("pol_take", GOOD.replace("NAME", "weighted"), entry="weighted = pol_take")
    with pytest.raises(UnknownPluginError, match=r"pol_take 1\.0"):
        discover().get(Kind.POLICY, "weighted")
    assert discover(disabled={"weighted"}).get(Kind.POLICY, "weighted").origin.distribution == "pol_take"


def test_switching_off_what_is_not_installed_is_said(site: Site) -> None:
    site.install("pol_good", GOOD)
    assert "'pol_goo', to be switched off, is not installed; did you mean 'pol_good'?" in the_problem(
        site.discover("pol_goo")
    )


def test_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVEKIT_DISABLE_PLUGINS", raising=False)
    assert disabled_by_environment() == frozenset()
    monkeypatch.setenv("SERVEKIT_DISABLE_PLUGINS", " weighted,,ray ")
    assert disabled_by_environment() == {"weighted", "ray"}


# -- choosing --------------------------------------------------------------------------------------------


def test_an_unknown_name_answers_what_exists_and_a_near_match(site: Site) -> None:
    site.install("pol_good", GOOD)
    with pytest.raises(UnknownPluginError) as caught:
        site.discover().get(Kind.POLICY, "pol_god")
    assert str(caught.value) == "no routing policy is called 'pol_god'; did you mean 'pol_good'? Known: pol_good."
    with pytest.raises(UnknownPluginError, match="no request adapter is called 'pol_good'"):
        site.discover().get(Kind.ADAPTER, "pol_good")


def test_one_name_is_found_without_the_other_plugins(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("mine", GOOD)
    site.install("theirs", GOOD.replace("NAME", "yours"), entry="not_its_name = theirs")
    site.install("costly", "raise AssertionError('loaded')")
    found = find(Kind.POLICY, "mine")
    assert found is not None
    assert found.path == "mine:First"
    assert "costly" not in sys.modules
    assert "theirs" not in sys.modules
    found = find(Kind.POLICY, "yours")
    assert found is not None
    assert found.path == "theirs:First"
    assert find(Kind.POLICY, "nobodys") is None
    assert find(Kind.RUNTIME, "mine") is None
    found = find(Kind.POLICY, "mine:First")
    assert found is not None
    assert found.name == "mine:First"
    monkeypatch.setenv("SERVEKIT_DISABLE_PLUGINS", "mine")
    assert find(Kind.POLICY, "mine") is None


def test_an_import_path_needs_no_registration(site: Site) -> None:
    site.install("pol_path", GOOD)
    provided = site.discover("pol_path").get(Kind.POLICY, "pol_path:First")
    assert provided.path == provided.name == "pol_path:First"
    assert provided.origin.distribution == "local"
    assert isinstance(build(at_path(Kind.POLICY, provided.path), {"limit": 1}), RoutingPolicy)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("no_such_module:X", "ModuleNotFoundError"),
        ("json:no_such", "no_such"),
        ("json:__name__", "cannot be called"),
        ("__main__:X", "workers cannot import __main__"),
        (":", "cannot be loaded"),
    ],
)
def test_an_import_path_that_leads_nowhere(site: Site, path: str, expected: str) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        site.discover().get(Kind.POLICY, path)
    for part in ("routing policy", repr(path), expected):
        assert part in str(caught.value)


def test_load_path_wants_a_colon() -> None:
    with pytest.raises(UnknownPluginError, match="'json' is not an import path"):
        load_path("json")


# -- options and building --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"limit": 1, "stiky": True}, ["no option 'stiky'", "did you mean 'sticky'", "It takes: limit, sticky=False"]),
        ({}, ["needs the option 'limit'", "It takes: limit, sticky=False"]),
        ({3: 4}, ["no option 3"]),
        ([], ["options are a dict, not list"]),
    ],
)
def test_options_are_checked_against_the_signature(site: Site, options: dict, expected: list[str]) -> None:
    site.install("pol_good", GOOD)
    registry = site.discover()
    provided = registry.get(Kind.POLICY, "pol_good")
    for check in (check_options, build):
        with pytest.raises(PluginOptionsError) as caught:
            check(provided, options)
        for part in ["routing policy 'pol_good' (plugin 'pol_good' of pol_good 1.0)", *expected]:
            assert part in str(caught.value)
    check_options(provided, {"limit": 1})


def test_options_of_types_that_no_plain_data_has_are_the_factorys_to_make(site: Site) -> None:
    header = "import pathlib\nfrom typing import Literal\n"
    takes = (
        "limit: pathlib.Path | None, sticky: set[str] = frozenset(), mode: Literal['a'] = 'a', names: list[str] = ()"
    )
    site.install("pol_made", header + GOOD.replace("limit, sticky=False", takes))
    provided = site.discover().get(Kind.POLICY, "pol_made")
    check_options(provided, {"limit": "/tmp", "sticky": ["a"], "mode": "a", "names": ["b"]})
    with pytest.raises(PluginOptionsError, match="names must be a list of text"):
        check_options(provided, {"limit": "/tmp", "names": [1]})


def test_a_factory_with_keywords_takes_any_option(site: Site) -> None:
    site.install("pol_any", GOOD.replace("sticky=False", "**rest"))
    build(site.discover().get(Kind.POLICY, "pol_any"), {"limit": 1, "whatever": 2})


def test_a_factory_that_keywords_cannot_call(site: Site) -> None:
    site.install("pol_position", GOOD.replace("sticky=False", "/"))
    registry = site.discover()
    with pytest.raises(PluginOptionsError, match="cannot be made from options"):
        check_options(registry.get(Kind.POLICY, "pol_position"), {})


@pytest.mark.parametrize(
    ("limit", "error", "expected"),
    [(-1, PluginOptionsError, "ValueError: limit must not be below 0"), (101, InternalError, "OSError: out of limits")],
)
def test_a_factory_that_raises_is_named(site: Site, limit: int, error: type[Exception], expected: str) -> None:
    site.install("pol_good", GOOD)
    with pytest.raises(error, match=rf"pol_good 1\.0.*{expected}"):
        build(site.discover().get(Kind.POLICY, "pol_good"), {"limit": limit})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (GOOD.replace("choose_backend", "choose_backends"), "lacks choose_backend, which servekit.interfaces.Routing"),
        (GOOD.replace("(RoutingPolicy)", ""), "made a pol_odd.First, which is no servekit.interfaces.RoutingPolicy"),
    ],
)
def test_what_is_built_must_implement_the_interface(site: Site, source: str, expected: str) -> None:
    site.install("pol_odd", source)
    with pytest.raises(InvalidInputError, match=rf"pol_odd 1\.0.*{expected}"):
        build(site.discover().get(Kind.POLICY, "pol_odd"), {"limit": 1})


# -- observers -------------------------------------------------------------------------------------------

OBSERVER = """
from servekit.hookspecs import hookimpl
seen = []

@hookimpl
def servekit_traffic_changed(event):
    seen.append(event)
    BODY

@hookimpl
def servekit_requests_finished():
    seen.append("finished")
"""


OBSERVING_OBJECT = """
from servekit.hookspecs import hookimpl

class Plugin:
    @hookimpl
    def servekit_traffic_changed(self, event):
        event.append(self)

plugin = Plugin()
"""


@pytest.fixture
def observed(site: Site) -> Registry:
    site.install("obs_a", OBSERVER.replace("BODY", "raise RuntimeError('no disk')"))
    site.install("obs_b", OBSERVER.replace("BODY", "pass"))
    registry = site.discover()
    assert registry.problems == ()
    return registry


def test_an_observer_that_raises_is_logged_and_the_others_go_on(
    observed: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    observed.notify("servekit_traffic_changed", event="it")
    assert [load_path(f"{name}:seen") for name in ("obs_a", "obs_b")] == [["it"], ["it"]]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "plugin 'obs_a' of obs_a 1.0" in record.getMessage()
    assert "no disk" in caplog.text


def test_a_worker_loads_observers_by_their_paths(observed: Registry) -> None:
    found = observed.observers("servekit_requests_finished")
    assert [path for _, path, _ in found] == ["obs_a:servekit_requests_finished", "obs_b:servekit_requests_finished"]
    loaded: list[tuple[Callable[..., object], str]] = [(load_path(path), path) for _, path, _ in found]
    assert loaded == [(function, path) for function, path, _ in found]
    notify_observers(loaded, "servekit_requests_finished", records=[])
    assert load_path("obs_b:seen") == ["finished"]


def test_an_observing_method_of_an_object_has_a_path(site: Site) -> None:
    site.install("obs_c", OBSERVING_OBJECT, value="obs_c:plugin")
    registry = site.discover()
    assert registry.problems == ()
    [(_, path, _)] = registry.observers("servekit_traffic_changed")
    assert path == "obs_c:plugin.servekit_traffic_changed"
    event: list[object] = []
    notify_observers([(load_path(path), path)], "servekit_traffic_changed", event=event)
    assert event == [load_path("obs_c:plugin")]
    assert registry.loaded == ["plugin obs_c from obs_c 1.0: observers servekit_traffic_changed"]


@pytest.mark.parametrize("name", ["servekit_nothing", "servekit_register_routing_policies"])
def test_only_observer_hooks_are_notified(observed: Registry, name: str) -> None:
    with pytest.raises(LookupError, match=name):
        observed.notify(name)
