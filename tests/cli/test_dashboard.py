"""``servekit dashboard``: a link that logs in."""

from __future__ import annotations

import stat
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from tests.instances.instance_tools import started_standing

from servekit.cli.main import main


@pytest.fixture(scope="module")
def standing(place: Path) -> Iterator[None]:
    with started_standing("--name", "shown", "--admin-port", "0", "--drain-delay-s", "0"):
        yield


def role(link: str) -> bool:
    """Whether the session that the link begins may change anything."""
    parts = urlsplit(link)
    assert parts.query == ""
    token = parts.fragment.removeprefix("token=")
    with httpx.Client(base_url=f"http://{parts.netloc}", verify=False) as client:
        return bool(client.post("/login", json={"token": token}).json()["may_change"])


@pytest.mark.processes
@pytest.mark.parametrize(("arguments", "may_change"), [([], True), (["--read-only"], False)])
def test_the_link_logs_in(
    standing: None, capsys: pytest.CaptureFixture[str], arguments: list[str], may_change: bool
) -> None:
    assert main(["dashboard", "--name", "shown", *arguments]) == 0
    assert role(capsys.readouterr().out.strip()) is may_change


@pytest.mark.processes
def test_a_browser_is_not_given_the_token_as_an_argument(
    standing: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: not opened.append(url))
    assert main(["dashboard", "--name", "shown", "--open"]) == 0
    file = Path(unquote(urlsplit(opened[0]).path))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    link = file.read_text().partition("url=")[2].partition('"')[0]
    assert role(link)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert main(["dashboard", "--name", "shown", "--open"]) == 1
    assert "no browser was found" in capsys.readouterr().err


@pytest.mark.processes
def test_without_an_admin_port_it_says_what_to_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with started_standing("--name", "unseen", "--drain-delay-s", "0"):
        assert main(["dashboard", "--name", "unseen"]) == 1
    assert "start it with --admin-port 8001" in capsys.readouterr().err
