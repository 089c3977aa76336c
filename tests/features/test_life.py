"""The life of a replica: warm-up, user_config, health checks, its end; on every runtime."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.runtimes import NOT_ON_RAY
from tests.support.waiting import until

from servekit.context import get_context
from servekit.errors import BackendStartError, DeadlineError, InvalidInputError
from servekit.testing.instances import ServedInstance

# Ray has a part in how a replica's process starts and ends, and none in what it does meanwhile.
pytestmark = NOT_ON_RAY


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def backend(serve: ServedInstance, name: str = "b") -> dict[str, Any]:
    found: dict[str, Any] = serve.status()["backends"][name]
    return found


def create(serve: ServedInstance, target: Any, *args: Any, **options: Any) -> None:
    serve.create_backend("b", target, *args, **options)
    serve.create_endpoint("e", "/b", backend="b")


# -- its rank ---------------------------------------------------------------------------------------------------------


def ranked(request: Any) -> dict[str, Any]:
    context = get_context()
    return {context.replica: context.replica_rank}


def test_a_replica_knows_its_rank(serve: ServedInstance) -> None:
    create(serve, ranked, config={"num_replicas": 2})
    ranks = {each["id"]: each["rank"] for each in backend(serve)["replicas"]}
    assert sorted(ranks.values()) == [0, 1]
    seen: dict[str, int] = {}
    until(lambda: seen.update(serve.client.get("/b").json()) or len(seen) == 2)
    assert seen == ranks


# -- warm-up -----------------------------------------------------------------------------------------------------


class Slow:
    """Its ``__init__`` takes until a file is there; a file that says so makes it fail."""

    def __init__(self, gate: str) -> None:
        ends = time.monotonic() + 60
        while not os.path.exists(gate):
            assert time.monotonic() < ends
            time.sleep(0.005)
        if Path(gate).read_text() == "fail":
            raise ValueError("no such model")

    def __call__(self, request: Any) -> str:
        return "warm"


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_long_init_is_waited_for_by_requests_and_not_by_the_caller(serve: ServedInstance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    before = time.time()
    create(serve, Slow, str(gate), wait=False)
    (replica,) = backend(serve)["replicas"]
    assert replica["state"] == "starting"
    assert before - 1 < replica["started"] < time.time() + 1
    assert serve.get_backend_config("b")["max_concurrent_queries"] == 1
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(serve.client.get, "/b")
        until(lambda: backend(serve)["replicas"][0]["pid"])
        gate.write_text("ready")
        assert waiting.result(30).text == "warm"
    (replica,) = backend(serve)["replicas"]
    assert replica["state"] == "ready"


def test_a_request_waits_no_longer_than_its_deadline(serve: ServedInstance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    serve.create_backend("b", Slow, str(gate), wait=False)
    serve.create_endpoint("e", "/b", backend="b", timeout_s=0.1)
    assert serve.client.get("/b").status_code == 504
    gate.write_text("ready")
    until(lambda: serve.client.get("/b").status_code == 200)


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_start_that_fails_shows_in_the_status(serve: ServedInstance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("fail")
    create(serve, Slow, str(gate), wait=False)
    error = until(lambda: backend(serve)["last_start_error"])
    assert "ValueError: no such model" in error
    assert "in __init__" in error
    assert backend(serve)["last_failure"] == error
    gate.write_text("ready")
    assert serve.client.get("/b").text == "warm"


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_an_init_has_its_startup_timeout(serve: ServedInstance, tmp_path: Path) -> None:
    with pytest.raises(DeadlineError, match="startup_timeout_s of 0.2 s"):
        serve.create_backend("b", Slow, str(tmp_path / "gate"), config={"startup_timeout_s": 0.2})
    assert serve.list_backends() == {}
    (tmp_path / "gate").write_text("ready")  # In process, its thread is still in there.
    until(lambda: not any(re.match(r"r\d+-", thread.name) for thread in threading.enumerate()))


# -- user_config -------------------------------------------------------------------------------------------------


class Configured:
    def __init__(self, log: str = "") -> None:
        self.log = log
        self.config: Any = "none"
        self.thread = ""

    def reconfigure(self, user_config: Any) -> None:
        self.thread = threading.current_thread().name
        if user_config == {"threshold": "bad"}:
            raise ValueError("a threshold is a number")
        self.config = user_config
        if self.log:
            with open(self.log, "a") as log:
                print(f"{os.getpid()} {user_config}", file=log)

    def __call__(self, request: Any) -> dict[str, Any]:
        return {"config": self.config, "pid": os.getpid(), "same": self.thread == threading.current_thread().name}


class AsyncConfigured(Configured):
    async def reconfigure(self, user_config: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().reconfigure(user_config)


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize("target", [Configured, pytest.param(AsyncConfigured, marks=NOT_ON_RAY)])
def test_a_user_config_is_there_before_the_first_call_and_changes_without_a_restart(
    serve: ServedInstance, target: type
) -> None:
    create(serve, target, config={"user_config": {"threshold": 1}, "num_replicas": 2})
    first = serve.client.get("/b").json()
    assert first["config"] == {"threshold": 1}
    assert first["same"]
    before = {replica["id"] for replica in backend(serve)["replicas"]}
    serve.update_backend_config("b", {"user_config": {"threshold": 2}})
    assert [serve.client.get("/b").json()["config"] for _ in range(10)] == [{"threshold": 2}] * 10
    assert {replica["id"] for replica in backend(serve)["replicas"]} == before
    assert serve.get_backend_config("b")["user_config"] == {"threshold": 2}
    serve.update_backend_config("b", {"num_replicas": 3})  # One that starts later has it, too.
    assert [serve.client.get("/b").json()["config"] for _ in range(10)] == [{"threshold": 2}] * 10


def test_a_reconfigure_that_raises_is_taken_back(serve: ServedInstance) -> None:
    create(serve, Configured, config={"user_config": {"threshold": 1}, "num_replicas": 2})
    for _ in range(2):
        with pytest.raises(BackendStartError, match="a threshold is a number") as caught:
            serve.update_backend_config("b", {"user_config": {"threshold": "bad"}})
        assert "in reconfigure" in str(caught.value)
        assert serve.get_backend_config("b")["user_config"] == {"threshold": 1}
        assert [serve.client.get("/b").json()["config"] for _ in range(10)] == [{"threshold": 1}] * 10
    serve.update_backend_config("b", {"user_config": {"threshold": 3}})
    assert serve.client.get("/b").json()["config"] == {"threshold": 3}


def test_a_reconfigure_that_raises_at_the_start_fails_the_start(serve: ServedInstance) -> None:
    with pytest.raises(BackendStartError, match="a threshold is a number"):
        serve.create_backend("b", Configured, config={"user_config": {"threshold": "bad"}})
    assert serve.list_backends() == {}


def test_one_that_is_still_starting_gets_the_new_one(serve: ServedInstance, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"

    class Late(Configured):
        def __init__(self) -> None:
            super().__init__(str(log))
            Slow(str(gate))

    create(serve, Late, config={"user_config": 1}, wait=False)
    until(lambda: backend(serve)["replicas"][0]["pid"])
    with ThreadPoolExecutor(1) as threads:
        changing = threads.submit(serve.update_backend_config, "b", {"user_config": 2})
        until(lambda: serve.get_backend_config("b")["user_config"] == 2)
        gate.write_text("ready")
        changing.result(30)
    assert serve.client.get("/b").json()["config"] == 2


def plain(request: Any) -> str:
    return "plain"


class Unconfigured:
    def __call__(self, request: Any) -> str:
        return "same"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (plain, r"is no class: make it a class with a method reconfigure\(user_config\)"),
        (Unconfigured, r"no method reconfigure\(user_config\): add one"),
    ],
)
def test_a_handler_without_reconfigure_is_told_so(serve: ServedInstance, target: Any, said: str) -> None:
    with pytest.raises(BackendStartError, match=said):
        serve.create_backend("b", target, config={"user_config": {}})
    create(serve, target)
    with pytest.raises(BackendStartError, match=said):
        serve.update_backend_config("b", {"user_config": {}})
    assert serve.get_backend_config("b")["user_config"] is None
    assert serve.client.get("/b").status_code == 200


def test_a_user_config_is_plain_data(serve: ServedInstance) -> None:
    with pytest.raises(InvalidInputError, match=r"user_config\['path'\] must be plain data .* not PosixPath"):
        serve.create_backend("b", Configured, config={"user_config": {"path": Path("/")}})
    create(serve, Configured, config={"user_config": {"key": b"\x00\xff", "list": [1, 2.5, None, True]}})
    with pytest.raises(InvalidInputError, match="user_config"):
        serve.update_backend_config("b", {"user_config": {1, 2}})


# -- health ------------------------------------------------------------------------------------------------------


class Ill:
    """Ill as long as a file of its process's own says so: each replica in turn can be made ill."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.id = f"{os.getpid()}-{id(self)}"

    def check_health(self) -> None:
        kind = self.folder / self.id
        if not kind.exists():
            return
        if kind.read_text() == "raise":
            raise RuntimeError("the GPU fell off the bus")
        while kind.exists():
            time.sleep(0.005)

    def __call__(self, request: Any) -> str:
        pause = request.args.get("pause")
        if pause:
            time.sleep(float(pause))
        return self.id


class AsyncIll(Ill):
    async def check_health(self) -> None:  # type: ignore[override]
        kind = self.folder / self.id
        if not kind.exists():
            return
        if kind.read_text() == "raise":
            raise RuntimeError("the GPU fell off the bus")
        await asyncio.sleep(1000)


CHECKS = {"health_check_period_s": 0.1, "health_check_timeout_s": 0.3}


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        pytest.param(Ill, "raise", marks=NOT_ON_RAY),
        (Ill, "hang"),
        pytest.param(AsyncIll, "hang", marks=NOT_ON_RAY),
    ],
)
def test_a_replica_whose_check_fails_is_replaced(
    serve: ServedInstance, tmp_path: Path, target: type, kind: str
) -> None:
    create(serve, target, str(tmp_path), config=CHECKS)
    first = serve.client.get("/b").text
    assert backend(serve)["last_failure"] == ""
    (tmp_path / first).write_text(kind)
    reason = until(lambda: backend(serve)["last_failure"])
    assert "check_health()" in reason
    assert ("the GPU fell off the bus" if kind == "raise" else "health_check_timeout_s, which is 0.3 s") in reason
    assert backend(serve)["last_start_error"] == ""
    until(lambda: [r["state"] for r in backend(serve)["replicas"] if r["state"] != "draining"] == ["ready"])
    assert serve.client.get("/b").text != first
    (tmp_path / first).unlink()
    until(lambda: len(backend(serve)["replicas"]) == 1)


def test_a_long_call_is_no_failed_check(serve: ServedInstance, tmp_path: Path) -> None:
    create(serve, Ill, str(tmp_path), config={"health_check_period_s": 0.1, "health_check_timeout_s": 0.1})
    first = serve.client.get("/b?pause=1.5").text
    assert serve.client.get("/b").text == first
    assert backend(serve)["last_failure"] == ""


# -- hangs -------------------------------------------------------------------------------------------------------


class Stuck(Ill):
    """Its calls hang while the file of its process's own is there."""

    def __call__(self, request: Any) -> str:
        while (self.folder / self.id).exists():
            time.sleep(0.005)
        return self.id


class AsyncStuck(Stuck):
    async def __call__(self, request: Any) -> str:  # type: ignore[override]
        return super().__call__(request)


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize(
    ("target", "slots"),
    [(Stuck, 1), pytest.param(Stuck, 2, marks=NOT_ON_RAY), pytest.param(AsyncStuck, 2, marks=NOT_ON_RAY)],
)
def test_a_replica_that_a_call_holds_beyond_its_deadline_is_replaced(
    serve: ServedInstance, tmp_path: Path, target: type, slots: int
) -> None:
    config = {"hang_grace_s": 0.5, "max_concurrent_queries": slots}
    serve.create_backend("b", target, str(tmp_path), config=config)
    serve.create_endpoint("e", "/b", backend="b", timeout_s=0.5)
    first = until(lambda: (answer := serve.client.get("/b")).status_code == 200 and answer.text)
    (tmp_path / first).touch()
    assert serve.client.get("/b").status_code == 504
    until(lambda: (answer := serve.client.get("/b")).status_code == 200 and answer.text != first)
    assert "hang_grace_s" in backend(serve)["last_failure"]
    until(lambda: len(backend(serve)["replicas"]) == 1)
    (tmp_path / first).unlink()


# -- the end -----------------------------------------------------------------------------------------------------


class Ending:
    """Writes down how it ends."""

    def __init__(self, log: str, fails: bool = False) -> None:
        self.log = log
        self.fails = fails

    def say(self, what: str) -> None:
        with open(self.log, "a") as log:
            print(what, file=log)

    def __call__(self, request: Any) -> str:
        time.sleep(float(request.args.get("pause", 0)))
        self.say("answered")
        return "done"

    def close(self) -> None:
        self.say("closed")
        if self.fails:
            raise RuntimeError("cannot close")

    def __del__(self) -> None:
        self.say("deleted")
        if self.fails:
            raise RuntimeError("cannot be deleted")


class AsyncEnding(Ending):
    async def close(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().close()

    async def __call__(self, request: Any) -> str:  # type: ignore[override]
        return super().__call__(request)


class Threaded(Ending):
    pass


class Cyclic(Ending):
    def __init__(self, log: str) -> None:
        super().__init__(log)
        self.me = self


class Streaming(Ending):
    def __call__(self, request: Any) -> Any:
        def pieces() -> Any:
            yield b"do"
            self.say("answered")
            yield b"ne"

        return pieces()


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("target", "config"),
    [
        (Ending, {}),
        pytest.param(AsyncEnding, {}, marks=NOT_ON_RAY),
        pytest.param(Threaded, {"max_concurrent_queries": 4}, marks=NOT_ON_RAY),
        pytest.param(Cyclic, {}, marks=NOT_ON_RAY),
        pytest.param(Streaming, {}, marks=NOT_ON_RAY),
    ],
)
def test_close_and_del_run_after_the_last_answer(
    serve: ServedInstance, tmp_path: Path, target: type, config: dict[str, Any]
) -> None:
    log = tmp_path / "log"
    create(serve, target, str(log), config=config)
    for _ in range(3):
        assert serve.client.get("/b").text == "done"
    serve.delete_endpoint("e")
    serve.delete_backend("b")
    assert lines(log) == ["answered"] * 3 + ["closed", "deleted"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_end_that_fails_is_only_logged(
    serve: ServedInstance, runtime: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    create(serve, Ending, str(log), True)
    serve.client.get("/b")
    serve.delete_endpoint("e")
    with caplog.at_level(logging.ERROR, "servekit.replica"):
        serve.delete_backend("b")
    assert lines(log) == ["answered", "closed", "deleted"]
    if runtime == "inprocess":
        assert "the handler's close() failed" in caplog.text
        assert "cannot close" in caplog.text


def test_a_scale_down_answers_what_it_has_before_close(serve: ServedInstance, tmp_path: Path) -> None:
    log = tmp_path / "log"
    create(serve, Ending, str(log))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(serve.client.get, "/b?pause=0.3")
        until(lambda: backend(serve)["replicas"][0]["busy_s"] or answer.done())
        serve.delete_endpoint("e")
        serve.delete_backend("b")
        assert answer.result(30).text == "done"
    assert lines(log) == ["answered", "closed", "deleted"]


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_sigterm_is_an_end_like_any_other(serve: ServedInstance, runtime: str, tmp_path: Path) -> None:
    if runtime == "inprocess":
        pytest.skip("its replicas are threads of this process")
    log = tmp_path / "log"
    create(serve, Ending, str(log))
    serve.client.get("/b")
    (replica,) = backend(serve)["replicas"]
    os.kill(replica["pid"], signal.SIGTERM)
    until(lambda: lines(log)[-1] == "deleted")
    assert lines(log) == ["answered", "closed", "deleted"]
    assert serve.client.get("/b").text == "done"


# -- slots -------------------------------------------------------------------------------------------------------


async def coroutine(request: Any) -> str:
    return "async"


@pytest.mark.parametrize(("target", "slots"), [(plain, 1), (coroutine, 100)])
def test_the_config_shows_the_slots_that_replicas_have(serve: ServedInstance, target: Any, slots: int) -> None:
    create(serve, target)
    assert serve.get_backend_config("b")["max_concurrent_queries"] == slots
    assert serve.list_backends()["b"]["config"]["max_concurrent_queries"] == slots
    assert backend(serve)["config"]["max_concurrent_queries"] == slots
    serve.update_backend_config("b", {"max_concurrent_queries": 3})
    assert serve.get_backend_config("b")["max_concurrent_queries"] == 3
