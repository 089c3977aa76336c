"""Whatever is refused says why, and leaves the old state whole."""

from __future__ import annotations

import math
import os
import re
import threading

import instance_handlers
import pytest
from instance_tools import Process, descendants, parent, pids, whole
from tests.support.runtimes import NOT_ON_RAY
from tests.support.waiting import until

import servekit as serve
from servekit import errors

pytestmark = pytest.mark.processes


class Unpicklable:
    def __reduce__(self):
        raise TypeError("it holds a lock")


@pytest.fixture(scope="module")
def state(instance):
    """Two endpoints and two backends that every refused call is to leave alone."""
    serve.create_backend("model", instance_handlers.Named, "model")
    serve.create_backend("spare", instance_handlers.faulty)
    serve.create_endpoint("model", "/model", backend="model")
    serve.create_endpoint("user", "/users/<int:id>", ["GET", "POST"])
    yield instance
    for endpoint in ("model", "user"):
        serve.delete_endpoint(endpoint)
    for backend in ("model", "spare"):
        serve.delete_backend(backend)


@pytest.fixture
def untouched(state, client):
    """Holds a test to leaving everything as it was."""
    before, routes = whole(state), client.get("/-/routes").json()
    yield state
    assert whole(state) == before
    assert client.get("/-/routes").json() == routes
    assert client.get("/model").json()["name"] == "model"


H = instance_handlers
REFUSED = {
    "traffic of no endpoint": (
        lambda: serve.set_traffic("modle", {"model": 1.0}),
        errors.NotFoundError,
        ["no endpoint 'modle'", "did you mean 'model'", "user"],
    ),
    "traffic to no backend": (
        lambda: serve.set_traffic("model", {"mode": 1.0}),
        errors.NotFoundError,
        ["no backend 'mode'", "did you mean 'model'"],
    ),
    "negative weight": (
        lambda: serve.set_traffic("model", {"model": 1.5, "spare": -0.5}),
        errors.InvalidInputError,
        ["'model'", "from 0 to 1"],
    ),
    "NaN": (
        lambda: serve.set_traffic("model", {"model": math.nan}),
        errors.InvalidInputError,
        ["'model'", "from 0 to 1", "nan"],
    ),
    "infinity": (
        lambda: serve.set_traffic("model", {"model": math.inf}),
        errors.InvalidInputError,
        ["'model'", "from 0 to 1", "inf"],
    ),
    "weights below 1": (
        lambda: serve.set_traffic("model", {"model": 0.5, "spare": 0.4}),
        errors.InvalidInputError,
        ["'model'", "sum to 1", "0.9"],
    ),
    "weights above 1": (
        lambda: serve.set_traffic("model", {"model": 1.0, "spare": 0.1}),
        errors.InvalidInputError,
        ["sum to 1", "1.1"],
    ),
    "weight in words": (
        lambda: serve.set_traffic("model", {"model": "all"}),
        errors.InvalidInputError,
        ["'model'", "number", "'all'"],
    ),
    "no weights": (
        lambda: serve.set_traffic("model", {}),
        errors.InvalidInputError,
        ["traffic is empty"],
    ),
    "traffic that is no dict": (
        lambda: serve.set_traffic("model", ["model"]),
        errors.InvalidInputError,
        ["dict", "list"],
    ),
    "share with nobody to take the rest": (
        lambda: serve.set_traffic("spare", {"user": 0.3}),
        errors.InvalidInputError,
        ["'spare'", "'user'", "0.3", "the rest"],
    ),
    "share above 1": (
        # The first of the two would be fine: whole, or not at all.
        lambda: serve.set_traffic("spare", {"user": 1.0, "model": 1.5}),
        errors.InvalidInputError,
        ["'spare'", "'model'", "from 0 to 1", "1.5"],
    ),
    "endpoint that exists": (
        lambda: serve.create_endpoint("model", "/new"),
        errors.AlreadyExistsError,
        ["endpoint 'model' exists", "delete_endpoint('model')"],
    ),
    "route that is taken": (
        lambda: serve.create_endpoint("new", "/model"),
        errors.AlreadyExistsError,
        ["'/model'", "endpoint 'model'"],
    ),
    "route that is taken, by other variable names": (
        lambda: serve.create_endpoint("new", "/users/<int:number>"),
        errors.AlreadyExistsError,
        ["'/users/<int:number>'", "endpoint 'user'"],
    ),
    "route without a slash": (
        lambda: serve.create_endpoint("new", "model2"),
        errors.InvalidInputError,
        ["'model2'", "/"],
    ),
    "reserved route": (
        lambda: serve.create_endpoint("new", "/-/mine"),
        errors.InvalidInputError,
        ["'/-/mine'"],
    ),
    "route of no converter": (
        lambda: serve.create_endpoint("new", "/x/<number:id>"),
        errors.InvalidInputError,
        ["'/x/<number:id>'", "number"],
    ),
    "methods as text": (
        lambda: serve.create_endpoint("new", "/new", "POST"),
        errors.InvalidInputError,
        ["methods=['POST']"],
    ),
    "no method": (
        lambda: serve.create_endpoint("new", "/new", ["get it"]),
        errors.InvalidInputError,
        ["'get it'", "HTTP method"],
    ),
    "endpoint without a name": (
        lambda: serve.create_endpoint("", "/new"),
        errors.InvalidInputError,
        ["''", "name"],
    ),
    "endpoint of no backend": (
        lambda: serve.create_endpoint("new", "/new", backend="modell"),
        errors.NotFoundError,
        ["no backend 'modell'", "did you mean 'model'"],
    ),
    "unknown policy": (
        lambda: serve.create_endpoint("new", "/new", policy="weigthed"),
        errors.UnknownPluginError,
        ["'weigthed'", "did you mean 'weighted'"],
    ),
    "policy's options": (
        lambda: serve.create_endpoint("new", "/new", policy_options={"sticky": True}),
        errors.PluginOptionsError,
        ["'weighted'", "sticky"],
    ),
    "timeout of nothing": (
        lambda: serve.create_endpoint("new", "/new", timeout_s=0),
        errors.InvalidInputError,
        ["timeout_s", "0"],
    ),
    "deleting no endpoint": (
        lambda: serve.delete_endpoint("nowhere"),
        errors.NotFoundError,
        ["no endpoint 'nowhere'"],
    ),
    "deleting no backend": (
        lambda: serve.delete_backend("nobody"),
        errors.NotFoundError,
        ["no backend 'nobody'"],
    ),
    "deleting a backend in use": (
        lambda: serve.delete_backend("model"),
        errors.InUseError,
        ["'model'", "traffic", "set_traffic"],
    ),
    "backend that exists": (
        lambda: serve.create_backend("model", H.hello),
        errors.AlreadyExistsError,
        ["backend 'model' exists", "delete_backend('model')"],
    ),
    "unpicklable target": (
        lambda: serve.create_backend("new", _with_a_thread()),
        errors.UnpicklableTargetError,
        ["the target", "'thread'", "cannot be pickled", "Thread", "__init__"],
    ),
    "unpicklable argument": (
        lambda: serve.create_backend("new", H.Named, "name", Unpicklable()),
        errors.UnpicklableTargetError,
        ["init argument 2", "it holds a lock"],
    ),
    "unpicklable keyword argument": (
        lambda: serve.create_backend("new", H.Named, init_kwargs={"name": Unpicklable()}),
        errors.UnpicklableTargetError,
        ["init argument 'name'", "it holds a lock"],
    ),
    "target that is none": (
        lambda: serve.create_backend("new", 42),
        errors.InvalidInputError,
        ["42", "neither a function nor a class"],
    ),
    "arguments for a function": (
        lambda: serve.create_backend("new", H.hello, "argument"),
        errors.InvalidInputError,
        ["instance_handlers:hello", "not a class"],
    ),
    "unknown config key": (
        lambda: serve.create_backend("new", H.hello, config={"num_replica": 2}),
        errors.InvalidInputError,
        ["'num_replica'", "did you mean 'num_replicas'"],
    ),
    "bad config value": (
        lambda: serve.update_backend_config("model", {"num_replicas": -1}),
        errors.InvalidInputError,
        ["num_replicas", "-1"],
    ),
    "config value of another type": (
        lambda: serve.update_backend_config("model", {"num_replicas": "two"}),
        errors.InvalidInputError,
        ["num_replicas", "whole number"],
    ),
    "config of no backend": (
        lambda: serve.update_backend_config("nobody", {"num_replicas": 1}),
        errors.NotFoundError,
        ["no backend 'nobody'"],
    ),
    "asking for no backend's config": (
        lambda: serve.get_backend_config("nobody"),
        errors.NotFoundError,
        ["no backend 'nobody'"],
    ),
    "unknown adapter": (
        lambda: serve.create_backend("new", H.hello, adapter="flsk"),
        errors.UnknownPluginError,
        ["'flsk'", "did you mean 'flask'"],
    ),
    "unknown runtime": (
        lambda: serve.create_backend("new", H.hello, runtime="proces"),
        errors.UnknownPluginError,
        ["'proces'", "did you mean 'process'"],
    ),
}


def _with_a_thread():
    thread = threading.Thread()

    def handler(request):
        return str(thread)

    return handler


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.runtimes("process")
def test_what_is_refused(untouched, case):
    call, error, parts = REFUSED[case]
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    for part in parts:
        assert part in str(caught.value)


def test_an_init_that_raises(untouched, runtime):
    """The original traceback is in the message, and nothing is left behind."""
    controller = parent(untouched.status()["ingress"][0]["pid"])
    with pytest.raises(errors.BackendStartError) as caught:
        serve.create_backend("broken", instance_handlers.BrokenAtStart, config={"num_replicas": 2})
    message = str(caught.value)
    for part in ("'broken'", "BrokenAtStart", "Traceback", "self.read_model()", "RuntimeError: no such model"):
        assert part in message
    (pid,) = map(int, re.findall(r"says process (\d+)", message))
    until(lambda: not Process(pid).is_there)
    if runtime == "process":
        assert {p.pid for p in descendants(controller)} == {
            *pids(untouched, "model"),
            *pids(untouched, "spare"),
            *(worker["pid"] for worker in untouched.status()["ingress"]),
        }


@pytest.mark.runtimes("process")
def test_a_name_whose_backend_could_not_start_is_free(untouched, tmp_path):
    marker = tmp_path / "broken"
    marker.touch()
    with pytest.raises(errors.BackendStartError):
        serve.create_backend("late", instance_handlers.BrokenAtStart, str(marker))
    marker.unlink()
    serve.create_backend("late", instance_handlers.BrokenAtStart, str(marker), config={"keep_last": 0})
    serve.delete_backend("late")


@pytest.mark.runtimes("process")
def test_a_new_replica_that_cannot_start_leaves_the_old_config(untouched, client, tmp_path):
    marker = tmp_path / "broken"
    serve.create_backend("grown", instance_handlers.BrokenAtStart, str(marker), config={"keep_last": 0})
    serve.create_endpoint("grown", "/grown", backend="grown")
    before = whole(untouched)
    marker.touch()
    with pytest.raises(errors.BackendStartError, match="no such model"):
        serve.update_backend_config("grown", {"num_replicas": 2})
    with pytest.raises(errors.BackendStartError, match="no such model"):
        serve.update_backend_config("grown", {"max_concurrent_queries": 3})
    assert client.get("/grown").text == "built"
    # A replica that failed is seen to be gone a moment later; why it failed is kept.
    until(lambda: len(untouched.status()["backends"]["grown"]["replicas"]) == 1)
    after = whole(untouched)
    for why in ("last_start_error", "last_failure"):
        assert "no such model" in after["backends"]["grown"].pop(why)
        assert before["backends"]["grown"].pop(why) == ""
    assert after == before
    serve.delete_endpoint("grown")
    serve.delete_backend("grown")


@pytest.mark.parametrize(("how", "said"), [("sys.exit", "enough"), ("os._exit", "ended before it was ready")])
def test_an_init_that_ends_its_process(untouched, how, said):
    with pytest.raises(errors.BackendStartError, match=said):
        serve.create_backend("broken", instance_handlers.EndsAtStart, how)


@pytest.mark.runtimes("process")
def test_an_init_that_hangs(untouched):
    config = {"startup_timeout_s": 1.0}
    with pytest.raises(TimeoutError, match="startup_timeout_s of 1 s"):
        serve.create_backend("broken", instance_handlers.EndsAtStart, "hang", config=config)


@pytest.mark.runtimes("process")
def test_targets_that_a_replica_finds_unfit(untouched):
    with pytest.raises(errors.BackendStartError, match="No module named 'nowhere_to_be_found'"):
        serve.create_backend("broken", "nowhere_to_be_found:Model")
    with pytest.raises(errors.BackendStartError, match="instance_handlers.*nothing_there"):
        serve.create_backend("broken", "instance_handlers:nothing_there")


def test_what_the_runtime_cannot_give(untouched, runtime):
    if runtime == "process":
        with pytest.raises(errors.InvalidInputError, match="'num_gpus' is not a placement option here.*'gpus'"):
            serve.create_backend("large", instance_handlers.hello, placement={"num_gpus": 3})
        with pytest.raises(errors.InvalidInputError, match="num_replicas is 2, .* room for 1 replica"):
            serve.create_backend("large", instance_handlers.hello, config={"num_replicas": 2}, placement={"gpus": [0]})
        with pytest.raises(errors.InvalidInputError, match="older name of placement"):
            serve.create_backend("large", instance_handlers.hello, ray_actor_options={}, placement={})
        return
    with pytest.raises(errors.ResourcesUnavailableError) as caught:
        serve.create_backend("large", instance_handlers.hello, ray_actor_options={"num_gpus": 3})
    for part in ("3 GPU", "The Ray cluster has", "CPU"):
        assert part in str(caught.value)
    with pytest.raises(errors.InvalidInputError, match="num_gpu"):
        serve.create_backend("large", instance_handlers.hello, placement={"num_gpu": 1})


@pytest.mark.parametrize(
    "how", [pytest.param("raise", marks=NOT_ON_RAY), "exit", pytest.param("result", marks=NOT_ON_RAY)]
)
def test_a_handler_that_fails_is_a_500_and_its_replica_lives(state, client, how):
    serve.set_traffic("user", {"spare": 1.0})
    before = client.get("/users/1").json()["pid"]
    answer = client.get("/users/1", params={"how": how}, headers={"x-request-id": f"id-of-{how}"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == f"id-of-{how}"
    assert f"id-of-{how}" in answer.text
    assert "'spare'" in answer.text
    assert "own trouble" not in answer.text, "the traceback is for the log"
    assert client.get("/users/1").json()["pid"] == before
    assert os.path.exists(f"/proc/{before}")
