"""What handlers take and return, on every runtime: no argument, numbers, what becomes JSON and what cannot."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.support.runtimes import NOT_ON_RAY

import servekit
from servekit import errors
from servekit.testing.instances import ServedInstance

# Ray has no part in what becomes of a result: a handler that travels, and a result that fails, show that.
pytestmark = NOT_ON_RAY


def serve_it(serve: ServedInstance, target: Any, **config: Any) -> None:
    serve.create_backend("b", target, config=config)
    serve.create_endpoint("e", "/e", backend="b")


# -- no argument -------------------------------------------------------------------------------------------------------


def plain() -> str:
    return "plain"


async def awaited() -> str:
    return "awaited"


def streamed() -> Iterator[str]:
    yield "stre"
    yield "amed"


async def streamed_later() -> AsyncIterator[str]:
    yield "streamed"
    yield " later"


def passing(function: Any) -> Any:
    @functools.wraps(function)
    def passing_on(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return passing_on


@passing
def decorated() -> str:
    return "decorated"


def with_option(*, text: Any = "option") -> str:
    return text


class Model:
    def __init__(self, text: str = "model") -> None:
        self.text = text

    def __call__(self) -> str:
        return self.text

    def other(self) -> str:
        return f"other {self.text}"

    def two(self, request: Any) -> str:
        return str(request.path)


class AsyncModel(Model):
    async def __call__(self) -> str:  # type: ignore[override]
        return "async model"


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize(
    ("target", "text"),
    [
        pytest.param(plain, "plain", marks=NOT_ON_RAY),
        pytest.param(awaited, "awaited", marks=NOT_ON_RAY),
        pytest.param(streamed, "streamed", marks=NOT_ON_RAY),
        pytest.param(streamed_later, "streamed later", marks=NOT_ON_RAY),
        pytest.param(decorated, "decorated", marks=NOT_ON_RAY),
        pytest.param(with_option, "option", marks=NOT_ON_RAY),
        (lambda: "lambda", "lambda"),
        pytest.param(Model, "model", marks=NOT_ON_RAY),
        pytest.param(AsyncModel, "async model", marks=NOT_ON_RAY),
    ],
    ids=lambda value: getattr(value, "__name__", "text"),
)
def test_a_handler_without_an_argument_is_called_without(serve: ServedInstance, target: Any, text: str) -> None:
    serve_it(serve, target)
    assert serve.client.get("/e").text == text
    result = servekit.get_handle("e").remote().result()
    assert (result if isinstance(result, str) else "".join(result)) == text


def test_so_are_methods_and_a_handle_passes_what_it_has(serve: ServedInstance) -> None:
    serve_it(serve, Model, callable_methods=["other", "two"])
    for _ in range(2):
        assert serve.client.get("/e", headers={"x-serve-call-method": "other"}).text == "other model"
        assert serve.client.get("/e", headers={"x-serve-call-method": "two"}).text == "/e"
    assert servekit.get_handle("e").options(method_name="other").remote().result() == "other model"
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        servekit.get_handle("e").remote(3).result()


def test_a_handle_passes_keywords_to_one_that_takes_no_request(serve: ServedInstance) -> None:
    serve_it(serve, with_option)
    assert servekit.get_handle("e").remote(text="given").result() == "given"


@servekit.accept_batch
def batch_of_nothing() -> list[str]:
    return []


def test_batches_without_an_argument_are_refused(serve: ServedInstance) -> None:
    with pytest.raises(errors.BackendStartError, match="accepts batches and takes no argument"):
        serve.create_backend("b", batch_of_nothing)


# -- results -----------------------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize("value", [7, 1.5, True, [1, None]])
def test_numbers_are_json(serve: ServedInstance, value: Any) -> None:
    serve_it(serve, lambda: value)
    answer = serve.client.get("/e")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == value


def bad() -> Any:
    return {"scores": [1.0, NAN]}


async def bad_later() -> Any:
    return {"scores": [1.0, NAN]}


@servekit.accept_batch
def bad_batch(requests: Any) -> Any:
    return [{"scores": [1.0, NAN]} for _ in requests]


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize(
    "target", [bad, pytest.param(bad_later, marks=NOT_ON_RAY), pytest.param(bad_batch, marks=NOT_ON_RAY)]
)
def test_nan_is_a_500_that_names_the_place_in_text_and_in_json(serve: ServedInstance, target: Any) -> None:
    serve_it(serve, target)
    answer = serve.client.get("/e")
    said = "result['scores'][1] is nan, which JSON does not have"
    assert answer.status_code == 500
    assert answer.text.startswith("Internal Server Error: backend 'b' failed on this request: " + said)
    error = serve.client.get("/e", headers={"accept": "application/json"}).json()["error"]
    assert error["type"] == "bad_result"
    assert said in error["message"]


def unusable(request: Any) -> Any:
    results = {
        "status": ({"a": 1}, 2),
        "tuple": (1, 2, 3),
        "text": "\ud800",
        "number": {"i": 10**5000},
        "header": ("x", 200, {"X-Name": "\u017c"}),
    }
    return results[request.args["which"]]


@servekit.accept_batch
def too_many(requests: Any) -> Any:
    return [*requests, "more"]


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("status", "from 200 to 599, not 2"),
        ("tuple", "not 3"),
        ("text", "no UTF-8"),
        ("number", "too long for JSON"),
        ("header", "encode what is not latin-1"),
    ],
)
def test_what_has_no_answer_is_told_with_its_reason(serve: ServedInstance, which: str, said: str) -> None:
    serve_it(serve, unusable)
    error = serve.client.get(f"/e?which={which}", headers={"accept": "application/json"}).json()["error"]
    assert (error["type"], said in error["message"]) == ("bad_result", True), error


def test_a_batch_of_the_wrong_length_is_told_with_its_reason(serve: ServedInstance) -> None:
    serve_it(serve, too_many)
    error = serve.client.get("/e", headers={"accept": "application/json"}).json()["error"]
    assert error["type"] == "bad_result"
    assert "was asked for 1 and returned 2" in error["message"]


def test_one_item_of_a_batch_that_cannot_become_json_fails_alone(serve: ServedInstance) -> None:
    @servekit.accept_batch
    def handler(requests: Any) -> Any:
        return [{"x": NAN} if "bad" in request.args else {"x": 1} for request in requests]

    serve_it(serve, handler, max_batch_size=2, batch_wait_timeout=0.2)
    assert serve.client.get("/e").json() == {"x": 1}
    assert serve.client.get("/e?bad").status_code == 500
    assert serve.client.get("/e").json() == {"x": 1}


def test_none_is_an_error_that_says_so(serve: ServedInstance) -> None:
    serve_it(serve, lambda: None)
    answer = serve.client.get("/e")
    assert answer.status_code == 500
    assert "returned None or ended without a return statement" in answer.text


def test_a_streamed_piece_of_another_type_cuts_the_answer(serve: ServedInstance) -> None:
    def handler() -> Iterator[Any]:
        yield "text"
        yield {"a": 1}

    serve_it(serve, handler)
    with pytest.raises(Exception, match=r"(?i)closed|incomplete|protocol"):
        serve.client.get("/e")


def test_what_the_handler_raises_is_not_told(serve: ServedInstance) -> None:
    def handler() -> Any:
        raise TypeError("secret")

    serve_it(serve, handler)
    answer = serve.client.get("/e", headers={"accept": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert answer.json()["error"]["type"] == "handler_failed"
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text
    assert json.loads(answer.text)["error"]["message"].startswith("backend 'b' failed on this request.")
