"""Refusals: text, and JSON for clients that prefer it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from servekit.error_answers import STATUSES, ErrorAnswer
from servekit.ingress import refusals

ACCEPTS = [("accept", "application/json, text/plain, */*")]


def test_every_refusal_has_a_type_that_is_known() -> None:
    cases = [value for name, value in vars(refusals).items() if callable(value) and value is not ErrorAnswer]
    assert len(cases) >= 14
    for case in cases:
        error = case(
            *(2 if name.endswith("_s") else "x" for name in case.__code__.co_varnames[: case.__code__.co_argcount])
        )
        assert error.type in STATUSES
        assert error.message


def test_the_form_is_the_clients_choice(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(methods=("GET",)))
    text = world.ask("/nowhere")
    assert (text.status, text.header("content-type")) == (404, "text/plain; charset=utf-8")
    assert text.text.startswith("Not Found: no endpoint has the path '/nowhere'.")
    asked = world.ask("/nowhere", headers=ACCEPTS)
    assert (asked.status, asked.header("content-type")) == (404, "application/json")
    error = json.loads(asked.text)["error"]
    assert (error["type"], error["request_id"]) == ("not_found", asked.header("x-request-id"))
    assert error["message"].startswith("no endpoint has the path '/nowhere'.")


def test_further_header_lines_stay(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(methods=("GET",)))
    for headers in ([], ACCEPTS):
        asked = world.ask(method="POST", headers=headers)
        assert (asked.status, asked.header("allow")) == (405, "GET, HEAD, OPTIONS")
    assert json.loads(asked.text)["error"]["type"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/-/other", "/-/routes"])
def test_so_do_servekits_own_paths(world: Any, path: str) -> None:
    asked = world.ask(path, method="POST", headers=ACCEPTS)
    assert json.loads(asked.text)["error"]["type"] == ("method_not_allowed" if path == "/-/routes" else "not_found")


def test_a_redirect_is_no_error(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(route="/dir/"))
    asked = world.ask("/dir", headers=ACCEPTS)
    assert (asked.status, asked.header("content-type")) == (308, "text/plain; charset=utf-8")


def test_an_endpoint_without_traffic(world: Any) -> None:
    world.apply(world.endpoint(weights={}))
    asked = world.ask(headers=ACCEPTS)
    assert (asked.status, json.loads(asked.text)["error"]["type"]) == (503, "no_traffic")
