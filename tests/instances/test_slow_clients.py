"""Clients that read or send slowly: what they cost is disk, and nobody else waits for them."""

from __future__ import annotations

import contextlib
import os
import signal

import body_handlers
import pytest
from instance_tools import Process, Slow, get, pids, put
from tests.support.waiting import until

import servekit as serve

pytestmark = pytest.mark.processes

FOUR = 4_000_000
FIVE = 5_000_000


@pytest.fixture(scope="module")
def instance():
    """What is spooled does not depend on who runs replicas."""
    with serve.init(runtime="process", http_port=0) as instance:
        yield instance


def place(name, target, *init_args, **config):
    serve.create_backend(name, target, *init_args, config=config)
    serve.create_endpoint(name, f"/{name}", ["GET", "POST", "PUT"], backend=name)


def outstanding(backend):
    return sum(replica["outstanding"] for replica in serve.status()["backends"][backend]["replicas"])


# -- readers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [0, 50_000])
def test_two_hundred_readers_that_stall_hold_up_nobody(serving, instance, client, piece):
    """Their answers, 800 MB, are off the one replica, which has one slot."""
    place("made", body_handlers.made)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Slow(instance, get(f"/made?size={FOUR}&piece={piece}"))) for _ in range(200)]
        for reader in readers:
            assert reader.begin() == 200
        until(lambda: outstanding("made") == 0)
        assert client.get("/made?size=5").content == bytes(5)
        for reader in readers[:5]:
            assert reader.rest() == bytes(FOUR)


def test_a_reader_gets_all_of_an_answer_whose_replica_is_gone(serving, instance):
    place("made", body_handlers.made)
    with Slow(instance, get(f"/made?size={FOUR}")) as reader:
        assert reader.begin() == 200
        serve.delete_endpoint("made")
        serve.delete_backend("made")  # It returns once the replica has drained.
        assert reader.rest() == bytes(FOUR)


def test_an_ingress_worker_that_ends_delivers_what_it_has_spooled(serving, instance):
    place("made", body_handlers.made)
    (worker,) = (Process(worker["pid"]) for worker in serving.status()["ingress"])
    with Slow(instance, get(f"/made?size={FOUR}")) as reader:
        assert reader.begin() == 200
        os.kill(worker.pid, signal.SIGTERM)
        assert reader.rest() == bytes(FOUR)
    until(lambda: not worker.is_there)
    until(lambda: len(serving.status()["ingress"]) == 1)


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_uploads_that_stall_hold_no_slot_and_may_go_on(serving, instance, client):
    place("digest", body_handlers.digest)
    with contextlib.ExitStack() as stack:
        uploads = [stack.enter_context(Slow(instance, put("/digest", FIVE, 400_000))) for _ in range(20)]
        assert outstanding("digest") == 0
        assert client.post("/digest", content=bytes(FIVE)).json()["size"] == FIVE
        assert client.post("/digest", content=b"short").json()["size"] == 5
        for upload in uploads[:2]:
            upload.socket.sendall(bytes(FIVE - 400_000))
            assert upload.begin() == 200
            assert b'"size":5000000' in upload.rest()


def test_a_body_is_sent_again_when_its_replica_is_killed_before_it_has_answered(serving, instance, tmp_path):
    place("gated", body_handlers.Gated, str(tmp_path), num_replicas=2)
    begun = tmp_path / "n.begun"
    with Slow(instance, put("/gated?name=n", FIVE, FIVE)) as upload:
        until(lambda: begun.exists() and begun.read_text())
        killed = Process(int(begun.read_text()))
        os.kill(killed.pid, signal.SIGKILL)
        until(lambda: begun.read_text() != str(killed.pid))
        (tmp_path / "upload").touch()
        (tmp_path / "answer").touch()
        assert upload.begin() == 200
        assert int(upload.rest()[:20]) == FIVE
    until(lambda: len(pids(serving, "gated")) == 2)
