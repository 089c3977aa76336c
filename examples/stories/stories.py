"""A small language model that tells without end: a Markov chain over the words of Python's own language reference.

The text is what ``help("yield")`` and the like show, half a megabyte that every Python has; the chain is built from it
in a moment when a replica starts. The handler streams: each word leaves when it is made.

``GET /story?words=50&prompt=a+function&seed=1`` answers ``text/plain``; to who accepts ``text/event-stream`` alone, or
before it, each word is an event, and an event ``end`` tells that no more follow.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from pydoc_data.topics import topics
from typing import Any

from flask import Request, abort

STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: a proxy is to pass on what it has
_tokens = re.compile(r"[\w'-]*\w|[.,;:?!]").findall
_ENDS = frozenset(".?!")


class Chain:
    """Which words follow which two: a model of order 2."""

    def __init__(self, text: str) -> None:
        words = _tokens(text)
        self._followers: dict[tuple[str, str], list[str]] = defaultdict(list)
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            self._followers[first, second].append(third)
        self._starts = [pair for pair in self._followers if pair[0][0].isupper() and pair[1].islower()]

    def words(self, prompt: str, chance: random.Random) -> Iterator[str]:
        """Words without end, each with the space before it; they go on from the last two words of ``prompt``."""
        pair = tuple(_tokens(prompt)[-2:])
        if pair not in self._followers:
            pair = chance.choice(self._starts)
            yield from (spaced(word) for word in pair)
        first, second = pair
        while True:
            followers = self._followers.get((first, second))
            if not followers:
                first, second = chance.choice(self._starts)
                yield from (spaced(word) for word in (".", first, second))
                continue
            first, second = second, chance.choice(followers)
            yield spaced(second)


def spaced(word: str) -> str:
    return word if word in _ENDS or word in ",;:" else f" {word}"


def reference() -> str:
    """The prose of the language reference; without its headings, tables and code."""
    paragraphs = "\n\n".join(topics.values()).split("\n\n")
    return "\n\n".join(text for text in paragraphs if text.rstrip().endswith(".") and ">>>" not in text)


class Storyteller:
    """The handler. ``pace_s`` is how long it thinks about each word: a bigger model would, too."""

    def __init__(self, pace_s: float = 0.0) -> None:
        self.chain = Chain(reference())
        self.pace_s = pace_s
        self.told: dict[str, int] = {"whole": 0, "broken off": 0, "words": 0}

    async def __call__(self, flask_request: Request) -> Any:
        count = flask_request.args.get("words", 100, type=int)
        if not 0 < count <= 100_000:
            abort(400, "words: from 1 to 100,000")
        chance = random.Random(flask_request.args.get("seed"))
        words = islice(self.chain.words(flask_request.args.get("prompt", ""), chance), count)
        kind = flask_request.accept_mimetypes.best_match(["text/plain", "text/event-stream"], "text/plain")
        if kind == "text/event-stream":
            return self.events(words), {"Content-Type": kind, **STREAM}
        return self.tell(words), {"Content-Type": "text/plain; charset=utf-8", **STREAM}

    async def tally(self, flask_request: Request) -> Any:
        """How many stories were told to their end and how many were not, and words in all."""
        return self.told

    async def tell(self, words: Iterator[str]) -> AsyncGenerator[str, None]:
        """The story, word by word; a listener who leaves ends it where it is."""
        ended = "broken off"
        try:
            for word in words:
                await asyncio.sleep(self.pace_s)
                self.told["words"] += 1
                yield word
            ended = "whole"
        finally:
            self.told[ended] += 1

    async def events(self, words: Iterator[str]) -> AsyncGenerator[str, None]:
        """The same as server-sent events (HTML Living Standard, 9.2)."""
        story = self.tell(words)
        try:
            async for word in story:
                yield f"data: {word}\n\n"
            yield "event: end\ndata:\n\n"
        finally:
            await story.aclose()
