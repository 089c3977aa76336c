"""Links over TCP: what reaches replicas on other machines, here with this machine in the part of the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance_handlers import Named
from instance_tools import Load, pids

import servekit as serve
from servekit_process import ProcessRuntime


class TcpProcessRuntime(ProcessRuntime):
    """Child processes that are treated as if they were elsewhere."""

    local_links = False

    def advertise_host(self) -> str:
        return "127.0.0.1"


@pytest.fixture(
    params=[
        (f"{Path(__file__).stem}:TcpProcessRuntime", {}),
        pytest.param(("ray", {"links": "tcp"}), marks=pytest.mark.ray),
    ],
    ids=["process", "ray"],
)
def over_tcp(request: pytest.FixtureRequest) -> Iterator[serve.Instance]:
    runtime, options = request.param
    if runtime == "ray":
        options = {**options, "address": request.getfixturevalue("ray_address")}
    with serve.init(runtime=runtime, runtime_options=options, http_port=0) as instance:
        yield instance


def test_replicas_are_reached_over_tcp_and_nothing_is_lost(over_tcp: serve.Instance) -> None:
    over_tcp.create_backend("named", Named, "one", config={"num_replicas": 2})
    over_tcp.create_endpoint("e", "/e", methods=["GET", "POST"], backend="named")
    assert not [name for name in os.listdir(over_tcp.directory) if name.startswith("r")], "no socket of a replica"
    with Load(over_tcp, "/e") as load:
        over_tcp.update_backend_config("named", {"num_replicas": 3})
        load.more()
        over_tcp.update_backend_config("named", {"num_replicas": 1})
        answers = load.more(200)
    assert not load.failures
    assert {answer["pid"] for answer in answers[-50:]} == pids(over_tcp, "named")


def test_a_body_above_any_buffer_crosses_tcp(over_tcp: serve.Instance) -> None:
    import httpx

    over_tcp.create_backend("echo", echo)
    over_tcp.create_endpoint("echo", "/echo", methods=["POST"], backend="echo")
    body = os.urandom(20_000_000)
    assert httpx.post(over_tcp.url + "/echo", content=body, timeout=60).content == body


def echo(request: Any) -> bytes:
    return bytes(request.get_data())
