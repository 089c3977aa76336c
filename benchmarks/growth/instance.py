"""A servekit instance of this process, to be changed while it is measured."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from urllib.parse import urlsplit

import servekit

HELLO = "benchmarks.servers.servekit_server:hello"
SPARE_FILES = 1_000


@contextlib.contextmanager
def hello_instance(*, replicas: int = 1, ingress_workers: int = 1) -> Iterator[servekit.Instance]:
    """An instance with the backend ``live``, whose handler says hello, and the endpoint ``hello`` on ``/hello``."""
    with servekit.init(runtime="process", http_port=0, ingress_workers=ingress_workers) as instance:
        instance.create_backend("live", HELLO, config={"num_replicas": replicas})
        instance.create_endpoint("hello", "/hello", backend="live")
        yield instance


def port_of(instance: servekit.Instance) -> int:
    port = urlsplit(instance.url).port
    assert port is not None, "an instance's URL has its port"
    return port


def ingress_pid(instance: servekit.Instance) -> int:
    """The process id of the only ingress worker."""
    (worker,) = instance.status()["ingress"]
    pid: int = worker["pid"]
    return pid


def raise_file_limit(connections: int) -> None:
    """Let this process's children hold so many connections. Raises ``ValueError`` where the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
