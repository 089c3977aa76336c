"""``import servekit`` costs nothing and starts nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROBE = """
import os, sys, threading
import servekit
heavy = sorted({"ray", "flask", "numpy"} & set(sys.modules))
assert not heavy, f"import servekit imports {heavy}"
loaded = sorted(name for name in sys.modules if name.startswith("servekit_"))
assert not loaded, f"import servekit loads the plugins {loaded}"
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no children")
"""


def test_import_loads_no_plugin_and_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no children\n"
