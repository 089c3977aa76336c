"""Handlers that take batches, over HTTP."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import numpy as np
import pytest
from tests.support.waiting import until

from servekit import accept_batch, get_context
from servekit.errors import InvalidInputError
from servekit.testing.instances import ServedInstance

# Ray has no part in how calls are put together.
pytestmark = pytest.mark.runtimes("inprocess", "process")

DEADLINE_S = 30.0


def create(serve: ServedInstance, target: Any, *init_args: Any, **config: Any) -> None:
    serve.create_backend("b", target, *init_args, config=config)
    serve.create_endpoint("e", "/x", methods=["GET", "POST"], backend="b")


def ask(serve: ServedInstance, count: int, **headers: str) -> list[Any]:
    """So many clients ask at once."""
    with serve.new_client() as client, ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda n: client.get("/x", params={"n": n}, headers=headers), range(count)))


@accept_batch
def doubles(requests: list[flask.Request]) -> list[Any]:
    time.sleep(0.02)
    size = len(requests)
    assert get_context().batch_size == size
    return [{"twice": 2 * int(request.args["n"]), "size": size} for request in requests]


@accept_batch
async def doubles_later(requests: list[flask.Request]) -> list[Any]:
    await asyncio.sleep(0.02)
    size = len(requests)
    assert get_context().batch_size == size
    return [{"twice": 2 * int(request.args["n"]), "size": size} for request in requests]


class Doubles:
    @accept_batch
    def __call__(self, requests: list[flask.Request]) -> list[Any]:
        return doubles(requests)


@pytest.mark.parametrize("target", [doubles, doubles_later, Doubles])
@pytest.mark.parametrize("slots", [1, 2])
def test_requests_are_answered_together(serve: ServedInstance, target: Any, slots: int) -> None:
    create(serve, target, max_batch_size=8, batch_wait_timeout=0.5, max_concurrent_queries=slots)
    answers = [response.json() for response in ask(serve, 32)]
    assert [answer["twice"] for answer in answers] == [2 * n for n in range(32)]
    sizes = [answer["size"] for answer in answers]
    assert 2 <= max(sizes) <= 8


def test_one_client_in_a_loop_does_not_wait(serve: ServedInstance) -> None:
    create(serve, doubles, max_batch_size=8, batch_wait_timeout=DEADLINE_S)
    assert [serve.client.get("/x", params={"n": n}).json() for n in range(5)] == [
        {"twice": 2 * n, "size": 1} for n in range(5)
    ]


class Held:
    """A handler whose first batch is held up until it is let go on, so that what comes meanwhile shares the next."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._first = True

    @accept_batch
    def __call__(self, requests: list[flask.Request]) -> Any:
        if self._first:
            self._first = False
            until((self._directory / "go").exists)
            return [str(len(requests))] * len(requests)
        return self.results(requests)

    def results(self, requests: list[flask.Request]) -> Any:
        raise NotImplementedError


class Items(Held):
    def results(self, requests: list[flask.Request]) -> Any:
        def pieces() -> Any:
            yield "one "
            yield "two"

        from werkzeug.exceptions import Conflict

        return [self._item(request.args["n"], pieces, Conflict("taken")) for request in requests]

    def _item(self, kind: str, pieces: Any, conflict: Exception) -> Any:
        return {
            "0": "text",
            "1": ({"a": 1}, 201, {"X-Own": "yes"}),
            "2": flask.jsonify(b=2),
            "3": LookupError("mine alone"),
            "4": conflict,
            "5": pieces(),
            "6": np.float64(1.5),
        }[kind]


def held(serve: ServedInstance, target: Any, directory: Path, count: int) -> list[Any]:
    """The answers to ``count`` requests that share a batch."""
    create(serve, target, str(directory), max_batch_size=count, batch_wait_timeout=DEADLINE_S)

    def outstanding() -> int:
        (replica,) = serve.status()["backends"]["b"]["replicas"]
        return int(replica["outstanding"])

    with serve.new_client() as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.get, "/x", params={"n": "first"})
        until(lambda: outstanding() == 1)
        others = pool.submit(ask, serve, count)
        until(lambda: outstanding() == count + 1)
        (directory / "go").touch()
        assert first.result(DEADLINE_S).text == "1"
        return others.result(DEADLINE_S)


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_each_item_is_an_answer_of_its_own(serve: ServedInstance, tmp_path: Path) -> None:
    answers = held(serve, Items, tmp_path, 7)
    assert [answer.status_code for answer in answers] == [200, 201, 200, 500, 409, 200, 200]
    assert answers[0].text == "text"
    assert (answers[1].json(), answers[1].headers["X-Own"]) == ({"a": 1}, "yes")
    assert answers[2].json() == {"b": 2}
    assert "taken" in answers[4].text
    assert answers[5].text == "one two"
    assert answers[6].json() == 1.5


class TooFew(Held):
    def results(self, requests: list[flask.Request]) -> Any:
        return ["x"] * (len(requests) - 1)


class Raises(Held):
    def results(self, requests: list[flask.Request]) -> Any:
        raise LookupError("the whole batch")


@pytest.mark.parametrize("target", [TooFew, Raises])
def test_a_batch_fails_and_the_next_is_served(serve: ServedInstance, tmp_path: Path, target: Any) -> None:
    answers = held(serve, target, tmp_path, 4)
    assert [answer.status_code for answer in answers] == [500] * 4
    for answer in answers:
        assert answer.headers["X-Request-ID"] in answer.text
    assert [answer.status_code for answer in ask(serve, 4)] == [500] * 4


class Methods:
    @accept_batch
    def __call__(self, requests: list[flask.Request]) -> list[str]:
        time.sleep(0.01)
        return [f"call {request.args['n']}" for request in requests]

    @accept_batch
    async def later(self, requests: list[flask.Request]) -> list[str]:
        await asyncio.sleep(0.01)
        return [f"later {request.args['n']}" for request in requests]

    def single(self, request: flask.Request) -> str:
        return f"single {request.args['n']}"


def test_methods_have_batches_of_their_own(serve: ServedInstance) -> None:
    create(serve, Methods, max_batch_size=8, callable_methods=("later", "single"))
    names = [None, "later", "single"] * 8

    def one(number: int) -> str:
        name = names[number]
        headers = {} if name is None else {"X-SERVE-CALL-METHOD": name}
        return serve.client.get("/x", params={"n": number}, headers=headers).text

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, range(len(names))))
    assert answers == [f"{name or 'call'} {number}" for number, name in enumerate(names)]


def single(request: flask.Request) -> str:
    return "one"


def test_a_batch_size_for_a_handler_that_takes_none(serve: ServedInstance) -> None:
    with pytest.raises(InvalidInputError, match="accept_batch"):
        create(serve, single, max_batch_size=4)
