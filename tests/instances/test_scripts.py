"""Users' scripts as they stand: handlers in `__main__` and in modules beside it, with no guard."""

from __future__ import annotations

import pytest
from instance_tools import told, until

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


@pytest.mark.parametrize("runtime", ["process", pytest.param("ray", marks=pytest.mark.ray)])
def test_handlers_in_main_and_beside_it(scripts, runtime):
    """Run from another folder, as `python path/to/script.py` is."""
    scripts.write("beside.py", BESIDE)
    script = scripts.start(scripts.write("script.py", SCRIPT), runtime)
    assert told(script) == {
        "beside": "MODULE from beside",
        "main": "class says me",
        "function": "function says me from beside",
        "by name": "named from beside",
    }
    assert script.wait(60) == 0
    until(lambda: not scripts.processes())
    assert scripts.instances == []
