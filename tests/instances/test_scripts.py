"""Users' scripts as they stand: handlers in `__main__` and in modules beside it, with no guard."""

from __future__ import annotations

import pytest
from instance_tools import told
from tests.support.waiting import until

pytestmark = pytest.mark.processes

BESIDE = """
import os

SUFFIX = " from beside"

class Model:
    def __init__(self, name, loud=False):
        self.name = name.upper() if loud else name

    def __call__(self, request):
        return self.name + SUFFIX
"""
SCRIPT = """
import dataclasses, json, sys, urllib.request
import servekit as serve
from beside import Model, SUFFIX

@dataclasses.dataclass
class Config:
    greeting: str

def greet(config, name):
    return f"{config.greeting} {name}"

class InMain:
    def __init__(self, config):
        self.config = config

    def __call__(self, request):
        return greet(self.config, request.args["name"])

def function_in_main(request):
    return greet(Config("function says"), request.args["name"]) + SUFFIX

serve.init(runtime=sys.argv[1], http_port=0)
serve.create_backend("beside", Model, "module", init_kwargs={"loud": True}, wait=False)
serve.create_backend("main", InMain, Config("class says"), wait=False)
serve.create_backend("function", function_in_main, wait=False)
serve.create_backend("by name", "beside:Model", "named")
answers = {}
for name in ("beside", "main", "function", "by name"):
    route = "/" + name.replace(" ", "-")
    serve.create_endpoint(name, route, backend=name)
    with urllib.request.urlopen(f"{serve.api.current().url}{route}?name=me") as response:
        answers[name] = response.read().decode()
print("TOLD" + json.dumps(answers), flush=True)
serve.shutdown()
"""


def test_handlers_in_main_and_beside_it(scripts, runtime, ray_environ):
    """Run from another folder, as `python path/to/script.py` is."""
    scripts.write("beside.py", BESIDE)
    script = scripts.start(scripts.write("script.py", SCRIPT), runtime, **ray_environ)
    assert told(script) == {
        "beside": "MODULE from beside",
        "main": "class says me",
        "function": "function says me from beside",
        "by name": "named from beside",
    }
    assert script.wait(60) == 0
    until(lambda: not scripts.processes())
    assert scripts.instances == []


POOLS = """
import concurrent.futures, functools, json, multiprocessing, os, sys, urllib.request
import flask, msgspec
import servekit as serve
from flask import request

factor = None

class Item(msgspec.Struct):
    number: int

class TooSmall(Exception):
    def __init__(self, item, least):
        super().__init__(item, least)

def begin(given):
    global factor
    factor = given

def work(item):
    if item.number < 0:
        raise TooSmall(item, 0)
    return Item(item.number * factor), os.getpid()

@functools.cache
def tripled(number):
    return number * 3

def put(queue, item):
    queue.put(item)

app = flask.Flask(__name__)

@app.get("/pools/<method>")
def pools(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, context, begin, (2,)) as pool:
        found, pid = pool.submit(work, Item(3)).result()
        refused = pool.submit(work, Item(-1)).exception()
        cached = pool.submit(tripled, 2).result()
        unnamed = pool.submit(lambda: Item(9)).result()
    with context.Pool(1, begin, (5,)) as pool:
        mapped = [item.number for item, _ in pool.map(work, [Item(1), Item(2)])]
    queue = context.SimpleQueue()
    process = context.Process(target=put, args=(queue, Item(4)))
    process.start()
    sent = queue.get()
    process.join()
    return {
        "its own classes": {type(one) is Item for one in (found, refused.args[0], unnamed, sent)} == {True},
        "elsewhere": pid != os.getpid(),
        "refused": type(refused) is TooSmall,
        "numbers": [found.number, refused.args[0].number, cached, unnamed.number, *mapped, sent.number],
        "path": request.path,
    }

@app.get("/jsonify")
def jsonify():
    return flask.jsonify(number=tripled(1), begun=factor)

def make_app():
    return app

print("BEGUN", flush=True)
serve.init(runtime=sys.argv[1], http_port=0)
serve.create_backend("copied", app, adapter="wsgi", wait=False)
serve.create_backend("made", make_app, adapter="wsgi", adapter_options={"factory": True})
serve.create_endpoint("copied", "/copied", mount=True, backend="copied")
serve.create_endpoint("made", "/made", mount=True, backend="made")
answers = {}
for path in ("copied/jsonify", "made/jsonify", *(f"made/pools/{method}" for method in sys.argv[2:])):
    with urllib.request.urlopen(f"{serve.api.current().url}/{path}") as response:
        answers[path] = json.load(response)
print("TOLD" + json.dumps(answers), flush=True)
serve.shutdown()
"""


def test_what_a_script_defines_is_known_in_process_pools_of_its_handlers(scripts, runtime, ray_environ):
    methods = ["fork", "spawn", "forkserver"]
    script = scripts.start(scripts.write("pools.py", POOLS), runtime, *methods, **ray_environ)
    answers = told(script)
    plain = {"number": 3, "begun": None}
    assert (answers.pop("copied/jsonify"), answers.pop("made/jsonify")) == (plain, plain)
    for method in methods:
        assert answers[f"made/pools/{method}"] == {
            "its own classes": True,
            "elsewhere": True,
            "refused": True,
            "numbers": [6, -1, 6, 9, 5, 10, 4],
            "path": f"/pools/{method}",
        }
    assert script.wait(60) == 0
    until(lambda: not scripts.processes())
    assert scripts.instances == []
