"""`assert_no_drops`: what counts as dropped, what is told of it, and that it cannot pass for want of requests."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any

import httpx
import pytest

import servekit
from servekit.errors import InvalidInputError
from servekit.testing.load import MOST_SHOWN, SteadyLoad


@pytest.fixture
def echo(serve_instance: Any) -> Any:
    """An endpoint that answers with what it was asked, or as the query says."""

    def handler(request: Any) -> Any:
        if "raise" in request.args:
            raise LookupError("the handler's own trouble")
        status = int(request.args.get("status", 200))
        return {
            "method": request.method,
            "body": request.get_data(as_text=True),
            "who": request.headers["x-who"],
        }, status

    servekit.create_backend("b", handler)
    servekit.create_endpoint("e", "/e", ["GET", "PUT"], backend="b")
    return serve_instance


def test_it_sends_what_it_is_told_before_during_and_after_the_block(serve_instance: Any) -> None:
    seen: list[Any] = []
    servekit.create_backend(
        "b", lambda request: seen.append((request.method, request.json, request.headers["x-who"])) or ""
    )
    servekit.create_endpoint("e", "/e", ["PUT"], backend="b")
    asked = {"json": {"value": 21}, "headers": {"X-Who": "me"}}
    with serve_instance.assert_no_drops("/e", method="PUT", rate_per_s=500, clients=2, **asked) as load:
        before = load.answered
        load.more(10)
        during = load.answered
    assert before >= 1
    assert during >= before + 10
    assert len(seen) >= during + 2, "each client sends a last one"
    assert Counter(map(str, seen)) == {str(("PUT", {"value": 21}, "me")): load.answered}
    ids = [decision.request_id for decision in serve_instance.decisions]
    assert set(ids) == {f"load1-{n}" for n in range(1, len(ids) + 1)}
    assert load.failures == []


@pytest.mark.parametrize("query", ["status=404", "status=503", "raise"])
def test_what_is_answered_with_an_error_is_told(echo: Any, query: str) -> None:
    with (
        pytest.raises(AssertionError) as caught,
        echo.assert_no_drops(f"/e?{query}", headers={"x-who": ""}, clients=1, rate_per_s=1),
    ):
        pass
    head, *lines = str(caught.value).splitlines()
    assert head == f"no request succeeded, of 2 that were tried: GET /e?{query}"
    assert [line.split(":")[0].split(", ")[1] for line in lines] == ["request id load1-1", "request id load1-2"]
    status = "500" if query == "raise" else query[-3:]
    assert all(f": status {status}: " in line for line in lines)


def test_one_failure_among_many_fails(serve_instance: Any) -> None:
    servekit.create_backend("b", lambda request: ("late", 503 if request.headers["x-request-id"] == "load1-4" else 200))
    servekit.create_endpoint("e", "/e", backend="b")
    told = r"^1 of \d+ requests failed: GET /e\n  sent after \d+\.\d\d\d s, request id load1-4: status 503: late$"
    with (
        pytest.raises(AssertionError, match=told),
        serve_instance.assert_no_drops("/e") as load,
        pytest.raises(AssertionError, match="load1-4"),
    ):
        load.more()
    assert load.answered >= 3
    assert [failure.request_id for failure in load.failures] == ["load1-4"]


def test_at_most_twenty_are_told_and_the_others_counted(serve_instance: Any) -> None:
    with pytest.raises(AssertionError) as caught, serve_instance.assert_no_drops("/nowhere", rate_per_s=1000) as load:
        threading.Event().wait(0.2)
    lines = str(caught.value).splitlines()
    total = int(lines[0].split("of ")[1].split()[0])
    assert total > MOST_SHOWN
    assert len(lines) == MOST_SHOWN + 2
    assert lines[-1] == f"  … and {total - MOST_SHOWN} more"
    assert len(load.failures) == MOST_SHOWN


def test_an_exception_in_the_place_of_an_answer_is_told(serve_instance: Any) -> None:
    held = ["now"]

    def handler(request: Any) -> str:
        while held:
            time.sleep(0.001)
        return ""

    servekit.create_backend("b", handler)
    servekit.create_endpoint("e", "/e", backend="b")
    with (
        pytest.raises(AssertionError, match="ReadTimeout: timed out"),
        serve_instance.assert_no_drops("/e", timeout=0.05) as load,
        pytest.raises(AssertionError, match="ReadTimeout"),
    ):
        load.more()
    held.clear()


def test_that_nothing_could_be_sent_is_a_failure() -> None:
    def no_server() -> httpx.Client:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("nobody listens")

        return httpx.Client(transport=httpx.MockTransport(refuse), base_url="http://servekit")

    with pytest.raises(AssertionError, match=r"no request succeeded, of \d.*\n.*ConnectError: nobody listens"):  # noqa: SIM117
        with SteadyLoad(no_server, "load", "/e"):
            pass

    clients = iter([no_server()])
    with pytest.raises(AssertionError, match=r"no request succeeded, of 2 .*\n.*no request was sent: StopIteration"):  # noqa: SIM117
        with SteadyLoad(lambda: next(clients), "load", "/e", clients=2):
            pass


def test_an_exception_of_the_block_goes_on(serve_instance: Any) -> None:
    with pytest.raises(KeyError) as caught, serve_instance.assert_no_drops("/nowhere"):
        raise KeyError("of the block")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load1")]
    if sys.version_info >= (3, 11):
        assert "no request succeeded" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"clients": 0}, InvalidInputError, "clients is from 1 to 64, not 0"),
        ({"rate_per_s": 0}, InvalidInputError, "rate_per_s is above 0"),
        ({"rate_per_s": float("nan")}, InvalidInputError, "rate_per_s is above 0"),
        ({"jsn": {}}, TypeError, "jsn"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_block(
    serve_instance: Any, arguments: Any, error: Any, said: str
) -> None:
    with pytest.raises(error, match=said):
        serve_instance.assert_no_drops("/e", **arguments)
