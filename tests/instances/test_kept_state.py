"""What a standing instance keeps: over its end, over a disk that is full or damaged, over a crash at any write."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from instance_handlers import Named
from instance_tools import Load, attach, controller, descendants, marked, pids, refused_start, started_standing
from tests.support.waiting import until

import servekit as serve
from servekit import errors
from servekit.cli.main import main

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("detached")]


@pytest.fixture
def state(temporary: Path) -> Path:
    return temporary / "state" / "servekit" / "default"


def deploy(instance: serve.Instance, name: str = "named") -> None:
    instance.create_backend(name, Named, "one")
    instance.create_endpoint(name, f"/{name}", ["GET", "POST"], backend=name)


def answers(instance: serve.Instance, path: str = "/named") -> bool:
    return httpx.get(f"{instance.url}{path}?hello", timeout=30).status_code == 200


def ended(keeper: subprocess.Popen[str]) -> bool:
    return main(["stop"]) == 0 and keeper.wait(60) == 0


def test_what_was_deployed_is_there_again_after_its_end(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with started_standing() as keeper:
        instance = attach()
        deploy(instance)
        before = instance.status()
        assert ended(keeper)
    with started_standing() as keeper:
        assert keeper.stdout is not None
        assert f"with 1 endpoint and 1 backend, kept in {state}" in keeper.stdout.readline()
        instance = attach()
        assert instance.url != before["url"]
        assert answers(instance)
        after = instance.status()
        # How many requests wait is of the last second.
        assert after["endpoints"]["named"] | {"parked": 0} == before["endpoints"]["named"] | {"parked": 0}
        assert after["backends"]["named"]["config"] == before["backends"]["named"]["config"]
        keeper.kill()
        keeper.wait(60)
    with started_standing() as keeper:  # While the workers of the one before are about to end.
        assert answers(attach())
        assert main(["stop", "--purge"]) == 0
        assert keeper.wait(60) == 0
    assert not state.exists()
    assert main(["stop", "--purge"]) == 1
    assert "no standing instance 'default'" in capsys.readouterr().err
    with started_standing():
        assert attach().list_endpoints() == {}


def test_state_that_no_instance_uses_can_be_deleted(state: Path) -> None:
    with started_standing() as keeper:
        deploy(attach())
        assert ended(keeper)
    assert (state / "state.db").exists()
    assert main(["stop", "--purge"]) == 0
    assert not state.exists()


def damage_database(state: Path) -> None:
    for name in ("state.db-wal", "state.db-shm"):
        (state / name).unlink(missing_ok=True)
    (state / "state.db").write_bytes(b"no database" * 1000)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_controller_that_is_stopped_is_replaced(state: Path) -> None:
    with started_standing() as keeper:
        instance = attach()
        deploy(instance)
        replicas, stopped = pids(instance, "named"), controller(keeper)
        os.kill(stopped, signal.SIGSTOP)
        assert answers(instance)
        until(lambda: not any(process.pid == stopped for process in descendants(keeper.pid)))
        until(lambda: pids(instance, "named") == replicas)
        assert controller(keeper) != stopped
        assert answers(instance)
        assert ended(keeper)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_workers_of_another_version_serve_on_and_the_log_says_what_to_do(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with started_standing() as keeper:
        instance = attach()
        deploy(instance)
        record = Path(instance.directory) / "ingress1.json"
        record.write_bytes(record.read_bytes().rpartition(b",")[0] + b",1]")
        os.kill(controller(keeper), signal.SIGKILL)
        said = ""

        def is_told() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "another version of servekit (link protocol 1," in said and "servekit stop --name default" in said

        until(is_told)
        assert answers(instance)
        assert ended(keeper)


def lose_database(state: Path) -> None:
    for path in state.glob("state.db*"):
        path.unlink()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("harm", [damage_database, lose_database])
def test_a_damaged_state_is_refused_and_what_was_served_goes_on(
    state: Path, harm: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with started_standing() as keeper:
        instance = attach()
        deploy(instance)
        replicas = pids(instance, "named")
        os.kill(controller(keeper), signal.SIGSTOP)  # It must not write to the file meanwhile.
        stopped = controller(keeper)
        harm(state)
        os.kill(stopped, signal.SIGKILL)
        said = ""

        def is_refused() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "controller did not come up: the state in" in said and "servekit restore --name default" in said

        until(is_refused)
        assert answers(instance)
        assert "running already" in refused_start(), "its keeper is there"
        assert main(["restore"]) == 0
        assert "with 1 endpoint and 1 backend" in capfd.readouterr().out
        until(lambda: pids(instance, "named") == replicas)
        assert answers(instance)
        assert main(["restore"]) == 1
        assert "nothing to restore" in capfd.readouterr().err
        assert ended(keeper)


def test_a_damaged_state_is_no_reason_to_begin_with_an_empty_one(state: Path) -> None:
    with started_standing() as keeper:
        deploy(attach())
        assert ended(keeper)
    damage_database(state)
    said = refused_start()
    assert f"the state in {state}/state.db cannot be read" in said
    assert "servekit restore --name default puts back the state of" in said
    assert main(["restore"]) == 0
    with started_standing():
        assert answers(attach())


# -- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(state: Path) -> Iterator[Path]:
    """The folder of the state, on a file system of 1 MB."""
    libc = ctypes.CDLL(None, use_errno=True)
    state.mkdir(parents=True)
    if libc.mount(b"tmpfs", bytes(state), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip(f"no file system can be mounted: {os.strerror(ctypes.get_errno())}")
    yield state
    assert libc.umount2(bytes(state), 2) == 0  # MNT_DETACH: an instance may be about to end.


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_full_disk_refuses_changes_by_name_and_nothing_that_is_served_is_lost(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with started_standing() as keeper:
        instance = attach()
        deploy(instance)
        with Load(instance, "/named") as load:
            filler = small_disk / "filler"
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
            with pytest.raises(errors.StoreError, match="cannot be saved"):
                instance.update_backend_config("named", {"max_queued_requests": 77})
            with pytest.raises(errors.StoreError, match="make room"):
                instance.create_backend("other", Named, "x" * 10_000)
            load.more()
            (replica,) = pids(instance, "named")
        os.kill(replica, signal.SIGKILL)  # Is seen, and replaced.
        until(lambda: pids(instance, "named") - {replica})
        assert answers(instance)
        with Load(instance, "/named") as second:
            os.kill(controller(keeper), signal.SIGKILL)  # Not to open a state is no damage.
            second.more()
            filler.unlink()
            until(lambda: pids(instance, "named"))
            assert set(instance.list_backends()) == {"named"}
            assert instance.get_backend_config("named")["max_queued_requests"] == 1000
            instance.update_backend_config("named", {"max_queued_requests": 78})
            instance.create_backend("other", Named, "two")
            second.more()
        assert not load.failures
        assert not second.failures
        os.kill(controller(keeper), signal.SIGKILL)
        until(lambda: pids(instance, "named"))
        assert instance.get_backend_config("named")["max_queued_requests"] == 78
        assert set(instance.list_backends()) == {"named", "other"}
        # The events since there is room are there; an earlier controller's, which found none, are lost with it.
        assert len(instance.events(backend="other", kind="backend_created")) == 1
        assert instance.events(kind="controller_restarted")[-1]["count"] >= 1
        assert "restore" not in capfd.readouterr().err


# -- a crash at every write ------------------------------------------------------------------------------------------

HOOK = '''
"""Kills the controller at the write whose number stands in a file, counted from when the file appears."""
import os, signal, sqlite3, sys

if "servekit.control.process" in open("/proc/self/cmdline").read():
    ARMED, count = os.environ["SERVEKIT_TESTS_ARMED"], [0]

    def write():
        try:
            descriptor = os.open(ARMED, os.O_RDONLY)
        except FileNotFoundError:
            count[0] = 0
            return
        at = int(os.read(descriptor, 100))
        os.close(descriptor)
        count[0] += 1
        if count[0] == at:
            os.unlink(ARMED)
            os.kill(os.getpid(), signal.SIGKILL)

    class Connection(sqlite3.Connection):
        def execute(self, statement, *arguments):
            write()
            return super().execute(statement, *arguments)

        def __exit__(self, *error):
            write()
            super().__exit__(*error)
            write()

    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **named: connect(*arguments, factory=Connection, **named)
    WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "subprocess.Popen"}

    def hook(event, arguments):
        if event in WRITES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            if ARMED not in map(str, arguments):
                write()

    sys.addaudithook(hook)
'''


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_a_controller_that_is_killed_at_a_write_leaves_the_state_before_or_after(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    (temporary / "hook").mkdir()
    (temporary / "hook" / "sitecustomize.py").write_text(HOOK)
    armed = temporary / "armed"
    monkeypatch.setenv("SERVEKIT_TESTS_ARMED", str(armed))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(temporary / "hook"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    )
    with started_standing("--ingress-workers", "2") as keeper:
        instance = attach()
        deploy(instance)
        for at in range(1, 1000, step):
            first = controller(keeper)
            armed.write_text(str(at))
            with contextlib.suppress(errors.ServekitError):
                deploy(instance, "new")
            if armed.exists():
                armed.unlink()
                break
            until(lambda first=first: is_followed(keeper, first), 60)
            check_whole(instance, keeper)
            for name in [*instance.list_endpoints()]:
                if name != "named":
                    instance.delete_endpoint(name)
            for name in [*instance.list_backends()]:
                if name != "named":
                    instance.delete_backend(name)
        assert at > step, "no write was met"


def is_followed(keeper: subprocess.Popen[str], first: int) -> bool:
    """Whether there is another controller than the first."""
    return any("servekit: controller of" in repr(p) and p.pid != first for p in descendants(keeper.pid))


def check_whole(instance: serve.Instance, keeper: subprocess.Popen[str]) -> None:
    """What is there is served by each ingress worker; processes that nobody knows have ended."""
    status = instance.status()
    assert "named" in status["backends"]
    for name, endpoint in status["endpoints"].items():
        assert set(endpoint["traffic"]) <= set(status["backends"])
        until(lambda name=name, endpoint=endpoint: not endpoint["traffic"] or answers(instance, f"/{name}"), 60)

    def no_strays() -> bool:
        status = instance.status()
        known = {replica["pid"] for backend in status["backends"].values() for replica in backend["replicas"]}
        known |= {worker["pid"] for worker in status["ingress"]}
        there = [
            p
            for p in marked(f"TMPDIR={os.environ['TMPDIR']}")
            if re.search(r"servekit(\.worker|: (ingress|replica)\b)", repr(p))
        ]
        return {process.pid for process in there} == known and all(w["ready"] for w in status["ingress"])

    until(no_strays, 60)
    for _ in range(6):  # Each worker, for connections go to either.
        assert answers(instance)
