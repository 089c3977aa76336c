"""A version is what `create_backend` saw, whatever is edited, moved or deleted later."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from instance_tools import Scripts, told

pytestmark = pytest.mark.processes

TOOLS = """
import json, os, signal, sys, time, urllib.error, urllib.request
import servekit as serve

def start(runtime):
    options = {"address": sys.argv[2]} if runtime == "ray" else {}
    return serve.init(runtime=runtime, runtime_options=options, http_port=0, debug=True)

def get(path):
    try:
        with urllib.request.urlopen(serve.api.current().url + path) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()

def kill(*names):
    \"\"\"Kill the replica of each backend; return when another is ready.\"\"\"
    for name in names:
        (old,) = serve.status()["backends"][name]["replicas"]
        os.kill(old["pid"], signal.SIGKILL)
        ends = time.monotonic() + 60
        while [r["state"] for r in serve.status()["backends"][name]["replicas"] if r["id"] != old["id"]] != ["ready"]:
            assert time.monotonic() < ends, serve.status()["backends"][name]
            time.sleep(0.02)

def tell(**found):
    print("TOLD" + json.dumps(found), flush=True)
"""
VERSIONS = """
import inspect, multiprocessing, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
import parts.words
try:
    import ray
except ImportError:
    ray = None

def version():
    return "one"

def raising():
    raise RuntimeError("from one")  # in one

class V:
    def __call__(self, request):
        return getattr(self, request.args.get("ask", "answer"))()

    def answer(self):
        return f"{version()} {parts.words.word()}"

    def spawned(self):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return f"{pool.submit(version).result()} {pool.submit(parts.words.word).result()}"

    def forked(self):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.apply(version)

    def subprocess(self):
        code = "import versions, parts.words; print(versions.version(), parts.words.word(), versions.__file__)"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    def task(self):
        return ray.get(ray.remote(version).remote())

    def later(self):
        from parts import late
        return late.word()

    def source(self):
        return inspect.getsource(version)

    def file(self):
        return __file__

    def raising(self):
        raising()
"""
ROLL_BACK = """
import importlib, pathlib, shutil
from tools import *

folder = pathlib.Path(__file__).parent
import versions, parts.words
runtime = sys.argv[1]
start(runtime)
serve.create_backend("v1", versions.V)
serve.create_endpoint("m", "/m", backend="v1")
asks = ["answer", "spawned", "forked", "subprocess", "later", "source", "file", "raising"]
asks += ["task"] if runtime == "ray" else []
before = {ask: get(f"/m?ask={ask}") for ask in asks}
for file in ("versions.py", "parts/words.py", "parts/late.py"):
    path = folder / file
    path.write_text("# a new first line\\n" + path.read_text().replace("one", "two"))
importlib.reload(parts.words), importlib.reload(versions)
serve.create_backend("v2", versions.V, config={"keep_last": 0})
serve.set_traffic("m", {"v2": 1.0})
after = {ask: get(f"/m?ask={ask}") for ask in ("answer", "spawned", "later", "source")}
serve.set_traffic("m", {"v1": 1.0})
kill("v1")
rolled_back = {ask: get(f"/m?ask={ask}") for ask in asks}
(folder / "versions.py").unlink()
shutil.rmtree(folder / "parts")
kill("v1")
gone = {ask: get(f"/m?ask={ask}") for ask in asks}
digests = {name: backend["code_digest"] for name, backend in serve.status()["backends"].items()}
directory = serve.api.current().directory
kept = sorted(os.listdir(f"{directory}/targets")), sorted(os.listdir(f"{directory}/code"))
serve.delete_backend("v2")
left = len(os.listdir(f"{directory}/targets")), len(os.listdir(f"{directory}/code"))
tell(before=before, after=after, rolled_back=rolled_back, gone=gone, digests=digests, kept=kept, left=left)
serve.shutdown()
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_roll_back_brings_the_code_back(runtime: str, scripts: Scripts, request: pytest.FixtureRequest) -> None:
    words = "def word():\n    return 'first of one'\n"
    files = {"tools.py": TOOLS, "versions.py": VERSIONS, "parts/words.py": words, "parts/late.py": words}
    write(scripts.folder, files)
    more = [request.getfixturevalue("ray_address")] if runtime == "ray" else []
    found = told(scripts.start(scripts.write("script.py", ROLL_BACK), runtime, *more))

    before = found["before"]
    assert before["answer"] == before["spawned"] == "one first of one"
    assert before["forked"] == before.get("task", "one") == "one"
    assert before["subprocess"] == f"one first of one {scripts.folder}/versions.py\n"
    assert before["later"] == "first of one"
    assert before["source"] == 'def version():\n    return "one"\n'
    assert before["file"] == f"{scripts.folder}/versions.py"
    assert 'line 14, in raising\n    raise RuntimeError("from one")  # in one\n' in before["raising"]
    after = found["after"]
    assert after["answer"] == after["spawned"] == "two first of two"
    assert (after["later"], after["source"]) == ("first of two", 'def version():\n    return "two"\n')
    for later in (found["rolled_back"], found["gone"]):
        assert later.pop("raising").partition("Traceback")[2] == before["raising"].partition("Traceback")[2]
        assert later == {ask: answer for ask, answer in before.items() if ask != "raising"}
    assert found["digests"]["v1"] != found["digests"]["v2"]
    targets, folders = found["kept"]
    assert len(targets) == 3  # Both refer to their class by its name, so their pickles are the same.
    assert set(folders) < set(targets)
    assert found["left"] == [2, 1]


SOURCES = """
import importlib.abc, importlib.util, pathlib, sys
from tools import *

folder = pathlib.Path(__file__).parent

def by_path(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

class InMemory(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    inner = "def answer(request): return 'in memory'"
    sources = {"made_up": "from made_up.inner import answer", "made_up.inner": inner}
    def find_spec(self, name, path=None, target=None):
        if name in self.sources:
            return importlib.util.spec_from_loader(name, self, is_package=name == "made_up")
    def get_filename(self, name): return f"<memory of {name}>"
    def get_data(self, path): return self.sources[path[11:-1]].encode()
    def is_package(self, name): return name == "made_up"

sys.meta_path.append(InMemory())
sys.path.append(str(folder / "sources.zip"))
import zipped.inner, spaces.deep.below, made_up

serve_these = {
    "same name": by_path("common", folder / "elsewhere" / "common.py").answer,
    "dotted": by_path("some.dotted.name", folder / "elsewhere" / "common.py").answer,
    "zip": zipped.inner.answer,
    "namespace": spaces.deep.below.answer,
    "in memory": made_up.answer,
    "text": "unseen.module:answer",
}
instance = start("process")
for number, (name, target) in enumerate(serve_these.items()):
    serve.create_backend(name, target)
    serve.create_endpoint(name, f"/{number}", backend=name)
imported = "unseen" in sys.modules
for path in folder.rglob("*.py"):
    if instance.directory not in str(path):
        path.unlink()
(folder / "sources.zip").unlink()
kill(*serve_these)
tell(imported=imported, answers={name: get(f"/{number}") for number, name in enumerate(serve_these)})
serve.shutdown()
"""


def test_modules_from_anywhere(scripts: Scripts) -> None:
    """Each is frozen from where this process has it: loaded by path, from an archive, by a finder of the user's own."""
    answer = "def answer(request):\n    return {!r}\n"
    write(
        scripts.folder,
        {
            "tools.py": TOOLS,
            "common.py": answer.format("the wrong one"),
            "elsewhere/common.py": answer.format("by path"),
            "spaces/deep/below.py": answer.format("without __init__"),
            "unseen/module.py": "from . import words\ndef answer(request):\n    return words.WORD\n",
            "unseen/words.py": "WORD = 'not imported by the client'\n",
            "unseen/__init__.py": "",
        },
    )
    with zipfile.ZipFile(scripts.folder / "sources.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "")
        archive.writestr("zipped/inner.py", answer.format("zipped"))
    found = told(scripts.start(scripts.write("script.py", SOURCES)))
    assert found["answers"] == {
        "same name": "by path",
        "dotted": "by path",
        "zip": "zipped",
        "namespace": "without __init__",
        "in memory": "in memory",
        "text": "not imported by the client",
    }
    assert not found["imported"]


IN_PROCESS = """
import importlib
import shapes
import servekit as serve

def test_it(serve_instance):
    serve.create_backend("v1", shapes.shape)
    serve.create_backend("text", "shapes:shape")
    assert serve.status()["backends"]["v1"]["code_digest"]
    for name in ("v1", "text"):
        serve.create_endpoint(name, f"/{name}", backend=name)
        assert serve_instance.client.get(f"/{name}").text == "one"
    with open(shapes.__file__, "w") as file:
        file.write("def shape(request): return 'two' * 1")
    importlib.reload(shapes)
    serve.create_backend("v2", shapes.shape)
    for name in ("v1", "text"):
        serve.update_backend_config(name, {"num_replicas": 2})
        assert {serve_instance.client.get(f"/{name}").text for _ in range(10)} == {"one"}
    digests = {name: backend["code_digest"] for name, backend in serve.status()["backends"].items()}
    assert digests["v1"] == digests["text"] != digests["v2"]
"""


def test_in_process_a_version_is_what_it_was(scripts: Scripts) -> None:
    write(scripts.folder, {"test_shapes.py": IN_PROCESS, "shapes.py": "def shape(request): return 'one'"})
    command = [sys.executable, "-m", "pytest", "-q", "test_shapes.py"]
    ran = subprocess.run(command, cwd=scripts.folder, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


HANDLES = """
import importlib, pickle
from tools import *
import shapes

start("process")
serve.create_backend("b", shapes.area)
serve.create_endpoint("e", backend="b")
handle = serve.get_handle("e")
same = handle.remote(shapes.Square(3)).result()
open(shapes.__file__, "a").write("class Circle:\\n    size = 1\\n")
importlib.reload(shapes)
try:
    handle.remote(shapes.Circle()).result()
except serve.errors.CodeDiffersError as error:
    found = str(error)
from servekit.code.digest import digest_here
tell(same=same, found=found, here=digest_here("shapes"), there=serve.status()["backends"]["b"]["code_digest"])
serve.shutdown()
"""
SHAPES = """
class Square:
    def __init__(self, size):
        self.size = size

def area(request, shape):
    assert isinstance(shape, Square), type(shape)
    return shape.size ** 2
"""


def test_a_class_that_the_other_side_lacks_is_named_with_both_digests(scripts: Scripts) -> None:
    write(scripts.folder, {"tools.py": TOOLS, "shapes.py": SHAPES})
    found = told(scripts.start(scripts.write("script.py", HANDLES)))
    assert found["same"] == 9
    said = f"the code of 'shapes' is {found['here']} where it was sent, and {found['there']} where it arrived"
    assert f"shapes.Circle came by a handle, and nothing has that name here: {said}" in found["found"]


UNGUARDED = """
import helper
CONFIG = "the script's"

def imports_the_script(request):
    return helper.config()

def changes_the_instance(request):
    return serve.status()

if __name__ != "__mp_main__":
    from tools import *
    start("process")
    for number, handler in enumerate((imports_the_script, changes_the_instance)):
        serve.create_backend(str(number), handler)
        serve.create_endpoint(str(number), f"/{number}", backend=str(number))
    tell(init=get("/0"), status=get("/1"))
    serve.shutdown()
"""


def test_a_replica_starts_no_instance(scripts: Scripts) -> None:
    helper = "def config():\n    from script import CONFIG\n    return CONFIG\n"
    write(scripts.folder, {"tools.py": TOOLS, "helper.py": helper})
    found = told(scripts.start(scripts.write("script.py", UNGUARDED)))
    assert "AlreadyRunningError: servekit.init() was called in a replica" in found["init"]
    assert "NotRunningError: this is a replica" in found["status"]


MAIN = """
from tools import *
import dataclasses, linecache

@dataclasses.dataclass
class Made:
    word: str

def in_main(request):
    from . import inner
    raise RuntimeError(inner.WORD + Made(" of main").word)  # the line in main

cell = "def in_cell(request):\\n    raise ValueError('a cell')  # the line in the cell\\n"
linecache.cache["<cell 1>"] = (len(cell), None, cell.splitlines(True), "<cell 1>")
exec(compile(cell, "<cell 1>", "exec"))

start("process")
for number, handler in enumerate((in_main, in_cell)):
    serve.create_backend(str(number), handler)
    serve.create_endpoint(str(number), f"/{number}", backend=str(number))
open(__file__, "w").write("# edited\\n" * 20)
tell(main=get("/0"), cell=get("/1"), digests=[serve.status()["backends"][n]["code_digest"] for n in "01"])
serve.shutdown()
"""


def test_a_main_module_of_a_package_and_a_notebooks_cell(scripts: Scripts) -> None:
    write(
        scripts.folder,
        {
            "tools.py": TOOLS,
            "package/__main__.py": MAIN,
            "package/__init__.py": "",
            "package/inner.py": "WORD = 'inner'\n",
            "run.py": "import runpy; runpy.run_module('package', run_name='__main__', alter_sys=True)",
        },
    )
    script = scripts.start(scripts.folder / "run.py")
    found = told(script)
    assert "# the line in main" in found["main"]
    assert "RuntimeError: inner of main" in found["main"]
    assert "# the line in the cell" in found["cell"]
    assert all(found["digests"])


PYTEST = """
import os, signal, sys
import local_words
import servekit as serve

class Word:
    pass

def answer(request):
    return local_words.WORD + Word().__class__.__module__

def test_it(serve_instance):
    serve.create_backend("b", answer)
    serve.create_endpoint("e", "/e", backend="b")
    assert serve_instance.client.get("/e").text == "words" + __name__
"""


@pytest.mark.parametrize("mode", ["importlib", "prepend"])
def test_pytests_own_imports(mode: str, scripts: Scripts) -> None:
    write(
        scripts.folder,
        {
            "checks/deep/test_words.py": PYTEST,
            "local_words.py": "WORD = 'words'\n",
            "pytest.ini": "[pytest]\npythonpath = .\n",
        },
    )
    command = [sys.executable, "-m", "pytest", "-q", f"--import-mode={mode}", "--servekit-runtime=process", "checks"]
    ran = subprocess.run(command, cwd=scripts.folder, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
