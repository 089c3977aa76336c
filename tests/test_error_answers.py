"""The form of servekit's own errors, and what of an Accept header decides it."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from servekit.error_answers import STATUSES, ErrorAnswer, accepts_json

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", True),
        ("APPLICATION/JSON; charset=utf-8", True),
        ("application/problem+json", True),
        ("application/json, text/plain, */*", True),  # axios
        ("application/json, */*", True),
        ("application/json, */*;q=0.5", True),  # HTTPie
        ("text/html, application/json;q=0.5", True),
        ("application/json, text/plain;q=0.9", True),
        ("text/plain;q=0.5, application/json;q=0.6", True),
        ("*/*;q=1, application/json;q=0.9, text/plain;q=0.1", True),
        ("", False),
        ("*/*", False),
        ("application/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/plain, application/json", False),
        ("application/json;q=0.5, text/plain", False),
        ("application/json;q=0.5, */*", False),
        ("application/json;q=0", False),
        ("application/json;q=0.0, */*", False),
        ("application/json;q=x", False),
        ("application/json;q=1.5", False),
        ("application/json;q", False),
        ("application/json; q = 0.5", True),
        ("application/json;quality=high", True),
        ("application/json;q=0;quality=high", False),
        ("application/jsonl", False),
        ("text/x+json", False),
    ],
)
def test_json_where_the_client_prefers_it(accept: str, expected: bool) -> None:
    assert accepts_json([(b"accept", accept.encode())]) is expected
    halves = accept.split(",")
    several = [(b"host", b"h"), *((b"accept", half.encode()) for half in halves)]
    assert accepts_json(several) is expected


def test_a_long_accept_header_is_not_read_to_its_end() -> None:
    assert accepts_json([(b"accept", b"text/html," * 50 + b"application/json")])
    assert not accepts_json([(b"accept", b"text/html," * 1000 + b"application/json")])
    assert not accepts_json([(b"accept", b"application/json;q=0" + b";a=b" * 1000 + b", text/plain")])


def test_a_request_without_an_accept_header_gets_text() -> None:
    assert not accepts_json([])


def test_the_two_forms() -> None:
    error = ErrorAnswer("method_not_allowed", "no é \ud800", b"allow: GET\r\n")
    assert error.status == 405
    assert error.render([], "r1") == (
        b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\nallow: GET\r\n",
        "Method Not Allowed: no é \\ud800\n".encode(),
    )
    head, body = error.render([(b"accept", b"application/json")], "r1")
    assert head == b"content-type: application/json\r\nx-content-type-options: nosniff\r\nallow: GET\r\n"
    record = {"type": "method_not_allowed", "message": "no é \\ud800", "request_id": "r1"}
    assert json.loads(body) == {"error": record}


def test_every_type_is_a_short_name_with_a_status_and_is_documented() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)
    assert {name: int(status) for name, status in documented} == dict(STATUSES)
    for name, status in STATUSES.items():
        assert re.fullmatch("[a-z][a-z_]+", name)
        assert HTTPStatus(status)
