"""Which Ray an instance uses: its driver's, the one that it was told of, or one of its own."""

from __future__ import annotations

import re

import pytest
from instance_tools import descendants, told
from tests.support.waiting import until

import servekit as serve
from servekit.errors import InstanceStartError

pytestmark = [pytest.mark.processes, pytest.mark.ray]

JOINED = """
import json, os, sys
import servekit as serve

address = sys.argv[1]
with serve.init(runtime="process", http_port=0) as instance:
    os.environ["RAY_AUTH_MODE"] = "token"  # the instance was started without
    import ray
    ray.init(address=address, log_to_driver=False)
    instance.create_backend("late", lambda request: "", runtime="ray", ray_actor_options={"num_cpus": 0.1})
    late = instance.status()["runtimes"]
with serve.init(http_port=0) as instance:
    instance.create_backend("hello", lambda request: "", ray_actor_options={"num_cpus": 0.1})
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    (replica,) = instance.status()["backends"]["hello"]["replicas"]
    told = {"late": late, "now": instance.status()["runtimes"], "named": replica["id"] in "".join(names)}
print("TOLD" + json.dumps(told), flush=True)
"""

STARTED = """
import json, os, sys, time
import ray
import servekit as serve

def start():
    # Without an address it would join what `ray start` has left on this machine.
    ray.init(address="local", num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False)
    serve.init(http_port=0)
    serve.create_backend("hello", lambda request: "")
    status = serve.status()
    return {
        "runtimes": status["runtimes"],
        "address": ray.get_runtime_context().gcs_address,
        "ingress": status["ingress"][0]["pid"],
    }

def tell(**told):
    print("TOLD" + json.dumps(told), flush=True)
"""


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """Where Ray looks for what `ray start` has recorded."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path


def test_a_recorded_cluster_that_is_dead_is_an_error_at_once_where_it_was_asked_for(temporary):
    (temporary / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(InstanceStartError, match="no Ray cluster answers at 127.0.0.1:1, which ray start recorded"):
        serve.init(runtime="ray", runtime_options={"address": "auto"}, http_port=0)


def test_the_ray_that_the_driver_has_joined(scripts, ray_address):
    script = scripts.start(scripts.write("script.py", JOINED), ray_address)
    line = f"runtime ray: the Ray of the calling process, at {ray_address}"
    assert told(script) == {"late": [line], "now": [line], "named": True}
    assert script.wait(60) == 0
    until(lambda: not scripts.processes())


def line(told):
    return f"the Ray of the calling process, at {told['address']}"


def test_a_driver_that_lets_go_of_its_own_ray_before_its_instance(scripts):
    """The instance says so, and ends in good order; and the driver can have another of each, and just end."""
    code = """
first = start()
ray.shutdown()
ends = time.monotonic() + 60
while not serve.status()["backends"]["hello"]["last_start_error"] and time.monotonic() < ends:
    time.sleep(0.1)
error = serve.status()["backends"]["hello"]["last_start_error"]
serve.shutdown()
left = os.path.exists(f"/proc/{first['ingress']}")
tell(error=error, left=left, **first)
tell(**start())
"""
    script = scripts.start(scripts.write("script.py", STARTED + code))
    first = told(script)
    assert first["runtimes"] == [f"runtime ray: {line(first)}"]
    assert first["error"] == f"{line(first)}, has ended: this needs a new servekit.init()"
    assert not first["left"], "the controller ends its ingress worker, where it ends in good order"
    second = told(script)
    assert second["runtimes"] == [f"runtime ray: {line(second)}"]
    assert script.wait(60) == 0
    until(lambda: not scripts.processes())
    assert scripts.instances == []


def test_a_driver_that_is_killed_with_its_own_ray(scripts):
    script = scripts.start(scripts.write("script.py", STARTED + "tell(**start()); time.sleep(600)"))
    told(script)
    processes = [*descendants(script.pid), *scripts.processes()]

    def left():
        """But for agents, which Ray itself leaves behind for a minute."""
        return [p for p in processes if p.is_there and not re.search("ray::(Dashboard|RuntimeEnv)Agent", repr(p))]

    assert len(left()) > 4
    script.kill()
    until(lambda: not left())
    assert scripts.instances == []
