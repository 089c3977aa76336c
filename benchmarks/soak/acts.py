"""What a soak does to an instance: changes, and faults. Each returns when it has come about."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.faults import hangs
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import ask
from benchmarks.faults.scene import Scene, create, gone, kill, named
from benchmarks.processes import wait_until
from benchmarks.soak.judge import A_REPLICA, AN_INGRESS, NOBODY, ONE_LEAVES
from benchmarks.soak.served import COUNTS, SLOTS

WITHIN_S = 60.0
"""Longer than that nothing is waited for."""
PAUSED_S = 2.0
GOING = 10
"""How many clients go away at once."""


class NotWholeError(Exception):
    """Something did not come about that was to."""


@dataclass(frozen=True)
class Kind:
    """``pick`` is that of a `benchmarks.soak.plan.Act`."""

    run: Callable[[Scene, float], None]
    effects: tuple[str, ...] = (NOBODY,)


def until(found: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
    """Raises `NotWholeError`."""

    def tried() -> bool:
        with contextlib.suppress(Exception):  # An instance that has no controller says nothing yet.
            return bool(found())
        return False

    if not wait_until(tried, within_s):
        raise NotWholeError(f"within {within_s:.0f} s not: {what}")


def picked(some: list[int], pick: float) -> int:
    if not some:
        raise NotWholeError("there is no process to choose from")
    return sorted(some)[int(pick * len(some))]


def all_replicas(at: Scene) -> list[int]:
    return [pid for backend in at.instance.status()["backends"] for pid in at.replicas(backend).values()]


# -- changes ---------------------------------------------------------------------------------------------------------


def traffic(at: Scene, pick: float) -> None:
    share = round(pick, 2)
    at.instance.set_traffic("echo", {"echo": 1 - share, "other": share})


def scale(at: Scene, pick: float) -> None:
    at.instance.update_backend_config("echo", {"num_replicas": 2 + int(3 * pick)})


def user_config(at: Scene, pick: float) -> None:
    at.instance.update_backend_config("other", {"user_config": f"mark {pick:.3f}"})


def roll(at: Scene, pick: float) -> None:
    at.instance.update_backend_config("other", {"max_concurrent_queries": SLOTS["other"] + int(4 * pick)})


def restart(at: Scene, pick: float) -> None:
    at.instance.restart_backend(sorted(COUNTS)[int(pick * len(COUNTS))])


def beside(at: Scene, pick: float) -> None:
    """A version comes, has a part of the traffic, and goes; and so does an endpoint of its own."""
    name = f"v{int(1000 * pick)}"
    create(at.instance, at.runtime, name, Echo, at.pause_s)
    at.instance.create_endpoint(name, f"/{name}", backend=name)
    before = at.instance.get_traffic("echo")
    at.instance.set_traffic("echo", {**{key: share / 2 for key, share in before.items()}, name: 0.5})
    told = ask(at.instance.url, path=f"/{name}")
    at.instance.set_traffic("echo", before)
    at.instance.delete_endpoint(name)
    at.instance.delete_backend(name)
    if not told.startswith("200"):
        raise NotWholeError(f"the new endpoint answered {told[:200]}")


CHANGES = {
    "set_traffic": Kind(traffic),
    "scale": Kind(scale, (ONE_LEAVES,)),
    "user_config": Kind(user_config),
    "roll": Kind(roll, (ONE_LEAVES,)),
    "restart_backend": Kind(restart, (ONE_LEAVES,)),
    "create and delete": Kind(beside, (ONE_LEAVES,)),
}

# -- faults ----------------------------------------------------------------------------------------------------------


def ended(of: Callable[[Scene], list[int]], number: int, what: str, count: int = 1) -> Callable[[Scene, float], None]:
    def run(at: Scene, pick: float) -> None:
        found = sorted(of(at))
        victims = {picked(found, (pick + index / count) % 1) for index in range(count)}
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):  # It has left by itself, for a change.
                kill([victim], number)
        until(lambda: all(gone(pid) for pid in victims), f"{what} is gone")

    return run


def stopped(of: Callable[[Scene], list[int]], what: str) -> Callable[[Scene, float], None]:
    def run(at: Scene, pick: float) -> None:
        victim = picked(of(at), pick)
        with hangs.stopped(victim):
            until(lambda: gone(victim), f"{what} that was stopped is gone")

    return run


def controllers(at: Scene) -> list[int]:
    return named("servekit: controller of")


def pause_controller(at: Scene, pick: float) -> None:
    with hangs.stopped(picked(controllers(at), pick)):
        time.sleep(PAUSED_S)


def one_ends(do: str, method: str) -> Callable[[Scene, float], None]:
    """A request after which one replica, or some, of ``echo`` end."""

    def run(at: Scene, pick: float) -> None:
        before = set(at.replicas().values())
        told = ask(at.instance.url, do, method=method, path="/hang", id=f"{do} {pick}")
        if not told.startswith(("502", "504")):
            raise NotWholeError(f"a request that was to {do} was answered {told[:200]}")
        until(lambda: any(gone(pid) for pid in before), f"a replica is gone after a request that was to {do}")

    return run


def go_away(at: Scene, pick: float) -> None:
    """Clients that send a request, or half of one, and wait for nothing, or for the beginning of the answer."""
    server = urllib.parse.urlsplit(at.instance.url)
    head = f"Host: {server.netloc}\r\n"
    asked = (
        f"GET /echo?do=sleep&for_s=0.5&id=gone HTTP/1.1\r\n{head}\r\n",
        f"POST /long?id=gone HTTP/1.1\r\n{head}Content-Length: 3000000\r\n\r\n{'x' * 300_000}",
        f"GET /long?id=gone&size=3000000 HTTP/1.1\r\n{head}\r\n",
        f"GET /long?id=gone&lines=1000 HTTP/1.1\r\n{head}\r\n",
    )
    for number in range(GOING):
        which = (number + int(10 * pick)) % len(asked)
        with socket.create_connection((server.hostname or "", server.port or 0), timeout=WITHIN_S) as client:
            client.sendall(asked[which].encode())
            if which > 1:
                client.recv(1000)


FAULTS = {
    "kill -9 of a replica": Kind(ended(all_replicas, signal.SIGKILL, "a replica"), (A_REPLICA,)),
    "kill -9 of two replicas": Kind(ended(all_replicas, signal.SIGKILL, "a replica", 2), (A_REPLICA, A_REPLICA)),
    "SIGTERM of a replica": Kind(ended(all_replicas, signal.SIGTERM, "a replica"), (ONE_LEAVES,)),
    "SIGSTOP of a replica": Kind(stopped(all_replicas, "a replica"), (A_REPLICA,)),
    "kill -9 of an ingress worker": Kind(ended(Scene.ingress, signal.SIGKILL, "an ingress worker"), (AN_INGRESS,)),
    "SIGTERM of an ingress worker": Kind(ended(Scene.ingress, signal.SIGTERM, "an ingress worker"), (ONE_LEAVES,)),
    "SIGSTOP of an ingress worker": Kind(stopped(Scene.ingress, "an ingress worker"), (AN_INGRESS,)),
    "kill -9 of the controller": Kind(ended(controllers, signal.SIGKILL, "the controller")),
    "the controller is stopped for a while": Kind(pause_controller),
    "a call that hangs": Kind(one_ends("hang", "GET"), (A_REPLICA,)),
    "a handler that exits": Kind(one_ends("exit", "POST"), (A_REPLICA,)),
    "a request that kills": Kind(one_ends("die", "GET"), (A_REPLICA, A_REPLICA)),
    "clients that go away": Kind(go_away),
}
EVERY = {**CHANGES, **FAULTS}
MAY_END_A_CHANGE = ("kill -9 of the controller", "the controller is stopped for a while")
