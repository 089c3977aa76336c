"""Standing instances on Ray, and Ray's processes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from benchmarks.faults.handlers import Echo
from instance_tools import Process, Scripts, descendants, pids
from tests.support.waiting import until

import servekit as serve

COMMANDS = {"gcs_server": "/gcs_server ", "raylet": "/raylet ", "keeper": "servekit: Ray keeper of"}


@contextlib.contextmanager
def standing_on_ray(
    scripts: Scripts, options: Mapping[str, Any]
) -> Iterator[tuple[serve.Instance, subprocess.Popen[str]]]:
    """An instance that ``servekit start`` has started, attached to, and that process."""
    command = [sys.executable, "-m", "servekit.cli.main", "start", "--runtime", "ray", "--http-port", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scripts.folder))
        patch.setenv("XDG_STATE_HOME", f"{scripts.folder}/state")
        patch.setenv("SERVEKIT_TESTS_MARK", scripts.mark)
        patch.delenv("RAY_ADDRESS", raising=False)
        command += ["--runtime-options", json.dumps(options)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
            assert keeper.stdout is not None
            assert "answers at http://127.0.0.1:" in keeper.stdout.readline()
            with serve.init(address="auto") as instance:
                yield instance, keeper
            keeper.send_signal(signal.SIGTERM)
            keeper.wait(60)


def controller(keeper: subprocess.Popen[str]) -> Process:
    """The controller's process of a standing instance, once there is one."""
    (process,) = until(lambda: [p for p in descendants(keeper.pid) if "servekit: controller of" in repr(p)])
    return process


def of_ray(processes: list[Process], name: str) -> Process:
    """The one of these processes that is Ray's ``gcs_server`` or ``raylet``, or its keeper."""
    (found,) = [process for process in processes if COMMANDS[name] in repr(process)]
    return found


def serve_echo(instance: serve.Instance, name: str = "echo", pause_s: float = 0.0) -> set[int]:
    """Serve two replicas at ``/NAME``; their pids."""
    config, options = {"num_replicas": 2}, {"num_cpus": 0.1}
    instance.create_backend(name, Echo, pause_s, config=config, ray_actor_options=options)
    instance.create_endpoint(name, f"/{name}", ["GET", "POST"], backend=name)
    return pids(instance, name)
