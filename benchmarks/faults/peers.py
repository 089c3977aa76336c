"""The same faults in servekit and its peers: same load, same handler, and processes told by the answers they give."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import capacity
from benchmarks.faults.capacity import overloaded
from benchmarks.faults.load import Load, ask
from benchmarks.faults.poison import PATIENCE_S, poisoned, told
from benchmarks.faults.row import Row, not_run
from benchmarks.faults.scene import May, Watch, nothing, under_way, watched
from benchmarks.load import LoadError
from benchmarks.processes import Server, ServerError
from benchmarks.servers import PEERS, Peer
from benchmarks.venvs import CACHE, InstallError, python_for

NAMES = ("servekit-process", "rayserve", "litserve", "mosec")
REPLICAS, MANY_REPLICAS = 4, 8
LOOK_S = 0.5
"""A process that has answered within it is there."""
WITHIN_S = 30.0
OVERLOAD_S = 0.02
"""How long the handler takes where there is ten times the capacity."""
OVERLOAD = "overload"

OPTIONS = {
    "servekit-process": "its defaults, but timeout_s 2 and hang_grace_s 2",
    "rayserve": "request_timeout_s 2, health_check_period_s 1, health_check_timeout_s 2, graceful_shutdown_timeout_s 2",
    "litserve": "timeout 2, restart_workers",
    "mosec": "--timeout 2000",
}


@dataclass
class PeerScene:
    """A server of a peer; as much of a `Scene` as a `Watch` asks for."""

    server: Server
    setup: str

    def load(self, **options: Any) -> Load:
        gets = 16 if self.server.peer.takes_get else 0
        return Load(self.url, "/echo", gets=gets, posts=20 - gets, **options)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def ask(self, do: str, **more: Any) -> str:
        return ask(self.url, do, method="GET" if self.server.peer.takes_get else "POST", timeout_s=PATIENCE_S, **more)


def answering(load: Load) -> set[int]:
    since_s = time.monotonic() - LOOK_S
    return {one.by for one in load.outcomes[-20_000:] if one.by and one.ended_s >= since_s}


def at_work(load: Load, count: int, killed: set[int]) -> Callable[[], bool]:
    """Whether so many processes answer, none of them one that was killed."""
    return lambda: len(found := answering(load)) == count and not found & killed


def kill_one(at: PeerScene, watch: Watch) -> None:
    victim = min(answering(watch.load))
    with watch.fault():
        os.kill(victim, signal.SIGKILL)
    watch.until_whole(at_work(watch.load, REPLICAS, {victim}), WITHIN_S)


def kill_all(at: PeerScene, watch: Watch) -> None:
    victims = answering(watch.load)
    with watch.fault():
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
    watch.until_whole(at_work(watch.load, REPLICAS, victims), WITHIN_S)


def hang(at: PeerScene, watch: Watch) -> None:
    with watch.fault():
        watch.notes.append(f"the call that hangs: {at.ask('hang').replace(':', ' ').split()[0]}")
    time.sleep(LOOK_S)
    watch.until_whole(at_work(watch.load, REPLICAS, set()), WITHIN_S)


def poison(at: PeerScene, watch: Watch) -> None:
    before = sum(not one.kind for one in watch.load.outcomes) / (time.monotonic() - watch.load.began_s)
    since, since_s = len(watch.load.outcomes), time.monotonic()
    answers = poisoned(watch, lambda: at.ask("die", id="poison"))
    meanwhile = sum(not one.kind for one in watch.load.outcomes[since:]) / (time.monotonic() - since_s)
    watch.notes += [f"answers a second meanwhile, of those before: {meanwhile / before:.0%}", told(answers)]
    watch.until_whole(at_work(watch.load, MANY_REPLICAS, set()), WITHIN_S)


KILLED = "under way when a replica was killed"
FAULTS: dict[str, tuple[str, int, Callable[[PeerScene, Watch], None], May, str]] = {
    "replica": ("kill -9 of one replica of 4", REPLICAS, kill_one, under_way, KILLED),
    "every-replica": ("kill -9 of all 4 replicas", REPLICAS, kill_all, under_way, KILLED),
    "hang": ("a call that hangs, 4 replicas", REPLICAS, hang, nothing, ""),
    "poison": ("a request a second that kills its replica, 8 replicas", MANY_REPLICAS, poison, under_way, KILLED),
}
"""By name: what it is, on how many replicas, and what may fail of it."""


def overload(server: Server) -> Row:
    """Ten times the capacity of two replicas: what is refused, and what comes in time."""
    asked = {"for_s": OVERLOAD_S, "id": "overload"}
    get = server.peer.takes_get
    path, body = (f"/echo?{urllib.parse.urlencode(asked)}", "") if get else ("/echo", json.dumps(asked))
    return overloaded(server.peer.name, OPTIONS[server.peer.name], server.port, OVERLOAD_S, path, body)


def faults() -> dict[str, str]:
    """What each is, by its name."""
    return {name: fault[0] for name, fault in FAULTS.items()} | {
        OVERLOAD: "ten times the capacity, 2 replicas of 20 ms"
    }


def observed(fault: str, peer: Peer) -> Row:
    """One fault in one peer. A server that does not start, or has stopped answering before, is not run."""
    _, replicas, inject, may_fail, why = FAULTS.get(fault, ("", capacity.REPLICAS, hang, nothing, ""))
    try:
        python = sys.executable if peer.name.startswith("servekit") else python_for(peer, CACHE)
        with (
            tempfile.TemporaryDirectory(prefix="faults-") as scratch,
            Server(peer, python, "echo", replicas, Path(scratch)) as server,
        ):
            if fault == OVERLOAD:
                return overload(server)
            at = PeerScene(server, OPTIONS[peer.name])
            with watched(at, timeout_s=20.0) as watch:
                watch.load.wait(at_work(watch.load, replicas, set()), 30.0)
                inject(at, watch)
            return watch.row(peer.name, may_fail, why)
    except (InstallError, ServerError, LoadError, OSError) as error:
        return not_run(peer.name, str(error))


def peers() -> list[Peer]:
    return [peer for peer in PEERS if peer.name in NAMES]
