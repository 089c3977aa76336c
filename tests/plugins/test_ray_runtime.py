"""The runtime ``ray`` on one local Ray, with a stub in place of ``servekit.worker``."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.waiting import until

from servekit.errors import (
    BackendStartError,
    InstanceStartError,
    InvalidInputError,
    MissingDependencyError,
    ResourcesUnavailableError,
)
from servekit.interfaces import Exit, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.processes import ProcessIdentity, identify, is_alive
from servekit_ray import RayRuntime, agent, cluster, resources
from servekit_ray.cluster import Choice
from servekit_ray.driver import DriverRay
from servekit_ray.runtime import exit_of

STUB = '''
"""Runs the Python code that is its bootstrap."""
def run(bootstrap):
    exec(bootstrap, {})
'''
SLEEP = b"import time; time.sleep(600)"
DRIVER = """
import contextlib, json, os, sys, threading
from servekit.errors import InstanceStartError
from servekit.interfaces import RuntimeContext, WorkerSpec
from servekit_ray import RayRuntime, asks
RayRuntime.worker_module = 'stub_ray_worker'

def opened(instance, standing, directory, **options):
    runtime = RayRuntime(**options)
    # As in a controller: not on the main thread, and that thread does not stay.
    thread = threading.Thread(target=runtime.open, args=(RuntimeContext(instance, standing, directory),))
    thread.start()
    thread.join()
    return runtime

def tell(**what):
    print('TOLD' + json.dumps(what), flush=True)
"""


class StubRuntime(RayRuntime):
    worker_module = "stub_ray_worker"


def state_of(handle: WorkerHandle) -> dict[str, Any]:
    return dict(msgspec.json.decode(handle.state)["place"])


def descendants(pid: int) -> list[ProcessIdentity]:
    """Every process below ``pid``."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[ProcessIdentity] = []
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            if identity := identify(child):
                found.append(identity)
                todo.append(child)
    return found


# -- decisions: no Ray needed -----------------------------------------------------------------------


def test_the_plugin_does_not_import_ray():
    subprocess.run(
        [sys.executable, "-c", "import sys, servekit_ray; assert 'ray' not in sys.modules"], check=True, timeout=60
    )


def test_an_actor_that_nobody_tells_to_run_ends():
    code = (
        "import time; from servekit_ray import actor; actor.TOLD_TIMEOUT_S = 0.1; actor.WorkerHost(''); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 1


def test_without_ray_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'servekit\[ray\]'"):
        RayRuntime().open(RuntimeContext("i", False, str(tmp_path)))


def test_links_is_one_of_two():
    with pytest.raises(InvalidInputError, match="udp"):
        RayRuntime(links="udp")  # type: ignore[arg-type]


class TestChoose:
    """10.0.0.1 is what `ray start` recorded."""

    DRIVER = DriverRay("10.0.0.9:6379", False, [])

    @pytest.fixture(autouse=True)
    def answering(self, monkeypatch):
        answering = {"10.0.0.1:6379", "10.0.0.2:6379"}
        monkeypatch.setattr(cluster, "answers", answering.__contains__)
        return answering

    @pytest.fixture
    def record(self, tmp_path):
        (tmp_path / "ray").mkdir()
        record = tmp_path / "ray" / "ray_current_cluster"
        record.write_text("10.0.0.1:6379\n")
        return record

    @pytest.fixture
    def environ(self, record):
        return {"RAY_TMPDIR": str(record.parents[1])}

    def test_a_local_ray_whatever_is_recorded(self, environ):
        for asked in (None, "", "local"):
            choice = cluster.choose(asked, None, environ)
            assert choice == Choice(None, "a local Ray of this instance's own, at")

    def test_auto_is_the_recorded_cluster(self, environ):
        choice = cluster.choose("auto", None, environ)
        assert choice == Choice(
            "10.0.0.1:6379", "the Ray cluster at 10.0.0.1:6379, which ray start recorded on this machine"
        )

    def test_auto_does_not_take_a_recorded_cluster_that_is_dead(self, environ, answering):
        answering.clear()
        with pytest.raises(InstanceStartError, match=r"answers at 10.0.0.1:6379, which ray start recorded"):
            cluster.choose("auto", None, environ)

    @pytest.mark.parametrize("content", ["", None])
    def test_auto_where_nothing_is_recorded(self, environ, record, content):
        record.unlink() if content is None else record.write_text(content)
        with pytest.raises(InstanceStartError, match=r"ray_current_cluster names no Ray cluster"):
            cluster.choose("auto", None, environ)

    def test_ray_address(self, environ):
        environ["RAY_ADDRESS"] = "10.0.0.2:6379"
        for asked in (None, "auto"):
            choice = cluster.choose(asked, None, environ)
            assert choice == Choice("10.0.0.2:6379", "the Ray cluster at 10.0.0.2:6379, which RAY_ADDRESS names")
        assert cluster.choose("local", None, environ).address is None
        assert cluster.choose("10.0.0.1:6379", None, environ).address == "10.0.0.1:6379"
        environ["RAY_ADDRESS"] = "local"
        assert cluster.choose(None, None, environ).address is None
        environ["RAY_ADDRESS"] = "auto"
        assert cluster.choose(None, None, environ).address == "10.0.0.1:6379"

    def test_the_drivers_ray_comes_before_the_environment_and_behind_an_option(self, environ):
        environ["RAY_ADDRESS"] = "10.0.0.2:6379"
        choice = cluster.choose(None, self.DRIVER, environ)
        assert choice == Choice("10.0.0.9:6379", "the Ray of the calling process, at 10.0.0.9:6379", self.DRIVER)
        assert cluster.choose("10.0.0.1:6379", self.DRIVER, environ).address == "10.0.0.1:6379"
        assert cluster.choose("local", self.DRIVER, environ).address is None

    def test_a_named_cluster_must_answer(self, environ):
        with pytest.raises(InstanceStartError, match=r"answers at 10.0.0.3:6379, which runtime_options name"):
            cluster.choose("10.0.0.3:6379", None, environ)
        environ["RAY_ADDRESS"] = "10.0.0.4:6379"
        with pytest.raises(InstanceStartError, match=r"answers at 10.0.0.4:6379, which RAY_ADDRESS names"):
            cluster.choose(None, None, environ)

    def test_the_ray_client_is_refused(self, environ):
        with pytest.raises(InvalidInputError, match="ray://head:10001"):
            cluster.choose("ray://head:10001", None, environ)


def test_an_address_without_a_port_is_refused():
    with pytest.raises(InvalidInputError, match="head"):
        cluster.choose("head", None, {})


def test_a_driver_that_is_connected_by_the_ray_client_is_told_what_to_do(monkeypatch):
    client = types.SimpleNamespace(ray=types.SimpleNamespace(is_connected=lambda: True))
    monkeypatch.setitem(sys.modules, "ray.util.client", client)
    with pytest.raises(InvalidInputError, match=r"Ray client \(ray://\).*ray.init\(address='auto'\)"):
        RayRuntime.complete_options({}, outlives=False)
    assert RayRuntime.complete_options({"address": "local"}, outlives=False) == {"address": "local"}


def test_a_ray_that_the_process_has_started_is_not_for_an_instance_that_outlives_it(monkeypatch):
    context = types.SimpleNamespace(gcs_address="10.0.0.9:6379")
    ray = types.SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("servekit_ray.driver.vital_children", lambda: [os.getpid()])
    with pytest.raises(InvalidInputError, match="ends with it, and the instance does not"):
        RayRuntime.complete_options({}, outlives=True)
    found = RayRuntime.complete_options({}, outlives=False)["driver_ray"]
    assert DriverRay.of(found).processes == [identify(os.getpid())]


def test_what_is_for_init_to_fill_in_is_checked():
    with pytest.raises(InvalidInputError, match="give address"):
        RayRuntime(driver_ray={"address": 1})


class TestResources:
    @pytest.mark.parametrize(
        ("options", "needs"),
        [
            ({}, {"CPU": 1}),
            ({"num_cpus": 0}, {}),
            ({"num_cpus": 2, "num_gpus": 0.5}, {"CPU": 2, "GPU": 0.5}),
            ({"num_gpus": 1}, {"CPU": 1, "GPU": 1}),
            ({"memory": 5, "resources": {"disk": 3}}, {"CPU": 1, "memory": 5, "disk": 3}),
            ({"accelerator_type": "T4", "num_cpus": None}, {"CPU": 1, "accelerator_type:T4": 0.001}),
        ],
    )
    def test_demand(self, options, needs):
        assert resources.demand(options) == needs

    def test_fits(self):
        assert resources.fits({"num_gpus": 1}, {"CPU": 1, "GPU": 1})
        assert not resources.fits({"num_gpus": 2}, {"CPU": 1, "GPU": 1})

    def test_describe(self):
        assert resources.describe({"CPU": 2.0, "memory": 1.5 * 2**30, "node:10.0.0.1": 1.0}) == "2 CPU, 1.5 GiB memory"
        assert resources.describe({}) == "nothing"

    def test_only_slow_set_ups_get_more_time(self):
        assert resources.setup_allowance_s({"runtime_env": {"env_vars": {}}}) == 0
        assert resources.setup_allowance_s({"runtime_env": {"pip": ["x"]}}) == 600
        slow = {"runtime_env": {"pip": ["x"], "config": {"setup_timeout_seconds": 7}}}
        assert resources.setup_allowance_s(slow) == 7


@pytest.mark.parametrize(
    ("message", "exit"),
    [
        ("Worker exit detail: Worker exits unexpectedly. Worker exits with an exit code 3.", Exit("exit code 3", 3)),
        ("The actor is dead because it was killed by `ray.kill`.", Exit("killed by ray.kill")),
        ("The actor is dead because its node has died. Node Id: 12", Exit("its node has died. Node Id: 12")),
        ("something new", Exit("something new")),
    ],
)
def test_exit_of(message, exit):
    assert exit_of(message) == exit


# -- one local Ray for the rest -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def stub_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the stub worker, where Ray's processes find it too."""
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub_ray_worker.py").write_text(STUB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder


@pytest.fixture(scope="module")
def runtime(stub_path, tmp_path_factory) -> Iterator[StubRuntime]:
    pytest.importorskip("ray")
    runtime = StubRuntime(address="local", ray_init={"num_cpus": 2, "num_gpus": 0, "resources": {"slot": 1}})
    runtime.open(RuntimeContext("tests", False, str(tmp_path_factory.mktemp("instance"))))
    yield runtime
    runtime.close()


@pytest.fixture(scope="module")
def address(runtime) -> str:
    return runtime.describe().rpartition(" ")[2]


@pytest.fixture
def start(runtime, request) -> Iterator[Callable[..., WorkerHandle]]:
    started: list[WorkerHandle] = []
    numbers = itertools.count()

    def start(code: bytes, **options: Any) -> WorkerHandle:
        spec = WorkerSpec(f"{request.node.name}-{next(numbers)}", "model", code, options)
        started.append(runtime.start(spec))
        return started[-1]

    yield start
    for handle in started:
        runtime.stop(handle, 0)


@pytest.fixture
def drive(stub_path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], dict[str, Any]]]]:
    """Run code in a process of its own, as a controller is one; until it has told something."""
    started: list[subprocess.Popen[str]] = []

    def drive(code: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        driver = subprocess.Popen([sys.executable, "-c", DRIVER + code], stdout=subprocess.PIPE, text=True)
        started.append(driver)
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith("TOLD"):
                return driver, json.loads(line.removeprefix("TOLD"))
        raise AssertionError(f"the driver ended with {driver.wait(60)} and told nothing")

    yield drive
    for driver in started:
        driver.kill()
        driver.wait(60)
        assert driver.stdout is not None
        driver.stdout.close()


@pytest.mark.ray
class TestWorkers:
    def test_a_worker_runs_on_the_main_thread_of_its_own_process(self, start, runtime, tmp_path):
        answer = tmp_path / "answer"
        code = (
            "import os, pathlib, threading\n"
            "assert threading.current_thread() is threading.main_thread()\n"
            f"pathlib.Path({str(answer)!r}).write_text(str(os.getpid()))\n"
        )
        handle = start(code.encode())
        assert until(lambda: runtime.poll(handle)) == Exit("exit code 0", 0)
        assert int(answer.read_text()) == state_of(handle)["pid"] != os.getpid()

    def test_an_exception_ends_the_process_with_exit_code_1(self, start, runtime):
        handle = start(b"1/0")
        assert until(lambda: runtime.poll(handle)) == Exit("exit code 1", 1)
        until(lambda: identify(state_of(handle)["pid"]) is None)

    def test_an_exit_code_is_told(self, start, runtime):
        handle = start(b"raise SystemExit(3)")
        assert until(lambda: runtime.poll(handle)) == Exit("exit code 3", 3)
        assert runtime.poll(handle) == Exit("exit code 3", 3)

    def test_a_killed_process_is_seen_to_be_gone(self, start, runtime):
        handle = start(SLEEP)
        assert runtime.poll(handle) is None
        os.kill(state_of(handle)["pid"], signal.SIGKILL)
        ended = until(lambda: runtime.poll(handle))
        assert "killed or crashed" in ended.reason

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    def test_what_a_worker_forked_neither_hides_its_end_nor_outlives_it(self, start, runtime, tmp_path, how):
        """The child has copies of the sockets by whose end Ray knows of an end."""
        told = tmp_path / "told"
        handle = start(
            "import os, pathlib, time\n"
            "child = os.fork()\n"
            "if child:\n"
            f"    pathlib.Path({str(told)!r}).write_text(str(child))\n"
            "time.sleep(100)\n"
            "os._exit(0)\n".encode()
        )
        child = identify(int(until(lambda: told.exists() and told.read_text())))
        assert child is not None
        if how == "killed":
            os.kill(state_of(handle)["pid"], signal.SIGKILL)
            until(lambda: runtime.poll(handle))
        else:
            runtime.stop(handle, 1)
            assert runtime.poll(handle) is not None
        until(lambda: not is_alive(child))

    def test_stop_asks_first(self, start, runtime, tmp_path):
        ready, asked = tmp_path / "ready", tmp_path / "asked"
        code = f"""
import pathlib, signal, sys, time
def on_term(*_):
    pathlib.Path({str(asked)!r}).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, on_term)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
        handle = start(code.encode())
        until(ready.exists)
        runtime.stop(handle, 30)
        assert asked.exists()
        assert runtime.poll(handle) == Exit("exit code 0", 0)
        runtime.stop(handle, 30)

    def test_stop_insists_when_a_worker_does_not_listen(self, start, runtime, tmp_path):
        ready = tmp_path / "ready"
        code = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
        handle = start(code.encode())
        until(ready.exists)
        runtime.stop(handle, 0.1)
        assert runtime.poll(handle) == Exit("killed by ray.kill")
        until(lambda: identify(state_of(handle)["pid"]) is None)

    def test_a_strange_handle_is_refused(self, start, runtime):
        handle = start(SLEEP)
        with pytest.raises(TypeError, match="neither start nor attach"):
            runtime.poll(WorkerHandle(handle.worker_id, handle.state))

    def test_workers_that_are_gone_cannot_be_attached_to(self, start, runtime):
        handle = start(b"")
        until(lambda: runtime.poll(handle))
        with pytest.raises(LookupError, match=handle.worker_id):
            runtime.attach(handle.state)

    def test_a_worker_runs_whose_controller_is_killed_as_soon_as_start_has_returned(
        self, runtime, address, drive, tmp_path
    ):
        run = "import os, pathlib, time; pathlib.Path({!r}).touch(); time.sleep(600)"
        ran = [tmp_path / f"ran{n}" for n in range(4)]
        driver, told = drive(f"""
import signal
runtime = opened('killed', True, {str(tmp_path)!r}, address={address!r})
codes = {[run.format(str(path)).encode() for path in ran]!r}
states = []
def start(n):
    states.append(runtime.start(WorkerSpec(f'w{{n}}', 'model', codes[n], {{'num_cpus': 0}})).state.decode())
    if len(states) == len(codes):
        os.write(1, ('TOLD' + json.dumps({{'states': states}}) + '\\n').encode())
        os.kill(os.getpid(), signal.SIGKILL)
for n in range(len(codes)):
    threading.Thread(target=start, args=(n,)).start()
threading.Event().wait()
""")
        assert driver.wait(60) == -signal.SIGKILL
        until(lambda: all(path.exists() for path in ran))
        for state in told["states"]:
            runtime.stop(runtime.attach(state.encode()), 30)

    def test_options_reach_the_actor(self, start, runtime, tmp_path):
        answer = tmp_path / "answer"
        code = f"import os, pathlib; pathlib.Path({str(answer)!r}).write_text(os.environ['FLAVOUR'])".encode()
        handle = start(code, runtime_env={"env_vars": {"FLAVOUR": "sour"}}, resources={"slot": 1})
        assert until(lambda: runtime.poll(handle)) == Exit("exit code 0", 0)
        assert answer.read_text() == "sour"


@pytest.mark.ray
class TestPlacement:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_gpu": 1}, "num_gpu'; did you mean 'num_gpus'"),
            ({"name": "mine"}, "servekit sets 'name' itself"),
            ({"max_restarts": 3}, "servekit sets 'max_restarts' itself"),
            ({"num_cpus": -1}, "num_cpus"),
            ({"num_cpus": "two"}, "num_cpus"),
            ({"resources": {"GPU": 1}}, "num_gpus"),
            ({"runtime_env": {"env_vars": {"A": 1}}}, "env_vars"),
        ],
    )
    def test_bad_options_are_refused_beforehand(self, runtime, options, message):
        with pytest.raises(InvalidInputError, match=message):
            runtime.check_worker_options(options)

    def test_good_options_are_taken(self, runtime):
        runtime.check_worker_options({})
        runtime.check_worker_options({"num_cpus": 0.5, "scheduling_strategy": "SPREAD", "runtime_env": {"pip": ["x"]}})

    def test_what_no_node_has_is_refused_with_what_there_is(self, start):
        with pytest.raises(ResourcesUnavailableError, match=r"asks for 1 CPU, 1 GPU on one node.*cluster has 2 CPU"):
            start(SLEEP, num_gpus=1)

    def test_what_others_hold_is_refused_in_time_and_leaves_no_actor(self, start, runtime, address, drive, tmp_path):
        start(SLEEP, num_cpus=2)
        _, told = drive(f"""
runtime = opened('busy', False, {str(tmp_path)!r}, address={address!r}, placement_timeout_s=1)
try:
    runtime.start(WorkerSpec('w0', 'model', b'', {{'num_cpus': 1}}))
except Exception as error:
    left = runtime._connection.ask(asks.Look('servekit:busy:w0'), str)
    tell(error=type(error).__name__, message=str(error), left=left)
""")
        assert told["error"] == "ResourcesUnavailableError"
        assert "asks for 1 CPU" in told["message"]
        assert "others have held it for 1 s" in told["message"]
        assert told["left"] == agent.GONE

    def test_an_environment_that_cannot_be_made_is_told(self, start):
        with pytest.raises(BackendStartError, match="not a valid path"):
            start(SLEEP, runtime_env={"working_dir": "/nowhere/at/all"})

    def test_several_start_at_once(self, runtime, start):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(3) as threads:
            handles = list(threads.map(lambda _: start(SLEEP, num_cpus=0), range(3)))
        assert len({state_of(handle)["pid"] for handle in handles}) == 3

    def test_one_node_needs_no_address(self, runtime):
        assert runtime.advertise_host() is None


@pytest.mark.ray
class TestThisProcess:
    def test_it_never_imports_ray_and_may_use_several(self, runtime, address, drive, tmp_path):
        assert runtime.describe() == f"a local Ray of this instance's own, at {address}"
        _, told = drive(f"""
runtimes = [opened('several', False, {str(tmp_path)!r}, address={address!r}, links=links) for links in ('auto', 'tcp')]
handle = runtimes[0].start(WorkerSpec('w0', 'model', {SLEEP!r}, {{'num_cpus': 0}}))
runtimes[0].stop(handle, 0)
tell(ray='ray' in sys.modules, hosts=[each.advertise_host() is None for each in runtimes])
""")
        assert told == {"ray": False, "hosts": [True, False]}


@pytest.mark.ray
class TestOwners:
    def test_arguments_for_a_local_ray_do_not_go_with_a_cluster(self, address, drive, tmp_path):
        _, told = drive(f"""
runtime = RayRuntime(address={address!r}, ray_init={{'num_cpus': 1}})
try:
    runtime.open(RuntimeContext('i', False, {str(tmp_path)!r}))
except Exception as error:
    tell(error=type(error).__name__, message=str(error))
""")
        assert told["error"] == "InvalidInputError"
        assert (
            f"ray_init and include_dashboard are for a local Ray, and it is to be the Ray cluster at {address}"
            in told["message"]
        )

    def test_tcp_links_advertise_this_node(self, address, drive, tmp_path):
        _, told = drive(f"""
runtime = opened('tcp', False, {str(tmp_path)!r}, address={address!r}, links='tcp')
tell(host=runtime.advertise_host())
""")
        assert told["host"].count(".") == 3 or ":" in told["host"]

    def test_workers_of_an_owned_instance_end_with_a_killed_controller(self, address, drive, tmp_path):
        driver, told = drive(f"""
runtime = opened('owned', False, {str(tmp_path)!r}, address={address!r})
handle = runtime.start(WorkerSpec('w0', 'model', {SLEEP!r}))
tell(state=json.loads(handle.state))
threading.Event().wait()
""")
        worker = ProcessIdentity(told["state"]["place"]["pid"], told["state"]["place"]["start_ticks"])
        assert is_alive(worker)
        driver.kill()
        until(lambda: not is_alive(worker))

    def test_a_local_ray_ends_with_a_killed_owner_whole(self, drive, tmp_path):
        driver, told = drive(f"""
runtime = opened('kill9', False, {str(tmp_path)!r}, address='local', ray_init={{'num_cpus': 1}})
handle = runtime.start(WorkerSpec('w0', 'model', {SLEEP!r}))
tell(keeper=runtime._connection._keeper.identity.pid, worker=json.loads(handle.state)['place']['pid'])
threading.Event().wait()
""")
        processes = descendants(told["keeper"])
        names = [Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in processes]
        assert told["worker"] in [process.pid for process in processes]
        assert any(b"DashboardAgent" in name for name in names)
        assert any(b"RuntimeEnvAgent" in name for name in names)
        driver.kill()
        until(lambda: not any(map(is_alive, processes)))
        until(lambda: identify(told["keeper"]) is None)

    def test_a_local_ray_that_was_killed_is_started_again(self, drive, tmp_path):
        driver, told = drive(f"""
import signal
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append('to end'))
runtime = opened('heals', False, {str(tmp_path)!r}, address='local', ray_init={{'num_cpus': 1}})
handle = runtime.start(WorkerSpec('w0', 'model', {SLEEP!r}))
tell(keeper=runtime._connection._keeper.identity.pid)
while runtime.poll(handle) is None:
    threading.Event().wait(0.05)
lost = runtime.poll(handle).reason
runtime.stop(handle, 5)
handle = None
while handle is None:  # As a controller does, which starts another replica where Ray takes longer to be back.
    with contextlib.suppress(InstanceStartError):
        handle = runtime.start(WorkerSpec('w1', 'model', {SLEEP!r}))
os.kill(os.getpid(), signal.SIGTERM)
tell(lost=lost, now=runtime.poll(handle), asked=asked)
runtime.stop(handle, 0)
runtime.close()
""")
        processes = descendants(told["keeper"])
        raylet = next(one.pid for one in processes if Path(f"/proc/{one.pid}/comm").read_text() == "raylet\n")
        os.kill(raylet, signal.SIGKILL)
        assert driver.stdout is not None
        later = json.loads(next(line for line in driver.stdout if line.startswith("TOLD")).removeprefix("TOLD"))
        lost = "lost: the Ray that hosted it has ended"
        assert later == {"lost": lost, "now": None, "asked": ["to end"]}
        assert driver.wait(60) == 0
        until(lambda: not any(map(is_alive, processes)))

    def test_a_standing_instance_survives_its_controller(self, drive, tmp_path):
        opening = f"runtime = opened('standing', True, {str(tmp_path)!r}, address='local', ray_init={{'num_cpus': 1}})"
        earlier, told = drive(f"""
{opening}
handle = runtime.start(WorkerSpec('w0', 'model', {SLEEP!r}))
tell(keeper=runtime._connection._keeper.identity.pid, state=handle.state.decode())
threading.Event().wait()
""")
        try:
            processes = descendants(told["keeper"])
            earlier.kill()
            earlier.wait(60)
            later, now = drive(f"""
{opening}
handle = runtime.attach({told["state"]!r}.encode())
before = runtime.poll(handle)
runtime.stop(handle, 30)
after = runtime.poll(handle).reason
try:
    runtime.attach(handle.state)
except LookupError as error:
    gone = str(error)
tell(keeper=runtime._connection._keeper.identity.pid, worker=handle.worker_id, before=before, after=after, gone=gone)
runtime.close()
""")
            assert "w0" in now.pop("gone")
            # Ray has two ways to see the end of a worker, and tells of the first that did, where it is asked already.
            after = now.pop("after")
            assert after == "exit code 1" or "its process is gone" in after
            assert now == {"keeper": told["keeper"], "worker": "w0", "before": None}
            assert later.wait(60) == 0
        finally:
            if identify(told["keeper"]) is not None:
                os.kill(told["keeper"], signal.SIGTERM)
        until(lambda: not any(map(is_alive, processes)))
