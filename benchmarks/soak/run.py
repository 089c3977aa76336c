"""One soak, from the start of an instance to its end."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from benchmarks.command_line import say
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import Load
from benchmarks.faults.outcomes import Outcome
from benchmarks.faults.scene import Scene, command_line, gone, scene
from benchmarks.processes import tree
from benchmarks.soak import acts, leftovers, served
from benchmarks.soak.acts import NotWholeError
from benchmarks.soak.clients import OtherClients
from benchmarks.soak.judge import Span, unexpected
from benchmarks.soak.leftovers import Looked
from benchmarks.soak.plan import Act, Step, steps
from servekit.errors import ControllerGoneError

WARM_UP_S = 3.0
SETTLE_S = 45.0
"""After the load all is to be as it was within so long."""
INGRESS_WORKERS = 2
CLIENTS = {"gets": 4, "posts": 2, "pause_s": 0.05, "timeout_s": 60.0, "grace_s": 60.0}
DEFECTS = re.compile(r"Traceback|was never (retrieved|awaited)|Exception ignored|[Dd]efect")
"""In a line of the log that nobody expects, whatever is killed."""
SHOWN = 5


class Soak:
    """``reasons``: what is wrong; nothing where all is well."""

    def __init__(self, runtime: str, seed: int, lasts_s: float, folder: Path, log: IO[str]) -> None:
        self._runtime = runtime
        self._seed = seed
        self._lasts_s = lasts_s
        self._folder = folder
        self._log = log
        self._failed: list[Outcome] = []
        self._spans: list[Span] = []
        self.reasons: list[str] = []
        self.sent: Counter[str] = Counter()
        """By the kind of load."""
        self.failed: Counter[tuple[str, str]] = Counter()
        """By the kind of load, and that of the failure; those that were expected, too."""
        self.done: Counter[str] = Counter()
        """Acts, by name."""
        self.before = Looked()
        self.after = Looked()

    def run(self) -> None:
        try:
            with self._scene() as at:
                self._soak(at)
        except Exception as error:
            self.reasons.append(f"the soak itself ended: {traceback.format_exc()}")
            say(f"{type(error).__name__}: {error}")
        left = [f"{pid} {command_line(pid).decode()[:100]}" for pid in tree()]
        if left:
            self.reasons.append(f"processes are left of the instance that has ended: {', '.join(left)}")
        self._judge()
        self._read_log()

    def _scene(self) -> contextlib.AbstractContextManager[Scene]:
        return scene(
            self._runtime,
            Echo,
            replicas=served.COUNTS["echo"],
            timeout_s=served.TIMEOUT_S,
            standing=True,
            ingress_workers=INGRESS_WORKERS,
            log=self._log,
            max_concurrent_queries=served.SLOTS["echo"],
            hang_grace_s=1.0,
        )

    def _soak(self, at: Scene) -> None:
        served.serve(at.instance, self._runtime)
        with self._load(at):
            time.sleep(WARM_UP_S)
        self._until_whole(at)
        self.before = self._look(at)
        with self._load(at):
            began_s = time.monotonic()
            for step in steps(self._seed, list(acts.CHANGES), list(acts.FAULTS)):
                time.sleep(step.pause_s)
                if time.monotonic() - began_s > self._lasts_s:
                    break
                self._do(at, step, began_s)
        served.serve_as_at_first(at.instance)
        self._until_whole(at)
        self._settle(at)

    @contextlib.contextmanager
    def _load(self, at: Scene) -> Iterator[None]:
        loads: list[Load | OtherClients] = []
        over = threading.Event()
        taker = threading.Thread(target=self._take, args=(loads, over))
        with Load(at.instance.url, "/echo", **CLIENTS) as load, OtherClients(at.instance, self._seed) as others:  # type: ignore[arg-type]
            loads += [load, others]
            taker.start()
            try:
                yield
            finally:
                over.set()
                taker.join()
        for one in loads:
            self._take_from(one)

    def _take(self, loads: list[Load | OtherClients], over: threading.Event) -> None:
        """Outcomes of half an hour would be much memory: those that failed are kept, the others are counted."""
        while not over.wait(1.0):
            for load in loads:
                self._take_from(load)

    def _take_from(self, load: Load | OtherClients) -> None:
        some = load.outcomes[:]
        del load.outcomes[: len(some)]
        self.sent.update(one.method for one in some)
        self._failed += [one for one in some if one.kind]

    # -- steps -------------------------------------------------------------------------------------------------------

    def _do(self, at: Scene, step: Step, began_s: float) -> None:
        say(f"{time.monotonic() - began_s:7.1f} s  {step.number}: {step}")
        step_s = time.monotonic()
        threads = [threading.Thread(target=self._act, args=(at, step, act)) for act in step.acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            self._until_whole(at)
        except NotWholeError as error:
            self._wrong(f"step {step.number} ({step}): {error}; {self._seen(at)}")
        effects = [effect for act in step.acts for effect in acts.EVERY[act.name].effects]
        self._spans.append(Span(step_s, time.monotonic(), tuple(effects)))
        self.done.update(act.name for act in step.acts)

    def _act(self, at: Scene, step: Step, act: Act) -> None:
        try:
            acts.EVERY[act.name].run(at, act.pick)
        except ControllerGoneError as error:
            if not any(one.name in acts.MAY_END_A_CHANGE for one in step.acts):
                self._wrong(f"step {step.number} ({step}): {act.name}: {error}")
        except Exception as error:
            self._wrong(f"step {step.number} ({step}): {act.name}: {type(error).__name__}: {error}")

    def _until_whole(self, at: Scene) -> None:
        acts.until(lambda: is_whole(at), "every process is there again")

    def _seen(self, at: Scene) -> str:
        try:
            return str(at.instance.status())
        except Exception as error:
            return f"status() says {type(error).__name__}: {error}"

    def _wrong(self, reason: str) -> None:
        say(f"           wrong: {reason}")
        self.reasons.append(reason)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _look(self, at: Scene) -> Looked:
        folders = [self._folder, Path(os.environ["XDG_STATE_HOME"])]
        return leftovers.look(folders, at.ingress())

    def _settle(self, at: Scene) -> None:
        ends_s = time.monotonic() + SETTLE_S
        while True:
            self.after = self._look(at)
            found = leftovers.more(self.before, self.after)
            if not found or time.monotonic() > ends_s:
                self.reasons += found
                return
            time.sleep(1)

    def _judge(self) -> None:
        self.failed.update((one.method, one.kind) for one in self._failed)
        wrong = unexpected(self._failed, self._spans)
        for one in wrong[:SHOWN]:
            near = [span for span in self._spans if span.began_s < one.ended_s]
            after = (
                f"{one.ended_s - near[-1].began_s:.2f} s after the beginning of step {len(near) - 1}" if near else ""
            )
            took = f"sent {one.ended_s - one.sent_s:.2f} s before"
            self.reasons.append(
                f"a request failed that nobody expects: {one.method} {one.id}: {one.kind} {after}, {took}"
            )
        if len(wrong) > SHOWN:
            self.reasons.append(f"and {len(wrong) - SHOWN} more such requests")

    def _read_log(self) -> None:
        self._log.flush()
        self._log.seek(0)
        lines = self._log.read().splitlines()
        wrong = [number for number, line in enumerate(lines) if DEFECTS.search(line)]
        for number in wrong[:SHOWN]:
            self.reasons.append("the log has: " + "\n    ".join(lines[max(0, number - 1) : number + 25]))
        if len(wrong) > SHOWN:
            self.reasons.append(f"and {len(wrong) - SHOWN} more such lines")


def is_whole(at: Scene) -> bool:
    """Whether every process that is to be there is, is ready, and lives, and no other."""
    status: dict[str, Any] = at.instance.status()
    workers = status["ingress"]
    if len(workers) != INGRESS_WORKERS or not all(worker["ready"] and not gone(worker["pid"]) for worker in workers):
        return False
    for backend in status["backends"].values():
        replicas = backend["replicas"]
        if len(replicas) != backend["wanted_replicas"] or not all(
            replica["state"] == "ready" and not gone(replica["pid"]) for replica in replicas
        ):
            return False
    return True
