"""What is frozen: the static closure of imports, over whole top-level packages, of what is local."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.code.conftest import Write, frozen, paths

from servekit.code import closure, modules
from servekit.code.closure import imported_names, resolved
from servekit.errors import InvalidInputError


def test_what_is_imported_comes_along_and_what_lies_beside_does_not(write: Write) -> None:
    write(zz_a="import zz_b.c, json, msgspec", zz_b__c="def f():\n    from zz_d import x", zz_d="", zz_not="")
    code = frozen("zz_a")
    assert paths(code) == ["zz_a.py", "zz_b/c.py", "zz_d.py"]
    assert code.namespaces.keys() == {"zz_b"}
    assert "msgspec" in code.distributions
    assert "zz_a" not in sys.modules


def test_a_name_of_the_standard_library_is_the_users_where_it_was_imported_so(write: Write) -> None:
    write(zz_a="import sched, this", sched="", this="")
    assert paths(frozen("zz_a")) == ["zz_a.py"]
    importlib.invalidate_caches()
    importlib.import_module("sched")
    assert paths(frozen("zz_a")) == ["sched.py", "zz_a.py"]


def test_a_package_comes_whole_with_folders_that_have_no_init(write: Write, folder: Path) -> None:
    write(zz_p__init="", zz_p__one__two__deep="", zz_p__tests__test_it="import zz_unmet", zz_p__data__venv__x="")
    (folder / "zz_p/init.py").rename(folder / "zz_p/__init__.py")
    (folder / "zz_p/data/venv/pyvenv.cfg").touch()
    (folder / "zz_p/table.csv").touch()
    (folder / "zz_p/loop").symlink_to(folder / "zz_p")
    assert paths(frozen("zz_p")) == ["zz_p/__init__.py", "zz_p/one/two/deep.py", "zz_p/tests/test_it.py"]


def test_the_digest_is_that_of_the_sources_wherever_they_lie(
    write: Write, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(zz_m="import zz_n", zz_n="1")
    first = frozen("zz_m")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for file in folder.glob("*.py"):
        file.rename(elsewhere / file.name)
    monkeypatch.syspath_prepend(str(elsewhere))
    moved = frozen("zz_m", "zz_n")
    assert moved.digest == first.digest
    assert moved != first
    (elsewhere / "zz_n.py").write_text("2")
    assert frozen("zz_m").digest != first.digest


def test_what_is_left_out_and_what_is_taken_in(write: Write, folder: Path) -> None:
    write(zz_p__a="import zz_q", zz_p__b="", zz_p__sub__c="", zz_q="")
    (folder / "zz_p/page.html").write_text("<p>")
    (folder / "zz_q.json").write_text("{}")
    everything = ["zz_p/a.py", "zz_p/b.py", "zz_p/sub/c.py", "zz_q.py"]
    assert paths(frozen("zz_p")) == everything
    assert paths(frozen("zz_p", exclude=("zz_p.sub", "zz_p/b*"))) == ["zz_p/a.py", "zz_q.py"]
    assert paths(frozen("zz_p", exclude=("zz_p.a",))) == ["zz_p/b.py", "zz_p/sub/c.py"]
    assert frozen("zz_p", exclude=("zz_p.a", "zz_p.sub")).left_out == ("zz_p/a.py", "zz_p/sub")
    assert paths(frozen("zz_p", data=("zz_p/*.html", "*.json"))) == sorted([*everything, "zz_p/page.html", "zz_q.json"])


def test_too_much_names_the_largest(write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(zz_p__small="1", zz_p__large="#" * 2000, zz_p__larger="#" * 3000)
    monkeypatch.setattr(closure, "MOST_BYTES", 4000)
    with pytest.raises(InvalidInputError, match=r"The largest: \S+larger.py .*, \S+large.py .*exclude=.*freeze=False"):
        frozen("zz_p")
    assert paths(frozen("zz_p", exclude=("zz_p.larger",))) == ["zz_p/large.py", "zz_p/small.py"]
    monkeypatch.setattr(closure, "MOST_FILES", 2)
    with pytest.raises(InvalidInputError, match="3 files"):
        frozen("zz_p")


def test_modules_in_an_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(folder / "zz.zip", "w") as archive:
        archive.writestr("zz_zipped/__init__.py", "from . import inner")
        archive.writestr("zz_zipped/deep/__init__.py", "")
        archive.writestr("zz_zipped/inner.py", "import zz_single")
        archive.writestr("zz_single.py", "")
    monkeypatch.syspath_prepend(str(folder / "zz.zip"))
    code = frozen("zz_zipped.inner")
    assert paths(code) == ["zz_single.py", "zz_zipped/__init__.py", "zz_zipped/deep/__init__.py", "zz_zipped/inner.py"]
    assert code.files[0].origin == str(folder / "zz.zip" / "zz_single.py")


def test_what_is_installed_is_recorded(write: Write, folder: Path) -> None:
    """Also in a folder of the user's own, by ``pip install --target``; what lies there beside is not."""
    modules._distributions.cache_clear()  # What was installed when an earlier test asked.
    write(zz_installed__mod="", zz_mine="import zz_installed.mod, pytest, os, servekit, servekit_flask")
    info = folder / "zz_dist-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-dist\nVersion: 2.5\n")
    (info / "RECORD").write_text("zz_installed/mod.py,,\nzz_dist-2.5.dist-info/RECORD,,\n")
    code = frozen("zz_mine")
    assert paths(code) == ["zz_mine.py"]
    assert code.distributions["zz-dist"] == "2.5"
    assert {"pytest", "servekit"} <= code.distributions.keys()


def test_a_file_that_is_not_python_is_frozen_and_not_read(write: Write) -> None:
    write(zz_p__template="{{ not python }}", zz_p__a="")
    assert paths(frozen("zz_p")) == ["zz_p/a.py", "zz_p/template.py"]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b as c, d", {"a.b", "d"}),
        ("from a import b, c", {"a", "a.b", "a.c"}),
        ("from a import *", {"a"}),
        ("from . import x", {"pkg.sub", "pkg.sub.x"}),
        ("from ..y import x", {"pkg.y", "pkg.y.x"}),
        ("from ....far import x", set()),
        ("if 0:\n    try:\n        import a\n    except ImportError: pass", {"a"}),
        ("import importlib; importlib.import_module('a.b')", {"importlib", "a.b"}),
        ("__import__('a'); __import__(name); import_module('.c', 'a')", {"a"}),
        ("not python at all", set()),
        ("import a\x00", set()),
    ],
)
def test_what_a_source_imports(source: str, names: set[str]) -> None:
    assert imported_names(source.encode(), "pkg.sub") == names


@given(st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), min_size=1, max_size=4), st.integers(1, 6))
def test_relative_names_stay_within_their_package(parts: list[str], level: int) -> None:
    found = resolved("x", level, ".".join(parts))
    assert found == ("" if level > len(parts) else ".".join([*parts[: len(parts) - level + 1], "x"]))


def test_the_same_from_another_process(write: Write, folder: Path) -> None:
    """Whatever else is imported there, and in whatever order."""
    import subprocess

    write(zz_p__a="import zz_q", zz_p__b="", zz_q="from zz_p import b")
    script = "from tests.code.conftest import frozen; import {}; print(frozen('zz_p').digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script.format(first)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for first in ("json", "zz_q, zz_p.b", "zz_p.a")
    }
    assert len(digests) == 1
    assert digests.pop().strip() == frozen("zz_p").digest
