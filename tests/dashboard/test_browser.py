"""The page in a real Chromium, on a real standing instance."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.instances.instance_tools import controller, end_all, marked, started_standing
from tests.support.waiting import until

import servekit as serve
from servekit import api, errors
from servekit.cli.main import main

sys.path.insert(0, str(Path(__file__).parent))  # Replicas find handlers there.
from dashboard_handlers import Version

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    # httpcore leaves the socket of a refused connection to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

VIEWS = ["overview", "replicas", "events", "history", "plugins", "configuration"]
ODD = "<img src=x onerror=alert(1)>"
SEPARATED = "one\u2028line"


@pytest.fixture(scope="module")
def keeper() -> Iterator[subprocess.Popen[str]]:
    """The process of ``servekit start``."""
    with (
        tempfile.TemporaryDirectory(prefix="sk", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setenv("XDG_STATE_HOME", f"{folder}/state")
        with started_standing("--admin-port", "0") as keeper:
            yield keeper
        end_all(marked(f"TMPDIR={folder}"))


@pytest.fixture(scope="module")
def instance(keeper: subprocess.Popen[str]) -> Iterator[serve.Instance]:
    with api.attach("default") as instance:
        yield instance


@pytest.fixture
def served(instance: serve.Instance) -> Iterator[serve.Instance]:
    """An endpoint with two versions, 90 to 10."""
    instance.create_backend("one", Version, "one")
    instance.create_backend("two", Version, "two")
    instance.create_endpoint("split", "/split", backend="one")
    instance.set_traffic("split", {"one": 0.9, "two": 0.1})
    yield instance
    for endpoint in instance.list_endpoints():
        instance.delete_endpoint(endpoint)
    for backend in instance.list_backends():
        instance.delete_backend(backend)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def said() -> list[str]:
    """What the browser has written in its console."""
    return []


@pytest.fixture
def page(chromium: Any, said: list[str]) -> Iterator[Any]:
    """A page of a new browser, which says nothing in its console unless the test takes it off the list."""
    context = chromium.new_context()
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    yield page
    context.close()
    assert said == []


@pytest.fixture
def link(instance: serve.Instance, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["dashboard"]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def opened(page: Any, served: serve.Instance, link: str) -> Any:
    """The page, logged in by the link."""
    page.goto(link)
    page.get_by_text("Live", exact=True).wait_for()
    return page


def shows(page: Any, text: str) -> None:
    """Return once the page has the text."""
    page.get_by_text(text).first.wait_for()


def cells(page: Any, version: str, endpoint: str = "split") -> dict[str, str]:
    """The row of a version of the endpoint, by column."""
    table = page.get_by_role("region", name=f"Versions of {endpoint}")
    heads = table.locator("thead th").all_inner_texts()
    row = table.locator("tr").filter(has=page.get_by_role("rowheader", name=version))
    return dict(zip(heads[1:], row.locator("td").all_inner_texts(), strict=True))


# -- what it shows -----------------------------------------------------------------------------------------------------


def test_the_link_logs_in_and_leaves_no_token_in_the_address(opened: Any, served: serve.Instance, link: str) -> None:
    assert served.token not in opened.url
    assert opened.evaluate("document.cookie") == ""
    assert served.token not in opened.evaluate("JSON.stringify({...localStorage})")
    opened.reload()
    shows(opened, "Live")
    opened.get_by_role("button", name="Log out").click()
    opened.get_by_label("Token of the instance").wait_for()
    opened.goto(link)  # It loads nothing anew: only what is behind the # is another.
    shows(opened, "Live")
    opened.get_by_role("button", name="Log out").click()
    opened.reload()
    opened.get_by_label("Token of the instance").fill(served.token)
    opened.get_by_role("button", name="Log in").click()
    shows(opened, "Live")


def test_it_shows_what_the_api_says_after_requests_of_which_some_fail(opened: Any, served: serve.Instance) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        statuses = [
            client.get("/split", params={"fail": 1} if n % 27 == 0 and n else {}).status_code for n in range(1000)
        ]
    assert (len(statuses), statuses.count(500)) == (1000, 37)
    until(lambda: served.stat()["endpoints"]["split"]["requests"] == 1000)
    stat, status = served.stat(), served.status()
    for name, share in (("one", "90 %"), ("two", "10 %")):
        tally = stat["backends"][name]
        until(lambda name=name, tally=tally: cells(opened, name)["Requests"] == str(tally["requests"]))
        row = cells(opened, name)
        assert row["Errors"] == str(tally["by_status"].get("500", 0))
        assert row["Share"] == share
        assert row["Replicas"] == "1 of 1"
    assert sum(tally["by_status"].get("500", 0) for tally in stat["backends"].values()) == 37
    row = cells(opened, "All")
    assert (row["Requests"], row["Errors"], row["Replicas"]) == ("1,000", "37", "2 of 2")
    shows(opened, "37 of 1,000 requests of the last minute failed, 3.7 %")
    opened.get_by_role("link", name="Replicas").click()
    for name, backend in status["backends"].items():
        (replica,) = backend["replicas"]
        row = opened.get_by_role("article", name=f"Backend {name}").get_by_role("row", name=replica["id"])
        assert f"pid {replica['pid']} on {replica['node']}" in row.inner_text()
    opened.get_by_role("link", name="Events").click()
    shows(opened, "was told to fail")

    def counted() -> bool:
        shown = opened.locator(".groups .badge").all_inner_texts()
        return {int(text.split()[0]) for text in shown} == {each["count"] for each in served.failures()}

    until(counted)
    opened.get_by_role("link", name="Plugins").click()
    for line in status["plugins"]:
        shows(opened, line)
    opened.get_by_role("link", name="Configuration").click()
    shows(opened, "[endpoints.split]")
    assert opened.locator("pre.toml").inner_text().strip() == served.export().strip()


def test_an_endpoint_without_traffic_is_shown_beside_the_others(opened: Any, served: serve.Instance) -> None:
    served.create_endpoint("bare", "/bare")
    bare = opened.get_by_role("article", name="Endpoint bare")
    bare.get_by_text("No version has traffic.").wait_for()
    served.set_traffic("split", {"one": 0.4, "two": 0.6})
    until(lambda: cells(opened, "two")["Share"] == "60 %")
    assert opened.get_by_text("Live", exact=True).is_visible()
    served.set_traffic("bare", {"one": 1.0})
    bare.get_by_role("rowheader", name="one").wait_for()


def test_a_handler_that_cannot_be_built_is_listed_by_its_error(opened: Any, served: serve.Instance) -> None:
    with pytest.raises(errors.BackendStartError):
        served.create_backend("broken", Version, "broken")
    opened.get_by_role("link", name="Events").click()
    title = opened.locator(".groups li").filter(has_text="in build").locator("strong").first
    until(lambda: title.inner_text() == "LookupError: no weights for it")


def test_of_a_backend_that_several_endpoints_share_each_shows_its_part(opened: Any, served: serve.Instance) -> None:
    served.create_endpoint("other", "/other", backend="one")
    with httpx.Client(base_url=served.url, timeout=60) as client:
        assert [client.get("/other", params={"fail": 1}).status_code for _ in range(5)] == [500] * 5
    shows(opened, "Endpoint other: 5 of 5 requests of the last minute failed")
    until(lambda: cells(opened, "one", "other")["Errors"] == "5")
    assert cells(opened, "one", "other")["Requests"] == "5"
    counted = served.stat()["endpoints"]["split"]["backends"].get("one", {"requests": 0})
    assert cells(opened, "one")["Requests"] == str(counted["requests"])


def test_a_roll_out_and_a_shadow_are_told_of(opened: Any, served: serve.Instance) -> None:
    served.create_endpoint("moving", "/moving", backend="one")
    served.shadow("moving", "two", share=0.25)
    served.rollout("moving", to="two", steps=["gate", 0.5, 1.0], judge="threshold")
    card = opened.get_by_role("article", name="Endpoint moving")
    card.get_by_text("Roll-out to two: paused, step 1 of 3. a gate: resume, promote or abort it").wait_for()
    card.get_by_text("Shadow: 25 % of its requests are copied to two.").wait_for()
    served.abort_rollout("moving")
    served.stop_shadow("moving")
    until(lambda: not card.get_by_text("Roll-out to two").is_visible())
    until(lambda: not card.get_by_text("Shadow: ").is_visible())


def test_names_are_text_whatever_is_in_them(opened: Any, served: serve.Instance) -> None:
    for name in (ODD, SEPARATED, "__proto__", "constructor"):
        served.create_backend(name, Version, name)
        served.create_endpoint(name, backend=name)
        opened.get_by_role("heading", name=name, exact=True).wait_for()
    for view in VIEWS:
        opened.evaluate(f"location.hash = '#/{view}'")
        opened.get_by_role("heading", level=1, name=view).wait_for()
        assert opened.locator("img").count() == 0


def test_a_replica_that_dies_and_its_log_are_seen(opened: Any, served: serve.Instance) -> None:
    before = served.status()["backends"]["one"]["replicas"][0]["id"]
    httpx.get(f"{served.url}/split?die=1")
    opened.get_by_role("link", name="Replicas").click()

    def replaced() -> str:
        found = served.status()["backends"]["one"]["replicas"]
        return found[0]["id"] if found and found[0]["id"] != before and found[0]["state"] == "ready" else ""

    new = until(replaced)
    opened.get_by_role("button", name=f"Log of replica {new} of one").click()
    shows(opened, f"replica one {new} is ready")
    opened.get_by_role("button", name="Close").click()
    opened.get_by_role("link", name="Events").click()
    shows(opened, f"replica one {before}")


# -- what it does ------------------------------------------------------------------------------------------------------


def test_a_split_that_is_dragged_arrives(opened: Any, served: serve.Instance) -> None:
    bar = opened.get_by_role("group", name="Traffic of split").bounding_box()
    y = bar["y"] + bar["height"] / 2
    opened.mouse.move(bar["x"] + bar["width"] * 0.9, y)
    opened.mouse.down()
    opened.mouse.move(bar["x"] + bar["width"] * 0.8, y, steps=4)
    opened.mouse.move(bar["x"] + bar["width"] * 0.7, y, steps=4)
    opened.mouse.up()
    shows(opened, "From one 90 %, two 10 % to one 70 %, two 30 %.")
    assert served.get_traffic("split") == {"one": 0.9, "two": 0.1}
    opened.get_by_role("button", name="Apply").click()
    until(lambda: served.get_traffic("split") == {"one": 0.7, "two": 0.3})
    until(lambda: cells(opened, "two")["Share"] == "30 %")
    assert served.history("split")[0]["who"].startswith("dashboard")


def test_a_split_is_moved_by_the_keyboard_and_discarded(opened: Any, served: serve.Instance) -> None:
    handle = opened.get_by_role("slider", name="Traffic of one, against two")
    handle.focus()
    for key, now in (("ArrowLeft", 89), ("PageDown", 79), ("ArrowUp", 80), ("Home", 0), ("End", 100), ("PageDown", 90)):
        handle.press(key)
        assert handle.get_attribute("aria-valuenow") == str(now)
    handle.press("ArrowLeft")
    assert handle.get_attribute("aria-valuetext") == "one 89 %, two 11 %"
    opened.get_by_role("button", name="Discard").click()
    assert handle.get_attribute("aria-valuenow") == "90"
    assert served.get_traffic("split") == {"one": 0.9, "two": 0.1}


def test_one_click_and_a_confirmation_lead_back(opened: Any, served: serve.Instance) -> None:
    served.set_traffic("split", {"two": 1.0})
    opened.get_by_role("link", name="History").click()
    numbers = [entry["number"] for entry in served.history("split") if entry["traffic"] == {"one": 0.9, "two": 0.1}]
    opened.get_by_role("button", name=f"Return split to entry {numbers[0]}").click()
    shows(opened, "From two 100 % to one 90 %, two 10 %")
    opened.get_by_role("button", name="Return", exact=True).click()
    until(lambda: served.get_traffic("split") == {"one": 0.9, "two": 0.1})
    shows(opened, f"rollback of split to {numbers[0]}")


def test_who_has_the_read_only_token_may_look(page: Any, served: serve.Instance, link: str) -> None:
    page.goto(link.replace(served.token, served.read_token))
    shows(page, "read only")
    shows(page, "Live")
    assert cells(page, "one")["Share"] == "90 %"
    assert page.get_by_role("slider").count() == 0
    page.get_by_role("link", name="History").click()
    shows(page, "serves now")
    assert page.get_by_role("button", name="Return").count() == 0
    page.get_by_role("link", name="Replicas").click()
    shows(page, "1 of 1 ready")
    assert page.get_by_role("button", name="Restart").count() == 0
    page.get_by_role("link", name="Configuration").click()
    shows(page, "not for sessions of the read-only token")


# -- what it lives through ---------------------------------------------------------------------------------------------


def test_it_lives_through_a_controller_that_is_started_again(
    opened: Any, served: serve.Instance, keeper: subprocess.Popen[str], said: list[str]
) -> None:
    os.kill(controller(keeper), signal.SIGKILL)
    shows(opened, "Reconnecting…")
    shows(opened, "What is shown may be old")
    shows(opened, "Live")

    def changed() -> bool:
        with contextlib.suppress(errors.ControllerGoneError):
            served.set_traffic("split", {"one": 0.6, "two": 0.4})
            return True
        return False

    until(changed)
    until(lambda: cells(opened, "two")["Share"] == "40 %")
    assert not opened.get_by_text("What is shown may be old").is_visible()
    assert [text for text in said if "ERR_" not in text] == []
    said.clear()


def test_it_lives_through_a_lost_connection(
    lead_to: Any, page: Any, served: serve.Instance, link: str, said: list[str]
) -> None:
    port = urlsplit(link).port
    cable = lead_to(port)
    page.goto(link.replace(f":{port}/", f":{cable.port}/"))
    shows(page, "Live")
    cable.cut()
    shows(page, "Reconnecting…")
    served.set_traffic("split", {"one": 0.5, "two": 0.5})
    assert cells(page, "two")["Share"] == "10 %"
    cable.mend()
    shows(page, "Live")
    until(lambda: cells(page, "two")["Share"] == "50 %")
    assert [text for text in said if "ERR_" not in text] == []
    said.clear()


def test_an_error_of_a_view_is_told_as_one_and_the_stream_goes_on(
    opened: Any, served: serve.Instance, said: list[str]
) -> None:
    fail = "OverviewView.prototype.update = () => { throw new RangeError('told to fail'); }"
    opened.evaluate(f"import('/static/overview.js').then(({{ OverviewView }}) => {{ {fail} }})")
    shows(opened, "Overview cannot be shown, by a fault of this page: RangeError: told to fail")
    assert opened.get_by_text("Live", exact=True).is_visible()
    opened.get_by_role("link", name="Plugins").click()
    shows(opened, served.status()["plugins"][0])
    assert not opened.get_by_text("cannot be shown").is_visible()
    assert [text for text in said if "told to fail" not in text] == []
    said.clear()


def test_a_stream_that_cannot_be_read_is_closed(opened: Any) -> None:
    """Else the server goes on with it, and has one more with each error."""
    read = """async () => {
        const { Live } = await import("/static/live.js");
        let signal;
        let aborted;
        const fetched = window.fetch;
        window.fetch = async (path, options) => {
            signal = options.signal;
            return new Response("no event\\n\\n");
        };
        const live = new Live({ headers: {} }, () => {}, () => {
            aborted = signal.aborted;
            live.close();
        });
        await live.run();
        window.fetch = fetched;
        return aborted;
    }"""
    assert opened.evaluate(read)


# -- for everyone ------------------------------------------------------------------------------------------------------


def test_a_key_that_moves_no_border_asks_for_nothing(opened: Any, served: serve.Instance) -> None:
    served.set_traffic("split", {"one": 1.0, "two": 0.0})
    until(lambda: cells(opened, "one")["Share"] == "100 %")
    handle = opened.get_by_role("slider", name="Traffic of one, against two")
    apply = opened.get_by_role("button", name="Apply")
    for key in ("PageUp", "End", "ArrowRight"):
        handle.press(key)
        assert not apply.is_visible()
    handle.press("PageDown")
    assert apply.is_visible()
    handle.press("PageUp")
    assert not apply.is_visible()


def test_a_chart_without_samples_has_an_axis_that_ends_now(opened: Any) -> None:
    drawn = """async () => {
        const { Chart } = await import("/static/chart.js");
        const chart = new Chart({ title: "Empty", format: String });
        document.body.append(chart.root);
        chart.setSeries([{ name: "one", color: "v0" }]);
        chart.update([[], []]);
        await new Promise(requestAnimationFrame);
        const { min, max } = chart.plot.scales.x;
        chart.end();
        chart.root.remove();
        return [max - min, Date.now() / 1000 - max];
    }"""
    length_s, ago_s = opened.evaluate(drawn)
    assert length_s == 600
    assert 0 <= ago_s < 60


def test_on_a_phone_the_whole_history_is_in_the_window(opened: Any) -> None:
    opened.set_viewport_size({"width": 360, "height": 900})
    opened.get_by_role("link", name="History").click()
    shows(opened, "serves now")
    region = opened.get_by_role("region", name="History of split")
    assert region.evaluate("each => each.scrollWidth <= each.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Any, served: serve.Instance, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    served.create_backend("three", Version, "three")
    httpx.get(f"{served.url}/split?fail=1")
    opened.emulate_media(color_scheme=scheme)
    for view in VIEWS:
        opened.evaluate(f"location.hash = '#/{view}'")
        opened.get_by_role("heading", level=1, name=view).wait_for()
        if view == "overview":
            opened.get_by_role("slider").press("ArrowLeft")
        found = axe.run(opened)
        assert found.response["violations"] == [], (view, found.generate_report())
    opened.get_by_role("button", name="Log out").click()
    opened.get_by_label("Token of the instance").wait_for()
    assert axe.run(opened).response["violations"] == []


@pytest.mark.parametrize("width", [360, 768, 2560])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 900})
    for view in VIEWS:
        opened.evaluate(f"location.hash = '#/{view}'")
        opened.get_by_role("heading", level=1, name=view).wait_for()
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
