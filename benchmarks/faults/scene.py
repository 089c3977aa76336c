"""What a fault happens to: an instance whose endpoint ``/echo`` is under load; and what is observed of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import servekit
from benchmarks.faults import outcomes
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import Load
from benchmarks.faults.outcomes import Outcome
from benchmarks.faults.row import Row
from benchmarks.processes import stats, tree
from servekit.config import BackendConfig
from servekit.control.directories import state_directory
from servekit.errors import ServekitError

BEFORE_S, AFTER_S = 1.0, 1.5
"""Load before the fault, and after all is well."""
WITHIN_S = 30.0
"""Longer than that a run does not wait for something to come back."""
SLOW_S = 0.5
"""A request that takes as much longer than any before the fault is not well served."""
SLACK_S = 0.1
"""Sent so long after a kill, a request may still have met what was killed."""


class UnderLoad(Protocol):
    """What a `Watch` is told of."""

    @property
    def setup(self) -> str: ...

    def load(self, **options: Any) -> Load: ...


@dataclass
class Scene:
    """An instance, and what its processes are."""

    instance: servekit.Instance
    runtime: str
    setup: str
    pause_s: float
    keeper: int = 0
    """The process of a standing instance's keeper."""

    @property
    def state(self) -> Path:
        """The folder in which a standing instance keeps what is deployed on it."""
        return Path(state_directory(self.instance.name))

    def replicas(self, backend: str = "echo") -> dict[str, int]:
        """Process by id, of those that are ready."""
        found = self.instance.status()["backends"][backend]["replicas"]
        return {replica["id"]: replica["pid"] for replica in found if replica["state"] == "ready"}

    def ingress(self) -> list[int]:
        return [worker["pid"] for worker in self.instance.status()["ingress"] if worker["ready"]]

    def controller(self) -> int:
        (found,) = named("servekit: controller of")
        return found

    def load(self, **options: Any) -> Load:
        return Load(self.instance.url, "/echo", **options)


@contextlib.contextmanager
def scene(
    runtime: str,
    handler: Any = Echo,
    *,
    replicas: int = 4,
    pause_s: float = 0.002,
    timeout_s: float = 60.0,
    standing: bool = False,
    ingress_workers: int = 1,
    log: IO[str] | None = None,
    state: str = "",
    **config: Any,
) -> Iterator[Scene]:
    """One with an endpoint and a backend ``echo``. Keys of ``config`` that this servekit has not are left out.

    Of a standing one: ``log`` is where its processes write, ``state`` a folder for what it keeps, by default a
    temporary one.
    """
    with contextlib.ExitStack() as undo:
        # What a standing instance keeps is not to outlive it, however that ends.
        os.environ["XDG_STATE_HOME"] = state or undo.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))
        if standing:
            keeper, instance = undo.enter_context(_standing(runtime, ingress_workers, log))
        else:
            keeper, instance = 0, servekit.init(runtime=runtime, http_port=0, ingress_workers=ingress_workers)
            undo.callback(instance.shutdown)
        known = {name: value for name, value in config.items() if value is not None and has(name)}
        create(instance, runtime, "echo", handler, pause_s, num_replicas=replicas, **known)
        instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo", timeout_s=timeout_s)
        parts = [f"{replicas} replica{'s' if replicas > 1 else ''}", f"a handler of {1000 * pause_s:g} ms"]
        parts += [f"{ingress_workers} ingress workers"] if ingress_workers > 1 else []
        parts += [f"timeout_s {timeout_s:g}"] if timeout_s != 60 else []
        parts += [f"{name} {value}" for name, value in known.items()]
        yield Scene(instance, runtime, ", ".join(parts), pause_s, keeper)


def has(key: str) -> bool:
    """Whether this servekit has it in a backend's config."""
    return key in BackendConfig.__struct_fields__


def create(instance: servekit.Instance, runtime: str, name: str, handler: Any, *arguments: Any, **config: Any) -> None:
    """A backend; on Ray its replicas take little of the machine's count of CPUs."""
    options = {"num_cpus": 0.01} if runtime == "ray" else {}
    instance.create_backend(name, handler, *arguments, config=config, ray_actor_options=options)


@contextlib.contextmanager
def _standing(runtime: str, ingress_workers: int, log: IO[str] | None) -> Iterator[tuple[int, servekit.Instance]]:
    name = f"faults-{os.getpid()}"
    command = [sys.executable, "-m", "servekit.cli.main"]
    options = ["--name", name, "--runtime", runtime, "--http-port", "0", "--ingress-workers", str(ingress_workers)]
    with subprocess.Popen([*command, "start", *options], stdout=subprocess.PIPE, stderr=log, text=True) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        instance = servekit.init(name=name, address="auto")
        try:
            yield keeper.pid, instance
        finally:
            instance.shutdown()
            subprocess.run([*command, "stop", "--name", name], timeout=90, check=False)
            keeper.kill()


# -- processes -------------------------------------------------------------------------------------------------------


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, number)


def named(*words: str) -> list[int]:
    """The descendants of this process that have all the words in their command lines."""
    return [pid for pid in tree() if all(word.encode() in command_line(pid) for word in words)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def others(at: Scene, before: set[int], count: int = 4) -> Callable[[], bool]:
    """Whether as many replicas are ready that were not there before or did not die."""
    return lambda: len(set(at.replicas().values()) - before) == count


def replaced(at: Scene, before: set[int]) -> Callable[[], bool]:
    """Whether one of them, nobody knows which, has a successor."""
    return lambda: len(now := set(at.replicas().values())) == len(before) and now != before


def gone(pid: int) -> bool:
    return pid not in stats() or stats()[pid][1][0] in "ZX"


# -- what may fail ---------------------------------------------------------------------------------------------------

May = Callable[[Outcome, "Watch"], bool]
"""Whether a failure was to be expected."""


def nothing(_: Outcome, watch: Watch) -> bool:
    return False


def posts_inside(one: Outcome, watch: Watch) -> bool:
    """POSTs that may have been in a replica when it died: nobody knows what they have done."""
    return one.method == "POST" and one.kind == "502" and watch.met(one)


def inside(one: Outcome, watch: Watch) -> bool:
    return one.kind == "502" and watch.met(one)


def under_way(one: Outcome, watch: Watch) -> bool:
    """Whatever its method, and whatever became of it."""
    return watch.met(one)


def on_its_connections(one: Outcome, watch: Watch) -> bool:
    """What was under way on connections that were cut."""
    return not one.kind.isdigit() and watch.met(one)


def refused(one: Outcome, watch: Watch) -> bool:
    """A connection that was not taken."""
    return one.kind == "ConnectionRefusedError" and all_from_then(one, watch)


def all_from_then(one: Outcome, watch: Watch) -> bool:
    return bool(watch.spans) and one.ended_s >= watch.spans[0][0]


def posts_meanwhile(one: Outcome, watch: Watch) -> bool:
    """Until all was there again."""
    return one.method == "POST" and one.kind == "502" and watch.meanwhile(one)


def inside_meanwhile(one: Outcome, watch: Watch) -> bool:
    return one.kind == "502" and watch.meanwhile(one)


def cut_meanwhile(one: Outcome, watch: Watch) -> bool:
    return not one.kind.isdigit() and watch.meanwhile(one)


def failures_at_first(one: Outcome, watch: Watch) -> bool:
    """500s within a second."""
    return one.kind == "500" and one.ended_s < watch.spans[0][1] + 1


POSTS_INSIDE = "POSTs that were inside; GETs are sent again"
ON_ITS_CONNECTIONS = "what was under way on the connections of that process"


@dataclass
class Watch:
    """A load with faults in it; `row` says what was seen."""

    scene: UnderLoad
    load: Load
    spans: list[tuple[float, float]] = field(default_factory=list)
    """When each fault began and was done."""
    began_s: float = 0.0
    """When the last one did."""
    whole_s: float | None = None
    has_whole: bool = False
    notes: list[str] = field(default_factory=list)
    _never_whole: bool = False

    @contextlib.contextmanager
    def fault(self) -> Iterator[None]:
        began_s = self.began_s = time.monotonic()
        try:
            yield
        finally:
            self.spans.append((began_s, time.monotonic()))

    def met(self, one: Outcome) -> bool:
        return any(one.sent_s <= done_s + SLACK_S and one.ended_s >= began_s for began_s, done_s in self.spans)

    def meanwhile(self, one: Outcome) -> bool:
        """Whether it was under way between a fault and the end of its consequences, which came."""
        return self.whole_s is not None and any(
            one.sent_s <= began_s + self.whole_s and one.ended_s >= began_s for began_s, _ in self.spans
        )

    def until_whole(self, found: Callable[[], object], within_s: float = WITHIN_S) -> bool:
        """Wait until all is there again; errors of an instance that is not there are no answer yet."""
        self.has_whole = True
        since_s = self.began_s
        while time.monotonic() < since_s + within_s:
            with contextlib.suppress(ServekitError, LookupError):
                if found():
                    if not self._never_whole:
                        self.whole_s = max(self.whole_s or 0.0, time.monotonic() - since_s)
                    return True
            time.sleep(0.02)
        self.whole_s, self._never_whole = None, True
        return False

    def row(self, fault: str, may_fail: May, why: str) -> Row:
        """Once the load has ended."""
        found, failed = self.load.outcomes, self.load.failures
        since_s = min(self.spans)[0] if self.spans else self.load.began_s
        return Row(
            fault,
            self.scene.setup,
            len(found),
            len(failed),
            outcomes.kinds(self.load.counts.failed),
            sum(may_fail(one, self) for one in failed),
            why,
            outcomes.longest_gap_s(found, since_s, self.load.ended_s),
            self._well_s(),
            self.whole_s,
            self.has_whole,
            self.notes,
        )

    def _well_s(self) -> float | None:
        """Of several faults the one that took longest, each until the next one."""
        begins = sorted(began_s for began_s, _ in self.spans)
        if not begins:
            return 0.0 if not self.load.failures else None
        usual_s = max(one.ended_s - one.sent_s for one in self.load.outcomes if one.ended_s <= begins[0])
        took: list[float] = []
        for began_s, next_s in zip(begins, [*begins[1:], self.load.ended_s], strict=True):
            meanwhile = [one for one in self.load.outcomes if one.ended_s <= next_s]
            took_s = outcomes.recovery_s(meanwhile, began_s, usual_s + SLOW_S)
            if took_s is None:
                return None
            took.append(took_s)
        return max(took)


@contextlib.contextmanager
def watched(scene: UnderLoad, **load: Any) -> Iterator[Watch]:
    """Load from a while before what happens in the block until a while after it."""
    with scene.load(**load) as running:
        time.sleep(BEFORE_S)
        yield Watch(scene, running)
        since_s = time.monotonic()
        with contextlib.suppress(TimeoutError):  # Some may wait for as long as a client waits.
            running.wait(lambda: running.caught_up(since_s), WITHIN_S)
        time.sleep(AFTER_S)
