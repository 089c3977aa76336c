"""Calls that hang, in real replicas: the replica is replaced, and nobody else loses anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from instance_tools import empty
from tests.support.waiting import until

import servekit as serve
from servekit import inprocess
from servekit.plugins import discover

pytestmark = [pytest.mark.processes]

GRACE = {"hang_grace_s": 0.5}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes of the instance print to standard error."""
    return tmp_path_factory.mktemp("log") / "stderr"


@pytest.fixture(scope="module")
def instance(log: Path) -> Iterator[serve.Instance]:
    own = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        instance = serve.init(runtime="process", http_port=0)
    finally:
        os.dup2(own, 2)
        os.close(own)
    with instance:
        yield instance


@pytest.fixture
def serving(instance: serve.Instance) -> Iterator[serve.Instance]:
    yield instance
    empty(instance)


@pytest.fixture
def client(instance: serve.Instance) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=instance.url, timeout=60, verify=False) as client:
        yield client


class Hanging:
    """Does what ``?do=`` says; other calls answer with the replica's pid."""

    def do(self, how: str) -> None:
        if how == "sleep":
            time.sleep(1000)
        elif how == "lock":
            (lock := threading.Lock()).acquire()
            lock.acquire()  # C code waits here, and takes no signal.
        elif how == "regex":
            re.match(r"(a+)+$", "a" * 200 + "b")  # Holds the GIL.

    def __call__(self, request: Any) -> str:
        self.do(request.args.get("do", ""))
        return str(os.getpid())


class AsyncHanging(Hanging):
    async def __call__(self, request: Any) -> str:  # type: ignore[override]
        how = request.args.get("do", "")
        while how == "never":
            with contextlib.suppress(asyncio.CancelledError):
                await self.waits_for_ever()
        self.do(how)
        await asyncio.sleep(float(request.args.get("pause", 0)))
        return str(os.getpid())

    async def waits_for_ever(self) -> None:
        await asyncio.sleep(1000)


class BatchHanging(Hanging):
    @serve.accept_batch
    def __call__(self, requests: list[Any]) -> list[str]:  # type: ignore[override]
        for request in requests:
            self.do(request.args.get("do", ""))
        return [str(os.getpid())] * len(requests)


class IllHanging:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def check_health(self) -> None:
        while (self.folder / str(os.getpid())).exists():
            time.sleep(0.01)

    def __call__(self, request: Any) -> str:
        return str(os.getpid())


def create(instance: serve.Instance, target: Any, *args: Any, timeout_s: float = 0.5, **config: Any) -> None:
    instance.create_backend("b", target, *args, config={**GRACE, **config})
    # The one that hangs has a short deadline, all others have a long one.
    instance.create_endpoint("hang", "/hang", backend="b", timeout_s=timeout_s)
    instance.create_endpoint("b", "/b", backend="b", methods=["GET", "POST"])


def replicas(instance: serve.Instance) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = instance.status()["backends"]["b"]["replicas"]
    return found


def pids(instance: serve.Instance) -> set[int]:
    return {replica["pid"] for replica in replicas(instance) if replica["state"] == "ready"}


@pytest.mark.parametrize(
    ("target", "how", "config"),
    [
        (Hanging, "lock", {}),
        (Hanging, "regex", {}),
        (Hanging, "lock", {"max_concurrent_queries": 2}),
        (AsyncHanging, "sleep", {}),
        (AsyncHanging, "never", {}),
        (BatchHanging, "lock", {"max_batch_size": 4}),
    ],
)
def test_a_replica_in_which_a_call_hangs_is_replaced(
    serving: serve.Instance,
    client: httpx.Client,
    log: Path,
    target: Any,
    how: str,
    config: dict[str, Any],
) -> None:
    create(serving, target, **config)
    (first,) = pids(serving)
    (replica,) = replicas(serving)
    told_before = len(log.read_text())
    assert client.get(f"/hang?do={how}").status_code == 504
    until(lambda: pids(serving) and pids(serving) != {first})
    assert client.get("/b").text != str(first)
    until(lambda: len(replicas(serving)) == 1)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert "hang_grace_s" in serving.status()["backends"]["b"]["last_failure"]
    told = serving.events(backend="b", kind="replica_replaced")
    assert [event["replica"] for event in told if "hang_grace_s" in event["text"]][-1] == replica["id"]
    if how == "regex":
        return  # The GIL is held: no Python code could write the stacks.
    logged = log.read_text()[told_before:]
    assert "beyond its deadline: GET /hang of endpoint 'hang'" in logged
    assert ("in waits_for_ever" if how == "never" else "in do\n") in logged.partition("beyond its")[2]
    assert "(most recent call first)" in logged


@pytest.mark.parametrize("target", [Hanging, AsyncHanging])
def test_what_waits_behind_a_call_that_hangs_is_answered_elsewhere(
    serving: serve.Instance, client: httpx.Client, target: Any
) -> None:
    """POSTs that were sent to the replica and not begun: the replica's main thread, which reads them, hangs."""
    create(serving, target, num_replicas=2)
    for _ in range(200):  # Fast answers make wide windows.
        client.post("/b")
    before = pids(serving)
    hanging = threading.Thread(target=lambda: httpx.get(f"{serving.url}/hang?do=sleep", verify=False))
    hanging.start()
    until(lambda: any(replica["outstanding"] for replica in replicas(serving)))

    def post(_: int) -> httpx.Response:
        return httpx.post(f"{serving.url}/b", timeout=60, verify=False)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(64)))
    hanging.join()
    assert [answer.status_code for answer in answers] == [200] * 64
    until(lambda: len(pids(serving)) == 2 and pids(serving) != before)
    assert len(before & pids(serving)) == 1


def test_other_calls_in_the_replica_end(serving: serve.Instance, client: httpx.Client) -> None:
    create(serving, AsyncHanging)
    (first,) = pids(serving)
    with ThreadPoolExecutor(10) as pool:
        others = [pool.submit(httpx.post, f"{serving.url}/b?pause=4", timeout=60, verify=False) for _ in range(10)]
        until(lambda: replicas(serving)[0]["outstanding"] == 10)
        assert client.get("/hang?do=never").status_code == 504
        assert {other.result().text for other in others} == {str(first)}
    until(lambda: len(replicas(serving)) == 1 and pids(serving) != {first})


def test_a_check_that_hangs_gives_back_what_waits(
    serving: serve.Instance, client: httpx.Client, tmp_path: Path
) -> None:
    create(serving, IllHanging, str(tmp_path), health_check_period_s=0.1, health_check_timeout_s=0.5)
    first = client.get("/b").text
    (tmp_path / first).touch()
    time.sleep(0.2)  # The check has begun: what comes now waits behind it.
    answer = client.post("/b")
    assert (answer.status_code, answer.text == first) == (200, False)
    assert "check_health()" in serving.status()["backends"]["b"]["last_failure"]


def test_streams_and_calls_within_their_deadlines_are_left_alone(serving: serve.Instance, client: httpx.Client) -> None:
    def stream(request: Any) -> Iterator[str]:
        yield "a"
        time.sleep(3)
        yield "b"

    serving.create_backend("b", stream, config=GRACE)
    serving.create_endpoint("b", "/b", backend="b", timeout_s=0.5)
    assert client.get("/b").text == "ab"
    assert serving.status()["backends"]["b"]["last_failure"] == ""


@pytest.mark.long
def test_one_replica_at_a_time(serving: serve.Instance, client: httpx.Client) -> None:
    """All hang, and the replacements take a while: never are two replaced at once."""

    class Slow(Hanging):
        def __init__(self) -> None:
            time.sleep(1.0)

    create(serving, Slow, num_replicas=3)
    first = pids(serving)
    with ThreadPoolExecutor() as pool:
        for _ in range(12):  # More than three, for they are not dealt out evenly.
            pool.submit(httpx.get, f"{serving.url}/hang?do=sleep", timeout=60, verify=False)

    def seen() -> bool:
        states = [replica["state"] for replica in replicas(serving)]
        assert states.count("ready") >= 2
        return not pids(serving) & first and states == ["ready"] * 3

    until(seen)


@pytest.mark.long
def test_none_switches_it_off(serving: serve.Instance, client: httpx.Client) -> None:
    create(serving, AsyncHanging, hang_grace_s=None, drain_timeout_s=0.5)
    first = pids(serving)
    assert client.get("/hang?do=never").status_code == 504
    until(lambda: replicas(serving)[0]["busy_s"] > 3)
    assert pids(serving) == first


def test_debug_switches_it_off() -> None:
    gate = threading.Event()
    with inprocess.InProcessInstance(discover(), debug=True) as instance:
        instance.create_backend("b", lambda request: str(gate.wait(60)), config={**GRACE, "drain_timeout_s": 0.5})
        instance.create_endpoint("b", "/b", backend="b", timeout_s=0.5)
        (first,) = replicas(instance)
        with httpx.Client(transport=httpx.HTTPTransport(uds=instance.http_socket), base_url="http://b") as client:
            assert client.get("/b").status_code == 504
        until(lambda: replicas(instance)[0]["busy_s"] > 3)
        assert [replica["id"] for replica in replicas(instance)] == [first["id"]]
        gate.set()
