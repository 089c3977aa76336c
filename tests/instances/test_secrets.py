"""What servekit's processes leave open for theirs: a child of a handler is to find neither a secret nor a socket."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import servekit as serve

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]

CLOSED_IN_CHILDREN = 0o2000000
"""O_CLOEXEC, as ``/proc/PID/fdinfo`` has it (proc_pid_fdinfo(5))."""
LOOK = "import os, sys; print(sys.stdin.read(), sorted(os.listdir('/proc/self/fd')))"


def look(request: object) -> str:
    """What a child finds that inherits whatever it can."""
    command = [sys.executable, "-c", LOOK]
    return subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True).stdout


def processes(instance: serve.Instance, backend: str) -> dict[str, int]:
    status = instance.status()
    (replica,) = status["backends"][backend]["replicas"]
    (ingress, *_) = status["ingress"]
    stat = Path(f"/proc/{ingress['pid']}/stat").read_text().rpartition(")")[2].split()
    return {"replica": replica["pid"], "ingress": ingress["pid"], "controller": int(stat[1])}


def test_no_process_hands_its_descriptors_on(serving: serve.Instance, client: httpx.Client) -> None:
    serving.create_backend("look", look)
    serving.create_endpoint("look", "/look", backend="look")
    # 0 to 2, what listed the folder, and nothing to read.
    assert client.get("/look").text.strip() == "['0', '1', '2', '3']"
    for name, pid in processes(serving, "look").items():
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull, name
        for descriptor in (each for each in os.listdir(f"/proc/{pid}/fd") if int(each) > 2):
            try:
                what = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                lines = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines()
            except FileNotFoundError:
                continue  # It was closed meanwhile.
            (flags,) = [int(line.split()[1], 8) for line in lines if line.startswith("flags:")]
            assert flags & CLOSED_IN_CHILDREN, f"{name} hands on {descriptor}, {what}"
