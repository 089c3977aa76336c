"""Typical mistakes, each made for real, and the whole message that answers it: they stand in ``messages.txt``.

Whoever changes a message sees it there as a reader would. ``SERVEKIT_WRITE_MESSAGES=1`` writes the file anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastapi
import flask
import msgspec
import pytest

import servekit as serve
from servekit.cli import main as cli

Mistake = Callable[[Any], Any]
"""Is given the instance; raises, or returns what the user reads."""

FILE = Path(__file__).with_name("messages.txt")
WRITE = os.environ.get("SERVEKIT_WRITE_MESSAGES") == "1"


def hello(request: Any) -> str:
    return "hello"


class Model:
    def __init__(self, path: str) -> None: ...

    def __call__(self, request: Any) -> str:
        return "hello"

    def train(self, request: Any) -> str:
        return "trained"


class WithoutCall:
    def method(self, request: Any) -> str:
        return "hello"


class WithoutSelf:
    def __call__() -> str:  # type: ignore[misc]
        return "hello"


class Nothing:
    """A class of which nothing can be called."""


class Fails:
    def __init__(self) -> None:
        open("/no/such/weights.bin")  # noqa: SIM115

    def __call__(self, request: Any) -> str:
        return "hello"


def habit_words() -> serve.metrics.Counter:
    return serve.metrics.counter("habit_words", "Words", labels=["language"])


class Slow:
    started, go_on = threading.Event(), threading.Event()

    def __init__(self) -> None:
        self.started.set()
        self.go_on.wait(30)

    def __call__(self, request: Any) -> str:
        return "hello"


def two_arguments(request: Any, numbers: Any) -> str:
    return "hello"


def create(target: Any, *args: Any, **more: Any) -> Mistake:
    return lambda _: serve.create_backend("new", target, *args, **more)


def config(target: Any = hello, **keys: Any) -> Mistake:
    return create(target, config=keys)


def endpoint(*args: Any, **more: Any) -> Mistake:
    return lambda _: serve.create_endpoint("new", *args, **more)


def traffic(name: Any, shares: Any) -> Mistake:
    return lambda _: serve.set_traffic(name, shares)


def call(*args: Any, method: str | None = None) -> Mistake:
    return lambda _: serve.get_handle("model").options(method).remote(*args).result()


def answered(target: Any, **keys: Any) -> Mistake:
    """What a handle's call of ``target`` raises."""

    def mistake(_: Any) -> Any:
        serve.create_backend("new", target, config=keys)
        serve.create_endpoint("new", backend="new")
        return serve.get_handle("new").remote().result()

    return mistake


def partly_typed(order: dict[str, int], note) -> str:  # type: ignore[no-untyped-def]
    return "hello"


def of_user(user_id: int) -> str:
    return "hello"


def of_order(order: dict[str, int]) -> str:
    return "hello"


def routed(target: Any, route: str = "/new", **more: Any) -> Mistake:
    def mistake(_: Any) -> None:
        serve.create_backend("new", target)
        serve.create_endpoint("new", route, backend="new", **more)

    return mistake


def updated(**keys: Any) -> Mistake:
    return lambda _: serve.update_backend_config("model", keys)


def returns_a_future(request: Any) -> Any:
    return serve.get_handle("model").remote()


@serve.accept_batch
def too_few(requests: list[Any]) -> list[Any]:
    return []


@serve.accept_batch
def no_list(requests: list[Any]) -> Any:
    return len(requests)


def generator(request: Any) -> Any:
    yield "hello"


class Point(msgspec.Struct):
    x: float


def typed(point: Point, times: int = 1) -> float:
    return point.x * times


def two_bodies(point: Point, other: Point) -> None: ...


def any_number(point: Point, **more: int) -> None: ...


def not_to_be_found(point: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


@serve.accept_batch
def batch_of_one(point: Point) -> list[float]:
    return []


@serve.accept_batch
def batch_with_default(points: list[Point], times: list[int] = []) -> list[float]:  # noqa: B006
    return []


def sent(body: str, query: str = "") -> Mistake:
    """What a client reads that sends this to `typed`."""

    def mistake(instance: Any) -> str:
        serve.create_backend("new", typed)
        serve.create_endpoint("new", "/new", methods=["POST"], backend="new")
        answer = instance.client.post(f"/new?{query}", content=body.encode())
        return f"{answer.status_code}: {answer.json()['error']['message']}"

    return mistake


def of_module(name: str) -> Mistake:
    return lambda _: getattr(serve, name)


def contains_itself() -> dict[str, Any]:
    given: dict[str, Any] = {}
    given["itself"] = given
    return given


def deleted_meanwhile(_: Any) -> None:
    def delete() -> None:
        Slow.started.wait(30)
        timer.start()
        serve.delete_backend("new")  # Returns when the replica has ended.

    timer = threading.Timer(0.2, Slow.go_on.set)
    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        serve.create_backend("new", Slow)
    finally:
        Slow.go_on.set()
        deleting.join()


def command(*arguments: str) -> Mistake:
    def mistake(_: Any) -> str:
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            assert cli.main(arguments) == 2
        return printed.getvalue()

    return mistake


IN_PROCESS: dict[str, Mistake] = {
    # -- create_backend
    "a function in the place of a name": lambda _: serve.create_backend(hello, "new"),  # type: ignore[arg-type]
    "no target": lambda _: serve.create_backend("new"),  # type: ignore[call-arg]
    "a target that is no path": create("handler"),
    "a target that cannot be called": create({"path": "weights.bin"}),
    "a module that is not there": create("no_such_module:handler"),
    "a class without what its __init__ needs": create(Model),
    "too much for __init__": create(Model, "weights.bin", 2),
    "init arguments for a function": create(hello, "weights.bin"),
    "init_kwargs that are no dict": create(Model, init_kwargs=5),
    "num_replicas as an argument": create(hello, num_replicas=2),
    "an argument misspelt": create(hello, adaptor="flask"),
    "a config key misspelt": config(num_replica=2),
    "a config key of today's Ray Serve": config(max_ongoing_requests=2),
    "a number as text": config(num_replicas="2"),
    "a number below zero": config(num_replicas=-1),
    "a config that is no dict": create(hello, config=2),
    "a key of autoscaling misspelt": config(autoscaling={"max": 4}),
    "fewer replicas at most than at least": config(autoscaling={"min_replicas": 4, "max_replicas": 2}),
    "batches for a handler that takes none": config(max_batch_size=8),
    "a callable method that the class lacks": create(Model, "w", config={"callable_methods": ["trian"]}),
    "a private callable method": create(Model, "w", config={"callable_methods": ["_train"]}),
    "callable methods as text": create(Model, "w", config={"callable_methods": "train"}),
    "callable methods of a function": config(callable_methods=["train"]),
    "a Flask application as a handler": create(flask.Flask("shop")),
    "a FastAPI application as a handler": create(fastapi.FastAPI()),
    "an adapter misspelt": create(hello, adapter="flusk"),
    "an option that the adapter lacks": create(hello, adapter_options={"secret": "x"}),
    "an adapter's option of the wrong type": create(hello, adapter_options={"secret_key": 5}),
    "a name that is taken": lambda _: serve.create_backend("model", hello),
    "a name with a line break": lambda _: serve.create_backend("new\n", hello),
    "a __call__ without self": create(WithoutSelf),
    "a class with nothing to call": create(Nothing),
    "a generator for __init__": create(Model, generator(None)),
    "user_config without reconfigure": config(user_config={"threshold": 0.5}),
    "user_config that is not plain": config(user_config={"model": object()}),
    "a list of one as text": create(hello, include="templates/*.html"),
    "a truth as text": create(hello, wait="no"),
    "an __init__ that raises": create(Fails),
    "a backend deleted while it is created": deleted_meanwhile,
    # -- create_endpoint
    "a method misspelt": endpoint("/new", methods=["POTS"]),
    "a method as text": endpoint("/new", methods="POST"),
    "a backend as the third argument": endpoint("/new", "model"),
    "a backend as the fourth argument": endpoint("/new", ["GET"], "model"),
    "a route without a slash": endpoint("new"),
    "a reserved route": endpoint("/-/new"),
    "a route that is taken": endpoint("/model"),
    "a converter that is none": endpoint("/users/<number:id>"),
    "a backend that is not there": endpoint("/new", backend="modle"),
    "a policy misspelt": endpoint("/new", policy="wieghted"),
    "an option that the policy lacks": endpoint("/new", policy_options={"seeds": 1}),
    "an option that cannot travel": endpoint("/new", policy_options={"key": hello}),
    "no time at all": endpoint("/new", timeout_s=0),
    "a time as text": endpoint("/new", timeout_s="1s"),
    "a route to a handler of two arguments": routed(two_arguments),
    # -- set_traffic, update_backend_config, delete_…
    "percent": traffic("model", {"model": 90, "other": 10}),
    "weights below 1": traffic("model", {"model": 0.9}),
    "a weight as text": traffic("model", {"model": "all"}),
    "traffic that is no dict": traffic("model", ["model"]),
    "an endpoint misspelt": traffic("modle", {"model": 1.0}),
    "a backend misspelt": traffic("model", {"modle": 1.0}),
    "a backend in use, to be deleted": lambda _: serve.delete_backend("model"),
    "a backend to be deleted, misspelt": lambda _: serve.delete_backend("modle"),
    "a change of a key that is none": lambda _: serve.update_backend_config("model", {"replicas": 2}),
    # -- handles
    "a handle of a backend": lambda _: [serve.create_backend("new", hello), serve.get_handle("new")],
    "a handle's endpoint misspelt": lambda _: serve.get_handle("modle"),
    "a handle that is called": lambda _: serve.get_handle("model")(1),
    "a method called as an attribute": lambda _: serve.get_handle("model").train.remote(),
    "a private method of a handler": call(method="_train"),
    "a method that the handler lacks": call(method="trian"),
    "a handler without __call__": answered(WithoutCall),
    "a negative time for a call": lambda _: serve.get_handle("model").options(timeout_s=-1),
    "a generator as an argument": call(generator(None)),
    "a future as an argument": lambda _: call(serve.get_handle("model").remote())(_),
    "a future returned, to a handle": answered(returns_a_future),
    "a batch with too few answers": answered(too_few),
    "a batch that is no list": answered(no_list),
    "a number of seconds as text, for a result": lambda _: serve.get_handle("model").remote().result("3"),
    # -- the adapter json
    "json: a field of the wrong type": sent('{"x": "one"}'),
    "json: a field that is missing": sent("{}"),
    "json: a query that is no number": sent('{"x": 1}', "times=many"),
    "json: a body that is no JSON": sent("x=1"),
    "json: a body that is empty": sent(""),
    "json: two parameters for one body": create(two_bodies),
    "json: a parameter for whatever comes": create(any_number, adapter="json"),
    "json: an annotation that names nothing": create(not_to_be_found, adapter="json"),
    "json: a batch that is no list": create(batch_of_one, adapter="json"),
    "json: a batch with a default": create(batch_with_default),
    "json: an option misspelt": create(typed, adapter_options={"strikt": True}),
    # -- what Ray Serve has
    "serve.run": of_module("run"),
    "serve.batch": of_module("batch"),
    "serve.exceptions": of_module("exceptions"),
    "a function misspelt": of_module("creat_backend"),
    "init(http_options=…)": lambda _: serve.init(http_options={"port": 80}),  # type: ignore[call-arg]
    "init(blocking=…)": lambda _: serve.init(blocking=True),  # type: ignore[call-arg]
    "options(slo_ms=…)": lambda _: serve.get_handle("model").options(slo_ms=9),  # type: ignore[call-arg]
    "get_handle(sync=…)": lambda _: serve.get_handle("model", sync=False),  # type: ignore[call-arg]
    "delete_backend(force=…)": lambda _: serve.delete_backend("model", force=True),  # type: ignore[call-arg]
    "a key of Ray Serve 1.x": config(experimental_graceful_shutdown_timeout_s=2),
    "a key of Ray Serve as an argument": create(hello, max_ongoing_requests=2),
    # -- the rest
    "init_args by name": create(Model, init_args=["w"]),
    "an argument of __init__ by name": create(Model, path="w"),
    "an argument that is none, after those of __init__": create(Model, "w", adaptor="flask"),
    "user_config that contains itself": config(user_config=contains_itself()),
    "autoscaling as a number": config(autoscaling=4),
    "a BackendConfig of a dict": lambda _: serve.BackendConfig({"num_replicas": 2}),  # type: ignore[arg-type]
    "no traffic at all": traffic("model", {}),
    "more than all the traffic": lambda _: [
        serve.create_backend("new", hello),
        serve.set_traffic("model", {"model": 1.0, "new": 0.25}),
    ],
    "init(port=…)": lambda _: serve.init(port=8000),  # type: ignore[call-arg]
    "a second init": lambda _: serve.init(runtime="process"),
    "get_context outside of a handler": lambda _: serve.get_context(),
    "accept_batch on a generator": lambda _: serve.accept_batch(generator),
    "accept_batch with an argument": lambda _: serve.accept_batch(max_batch_size=8),  # type: ignore[call-arg]
    "accept_batch with a number": lambda _: serve.accept_batch(8),  # type: ignore[type-var]
    "a metric of another kind": lambda _: [habit_words(), serve.metrics.gauge("habit_words", "Words")],
    "a metric without its labels": lambda _: habit_words().inc(),
    "labels as a text": lambda _: serve.metrics.counter("habit_lines", "Lines", "language"),
    "a metric with a dash in its name": lambda _: serve.metrics.counter("habit-words", "Words"),
    "--runtime-options that are not JSON": command("start", "--runtime-options", "{env: 1}"),
    "--runtime-options that are no object": command("start", "--runtime-options", "3"),
    "a list of requests that is none": lambda _: str(serve.last_requests("quick")),
    "servekit explain of nothing": command("explain"),
    # -- typed handlers
    "one parameter of several without an annotation": routed(partly_typed),
    "a route's variable of another name": routed(of_user, route="/users/<int:uid>"),
    "a body with GET alone": routed(of_order),
    "a typed handler that is mounted": routed(of_user, mount=True),
    "a variable in braces": endpoint("/users/{id}"),
    "a changed config with a method that is none": updated(callable_methods=["trian"]),
    "a changed config with batches for a handler that takes none": updated(max_batch_size=4),
}

WITHOUT_INSTANCE: dict[str, Mistake] = {
    "no init": lambda _: serve.create_endpoint("new", "/new"),
    "an address": lambda _: serve.init(address="localhost:8000"),
    "no standing instance": lambda _: serve.init(name="habits-none", address="auto"),
    "a port for an instance that runs": lambda _: serve.init(address="auto", http_port=8001),
    "a runtime misspelt": lambda _: serve.init(runtime="proces", http_port=0),
    "an option of the runtime of the wrong type": lambda _: serve.init(
        runtime="process", runtime_options={"env": {"A": 1}}, http_port=0
    ),
    "a URL for a host": lambda _: serve.init(runtime="process", http_host="http://localhost"),
    "a host with a port": lambda _: serve.init(runtime="process", http_host="localhost:8000"),
    "a port that is none": lambda _: serve.init(runtime="process", http_port=70000),
    "limits with a key that is none": lambda _: serve.init(runtime="process", http_limits={"body_size": 5}),
    "limits with a value that is none": lambda _: serve.init(runtime="process", http_limits={"body_bytes": "5M"}),
}


def plain(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"0x[0-9a-f]+", "0x…", text)
    text = re.sub(r'File "[^"]*/([^/"]+)", line \d+', r'File "…/\1", line …', text)
    text = re.sub(r'  File "<frozen .*\n?', "", text)
    return re.sub(r"\n *[~^]+(?=\n|$)", "", text).replace(f"{__name__}:", "habits:").rstrip()


def said(mistake: Mistake, instance: Any) -> str:
    """What the user reads; it is of servekit's family of errors, but for an attribute that is not there."""
    try:
        answer = mistake(instance)
    except (serve.ServekitError, AttributeError) as error:
        answer = f"{type(error).__name__}: {error}"
    assert isinstance(answer, str), answer
    return plain(answer)


def check(name: str, text: str) -> None:
    known = dict(re.findall(r"^## (.*)\n\n((?s:.*?))\n\n(?=## |\Z)", FILE.read_text(), re.MULTILINE))
    if WRITE:
        known[name] = text
        order = [*IN_PROCESS, *WITHOUT_INSTANCE, *IN_PROCESSES]
        FILE.write_text("".join(f"## {each}\n\n{known[each]}\n\n" for each in order if each in known))
    assert text == known.get(name)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_mistake(served: Any, name: str) -> None:
    check(name, said(IN_PROCESS[name], served))
    assert list(serve.list_endpoints()) in (["model"], ["model", "new"])


@pytest.mark.parametrize("name", WITHOUT_INSTANCE)
def test_a_mistake_without_an_instance(name: str) -> None:
    check(name, said(WITHOUT_INSTANCE[name], None))
    with pytest.raises(serve.errors.NotRunningError):
        serve.current()


SCRIPT = """
import os, time, traceback
from urllib.request import urlopen
import servekit as serve

class Model:
    def __init__(self, path):
        self.weights = open(path).read()
    def __call__(self, request):
        return "hello"

class WithKey(Model):
    def __init__(self):
        self.key = os.environ["MY_KEY"]

def fails(request):
    return unknown

def header(request):
    return "hello", 200, {"X-Name": "żółw", "X-Other": "1"}

def future(request):
    return serve.get_handle("header").remote()

async def blocks(request):
    time.sleep(2.5)
    return "hello"

def attempt(name, mistake):
    print(f"## {name}", flush=True)
    try:
        mistake()
    except serve.ServekitError as error:
        print("".join(traceback.format_exception_only(error)), flush=True)
    except OSError:
        pass  # What the client gets is another test's.

def asked(handler, times=1):
    serve.create_backend(handler.__name__, handler)
    serve.create_endpoint(handler.__name__, "/" + handler.__name__, backend=handler.__name__)
    for _ in range(times):
        urlopen(instance.url + "/" + handler.__name__).read()

if __name__ == "__main__":
    with serve.init(runtime="process", http_port=0) as instance:
        os.environ["MY_KEY"] = "set too late"
        attempt("a script: an __init__ that raises", lambda: serve.create_backend("m", Model, "/no/weights.bin"))
        attempt("a script: os.environ set after init", lambda: serve.create_backend("k", WithKey))
        attempt("a script: a handler that raises", lambda: asked(fails))
        attempt("a script: a header that is not latin-1", lambda: asked(header))
        attempt("a script: a future returned, over HTTP", lambda: asked(future))
        attempt("a script: an async def that blocks, twice", lambda: asked(blocks, times=2))
"""
IN_PROCESSES = re.findall(r'attempt\("(.*?)"', SCRIPT)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a script and its instance print, by mistake."""
    script = tmp_path_factory.mktemp("script") / "service.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    _, *parts = re.split(r"^## (.*)\n", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.processes
@pytest.mark.parametrize("name", IN_PROCESSES)
def test_a_mistake_in_a_script(printed: dict[str, str], name: str) -> None:
    text = re.sub(r"\br\d+-[0-9a-f]+", "r…", re.sub(r"\[request [\w-]+", "[request …", printed[name]))
    text = re.sub(r"^\d{4}-\S+Z ", "", text, flags=re.MULTILINE)
    check(name, plain(re.sub(r'  File "[^"]*/servekit\w*/.*\n(    .*\n)*', "", text)))


def test_there_are_sixty_and_no_more_messages_than_mistakes() -> None:
    names = re.findall(r"^## (.*)$", FILE.read_text(), re.MULTILINE)
    assert names == [*IN_PROCESS, *WITHOUT_INSTANCE, *IN_PROCESSES]
    assert len(names) >= 60
