"""The admin API over TCP."""

from __future__ import annotations

import httpx
import instance_handlers
import pytest
from instance_tools import fresh_get

import servekit as serve

pytestmark = pytest.mark.processes

DEEP = b'{"name": "hello", "changes": {"user_config": %b1%b}}'


@pytest.fixture(scope="module")
def admin():
    """A client with the token, on an instance with a backend."""
    with serve.init(runtime="process", http_port=0, admin_port=0) as instance:
        serve.create_backend("hello", instance_handlers.hello)
        serve.create_endpoint("hello", "/hello", backend="hello")
        headers = {"authorization": f"Bearer {instance.token}"}
        with httpx.Client(base_url=instance.status()["admin_url"], headers=headers, timeout=60) as client:
            yield client


def test_what_the_python_api_can_do(admin):
    assert admin.base_url.host == "127.0.0.1"
    status = admin.get("/v1/status").json()
    assert status["endpoints"]["hello"]["traffic"] == {"hello": 1.0}
    assert admin.post("/v1/create_endpoint", json={"name": "other", "route": "/other"}).status_code == 200
    assert fresh_get(f"{status['url']}/-/routes").json()["/other"] == ["other", ["GET"]]
    assert admin.post("/v1/delete_endpoint", json={"name": "other"}).status_code == 200


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer 00", "Basic eDp4", "Bearer " + "0" * 64])
def test_without_the_token_it_is_a_401(admin, authorization):
    answer = admin.get("/v1/status", headers={"authorization": authorization})
    assert answer.status_code == 401
    assert "token" in answer.json()["message"]
    assert "hello" not in answer.text


def test_another_host_is_refused(admin):
    """A page that resolves its own name to 127.0.0.1 gets nowhere, even with the token."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example:1"):
        assert admin.get("/v1/status", headers={"host": host}).status_code == 403
    for host in ("localhost", f"localhost:{admin.base_url.port}", "127.0.0.1"):
        assert admin.get("/v1/status", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("operation", "body", "status", "said"),
    [
        ("create_endpoint", b"{", 400, "create_endpoint"),
        ("create_endpoint", b'{"name": 7}', 400, "name"),
        ("create_endpoint", b'{"name": "x", "rout": "/x"}', 400, "rout"),
        ("set_traffic", b'{"name": "nowhere", "shares": {"hello": 1.0}}', 404, "nowhere"),
        ("set_traffic", b'{"name": "hello", "shares": {"hello": 0.5}}', 400, "sum to 1"),
        ("format_disk", b"{}", 404, "format_disk"),
        ("delete_backend", b"[" * 100_000, 400, "delete_backend"),
        ("update_backend_config", DEEP % (b"[" * 5_000, b"]" * 5_000), 400, "100 levels"),
        ("update_backend_config", DEEP % (b"[" * 101, b"]" * 101), 400, "100 levels"),
    ],
)
def test_bad_requests(admin, operation, body, status, said):
    answer = admin.post(f"/v1/{operation}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert said in answer.json()["message"]
    assert admin.get("/v1/status").json()["endpoints"]["hello"]["traffic"] == {"hello": 1.0}


def test_pages_of_other_origins_are_refused(admin):
    """What a browser sends with a request that a page makes, even where that has the token."""
    own = f"http://127.0.0.1:{admin.base_url.port}"
    others = [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": own.replace("http:", "https:")},
        {"origin": "http://127.0.0.1:1"},
        {"origin": own, "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
    ]
    for headers in others:
        answer = admin.post("/v1/delete_endpoint", json={"name": "hello"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "ForbiddenError"), headers
    assert "hello" in admin.get("/v1/list_endpoints").json()
    for headers in ({"origin": own}, {"origin": own, "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert admin.get("/v1/status", headers=headers).status_code == 200, headers


def test_each_refusal_is_named_for_what_it_is(admin):
    def named(answer):
        assert answer.headers["x-content-type-options"] == "nosniff"
        return answer.status_code, answer.json()["error"]

    assert named(admin.get("/v1/status", headers={"authorization": "Bearer 00"})) == (401, "AuthenticationError")
    assert named(admin.get("/v1/status", headers={"host": "evil.example"})) == (403, "ForbiddenError")
    assert named(admin.get("/nowhere")) == (404, "NotFoundError")
    assert named(admin.post("/v1/format_disk")) == (404, "NotFoundError")
    assert named(admin.put("/v1/status")) == (405, "InvalidInputError")
    assert admin.get("/v1/status").headers["x-content-type-options"] == "nosniff"
