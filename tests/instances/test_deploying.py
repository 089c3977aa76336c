"""Deploys from files, of real processes: under load, when they fail, two at a time; and the way back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instance_tools import Load, empty, fresh_get, replicas, started_standing
from tests.support.waiting import until

import servekit as serve
from servekit import errors
from servekit.cli.main import main

pytestmark = pytest.mark.processes

HANDLER = """
import os, pathlib, time

class Echo:
    def __init__(self, word, gate=None, place=None):
        self.word = word
        while gate and not pathlib.Path(gate).exists():
            time.sleep(0.01)
        if word == "bad":
            raise RuntimeError(f"no weights for bad at {place}")

    def __call__(self, request):
        sent = request.query_string or request.get_data()
        return {"sent": sent.decode(), "said": f"VERSION {self.word}"}
"""
FILE = """
[instance]
name = "default"

[endpoints.echo]
route = "/echo"
methods = ["GET", "POST"]
traffic = { v1 = 1.0 }

[backends.v1]
target = "deployed_handler:Echo"
args = ["${WORD}"]
config = { num_replicas = 2 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, and the handler beside it, of version ``one``."""
    (tmp_path / "servekit.toml").write_text(FILE)
    (tmp_path / "deployed_handler.py").write_text(HANDLER.replace("VERSION", "one"))
    monkeypatch.setenv("WORD", "word")
    return tmp_path


@pytest.fixture(scope="module")
def owned() -> Iterator[serve.Instance]:
    with serve.init(runtime="process", http_port=0) as instance:
        yield instance


@pytest.fixture
def instance(owned: serve.Instance) -> Iterator[serve.Instance]:
    """One that serves nothing."""
    yield owned
    empty(owned)


@pytest.fixture
def deploy(instance: serve.Instance, folder: Path) -> Callable[..., None]:
    """Deploy the configuration, with tables over it."""

    def deployed(*over: dict[str, object]) -> None:
        instance.apply(instance.plan(folder / "servekit.toml", *over))

    return deployed


def said(instance: serve.Instance) -> str:
    return str(fresh_get(f"{instance.url}/echo?x").json()["said"])


def heard(load: Load) -> set[str]:
    """What is said to requests that were sent from now on: not to the first of each client, which may be under way."""
    seen, said = set(), set()
    for answer in load.more(120):
        client = answer["sent"].partition("-")[0]
        if client in seen:
            said.add(answer["said"])
        seen.add(client)
    return said


def test_no_request_is_lost_by_a_deploy_or_on_the_way_back(
    instance: serve.Instance, folder: Path, deploy: Callable[..., None]
) -> None:
    deploy()
    assert str(instance.plan(folder / "servekit.toml")) == "nothing to do"
    with Load(instance, "/echo", clients=8) as load:
        (folder / "deployed_handler.py").write_text(HANDLER.replace("VERSION", "two"))
        deploy()
        assert heard(load) == {"two word"}
        deploy({"backends": {"v1": {"config": {"max_surge": 1}}}, "endpoints": {"echo": {"timeout_s": 30.0}}})
        load.more()
        renamed = FILE.replace("v1", "v2").replace('"${WORD}"', '"other"')
        (folder / "servekit.toml").write_text(renamed)
        deploy()
        assert heard(load) == {"two other"}
        assert [*instance.list_backends()] == ["v2"]
        instance.rollback("echo")
        assert heard(load) == {"two word"}
        instance.rollback("echo")
        assert heard(load) == {"one word"}
    assert not load.failures
    plan = instance.plan(folder / "servekit.toml")
    assert [f"{step.action} {step.name}" for step in plan.steps] == ["traffic echo", "remove v1"]
    assert "undoes the rollback of echo to 1 of " in str(plan)


def test_a_deploy_that_fails_says_why_and_leaves_all_as_it_was(
    instance: serve.Instance, folder: Path, deploy: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy()
    monkeypatch.setenv("SECRET", "s3cret-key")
    before, history = replicas(instance, "v1"), instance.history("echo")
    # What is refused before anything changes, and what fails once it has begun.
    with pytest.raises(errors.NotFoundError, match="no backend 'v3'"):
        instance.plan(folder / "servekit.toml", {"endpoints": {"echo": {"traffic": {"v1": 0.5, "v3": 0.5}}}})
    for over in (
        {"endpoints": {"echo": {"route": "/e/<int:${SECRET}"}}},
        {"backends": {"v1": {"placement": {"cwd": "/nowhere/${SECRET}"}}}},
    ):
        with pytest.raises(errors.InvalidInputError, match=r"\$\{SECRET\}") as raised:
            deploy(over)
        assert "s3cret" not in str(raised.value)
    with pytest.raises(errors.BackendStartError, match=r"RuntimeError: no weights for bad at \$\{SECRET\}"):
        deploy(
            {
                "backends": {
                    "v1": {"args": ["new"]},
                    "v2": {"target": "deployed_handler:Echo", "args": ["bad"], "kwargs": {"place": "${SECRET}"}},
                },
                "endpoints": {"echo": {"traffic": {"v1": 0.5, "v2": 0.5}}},
            }
        )
    assert said(instance) == "one word"
    assert [*instance.list_backends()] == ["v1"]
    assert instance.history("echo") == history
    assert str(instance.plan(folder / "servekit.toml")) == "nothing to do"
    until(lambda: len(replicas(instance, "v1")) == len(before))
    with pytest.raises(errors.NotFoundError, match="there is no way back"):
        instance.rollback("echo")


def test_the_second_of_two_deploys_is_told_of_the_first(
    instance: serve.Instance, folder: Path, deploy: Callable[..., None]
) -> None:
    gate, never, failed = folder / "gate", folder / "never", []

    def first(gate: Path) -> None:
        try:
            deploy({"backends": {"v1": {"kwargs": {"gate": str(gate)}}}})
        except errors.ServekitError as error:
            failed.append(error)

    stale = instance.plan(folder / "servekit.toml")
    thread = threading.Thread(target=first, args=[gate])
    thread.start()
    until(lambda: "v1" in instance.list_backends())
    with pytest.raises(errors.InUseError, match=rf"a deploy by .*\(pid {os.getpid()}\) is under way since 2"):
        instance.apply(stale)
    gate.touch()
    thread.join()
    assert not failed
    with pytest.raises(errors.StalePlanError, match="the plan was made from state"):
        instance.apply(stale)
    thread = threading.Thread(target=first, args=[never])
    thread.start()
    until(lambda: any(replica["state"] == "starting" for replica in instance.status()["backends"]["v1"]["replicas"]))
    assert instance.cancel_deploy().startswith("a deploy by ")
    thread.join()
    assert "it was cancelled, and what was served before is back" in str(failed[0])
    assert said(instance) == "one word"
    with pytest.raises(errors.NotFoundError, match="no deploy is under way"):
        instance.cancel_deploy()


def test_a_standing_instance_keeps_its_history(
    folder: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, plan = str(folder / "servekit.toml"), str(folder / "changed.plan")
    serve.shutdown()

    def servekit(*arguments: str, code: int = 0) -> str:
        """What the command prints, in this process."""
        assert main(arguments) == code
        return "".join(capsys.readouterr())

    with started_standing() as keeper:
        assert "+ endpoint echo" in servekit("deploy", file, "--dry-run", code=2)
        assert "no terminal to ask at" in servekit("deploy", file, code=1)
        assert "done, in" in servekit("deploy", file, "--yes")
        again = [sys.executable, "-m", "servekit.cli.main", "deploy", file, "--dry-run"]
        assert "nothing to do" in subprocess.run(again, check=True, capture_output=True, text=True).stdout
        exported = folder / "exported.toml"
        exported.write_text(servekit("export"))
        assert "${WORD}" in exported.read_text()
        assert "nothing to do" in servekit("deploy", str(exported), "--dry-run")
        (folder / "deployed_handler.py").write_text(HANDLER.replace("VERSION", "two"))
        assert "wrote the plan" in servekit("deploy", file, "--plan-out", plan)
        assert (folder / "changed.plan").stat().st_mode & 0o777 == 0o600
        assert "done, in" in servekit("apply", plan, "--yes")
        assert "Make another plan" in servekit("apply", plan, "--yes", code=1)
        servekit("stop")
        assert keeper.wait(60) == 0
    with started_standing():
        with serve.init(address="auto") as instance:
            assert said(instance) == "two word"
        assert "   2  " in servekit("history", "echo")
        assert "echo is back at 1: v1 (revision 1) 1" in servekit("rollback", "echo", "--yes")
        with serve.init(address="auto") as instance:
            assert said(instance) == "one word"
