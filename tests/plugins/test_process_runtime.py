"""The runtime ``process`` with stub workers in place of ``servekit.worker``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.waiting import until

from servekit.errors import BackendStartError
from servekit.interfaces import Exit, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.processes import exit_reason, identify, is_alive
from servekit_process import ProcessRuntime

pytestmark = pytest.mark.processes

STUB = '''
"""Runs the Python code that arrives on stdin."""
import sys
exec(sys.stdin.buffer.read())
'''
SLEEP = b"import time; time.sleep(600)"


class StubRuntime(ProcessRuntime):
    worker_module = "stub_process_worker"


def pid_of(handle: WorkerHandle) -> int:
    return int(msgspec.json.decode(handle.state)["pid"])


@pytest.fixture
def make_runtime(tmp_path: Path) -> Callable[..., StubRuntime]:
    (tmp_path / "stub_process_worker.py").write_text(STUB)

    def make(**env: str) -> StubRuntime:
        runtime = StubRuntime(env={"PYTHONPATH": str(tmp_path), **env})
        runtime.open(RuntimeContext("test", False, str(tmp_path)))
        return runtime

    return make


@pytest.fixture
def start(make_runtime: Callable[..., StubRuntime]) -> Iterator[Callable[..., tuple[StubRuntime, WorkerHandle]]]:
    started: list[tuple[StubRuntime, WorkerHandle]] = []

    def start(code: bytes, runtime: StubRuntime | None = None, **env: str) -> tuple[StubRuntime, WorkerHandle]:
        runtime = runtime or make_runtime(**env)
        handle = runtime.start(WorkerSpec(f"w{len(started)}", "backend", code))
        started.append((runtime, handle))
        return runtime, handle

    yield start
    for runtime, handle in started:
        runtime.stop(handle, 0)


def test_a_worker_gets_its_whole_bootstrap_and_the_environment(start, tmp_path):
    answer = tmp_path / "answer"
    code = (
        b"import os, sys; assert sys.stdin.buffer.read() == b''; assert os.getsid(0) == os.getpid();"
        + f"open({str(answer)!r}, 'w').write(os.environ['FLAVOUR'])#".encode()
        + b"x" * 1_000_000
    )
    runtime, handle = start(code, FLAVOUR="sour")
    assert until(lambda: runtime.poll(handle)) == Exit("exit code 0", 0)
    assert answer.read_text() == "sour"


def test_neither_the_bootstrap_nor_the_token_shows_in_argv_or_environment(start):
    _runtime, handle = start(SLEEP + b"#s3cret")
    pid = pid_of(handle)
    assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("code", "exit"),
    [
        (b"raise SystemExit(3)", Exit("exit code 3", 3)),
        (b"import os; os.kill(os.getpid(), 9)", Exit("killed by SIGKILL", -9)),
        (b"import os, signal; os.kill(os.getpid(), signal.SIGTERM)", Exit("killed by SIGTERM", -15)),
    ],
)
def test_poll_says_how_a_worker_ended_and_leaves_no_zombie(start, code, exit):
    runtime, handle = start(code)
    assert until(lambda: runtime.poll(handle)) == exit
    assert runtime.poll(handle) == exit
    with pytest.raises(ProcessLookupError):
        os.kill(pid_of(handle), 0)


def test_stop_asks_first(start, tmp_path):
    ready, asked = tmp_path / "ready", tmp_path / "asked"
    code = f"""
import pathlib, signal, sys, time
def on_term(*_):
    pathlib.Path({str(asked)!r}).touch()
    sys.exit(7)
signal.signal(signal.SIGTERM, on_term)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    runtime, handle = start(code.encode())
    until(ready.exists)
    assert runtime.poll(handle) is None
    runtime.stop(handle, 20)
    assert asked.exists()
    assert runtime.poll(handle) == Exit("exit code 7", 7)
    runtime.stop(handle, 20)


def test_stop_insists_when_a_worker_does_not_listen(start, tmp_path):
    ready = tmp_path / "ready"
    code = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    runtime, handle = start(code.encode())
    until(ready.exists)
    runtime.stop(handle, 0.1)
    assert runtime.poll(handle) == Exit("killed by SIGKILL", -9)


def test_a_later_controller_attaches_to_polls_and_stops_what_is_not_its_child(make_runtime, tmp_path):
    earlier = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from servekit.interfaces import WorkerSpec\n"
            "from servekit_process import ProcessRuntime\n"
            "ProcessRuntime.worker_module = 'stub_process_worker'\n"
            f"handle = ProcessRuntime().start(WorkerSpec('w9', 'backend', {SLEEP!r}))\n"
            "open(sys.argv[1], 'wb').write(handle.state)\n",
            str(tmp_path / "state"),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert earlier.returncode == 0
    state = (tmp_path / "state").read_bytes()
    runtime = make_runtime()
    handle = runtime.attach(state)
    assert handle.worker_id == "w9"
    assert runtime.poll(handle) is None
    runtime.stop(handle, 20)
    ended = runtime.poll(handle)
    assert ended is not None
    assert ended.code is None
    with pytest.raises(LookupError, match="w9"):
        runtime.attach(state)


def test_a_pid_that_another_process_has_taken_over_is_neither_attached_to_nor_killed(start, make_runtime):
    runtime, handle = start(SLEEP)
    state = msgspec.json.decode(handle.state)
    state["start_ticks"] -= 1
    stale = msgspec.json.encode(state)
    with pytest.raises(LookupError):
        runtime.attach(stale)
    stranger = WorkerHandle("w0", stale)
    assert runtime.poll(stranger) is not None
    runtime.stop(stranger, 0)
    assert runtime.poll(handle) is None


def test_a_zombie_has_ended(start):
    runtime, handle = start(b"")
    attached = WorkerHandle(handle.worker_id, handle.state)
    assert until(lambda: runtime.poll(attached))  # while nobody has reaped it
    with pytest.raises(LookupError):
        runtime.attach(handle.state)


FORKS = """
import os, pathlib, time
child = os.fork()
if child == 0:
    if {leaves}:
        os.setsid()
    pathlib.Path({told!r}).write_text(str(os.getpid()))
    time.sleep(100)
    os._exit(0)
while not pathlib.Path({told!r}).exists():
    time.sleep(0.01)
{ends}
"""
ENDS = {"by itself": "", "killed": "os.kill(os.getpid(), 9)", "stopped": "time.sleep(100)"}


@pytest.mark.parametrize("mine", [True, False], ids=["a child", "attached to"])
@pytest.mark.parametrize("how", ENDS)
def test_what_a_worker_has_started_ends_with_it(start, tmp_path, how, mine):
    told = tmp_path / "told"
    runtime, handle = start(FORKS.format(told=str(told), leaves=False, ends=ENDS[how]).encode())
    child = identify(int(until(lambda: told.exists() and told.read_text())))
    seen = handle if mine else WorkerHandle(handle.worker_id, handle.state)
    if how == "stopped":
        assert runtime.poll(seen) is None
        assert is_alive(child)
        runtime.stop(seen, 20)
    assert until(lambda: runtime.poll(seen))
    until(lambda: not is_alive(child))


def test_what_has_left_the_group_of_the_worker_stays(start, tmp_path):
    told = tmp_path / "told"
    runtime, handle = start(FORKS.format(told=str(told), leaves=True, ends="").encode())
    child = identify(int(until(lambda: told.exists() and told.read_text())))
    assert until(lambda: runtime.poll(handle))
    try:
        assert is_alive(child)
    finally:
        os.kill(child.pid, signal.SIGKILL)


def test_an_interpreter_that_is_not_there_is_named():
    runtime = ProcessRuntime(python="/nowhere/python")
    with pytest.raises(BackendStartError, match="/nowhere/python"):
        runtime.start(WorkerSpec("w0", "backend", b""))


def test_exit_reasons_of_signals_without_a_name():
    assert exit_reason(-(signal.SIGRTMIN + 3)) == f"killed by signal {signal.SIGRTMIN + 3}"
