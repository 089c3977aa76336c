"""A virtual environment for each peer, made once, in a cache folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.servers import ROOT, Peer

CACHE = Path("~/.cache/servekit-bench")
INSTALL_TIMEOUT_S = 900.0


class InstallError(Exception):
    """pip could not install a peer; the message says why."""


def python_for(peer: Peer, cache: Path) -> str:
    """The Python that has ``peer`` installed, in a venv made now if it is not there. Raises `InstallError`."""
    if not peer.requirements:
        return sys.executable
    folder = cache.expanduser() / folder_name(peer.requirements)
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"installing {' '.join(peer.requirements)} into {folder} ...", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        _pip_install(python, peer.requirements)
        complete.touch()
    return str(python)


def folder_name(requirements: tuple[str, ...]) -> str:
    """One folder for one set of requirements and one Python; servekit's follows its entry points too."""
    text = (ROOT / "pyproject.toml").read_text() if "-e" in requirements else ""
    project = text.partition("[dependency-groups]")[0]
    digest = hashlib.sha256(repr((requirements, sys.version, project)).encode()).hexdigest()[:10]
    first = requirements[0] if requirements[0] != "-e" else "servekit"
    return f"{''.join(c if c.isalnum() or c in '.-' else '-' for c in first)}-{digest}"


def versions(python: str) -> dict[str, str]:
    """Version by distribution name, of everything that ``python`` can import."""
    listing = "json.dumps({found.name.lower(): found.version for found in importlib.metadata.distributions()})"
    program = f"import importlib.metadata, json; print({listing})"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(done.stdout))


def _pip_install(python: Path, requirements: tuple[str, ...]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise InstallError(f"pip took more than {INSTALL_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise InstallError(f"pip failed: {' '.join(done.stderr.split()[-30:])}")
