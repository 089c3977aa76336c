"""The titles of servekit's processes, as `ps` shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from instance_tools import descendants, fresh_get, parent

import servekit as serve

pytestmark = pytest.mark.processes


def titles(request: Any) -> str:
    """The title of a child of the handler's, and what is left of the environment for it."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, Path("/proc/self/cmdline").read_bytes().strip(b"\0"))
        os._exit(0)
    os.wait()
    os.close(writing)
    with open(reading) as pipe:
        return f"{pipe.read()}; {'SPT_NOENV' in os.environ}"


def test_each_process_has_a_title_and_its_environment_can_be_read(serving: serve.Instance, runtime: str) -> None:
    serving.create_backend("titled", titles)
    serving.create_endpoint("titled", "/titled", backend="titled")
    status = serving.status()
    (replica,) = status["backends"]["titled"]["replicas"]
    ingress = status["ingress"][0]["pid"]
    expected = {
        replica["pid"]: f"replica titled {replica['id']}",
        ingress: "ingress 1 of default",
        parent(ingress): "controller of default",
    }
    for pid, role in expected.items():
        assert Path(f"/proc/{pid}/cmdline").read_text().strip("\0 ") == f"servekit: {role}"
        assert b"\0PATH=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    if runtime == "ray":  # There a child keeps the title that its parent has of Ray's.
        assert any("servekit: Ray agent of default-" in repr(each) for each in descendants(parent(ingress)))
        return
    assert fresh_get(serving.url + "/titled").text == f"servekit: child of replica titled {replica['id']}; False"
