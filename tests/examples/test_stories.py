"""The stories example: the model without servekit, what is streamed and how, and the whole demo."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.support.waiting import until

import servekit

STORIES = Path(__file__).parents[2] / "examples" / "stories"
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
def stories(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STORIES))
    return importlib.import_module("stories")


@pytest.fixture
def client(serve_instance: Any, stories: ModuleType) -> Any:
    servekit.create_backend("storyteller", stories.Storyteller, config={"callable_methods": ["tally"]})
    servekit.create_endpoint("story", "/story", backend="storyteller")
    return serve_instance.client


def test_three_words_on_end_are_from_the_text(stories: ModuleType) -> None:
    text = "The cat saw the dog. The dog saw the cat. The cat saw the mouse. The mouse saw the cat. The cat saw the"
    told = list(islice(stories.Chain(text).words("", random.Random(1)), 200))

    known = [stories.spaced(word) for word in text.replace(".", " .").split()]
    triples = set(zip(known, known[1:], known[2:], strict=False))
    assert set(zip(told, told[1:], told[2:], strict=False)) <= triples


def test_a_text_that_ends_starts_again(stories: ModuleType) -> None:
    words = stories.Chain("Once upon a time").words("Once upon", random.Random(1))
    assert list(islice(words, 6)) == [" a", " time", ".", " Once", " upon", " a"]


def test_a_seed_makes_a_story_the_same_again(client: Any) -> None:
    first, second, other = (client.get(f"/story?words=50&seed={seed}") for seed in (1, 1, 2))
    assert first.headers["content-type"] == "text/plain; charset=utf-8"
    assert first.text == second.text != other.text
    assert len(first.text.split()) > 30


def test_words_come_as_events_to_who_asks_for_those(client: Any) -> None:
    plain = client.get("/story?words=20&seed=1").text
    answer = client.get("/story?words=20&seed=1", headers=EVENTS)
    *events, end, nothing = answer.text.split("\n\n")
    assert answer.headers["content-type"] == "text/event-stream"
    assert "".join(event.removeprefix("data: ") for event in events) == plain
    assert len(events) == 20
    assert end == "event: end\ndata:"
    assert not nothing


@pytest.mark.parametrize("words", [0, 100_001])
def test_too_long_a_story_is_a_400(client: Any, words: int) -> None:
    assert client.get(f"/story?words={words}").status_code == 400


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["plain", "events"])
def test_a_listener_who_leaves_ends_the_story(client: Any, headers: dict[str, str]) -> None:
    with client.stream("GET", "/story?words=100000", headers=headers) as answer:
        next(answer.iter_bytes())

    def tally() -> Any:
        return client.get("/story", headers={"X-SERVE-CALL-METHOD": "tally"}).json()

    until(lambda: tally()["broken off"])
    told = tally()
    assert told["broken off"] == 1
    assert told["whole"] == 0
    assert 0 < told["words"] < 100_000


def test_the_demo_streams_and_stops(run_demo: Callable[..., str]) -> None:
    printed = run_demo(STORIES)
    assert "60 words, the first after" in printed
    assert "Left after 12 of 100,000 words." in printed
