"""What a runtime learns from the process that calls `init` or `create_backend`, and what it says of itself."""

from __future__ import annotations

import logging
import os
from typing import Any

import instance_handlers
import pytest

import servekit as serve
from servekit.errors import InvalidInputError
from servekit.instance import Instance

HERE = f"process {os.getpid()}"
TOLD = "told_runtime:Told"


class Client:
    """In the place of the one of the admin API: keeps what it was asked for."""

    def call(self, operation: str, **arguments: Any) -> Any:
        self.asked = arguments
        return {"runtime": "process"}


def asked(standing: bool = False, **arguments: Any) -> Any:
    """The options that `create_backend` asks for; None: the instance's."""
    client: Any = Client()
    instance = Instance("it", "http://it", client, lambda: None, standing=standing)
    instance.create_backend("hello", instance_handlers.hello, **arguments)
    return client.asked["runtime_options"]


def test_a_backend_of_the_instances_runtime_adds_nothing() -> None:
    assert asked() is None
    assert asked(runtime="process") is None


@pytest.mark.parametrize("standing", [False, True])
def test_a_runtime_is_told_of_the_calling_process_and_whether_the_instance_outlives_it(standing: bool) -> None:
    completed = {"caller": HERE, "outlives": standing}
    assert asked(standing, runtime=TOLD) == completed
    assert asked(standing, runtime=TOLD, runtime_options={}) == completed


def test_what_the_user_gives_stays() -> None:
    assert asked(runtime=TOLD, runtime_options={"caller": "me"}) == {"caller": "me", "outlives": False}


def test_what_has_nothing_to_add_adds_nothing() -> None:
    assert asked(runtime="process", runtime_options={"env": {"A": "1"}}) == {"env": {"A": "1"}}
    assert asked(runtime="told_runtime:say_nothing") == {}
    assert asked(runtime="of no plugin") == {}  # the controller refuses it


def test_options_that_are_of_no_use_are_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidInputError, match="a caller has a name"):
        serve.init(runtime=TOLD, runtime_options={"caller": ""}, http_port=0)
    with pytest.raises(InvalidInputError, match="a caller has a name"):
        asked(runtime=TOLD, runtime_options={"caller": ""})
    with pytest.raises(InvalidInputError, match="runtime_options must be a dict"):
        asked(runtime=TOLD, runtime_options=7)


@pytest.mark.processes
def test_where_workers_live_is_said_in_both_processes_and_in_the_status(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "servekit")
    mine, other = f"runtime {TOLD}: children, for {HERE}", f"runtime {TOLD}: children, for another"
    with serve.init(runtime=TOLD, http_port=0, log_level="info") as instance:
        assert instance.status()["runtimes"] == [mine]
        assert mine in [record.getMessage() for record in caplog.records]
        assert f" INFO controller {mine}\n" in capfd.readouterr().err
        instance.create_backend("same", instance_handlers.hello, runtime=TOLD)
        instance.create_backend("other", instance_handlers.hello, runtime=TOLD, runtime_options={"caller": "another"})
        instance.create_backend("quiet", instance_handlers.hello, runtime="process")
        assert instance.status()["runtimes"] == [mine, other]
        assert capfd.readouterr().err.count(" INFO controller runtime ") == 1
