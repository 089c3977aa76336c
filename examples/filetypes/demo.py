"""Serve a model that tells what a file is, ask it about many files at once, and see in what batches it saw them."""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

import servekit
from file_types import FileTypes
from samples import found, made

BATCH = {"max_batch_size": 16, "batch_wait_timeout": 0.01}
CLIENTS = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", choices=["ray", "process"], default="ray", help="where replicas live")
    parser.add_argument("--serve", action="store_true", help="go on serving until Ctrl-C")
    parser.add_argument("files", nargs="*", type=Path, help="ask about these too")
    options = parser.parse_args()

    print("Starting servekit and loading the model ...", flush=True)
    with servekit.init(runtime=options.runtime, http_port=0) as instance:
        servekit.create_backend("file_types", FileTypes, config=BATCH)
        servekit.create_endpoint("file_types", "/file_types", methods=["POST"], backend="file_types")
        url = f"{instance.url}/file_types"
        expected = {name: label for name, (label, _) in made().items()}
        contents = {name: content for name, (_, content) in made().items()}
        contents |= found(60) | {str(path): path.read_bytes() for path in options.files}
        answers = send(url, contents)
        wrong = show(answers, expected)
        if options.serve:
            print(f"\nServing until Ctrl-C:\n\n    curl --data-binary @FILE {url}", flush=True)
            wait_for_interrupt()
    return 1 if wrong else 0


def send(url: str, contents: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """The answer to each file, posted by `CLIENTS` clients at once."""
    with httpx.Client(timeout=60, trust_env=False) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def ask(content: bytes) -> dict[str, Any]:
            answer: dict[str, Any] = client.post(url, content=content).raise_for_status().json()
            return answer

        return dict(zip(contents, pool.map(ask, contents.values()), strict=True))


def show(answers: dict[str, dict[str, Any]], expected: dict[str, str]) -> list[str]:
    """Print every answer; the names of those that are not as expected come back."""
    wrong = [name for name, label in expected.items() if answers[name]["label"] != label]
    print("\n    file                                      label             score")
    for name, answer in answers.items():
        note = f"   wrong: it is {expected[name]}" if name in wrong else ""
        print(f"    {name[-40:]:<40}  {answer['label']:<16} {answer['score']:6.3f}{note}")
    files_in = Counter(answer["batch"] for answer in answers.values())
    batches = {size: count // size for size, count in sorted(files_in.items())}
    print(f"\n{len(answers)} files in {sum(batches.values())} batches:")
    for size, count in batches.items():
        print(f"    {count:3} x {size:2}  {'#' * size}")
    return wrong


def wait_for_interrupt() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
