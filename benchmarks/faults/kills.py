"""Processes that are killed, or told to end."""

from __future__ import annotations

import signal

from benchmarks.faults.row import Row
from benchmarks.faults.scene import (
    ON_ITS_CONNECTIONS,
    POSTS_INSIDE,
    all_from_then,
    gone,
    inside,
    kill,
    nothing,
    on_its_connections,
    others,
    posts_inside,
    scene,
    watched,
)


def one_replica(runtime: str) -> Row:
    with scene(runtime) as at:
        with watched(at) as watch:
            victim = min(at.replicas().values())
            with watch.fault():
                kill([victim])
            watch.until_whole(others(at, {victim}))
        return watch.row("kill -9 of a replica", posts_inside, POSTS_INSIDE)


def every_replica(runtime: str) -> Row:
    with scene(runtime) as at:
        with watched(at) as watch:
            before = set(at.replicas().values())
            with watch.fault():
                kill([*before])
            watch.until_whole(others(at, before))
        why = "what was inside; a GET is sent again once, and may meet a second death"
        return watch.row("kill -9 of all replicas", inside, why)


def replicas_in_turn(runtime: str) -> Row:
    """What fails of one kill is few or none, by chance; so ten of them."""
    with scene(runtime) as at:
        with watched(at) as watch:
            for _ in range(10):
                victim = min(at.replicas().values())
                with watch.fault():
                    kill([victim])
                watch.until_whole(others(at, {victim}))
        return watch.row("kill -9 of a replica, ten times", posts_inside, POSTS_INSIDE)


def ended_replica(runtime: str) -> Row:
    with scene(runtime) as at:
        with watched(at) as watch:
            victim = min(at.replicas().values())
            with watch.fault():
                kill([victim], signal.SIGTERM)
            watch.until_whole(others(at, {victim}))
        return watch.row("SIGTERM of a replica", nothing, "")


def ingress_worker(runtime: str) -> Row:
    with scene(runtime, ingress_workers=2) as at:
        with watched(at) as watch:
            victim = at.ingress()[0]
            with watch.fault():
                kill([victim])
            watch.until_whole(lambda: len(set(at.ingress()) - {victim}) == 2)
        return watch.row("kill -9 of an ingress worker", on_its_connections, ON_ITS_CONNECTIONS)


def only_ingress_worker(runtime: str) -> Row:
    with scene(runtime) as at:
        with watched(at) as watch:
            (victim,) = at.ingress()
            with watch.fault():
                kill([victim])
            watch.until_whole(lambda: len(set(at.ingress()) - {victim}) == 1)
        return watch.row("kill -9 of the only ingress worker", on_its_connections, ON_ITS_CONNECTIONS)


def controller(runtime: str, pause_s: float = 0.002, times: int = 3) -> Row:
    """Of a standing instance: its keeper starts another, which is to take over what runs."""
    with scene(runtime, standing=True, pause_s=pause_s) as at:
        with watched(at, **({"gets": 4, "posts": 2} if pause_s > 0.1 else {})) as watch:
            before, adopted = at.replicas(), 0
            for _ in range(times):
                with watch.fault():
                    kill([at.controller()])
                watch.until_whole(lambda: len(at.replicas()) == 4 and at.ingress())
                now = at.replicas()
                adopted += sum(now.get(name) == pid for name, pid in before.items())
                before = now
            watch.notes.append(f"{adopted} of {4 * times} replicas were adopted, with their ids and processes")
        slow = ", slow handlers" if pause_s > 0.1 else ""
        return watch.row(f"kill -9 of the controller{slow}, {times} times", nothing, "")


def controller_slow(runtime: str) -> Row:
    return controller(runtime, pause_s=0.3)


def keeper(runtime: str) -> Row:
    """A standing instance ends with its keeper: there is nobody left who would start it again."""
    with scene(runtime, standing=True) as at:
        processes = {at.keeper, at.controller(), *at.ingress(), *at.replicas().values()}
        with watched(at, timeout_s=5.0) as watch:
            with watch.fault():
                kill([at.keeper])
            watch.until_whole(lambda: all(gone(pid) for pid in processes))
        row = watch.row("kill -9 of the keeper", all_from_then, "all from then on: the instance ends with its keeper")
        left = "nothing is left of it" if row.whole_s is not None else "some of its processes are left"
        row.notes.append(f"{left}; the time in the last column is until then")
        return row


FAULTS = {
    "replica": one_replica,
    "replicas-in-turn": replicas_in_turn,
    "every-replica": every_replica,
    "sigterm-replica": ended_replica,
    "ingress": ingress_worker,
    "only-ingress": only_ingress_worker,
    "controller": controller,
    "controller-slow": controller_slow,
    "keeper": keeper,
}
