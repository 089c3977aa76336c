"""A machine of a Ray cluster dies, or is cut off: two network namespaces stand for two machines (``tests/hosts``).

What serves, and the load, run on the one that stays (`serve_there`, a process in its namespaces); this process does to
the other what it is told to on that process's standard output.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults.handlers import EchoOfHost
from benchmarks.faults.row import Row, from_json, not_run, to_json
from benchmarks.faults.scene import POSTS_INSIDE, Scene, posts_meanwhile, watched
from benchmarks.processes import stats
from benchmarks.servers import ROOT

FAULT, HEAL, DONE, ROW = "FAULT", "HEAL", "DONE", "ROW"
LOST = "host2"
REPLICAS = 4
WITHIN_S = 100.0
"""Ray takes a node for dead after about 65 s."""
AFTERWARDS_S = 15.0
"""How long a node that has come back is looked at."""


def machine(fault: str, cuts: bool) -> Callable[[str], Row]:
    def run(_: str) -> Row:
        from tests.hosts.host_tools import missing, ray_on, two_hosts

        if os.getuid() != 0:
            return not_run(fault, "hosts are made of namespaces, by root alone")
        if reason := missing():
            return not_run(fault, reason)
        command = [sys.executable, "-m", "benchmarks.faults.hosts", fault, "cut" if cuts else ""]
        environ = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "TMPDIR")}
        environ["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), environ.get("PYTHONPATH", "")]
        )  # It begins in another folder.
        with (
            tempfile.TemporaryDirectory(prefix="faults-") as folder,
            reaping(),
            two_hosts() as (first, second),
            ray_on(first, second, Path(folder)),
            first.start(*command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver,
        ):
            assert driver.stdin is not None
            assert driver.stdout is not None
            for line in driver.stdout:
                if line.startswith(ROW):
                    return from_json(line.removeprefix(ROW))
                if line.strip() == FAULT and cuts:
                    second.call("ip", "link", "set", "eth0", "down")
                elif line.strip() == FAULT:
                    with contextlib.suppress(subprocess.CalledProcessError):  # It kills itself as well.
                        second.call("sh", "-c", "kill -9 -1")
                elif line.strip() == HEAL:
                    second.call("ip", "link", "set", "eth0", "up")
                else:
                    continue
                print(DONE, file=driver.stdin, flush=True)
        return not_run(fault, f"the process on the other host ended with {driver.returncode}")

    return run


@contextlib.contextmanager
def reaping() -> Iterator[None]:
    """Collect the hosts' processes that are left to this one, a subreaper: without that a host does not end."""
    over = threading.Event()

    def reap() -> None:
        while not over.wait(0.1):
            for pid, (parent, fields) in stats().items():
                if parent == os.getpid() and fields[0] == "Z" and _is_of_a_host(pid):
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    thread = threading.Thread(target=reap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_of_a_host(pid: int) -> bool:
    """Whether it has a number in another namespace as well."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return any(len(line.split()) > 2 for line in status if line.startswith("NSpid:"))
    return False


# -- on the host that stays ------------------------------------------------------------------------------------------


def serve_there(fault: str, cuts: bool) -> Row:
    with _scene() as at:
        with watched(at) as watch:
            time.sleep(2)
            lost = [one for one in _replicas(at) if one["node"] == LOST]
            with watch.fault():
                _tell(FAULT)
            watch.until_whole(lambda: sum(one["node"] != LOST for one in _replicas(at)) == REPLICAS, WITHIN_S)
            if cuts:
                healed_s = time.monotonic()
                _tell(HEAL)
                time.sleep(AFTERWARDS_S)
        row = watch.row(fault, posts_meanwhile, POSTS_INSIDE)
        row.notes.append(f"{len(lost)} of {REPLICAS} replicas were there")
        if cuts:
            later = [one for one in watch.load.outcomes if one.sent_s > healed_s]
            from_there = sum(one.by >= EchoOfHost.OF_ANOTHER for one in later)
            row.notes.append(f"once the cable was back, {from_there} of {len(later):,} answers came from there")
        return row


@contextlib.contextmanager
def _scene() -> Iterator[Scene]:
    import servekit

    with servekit.init(runtime="ray", runtime_options={"address": "auto"}, http_port=0) as instance:
        options = {"num_cpus": 0.01, "scheduling_strategy": "SPREAD"}
        instance.create_backend("echo", EchoOfHost, 0.002, config={"num_replicas": REPLICAS}, ray_actor_options=options)
        instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
        yield Scene(instance, "ray", f"{REPLICAS} replicas on two machines, a handler of 2 ms", 0.002)


def _replicas(at: Scene) -> list[dict[str, str]]:
    return [one for one in at.instance.status()["backends"]["echo"]["replicas"] if one["state"] == "ready"]


def _tell(what: str) -> None:
    """And wait until it has been done."""
    print(what, flush=True)
    for line in sys.stdin:
        if line.strip() == DONE:
            return


FAULTS = {
    "node-dies": machine("a machine's processes are all killed", cuts=False),
    "node-cut-off": machine("a machine is cut off", cuts=True),
}

if __name__ == "__main__":
    print(ROW + to_json(serve_there(sys.argv[1], bool(sys.argv[2]))), flush=True)
