"""Roll a worse version of a model out, which is caught and rolled back, and then a better one, which is promoted."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

import servekit
from versions import V1, V2, V3, load_split

CONNECTIONS = 16
RATE_PER_S = 20.0
"""Of each connection, at most."""
STEPS = [0.03, 0.25, 1.0]
# On a machine that does much else meanwhile, latencies say little: errors alone are judged.
OPTIONS: dict[str, Any] = {
    "steps": STEPS,
    "hold_s": 5.0,
    "warmup_s": 2.0,
    "max_duration_s": 90.0,
    "judge_options": {"margin": 0.03, "quantiles": []},
}
END = {"v2": "rolled_back", "v3": "promoted"}
VERSIONS = {"v1": V1, "v2": V2, "v3": V3}
MOST_S = 110.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", choices=["ray", "process"], default="process", help="where replicas live")
    parser.add_argument("--to", choices=END, action="append", help="this version alone; may be repeated")
    options = parser.parse_args()
    versions = options.to or list(END)

    console = Console()
    with quiet():
        instance = servekit.init(runtime=options.runtime, http_port=0)
    with instance:
        print(f"Training {', '.join(['v1', *versions])}, each in a process of its own ...", flush=True)
        for name in ("v1", *versions):
            servekit.create_backend(name, VERSIONS[name])
        servekit.create_endpoint("digits", "/digits", methods=["POST"], backend="v1")
        faults = [fault for version in versions for fault in roll_out(version, instance.url, console)]
    for fault in faults:
        print(f"Not as expected: {fault}", file=sys.stderr)
    return 1 if faults else 0


@contextmanager
def quiet() -> Iterator[None]:
    """What is started in the block logs nowhere: each error of the worse version would be amid the table."""
    own = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)


def roll_out(version: str, url: str, console: Console) -> list[str]:
    """Roll a version out while clients send, show how far it is, and return what was not as expected, in words."""
    print(f"\nRolling {version} out while {CONNECTIONS} connections send images:", flush=True)
    before = failed_by_backend()
    with clients(url) as seen:
        servekit.rollout("digits", to=version, **OPTIONS)
        watch(console, lambda: told()["state"] in ("waiting", "advancing", "holding"), seen)
    end = told()
    failed = {name: count - before.get(name, 0) for name, count in failed_by_backend().items()}
    reached = max(share for share in STEPS[: end["step"]] if share < 1)
    total, lost = seen.total(), seen["failed"]
    print(
        f"{version} is {end['state'].replace('_', ' ')}: {end['reason']}\n"
        f"Of {total:,} requests {lost} failed, {failed.get(version, 0)} of them by {version}, "
        f"which had at most {reached:.0%}: {lost / total:.2%}."
    )
    for raised in servekit.failures(version):
        print(
            f"{version} raised {raised['type']} in {raised['function']}, line {raised['line']}: {raised['count']} times"
        )
    return list(unexpected(version, end["state"], failed, lost, most=reached * total + CONNECTIONS))


def unexpected(version: str, state: str, failed: dict[str, int], lost: int, most: float) -> Iterator[str]:
    if state != END[version]:
        yield f"{version} is {state}, and not {END[version]}"
    others = {name: count for name, count in failed.items() if count and name != "v2"}
    if others:
        yield f"requests failed that v2 had nothing to do with: {others}"
    if lost != failed.get("v2", 0):
        yield f"{lost} requests failed, and v2 failed {failed.get('v2', 0)}"
    if lost > most:
        yield f"{lost} requests failed, more than the step's share: {most:.0f}"


def told() -> dict[str, Any]:
    found: dict[str, Any] = servekit.status()["rollouts"]["digits"]
    return found


def failed_by_backend() -> dict[str, int]:
    """How many requests each version has answered with an error since the instance was started."""
    parts = servekit.stat()["endpoints"]["digits"]["backends"]
    return {
        name: sum(count for status, count in part["by_status"].items() if int(status) >= 400)
        for name, part in parts.items()
    }


# -- clients -----------------------------------------------------------------------------------------------------------


@contextmanager
def clients(url: str) -> Iterator[Counter[str]]:
    """Yields the count of answers by version, and of what ``failed``, while connections send one request after another.
    At the end each has its last answer."""
    _, images, _, _ = load_split()
    bodies = [json.dumps({"image": image.tolist()}).encode() for image in images]
    seen: Counter[str] = Counter()
    lock, over = threading.Lock(), threading.Event()
    threads = [
        threading.Thread(target=client, args=(url, bodies[at::CONNECTIONS], seen, lock, over))
        for at in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def client(url: str, bodies: list[bytes], seen: Counter[str], lock: threading.Lock, over: threading.Event) -> None:
    connection = http.client.HTTPConnection(url.partition("//")[2], timeout=30)
    due = time.monotonic()
    for body in itertools.cycle(bodies):
        due = max(due + 1 / RATE_PER_S, time.monotonic())
        if over.wait(due - time.monotonic()):
            break
        try:
            connection.request("POST", "/digits", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            version = json.loads(text)["version"] if answer.status == 200 else "failed"
        except (OSError, http.client.HTTPException):
            version = "failed"
            connection.close()
        with lock:
            seen[version] += 1
    connection.close()


# -- what is shown -----------------------------------------------------------------------------------------------------


def watch(console: Console, goes_on: Callable[[], bool], seen: Counter[str]) -> None:
    """Show the roll-out while it goes on: a table that moves, or without a terminal a line for each news."""
    began, last = time.monotonic(), ""
    with Live(console=console, auto_refresh=False) as live:
        while goes_on() and time.monotonic() < began + MOST_S:
            now, found = time.monotonic() - began, told()
            if console.is_terminal:
                live.update(table(found, seen, now), refresh=True)
            elif (news := f"{found['state']} at {found['share']:.0%}") != last:
                print(f"{now:5.1f} s  {news}: {found['reason']}", flush=True)
                last = news
            time.sleep(0.25)
        if console.is_terminal:
            live.update(table(told(), seen, time.monotonic() - began), refresh=True)


def table(found: dict[str, Any], seen: Counter[str], now: float) -> Table:
    title = Text(f"{found['state']}, after {now:.0f} s: {found['reason']}")  # A str would be markup.
    shown = Table(title=title, title_justify="left", expand=True)
    for head in ("version", "share", "requests judged", "errors", "error rate", "p99"):
        shown.add_column(head, justify="left" if head == "version" else "right")
    shares = {found["baseline"]: 1 - found["share"], found["candidate"]: found["share"]}
    for version, share in shares.items():
        figures = found["seen"].get(version, {})
        rate, p99_s = figures.get("error_rate"), figures.get("p99_s")
        shown.add_row(
            version,
            f"{share:.0%}",
            f"{figures.get('requests', 0):,}",
            f"{figures.get('errors', 0):,}",
            "" if rate is None else f"{rate:.1%}",
            "" if p99_s is None else f"{1000 * p99_s:.0f} ms",
            style="bold red" if rate else "",
        )
    shown.caption = (
        f"answered to {CONNECTIONS} connections: {seen.total() - seen['failed']:,}; failed: {seen['failed']}"
    )
    return shown


if __name__ == "__main__":
    sys.exit(main())
