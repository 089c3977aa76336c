"""Changes under load, each many times: none of them is a fault, and none costs a request."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from benchmarks.faults.handlers import Echo
from benchmarks.faults.row import Row, seconds
from benchmarks.faults.scene import Scene, create, nothing, scene, watched

LASTS_S = 6.0
"""How long changes follow each other, one as soon as the one before has returned."""

Change = Callable[[Scene, int], None]
"""The number says which of the changes it is, from 0 on."""


def set_traffic(at: Scene, number: int) -> None:
    shares = ({"other": 1.0}, {"echo": 0.5, "other": 0.5}, {"echo": 1.0})
    at.instance.set_traffic("echo", shares[number % len(shares)])


def scale(at: Scene, number: int) -> None:
    at.instance.update_backend_config("echo", {"num_replicas": (4, 1)[number % 2]})


def user_config(at: Scene, number: int) -> None:
    at.instance.update_backend_config("echo", {"user_config": f"mark {number}"})


def roll(at: Scene, number: int) -> None:
    """A key that running replicas do not take over: all are replaced."""
    at.instance.update_backend_config("echo", {"max_concurrent_queries": 1 + (number + 1) % 2})


def beside(at: Scene, number: int) -> None:
    """A backend and an endpoint come and go beside the one under load."""
    create(at.instance, at.runtime, "another", Echo, 0.0)
    at.instance.create_endpoint("another", "/another", backend="another")
    at.instance.delete_endpoint("another")
    at.instance.delete_backend("another")


def replace(at: Scene, number: int) -> None:
    """A backend gets all the traffic, and the one before is deleted."""
    new, old = (f"v{number}", f"v{number - 1}" if number else "other")
    create(at.instance, at.runtime, new, Echo, at.pause_s)
    at.instance.set_traffic("echo", {new: 1.0})
    at.instance.delete_backend(old if number else "echo")


def under_load(what: str, change: Change) -> Callable[[str], Row]:
    def run(runtime: str) -> Row:
        with scene(runtime, replicas=2) as at:
            create(at.instance, runtime, "other", Echo, at.pause_s, num_replicas=2)
            took = []
            with watched(at) as watch:
                ends_s = time.monotonic() + LASTS_S
                for number in itertools.count():
                    began_s = time.monotonic()
                    if began_s > ends_s:
                        break
                    change(at, number)
                    took.append(time.monotonic() - began_s)
            watch.notes.append(f"{len(took)} changes, the longest took {seconds(max(took))}")
            return watch.row(what, nothing, "")

    return run


FAULTS = {
    "traffic": under_load("set_traffic", set_traffic),
    "scale": under_load("num_replicas up and down", scale),
    "user-config": under_load("a new user_config", user_config),
    "roll": under_load("a roll-out: every replica is replaced", roll),
    "beside": under_load("an endpoint and a backend come and go", beside),
    "replace": under_load("the backend is replaced by another, and deleted", replace),
}
