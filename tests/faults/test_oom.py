"""A replica that the kernel kills for want of memory: its end is called that."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.waiting import until

import servekit as serve
from servekit.errors import BackendStartError
from servekit.oom_kills import counter_of

pytestmark = [pytest.mark.processes]

LIMIT_BYTES = 256 * 1024 * 1024


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory cgroup with a limit, within the one that this process is in."""
    counter = counter_of(os.getpid())
    group = counter.parent / f"servekit-test-{os.getpid()}"
    limit = {"memory.events": "memory.max", "memory.oom_control": "memory.limit_in_bytes"}.get(counter.name)
    if limit is None:
        pytest.skip("this machine shows no memory cgroup")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"this machine lets nobody make a memory cgroup: {error}")
    try:
        try:
            (group / limit).write_text(str(LIMIT_BYTES))
        except OSError as error:
            pytest.skip(f"this machine lets nobody limit the memory of a cgroup: {error}")
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


class Hungry:
    """Goes into the cgroup, and takes memory until it is killed."""

    def __init__(self, group: str, at_start: bool) -> None:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
        if at_start:
            time.sleep(3)  # The runtime has looked at the cgroup by then.
            self.eat()

    def eat(self) -> None:
        eaten = []
        while True:
            eaten.append(os.urandom(1024 * 1024))

    def __call__(self, request: Any) -> str:
        if request.args:
            self.eat()
        return str(os.getpid())


def test_a_replica_that_is_killed_for_want_of_memory(small_group: Path) -> None:
    with serve.init(runtime="process", http_port=0) as instance:
        instance.create_backend("b", Hungry, str(small_group), False)
        instance.create_endpoint("b", "/b", backend="b", methods=["GET", "POST"])
        first = httpx.get(f"{instance.url}/b", verify=False).text
        time.sleep(2.5)
        assert httpx.post(f"{instance.url}/b?eat=all", timeout=60, verify=False).status_code == 502
        reason = until(lambda: instance.status()["backends"]["b"]["last_failure"])
        assert "killed by the kernel's OOM killer" in reason
        assert str(small_group) in reason
        # Killed by somebody, it is not called that.
        second = until(lambda: httpx.get(f"{instance.url}/b", timeout=60, verify=False).text)
        assert second != first
        os.kill(int(second), 9)
        until(lambda: instance.status()["backends"]["b"]["last_failure"] != reason)
        assert instance.status()["backends"]["b"]["last_failure"].endswith("ended: killed by SIGKILL")

        with pytest.raises(BackendStartError, match="ended before it was ready: killed by the kernel's OOM killer"):
            instance.create_backend("at_start", Hungry, str(small_group), True)
