"""Starting an instance: what is refused beforehand, what is left when it fails, and its options."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import instance_handlers
import pytest
from instance_tools import Load, Process, descendants, fresh_get, pids
from tests.support.waiting import until

import servekit as serve
from servekit import errors

pytestmark = pytest.mark.processes


@pytest.fixture
def nothing_left(monkeypatch):
    """Neither a process nor a directory, and no instance is current."""
    with tempfile.TemporaryDirectory(prefix="sk") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        before = {process.pid for process in descendants(os.getpid())}
        yield
        assert {process.pid for process in descendants(os.getpid())} == before
        assert all(os.listdir(base) == [] for base in Path(folder).iterdir())
        with pytest.raises(errors.NotRunningError, match=r"servekit\.init\(\)"):
            serve.status()


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.mark.parametrize("option", ["http_port", "admin_port"])
def test_a_port_in_use_is_said_before_anything_starts(nothing_left, taken, option, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)  # nothing is started
    with pytest.raises(errors.PortInUseError) as caught:
        serve.init(runtime="process", **{"http_port": 0, option: taken})
    assert isinstance(caught.value, OSError)
    for part in (f"127.0.0.1:{taken}", option):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"runtime": "proces"}, errors.UnknownPluginError, "did you mean 'process'"),
        ({"runtime_options": {"num_cpus": 1}}, errors.PluginOptionsError, "num_cpus"),
        ({"runtime_options": 7}, errors.InvalidInputError, "runtime_options must be a dict"),
        ({"http_port": 70000}, errors.InvalidInputError, "http_port .* not 70000"),
        ({"http_port": "80"}, errors.InvalidInputError, "http_port must be a whole number, not str: '80'"),
        ({"http_host": "192.0.2.77"}, errors.PortInUseError, "192.0.2.77"),
        ({"name": "x" * 200}, errors.InvalidInputError, "name"),
        ({"name": "a/b"}, errors.InvalidInputError, "a/b"),
        ({"ingress_workers": 0}, errors.InvalidInputError, "ingress_workers"),
    ],
)
def test_what_is_refused_leaves_nothing(nothing_left, options, error, said):
    with pytest.raises(error, match=said):
        serve.init(**{"runtime": "process", "http_port": 0, **options})


def test_one_at_a_time_and_again(nothing_left):
    others = {process.pid for process in descendants(os.getpid())}
    with serve.init(runtime="process", http_port=0) as first:
        with pytest.raises(errors.AlreadyRunningError, match=r"shutdown\(\)"):
            serve.init(runtime="process", http_port=0)
        assert fresh_get(f"{first.url}/-/healthz").status_code == 200
        running = [process for process in descendants(os.getpid()) if process.pid not in others]
        assert len(running) == 2, running
        port = int(first.url.rpartition(":")[2])
    first.shutdown()
    serve.shutdown()
    assert not any(process.is_there for process in running)
    with serve.init(runtime="process", http_port=port, name="second") as second:
        assert second.url == first.url
        assert fresh_get(f"{second.url}/-/routes").json() == {}


def test_after_shutdown_whatever_is_asked_says_so(nothing_left):
    with serve.init(runtime="process", http_port=0) as instance:
        assert instance.url in repr(instance)
    for act in (instance.status, lambda: instance.create_endpoint("e"), lambda: instance.get_handle("e")):
        with pytest.raises(errors.NotRunningError, match="instance 'default' was shut down here"):
            act()
    assert repr(instance) == "<servekit instance 'default' shut down>"


def test_two_ingress_workers(nothing_left):
    """Every one of them has a change when the call that made it returns."""
    with serve.init(runtime="process", http_port=0, ingress_workers=2) as instance:
        workers = [worker["pid"] for worker in instance.status()["ingress"]]
        assert len(set(workers)) == 2
        for name in ("a", "b"):
            serve.create_backend(name, instance_handlers.Named, name)
        serve.create_endpoint("model", "/model", ["GET", "POST"], backend="a")
        for name in ["b", "a"] * 10:
            serve.set_traffic("model", {name: 1.0})
            for _ in range(3):
                assert fresh_get(f"{instance.url}/model").json()["name"] == name
        with Load(instance, "/model", clients=8) as load:
            load.more(200)
        assert load.failures == []
        until(lambda: instance.stat()["endpoints"].get("model", {}).get("requests") == 60 + len(load.answers))


def test_ipv6(nothing_left):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with serve.init(runtime="process", http_port=0, http_host="::1") as instance:
        assert instance.url.startswith("http://[::1]:")
        assert fresh_get(f"{instance.url}/-/healthz").status_code == 200


def test_debug_shows_tracebacks_to_clients(nothing_left):
    with serve.init(runtime="process", http_port=0, debug=True) as instance:
        serve.create_backend("faulty", instance_handlers.faulty)
        serve.create_endpoint("faulty", "/faulty", backend="faulty")
        failed = fresh_get(f"{instance.url}/faulty?how=raise")
    assert failed.status_code == 500
    assert "LookupError: the handler's own trouble" in failed.text


def test_an_exception_in_the_block_shuts_down(nothing_left):
    found = []

    def fail():
        with serve.init(runtime="process", http_port=0) as instance:
            serve.create_backend("hello", instance_handlers.hello)
            found.extend([instance.directory, *pids(instance, "hello")])
            raise KeyError("of the block")

    with pytest.raises(KeyError):
        fail()
    directory, pid = found
    assert not Process(pid).is_there
    assert not os.path.exists(directory)
