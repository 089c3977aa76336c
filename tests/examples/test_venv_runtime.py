"""The example of a third-party runtime. Its own tests run where it is installed as a wheel: `tests/packaging`."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "venv_runtime"


def test_it_imports_only_what_is_public() -> None:
    public = {"servekit"} | {
        f"servekit.{name}" for name in ("interfaces", "hookspecs", "errors", "processes", "worker")
    }
    imported = {
        line.split()[1]
        for path in EXAMPLE.glob("src/**/*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from servekit", "import servekit"))
    }
    own = {name for name in imported if name.startswith("servekit_venv")}
    assert imported - own
    assert imported - own <= public
