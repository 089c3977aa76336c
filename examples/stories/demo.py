"""Serve a model that tells stories word by word, listen to it, leave early, and see that it stopped."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import httpx

import servekit
from stories import Storyteller

WORDS = 60
LEAVE_AFTER = 12
PACE_S = 0.03
CONFIG = {"callable_methods": ["tally"]}
END = "event: end"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", choices=["ray", "process"], default="ray", help="where replicas live")
    parser.add_argument("--prompt", default="The function", help="words to go on from")
    parser.add_argument("--serve", action="store_true", help="go on serving until Ctrl-C")
    options = parser.parse_args()

    print("Starting servekit; the model reads Python's language reference ...\n", flush=True)
    with servekit.init(runtime=options.runtime, http_port=0) as instance:
        servekit.create_backend("storyteller", Storyteller, PACE_S, config=CONFIG)
        servekit.create_endpoint("story", "/story", backend="storyteller")
        url = f"{instance.url}/story"
        faults = listen(url, options.prompt) + leave(url, options.prompt)
        for fault in faults:
            print(f"Not as expected: {fault}", file=sys.stderr)
        if options.serve:
            print(f'\nServing until Ctrl-C:\n\n    curl -N -H "Accept: text/event-stream" {url}', flush=True)
            wait_for_interrupt()
    return 1 if faults else 0


def listen(url: str, prompt: str) -> list[str]:
    """Print a story's words as they come; what is not plausible in how they came is returned, in words."""
    print(prompt, end="", flush=True)
    began = time.monotonic()
    came_s = []
    with listening(url, prompt) as answer:
        for word in words_in(answer):
            came_s.append(time.monotonic() - began)
            print(word, end="", flush=True)
    if not came_s:
        return ["no words came"]
    print(f"\n\n{len(came_s)} words, the first after {came_s[0] * 1000:.0f} ms, the last after {came_s[-1]:.1f} s.\n")
    whole = len(came_s) == WORDS
    streamed = came_s[-1] - came_s[0] > PACE_S * WORDS / 2
    return ([] if whole else [f"{len(came_s)} words came, not {WORDS}"]) + ([] if streamed else ["they came at once"])


def leave(url: str, prompt: str) -> list[str]:
    """Hang up in the middle of a long story; what is not plausible after that is returned, in words."""
    before = tally(url)
    print(prompt, end="", flush=True)
    with listening(url, prompt, words=100_000) as answer:
        for number, word in enumerate(words_in(answer), 1):
            print(word, end="", flush=True)
            if number == LEAVE_AFTER:
                break
    after = tally(url)
    deadline = time.monotonic() + 10
    while after["broken off"] == before["broken off"]:
        if time.monotonic() > deadline:
            return ["the story goes on without anyone listening"]
        time.sleep(0.01)
        after = tally(url)
    print(f" ...\n\nLeft after {LEAVE_AFTER} of 100,000 words. The model made {after['words'] - before['words']}.")
    return []


def listening(url: str, prompt: str, words: int = WORDS) -> AbstractContextManager[httpx.Response]:
    return httpx.stream(
        "GET", url, params={"prompt": prompt, "words": words}, headers={"Accept": "text/event-stream"}, timeout=30
    )


def words_in(answer: httpx.Response) -> Iterator[str]:
    """The data of each event, up to the one that says that the story is over."""
    for line in answer.raise_for_status().iter_lines():
        if line == END:
            return
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def tally(url: str) -> dict[str, int]:
    counts: dict[str, int] = httpx.get(url, headers={"X-SERVE-CALL-METHOD": "tally"}).raise_for_status().json()
    return counts


def wait_for_interrupt() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
