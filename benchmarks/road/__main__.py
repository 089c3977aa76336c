"""Walk the road of a request: ``python -m benchmarks.road``.

One hello with five headers goes through a real ingress worker and a real replica, and each call of servekit's own
Python functions is printed, the bundled plugins' included, in the order in which they happen. It counts, so the figures
are the same on every machine.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

import servekit as serve

Place: TypeAlias = "tuple[str, str]"
"""A file and a function in it."""
T = TypeVar("T")

SAMPLES = 60
"""The first of them are slow, compared with the warm-up, and remembered for that: more is called. What is slow is
learned once a second."""
WARM_UP = 200
"""Requests before the first that counts: windows have their size by then."""
COUNTED = 300
"""Requests whose instructions are counted together."""
WAIT_S = 300.0
TICKS = ("Deadlines._sweep",)
"""Not of a request: the clock's."""
INJECTED = Path(__file__).parent / "inject"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="road-") as folder:
        if options.instructions:
            return count_instructions(Path(folder))
        roads = walk(Path(folder))
    print(text(roads))
    return 0 if within(roads, options.most_calls, options.most_files) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.road", description=__doc__)
    parser.add_argument("--most-calls", type=int, default=sys.maxsize, metavar="N", help="exit with 1 above that")
    parser.add_argument("--most-files", type=int, default=sys.maxsize, metavar="N", help="exit with 1 above that")
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="count CPU instructions of each process per request instead, by valgrind (some minutes)",
    )
    return parser.parse_args(arguments)


# -- the calls -----------------------------------------------------------------------------------------------------


def walk(folder: Path) -> dict[str, list[Place]]:
    """The calls of one request in each process, by its name: of several requests the fewest, where no timer struck."""
    found: dict[str, list[list[Place]]] = collections.defaultdict(list)
    with serving(folder) as (processes, ask):
        for _ in range(WARM_UP):
            ask()
        take(folder, processes, 1)
        for sample in range(2, SAMPLES + 2):
            ask()
            for name, places in take(folder, processes, sample).items():
                found[name].append([place for place in places if place[1] not in TICKS])
    return {name: min(roads, key=len) for name, roads in found.items()}


def take(folder: Path, processes: dict[str, int], number: int) -> dict[str, list[Place]]:
    """What each process has called since it was asked last."""
    for pid in processes.values():
        until(functools.partial(is_asleep, pid))  # What follows the answer is part of the road.
        os.kill(pid, signal.SIGUSR1)
    files = {name: folder / f"{pid}.{number}.json" for name, pid in processes.items()}
    until(lambda: all(file.exists() for file in files.values()))
    return {name: [(file, function) for file, function in json.loads(path.read_text())] for name, path in files.items()}


def is_asleep(pid: int) -> bool:
    """Whether the process has done nothing for a moment, and waits."""
    before = Path(f"/proc/{pid}/schedstat").read_text()
    time.sleep(0.003)  # Less than there is between two ticks of its clock.
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "S" and Path(f"/proc/{pid}/schedstat").read_text() == before


def text(roads: dict[str, list[Place]]) -> str:
    lines = []
    for name, places in roads.items():
        lines.append(f"{name}: {counted({name: places})}")
        at = ""
        for number, (file, function) in enumerate(places, 1):
            lines.append(f"{number:4}  {'' if file == at else file:34}  {function}")
            at = file
        lines.append("")
    return "\n".join([*lines, f"one hello: {counted(roads)}"])


def counted(roads: dict[str, list[Place]]) -> str:
    calls, files = totals(roads)
    return f"{calls} calls in {files} files"


def totals(roads: dict[str, list[Place]]) -> tuple[int, int]:
    """Calls, and the files that they are in."""
    places = [place for road in roads.values() for place in road]
    return len(places), len({file for file, _ in places})


def within(roads: dict[str, list[Place]], most_calls: int, most_files: int) -> bool:
    calls, files = totals(roads)
    if calls <= most_calls and files <= most_files:
        return True
    print(f"the limit is {most_calls} calls in {most_files} files")
    return False


# -- the instructions ----------------------------------------------------------------------------------------------


def count_instructions(folder: Path) -> int:
    if shutil.which("valgrind") is None:
        print("valgrind is not installed")
        return 1
    os.environ["SERVEKIT_ROAD_VALGRIND"] = "1"
    counts: dict[str, list[int]] = collections.defaultdict(list)
    with serving(folder) as (processes, ask):
        for _ in range(WARM_UP):
            ask()
        for pid in processes.values():
            control("--instr=on", pid)
        for _ in range(3):
            for pid in processes.values():
                control("--zero", pid)
            for _ in range(COUNTED):
                ask()
            for name, pid in processes.items():
                counts[name].append(dumped(folder, pid) // COUNTED)
    for name, found in counts.items():
        print(f"{name}: {statistics.median(found):,} instructions a request ({min(found):,} to {max(found):,})")
    return 0


def dumped(folder: Path, pid: int) -> int:
    """The instructions of a process since they were zeroed."""
    earlier = set(folder.glob(f"callgrind.{pid}.*"))
    control("--dump", pid)
    (dump,) = until(lambda: set(folder.glob(f"callgrind.{pid}.*")) - earlier)
    return until(lambda: instructions(dump))


def control(command: str, pid: int) -> None:
    subprocess.run(["callgrind_control", command, str(pid)], check=True, capture_output=True, timeout=WAIT_S)


def instructions(dump: Path) -> int:
    """What callgrind has counted, once all of it is there."""
    lines = [line for line in dump.read_text().splitlines() if line.startswith(("totals:", "summary:"))]
    return int(lines[-1].split()[1]) if lines else 0


# -- an instance to ask --------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path) -> Iterator[tuple[dict[str, int], Callable[[], None]]]:
    """The pids of the two processes, and what sends one request and waits for the answer."""
    root = Path(__file__).parents[2]
    paths = [str(INJECTED), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update({"PYTHONPATH": os.pathsep.join(paths), "SERVEKIT_ROAD": str(folder)})
    with serve.init(runtime="process", http_port=0, busy_poll_s=0) as instance:
        instance.create_backend("hello", lambda request: "hello")
        instance.create_endpoint("hello", "/hello", backend="hello")
        status = instance.status()
        (ingress,), (replica,) = status["ingress"], status["backends"]["hello"]["replicas"]
        host, _, port = instance.url.removeprefix("http://").partition(":")
        request = (
            f"GET /hello HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: road\r\nAccept: */*\r\n"
            "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\r\n"
        ).encode()
        with socket.create_connection((host, int(port)), WAIT_S) as connection:

            def ask() -> None:
                connection.sendall(request)
                answer = b""
                while not answer.endswith(b"\r\n\r\nhello"):
                    piece = connection.recv(65536)
                    assert piece, "the connection was closed"
                    answer += piece

            yield {"ingress worker": ingress["pid"], "replica": replica["pid"]}, ask


def until(found: Callable[[], T]) -> T:
    """What ``found`` gives, once it is true."""
    ends = time.monotonic() + WAIT_S
    while not (value := found()):
        if time.monotonic() > ends:
            raise TimeoutError(f"a worker did not answer within {WAIT_S:g} s")
        time.sleep(0.01)
    return value


if __name__ == "__main__":
    sys.exit(main())
