"""The dashboard's server side, over the admin listener."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support.waiting import until

from servekit.dashboard import sampler
from servekit.errors import InvalidInputError, NotFoundError
from servekit.tokens import read_only

TOKEN = b"t" * 32
READS = ["/live", "/configuration"]


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The kinds and the data of a stream's events."""
    kind = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


# -- the page and its files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/static/style.css", "/static/vendor/uPlot.esm.js"])
def test_the_page_needs_no_login_and_is_asked_for_again_each_time(listener: Any, path: str) -> None:
    with listener.client() as client:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(path).headers["content-length"] == str(len(answer.content))


def test_the_page_runs_and_loads_nothing_of_others(listener: Any) -> None:
    with listener.client() as client:
        headers = client.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path", ["/static/nowhere.js", "/static/../app.py", "/static/%2e%2e/app.py", "/static/vendor/LICENSE", "/app.py"]
)
def test_nothing_else_is_a_file(listener: Any, path: str) -> None:
    with listener.client() as client:
        answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]) == (404, "NotFoundError")


def test_a_user_who_follows_a_link_of_another_page_gets_there(listener: Any) -> None:
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    with listener.client() as client:
        assert client.get("/", headers=visit).status_code == 200
        assert client.get("/", headers={**visit, "sec-fetch-dest": "iframe"}).status_code == 403
        assert client.get("/session", headers=visit).status_code == 403
        assert client.get("/v1/status", headers=visit).status_code in (401, 403)


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_the_cookie_is_a_strict_one(listener: Any) -> None:
    with listener.client() as client:
        answer = client.post("/login", json={"token": TOKEN.hex()})
    assert answer.status_code == 200
    name, _, rest = answer.headers["set-cookie"].partition("=")
    value, *attributes = rest.split("; ")
    assert {"Path=/", "HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert "Secure" not in attributes  # The listener speaks no TLS.
    assert name.startswith("servekit-")
    assert TOKEN.hex() not in answer.text + value


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"token": 7}', b'{"token": "x", "more": 1}', b"token=x"])
def test_what_is_no_login(listener: Any, body: bytes) -> None:
    with listener.client() as client:
        answer = client.post("/login", content=body)
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


def test_a_wrong_token_begins_nothing_and_after_many_a_right_one_still_does(listener: Any) -> None:
    with listener.client() as client:
        answer = client.post("/login", json={"token": "wrong"})
        assert (answer.status_code, answer.json()["error"]) == (401, "AuthenticationError")
        assert "set-cookie" not in answer.headers
        until(lambda: client.post("/login", json={"token": "wrong"}).status_code == 429)
        assert client.post("/login", json={"token": "wrong"}).headers["retry-after"] == "10"
        assert client.post("/login", json={"token": TOKEN.hex()}).status_code == 200


def test_without_a_session_nothing_is_told(listener: Any, page: httpx.Client) -> None:
    cookie_alone = {"x-servekit-page": ""}
    with listener.client() as client:
        for path in READS:
            assert client.get(path).status_code == 401
            assert page.get(path, headers=cookie_alone).status_code == 401
        for asking in (client, page):
            assert asking.post("/call/status", headers=cookie_alone).status_code == 401
            assert asking.get("/session", headers=cookie_alone).json() is None
        token = {"authorization": f"Bearer {TOKEN.hex()}"}
        assert client.post("/call/status", headers=token).status_code == 401
    assert listener.operations.calls == []


def test_logging_out_ends_the_session_and_its_streams(listener: Any, page: httpx.Client) -> None:
    assert page.get("/session").json()["may_change"]
    cookies = dict(page.cookies.items())
    with page.stream("GET", "/live") as stream:
        coming = events(stream)
        next(coming)
        with listener.client(cookies=cookies, headers=dict(page.headers)) as tab:
            answer = tab.post("/logout")
            assert "Max-Age=0" in answer.headers["set-cookie"]
            tab.cookies.update(cookies)
            assert tab.post("/call/status").status_code == 401
        with pytest.raises(httpx.RemoteProtocolError):
            list(coming)


# -- operations --------------------------------------------------------------------------------------------------------


def test_an_operation_is_called_by_its_name(listener: Any, page: httpx.Client) -> None:
    listener.operations.results["set_traffic"] = None
    arguments = {"name": "e", "shares": {"a": 0.7, "b": 0.3}}
    answer = page.post("/call/set_traffic", json=arguments)
    assert (answer.status_code, answer.json()) == (200, None)
    assert listener.operations.calls == [("set_traffic", arguments, "dashboard")]


def test_errors_are_those_of_the_admin_api(listener: Any, page: httpx.Client) -> None:
    for error, status in ((InvalidInputError("no"), 400), (NotFoundError("none"), 404), (RuntimeError("oh"), 500)):
        listener.operations.results["rollback"] = error
        answer = page.post("/call/rollback", json={"name": "e"})
        assert answer.status_code == status
        assert str(error) in answer.json()["message"]


def test_a_session_for_reading_and_the_stream_of_all_have_what_readers_may_see(
    listener: Any, page: httpx.Client
) -> None:
    assert page.post("/call/status").status_code == 200
    with listener.log_in(read_only(TOKEN)) as client:
        assert client.post("/call/status").status_code == 200
    assert listener.operations.for_readers == [False, True]
    with page.stream("GET", "/live") as stream:
        next(events(stream))
    assert all(listener.operations.for_readers[2:])


def test_a_session_for_reading_changes_nothing(listener: Any) -> None:
    with listener.log_in(read_only(TOKEN)) as client:
        assert client.get("/session").json()["may_change"] is False
        assert client.post("/call/status").status_code == 200
        assert client.get("/configuration").status_code == 403  # Arguments of targets may be secrets.
        for name in ("set_traffic", "rollback", "restart_backend", "cancel_deploy", "export", "log_tail"):
            answer = client.post(f"/call/{name}", json={"name": "e"})
            assert (answer.status_code, answer.json()["error"]) == (403, "ForbiddenError")
    assert {name for name, *_ in listener.operations.calls} == {"status"}


@pytest.mark.parametrize("name", ["create_backend", "apply", "delete_endpoint", "update_backend_config", "", "x/y"])
def test_what_the_page_has_no_use_for_is_refused_to_all(listener: Any, page: httpx.Client, name: str) -> None:
    answer = page.post(f"/call/{name}", json={})
    assert (answer.status_code, answer.json()["error"]) == (403, "ForbiddenError")
    assert listener.operations.calls == []


def test_a_change_comes_by_post_from_a_page_of_ours_with_its_key(listener: Any, page: httpx.Client) -> None:
    listener.operations.results["set_traffic"] = None
    own = listener.url
    refused: list[dict[str, str]] = [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": own, "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
        {"x-servekit-page": ""},
        {"x-servekit-page": "0" * 64},
    ]
    for headers in refused:
        assert page.post("/call/set_traffic", json={}, headers=headers).status_code in (401, 403), headers
    for method in ("GET", "PUT", "DELETE"):
        assert page.request(method, "/call/set_traffic").status_code in (400, 404)
    assert listener.operations.calls == []
    own_headers = {"origin": own, "sec-fetch-site": "same-origin"}
    assert page.post("/call/set_traffic", json={}, headers=own_headers).status_code == 200


@pytest.mark.parametrize("path", ["/login", "/call/set_traffic"])
def test_a_long_body_is_refused_before_it_is_read(listener: Any, page: httpx.Client, path: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000

    for content in (b"x" * 100_000, pieces()):
        answer = page.post(path, content=content)
        assert answer.status_code == 400
        assert "65536 bytes" in answer.json()["message"]


def test_the_configuration_is_toml(listener: Any, page: httpx.Client) -> None:
    listener.operations.results |= {
        "export": {"endpoints": {"e": {"route": "/e"}}, "backends": {}},
        "status": {"name": "n", "runtime": "process"},
    }
    assert '[endpoints.e]\nroute = "/e"' in page.get("/configuration").json()["toml"]


# -- the stream --------------------------------------------------------------------------------------------------------


def test_a_tab_is_told_the_whole_and_then_what_changes(listener: Any, page: httpx.Client) -> None:
    results = listener.operations.results
    results |= {"status": {"endpoints": {"e": {"traffic": {"a": 1.0}}}}, "stat": {"unrouted": 1}}
    with page.stream("GET", "/live") as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        coming = events(stream)
        kind, state = next(coming)
        assert kind == "whole"
        assert state["status"] == results["status"]
        results["status"] = {"endpoints": {"e": {"traffic": {"a": 0.7, "b": 0.3}}}}
        for kind, told in coming:
            assert kind == "changes"
            changed = {tuple(path): value for path, value in told["set"] if path != ["at"]}
            if changed:
                break
        traffic = ("status", "endpoints", "e", "traffic")
        assert changed == {(*traffic, "a"): 0.7, (*traffic, "b"): 0.3}


def test_an_operation_that_fails_is_said_to(
    listener: Any, page: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    listener.operations.results |= {"status": {"name": "n"}, "stat": RuntimeError("its counts are gone")}
    with page.stream("GET", "/live") as stream:
        state = next(events(stream))[1]
    assert state["status"] == {"name": "n"}
    assert "its counts are gone" in state["failing"]["stat"]
    assert len([record for record in caplog.records if "stat" in record.getMessage()]) == 1


def is_quiet(listener: Any) -> bool:
    """Whether the sampler has ended."""
    before = len(listener.operations.calls)
    listener.run(asyncio.sleep(5 * sampler.PERIOD_S))
    return len(listener.operations.calls) == before


def test_nothing_is_asked_for_where_no_tab_is_open(listener: Any, page: httpx.Client) -> None:
    with page.stream("GET", "/live") as stream:
        next(events(stream))
    until(lambda: is_quiet(listener))
    with page.stream("GET", "/live") as stream:
        assert next(events(stream))[0] == "whole"


def test_a_tab_that_does_not_read_is_cut_and_what_waits_for_it_is_bounded(listener: Any, page: httpx.Client) -> None:
    numbers = itertools.count()
    listener.operations.results["status"] = lambda: {"much": f"{next(numbers)}" * 100_000}
    cookie = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
    head = f"GET /live HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\n"
    head += f"x-servekit-page: {page.headers['x-servekit-page']}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(listener.url).port), timeout=10) as client:
        client.sendall(head.encode())
        until(lambda: next(numbers) > 20 and is_quiet(listener))
        got = b"".join(iter(lambda: client.recv(1_000_000), b""))
    assert got.startswith(b"HTTP/1.1 200")
    assert not got.endswith(b"0\r\n\r\n")
    assert len(got) < 20_000_000


def test_there_is_a_bound_to_the_tabs(listener: Any, page: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "MOST_STREAMS", 1)
    with page.stream("GET", "/live") as stream:
        next(events(stream))
        answer = page.get("/live")
        assert (answer.status_code, answer.json()["error"]) == (429, "UnavailableError")
        assert "pages are open already" in answer.json()["message"]
    until(lambda: page_can_begin(page))


def page_can_begin(page: httpx.Client) -> bool:
    with page.stream("GET", "/live") as stream:
        return stream.status_code == 200
