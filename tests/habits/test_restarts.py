"""What a client of a standing instance does while its controller is started again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servekit.client import AdminClient
from servekit.errors import ControllerGoneError, NotRunningError

# httpcore leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed <socket:ResourceWarning"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnull"


class Controller:
    """One that reads a request, and then hangs up (it crashed), or answers."""

    def __init__(self, path: Path, *, crashes: int) -> None:
        self.requests = 0
        self._crashes = crashes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if not connection.recv(65536):
                    return
                self.requests += 1
                if self.requests > self._crashes:
                    connection.sendall(ANSWER)

    def close(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
        self._thread.join(30)
        self._listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
def crashing(path: Path) -> Iterator[Controller]:
    controller = Controller(path, crashes=2)
    yield controller
    controller.close(path)


def client(path: Path, standing: Any = lambda: None) -> AdminClient:
    return AdminClient(str(path), b"token", standing=standing)


@pytest.mark.parametrize("operation", ["status", "set_traffic", "update_backend_config", "link_addresses"])
def test_what_may_be_done_twice_is_sent_again(path: Path, crashing: Controller, operation: str) -> None:
    assert client(path).call(operation) is None
    assert crashing.requests == 3


@pytest.mark.parametrize("operation", ["create_backend", "delete_endpoint"])
def test_what_may_not_is_not(path: Path, crashing: Controller, operation: str) -> None:
    with pytest.raises(
        ControllerGoneError, match=rf"while it did {operation}\(\), which may be done or not.*status\(\)"
    ):
        client(path).call(operation)
    assert crashing.requests == 1


@pytest.mark.parametrize("operation", ["create_backend", "status"])
def test_what_could_not_be_sent_waits(path: Path, operation: str) -> None:
    tried = threading.Event()
    started: list[Controller] = []

    def start() -> None:
        tried.wait(30)
        started.append(Controller(path, crashes=0))

    starting = threading.Thread(target=start)
    starting.start()
    assert client(path, tried.set).call(operation) is None
    starting.join()
    assert started[0].requests == 1
    started[0].close(path)


def test_an_instance_that_was_stopped_is_not_waited_for(path: Path) -> None:
    def stopped() -> None:
        raise NotRunningError("no standing instance")

    with pytest.raises(NotRunningError, match="no standing instance"):
        client(path, stopped).call("status")


def test_one_that_ends_with_its_controller_is_not_either(path: Path) -> None:
    with pytest.raises(ControllerGoneError, match=r"shutdown\(\) and servekit\.init\(\) again"):
        client(path, None).call("status")


def test_the_wait_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servekit.client.RESTART_TIMEOUT_S", 0.0)
    with pytest.raises(ControllerGoneError, match="not started again within 0 s"):
        client(path).call("status")
