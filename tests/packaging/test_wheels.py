"""Plugins as packages: installed, they are there by name; removed, they are missed by name; broken, they are blamed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from packaging_tools import EXAMPLES, ROOT, Installation

pytestmark = pytest.mark.processes

STRANGER = """
    from servekit.hookspecs import hookimpl
    from servekit.interfaces import RequestAdapter, Response, RoutingPolicy
    from servekit_process import ProcessRuntime

    class Last(RoutingPolicy):
        def choose_backend(self, request, backends):
            return backends[-1]

    class Shout(RequestAdapter):
        def __init__(self, mark="!"):
            self.mark = mark
        def decode(self, request):
            return request.body.decode()
        def encode(self, result):
            return Response(200, [], (result.upper() + self.mark).encode())

    class Elsewhere(ProcessRuntime):
        '''A runtime of its own name.'''

    @hookimpl
    def servekit_register_routing_policies():
        return {"last": Last}

    @hookimpl
    def servekit_register_request_adapters():
        return {"shout": Shout}

    @hookimpl
    def servekit_register_replica_runtimes():
        return {"elsewhere": Elsewhere}
"""
USE = """
    import json, urllib.request
    import servekit as serve

    if __name__ == "__main__":
        with serve.init(runtime="elsewhere", http_port=0) as instance:
            serve.create_backend("one", lambda text: "one " + text, adapter="shout")
            serve.create_backend("two", lambda text: "two " + text, adapter="shout", adapter_options={"mark": "?"})
            serve.create_endpoint("e", "/e", ["POST"], policy="last")
            serve.set_traffic("e", {"one": 0.5, "two": 0.5})
            answers = [
                urllib.request.urlopen(instance.url + "/e", data=b"hello").read().decode() for _ in range(3)
            ]
        print(json.dumps([answers, serve.__file__]))
"""
MISS = """
    import json
    import servekit as serve

    def error(call):
        try:
            call()
        except Exception as problem:
            return [type(problem).__name__, str(problem)]

    if __name__ == "__main__":
        found = [error(lambda: serve.init(runtime="elsewhere", http_port=0))]
        with serve.init(runtime="process", http_port=0) as instance:
            found.append(error(lambda: serve.create_endpoint("e", "/e", policy="last")))
            found.append(error(lambda: serve.create_backend("b", print, adapter="shout")))
        print(json.dumps(found))
"""


def test_a_package_that_nobody_knows_gives_all_three_and_is_missed_when_it_is_gone(installed: Installation) -> None:
    installed.install(installed.package("a-stranger", STRANGER))
    (answers, where), _ = installed.run(USE)
    assert answers[0] in ("TWO HELLO?", "ONE HELLO!")
    assert len(set(answers)) == 1
    assert str(ROOT) not in where

    installed.pip("uninstall", "-y", "a-stranger")
    runtime, policy, adapter = installed.run(MISS)[0]
    assert "elsewhere" in runtime[1]
    assert "process" in runtime[1]
    assert "last" in policy[1]
    assert "weighted" in policy[1]
    assert "shout" in adapter[1]
    assert "flask" in adapter[1]


GOOD = """
    from servekit.hookspecs import hookimpl
    from servekit_weighted import WeightedSplit

    @hookimpl
    def servekit_register_routing_policies():
        return {NAMES}
"""
SERVE = """
    import json, logging, urllib.request
    import servekit as serve

    def error(call):
        try:
            call()
        except Exception as problem:
            return str(problem)

    if __name__ == "__main__":
        with serve.init(runtime="process", http_port=0) as instance:
            serve.create_backend("b", lambda request: "served")
            serve.create_endpoint("e", "/e", backend="b", policy="sound")
            answer = urllib.request.urlopen(instance.url + "/e").read().decode()
            errors = {
                name: error(lambda: serve.create_endpoint(name, f"/{name}", policy=name)) for name in ("twice", "lost")
            }
        print(json.dumps([answer, errors]))
"""


def test_faulty_packages_are_each_blamed_while_the_rest_serves(installed: Installation) -> None:
    lost = GOOD.replace("NAMES", "'lost': WeightedSplit")
    installed.install(
        installed.package("sound-one", GOOD.replace("NAMES", "'sound': WeightedSplit, 'twice': WeightedSplit")),
        installed.package("collides-with-it", GOOD.replace("NAMES", "'twice': WeightedSplit"), version="2.5"),
        installed.package("fails-on-import", "raise RuntimeError('no such device')", version="3.1"),
        installed.package("misspells-a-hook", lost.replace("register_routing_policies", "register_routing_policy")),
        installed.package("has-a-wrong-signature", lost.replace("policies()", "policies(surprise)")),
    )
    (answer, errors), stderr = installed.run(SERVE)
    assert answer == "served"
    blamed = {
        "collides-with-it": ["sound-one", "2.5", "twice"],
        "fails-on-import": ["3.1", "RuntimeError", "no such device"],
        "misspells-a-hook": ["servekit_register_routing_policy", "servekit_register_routing_policies"],
        "has-a-wrong-signature": ["servekit_register_routing_policies", "surprise"],
    }
    for distribution, words in blamed.items():
        (line, *_) = [line for line in stderr.splitlines() if distribution in line and "INFO" not in line]
        assert all(word in line for word in words), line
    assert "sound-one" in errors["twice"]
    assert "collides-with-it" in errors["twice"]
    assert "misspells-a-hook" in errors["lost"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_pass_their_own_tests_as_wheels(installed: Installation, example: Path) -> None:
    built = installed.wheel(example, installed.folder / "wheels")
    installed.pip("install", f"{built}[test]")
    shutil.copytree(example / "tests", installed.folder / "tests")
    command = [installed.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "tests"]
    done = subprocess.run(
        list(map(str, command)), cwd=installed.folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    # The conformance kit skips what an adapter does not claim; of the others' tests, none may.
    assert "skipped" not in done.stdout or example.name == "messagepack_adapter"
