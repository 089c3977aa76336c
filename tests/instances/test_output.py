"""What the processes of a standing instance print: it is gathered, whatever becomes of the controller."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import instance_handlers
import pytest
from instance_tools import controller, pids
from tests.support.waiting import until

import servekit as serve
from servekit.cli.main import main


def lines(temporary: Path) -> list[str]:
    folder = temporary / "state" / "servekit" / "default" / "logs"
    return [
        line for path in sorted(folder.glob("servekit.log*"), reverse=True) for line in path.read_text().split("\n")
    ]


def printed(temporary: Path) -> list[int]:
    """The numbers that the handler has printed, as they were gathered."""
    found = (re.search(r" OUTPUT replica prints r\d+-[0-9a-f]{6} number (\d+)$", line) for line in lines(temporary))
    return [int(match[1]) for match in found if match]


# httpcore leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_every_line_is_gathered_once_though_the_controller_is_killed_and_stopped(
    temporary: Path, standing: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with serve.init(address="auto") as instance:
        instance.create_backend("prints", instance_handlers.Prints)
        instance.create_endpoint("e", "/e", backend="prints")
        with httpx.Client(base_url=instance.url, timeout=60, verify=False) as client:
            for _ in range(3):
                for _ in range(20):
                    client.get("/e?lines=50")
                os.kill(controller(standing), signal.SIGKILL)
                until(lambda: bool(pids(instance, "prints")))
            stopped = controller(standing)
            os.kill(stopped, signal.SIGSTOP)
            # More than any pipe would take.
            for _ in range(20):
                assert client.get("/e?lines=1000").text == "printed"
            with contextlib.suppress(ProcessLookupError):  # The keeper may have replaced it by now.
                os.kill(stopped, signal.SIGCONT)
            count = 3 * 20 * 50 + 20 * 1000
            until(lambda: len(printed(temporary)) >= count)
            assert printed(temporary) == [*range(count)]
            said = "\n".join(lines(temporary))
            for source in ("a C library", "a child"):
                assert re.search(rf" OUTPUT replica prints r1-[0-9a-f]{{6}} from {source}$", said, re.MULTILINE)
            assert said.count(" ERROR keeper controller ended: killed by SIGKILL; another is started in ") >= 3
            # A replica that crashes says where, and the controller how it ended, and what follows.
            assert client.get("/e?crash=1").status_code in (200, 502)
        crash = r" OUTPUT replica prints r1-[0-9a-f]{6} Fatal Python error: Segmentation fault"
        # The first replica's exit code went to the controller that was killed; the request was sent once more.
        ended = r" ERROR controller replica prints r2-[0-9a-f]{6} ended: killed by SIGSEGV; another is started"
        until(lambda: all(re.search(pattern, "\n".join(lines(temporary))) for pattern in (crash, ended)))
    assert main(["stop"]) == 0
    assert main(["logs", "prints", "r1", "-n", "1000000"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if " number " in line]) == count
    assert any(re.search(r" INFO controller replica prints r1-[0-9a-f]{6} is taken over$", line) for line in shown)
