"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.report import Report
from benchmarks.servers import Peer
from benchmarks.venvs import InstallError, python_for, versions

SHOWN = ("ray", "mosec", "litserve", "bentoml", "gunicorn", "granian", "flask", "uvicorn", "uvloop", "servekit")


def describe(wrk: str) -> dict[str, str]:
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "CPUs": f"{len(os.sched_getaffinity(0))} of {model[1] if model else platform.machine()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "load generator": wrk,
    }


def version_of(peer: Peer, python: str) -> str:
    """The versions of a peer and of what it stands on."""
    if python == sys.executable:
        done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, timeout=10, check=False)
        return done.stderr.strip().rpartition("/")[2]
    installed = versions(python)
    return ", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed)


def install(peers: Mapping[str, Peer], cache: Path, report: Report) -> dict[str, str]:
    """The Python of each peer that could be installed, by name. ``report`` gets the versions, and the failures."""
    pythons = {}
    for name, peer in peers.items():
        try:
            pythons[name] = python_for(peer, cache)
            report.versions[name.partition(" ")[0]] = version_of(peer, pythons[name])
        except (InstallError, OSError) as error:
            report.missing[name] = str(error)
    return pythons


class OtherWork:
    """How busy this machine was with other things: figures taken beside other work are worth little."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = self._others_s()

    def __str__(self) -> str:
        return f"{100 * max(self.cores(), 0):.0f} % of a core, on the average"

    def cores(self) -> float:
        """How many cores it took since this was made, on the average."""
        return (self._others_s() - self._before) / (time.monotonic() - self._began)

    def _others_s(self) -> float:
        """CPU time of all processes (proc(5): user to softirq, but idle and iowait), less that of our descendants."""
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:8]]
        busy = sum(fields) - fields[3] - fields[4]
        own = os.times()
        return busy / os.sysconf("SC_CLK_TCK") - own.user - own.system - own.children_user - own.children_system
