"""The access log: a line for each request that has ended, however it has."""

from __future__ import annotations

import json
import re
import socket
import urllib.parse
from typing import Any

import body_handlers
import httpx
import instance_handlers
import pytest
from tests.support.waiting import until

import servekit as serve
from servekit.ingress.access_log import AccessLog
from servekit.interfaces import RequestRecord

NAMES = {"role": "ingress", "worker": "ingress1"}
CLIENT = "203.0.113.7"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.processes
def test_each_request_is_a_line_however_it_has_ended(capfd: pytest.CaptureFixture[str]) -> None:
    said, found = "", {}

    def lines() -> dict[str, Any]:
        nonlocal said
        said += capfd.readouterr().err
        told = [json.loads(line) for line in said.splitlines() if '"level":"ACCESS"' in line]
        found.update({each["request_id"]: each for each in told})
        return found

    options: dict[str, Any] = {"access_log": True, "log_format": "json", "trusted_proxies": ["127.0.0.1"]}
    with serve.init(runtime="process", http_port=0, **options) as instance:
        serve.create_backend("named", instance_handlers.Named, "one", 0.0)
        serve.create_endpoint("e", "/e", backend="named")
        serve.create_backend("made", body_handlers.made)
        serve.create_endpoint("made", "/made", backend="made")
        serve.create_backend("slow", instance_handlers.Named, "slow", 5.0)
        serve.create_endpoint("slow", "/slow", backend="slow")
        (replica,) = instance.status()["backends"]["named"]["replicas"]
        with httpx.Client(base_url=instance.url, timeout=60, verify=False) as client:
            body = client.get("/e?token=secret", headers={"x-request-id": "plain", "x-forwarded-for": CLIENT}).content
            client.head("/e", headers={"x-request-id": "head"})
            client.get(
                "/no where", headers={"x-request-id": "lost", "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-00"}
            )
            assert len(client.get("/made?size=3000000", headers={"x-request-id": "long"}).content) == 3_000_000
        with socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(instance.url).port or 0)) as gone:
            gone.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\nx-request-id: gone\r\n\r\n")
            until(lambda: any(each["outstanding"] for each in instance.status()["backends"]["slow"]["replicas"]))
        until(lambda: {"plain", "head", "lost", "long", "gone"} <= {*lines()})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["plain"].pop("time"))
    assert found["plain"].pop("duration_ms") > 0
    assert found["plain"] == {
        "level": "ACCESS",
        **NAMES,
        "request_id": "plain",
        "endpoint": "e",
        "backend": "named",
        "replica": replica["id"],
        "method": "GET",
        "path": "/e",
        "status": 200,
        "body_bytes": len(body),
        "client": CLIENT,
    }
    assert "secret" not in said
    assert (found["head"]["status"], found["head"]["body_bytes"]) == (200, 0)
    assert (found["lost"]["status"], found["lost"]["path"], found["lost"]["endpoint"]) == (404, "/no where", "")
    assert {key for key, each in found.items() if each.get("trace_id") == TRACE_ID} == {"lost"}
    assert (found["long"]["status"], found["long"]["body_bytes"]) == (200, 3_000_000)
    assert {each["client"] for key, each in found.items() if key != "plain"} == {"127.0.0.1"}
    assert (found["gone"]["status"], found["gone"]["endpoint"]) == (499, "slow")


def test_what_a_client_sends_is_one_word_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a b\n2026-11-30T12:00:00.000Z INFO controller forged\udcff"
    AccessLog(NAMES, "text").write(
        [RequestRecord("6b1d-7", "e", "v1", "r1", "GET", path, 200, 0.0125, 0.0, 11, "fe80::1%a b")]
    )
    traced = RequestRecord("a", "", "", "", "GET", "/", 404, 0.0, trace=f"00-{TRACE_ID}-00f067aa0ba902b7-01")
    AccessLog(NAMES, "text").write([traced])
    line, another = capsys.readouterr().err.splitlines()
    assert another.endswith(f" endpoint=- backend=- replica=- trace={TRACE_ID}")
    assert line == (
        "1970-01-01T00:00:00.000Z ACCESS ingress ingress1 [request 6b1d-7] GET "
        "/a%20b%0A2026-11-30T12:00:00.000Z%20INFO%20controller%20forged%FF 200 bytes=11 ms=12.500 "
        "client=fe80::1%25a%20b endpoint=e backend=v1 replica=r1"
    )
