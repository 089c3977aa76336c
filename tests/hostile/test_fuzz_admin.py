"""The admin API under arguments of any shape and damaged HTTP: refused by name, never with a 500, never silent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile.conftest import DEADLINE_S, answers_to
from tests.support.admin import Kept, listening

from servekit import errors
from servekit.testing.instances import open_host

TOKEN = b"t" * 32
OPERATIONS = ["create_endpoint", "delete_endpoint", "create_backend", "delete_backend", "update_backend_config"]
OPERATIONS += ["get_backend_config", "get_code", "set_traffic", "get_traffic", "list_endpoints", "list_backends"]
OPERATIONS += ["link_addresses", "status", "stat", "", "..", "status/", "\x01", "é", "x" * 300]
NAMES = ["name", "route", "methods", "backend", "policy", "policy_options", "shares", "changes", "config", "mount"]
NAMES += [
    "timeout_s",
    "strict",
    "runtime",
    "runtime_options",
    "adapter",
    "adapter_options",
    "worker_options",
    "code_data",
]
WORDS = [
    "e",
    "b",
    "/",
    "/e",
    "GET",
    "weighted",
    "flask",
    "process",
    "ray",
    "num_replicas",
    "user_config",
    "autoscaling",
    "",
]
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner), max_leaves=8
)
arguments = st.dictionaries(st.sampled_from(NAMES), values, max_size=5)
quiet = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Admin:
    def __init__(self, instance: Kept, address: str) -> None:
        self._instance = instance
        self._address = address

    def exchange(self, data: bytes) -> list[tuple[int, bytes]]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(self._address)
            return answers_to(client, data)

    def call(self, operation: str, body: bytes, content_type: bytes = b"application/json") -> tuple[int, Any]:
        """The one answer, and what its JSON says."""
        ((status, answer),) = self.exchange(request(operation, body, content_type))
        return status, json.loads(answer)

    def check(self) -> None:
        """It answers, and knows of nothing that would not have been taken."""
        status, endpoints = self.call("list_endpoints", b"")
        assert status == 200
        assert all(isinstance(each["route"], (str, type(None))) for each in endpoints.values())
        assert self.call("list_backends", b"") == (200, {})


def request(operation: str, body: bytes, content_type: bytes = b"application/json") -> bytes:
    path = "".join(c if c.isascii() and c.isprintable() and c != " " else f"%{ord(c):02x}" for c in operation)
    return (
        b"POST /v1/%b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\nContent-Type: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), TOKEN.hex().encode(), content_type, len(body), body)
    )


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with open_host("inprocess") as registry:
        instance = Kept(registry)  # type: ignore[arg-type]
        address = str(tmp_path_factory.mktemp("a") / "s")
        with listening(instance, address, TOKEN):
            yield Admin(instance, address)
        instance.shutdown()


def check_call(admin: Admin, operation: str, body: bytes, content_type: bytes = b"application/json") -> None:
    status, said = admin.call(operation, body, content_type)
    if status == 200:
        return
    # By its name, and in words: nothing of this is a defect.
    assert status in (400, 404), said
    assert isinstance(errors.rebuild(said["error"], said["message"]), errors.InvalidInputError), said
    assert said["message"]


@quiet
@given(st.sampled_from(OPERATIONS), arguments)
def test_arguments_of_any_shape(admin: Admin, operation: str, given_: dict[str, Any]) -> None:
    check_call(admin, operation, json.dumps(given_).encode())
    check_call(admin, operation, msgspec.msgpack.encode(json.loads(json.dumps(given_))), b"application/msgpack")
    admin.check()


@quiet
@given(st.sampled_from(OPERATIONS), st.binary(max_size=60) | st.text().map(str.encode), st.booleans())
def test_bodies_that_are_nothing(admin: Admin, operation: str, body: bytes, is_json: bool) -> None:
    check_call(admin, operation, body, b"application/json" if is_json else b"application/msgpack")
    admin.check()


@quiet
@given(st.sampled_from(OPERATIONS), st.integers(0, 400), st.integers(0, 30), st.binary(max_size=8))
def test_damaged_requests(admin: Admin, operation: str, at: int, size: int, instead: bytes) -> None:
    data = request(operation, b'{"name": "e", "changes": {}}')
    for status, answer in admin.exchange(data[:at] + instead + data[at + size :]):
        assert status < 500 or status == 505, answer
    admin.check()


NESTED = b'{"name": "e", "%b": %b1%b}'
FOUND = [
    *(
        (operation, NESTED % (key, opening * levels, closing * levels))
        for levels in (101, 1_000, 5_000, 100_000)
        for operation, key in [("update_backend_config", b"changes"), ("create_endpoint", b"policy_options")]
        for opening, closing in [(b'{"a":', b"}"), (b'{"a":[', b"]}")]
    ),
    ("set_traffic", NESTED % (b"shares", b'{"a":' + b"[" * 300, b"]" * 300 + b"}")),
    ("create_endpoint", b'{"name": "\\ud800"}'),
    ("create_endpoint", b'{"name": "e", "timeout_s": 1e400}'),
    ("create_endpoint", b'{"name": "e", "timeout_s": ' + b"9" * 5000 + b"}"),
    ("set_traffic", b'{"name": "e", "shares": {"b": ' + b"9" * 400 + b"}}"),
]


@pytest.mark.parametrize("number", range(len(FOUND)))
def test_what_was_found(admin: Admin, number: int) -> None:
    operation, body = FOUND[number]
    check_call(admin, operation, body)
    admin.check()
