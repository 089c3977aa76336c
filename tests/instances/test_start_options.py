"""What `init` is told reaches the processes; and which plugins it has loaded is said, there and here."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import httpx
import importlib_metadata
import instance_handlers
import pytest

import servekit as serve
from servekit.errors import InvalidInputError
from servekit.plugins import discover

pytestmark = pytest.mark.processes

PLUGIN = """
from servekit.hookspecs import hookimpl
from servekit.interfaces import RoutingPolicy

class Mine(RoutingPolicy):
    def choose_backend(self, request, backends):
        return backends[0]

@hookimpl
def servekit_register_routing_policies():
    return {"mine": Mine}
"""


def install(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(f"[servekit]\n{name} = {name}\n")


def test_limits_and_polling_are_those_that_were_asked_for():
    limits = serve.HttpLimits(body_bytes=100)
    with serve.init(runtime="process", http_port=0, http_limits=limits, busy_poll_s=0.0) as instance:
        serve.create_backend("hello", instance_handlers.hello)
        serve.create_endpoint("hello", "/hello", ["POST"], backend="hello")
        with httpx.Client(base_url=instance.url, timeout=60, verify=False) as client:
            assert client.post("/hello", content=b"x" * 100).status_code == 200
            assert client.post("/hello", content=b"x" * 101).status_code == 413


@pytest.mark.parametrize(("folder", "fault"), [("spools", "is an absolute path"), ("/nowhere", "no file can be made")])
def test_a_folder_for_spools_that_is_of_no_use(folder, fault):
    with pytest.raises(InvalidInputError, match=f"spool_directory.*{fault}"):
        serve.init(runtime="process", http_port=0, http_limits=serve.HttpLimits(spool_directory=folder))


@pytest.mark.parametrize("busy_poll_s", [-1e-6, 0.02, float("nan")])
def test_polling_has_a_bound(busy_poll_s):
    with pytest.raises(InvalidInputError, match=r"busy_poll_s must be from 0 to 0\.01 s"):
        serve.init(runtime="process", http_port=0, busy_poll_s=busy_poll_s)


def test_each_plugin_is_a_line_and_each_problem_a_warning(tmp_path, monkeypatch, capfd, caplog):
    install(tmp_path, "plug_good", PLUGIN)
    install(tmp_path, "plug_bad", "import nothing_of_that_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib_metadata.MetadataPathFinder.invalidate_caches()
    caplog.set_level(logging.INFO, "servekit")
    with serve.init(runtime="process", http_port=0, log_level="info"):
        pass
    mine = "plugin plug_good from plug_good 2.1: routing policies mine"
    lines = discover().loaded
    assert mine in lines
    assert len(lines) >= 5
    said = [record for record in caplog.records if record.name == "servekit"]
    assert [record.getMessage() for record in said if record.levelno == logging.INFO] == lines
    (warning,) = [record.getMessage() for record in said if record.levelno == logging.WARNING]
    assert "plug_bad 2.1 was not loaded: ModuleNotFoundError" in warning
    printed = capfd.readouterr().err.splitlines()
    told = [line.partition(" INFO controller ")[2] for line in printed if " INFO controller plugin " in line]
    assert told == [mine], "those that come with servekit are there at each start"


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_lines_are_not_printed_in_a_script_that_has_no_logging_set_up(level):
    """But for those of the controller, which has, from the level on that it is given."""
    code = f"import servekit; servekit.init(runtime='process', http_port=0, log_level={level!r}).shutdown()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout == ""
    says = {line[len("2026-11-30T12:00:00.000Z ") :][:16] for line in run.stderr.splitlines()}
    assert says == ({"DEBUG controller", "INFO controller "} if level == "debug" else set())
    assert run.stderr.count("DEBUG controller plugin process from servekit") == (level == "debug")
    assert run.stderr.count("runtimes process") == (level == "debug")
