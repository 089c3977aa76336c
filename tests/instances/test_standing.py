"""Standing instances: ``servekit start``, those who attach, a controller that crashes, ``servekit stop``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import instance_handlers
import pytest
from instance_handlers import Configured, Named
from instance_tools import Load, controller, descendants, pids, refused_start
from tests.support.waiting import until

import servekit as serve
from servekit import errors
from servekit.cli.main import main


@pytest.fixture
def attached(standing: subprocess.Popen[str]) -> Iterator[serve.Instance]:
    with serve.init(address="auto") as instance:
        instance.create_backend("named", Named, "one")
        instance.create_endpoint("e", "/e", methods=["GET", "POST"], backend="named")
        yield instance


def test_it_outlives_its_clients_and_ends_on_request(
    standing: subprocess.Popen[str], attached: serve.Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    attached.shutdown()
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["endpoints"]["e"]["traffic"] == {"named": 1.0}
    digest = serve.init(address="auto").status()["backends"]["named"]["code_digest"]
    serve.shutdown()
    assert main(["code", "named"]) == 0
    serve.shutdown()
    listed = capsys.readouterr().out
    assert listed.startswith(f"named: code digest {digest}\n")
    assert f"  instance_handlers.py  ({instance_handlers.__file__})\n" in listed
    assert main(["code", "named", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distributions"]["servekit"] == "0.1.0"
    serve.shutdown()
    assert httpx.get(attached.url + "/e?hello").json()["sent"] == "hello"
    processes = descendants(standing.pid)
    assert len(processes) == 3, processes
    assert main(["stop"]) == 0
    assert standing.wait(60) == 0
    until(lambda: not [process for process in processes if process.is_there])
    assert not os.path.exists(attached.directory)
    assert main(["stop"]) == 1
    assert "no standing instance 'default'" in capsys.readouterr().err


# httpcore leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_controller_that_crashes_is_replaced_and_its_workers_are_adopted(
    standing: subprocess.Popen[str], attached: serve.Instance
) -> None:
    replicas = attached.status()["backends"]["named"]["replicas"]
    ingress = attached.status()["ingress"]
    crashed = controller(standing)
    with Load(attached, "/e") as load:
        os.kill(crashed, signal.SIGKILL)
        load.more()

        def again() -> bool:
            try:
                status = attached.status()
            except errors.ControllerGoneError:
                return False
            return bool(pids(attached, "named")) and status["ingress"][0]["ready"]

        until(again)
        status = attached.status()
        same = [{key: replica[key] for key in ("id", "pid", "rank", "started")} for replica in replicas]
        assert [{key: r[key] for key in same[0]} for r in status["backends"]["named"]["replicas"]] == same
        assert status["ingress"] == ingress
        attached.update_backend_config("named", {"num_replicas": 2})
        load.more()
        attached.update_backend_config("named", {"num_replicas": 1})
        load.more()
    assert not load.failures


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_controller_that_is_replaced_goes_on_with_the_number_of_replicas_and_their_user_config(
    standing: subprocess.Popen[str], attached: serve.Instance, temporary: Path
) -> None:
    log = temporary / "log"
    scaling = {"min_replicas": 0, "max_replicas": 4, "downscale_delay_s": 1000.0}
    config = {"num_replicas": 2, "autoscaling": scaling, "user_config": 1}
    attached.create_backend("scaled", Configured, str(log), config=config)
    attached.create_backend("none", Named, "none", config={"num_replicas": 0, "autoscaling": scaling})
    attached.update_backend_config("scaled", {"user_config": 2})
    before = pids(attached, "scaled")
    os.kill(controller(standing), signal.SIGKILL)

    def again() -> bool:
        try:
            return len(pids(attached, "scaled")) == 2
        except errors.ControllerGoneError:
            return False

    until(again)
    assert pids(attached, "scaled") == before
    status = attached.status()["backends"]
    assert (status["scaled"]["wanted_replicas"], status["none"]["wanted_replicas"]) == (2, 0)
    assert sorted(log.read_text().split()) == ["1", "1", "2", "2"], "one that has it is not told again"
    attached.update_backend_config("scaled", {"user_config": 3})
    assert sorted(log.read_text().split()) == ["1", "1", "2", "2", "3", "3"]
    attached.create_endpoint("none", "/none", backend="none")
    assert httpx.get(attached.url + "/none?hello").json()["sent"] == "hello"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_whoever_is_attached_waits_for_the_next_controller(
    standing: subprocess.Popen[str], attached: serve.Instance
) -> None:
    crashed = controller(standing)
    os.kill(crashed, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{crashed}"))  # Before, what is sent may have arrived.
    attached.create_endpoint("f", backend="named")
    assert set(attached.list_endpoints()) == {"e", "f"}
    os.kill(controller(standing), signal.SIGKILL)
    attached.set_traffic("f", {"named": 1.0})
    assert attached.get_handle("f").remote().result()["name"] == "one"
    standing.send_signal(signal.SIGTERM)
    standing.wait(60)
    with pytest.raises(errors.NotRunningError, match="no standing instance 'default'"):
        attached.status()


def test_its_end_by_kill_leaves_nothing_but_a_line_that_says_so(
    standing: subprocess.Popen[str], attached: serve.Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = descendants(standing.pid)
    standing.kill()
    until(lambda: not [process for process in processes if process.is_there], 15)
    assert main(["logs"]) == 0
    assert "ERROR controller the keeper, the process of servekit start, has ended" in capsys.readouterr().out


def test_two_of_a_name_are_refused(standing: subprocess.Popen[str]) -> None:
    assert "running already" in refused_start()


def test_it_is_found_and_ended_with_another_tmpdir(
    standing: subprocess.Popen[str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "other").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary / "other"))
    assert main(["status"]) == 0
    assert main(["stop"]) == 0
    assert standing.wait(60) == 0
    assert main(["stop"]) == 1


def test_attaching_says_what_is_not_there(temporary: Path) -> None:
    with pytest.raises(errors.NotRunningError, match="servekit start --name other"):
        serve.init(name="other", address="auto")
    with pytest.raises(ValueError, match="'auto'"):
        serve.init(address="10.0.0.1:8000")
