"""From a bundle to a process that runs its code: folder, finder, children, and a machine without the files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.code.conftest import Write, frozen

from servekit.code import bundle, finder
from servekit.code.bundle import Code, CodeFile

RUN = """
import json, os, sys
from servekit.code.place import CodePlace
directory, digest, data = sys.argv[1], sys.argv[2], bytes.fromhex(sys.stdin.readline())
place = CodePlace(directory, digest, data)
exec(sys.argv[3])
sys.stdin.readline()
place.leave()
"""


class Process:
    """A process that runs frozen code, and `leave`\\ s it when it is told to."""

    def __init__(self, directory: Path, code: Code, act: str = "print('there', flush=True)", *, received: bool = True):
        data = code.encode()
        self.digest = hashlib.sha256(data).hexdigest()
        if not received:
            (directory / "code").mkdir(parents=True)
            bundle.unpack(code, directory / "code" / self.digest)
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(directory), self.digest, act],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "TMPDIR": str(directory)},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(data.hex() * received + "\n")
        self._process.stdin.flush()
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline().strip()

    def close(self) -> None:
        with self._process as process:
            process.kill()

    def leave(self) -> None:
        self._process.communicate("\n", timeout=60)
        assert self._process.returncode == 0


def test_the_folder_is_whole_and_read_only(tmp_path: Path) -> None:
    code = Code((CodeFile("a/b.py", "a.b", "/x/a/b.py", False, b"1"),), {"a": ("/x/a",)})
    folder = tmp_path / "code" / "digest"
    folder.parent.mkdir()
    bundle.unpack(code, folder)
    bundle.unpack(code, folder)
    assert os.listdir(tmp_path / "code") == ["digest"]
    assert {path.name for path in folder.rglob("*.*")} == {
        "b.py",
        "sitecustomize.py",
        "_servekit_finder.py",
        finder.MANIFEST,
    }
    assert all(path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o400) for path in folder.rglob("*"))
    assert bundle.decode(code.encode()) == code


def test_a_module_runs_as_it_was_under_its_original_name(write: Write, folder: Path, tmp_path: Path) -> None:
    """Beside data that was not frozen, and where another module of the name is on the path."""
    write(zz_p__a="from . import b\nwhere = __file__", zz_p__b="word = 'frozen'", zz_p__extra="")
    (folder / "zz_p/data.txt").write_text("data")
    code = frozen("zz_p")
    write(zz_p__b="word = 'edited'", zz_p__late="", zz_p__extra="")
    act = f"""
sys.path.append({str(folder)!r})
import zz_p.a, linecache, importlib.resources, pkgutil, subprocess
print(json.dumps([
    zz_p.a.b.word, zz_p.a.where, linecache.getline(zz_p.a.b.__file__, 1),
    importlib.resources.files("zz_p").joinpath("data.txt").read_text(),
    sorted({{info.name for info in pkgutil.iter_modules(zz_p.__path__)}}),
    subprocess.check_output([sys.executable, "-c", "import zz_p.b as b; print(b.word, b.__file__)"], text=True),
]), flush=True)
"""
    process = Process(tmp_path, code, act, received=False)
    b = str(folder / "zz_p/b.py")
    assert json.loads(process.said) == [
        "frozen",
        str(folder / "zz_p/a.py"),
        "word = 'frozen'",
        "data",
        ["a", "b", "extra"],
        f"frozen {b}\n",
    ]
    process.leave()


ODDS = """
import zz_p.a, zz_p.left.out, importlib, pathlib, subprocess, threading, sys, io
here = pathlib.Path(zz_p.a.__file__).parent
try:
    import zz_p.late
    late = "found"
except ModuleNotFoundError:
    late = "not found"
sys.stderr = io.StringIO()
thread = threading.Thread(target=zz_p.a.fails)
thread.start()
thread.join()
print(json.dumps([
    late,
    zz_p.left.out.word,
    (here / "other/file.txt").read_text(),
    subprocess.check_output([here / "run.sh"], text=True),
    "raise ValueError('frozen')" in sys.stderr.getvalue(),
]), flush=True)
"""


def test_code_that_came_later_what_was_left_out_data_and_programs(write: Write, folder: Path, tmp_path: Path) -> None:
    write(zz_p__a="def fails():\n    raise ValueError('frozen')", zz_p__left__out="word = 'frozen'", zz_p__init="")
    (folder / "zz_p/init.py").rename(folder / "zz_p/__init__.py")
    (folder / "zz_p/other").mkdir()
    (folder / "zz_p/other/file.txt").write_text("as it is")
    (folder / "zz_p/run.sh").write_text("#!/bin/sh\necho frozen")
    (folder / "zz_p/run.sh").chmod(0o755)
    code = frozen("zz_p", exclude=("zz_p.left",), data=("zz_p/*.sh",))
    assert code.left_out == ("zz_p/left",)
    write(zz_p__a="def fails():\n    raise ValueError('edited')", zz_p__left__out="word = 'as it is'", zz_p__late="")
    (folder / "zz_p/run.sh").write_text("#!/bin/sh\necho edited")
    process = Process(tmp_path, code, f"sys.path.append({str(folder)!r})" + ODDS, received=False)
    assert json.loads(process.said) == ["not found", "as it is", "as it is", "frozen\n", True]
    process.leave()


def test_data_beside_a_module_in_an_archive(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(folder / "zz.zip", "w") as archive:
        archive.writestr("zz_zipped/__init__.py", "")
        archive.writestr("zz_zipped/data.txt", "zipped")
    monkeypatch.syspath_prepend(str(folder / "zz.zip"))
    act = (
        "import pkgutil, importlib.resources as r; print(pkgutil.get_data('zz_zipped', 'data.txt').decode(), "
        "r.files('zz_zipped').joinpath('data.txt').read_text(), flush=True)"
    )
    process = Process(tmp_path, frozen("zz_zipped"), act)
    assert process.said == "zipped zipped"
    process.leave()


def test_a_module_of_the_users_that_is_not_frozen_is_told_of(write: Write, folder: Path, tmp_path: Path) -> None:
    write(zz_a="import importlib\nname = 'zz_' + 'b'\nb = importlib.import_module(name)", zz_b="")
    act = f"""
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
sys.path.append({str(folder)!r})
finder, = [finder for finder in sys.meta_path if type(finder).__name__ == "FrozenFinder"]
finder.local_folders = [{str(folder)!r}]
import json, zz_a
"""
    process = Process(tmp_path, frozen("zz_a"), act)
    assert process.said.startswith(
        f"module zz_b is not frozen with this backend, and is imported from {folder}/zz_b.py"
    )
    process.leave()


def test_data_that_was_included_is_beside_the_module(write: Write, folder: Path, tmp_path: Path) -> None:
    write(zz_p__a="import os\ntext = open(os.path.join(os.path.dirname(__file__), 'word.txt')).read()", zz_q="")
    (folder / "zz_p/word.txt").write_text("frozen")
    code = frozen("zz_p", "zz_q", data=("zz_p/*.txt",))
    (folder / "zz_p/word.txt").write_text("edited")
    process = Process(tmp_path, code, "import zz_p.a, zz_q; print(zz_p.a.text, zz_q.__file__, flush=True)")
    assert process.said == f"frozen {folder / 'zz_q.py'}"
    process.leave()


def test_received_code_goes_with_the_last_process_that_runs_it(write: Write, tmp_path: Path) -> None:
    write(zz_m="word = 'frozen'")
    act = "import zz_m; print(zz_m.word, flush=True)"
    processes = [Process(tmp_path, frozen("zz_m"), act) for _ in range(3)]
    assert [process.said for process in processes] == ["frozen"] * 3
    base = tmp_path / f"servekit-{os.getuid()}"
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in (base, *base.glob("*"), *base.glob("*/*")))
    for process in processes:
        assert os.listdir(base) == [tmp_path.name]
        process.leave()
    assert os.listdir(base) == []


def test_a_folder_that_others_made_first_is_not_used(write: Write, tmp_path: Path) -> None:
    write(zz_m="")
    (tmp_path / f"servekit-{os.getuid()}").mkdir()
    (tmp_path / f"servekit-{os.getuid()}").chmod(0o777)
    process = Process(tmp_path, frozen("zz_m"))
    assert process.said == ""
    process.close()


def test_what_is_another_version_here(write: Write, tmp_path: Path) -> None:
    code = Code(distributions={"msgspec": "0.0.1", "zz-nowhere": "1.2"}, python="2.7.18", texts={"x": "y"})
    process = Process(tmp_path, code, "print(json.dumps(list(place.differences())), flush=True)")
    python, msgspec, nowhere = json.loads(process.said)
    assert python.endswith("here, 2.7.18 where the backend was created")
    assert msgspec.startswith("msgspec ")
    assert "0.0.1 where" in msgspec
    assert nowhere == "zz-nowhere none here, 1.2 where the backend was created"
    process.leave()


def test_a_sitecustomize_of_the_users_own_runs_in_children(write: Write, folder: Path, tmp_path: Path) -> None:
    write(zz_m="word = 'frozen'")
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import sys; sys.customized = True")
    act = f"""
import subprocess
os.environ["PYTHONPATH"] += os.pathsep + {str(other)!r}
script = "import sys, zz_m; print(zz_m.word, sys.customized)"
print(subprocess.check_output([sys.executable, "-c", script], text=True), flush=True)
"""
    process = Process(tmp_path, frozen("zz_m"), act)
    assert process.said == "frozen True"
    process.leave()


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_options_that_are_refused(option: str, serve_instance: object) -> None:
    import servekit as serve

    for taken in ({"zz_nothing"}, iter(["zz_nothing"]), {"zz_nothing": 1}.keys()):
        with pytest.raises(serve.errors.InvalidInputError, match="zz_nothing"):
            serve.create_backend("b", lambda request: "", **{option: taken})
    for value, said in [
        ("pkg", f"{option} must be a list of text, not str: 'pkg'; for one, write {option}="),
        (3, f"{option} must be a list of text, not int: 3"),
        (["/etc/*"], "relative to the folder"),
        (["../x"], "relative to the folder"),
        ([""], "relative to the folder"),
        ([1], rf"{option} must be a list of text, not \[1\]"),
        (iter([1]), "relative to the folder"),
    ]:
        with pytest.raises(serve.errors.InvalidInputError, match=said):
            serve.create_backend("b", len, **{option: value})
    with pytest.raises(serve.errors.InvalidInputError, match="freeze must be True or False, not str: 'no'"):
        serve.create_backend("b", len, freeze="no")
    with pytest.raises(serve.errors.InvalidInputError, match="leave out freeze=False"):
        serve.create_backend("b", len, freeze=False, **{option: ["x"]})
    with pytest.raises(serve.errors.InvalidInputError, match="exclude: nothing of the target's code is 'zz_nothing'"):
        serve.create_backend("b", lambda request: "", exclude=["zz_nothing"])
    with pytest.raises(serve.errors.InvalidInputError, match="nothing is found of 'zz_nothing.yaml'"):
        serve.create_backend("b", lambda request: "", include=["zz_nothing.yaml"])
