"""How a process of servekit's begins: its command line, and the order of what is on its path; and worker processes."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import servekit
import servekit_asgi
import servekit_ray
from servekit import logs
from servekit.errors import DeadlineError
from servekit.interfaces import WorkerHandle, WorkerSpec
from servekit.processes import (
    OpenProcess,
    WorkerProcess,
    extend_sys_path,
    module_command,
    open_descriptors,
    own_sys_path,
    start_module,
)

LIBRARY = [sysconfig.get_path("stdlib"), os.path.join(sysconfig.get_path("stdlib"), "lib-dynload")]
PROBE = """
import json, sys
print(json.dumps([__name__, sys.argv[1:], sys.path]))
"""


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        ([*LIBRARY, "installed"], ["mine", "yours"], [*LIBRARY, "mine", "yours", "installed"]),
        # As Ray leaves it, and as PYTHONPATH does.
        (["mine", "ray", *LIBRARY, "installed"], ["yours", "mine"], [*LIBRARY, "yours", "mine", "ray", "installed"]),
        # What is installed in a virtual environment stays before what its host has.
        ([*LIBRARY, "installed", "host"], ["host", "mine"], [*LIBRARY, "mine", "installed", "host"]),
        (["", *LIBRARY, "installed"], [], [*LIBRARY, "", "installed"]),
        (["mine", *LIBRARY, "installed"], LIBRARY, [*LIBRARY, "mine", "installed"]),
    ],
)
def test_the_users_folders_come_behind_the_standard_library_and_before_what_is_installed(
    monkeypatch, before, given, after
):
    monkeypatch.setattr(sys, "path", list(before))
    extend_sys_path(given)
    assert sys.path == after


def test_own_folders_are_those_of_the_user(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    archive = str(tmp_path / "mine.zip")
    installed = sysconfig.get_path("purelib")
    monkeypatch.setattr(sys, "path", ["", *LIBRARY, "below", archive, installed, str(tmp_path)])
    assert own_sys_path() == [str(tmp_path), str(tmp_path / "below"), archive]


def test_a_module_is_run_as_by_m_with_neither_the_working_directory_nor_pythonpath_first(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "runpy.py").write_text("raise SystemExit('executed')")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('executed')")
    run = subprocess.run(
        module_command("probe", "one", "two words"),
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    name, arguments, path = json.loads(run.stdout)
    assert (name, arguments) == ("__main__", ["one", "two words"])
    assert path[: len(LIBRARY)] == LIBRARY
    assert path.count(str(tmp_path)) == 1
    assert not {"", str(tmp_path / "here")} & set(path)


def test_every_logger_of_servekits_is_kept_on():
    """Also one whose module is loaded after the user's code has set logging up."""
    found = set()
    for package in (servekit, servekit_asgi, servekit_ray):
        for file in Path(package.__file__).parent.rglob("*.py"):
            found |= set(re.findall(r'getLogger\("(servekit[\w.]*)"\)', file.read_text()))
    assert len(found) > 5
    assert found | {"servekit.plugins"} == {f"servekit{name}" for name in logs.LOGGERS}
    assert logging.getLogger("servekit.replica").__class__ is logging.Logger, "this process is the user's"


def test_a_module_is_started_in_a_session_of_its_own_with_what_it_is_told(tmp_path):
    out = tmp_path / "out"
    (tmp_path / "told.py").write_text(
        f"import os, sys\nopen({str(out)!r}, 'w').write(f'{{sys.stdin.read()}} {{os.getpid() == os.getsid(0)}}')"
    )
    child = start_module("told", b"a secret", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert child.wait(60) == 0
    assert out.read_text() == "a secret True"


STUB_WORKER = """
import sys, time
print("out", flush=True)
print(sys.stdin.read(), file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "stub_worker.py").write_text(STUB_WORKER)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        worker = WorkerProcess.start(WorkerSpec("w0", "b", b"told"), module="stub_worker", env=env, output=log)
    yield worker
    worker.child.kill()
    worker.child.wait()


def test_the_output_of_a_worker_goes_to_the_file_that_is_given(worker, tmp_path):
    log = tmp_path / "log"
    ends = time.monotonic() + 20
    while log.read_text() != "out\ntold\n":
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.01)
    assert worker.poll() is None


def test_a_worker_is_found_by_its_handle_or_by_the_state_of_it(worker):
    assert WorkerProcess.of(worker) is worker
    found = WorkerProcess.of(WorkerHandle("w0", worker.state))
    assert (found.identity, found.child) == (worker.identity, None)
    assert WorkerProcess.attach(worker.state).worker_id == "w0"


def test_a_worker_that_outlives_sigkill_is_an_error(worker, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(OpenProcess, "wait", lambda self, timeout_s: False)
        with pytest.raises(DeadlineError, match=r"worker w0 \(pid \d+\) is still there 10 s after SIGKILL"):
            worker.stop(0)
    worker.stop(20)
    assert worker.poll() is not None


def test_open_descriptors_are_counted() -> None:
    before = open_descriptors()
    with open(os.devnull), open(os.devnull):
        assert open_descriptors() == before + 2
    assert open_descriptors() == before
