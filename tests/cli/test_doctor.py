"""``servekit doctor`` and ``servekit plugins``: what is wrong here is found, and nothing else."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import servekit.cli.doctor as doctor_module
from servekit.cli.main import main


@pytest.fixture
def port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_where_nothing_is_wrong(place: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--http-port", str(port)]) == 0
    out = capsys.readouterr().out
    assert f"{port} is free" in out
    assert out.endswith("servekit: nothing is wrong\n")
    assert max(map(len, out.splitlines())) <= 80


def test_a_port_that_is_taken_a_leftover_and_a_plugin(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("SERVEKIT_DISABLE_PLUGINS", "no_such_plugin")
    base = place / f"servekit-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    leftover = base / "default-0123abcd"
    leftover.mkdir()
    with socket.socket(socket.AF_UNIX) as dead, socket.socket() as taken:
        dead.bind(str(leftover / "admin.sock"))
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["doctor", "--http-port", str(port)]) == 1
        out = capsys.readouterr().out
        assert f"{port} is taken by process {os.getpid()} (" in out
        assert "'no_such_plugin', to be switched off, is not installed" in out
        assert f"rm -r {leftover}" in out
        assert "servekit: 3 things are wrong" in out
        dead.listen()
        assert main(["doctor", "--http-port", str(port)]) == 1
        assert "rm -r" not in capsys.readouterr().out, "its process is there"


def test_a_port_of_an_instance_is_no_fault_and_a_full_tmpdir_is(
    place: Path, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    title = "import socket, sys, time; from servekit.processes import set_title; s = socket.socket(); "
    title += f"s.bind(('127.0.0.1', {port})); s.listen(); set_title('keeper of x'); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", title], stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        main(["doctor", "--http-port", str(port)])
        (line,) = (line for line in capsys.readouterr().out.splitlines() if f"held by process {keeper.pid} (" in line)
        assert line.startswith("ok ")
        keeper.kill()
    monkeypatch.setattr(doctor_module, "NEEDED_BYTES", 2**20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        assert main(["doctor", "--http-port", str(port)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handled)
    assert f"{place} cannot be written to: File too large" in capsys.readouterr().out


def test_rays_record_of_a_cluster_that_is_gone(
    place: Path, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    (place / "ray").mkdir()
    (place / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    main(["doctor", "--http-port", str(port)])
    assert f"of Ray: {place}/ray/ray_current_cluster names 127.0.0.1:{port}, where" in capsys.readouterr().out


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "process from servekit 0.1.0: replica runtimes process\n" in out
    assert max(map(len, out.splitlines())) <= 80
    monkeypatch.setenv("SERVEKIT_DISABLE_PLUGINS", "no_such_plugin")
    assert main(["plugins"]) == 1
    assert "'no_such_plugin', to be switched off, is not installed" in capsys.readouterr().err
