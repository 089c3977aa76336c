"""``servekit start``: what it prints, and what the service manager is told."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.instances.instance_tools import controller, descendants, started_standing
from tests.support.waiting import until

from servekit.cli.main import main
from servekit.cli.standing import tell_systemd


@pytest.mark.processes
def test_systemd_is_told_when_it_is_up_and_when_it_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
        with started_standing("--name", "told", "--drain-delay-s", "0", "--http-limit", "body_bytes=9") as keeper:
            assert manager.recv(100) == b"READY=1"
            keeper.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert keeper.wait(60) == 0


GATED = """
import pathlib, time

class Gated:
    def __init__(self, gate):
        while not pathlib.Path(gate).exists():
            time.sleep(0.01)

    def __call__(self, request):
        return "open"
"""
CONFIG = """
[backends.v1]
target = "gated_handler:Gated"
args = ["${GATE}"]
"""


@pytest.mark.processes
@pytest.mark.parametrize("what", ["the controller is killed", "the keeper is told to end"])
def test_a_start_that_deploys_watches_its_controller_and_signals(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    (tmp_path / "gated_handler.py").write_text(GATED)
    (tmp_path / "servekit.toml").write_text(CONFIG)
    options = ["--name", what.split()[1], "--runtime", "process", "--http-port", "0", "--drain-delay-s", "0"]
    command = [sys.executable, "-m", "servekit.cli.main", "start", *options, "--config", "servekit.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as keeper:
        try:
            until(lambda: any("servekit: replica" in repr(each) for each in descendants(keeper.pid)), 60)
            if what == "the controller is killed":
                first = controller(keeper)
                os.kill(first, signal.SIGKILL)
                assert keeper.stderr is not None
                assert any("the deploy is done again" in line for line in keeper.stderr)
                (tmp_path / "gate").touch()
                assert keeper.stdout is not None
                assert "answers at" in keeper.stdout.readline()
                assert controller(keeper) != first
            keeper.terminate()
            said, errors = keeper.communicate(timeout=60)
            assert (keeper.returncode, said) == (0, "")
            assert "Traceback" not in errors
        finally:
            keeper.kill()


@pytest.mark.parametrize("option", ["port", "bad"])
def test_a_start_that_is_refused_leaves_no_state(place: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = {"port": ["--http-port", str(taken.getsockname()[1])], "bad": ["--ingress-workers", "999"]}
        command = [sys.executable, "-m", "servekit.cli.main", "start", "--runtime", "process", "--name", "refused"]
        assert subprocess.run([*command, *refused[option]], check=False, capture_output=True).returncode == 1
    assert not (place / "state" / "servekit" / "refused").exists()


def test_an_abstract_socket_and_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0servekit-tests-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@servekit-tests-{os.getpid()}")
        tell_systemd("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    tell_systemd("READY=1")
    assert "systemd could not be told READY=1" in caplog.text


@pytest.mark.parametrize("answer", [True, False])
def test_a_purge_asks_on_a_terminal(
    place: Path, monkeypatch: pytest.MonkeyPatch, answer: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    state = place / "state" / "servekit" / "kept"
    state.mkdir(parents=True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" if answer else "n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["stop", "--purge", "--name", "kept"]) == (0 if answer else 1)
    assert state.exists() is not answer
    if not answer:
        assert "nothing was deleted" in capsys.readouterr().err
        assert main(["stop", "--purge", "--yes", "--name", "kept"]) == 0
        assert not state.exists()


@pytest.mark.processes
def test_ctrl_c_twice_is_no_traceback(tmp_path: Path) -> None:
    """The second comes while the instance drains."""
    script = tmp_path / "app.py"
    script.write_text(
        "import os, signal, threading, time, urllib.error, urllib.request, servekit as serve\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # A suite in the background ignores it.\n"
        "instance = serve.init(runtime='process', http_port=0, drain_delay_s=60.0)\n"
        "def is_ready():\n"
        "    try:\n"
        "        return urllib.request.urlopen(instance.url + '/-/readyz', timeout=60).status == 200\n"
        "    except urllib.error.HTTPError:\n"
        "        return False\n"
        "def press_twice():\n"
        "    while signal.getsignal(signal.SIGINT) is signal.default_int_handler:\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while is_ready():\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=press_twice, daemon=True).start()\n"
        "serve.wait()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
