"""``/metrics`` of an instance in process, through the real listener of the admin API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.admin import Kept, listening
from tests.support.waiting import until

import servekit
from servekit.testing.instances import open_host

TOKEN = b"t" * 32


@pytest.fixture(scope="module")
def instance() -> Iterator[Kept]:
    with open_host("inprocess") as registry, Kept(registry) as instance:  # type: ignore[arg-type]
        instance.create_backend("b", lambda flask_request: {"sent": len(flask_request.data)})
        instance.create_backend("broken", lambda flask_request: 1 / 0)
        instance.create_endpoint("e", "/e", ["GET", "POST"], backend="b")
        instance.create_endpoint("broken", "/broken", backend="broken")
        yield instance


@pytest.fixture
def client(instance: Kept) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=instance.http_socket), base_url="http://servekit") as client:
        yield client


@pytest.fixture
def admin(instance: Kept, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., httpx.Client]]:
    """Clients of admin listeners, by the token that they send, and the listener's options."""
    with contextlib.ExitStack() as opened:

        def admin(authorization: str, **options: Any) -> httpx.Client:
            address = str(tmp_path_factory.mktemp("a") / "s")
            opened.enter_context(listening(instance, address, TOKEN, **options))
            transport = httpx.HTTPTransport(uds=address)
            headers = {"authorization": authorization} if authorization else {}
            return opened.enter_context(httpx.Client(transport=transport, base_url="http://localhost", headers=headers))

        yield admin


@pytest.fixture
def read_token(instance: Kept, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(instance, "token", TOKEN.hex())
    return f"Bearer {instance.read_token}"


def counts(flask_request: Any) -> str:
    servekit.metrics.counter("seen", "Requests").inc()
    return "seen"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By the name and the values of the labels, in the labels' order."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(admin: httpx.Client) -> dict[tuple[str, ...], float]:
    answer = admin.get("/metrics")
    assert answer.status_code == 200
    return samples(answer.text)


def test_what_was_sent_is_counted(client: httpx.Client, admin: Any, read_token: str) -> None:
    metrics = admin(read_token)
    before = scraped(metrics)
    for number in range(5):
        assert client.post("/e", content=bytes(number)).status_code == 200
    client.get("/e")
    assert client.get("/broken").status_code == 500
    assert client.get("/nowhere").status_code == 404
    assert client.put("/e").status_code == 405
    after = scraped(metrics)
    more = {key: value - before.get(key, 0.0) for key, value in after.items() if value != before.get(key)}
    requests = {key[1:]: count for key, count in more.items() if key[0] == "servekit_http_requests_total"}
    assert requests == {
        ("b", "e", "POST", "200"): 5,
        ("b", "e", "GET", "200"): 1,
        ("broken", "broken", "GET", "500"): 1,
        ("", "", "GET", "404"): 1,
        ("", "e", "PUT", "405"): 1,
    }
    assert more["servekit_http_refusals_total", "", "not_found"] == 1
    assert more["servekit_http_failures_total", "broken", "broken", "handler_failed"] == 1
    assert more["servekit_http_request_body_bytes_total", "b", "e"] == 0 + 1 + 2 + 3 + 4
    for part in ("ingress_wait", "replica_wait", "handler"):
        assert more[f"servekit_http_request_{part}_seconds_count", "b", "e"] == 6
    assert more["servekit_http_request_duration_seconds_bucket", "b", "e", "+Inf", "POST", "200"] == 5
    assert after["servekit_replicas", "b", "ready"] == 1
    assert after["servekit_ingress_ready", "ingress1"] == 1
    assert after["servekit_metrics_series_dropped_total", ""] == 0


def test_own_metrics_have_room_of_their_own_and_what_was_deleted_goes_first(
    instance: Kept, client: httpx.Client, admin: Any, read_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = admin(read_token)
    instance.create_backend("counts", counts)
    for name in ("gone", "there"):
        instance.create_endpoint(name, f"/{name}", backend="counts")
        assert client.get(f"/{name}").status_code == 200
    instance.delete_endpoint("gone")
    until(lambda: ("seen_total", "counts") in scraped(metrics))
    there, gone = (("servekit_http_requests_total", "counts", name, "GET", "200") for name in ("there", "gone"))
    few = [key for key in scraped(metrics) if not key[0].startswith(("servekit_http_request_", "servekit_replica_"))]
    monkeypatch.setattr(instance.service.metrics, "_most_series", len(few) - 2)
    now = scraped(metrics)
    assert now["seen_total", "counts"] == 2
    assert there in now
    assert gone not in now
    assert not any(key[0] == "servekit_http_request_duration_seconds_count" and key[2] == "gone" for key in now)
    assert any(key[0] == "servekit_replica_busy_seconds" for key in now)


def test_what_is_there_now(admin: Any, read_token: str) -> None:
    metrics = admin(read_token)
    version = ("servekit_snapshot_version", "controller")
    now = until(
        lambda: (found := scraped(metrics)).get(("servekit_snapshot_version", "ingress1")) == found[version] and found
    )
    for process in ("controller", "ingress1"):
        assert now["servekit_process_open_fds", process] > 3
        assert now["servekit_event_loop_lag_seconds", process] >= 0
        assert now["servekit_process_resident_memory_bytes", process] > 1e6
    assert now["servekit_process_cpu_seconds_total", "controller"] > 0
    assert now["servekit_replica_restarts_total", "b", "hung"] == 0
    assert (now["servekit_http_requests_in_flight", "b"], now["servekit_http_requests_queued", "b"]) == (0, 0)


def test_openmetrics_where_the_client_asks_for_that(admin: Any, read_token: str) -> None:
    answer = admin(read_token).get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_counter_does_not_go_back_where_its_endpoint_is_deleted(
    instance: Kept, client: httpx.Client, admin: Any, read_token: str
) -> None:
    metrics = admin(read_token)
    key = ("servekit_http_requests_total", "b", "passing", "GET", "200")
    for wanted in (1, 2):
        instance.create_endpoint("passing", "/passing", backend="b")
        client.get("/passing")
        assert instance.stat()["endpoints"]["passing"]["requests"] == 1
        instance.delete_endpoint("passing")
        assert "passing" not in instance.stat()["endpoints"]
        assert scraped(metrics)[key] == wanted


def test_who_may_read_may_do_no_more(admin: Any, read_token: str) -> None:
    reader = admin(read_token)
    for operation in ("status", "stat", "list_endpoints", "list_backends"):
        assert reader.get(f"/v1/{operation}").status_code == 200
    assert reader.post("/v1/history", json={"name": "e"}).status_code == 200
    for operation in ("get_code", "export", "plan", "link_addresses", "create_backend", "nothing"):
        refused = reader.post(f"/v1/{operation}", json={"name": "b"})
        assert (refused.status_code, refused.json()["error"]) == (403, "ForbiddenError"), operation
        assert "read-only" in refused.json()["message"]
    assert reader.post("/v1/delete_endpoint", json={"name": "e"}).status_code == 403
    assert reader.post("/metrics").status_code == 405


class Configured:
    def reconfigure(self, user_config: Any) -> None: ...

    def __call__(self, flask_request: Any) -> str:
        return "configured"


def test_who_may_read_sees_no_user_config(instance: Kept, admin: Any, read_token: str) -> None:
    instance.create_backend("secretive", Configured, config={"user_config": {"key": "hush"}})
    reader, owner = admin(read_token), admin(f"Bearer {TOKEN.hex()}")
    for operation in ("status", "list_backends", "get_backend_config"):
        sent = {"name": "secretive"} if operation == "get_backend_config" else {}
        seen, whole = (each.post(f"/v1/{operation}", json=sent) for each in (reader, owner))
        assert (seen.status_code, whole.status_code) == (200, 200)
        assert "hush" in whole.text
        assert "hush" not in seen.text
        assert "user_config" not in seen.text
        assert "num_replicas" in seen.text


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_schemes_case_does_not_count(admin: Any, read_token: str, scheme: str) -> None:
    token = read_token.removeprefix("Bearer ")
    assert admin(f"{scheme} {token}").get("/metrics").status_code == 200
    assert admin(f"{scheme} {TOKEN.hex()}").post("/v1/history", json={"name": "e"}).status_code == 200
    for wrong in (token, f"Basic {token}", f"bearer{token}", f"bearer {token}0"):
        assert admin(wrong).get("/metrics").status_code == 401


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer 00", "Bearer " + "0" * 64])
def test_without_a_token(admin: Any, authorization: str) -> None:
    assert admin(authorization).get("/metrics").status_code == 401
    opened = admin(authorization, open_metrics=True)
    assert opened.get("/metrics").status_code == 200
    assert opened.get("/v1/status").status_code == 401
    assert opened.get("/metrics", headers={"host": "evil.example"}).status_code == 403
    assert opened.get("/metrics", headers={"origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "answered", "refused"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1:9"], ["10.0.0.7", "evil.example", "localhost.evil.example"]),
        (
            "10.0.0.7",
            ["localhost:9", "10.0.0.7", "10.0.0.7:9"],
            ["10.0.0.8", "evil.example:9"],
        ),
        ("::1", ["[::1]:9", "[::1]"], ["[::2]:9"]),
        ("metrics.example", ["metrics.example:9"], ["metrics.example.evil.example"]),
        (
            "0.0.0.0",
            ["10.0.0.7:9", "[fd00::1]:9", "[fd00::1]", "127.0.0.1"],
            ["evil.example", "1.2.3.4.evil.example"],
        ),
    ],
)
def test_the_host_is_the_one_that_it_listens_at(
    admin: Any, read_token: str, host: str, answered: list[str], refused: list[str]
) -> None:
    metrics = admin(read_token, host=host)
    for name in answered:
        assert metrics.get("/metrics", headers={"host": name}).status_code == 200, name
    for name in refused:
        assert metrics.get("/metrics", headers={"host": name}).status_code == 403, name
