"""``servekit init``: a project that works as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_run import LIMIT_S, RUN, started
from tests.instances.instance_tools import Scripts, fresh_get
from tests.support.waiting import until

from servekit.cli.main import main
from servekit.cli.project import FILES


@pytest.mark.processes
def test_the_project_serves_and_its_test_passes(scripts: Scripts) -> None:
    folder = scripts.folder / "demo"
    assert main(["init", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {*FILES}
    process, url = started(scripts, f"{RUN} demo/app.py")
    until(lambda: fresh_get(f"{url}/hello?name=you").status_code == 200, LIMIT_S)
    assert fresh_get(f"{url}/hello?name=you").json() == {"message": "hello, you"}
    process.terminate()
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=3 * LIMIT_S,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    assert "1 passed" in tests.stdout
    assert process.wait(LIMIT_S) == 0
    _, url = started(scripts, f"{RUN} demo/servekit.toml")
    assert fresh_get(f"{url}/hello?name=you").json() == {"message": "hello, you"}


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "app.py").write_text("mine")
    assert main(["init", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("app.py", "mine")]
