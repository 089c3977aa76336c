"""The calls of the first Ray Serve, and what they bring about."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import instance_handlers
import pytest
from instance_tools import Process, parent, pids

import servekit as serve

pytestmark = pytest.mark.processes


def routes(client):
    return client.get("/-/routes").json()


def test_the_calls_of_the_seed_in_its_order(serving, client):
    serve.create_endpoint("simple_endpoint", "/simple")
    assert routes(client) == {"/simple": ["simple_endpoint", ["GET"]]}
    serve.delete_endpoint("simple_endpoint")
    assert routes(client) == {}

    def handle_request(flask_request):
        return "hello world"

    class RequestHandler:
        def __init__(self):
            self.msg = "hello, world!"

        def __call__(self, flask_request):
            return self.msg

    serve.create_backend("simple_backend", handle_request)
    serve.create_backend("simple_backend_class", RequestHandler)
    serve.create_endpoint("simple_endpoint", "/simple")
    serve.set_traffic("simple_backend", {"simple_endpoint": 1.0})
    assert client.get("/simple").text == "hello world"
    assert serve.get_traffic("simple_endpoint") == {"simple_backend": 1.0}
    assert routes(client) == {"/simple": ["simple_endpoint", ["GET"]]}

    serve.set_traffic("simple_backend_class", {"simple_endpoint": 0.5})
    assert serve.get_traffic("simple_endpoint") == {"simple_backend": 0.5, "simple_backend_class": 0.5}
    assert sorted(client.get("/simple").text for _ in range(4)) == ["hello world"] * 2 + ["hello, world!"] * 2


@pytest.mark.runtimes("process")
def test_names_and_routes_can_be_used_again(serving, client):
    serve.create_backend("model", instance_handlers.Named, "first")
    for name, route in [("one", "/a"), ("two", "/a"), ("two", "/b")]:
        serve.create_endpoint(name, route, backend="model")
        assert client.get(route).json()["name"] == "first"
        serve.delete_endpoint(name)
        assert client.get(route).status_code == 404
    assert list(serve.list_backends()) == ["model"]
    serve.delete_backend("model")
    serve.create_backend("model", instance_handlers.Named, "second")
    serve.create_endpoint("one", "/a", ["GET", "POST"], backend="model")
    assert client.post("/a", content="x").json()["name"] == "second"
    assert routes(client) == {"/a": ["one", ["GET", "POST"]]}


@pytest.mark.runtimes("process")
def test_traffic_may_be_given_from_either_side(serving, client):
    for name in ("a", "b", "c"):
        serve.create_backend(name, instance_handlers.Named, name)
    serve.create_endpoint("one", "/one")
    serve.create_endpoint("two", "/two")
    serve.set_traffic("one", {"a": 0.75, "b": 0.25})
    serve.set_traffic("two", {"b": 1.0})
    serve.set_traffic("c", {"one": 0.2, "two": 0.5})
    assert serve.get_traffic("one") == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2})
    assert serve.get_traffic("two") == pytest.approx({"b": 0.5, "c": 0.5})
    assert sorted(client.get("/one").json()["name"] for _ in range(5)) == ["a", "a", "a", "b", "c"]
    serve.create_endpoint("a", "/named-as-a-backend")
    serve.set_traffic("a", {"b": 1.0})
    assert serve.get_traffic("a") == {"b": 1.0}, "where both readings are possible, the name is an endpoint's"


def test_replicas_are_processes_of_their_own(serving, client, runtime):
    serve.create_backend("pair", instance_handlers.Named, config={"num_replicas": 2})
    serve.create_backend("single", instance_handlers.Named)
    serve.create_endpoint("pair", "/pair", backend="pair")
    ingress = {worker["pid"] for worker in serve.status()["ingress"]}
    controller = {parent(pid) for pid in ingress}
    others = ingress | controller | {os.getpid()}
    workers = pids(serving, "pair") | pids(serving, "single")
    assert len(workers) == 3
    assert not workers & others
    assert all(Process(pid).is_there for pid in workers | others)
    answered = {client.get("/pair").json()["pid"] for _ in range(100)}
    assert answered == pids(serving, "pair"), "and those that status() names are those that answer"
    if runtime == "process":
        assert {parent(pid) for pid in workers} == controller


@pytest.mark.runtimes("ray")
def test_replicas_on_ray_are_actors(serving, request):
    serve.create_backend("model", instance_handlers.hello, config={"num_replicas": 2})
    listing = subprocess.run(
        [Path(sys.executable).with_name("ray"), "list", "actors", "--format=json", "--filter=state=ALIVE"],
        env={**os.environ, "RAY_ADDRESS": request.getfixturevalue("ray_address"), "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert listing.returncode == 0, listing.stderr
    actors = json.loads(listing.stdout)
    assert {actor["pid"] for actor in actors} == pids(serving, "model")


@pytest.mark.runtimes("process")
@pytest.mark.parametrize(
    "weights",
    [
        pytest.param([0.9, 0.1], id="a-tenth"),
        pytest.param([73 / 177, 4 / 177, 23 / 177, 4 / 177, 73 / 177], id="where-smooth-round-robin-fails"),
        pytest.param(None, id="random"),
    ],
)
def test_every_prefix_of_the_requests_is_split_by_weight(split, client, weights):
    if weights is None:
        drawn = [random.random() for _ in range(5)]
        weights = [weight / sum(drawn) for weight in drawn]
    shares = dict(zip("abcde", weights, strict=False))
    serve.set_traffic("split", shares)
    counts = dict.fromkeys(shares, 0)
    for number in range(1, 1001):
        counts[client.get("/split").text] += 1
        for name, weight in shares.items():
            assert abs(counts[name] - number * weight) <= 1 + 1e-6, (weights, number, counts)
    if weights == [0.9, 0.1]:
        assert counts == {"a": 900, "b": 100}


@pytest.fixture(scope="module")
def split(instance):
    """An endpoint, and five backends that answer with their names; the last test of this module is to use it."""

    def named(name):
        return lambda request: name

    for name in "abcde":
        serve.create_backend(name, named(name))
    serve.create_endpoint("split", "/split")
    yield
    serve.delete_endpoint("split")
    for name in "abcde":
        serve.delete_backend(name)
