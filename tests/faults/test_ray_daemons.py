"""Ray's own processes are killed, one at a time, under load: what has a process goes on serving, and all comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.faults.load import Load
from instance_tools import Scripts, descendants, end_all, marked, parent, pids
from ray_tools import of_ray, serve_echo, standing_on_ray
from tests.support.waiting import until

import servekit as serve

pytestmark = [pytest.mark.processes, pytest.mark.ray]

BACK_TIMEOUT_S = 90.0
"""For Ray to start again, and replicas on it: 10 s, and more on a busy machine."""
GIVES_UP_S = 50.0
"""Where others came within this, no replica has ended: a raylet goes on without a GCS for 60 s."""
LOCAL = {"address": "local", "ray_init": {"num_cpus": 2, "num_gpus": 0}}


@pytest.fixture
def local(scripts: Scripts, request: pytest.FixtureRequest) -> Iterator[serve.Instance]:
    """An instance that has started a Ray of its own; the parameter says of which kind."""
    if request.param == "standing":
        with standing_on_ray(scripts, LOCAL) as (instance, _):
            yield instance
    else:
        with serve.init(runtime="ray", runtime_options=LOCAL, http_port=0) as instance:
            yield instance


def others(instance: serve.Instance, before: set[int]) -> Callable[[], bool]:
    """Whether both replicas are others."""

    def found() -> bool:
        now = pids(instance, "echo")
        return len(now) == 2 and not now & before

    return found


@pytest.mark.parametrize(
    ("local", "name"),
    [
        ("owned", "gcs_server"),
        ("standing", "raylet"),
        pytest.param("owned", "keeper", marks=pytest.mark.long),
        pytest.param("standing", "gcs_server", marks=pytest.mark.long),
    ],
    indirect=["local"],
)
def test_a_local_ray_is_started_again(local: serve.Instance, name: str, request: pytest.FixtureRequest) -> None:
    before = serve_echo(local)
    # Of a standing instance too, the controller is what has started the ingress worker and the keeper.
    controller = parent(local.status()["ingress"][0]["pid"])
    (line,) = local.status()["runtimes"]
    with Load(local.url, gets=8, posts=2) as load:
        killed_at = time.monotonic()
        os.kill(of_ray(descendants(controller), name).pid, signal.SIGKILL)
        until(lambda: "being started again" in local.status()["runtimes"][0])
        if name == "gcs_server":
            assert {one.by for one in load.more() if not one.kind} <= before
        until(others(local, before), BACK_TIMEOUT_S)
        came_back_s = time.monotonic() - killed_at
        load.more()
    (now,) = local.status()["runtimes"]
    assert now.startswith("runtime ray: a local Ray of this instance's own, at ")
    assert now != line
    assert ";" not in now
    # Replicas end with their raylet, one after another, and with each the POSTs that were inside. A GET is sent once
    # more, and lost where both end at once.
    served_on = name == "gcs_server" and came_back_s < GIVES_UP_S
    assert load.counts.failed.total() <= (0 if served_on else 2 * len(before)), str(load.counts)
    processes = descendants(controller)
    local.shutdown()
    if request.node.callspec.params["local"] == "owned":
        until(lambda: not [process for process in processes if process.is_there])


def start_head(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """``ray start --head``, which ends with its GCS. Where it has recorded a Ray, nobody else looks."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--num-gpus=0", "--include-dashboard=false"]
    command += ["--disable-usage-stats", "--object-store-memory=100000000"]
    environ = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled"}
    with (folder / "head.log").open("wb") as output:
        return subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


@pytest.mark.long
def test_a_cluster_that_has_ended_is_waited_for_and_used_again(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as undo:
        undo.callback(lambda: end_all(marked(f"RAY_TMPDIR={scripts.folder}")))

        def up() -> subprocess.Popen[bytes]:
            head = start_head(scripts.folder, int(address.rpartition(":")[2]))
            undo.callback(head.wait, 60)
            undo.callback(head.kill)
            until(lambda: b"Ray runtime started" in (scripts.folder / "head.log").read_bytes(), BACK_TIMEOUT_S)
            return head

        head = up()
        instance = serve.init(runtime="ray", runtime_options={"address": address}, http_port=0)
        undo.callback(instance.shutdown)
        before = serve_echo(instance)
        with Load(instance.url, gets=8, posts=2) as load:
            os.kill(of_ray(descendants(head.pid), "gcs_server").pid, signal.SIGKILL)
            head.wait(60)
            until(lambda: f"no Ray cluster answers at {address}" in instance.status()["runtimes"][0])
            end_all(marked(f"RAY_TMPDIR={scripts.folder}"))
            up()
            until(others(instance, before), BACK_TIMEOUT_S)
            load.more()
        (now,) = instance.status()["runtimes"]
        assert now == f"runtime ray: the Ray cluster at {address}, which runtime_options name"
        assert load.counts.failed.total() <= 2 * len(before), str(load.counts)
