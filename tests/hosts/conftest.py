"""Two hosts, and one Ray cluster over both: `host_tools` says what they are made of."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host_tools import Host, missing, ray_on, two_hosts


@pytest.fixture(scope="session")
def hosts() -> Iterator[tuple[Host, Host]]:
    """``host1`` and ``host2``. A test leaves them as they were."""
    if os.getuid() != 0:
        pytest.skip("hosts are made of namespaces, by root alone")
    if reason := missing():
        pytest.skip(reason)
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="session")
def cluster(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray cluster over both: the head is on ``host1``, and ``host2`` has the resource ``host2``."""
    pytest.importorskip("ray")
    with ray_on(*hosts, tmp_path_factory.mktemp("ray")) as address:
        yield address


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that both hosts see; ``/tmp`` is each one's own."""
    with tempfile.TemporaryDirectory(prefix="servekit-hosts-", dir="/var/tmp") as folder:
        yield Path(folder)
