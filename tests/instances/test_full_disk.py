"""What becomes of long answers and bodies where the disk takes no more."""

from __future__ import annotations

import ctypes
import os

import body_handlers
import httpx
import pytest
from instance_tools import Slow, get
from tests.support.waiting import until

import servekit as serve

pytestmark = pytest.mark.processes


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 2 MB."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=2m") != 0:
        pytest.skip(f"no file system can be mounted: {os.strerror(ctypes.get_errno())}")
    yield folder
    assert libc.umount2(bytes(folder), 2) == 0  # MNT_DETACH: a worker may be about to end.


def test_a_full_disk_is_an_answer_and_no_crash(small_disk):
    limits = serve.HttpLimits(spool_directory=str(small_disk), spool_answer_bytes=16_000_000)
    with (
        serve.init(runtime="process", http_port=0, http_limits=limits) as instance,
        httpx.Client(base_url=instance.url, timeout=60, verify=False) as client,
    ):
        for name, handler in (("made", body_handlers.made), ("digest", body_handlers.digest)):
            serve.create_backend(name, handler)
            serve.create_endpoint(name, f"/{name}", ["GET", "POST"], backend=name)
        (worker,) = (worker["pid"] for worker in instance.status()["ingress"])
        with Slow(instance, get("/made?size=20000000")) as reader:
            assert reader.begin() == 200
            # A part of it fills the disk, and then the replica waits.
            until(lambda: os.statvfs(small_disk).f_bfree == 0)
            answer = client.post("/digest", content=bytes(5_000_000))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "no room" in answer.text
            assert client.post("/digest", content=bytes(400_000)).json()["size"] == 400_000  # In memory.
            assert reader.rest() == bytes(20_000_000)
        assert client.post("/digest", content=bytes(1_500_000)).json()["size"] == 1_500_000
        assert [worker["pid"] for worker in instance.status()["ingress"]] == [worker]
